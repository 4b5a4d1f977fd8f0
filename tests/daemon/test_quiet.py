"""`drain N [SECONDS] quiet`, `close server N quiet`: sessions end between two exchanges, and never within one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.test_drain import Drain, is_alive
from tests.harness import Gpen, Server, connect, read_all, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Clients = Callable[[], socket.socket]
WORKERS = [(), ("-O", "workers 1")]


class Slow:
    """Answers each question with the same, but "mute" not before ``go_on`` is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        while question := sock.recv(100):
            if question == b"mute":
                self.go_on.wait(20)
            sock.sendall(question)


@pytest.fixture
def slow() -> Iterator[Slow]:
    server = Slow()
    yield server
    server.go_on.set()


@pytest.fixture(params=WORKERS, ids=["one process", "workers"])
def balancer(gpen: Start, servers: Serve, slow: Slow, request: pytest.FixtureRequest) -> Gpen:
    return gpen("-r", "-O", "quiet 0.1", *request.param, servers=[servers(slow)])


@pytest.fixture
def client(balancer: Gpen) -> Iterator[Clients]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(balancer.connect())


def test_what_is_under_way_is_waited_for(balancer: Gpen, client: Clients, slow: Slow) -> None:
    at_rest, busy, new = client(), client(), client()
    assert is_alive(at_rest)
    busy.sendall(b"mute")
    wait_until(lambda: balancer.server(0)["sessions"] == 3)
    with Drain(balancer, "0 20 quiet") as drain:
        assert drain.line() == "draining server 0: 3 sessions left, 20 s"
        assert read_all(at_rest) == read_all(new) == b""
        assert drain.line().startswith("draining server 0: 1 session left")
        assert balancer.server(0)["sessions"] == 1
        slow.go_on.set()
        assert read_all(busy) == b"mute"
        assert drain.last() == ("drained server 0: 0 sessions went by themselves, 3 ended when they were quiet, "
                                "0 were closed")
    assert balancer.json("info")["endings"]["drained"] == 3


def test_who_speaks_on_is_served_on(balancer: Gpen, client: Clients) -> None:
    """A pause that is shorter than quiet is none."""
    balancer.ctl("quiet 5")
    talker = client()
    assert is_alive(talker)
    with Drain(balancer, "0 1.2 quiet") as drain:
        drain.line()
        for _ in range(20):
            assert is_alive(talker)
        assert drain.last() == (
            "error: drain: server 0 still has 1 session after 1.2 s; 0 went by themselves, 0 ended when they were "
            "quiet; 'close server 0' ends the rest")
    assert is_alive(talker)


def test_the_rest_is_closed_when_time_is_up(balancer: Gpen, client: Clients) -> None:
    at_rest, busy = client(), client()
    assert is_alive(at_rest)
    busy.sendall(b"mute")
    wait_until(lambda: balancer.server(0)["sessions"] == 2)
    assert balancer.ctl("drain 0 0.7 quiet close").splitlines()[-1] == (
        "drained server 0: 0 sessions went by themselves, 1 ended when they were quiet, 1 were closed")
    assert read_all(at_rest) == read_all(busy) == b""


def asking(balancer: Gpen, client: Clients) -> socket.socket:
    """The only client, whose command is under way."""
    busy = client()
    busy.sendall(b"mute")
    wait_until(lambda: balancer.server(0)["sessions"] == 1)
    return busy


def test_a_drain_that_is_over_ends_nothing(balancer: Gpen, client: Clients, slow: Slow) -> None:
    """Neither when its server is taken back, nor when its time is up."""
    busy = asking(balancer, client)
    with Drain(balancer, "0 quiet") as drain:
        drain.line()
        balancer.ctl("server 0 state ready")
        assert "set back to ready" in drain.last()
    assert "still has 1 session" in balancer.ctl("drain 0 0.2 quiet")
    slow.go_on.set()
    assert busy.recv(4) == b"mute"
    balancer.ctl("server 0 state ready", "drain 0 quiet")
    assert read_all(busy) == b""  # by the next one


def test_a_drain_that_is_over_leaves_another_its_sessions(balancer: Gpen, client: Clients, slow: Slow) -> None:
    busy = asking(balancer, client)
    with Drain(balancer, "0 20 quiet") as long:
        long.line()
        assert "still has 1 session" in balancer.ctl("drain 0 0.2 quiet")
        slow.go_on.set()
        assert read_all(busy) == b"mute"
        assert "1 ended when they were quiet" in long.last()


def test_close_server(balancer: Gpen, client: Clients, slow: Slow) -> None:
    """It answers at once; the server keeps what state it has, and new sessions."""
    at_rest, busy = client(), client()
    assert is_alive(at_rest)
    busy.sendall(b"mute")
    wait_until(lambda: balancer.server(0)["sessions"] == 2)
    assert balancer.ctl("close server 0 quiet") == "Closing 2 connections of server 0 when they are quiet\n"
    assert read_all(at_rest) == b""
    later = client()
    slow.go_on.set()
    assert read_all(busy) == b"mute"
    assert is_alive(later)
    assert "not at 192.0.2.1: nothing is changed" in balancer.ctl("close server 0 at 192.0.2.1 quiet")


def test_of_one_listener(gpen: Start, servers: Serve, slow: Slow) -> None:
    balancer = gpen("-O", "listener web listen 127.0.0.1:0", "-O", "listener web quiet 0.05", servers=[servers(slow)])
    host, port = balancer.ctl("listener web listen").strip().rsplit(":", 1)
    with connect((host, int(port))) as there, balancer.connect() as here:
        assert is_alive(here) and is_alive(there)
        assert balancer.ctl("listener web close server 0 quiet") == (
            "Closing 1 connections of server 0 when they are quiet\n")
        assert read_all(there) == b""
        assert is_alive(here)


def test_a_half_closed_session_is_in_its_last_exchange(balancer: Gpen, client: Clients, slow: Slow) -> None:
    last = client()
    last.sendall(b"mute")
    last.shutdown(socket.SHUT_WR)
    wait_until(lambda: balancer.server(0)["sessions"] == 1)
    balancer.ctl("close server 0 quiet")
    slow.go_on.set()
    assert read_all(last) == b"mute"
    wait_until(lambda: balancer.json("info")["endings"]["client-closed"] == 1)
