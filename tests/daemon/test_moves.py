"""A server gets another address, goes, or is replaced while it has sessions: what is then said of it is not said of
them, and what they find is not found of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.datagrams import DatagramServer, ask, client, is_silent, silence
from tests.datagrams import echo as echo_datagrams
from tests.datagrams import naming as naming_datagrams
from tests.datagrams import refusing as refusing_datagrams
from tests.harness import Gpen, Server, SilentServer, connect, echo, naming, read_all, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def datagrams() -> Iterator[Callable[..., DatagramServer]]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(DatagramServer(*arguments, **options))


def spoken(balancer: Gpen) -> socket.socket:
    """A client whose session is open: the server has echoed a byte."""
    sock = balancer.connect()
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    return sock


def asking(balancer: Gpen, line: str) -> socket.socket:
    """A control client that has asked, and can read what comes of it."""
    sock = connect(balancer.control)
    sock.sendall(f"{line}\n".encode())
    sock.shutdown(socket.SHUT_WR)
    return sock


def lives(sock: socket.socket) -> bool:
    sock.sendall(b"y")
    return sock.recv(1) == b"y"


def move(balancer: Gpen, number: int, server: Any, *more: str) -> None:
    """Give a server the address of another."""
    host, _, port = server.address.rpartition(":")
    assert balancer.ctl(" ".join([f"server {number} address {host} port {port}", *more])) == ""


# --- sessions that stay where they are -------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["server 0 health down", "server 0 state maint", "check connect"])
def test_what_is_said_of_the_new_place_closes_nothing_at_the_old(gpen: Start, servers: Serve, verdict: str) -> None:
    balancer = gpen("-r", "-O", "on_down close", "-O", "check_interval 0.1", "-O", "check_fall 1",
                    servers=[servers(echo)])
    with spoken(balancer) as old, Server(echo) as new:
        move(balancer, 0, new)
        with spoken(balancer) as young:
            if verdict.startswith("check"):
                new.socket.shutdown(socket.SHUT_RDWR)  # what it has goes on, new connects are refused
            balancer.ctl(verdict)
            assert read_all(young) == b"", "it was at the new place"
        assert lives(old)
        balancer.ctl("server 0 max 7")  # nor at any later command
        assert lives(old)


def test_back_where_they_are(gpen: Start, servers: Serve) -> None:
    a, b = servers(echo), servers(echo)
    balancer = gpen("-r", "-O", "on_down close", servers=[a])
    with spoken(balancer) as old:
        move(balancer, 0, b)
        move(balancer, 0, a)
        balancer.ctl("server 0 health down")
        assert read_all(old) == b""


@pytest.mark.parametrize("change", ["server 0 address {}", "server 0 address 0.0.0.0", "no server 0"])
def test_close_server_ends_those_left_behind(gpen: Start, servers: Serve, change: str) -> None:
    balancer = gpen("-r", servers=[servers(echo)])
    with spoken(balancer) as old:
        balancer.ctl(change.format(servers(echo).address))
        assert balancer.ctl("close server 0") == "Closing 1 connections of server 0\n"
        assert read_all(old) == b""
    balancer.wait_idle()


@pytest.mark.parametrize("between", ["", "server 0 address 0.0.0.0", "no server 0"])
def test_a_number_that_is_used_again(gpen: Start, servers: Serve, between: str) -> None:
    a, b = servers(echo), servers(echo)
    balancer = gpen("-r", servers=[a, servers(echo)])
    with spoken(balancer) as old:
        if between:
            balancer.ctl(between)
        move(balancer, 0, b, "state maint")
        assert balancer.ctl("drain 0") == "drained server 0: 0 sessions went by themselves, 0 were closed\n"
        assert lives(old)
        row = balancer.json("sessions")[0]
        assert (row["server"], row["server_address"]) == (0, a.address)
    balancer.wait_idle()


def test_a_drain_waits_for_those_that_it_began_with(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", servers=[servers(echo)])
    with spoken(balancer), asking(balancer, "drain 0 30 close") as drain:
        assert drain.recv(100).startswith(b"draining server 0: 1 session left")
        move(balancer, 0, servers(echo))
        balancer.ctl("close server 0")
        assert read_all(drain).endswith(b"1 were closed\n")


def test_limits_count_what_is_there(gpen: Start, servers: Serve) -> None:
    a, b = servers(echo), servers(echo)
    balancer = gpen("-r", servers=[f"{a.address}:1"])
    with spoken(balancer):
        assert balancer.ask() == b"", "full"
        move(balancer, 0, b)
        with spoken(balancer):
            assert balancer.server(0)["sessions"] == 2
            assert balancer.ask() == b"", "the new place is full as well"
        wait_until(lambda: balancer.server(0)["sessions"] == 1)
        move(balancer, 0, a)
        assert balancer.ask() == b"", "and the old one is still"
    balancer.wait_idle()


# --- connects that are under way --------------------------------------------------------------------------------------


def connecting(balancer: Gpen) -> bool:
    return [row["state"] for row in balancer.json("sessions")] == ["connecting"]


@pytest.mark.parametrize("change", ["no server 0", "server 0 address 0.0.0.0", "server 0 address {}"])
def test_a_client_that_is_being_connected_goes_elsewhere(gpen: Start, servers: Serve, change: str) -> None:
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "50", servers=[silent.address, f"{servers(naming('b')).address}:0"])
        balancer.ctl("prio", "server 1 prio 5")
        with balancer.connect() as sock:
            wait_until(lambda: connecting(balancer))
            balancer.ctl(change.format(servers(naming("b")).address))
            assert sock.recv(1) == b"b"
    assert balancer.server(1)["failures"] == 0


@pytest.mark.parametrize("times", [1, 3])
def test_moves_one_after_the_other(gpen: Start, servers: Serve, times: int) -> None:
    """All before gpen gets to the client: it is turned away for none of them."""
    with SilentServer() as silent, ExitStack() as stack:
        balancer = gpen("-r", "-t", "50", servers=[silent.address])
        with balancer.connect() as sock:
            wait_until(lambda: connecting(balancer))
            others = [stack.enter_context(SilentServer()).address for _ in range(times)]
            balancer.ctl(*(f"server 0 address {other}" for other in [*others, servers(naming("n")).address]))
            assert sock.recv(1) == b"n"
            row = balancer.json("sessions")[0]
            assert row["server_address"] == balancer.server(0)["address"] + f":{balancer.server(0)['port']}"
    assert balancer.server(0)["failures"] == 0


@pytest.mark.parametrize(("name", "options"), [("emergency", ()), ("abuse", ("-O", "acl 1 deny 127.0.0.0/8", "-O",
                                                                             "client_acl 1"))])
def test_special_servers_move(gpen: Start, servers: Serve, name: str, options: tuple[str, ...]) -> None:
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "50", "-O", f"{name} {silent.address}", *options, servers=["127.0.0.1:1"])
        balancer.ctl("server 0 state maint")
        with balancer.connect() as sock:
            wait_until(lambda: connecting(balancer))
            balancer.ctl(f"{name} {servers(naming('s')).address}")
            assert sock.recv(1) == b"s"
        with SilentServer() as other:
            balancer.ctl(f"{name} {other.address}")
            with balancer.connect() as sock:
                wait_until(lambda: connecting(balancer))
                balancer.ctl(f"no {name}")
                assert read_all(sock) == b""
    assert balancer.json("sessions") == []


def test_a_client_that_was_held(gpen: Start, servers: Serve) -> None:
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "50", "-O", "hold 50", servers=[silent.address])
        balancer.ctl("server 0 health down")
        with balancer.connect() as sock:
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
            assert balancer.json("sessions")[0]["server_address"] is None
            balancer.ctl("server 0 health up")
            wait_until(lambda: connecting(balancer))
            move(balancer, 0, servers(naming("n")))
            assert sock.recv(1) == b"n"


def test_a_check_that_hangs(gpen: Start, servers: Serve) -> None:
    """The new place is checked at once, not when the check of the old one has come to its end."""
    with SilentServer() as silent:
        balancer = gpen("-O", "check connect", "-O", "check_timeout 40", "-O", "check_interval 0.2",
                        servers=[silent.address])
        time.sleep(0.5)  # until the check hangs, which nothing shows
        move(balancer, 0, servers(echo))
        start = time.monotonic()
        wait_until(lambda: balancer.server(0)["verdict"] == "up")
        assert time.monotonic() - start < 10
    assert "Traceback" not in balancer.stderr


# --- what an operator has set ----------------------------------------------------------------------------------------


def test_a_connect_does_not_shorten_a_blacklist(gpen: Start, servers: Serve) -> None:
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "1", "-b", "30", servers=[silent.address, servers(naming("b"))])
        with balancer.connect() as sock:
            wait_until(lambda: connecting(balancer))
            balancer.ctl("server 0 blacklist 3600")
            assert sock.recv(1) == b"b"
        row = balancer.server(0)
        assert row["blacklisted"] > 3500 and row["reason"].startswith("blacklisted by a command")
        told = [event["cause"] for event in balancer.json("events") if event["event"] == "failed"]
        assert len(told) == 1 and "timed out" in told[0] and "by a command" in told[0]


def test_a_check_does_not_shorten_a_blacklist(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "check_interval 0.1", servers=[servers(echo)])
    balancer.ctl("server 0 blacklist 3600", "check connect")
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    assert balancer.server(0)["blacklisted"] > 3500
    balancer.ctl("server 0 health up")
    assert balancer.server(0)["health"] == "up", "a command may"


# --- over UDP --------------------------------------------------------------------------------------------------------


def test_an_unanswered_datagram_goes_where_its_server_is_now(gpen: Start, datagrams: Any) -> None:
    a, b = datagrams(silence), datagrams(naming_datagrams("b"))
    balancer = gpen("-U", "-O", "udp_replies 1", "-O", "udp_timeout 50", servers=[a])
    with client(balancer) as sock:
        sock.send(b"who?")
        wait_until(lambda: a.received)
        move(balancer, 0, b)
        assert sock.recv(10) == b"b"
    assert (balancer.server(0)["failures"], b.received) == (0, [b"who?"])


def test_flows_that_were_answered_stay(gpen: Start, datagrams: Any) -> None:
    a, b = datagrams(echo_datagrams), datagrams(naming_datagrams("b"))
    balancer = gpen("-U", "-O", "on_down close", servers=[a])
    with client(balancer) as sock:
        sock.send(b"1")
        assert sock.recv(10) == b"1"
        move(balancer, 0, b)
        balancer.ctl("server 0 health down", "server 0 state maint")
        sock.send(b"2")
        assert sock.recv(10) == b"2"
        balancer.ctl("server 0 health up", "server 0 state ready")
        assert ask(balancer) == b"b"


def test_a_refusal_at_the_old_place_is_not_tried_at_its_other_addresses(gpen: Start, datagrams: Any) -> None:
    """A flow that had an answer, whose old server is then gone: it goes where the server is now."""
    a, b = DatagramServer(echo_datagrams), datagrams(naming_datagrams("b"))
    balancer = gpen("-U", servers=[a])
    with a, client(balancer) as sock:
        sock.send(b"1")
        assert sock.recv(10) == b"1"
        move(balancer, 0, b)
        a.close()
        sock.send(b"2")
        assert sock.recv(10) == b"b"
    row = balancer.server(0)
    assert (row["health"], row["failures"]) == ("up", 0)


def test_flows_at_the_old_place_count_neither_way(gpen: Start, datagrams: Any) -> None:
    """They are unanswered there, or answered there, and the new place is neither worse nor better for it."""
    a = datagrams(lambda data: [data] if data == b"1" else [])
    b, spare = datagrams(silence), datagrams(silence)
    balancer = gpen("-U", "-O", "prio", "-O", "udp_replies 2", "-O", "udp_timeout 1", "-O", "udp_unanswered 2",
                    servers=[a, f"{spare.address}::::1"])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(3)]
        for sock in socks:
            sock.send(b"1")
            assert sock.recv(10) == b"1"
        move(balancer, 0, b)
        for sock in socks:
            sock.send(b"2")
        wait_until(lambda: not balancer.json("sessions"))
        assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)
        with client(balancer) as young:
            young.send(b"3")
            wait_until(lambda: not balancer.json("sessions"))
            with client(balancer) as other:
                other.send(b"4")
                wait_until(lambda: balancer.server(0)["health"] == "down")
                assert is_silent(other)


def test_a_flow_that_is_unproven_leaves_a_server_in_maint(gpen: Start, datagrams: Any) -> None:
    a, b = datagrams(silence), datagrams(naming_datagrams("b"))
    balancer = gpen("-U", "-r", "-O", "udp_replies 1", "-O", "prio", servers=[a, f"{b.address}::::1"])
    with client(balancer) as sock:
        sock.send(b"who?")
        wait_until(lambda: a.received)
        balancer.ctl("server 0 state maint")
        assert sock.recv(10) == b"b"
        assert balancer.server(0)["sessions"] == 0


def test_nowhere_to_go(gpen: Start, datagrams: Any) -> None:
    a = datagrams(silence)
    with refusing_datagrams() as refused:
        balancer = gpen("-U", "-O", "udp_replies 1", servers=[a])
        with client(balancer) as sock:
            sock.send(b"who?")
            wait_until(lambda: a.received)
            balancer.ctl(f"server 0 address {refused}")
            wait_until(lambda: not balancer.json("sessions"))
        wait_until(lambda: balancer.server(0)["sessions"] == 0)
