"""What a parent may leave behind: whatever it is, gpen begins from a known state."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from tests.daemon.conftest import ctl
from tests.harness import COMMAND, Gpen, Server, connect, naming, needs_root, pair_of, started, wait_until
from tests.netlog.programs import GPENLOGD

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def left(code: str) -> tuple[str, ...]:
    """The wrapper that runs Python statements, and then, in the same process, a command."""
    modules = "import fcntl, os, resource, signal, socket, sys"
    return sys.executable, "-c", f"{modules}\n{code}\nos.execvp(sys.argv[1], sys.argv[1:])"


def closing(fds: tuple[int, ...]) -> tuple[str, ...]:
    return left(f"for fd in {fds}: os.close(fd)")


def serves(control: Path) -> bool:
    with connect(pair_of(ctl(control, "listen").strip())) as sock:
        return sock.recv(1) == b"a"


CLOSED = [fds for count in (1, 2, 3) for fds in combinations(range(3), count)]


@pytest.mark.parametrize("fds", CLOSED, ids=str)
def test_closed_streams_in_the_background(daemonize: Callable[..., int], servers: Serve, tmp_path: Path,
                                          fds: tuple[int, ...]) -> None:
    pid = daemonize("-l", "gpen.log", "127.0.0.1:0", servers(naming("a")).address, wrapper=closing(fds))
    assert serves(tmp_path / "gpen.ctl")
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    wait_until(lambda: "client-closed" in (tmp_path / "gpen.log").read_text()
               or "server-closed" in (tmp_path / "gpen.log").read_text())


@pytest.mark.parametrize("fds", CLOSED, ids=str)
def test_closed_streams_in_the_foreground(gpen: Start, servers: Serve, fds: tuple[int, ...]) -> None:
    balancer = gpen(servers=[servers(naming("a"))], wrapper=closing(fds))
    assert balancer.ask() == b"a"
    assert all(os.readlink(f"/proc/{balancer.pid}/fd/{fd}") == "/dev/null" for fd in fds)


def test_what_is_wrong_without_stderr(tmp_path: Path) -> None:
    """The exit status says so, and no pid file is left."""
    done = subprocess.run([*closing((0, 1, 2)), *COMMAND, "-p", "gpen.pid", "203.0.113.1:1", "127.0.0.1:9"],
                          cwd=tmp_path, timeout=20, check=False)
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


def test_open_descriptors(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """A lock, a listening socket, a pipe: closed, so that neither gpen nor the programs of its checks hold them."""
    inherited = left("""
fcntl.flock(os.open('lock', os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
listener = socket.create_server(('127.0.0.1', 0))
pipe = os.pipe()
for fd in range(3, 20):
    try: os.set_inheritable(fd, True)
    except OSError: pass
""")
    program = tmp_path / "check"
    program.write_text(f"#!/bin/sh\nls -l /proc/$$/fd > {tmp_path}/fds; mv {tmp_path}/fds {tmp_path}/seen\n")
    program.chmod(0o755)
    balancer = gpen("-O", f"check exec {program}", servers=[servers(naming("a"))], wrapper=inherited)
    targets = {os.readlink(f"/proc/{balancer.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{balancer.pid}/fd")}
    assert str(tmp_path / "lock") not in targets
    wait_until((tmp_path / "seen").exists)
    assert "lock" not in (tmp_path / "seen").read_text() and "socket:" not in (tmp_path / "seen").read_text()


def test_a_descriptor_that_the_command_line_names(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """As a shell's >(logger) is."""
    named = left("os.dup2(os.open('theirs', os.O_CREAT | os.O_WRONLY), 9)")
    assert gpen("-l", "/dev/fd/9", servers=[servers(naming("a"))], wrapper=named).ask() == b"a"
    wait_until(lambda: (tmp_path / "theirs").read_text())


@pytest.mark.parametrize("state", [
    "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())",
    "for number in signal.valid_signals() - {9, 19}: signal.signal(number, signal.SIG_IGN)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])",
])
def test_signals(gpen: Start, servers: Serve, tmp_path: Path, state: str) -> None:
    """Blocked or ignored by the parent: each means what it means, and a check's program can be waited for."""
    file = tmp_path / "gpen.cfg"
    file.write_text("timeout 5\n")
    balancer = gpen("-F", str(file), "-O", "check exec /bin/true", servers=[servers(naming("a"))], wrapper=left(state))
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    file.write_text("timeout 6\n")
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: balancer.ctl("timeout") == "6\n")
    balancer.signal(signal.SIGUSR1)
    wait_until(lambda: "servers: 0 addr" in balancer.stderr)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{balancer.pid}/status").read_text().splitlines())
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & 1 << signal.SIGCHLD - 1 == 0
    assert balancer.stop() == 0


def test_an_alarm(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))], wrapper=left("signal.setitimer(signal.ITIMER_REAL, 3)"))
    with pytest.raises(subprocess.TimeoutExpired):
        balancer.process.wait(3.5)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
def test_umask(daemonize: Callable[..., int], servers: Serve, tmp_path: Path, mask: int) -> None:
    """gpen can read and write what it makes, and nobody else writes it."""
    daemonize("-l", "gpen.log", "127.0.0.1:0", servers(naming("a")).address, wrapper=left(f"os.umask({mask})"))
    assert ctl(tmp_path / "gpen.ctl", f"write {tmp_path}/gpen.cfg") == ""
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode)
             for name in ("gpen.log", "gpen.pid", "gpen.cfg", "gpen.ctl")}
    assert all(mode & 0o600 == 0o600 and not mode & 0o022 for mode in modes.values()), modes


def test_a_directory_that_is_gone(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    gone = left("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')")
    daemonize("-l", f"{tmp_path}/gpen.log", "127.0.0.1:0", servers(naming("a")).address, wrapper=gone)
    assert serves(tmp_path / "gpen.ctl")
    assert ctl(tmp_path / "gpen.ctl", f"write {tmp_path}/gpen.cfg") == ""
    assert ctl(tmp_path / "gpen.ctl", "write gpen.cfg").startswith("error: write: can't write 'gpen.cfg': No such file")
    done = subprocess.run([*gone, *COMMAND, "-f", "-l", "gpen.log", "127.0.0.1:0", "127.0.0.1:9"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, "gpen: gpen.log: No such file or directory\n")


@needs_root
@pytest.mark.parametrize("limit, number", [("NOFILE", 16), ("NOFILE", 64), ("FSIZE", 1), ("CPU", 1), ("NPROC", 1),
                                           ("CORE", 0), ("STACK", 128 << 10), ("STACK", -1)])
def test_limits(gpen: Start, servers: Serve, tmp_path: Path, limit: str, number: int) -> None:
    """Soft ones are raised; of what stays, gpen makes the best."""
    name = f"resource.RLIMIT_{limit}"
    soft = f"resource.setrlimit({name}, ({number}, resource.getrlimit({name})[1]))"
    balancer = gpen("-l", "gpen.log", "-p", "gpen.pid", servers=[servers(naming("a"))], wrapper=left(soft))
    assert balancer.ask() == b"a"
    wait_until(lambda: balancer.log.endswith("\n"))
    assert (tmp_path / "gpen.pid").read_text() == f"{balancer.pid}\n"


@pytest.mark.parametrize("environment", [
    {}, {"LC_ALL": "xx_YY.nonsense", "TZ": "nonsense"}, {"HOME": "/nonexistent/home", "PATH": ""},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONWARNINGS": "error"},
    {"PYTHONOPTIMIZE": "2"}, {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "7"},
    {"GEVENT_LOOP": "libuv"}, {"GEVENT_RESOLVER": "nonsense", "GEVENT_LOOP": "nonsense"},
], ids=str)
def test_environment(gpen: Start, servers: Serve, tmp_path: Path, environment: dict[str, str]) -> None:
    wrapper = left(f"os.environ.clear(); os.environ.update({environment})")
    log = tmp_path / "zürich.log"
    balancer = gpen("-l", log.name, servers=[servers(naming("a"))], wrapper=wrapper)
    assert balancer.ask() == b"a"
    wait_until(lambda: log.exists() and log.read_text())
    assert balancer.ctl("log") == f"{log.name}\n"
    assert balancer.ctl("server 1 address localhost port 1") == ""


@pytest.mark.parametrize("state", ["for fd in range(3): os.close(fd)", "os.umask(0o777)",
                                   "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())",
                                   "for n in (1, 2, 15, 17): signal.signal(n, signal.SIG_IGN)"])
def test_gpenlogd_as_well(tmp_path: Path, state: str) -> None:
    command = [*left(state), *GPENLOGD, "-f", "-l", "out", "-p", "pid", "127.0.0.1:0"]
    with started(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: all((tmp_path / name).exists() for name in ("pid", "out"))
                   and (tmp_path / "pid").read_text() and sockets_of(process.pid))
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) & 0o600 == 0o600
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not (tmp_path / "pid").exists()


def sockets_of(pid: int) -> list[str]:
    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [fd for fd in fds if fd.startswith("socket:")]


def test_the_socket_of_a_test_is_not_leaked() -> None:
    """The wrapper does what its tests need: a descriptor does pass an exec."""
    with socket.socket() as sock:
        code = f"os.write(1, os.readlink('/proc/self/fd/{sock.fileno()}').encode()[:6])"
        os.set_inheritable(sock.fileno(), True)
        done = subprocess.run([*left(""), sys.executable, "-c", f"import os; {code}"], close_fds=False,
                              capture_output=True, check=True)
    assert done.stdout == b"socket"
