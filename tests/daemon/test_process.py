"""The process: background, pid file, signals, user, chroot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import ctl, has_ended
from tests.harness import (
    COMMAND,
    Gpen,
    Server,
    connect,
    hold,
    naming,
    needs_root,
    open_to_all,
    pair_of,
    read_all,
    run_gpen,
    seeing,
    started,
    wait_until,
)

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


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


def test_the_command_line_has_the_last_word_on_the_background(daemonize: Callable[..., int], servers: Serve,
                                                              tmp_path: Path) -> None:
    (tmp_path / "gpen.cfg").write_text("foreground\ntimeout 7\n")
    pid = daemonize("-F", "gpen.cfg", "-O", "no foreground", "127.0.0.1:0", servers(hold).address)
    assert (ctl(tmp_path / "gpen.ctl", "pid"), ctl(tmp_path / "gpen.ctl", "timeout")) == (f"{pid}\n", "7\n")


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


@pytest.mark.parametrize("left", [b"1234567890123\n", b"", b"12", bytes(3), bytes(4096), b"12\0\0", bytes(20) + b"3\n",
                                  b" \n"], ids=lambda left: str(len(left)))
def test_a_stale_pid_file_is_no_hindrance(gpen: Start, servers: Serve, tmp_path: Path, left: bytes) -> None:
    """Whole, or as a power loss leaves it."""
    (tmp_path / "gpen.pid").write_bytes(left)
    balancer = gpen("-p", "gpen.pid", servers=[servers(hold)])
    assert (tmp_path / "gpen.pid").read_text() == f"{balancer.pid}\n"


def test_a_pid_file_that_is_none_of_ours(servers: Serve, tmp_path: Path) -> None:
    """A symbolic link may lead anywhere, and what is no number is no pid: neither is written to."""
    precious, link, address = tmp_path / "precious", tmp_path / "link", servers(hold).address
    for text in ("12\n13\n", "-1", "12 precious", "\0" * 30 + "x", "\0" * 5000, "1" * 21):
        precious.write_text(text)
        done = run_gpen("-f", "-p", str(precious), "127.0.0.1:0", address)
        assert (done.returncode, precious.read_text()) == (1, text) and "something else than a pid" in done.stderr
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/null"), tmp_path / "fifo"):
        done = run_gpen("-f", "-p", str(path), "127.0.0.1:0", address)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "it is not a regular file" in done.stderr
        assert path.exists()
    precious.write_text("precious\n")
    link.symlink_to(precious)
    for path, reason in ((precious, "something else than a pid"), (link, "it is a symbolic link")):
        done = run_gpen("-f", "-p", str(path), "127.0.0.1:0", address)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert str(path) in done.stderr and reason in done.stderr
    assert precious.read_text() == "precious\n"
    assert link.is_symlink()


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


@pytest.fixture
def starting(servers: Serve, nowhere: dict[str, Path], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A gpen that is in the midst of its start, with its pid file written and a name that is being looked up."""
    with started([*seeing(nowhere), *COMMAND, "-f", "-t", "3", "-p", "gpen.pid", "-C", "./gpen.ctl",
                           "127.0.0.1:0", servers(hold).address, "slow.test:80"], cwd=tmp_path, text=True,
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(lambda: (tmp_path / "gpen.pid").exists() and (tmp_path / "gpen.pid").read_text())
        yield process
        process.kill()


@needs_root
def test_signals_for_a_gpen_that_runs_do_not_end_one_that_starts(starting: subprocess.Popen[str], tmp_path: Path,
                                                                 ) -> None:
    starting.send_signal(signal.SIGHUP)
    starting.send_signal(signal.SIGUSR1)
    pid = wait_until(lambda: starting.poll() is None and answer_of(tmp_path / "gpen.ctl"))
    assert pid == f"{starting.pid}\n"
    starting.terminate()
    assert starting.wait(20) == 0


def answer_of(control: Path) -> str:
    """What it answers to `pid`; nothing as long as there is nobody."""
    try:
        return ctl(control, "pid")
    except OSError:
        return ""


@needs_root
def test_end_by_signal_at_start(starting: subprocess.Popen[str], tmp_path: Path) -> None:
    starting.terminate()
    assert starting.wait(20) == 1
    assert starting.stderr and "Traceback" not in starting.stderr.read()
    assert not (tmp_path / "gpen.pid").exists()
    assert not (tmp_path / "gpen.ctl").exists()


def test_exit_twice(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen("-X", "-p", "gpen.pid", servers=[servers(hold)])
    assert balancer.ctl("exit", "exit") == ""
    assert balancer.process.wait(20) == 0
    assert not (tmp_path / "gpen.pid").exists()
    assert not (tmp_path / "gpen.ctl").exists()


def test_the_sockets_of_a_successor_are_left_alone(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    front = tmp_path / "front"
    old = gpen(servers=[servers(naming("old"))], listen=str(front))
    front.unlink()
    Path(old.control).unlink()
    new = gpen(servers=[servers(naming("new"))], listen=str(front), control=old.control)
    assert old.stop() == 0
    assert new.ask() == b"new"


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


@needs_root
def test_user(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    """No right and no group of root's stays; the log can still be rotated, all files still removed."""
    open_to_all(tmp_path)
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
def test_the_files_in_a_jail_are_removed(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    jail = tmp_path / "jail"
    jail.mkdir()
    open_to_all(tmp_path)
    jail.chmod(0o777)
    balancer = gpen("-j", str(jail), "-u", "nobody", "-p", f"{jail}/gpen.pid", control=f"{jail}/gpen.ctl",
                    servers=[servers(naming("a"))], listen=f"{jail}/front")
    assert balancer.ask() == b"a"
    assert (jail / "gpen.pid").read_text() == f"{balancer.pid}\n"
    assert balancer.stop() == 0
    assert not list(jail.iterdir())


@needs_root
def test_the_background_in_an_empty_jail(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    """It has no /dev/null and no /dev/log; a pid file outside of it is left empty, which is no hindrance."""
    (tmp_path / "jail").mkdir()
    for _ in range(2):
        pid = daemonize("-j", "jail", "-u", "root", "127.0.0.1:0", servers(naming("a")).address)
        with connect(pair_of(ctl(tmp_path / "gpen.ctl", "listen").strip())) as sock:
            assert sock.recv(1) == b"a"
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not (tmp_path / "gpen.pid").read_text())


@needs_root
def test_relative_sockets(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    """They are the user's, as absolute ones are, and go with gpen."""
    open_to_all(tmp_path)
    control, front = tmp_path / "c", tmp_path / "front"
    pid = daemonize("-C", "./c", "-u", "nobody", "./front", servers(naming("a")).address)
    assert {path.stat().st_uid for path in (control, front)} == {65534}
    assert ctl(control, "pid") == f"{pid}\n"
    with connect(str(front)) as sock:
        assert sock.recv(1) == b"a"
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: has_ended(pid))
    assert not control.exists() and not front.exists()


@needs_root
def test_without_the_right_to_change(tmp_path: Path) -> None:
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *COMMAND, "-f", "-u", "root",
                           "127.0.0.1:0", "127.0.0.1:9"], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "user 'root'" in done.stderr


def test_nobody_reads_stderr(servers: Serve, tmp_path: Path) -> None:
    """A pipe that is full costs lines, and neither clients nor the end by TERM; what was lost is told."""
    place = servers(naming("a")).address
    command = [*COMMAND, "-f", "-dd", "-C", str(tmp_path / "c"), "127.0.0.1:0", place]
    with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        wait_until(lambda: b" listens on " in process.stderr.readline())
        address = pair_of(ctl(tmp_path / "c", "listen").strip())
        for _ in range(400):
            with connect(address) as sock:
                assert sock.recv(1) == b"a"
        told = [process.stderr.readline() for _ in range(50)]
        while b"lines were lost: nobody has read them" not in told[-1]:
            with connect(address) as sock:
                assert sock.recv(1) == b"a"
            told.append(process.stderr.readline())
        process.terminate()
        assert process.wait(20) == 0
