"""`drain N [SECONDS] [close]`: what it tells, when it ends, and what becomes of the sessions."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.gpenctl.daemon import GPENCTL
from tests.harness import PATIENCE, Gpen, Server, SilentServer, connect, echo, naming, read_all, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


class Drain:
    """A drain that goes on: its lines as they come."""

    def __init__(self, balancer: Gpen, arguments: str) -> None:
        self.sock = connect(balancer.control)
        self.sock.sendall(f"drain {arguments}\n".encode())
        self.sock.shutdown(socket.SHUT_WR)
        self._lines = self.sock.makefile()

    def __enter__(self) -> Drain:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.sock.close()

    def line(self) -> str:
        """The next line, without its end; empty at the end."""
        return self._lines.readline().rstrip("\n")

    def last(self) -> str:
        """The last line."""
        return self._lines.read().rstrip("\n").split("\n")[-1]


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    return gpen("-r", servers=[servers(naming(name)) for name in "ab"])


@pytest.fixture
def clients(balancer: Gpen) -> Iterator[list[socket.socket]]:
    """Two sessions with server 0; another one, with server 1, stays out of the list."""
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(3)]
        yield [sock for sock in socks if sock.recv(1) == b"a"]


def is_alive(sock: socket.socket) -> bool:
    sock.sendall(b"still here")
    return sock.recv(10) == b"still here"


def test_it_waits_for_all_and_tells_what_is_left(balancer: Gpen, clients: list[socket.socket]) -> None:
    with Drain(balancer, "0") as drain:
        assert drain.line() == "draining server 0: 2 sessions left"
        assert [balancer.ask() for _ in range(3)] == [b"b"] * 3
        assert drain.line() == "draining server 0: 2 sessions left"
        clients[0].close()
        assert drain.line() == "draining server 0: 1 session left"
        assert is_alive(clients[1])
        clients[1].close()
        assert drain.line() == "drained server 0: 2 sessions went by themselves, 0 were closed"  # at once
        assert drain.line() == ""
    assert balancer.server(0)["state"] == "drain"


def test_time_is_up(balancer: Gpen, clients: list[socket.socket]) -> None:
    with Drain(balancer, "0 2.3") as drain:
        assert drain.line() == "draining server 0: 2 sessions left, 2 s"
        clients[0].close()
        assert drain.line() == "draining server 0: 1 session left, 1 s"
        assert drain.last() == ("error: drain: server 0 still has 1 session after 2.3 s; 1 went by themselves; "
                                "'close server 0' ends the rest")
    assert is_alive(clients[1]) and balancer.server(0)["state"] == "drain"


def test_the_rest_is_closed(balancer: Gpen, clients: list[socket.socket]) -> None:
    with Drain(balancer, "0 1.2 close") as drain:
        assert drain.line() == "draining server 0: 2 sessions left, 1 s"
        clients[0].close()
        assert drain.last() == "drained server 0: 1 session went by themselves, 1 were closed"
        assert balancer.server(0)["sessions"] == 0
    assert read_all(clients[1]) == b""
    assert len(balancer.json("sessions")) == 1


@pytest.mark.parametrize("arguments", ["1", "1 30", "1 30 close", "1 0", "1 0 close"])
def test_nothing_to_wait_for(balancer: Gpen, arguments: str) -> None:
    assert balancer.ctl(f"drain {arguments}", "pid") == (
        f"drained server 1: 0 sessions went by themselves, 0 were closed\n{balancer.pid}\n")


def test_no_such_server(balancer: Gpen) -> None:
    assert balancer.ctl("drain 7") == "error: drain: there is no server 7 (known: 0, 1)\n"


def test_it_is_taken_back(balancer: Gpen, clients: list[socket.socket]) -> None:
    with Drain(balancer, "0") as drain:
        drain.line()
        balancer.ctl("server 0 state ready")
        assert drain.last() == "error: drain: server 0 was set back to ready; it is in use again"
    assert all(map(is_alive, clients))


@pytest.mark.parametrize("change", ["no server 0", "server 0 address 127.0.0.9 port 9",
                                    "no server 0\nserver 0 address 127.0.0.1 port 9"])
def test_the_old_sessions_of_a_server_that_goes(balancer: Gpen, clients: list[socket.socket], change: str) -> None:
    with Drain(balancer, "0") as drain:
        drain.line()
        assert balancer.ctl(change) == ""
        assert drain.line() == "draining server 0: 2 sessions left"
        for client in clients:
            client.close()
        assert drain.last() == "drained server 0: 2 sessions went by themselves, 0 were closed"


@pytest.mark.parametrize("command", ["server 0 state maint", "close server 0"])
def test_somebody_else_closes(balancer: Gpen, clients: list[socket.socket], command: str) -> None:
    with Drain(balancer, "0") as drain:
        drain.line()
        balancer.ctl(command)
        assert drain.last() == "drained server 0: 0 sessions went by themselves, 2 were closed"


def test_a_client_that_is_being_connected(gpen: Start, servers: Serve) -> None:
    """It is waited for, and goes to another server when the connect fails."""
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "1", servers=[silent.address, servers(naming("b"))])
        with balancer.connect() as client:
            wait_until(lambda: balancer.server(0)["sessions"] == 1)
            with Drain(balancer, "0") as drain:
                assert drain.line() == "draining server 0: 1 session left"
                assert client.recv(1) == b"b"
                assert drain.last() == "drained server 0: 1 session went by themselves, 0 were closed"


def test_a_reader_who_goes_away(balancer: Gpen, clients: list[socket.socket]) -> None:
    """The server stays as it is, and nothing is closed any more."""
    before = balancer.fds()
    with Drain(balancer, "0 2 close") as drain:
        drain.line()
    wait_until(lambda: balancer.fds() == before, what="the end of the report")
    assert all(map(is_alive, clients))
    assert balancer.server(0)["state"] == "drain"


def test_two_at_one_time(balancer: Gpen, clients: list[socket.socket]) -> None:
    with Drain(balancer, "0") as first, Drain(balancer, "1 0.5 close") as second:
        assert first.line() == "draining server 0: 2 sessions left"
        assert second.line() == "draining server 1: 1 session left, 0 s"
        assert second.last() == "drained server 1: 0 sessions went by themselves, 1 were closed"
        for client in clients:
            client.close()
        assert first.last() == "drained server 0: 2 sessions went by themselves, 0 were closed"


def test_idlers_are_no_sessions(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "idlers 2", servers=[servers(echo)])
    wait_until(lambda: balancer.ctl("idlers") == "Idlers: 2/2\n")
    assert balancer.ctl("drain 0 30") == "drained server 0: 0 sessions went by themselves, 0 were closed\n"


def test_many_sessions(gpen: Start, servers: Serve) -> None:
    """Every one is counted, whatever ended it."""
    balancer = gpen("-x", "500", servers=[servers(echo)])
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(300)]
        assert all(map(is_alive, socks))
        with Drain(balancer, "0 1.5 close") as drain:
            assert drain.line().startswith("draining server 0: 300 sessions left")
            for sock in socks[:120]:
                sock.close()
            assert drain.last() == "drained server 0: 120 sessions went by themselves, 180 were closed"
    balancer.wait_idle()


@pytest.mark.parametrize("arguments, status", [(["0", "0.2"], 1), (["0", "0.2", "close"], 0)])
def test_gpenctl_says_whether_the_server_is_free(
        balancer: Gpen, clients: list[socket.socket], arguments: list[str], status: int) -> None:
    done = subprocess.run([*GPENCTL, balancer.control, "drain", *arguments], capture_output=True, text=True,
                          timeout=PATIENCE, check=False)
    assert done.returncode == status
    assert re.match(r"draining server 0: 2 sessions left, 0 s\n", done.stdout)
    assert ("still has 2 sessions" in done.stderr) == bool(status)
    assert ("0 sessions went by themselves, 2 were closed" in done.stdout) == (not status)
