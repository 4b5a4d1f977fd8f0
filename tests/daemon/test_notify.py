"""What a service manager hears of gpen (sd_notify(3)): here the test itself, at a socket of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpen.daemon.notify import Notifier
from tests.daemon.test_parent import left
from tests.harness import LOCAL, PATIENCE, ROOT, Gpen, Server, connect, hold, naming, needs_root, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Message = dict[str, str]
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class Manager:
    """Who has started gpen."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.speaker = 0  # the pid of who was heard last

    def wrapper(self, more: str = "") -> tuple[str, ...]:
        """What starts a command so that it tells; with more statements before."""
        return left(f"os.environ['NOTIFY_SOCKET'] = {self.address!r}\n{more}")

    def hear(self) -> Message:
        """The next message."""
        data, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(CREDENTIALS.size))
        self.speaker = CREDENTIALS.unpack(ancillary[0][2])[0]
        return dict(line.split("=", 1) for line in data.decode().splitlines())

    def hear_of(self, *names: str) -> Message:
        """The next message that tells of all these."""
        while not set(names) <= (message := self.hear()).keys():
            pass
        return message

    def is_silent(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.hear()
        except (TimeoutError, BlockingIOError):
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(address_of(tmp_path, request.param))) as made:
        yield made


@pytest.fixture
def at_path(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(address_of(tmp_path, "path"))) as made:
        yield made


def address_of(directory: Path, kind: str) -> str:
    return str(directory / "notify") if kind == "path" else f"@gpen-test/{os.getpid()}/{directory.name}"


@pytest.fixture
def server(servers: Serve) -> Server:
    return servers(naming("a"))


# --- the life of a gpen -----------------------------------------------------------------------------------------------


def test_a_life(gpen: Start, server: Server, manager: Manager) -> None:
    balancer = gpen(servers=[server], wrapper=manager.wrapper())
    address = balancer.ctl("listen").strip()
    assert manager.hear() == {"READY": "1", "MAINPID": str(balancer.pid),
                              "STATUS": f"listens on {address}; 0 sessions; servers: 1 up"}
    assert balancer.stop() == 0
    assert manager.hear() == {"STOPPING": "1", "STATUS": "ends"}
    assert manager.is_silent(0)


def test_it_is_ready_when_it_serves(gpen: Start, server: Server, at_path: Manager) -> None:
    balancer = gpen(servers=[server], wrapper=at_path.wrapper())
    at_path.hear_of("READY")
    assert balancer.ask() == b"a"


def test_what_can_not_start_is_never_ready(gpen: Start, servers: Serve, at_path: Manager) -> None:
    taken, server = servers(naming("a")), servers(naming("b"))
    with pytest.raises(AssertionError, match="another program listens there"):
        gpen(servers=[server], listen=taken.address, wrapper=at_path.wrapper())
    assert at_path.is_silent(0)


def test_in_the_background(daemonize: Callable[..., int], server: Server, manager: Manager) -> None:
    pid = daemonize(LOCAL, server.address, wrapper=manager.wrapper())
    assert manager.hear()["MAINPID"] == str(pid)
    os.kill(pid, signal.SIGTERM)
    assert "STOPPING" in manager.hear()


@needs_root
def test_from_within_a_chroot(gpen: Start, server: Server, tmp_path: Path, at_path: Manager) -> None:
    (tmp_path / "root").mkdir()
    balancer = gpen("-j", str(tmp_path / "root"), "-u", "nobody", servers=[server], wrapper=at_path.wrapper())
    assert "READY" in at_path.hear()
    assert balancer.stop() == 0
    assert "STOPPING" in at_path.hear()


@pytest.mark.parametrize("how", ["command", "signal"])
@pytest.mark.parametrize("line", ["server 1 address 127.0.0.1 port 1", "nonsense"])
def test_a_reload(gpen: Start, server: Server, tmp_path: Path, at_path: Manager, how: str, line: str) -> None:
    """Also one of a file that is wrong."""
    file = tmp_path / "gpen.cfg"
    file.write_text("")
    balancer = gpen("-F", str(file), servers=[server], wrapper=at_path.wrapper())
    at_path.hear_of("READY")
    file.write_text(f"{line}\n")
    before = time.monotonic()
    if how == "signal":
        balancer.signal(signal.SIGHUP)
    else:
        balancer.ctl("reload")
    begun = at_path.hear()
    assert begun.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(begun["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
    assert at_path.hear() == {"READY": "1"}


def test_what_it_does(gpen: Start, servers: Serve, at_path: Manager) -> None:
    """Told when it has changed, and not all the time."""
    balancer = gpen("-O", "server 1 address 127.0.0.1 port 1", "-O", "server 1 health down because of a test",
                    servers=[servers(hold)], wrapper=at_path.wrapper())
    assert at_path.hear_of("READY")["STATUS"].endswith("; 0 sessions; servers: 1 up, 1 down")
    with balancer.connect():
        wait_until(lambda: balancer.json("sessions"))
        assert at_path.hear()["STATUS"].endswith("; 1 session; servers: 1 up, 1 down")
    balancer.wait_idle()
    before = time.monotonic()
    assert at_path.hear()["STATUS"].endswith("; 0 sessions; servers: 1 up, 1 down")
    assert time.monotonic() - before > 3


# --- the watchdog -----------------------------------------------------------------------------------------------------

WATCHED = "os.environ.update(WATCHDOG_USEC='400000', WATCHDOG_PID=str(os.getpid()))"


def test_signs_of_life(gpen: Start, server: Server, manager: Manager) -> None:
    gpen(servers=[server], wrapper=manager.wrapper(WATCHED))
    manager.hear_of("READY")
    times = []
    for _ in range(4):
        assert manager.hear_of("WATCHDOG") == {"WATCHDOG": "1"}
        times.append(time.monotonic())
    assert times[-1] - times[0] > 0.5  # three times half of what it is


def test_a_hub_that_hangs_gives_none(gpen: Start, server: Server, tmp_path: Path, at_path: Manager) -> None:
    """A thread of its own would give them, whatever became of the hub."""
    pause = tmp_path / "pause"
    os.mkfifo(pause)
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, gpen.daemon.queries as module\n"
        f"module.Queries.status = lambda self, call: pathlib.Path({str(pause)!r}).read_text()\n")
    path = f"os.environ['PYTHONPATH'] = '{tmp_path}:{ROOT}'"
    balancer = gpen(servers=[server], wrapper=at_path.wrapper(f"{WATCHED}\n{path}"))
    at_path.hear_of("WATCHDOG")
    with connect(balancer.control) as client:
        client.sendall(b"status\n")
        with pause.open("w"):  # it has read the command by now, and waits for the end of what it is told
            while not at_path.is_silent(0):
                pass
            assert at_path.is_silent(1)
        at_path.hear_of("WATCHDOG")


@pytest.mark.parametrize("variables", ["WATCHDOG_USEC='100000', WATCHDOG_PID=str(os.getppid())", "WATCHDOG_USEC='0'",
                                       "WATCHDOG_USEC='x'"])
def test_a_watchdog_that_is_not_ours(gpen: Start, server: Server, at_path: Manager, variables: str) -> None:
    gpen(servers=[server], wrapper=at_path.wrapper(f"os.environ.update({variables})"))
    at_path.hear_of("READY")
    assert at_path.is_silent(0.5)


# --- who does not hear ------------------------------------------------------------------------------------------------


def test_nobody_there(gpen: Start, server: Server, tmp_path: Path) -> None:
    balancer = gpen(servers=[server], wrapper=left(f"os.environ['NOTIFY_SOCKET'] = '{tmp_path}/none'"))
    assert balancer.ask() == b"a"
    assert f"NOTIFY_SOCKET '{tmp_path}/none': No such file or directory: it is not told how gpen is" in balancer.stderr


def test_who_does_not_read_holds_nobody_up(gpen: Start, server: Server, manager: Manager) -> None:
    """And hears what matters later."""
    fill(manager)
    balancer = gpen(servers=[server], wrapper=manager.wrapper(WATCHED))
    assert balancer.ask() == b"a"
    balancer.ctl("reload")
    assert manager.hear_of("READY").keys() == {"READY", "MAINPID", "STATUS"}


def fill(manager: Manager) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(BlockingIOError):
        sock.connect(manager.socket.getsockname())
        sock.setblocking(False)
        while True:
            sock.send(b"X=1")


def test_one_that_was_restarted(gpen: Start, server: Server, tmp_path: Path) -> None:
    address = address_of(tmp_path, "path")
    with contextlib.closing(Manager(address)) as old:
        balancer = gpen(servers=[server], wrapper=old.wrapper())
        old.hear_of("READY")
    os.unlink(address)
    balancer.ctl("reload")  # nobody hears of that
    with contextlib.closing(Manager(address)) as new:
        assert new.hear() == {"READY": "1"}


# --- its parts --------------------------------------------------------------------------------------------------------


def test_the_variables_are_taken_away() -> None:
    environment = {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    notifier = Notifier.of(environment)
    assert environment == {"PATH": "/bin"}
    assert not notifier.is_heard and not notifier.watchdog and not notifier.environment()


def test_a_status_is_told_when_it_is_another(at_path: Manager) -> None:
    with contextlib.closing(Notifier(at_path.address)) as notifier:
        notifier.ready("a")
        assert at_path.hear()["STATUS"] == "a"
        for text in ("a", "b", "b", "c\nREADY=1"):
            notifier.status(text)
        assert [at_path.hear(), at_path.hear()] == [{"STATUS": "b"}, {"STATUS": r"c\x0aREADY=1"}]
        assert at_path.is_silent(0)


def test_a_successor(manager: Manager) -> None:
    """It finds its way by the environment; and who has handed over is silent, for it would speak for the other."""
    notifier = Notifier.of({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000"})
    assert notifier.watchdog == 30
    assert notifier.environment() == {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000"}
    notifier.hand_over(4711)
    assert manager.hear() == {"MAINPID": "4711"}
    notifier.alive()
    notifier.stopping()
    notifier.status("alive")
    notifier.tend()
    assert manager.is_silent(0)
