"""Clients that no server can take: they wait, are served in order of arrival, and are forgotten when they leave."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path

import pytest

from gpen.wire.conversation import next_pause
from tests.harness import Gpen, Server, connect, echo, naming, read_all, refusing, reset, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def states(balancer: Gpen) -> list[str]:
    return [row["state"] for row in balancer.json("sessions")]


def wait_held(balancer: Gpen, count: int) -> None:
    wait_until(lambda: states(balancer).count("held") == count, what=f"{count} held clients")


def test_served_when_a_server_is_back(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "hold 20", servers=[servers(naming("a"))])
    balancer.ctl("server 0 health down because of a test")
    with balancer.connect() as client:
        client.sendall(b"kept")
        wait_held(balancer, 1)
        assert [row["held"] for row in balancer.json("servers")] == [1]
        start = time.monotonic()
        balancer.ctl("server 0 health up")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"akept"
        assert time.monotonic() - start < 5
    balancer.wait_idle()


@pytest.mark.parametrize("has_emergency", [False, True])
def test_a_server_that_comes_back_by_itself_is_found(gpen: Start, has_emergency: bool) -> None:
    """Its blacklist time of 30 s would be longer than the client waits; a dead emergency server is not in the way."""
    with refusing() as address, refusing() as emergency:
        options = ("-e", emergency) if has_emergency else ()
        balancer = gpen("-r", "-O", "hold 20", *options, servers=[address])
        client = balancer.connect()
        wait_held(balancer, 1)
    host, _, port = address.rpartition(":")
    with client, Server(naming("a"), host, int(port)):
        assert client.recv(1) == b"a"


def test_what_a_command_blacklisted_is_left_alone(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "hold 1.5", servers=[servers(naming("a"))])
    balancer.ctl("server 0 blacklist 100")
    with balancer.connect() as client:
        assert read_all(client) == b""
    assert balancer.server(0)["total"] == 0


def test_in_order_of_arrival(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "hold 20", servers=[f"{servers(echo).address}:1"])
    with ExitStack() as stack:
        first = stack.enter_context(balancer.connect())
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        waiting = []
        for number in range(5):
            waiting.append(stack.enter_context(balancer.connect()))
            waiting[-1].sendall(b"%d" % number)
            wait_held(balancer, number + 1)
        for number, client in enumerate(waiting):
            (first if number == 0 else waiting[number - 1]).close()
            assert client.recv(1) == b"%d" % number
            assert states(balancer).count("held") == 4 - number
    balancer.wait_idle()


def test_a_newcomer_does_not_overtake(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "hold 20", servers=[f"{servers(echo).address}:1"])
    balancer.ctl("server 0 health down")
    with balancer.connect() as early, ExitStack() as stack:
        early.sendall(b"early")
        wait_held(balancer, 1)
        balancer.ctl("server 0 health up")
        late = stack.enter_context(balancer.connect())
        late.sendall(b"late")
        assert early.recv(9) == b"early"
        early.close()
        assert late.recv(9) == b"late"


def test_no_longer_than_hold(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-l", "gpen.log", "-O", "hold 0.5", servers=[address])
        start = time.monotonic()
        with balancer.connect() as client:
            assert read_all(client) == b""
        assert 0.5 <= time.monotonic() - start < 5
        wait_until(lambda: "connect-failed" in balancer.log or "no-server" in balancer.log)


def test_no_more_than_hold_max(gpen: Start) -> None:
    with refusing() as address, ExitStack() as stack:
        balancer = gpen("-O", "hold 20", "-O", "hold_max 2", servers=[address])
        for _ in range(2):
            stack.enter_context(balancer.connect())
        wait_held(balancer, 2)
        start = time.monotonic()
        assert balancer.ask() == b""
        assert time.monotonic() - start < 5
        assert states(balancer) == ["held", "held"]


def test_a_client_that_leaves_is_forgotten(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-l", "gpen.log", "-O", "hold 60", servers=[address])
        for leave in (socket.socket.close, reset):
            client = balancer.connect()
            wait_held(balancer, 1)
            leave(client)
            wait_held(balancer, 0)
        wait_until(lambda: balancer.log.count("\n") == 2)
        assert "client-closed" in balancer.log and "client-reset" in balancer.log


def test_a_half_closed_client_that_asked_something_is_not(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "hold 20", servers=[servers(echo)])
    balancer.ctl("server 0 health down")
    with balancer.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        wait_held(balancer, 1)
        cpu = balancer.cpu
        time.sleep(0.5)  # how busy it is while nothing happens is what is measured
        assert balancer.cpu - cpu < 0.1
        balancer.ctl("server 0 health up")
        assert read_all(client) == b"question"


def test_close_ends_one_that_waits(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-O", "hold 60", servers=[address])
        with balancer.connect() as client:
            wait_held(balancer, 1)
            balancer.ctl(f"close {balancer.json('sessions')[0]['id']}")
            assert read_all(client) == b""


def test_no_hold_lets_them_go(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-O", "hold 60", servers=[address])
        with balancer.connect() as client:
            wait_held(balancer, 1)
            balancer.ctl("no hold")
            assert read_all(client) == b""


def test_a_new_server_takes_them(gpen: Start, servers: Serve) -> None:
    with refusing() as address:
        balancer = gpen("-r", "-O", "hold 60", servers=[address])
        host, _, port = servers(naming("n")).address.rpartition(":")
        with balancer.connect() as client:
            wait_held(balancer, 1)
            balancer.ctl(f"server 1 address {host} port {port}")
            assert client.recv(1) == b"n"


def test_held_clients_are_not_pending(gpen: Start, servers: Serve) -> None:
    """pending_max counts connections under way; one that waits is none, and must not stop the others."""
    balancer = gpen("-r", "-O", "hold 20", "-O", "pending_max 1", "-O", "acl 1 permit 127.0.0.2",
                    servers=[servers(naming("a"))])
    balancer.ctl("server 0 acl 1")
    with balancer.connect():
        wait_held(balancer, 1)
        with balancer.connect("127.0.0.2") as other:
            assert other.recv(1) == b"a"


def busy(balancer: Gpen, seconds: float = 1.0) -> float:
    """The share of a processor that it uses meanwhile."""
    before = balancer.cpu
    time.sleep(seconds)  # how busy it is in that time is what is measured
    return (balancer.cpu - before) / seconds


def test_what_fails_and_is_not_blacklisted_is_not_tried_all_the_time(gpen: Start) -> None:
    with refusing() as address, refusing() as emergency:
        for options in (("-e", emergency), ("-b", "0"), ("-O", "source 192.0.2.1")):
            balancer = gpen("-O", "hold 60", *options, servers=[address])
            with balancer.connect():
                wait_held(balancer, 1)
                assert busy(balancer) < 0.3
                assert balancer.stderr.count("\n") < 30


def test_those_whom_nobody_may_serve_keep_nobody_out(gpen: Start, servers: Serve) -> None:
    """Access list 1 of the only server that is left permits 127.0.0.2; the waiting room is full of others."""
    balancer = gpen("-r", "-O", "hold 20", "-O", "hold_max 2", "-O", "acl 1 permit 127.0.0.2",
                    servers=[servers(naming("a"))])
    balancer.ctl("server 0 acl 1")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(balancer.connect())
        wait_held(balancer, 2)
        with balancer.connect("127.0.0.2") as welcome:
            assert welcome.recv(1) == b"a"


def test_idle_timeout_is_for_sessions_that_have_a_server(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "hold 20", "-O", "idle_timeout 0.5", servers=[servers(naming("a"))])
    balancer.ctl("server 0 health down")
    with balancer.connect() as client:
        wait_held(balancer, 1)
        wait_until(lambda: balancer.json("sessions")[0]["age"] > 2)
        balancer.ctl("server 0 health up")
        assert client.recv(1) == b"a"


@pytest.mark.parametrize("comes_first", [False, True])
def test_nobody_is_turned_away_while_places_come_free(gpen: Start, servers: Serve, comes_first: bool) -> None:
    """The waiting room is full; in one instant two sessions end and a client comes."""
    balancer = gpen("-r", "-O", "hold 20", "-O", "hold_max 1", servers=[f"{servers(echo).address}:2"])
    address = balancer.address
    with ExitStack() as stack:
        early = [stack.enter_context(balancer.connect()) for _ in range(2)]
        for sock in early:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        waiting = stack.enter_context(balancer.connect())
        waiting.sendall(b"w")
        wait_held(balancer, 1)
        with stopped(balancer):
            if not comes_first:
                close_all(early)
            late = stack.enter_context(connect(address))
            late.sendall(b"l")
            close_all(early)
        assert (waiting.recv(1), late.recv(1)) == (b"w", b"l")
    balancer.wait_idle()


def served_and_waiting(balancer: Gpen, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A client that has the only place, and one that is held for it and has said "w"."""
    first = stack.enter_context(balancer.connect())
    first.sendall(b"x")
    assert first.recv(1) == b"x"
    waiting = stack.enter_context(balancer.connect())
    waiting.sendall(b"w")
    wait_held(balancer, 1)
    return first, waiting


@pytest.mark.one_process  # which stands still, and the sessions with it
def test_those_who_wait_go_first(gpen: Start, servers: Serve) -> None:
    """One place comes free, and one of two places in the waiting room: the newcomer gets that one, a second none."""
    balancer = gpen("-r", "-O", "hold 20", "-O", "hold_max 1", servers=[f"{servers(echo).address}:1"])
    address = balancer.address
    with ExitStack() as stack:
        first, waiting = served_and_waiting(balancer, stack)
        with stopped(balancer):
            first.close()
            late, later = (stack.enter_context(connect(address)) for _ in range(2))
        assert waiting.recv(1) == b"w"
        assert read_all(later) == b""
        assert states(balancer).count("held") == 1
        waiting.close()
        late.sendall(b"l")
        assert late.recv(1) == b"l"
    balancer.wait_idle()


def test_the_last_instant_of_patience(gpen: Start, servers: Serve) -> None:
    """A place came free while gpen was stopped, and the client's time is over by the time it looks."""
    balancer = gpen("-r", "-O", "hold 1", servers=[f"{servers(echo).address}:1"])
    with ExitStack() as stack:
        first, waiting = served_and_waiting(balancer, stack)
        with stopped(balancer):
            first.close()
            time.sleep(1.5)  # longer than it has patience
        assert waiting.recv(1) == b"w"


def test_a_long_wait() -> None:
    """The pause between attempts grows, and has a limit however many there are: at the 1,024th it was too large for a
    number."""
    pauses = list(accumulate(range(2000), lambda pause, _: next_pause(pause), initial=0.05))
    assert pauses[1:5] == [0.1, 0.2, 0.4, 0.8] and set(pauses[5:]) == {1.0}


@contextmanager
def stopped(balancer: Gpen) -> Iterator[None]:
    """A gpen that does nothing meanwhile, so that all that happens comes in one instant."""
    balancer.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{balancer.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        yield
    finally:
        balancer.signal(signal.SIGCONT)


def close_all(socks: Iterable[socket.socket]) -> None:
    for sock in socks:
        sock.close()
