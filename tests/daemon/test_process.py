"""The process: background, pid file, signals, user, chroot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import COMMAND, Gpen, Server, connect, hold, naming, pair_of, read_all, run_gpen, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def daemonize(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start gpen in the background with pid file and control socket; returns its pid once the command has ended."""

    def start(*arguments: str) -> int:
        done = run_gpen("-p", str(pid_file), "-C", str(tmp_path / "gpen.ctl"), *arguments, directory=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return int(pid_file.read_text())

    pid_file = tmp_path / "gpen.pid"
    yield start
    if pid_file.exists():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: not pid_file.exists())


def ctl(path: Path, line: str) -> str:
    with connect(str(path)) as sock:
        sock.sendall(f"{line}\n".encode())
        return read_all(sock).decode()


def test_in_the_background(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    """The command ends when clients are served; the daemon has a session of its own and no terminal."""
    pid = daemonize("127.0.0.1:0", servers(naming("a")).address)
    with connect(pair_of(ctl(tmp_path / "gpen.ctl", "listen").strip())) as sock:
        assert sock.recv(1) == b"a"
    assert ctl(tmp_path / "gpen.ctl", "pid") == f"{pid}\n"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    assert os.getsid(pid) not in (pid, os.getsid(0))
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (tmp_path / "gpen.pid").exists())
    assert not (tmp_path / "gpen.ctl").exists()


def test_a_second_instance_is_refused(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    a = servers(naming("a"))
    pid = daemonize("127.0.0.1:0", a.address)
    for options in ([], ["-f"]):
        done = run_gpen(*options, "-p", f"{tmp_path}/gpen.pid", "127.0.0.1:0", a.address)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"{tmp_path}/gpen.pid" in done.stderr and str(pid) in done.stderr
    os.kill(pid, 0)
    assert (tmp_path / "gpen.pid").read_text() == f"{pid}\n"


def test_the_background_tells_what_is_wrong(servers: Serve, tmp_path: Path) -> None:
    a = servers(naming("a"))
    done = run_gpen("-p", f"{tmp_path}/gpen.pid", a.address, a.address)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"can't listen on {a.address}" in done.stderr
    assert not (tmp_path / "gpen.pid").exists()


def test_a_stale_pid_file_is_no_hindrance(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    (tmp_path / "gpen.pid").write_text("1234567890123\n")
    balancer = gpen("-p", "gpen.pid", servers=[servers(hold)])
    assert (tmp_path / "gpen.pid").read_text() == f"{balancer.pid}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_by_signal(gpen: Start, servers: Serve, number: signal.Signals) -> None:
    """Sessions are closed and logged, all that are going on; the status is 0."""
    balancer = gpen("-l", "gpen.log", servers=[servers(naming("a"))])
    socks = [balancer.connect() for _ in range(5)]
    assert all(sock.recv(1) for sock in socks)
    balancer.signal(number)
    assert balancer.process.wait(20) == 0
    for sock in socks:
        with sock:
            assert read_all(sock) == b""
    assert [line.split()[-1] for line in balancer.log.splitlines()] == ["shutdown"] * 5
    assert "gpen ended" in balancer.stderr


def test_the_file_is_read_again_whole_or_not_at_all(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    a, b = servers(naming("a")), servers(naming("b"))
    file = tmp_path / "gpen.cfg"
    file.write_text("timeout 5\n")
    balancer = gpen("-F", str(file), servers=[a])
    with balancer.connect() as old:
        assert old.recv(1) == b"a"
        file.write_text(f"timeout 6\nserver 0 address 127.0.0.1 port {b.port}\nblaklist 4\n")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: f"{file}:3: unknown command 'blaklist'; did you mean 'blacklist'?" in balancer.stderr)
        assert (balancer.ctl("timeout"), balancer.ask()) == ("5\n", b"a")
        file.write_text(f"timeout 6\nserver 0 address 127.0.0.1 port {b.port}\nblacklist 4\n")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: balancer.ctl("blacklist") == "4\n")
        assert (balancer.ctl("timeout"), balancer.ask()) == ("6\n", b"b")
        old.sendall(b"still here")
        assert old.recv(10) == b"still here"


def test_a_listening_address_that_fails_changes_nothing(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    a = servers(naming("a"))
    file = tmp_path / "gpen.cfg"
    file.write_text("")
    balancer = gpen("-F", str(file), servers=[a])
    file.write_text(f"timeout 6\nlisten {a.address}\n")
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: f"nothing of '{file}' was changed" in balancer.stderr)
    assert (balancer.ctl("timeout"), balancer.ask()) == ("3\n", b"a")


def test_a_file_that_is_gone(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text("timeout 5\n")
    balancer = gpen("-F", str(file), servers=[servers(naming("a"))])
    file.unlink()
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: f"can't read the file '{file}'" in balancer.stderr)
    assert (balancer.ctl("timeout"), balancer.ask()) == ("5\n", b"a")


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user or the root directory")


@needs_root
def test_user(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    """No right and no group of root's stays; the log can still be rotated, all files still removed."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    pid = daemonize("-u", "nobody", "-l", f"{tmp_path}/gpen.log", "127.0.0.1:0", servers(naming("a")).address)
    status = status_of(pid)
    assert set(status["Uid"]) == {"65534"}
    assert "0" not in [*status["Gid"], *status["Groups"]]
    assert int(status["CapEff"][0], 16) == 0
    (tmp_path / "gpen.log").rename(tmp_path / "gpen.log.1")
    os.kill(pid, signal.SIGHUP)
    wait_until((tmp_path / "gpen.log").exists)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (tmp_path / "gpen.pid").exists())
    assert not (tmp_path / "gpen.ctl").exists()


@needs_root
def test_chroot(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    (tmp_path / "jail/etc").mkdir(parents=True)
    (tmp_path / "jail/etc/hosts").write_text("127.0.0.9 web.test\n")
    balancer = gpen("-j", str(tmp_path / "jail"), "-u", "nobody", "-l", "gpen.log", servers=[servers(naming("a"))])
    assert os.readlink(f"/proc/{balancer.pid}/root") == str(tmp_path / "jail")
    assert balancer.ask() == b"a"
    wait_until(lambda: balancer.log.count("\n") == 1)
    assert balancer.ctl("server 1 address web.test port 80") == ""  # names are those of the jail
    assert balancer.server(1)["address"] == "127.0.0.9"
    assert balancer.ctl("server 2 address none.test port 80").startswith("error: server 2: can't resolve the name")


@needs_root
def test_without_the_right_to_change(tmp_path: Path) -> None:
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *COMMAND, "-f", "-u", "root",
                           "127.0.0.1:0", "127.0.0.1:9"], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "user 'root'" in done.stderr
