"""One check at a time: what each kind finds out about real servers, and what it leaves behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from gpen.model.address import Endpoint, parse_server
from gpen.model.check import Check
from gpen.model.server import TCP, Target
from gpen.model.server import Server as Subject
from gpen.model.settings import Settings
from gpen.proto import mysql
from gpen.wire.check import CheckFailed, Prober
from gpen.wire.poller import Poller
from gpen.wire.resolver import Resolver
from gpen.wire.subprocesses import Children, Program
from tests.harness import (
    Server,
    SilentServer,
    connect,
    echo,
    family_of,
    hold,
    naming,
    refusing,
    reset,
    sending,
    wait_until,
)

CONNECT, GREETING = Check("connect"), Check("greeting")
GOOD = 20.0  # seconds that no good check needs
Serve = Callable[..., Server]
Script = Callable[[str], Check]


class Trial:
    """A prober with settings and a loop of its own."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.poller = Poller()
        self.subject = Subject("7", 7)
        self.subject.target = Target(self.subject, TCP)
        self.prober = Prober(self.subject, self.settings, self.poller, Children(), lambda path: path, lambda: None)

    def good(self, check: Check, *addresses: str) -> str:
        """What a check finds that succeeds."""
        return self._probe(check, addresses, GOOD)

    def bad(self, check: Check, *addresses: str, seconds: float = GOOD) -> str:
        """Why a check fails."""
        with pytest.raises(CheckFailed) as failure:
            self._probe(check, addresses, seconds)
        return str(failure.value)

    def _probe(self, check: Check, addresses: tuple[str, ...], seconds: float) -> str:
        self.subject.target.endpoints = tuple(map(endpoint_of, addresses))
        return self.prober.probe(check, seconds)


def endpoint_of(address: str) -> Endpoint:
    return Resolver().resolve(parse_server(address).address, 1)[0]


@pytest.fixture
def trial() -> Iterator[Trial]:
    """Nothing is watched, and no descriptor is left, when the test is over."""
    trial = Trial()
    trial.bad(CHECK_NOTHING, "127.0.0.1:1")
    before = descriptors()
    yield trial
    assert not trial.poller.watched
    wait_until(lambda: descriptors() == before, what=f"{before}, not {descriptors()}")
    trial.poller.close()


CHECK_NOTHING = Check("exec", program="/bin/false")


def descriptors() -> list[str]:
    """The files and pipes that this process has open; servers' sockets come and go with their threads."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(link for link in found if not link.startswith(("socket:", "/proc/")))


def exists(pid: int) -> bool:
    """Whether a process is there, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie: those of grandchildren are somebody else's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- connect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connect_check_is_not_seen_by_the_server(trial: Trial, host: str) -> None:
    family = family_of(host)
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        for _ in range(50):
            assert trial.good(CONNECT, f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == "listens"
        with connect((host, port)) as client:
            listener.settimeout(GOOD)
            first, peer = listener.accept()
            first.close()
            assert peer == client.getsockname()
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_refused(trial: Trial) -> None:
    with refusing() as address:
        for check in (CONNECT, GREETING, Check("send", send="x", expect="y")):
            assert trial.bad(check, address) == "connection refused"


def test_no_answer(trial: Trial) -> None:
    with SilentServer() as silent:
        start = time.monotonic()
        for check in (CONNECT, GREETING, Check("send", send="x", expect="y")):
            assert trial.bad(check, silent.address, seconds=0.25) == "no answer within 0.25 s"
        assert time.monotonic() - start < 5


def test_unix_sockets(trial: Trial, servers: Serve, tmp_path: Path) -> None:
    server = servers(naming("a"), at=str(tmp_path / "a"))
    assert trial.good(CONNECT, server.address) == "listens"
    assert trial.good(GREETING, server.address) == "greeted"
    assert trial.bad(CONNECT, str(tmp_path / "none")) == "no such file or directory"


def test_a_server_with_several_addresses_is_well_if_one_is(trial: Trial, servers: Serve) -> None:
    good = servers(naming("a")).address
    with refusing() as dead, SilentServer() as silent:
        assert trial.good(CONNECT, dead, good) == "listens"
        assert trial.bad(CONNECT, dead, silent.address, seconds=0.5) == "connection refused"
        assert trial.bad(CONNECT, silent.address, dead, seconds=0.5) == "no answer within 0.5 s"


def test_the_source(trial: Trial) -> None:
    peers = []

    def serve(sock: socket.socket) -> None:
        peers.append(sock.getpeername()[0])
        sock.sendall(b"x")

    trial.settings.set("source", ("127.0.0.9",))
    with Server(serve) as server:
        assert trial.good(CONNECT, server.address) == "listens"
        assert trial.good(GREETING, server.address) == "greeted"
    assert peers == ["127.0.0.9"]


@pytest.mark.parametrize("check", [CONNECT, GREETING])
def test_what_this_machine_lacks_says_nothing_about_the_server(trial: Trial, servers: Serve, check: Check) -> None:
    trial.settings.set("source", ("192.0.2.1",))
    with pytest.raises(OSError) as error:
        trial.good(check, servers(echo).address)
    assert error.value.errno == errno.EADDRNOTAVAIL


# --- greeting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("serve", "reason"), [
    (sending(b""), "closed before its first byte"), (reset, "reset before its first byte"),
    (hold, "no answer within 0.3 s")])
def test_no_greeting(trial: Trial, servers: Serve, serve: Callable[[socket.socket], None], reason: str) -> None:
    server = servers(serve)
    told = trial.bad(GREETING, server.address, seconds=0.3 if serve is hold else GOOD)
    assert told == reason or (serve is reset and told == "connection reset by peer"), "it may come that soon"


def test_any_first_byte_is_a_greeting(trial: Trial, servers: Serve) -> None:
    """A check knows no protocol: with mysql it is refused (control/validation.py), for it would count there."""
    assert trial.good(GREETING, servers(sending(mysql.error(1040, "Too many connections"))).address) == "greeted"


# --- send and expect --------------------------------------------------------------------------------------------------

PING = Check("send", send=r"PING\r\n", expect="+PONG")


def answering(*pieces: bytes, ends: bool = False) -> Callable[[socket.socket], None]:
    """Wait for a question, then answer in pieces; keep the connection unless it ``ends``."""

    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.recv(100) == b"PING\r\n"
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.02)
        if not ends:
            hold(sock)

    return serve


@pytest.mark.parametrize("pieces", [(b"+PONG\r\n",), (b"+", b"PO", b"NG"), (b"hello\r\n" * 2000, b"..+PONG..")])
def test_an_answer(trial: Trial, servers: Serve, pieces: tuple[bytes, ...]) -> None:
    assert trial.good(PING, servers(answering(*pieces)).address) == "answered '+PONG'"


@pytest.mark.parametrize(("serve", "reason"), [
    (answering(b"-ERR no\r\nmore", ends=True), "answered '-ERR no' instead of '+PONG'"),
    (answering(b"\xff\0\x1b[31m" + b"x" * 100, ends=True),
     rf"answered '\xff\x00\x1b[31m{'x' * 33}...' instead of '+PONG'"),
    (answering(ends=True), "closed before its first byte"),
    (answering(b"y" * 70_000), f"answered '{'y' * 40}...' instead of '+PONG'"),
    (reset, "connection reset by peer")])
def test_another_answer(trial: Trial, servers: Serve, serve: Callable[[socket.socket], None], reason: str) -> None:
    assert trial.bad(PING, servers(serve).address) == reason


def test_an_answer_that_does_not_end(trial: Trial, servers: Serve) -> None:
    wrong, silent = servers(answering(b"-LOADING\r\n")), servers(answering())
    assert trial.bad(PING, wrong.address, seconds=1) == "answered '-LOADING' instead of '+PONG'"
    assert trial.bad(PING, silent.address, seconds=0.3) == "no answer within 0.3 s"


def test_bytes_that_are_no_text(trial: Trial, servers: Serve) -> None:
    server = servers(naming("hello \0\r\n"))
    assert trial.good(Check("send", expect=r"hello \0\r\n"), server.address) == r"answered 'hello \0\r\n'"
    assert trial.good(Check("send", send=r"\x00\xff\\", expect=r"\x00\xff\\"), server.address).startswith("answered")


@pytest.mark.parametrize(("version", "header"), [
    ("v1", b"PROXY UNKNOWN\r\n"), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")])
def test_the_header_of_the_proxy_protocol(trial: Trial, version: str, header: bytes) -> None:
    heard = []

    def serve(sock: socket.socket) -> None:
        heard.append(sock.recv(len(header), socket.MSG_WAITALL))
        sock.sendall(b"+PONG")

    trial.settings.set("proxy_protocol", version)
    with Server(serve) as server:
        assert trial.good(CONNECT, server.address) == "listens"
        assert trial.good(GREETING, server.address) == "greeted"
        assert trial.good(PING, server.address) == "answered '+PONG'"
    assert heard == [header] * 2


# --- exec -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """A check that runs these lines of shell."""

    def make(text: str) -> Check:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return Check("exec", program=f"{path} one 'two words'")

    return make


def test_what_a_program_is_told(trial: Trial, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPEN_OWN", "mine")
    check = script('echo "$#|$1|$2|$3|$GPEN_ADDRESS|$GPEN_HOST|$GPEN_PORT|$GPEN_SERVER|$GPEN_OWN|$(cat)"')
    told = "10.0.0.1:80|10.0.0.1:80|10.0.0.1|80|7|mine|"
    assert trial.good(check, "10.0.0.1:80") == f"3|one|two words|{told}"
    assert "|[fe80::1]:80|[fe80::1]:80|fe80::1|80|" in trial.good(check, "[fe80::1]:80")
    assert "|/run/my.sock|/run/my.sock|||7|" in trial.good(check, "/run/my.sock")


@pytest.mark.one_process
def test_what_a_program_is_not_told(trial: Trial, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret, nothing that changes how it runs, no socket of systemd's: of the environment two names, and GPEN_*."""
    for name in ("LD_PRELOAD", "LISTEN_FDS", "NOTIFY_SOCKET", "PGPASSWORD", "HOME", "IFS", "BASH_ENV", "ENV"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.delenv("GPEN_PURE", raising=False)  # these tests may have been told
    told = trial.good(script("echo $(tr '\\0' '\\n' </proc/$$/environ | cut -d= -f1)"), "10.0.0.1:80")
    assert set(told.split()) == {
        "PATH", "LANG", "GPEN_ADDRESS", "GPEN_HOST", "GPEN_PORT", "GPEN_SERVER"}


@pytest.mark.parametrize(("text", "reason"), [
    ("exit 0", "exit status 0"), ("echo Synced; echo more", "Synced"), ("printf 'no end'", "no end"),
    ("printf 'a\\033[31mb\\tc\\377\\n'", r"a\x1b[31mb c\xff"), ("printf '%0300d'; echo", "0" * 200 + "..."),
    ("echo fine; exec >&-; sleep 0.1", "fine"), ("echo oops >&2; echo fine", "fine"),
    ("echo fine; head -c 300000 /dev/zero", "fine"),
    ("trap '' PIPE; echo fine; (sleep 100; echo late) & exit 0", "fine")])
def test_a_program_that_is_content(trial: Trial, script: Script, text: str, reason: str) -> None:
    assert trial.good(script(text), "10.0.0.1:80") == reason


@pytest.mark.parametrize(("text", "reason"), [
    ("exit 1", "exit status 1"), ("echo 'not Synced'; exit 3", "exit status 3: not Synced"),
    ("kill -9 $$", "killed by signal 9"), ("echo so; kill -TERM $$", "killed by signal 15: so"),
    ("exec yes", "its program wrote more than 1 MiB"),
    ("exec yes | exec tr -d '\\n'", "its program wrote more than 1 MiB")])
def test_a_program_that_is_not(trial: Trial, script: Script, text: str, reason: str) -> None:
    assert trial.bad(script(text), "10.0.0.1:80") == reason


def test_a_program_that_can_not_be_run_says_nothing_about_the_server(trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trial.good(Check("exec", program=str(tmp_path / "none")), "10.0.0.1:80")
    (tmp_path / "data").write_text("")
    with pytest.raises(PermissionError):
        trial.good(Check("exec", program=str(tmp_path / "data")), "10.0.0.1:80")


def test_a_program_that_overruns_is_killed_with_its_children(trial: Trial, script: Script, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    check = script(f"trap '' TERM HUP INT\nsleep 1000 & sleep 1001 &\necho $$ $! > {pids}\nwait")
    start = time.monotonic()
    assert trial.bad(check, "10.0.0.1:80", seconds=0.5) == "not done within 0.5 s"
    assert time.monotonic() - start < 5
    own, child = map(int, pids.read_text().split())
    assert not exists(own), "nor is it a zombie"
    wait_until(lambda: not runs(child), what="the end of its child")


def test_who_ends_a_program_may_be_ended_too(trial: Trial) -> None:
    """Somebody still waits for it: nothing stays a zombie."""
    for _ in range(10):
        program = Program(["/bin/sleep", "1000"], {}, trial.poller, Children())
        ending = gevent.spawn(program.end)
        gevent.sleep(0)
        ending.kill(block=False)
        with gevent.Timeout(20):
            while not program.is_over:
                gevent.sleep(0.01)


def test_a_program_that_is_stopped_is_killed(trial: Trial, script: Script) -> None:
    assert trial.bad(script("kill -STOP $$"), "10.0.0.1:80", seconds=0.3) == "not done within 0.3 s"


def test_what_a_program_leaves_behind_is_killed(trial: Trial, script: Script, tmp_path: Path) -> None:
    """A grandchild that holds the pipe does not delay the check."""
    pid = tmp_path / "pid"
    start = time.monotonic()
    assert trial.good(script(f"sleep 1000 & echo $! > {pid}; echo fine"), "10.0.0.1:80") == "fine"
    assert time.monotonic() - start < 10
    wait_until(lambda: not runs(int(pid.read_text())), what="the end of its child")


def test_a_check_that_is_given_up_leaves_nothing(trial: Trial, script: Script, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    greenlet = gevent.spawn(trial.good, script(f"echo $$ > {pid}; sleep 1000"), "10.0.0.1:80")
    while not (pid.exists() and pid.read_text()):
        gevent.sleep(0.01)
    greenlet.kill()
    assert not exists(int(pid.read_text()))


def test_the_loop_goes_on_meanwhile(trial: Trial, script: Script) -> None:
    """What else runs in the loop is not held up by a program that runs, nor by one that talks without end."""
    usual = turns_of(gevent.spawn(gevent.sleep, 0.5))
    for check in (script("sleep 1000"), script("while :; do echo talk; done")):
        greenlet = gevent.spawn(trial.bad, check, "10.0.0.1:80", seconds=0.5)
        assert statistics.median(turns_of(greenlet)) < statistics.median(usual) + 0.05
        greenlet.get()


def turns_of(greenlet: gevent.Greenlet) -> list[float]:
    """How long each turn of a loop took, in which somebody else sleeps for 5 ms at a time, until this one ended."""
    turns, last = [], time.monotonic()
    while not greenlet.dead:
        gevent.sleep(0.005)
        turns.append(time.monotonic() - last)
        last += turns[-1]
    return turns


def test_signals_are_as_a_program_expects_them(trial: Trial, script: Script) -> None:
    """Python ignores SIGPIPE, and what is ignored is inherited."""
    ignored = trial.good(script("grep SigIgn /proc/$$/status"), "10.0.0.1:80").removeprefix("SigIgn:")
    assert not int(ignored, 16) & (1 << (signal.SIGPIPE - 1))


def test_a_program_has_no_descriptor_of_ours(trial: Trial, script: Script, servers: Serve) -> None:
    server = servers(echo)
    inode = f"socket:[{os.fstat(server.socket.fileno()).st_ino}]"
    count = trial.good(script(f"ls -l /proc/$$/fd | grep -c -F '{inode}'; true"), "10.0.0.1:80")
    assert count == "0"
