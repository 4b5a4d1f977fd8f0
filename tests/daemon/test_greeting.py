"""Servers that speak first: one that does not is left before the client notices; MySQL's errors, read and written."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import Gpen, Server, SilentServer, echo, hold, naming, read_all, refusing, reset, sending, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def packet(code: int, text: str) -> bytes:
    """MySQL's error in the place of a greeting."""
    body = b"\xff" + code.to_bytes(2, "little") + text.encode()
    return len(body).to_bytes(3, "little") + b"\0" + body


def errors(data: bytes) -> tuple[int, str]:
    """Number and text of an error packet, which is all that there is."""
    assert int.from_bytes(data[:3], "little") == len(data) - 4
    assert (data[3], data[4]) == (0, 0xFF)
    return int.from_bytes(data[5:7], "little"), data[7:].decode()


def closing(sock: socket.socket) -> None:
    pass


@pytest.mark.parametrize(("serve", "reason"), [
    (closing, "closed before its first byte"),
    (reset, "reset before its first byte"),
    (hold, "no first byte within 0.3 s"),
])
def test_a_server_that_says_nothing(gpen: Start, servers: Serve, serve: Callable[[socket.socket], None],
                                    reason: str) -> None:
    balancer = gpen("-r", "-O", "greeting 0.3", servers=[servers(serve), servers(naming("b"))])
    with balancer.connect() as client:
        client.sendall(b"said before the greeting")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"bsaid before the greeting"
    row = balancer.server(0)
    assert (row["health"], row["failures"]) == ("down", 1)
    assert row["reason"] in (reason, "connection reset by peer")  # a reset may come before the connect is seen
    balancer.wait_idle()


def test_much_is_kept_for_the_server_that_answers(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "greeting 0.5", servers=[servers(hold), servers(naming("b"))])
    data = bytes(range(256)) * 200
    assert balancer.ask(data) == b"b" + data


def test_all_are_tried_and_then_the_client_is_closed(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-l", "gpen.log", "-O", "greeting 0.2", servers=[servers(closing), servers(hold)])
    assert balancer.ask() == b""
    wait_until(lambda: "connect-failed" in balancer.log)


def test_without_greeting_a_silent_server_is_a_server(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", servers=[servers(echo), servers(naming("b"))])
    assert balancer.ask(b"hello") == b"hello"


def test_a_greeting_is_passed_on_once_and_whole(gpen: Start, servers: Serve) -> None:
    greeting = bytes(range(256)) * 40
    balancer = gpen("-r", "-O", "greeting 1", servers=[servers(sending(greeting))])
    assert [balancer.ask() for _ in range(20)] == [greeting] * 20


def test_only_a_greeting_wins_the_trial(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-b", "0.2", "-O", "greeting 0.2", servers=[servers(closing), servers(naming("b"))])
    wait_until(lambda: balancer.ask() == b"b" and balancer.server(0)["failures"] > 2)
    assert [event["event"] for event in balancer.json("events") if event["server"] == 0] == ["added", "down"]


@pytest.mark.parametrize("code", [1040, 1053, 1129, 1130])
def test_mysql_errors_fail_over(gpen: Start, servers: Serve, code: int) -> None:
    balancer = gpen("-r", "-O", "mysql", servers=[servers(sending(packet(code, "No"))), servers(naming("b2345678"))])
    assert balancer.ask() == b"b2345678"
    assert balancer.server(0)["reason"] == f"greeted with error {code}: No"


def test_other_mysql_errors_are_the_client_s(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "mysql", servers=[servers(sending(packet(1226, "Too much"))), servers(naming("b"))])
    assert errors(balancer.ask()) == (1226, "Too much")


def test_a_mysql_greeting_in_pieces(gpen: Start, servers: Serve) -> None:
    def piecemeal(sock: socket.socket) -> None:
        for byte in packet(1040, "Too many connections"):
            sock.sendall(bytes([byte]))
            time.sleep(0.002)

    balancer = gpen("-r", "-O", "mysql", servers=[servers(piecemeal), servers(naming("b2345678"))])
    assert balancer.ask() == b"b2345678"


def test_mysql_alone_waits_as_long_as_timeout(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-t", "1", "-O", "mysql", servers=[servers(hold), servers(naming("b2345678"))])
    start = time.monotonic()
    assert balancer.ask() == b"b2345678"
    assert 0.9 < time.monotonic() - start < 5


# --- what a MySQL client is told --------------------------------------------------------------------------------------


def test_no_server_is_usable(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-O", "mysql", servers=[address])
        assert errors(balancer.ask()) == (1047, "gpen: no server is usable")
        assert errors(balancer.ask()) == (1047, "gpen: no server is usable")


def test_all_servers_are_full(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "mysql", servers=[f"{servers(naming('b2345678')).address}:1"])
    with balancer.connect() as first:
        assert first.recv(100) == b"b2345678"
        assert errors(balancer.ask()) == (1040, "gpen: all servers are full")
    balancer.wait_idle()


def test_a_client_that_is_denied(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "mysql", "-O", "acl 0 deny 127.0.0.0/8", servers=[servers(naming("b"))])
    assert errors(balancer.ask()) == (1130, "gpen: 127.0.0.1 may not connect here")


def test_a_client_that_waits_at_the_end_of_gpen(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-O", "mysql", "-O", "hold 30", servers=[address])
        with balancer.connect() as client:
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
            balancer.stop()
            assert errors(read_all(client)) == (1053, "gpen: shutting down")


def test_without_mysql_nothing_is_said(gpen: Start) -> None:
    with refusing() as address:
        assert gpen(servers=[address]).ask() == b""


def test_a_verdict_moves_those_who_wait_for_a_greeting(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "greeting 30", servers=[servers(hold), servers(naming("b"))])
    with balancer.connect() as client:
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
        balancer.ctl("server 0 health down because it hangs")
        assert client.recv(1) == b"b"
    row = balancer.server(0)
    assert (row["failures"], row["reason"]) == (0, "it hangs")
    balancer.wait_idle()


@pytest.mark.parametrize("command", ["server 0 state maint", "close server 0"])
def test_commands_that_close_move_them_too(gpen: Start, servers: Serve, command: str) -> None:
    balancer = gpen("-r", "-O", "greeting 30", servers=[servers(hold), servers(naming("b"))])
    with balancer.connect() as client:
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
        balancer.ctl(command)
        assert client.recv(1) == b"b"
    balancer.wait_idle()


def test_a_verdict_moves_those_who_are_being_connected(gpen: Start, servers: Serve) -> None:
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "30", servers=[silent.address, servers(naming("b"))])
        with balancer.connect() as client:
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
            balancer.ctl("server 0 health down")
            assert client.recv(1) == b"b"


def test_a_mysql_server_that_closes_in_the_middle_of_its_greeting(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "mysql", "-O", "greeting 15", servers=[servers(sending(b"abc")),
                                                                         servers(naming("b2345678"))])
    start = time.monotonic()
    assert balancer.ask() == b"b2345678"
    assert time.monotonic() - start < 10
    assert balancer.server(0)["reason"] == "no whole greeting, but 3 bytes"


def test_a_greeting_whose_end_comes_with_the_servers_end(gpen: Start, servers: Serve) -> None:
    """Between two looks at what has come there may come all the rest."""
    greeting = b"\x0e\0\0\0\x0a10.11-well\0" + bytes(3)

    def in_pieces(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in greeting:
            sock.sendall(bytes([byte]))

    balancer = gpen("-r", "-O", "mysql", "-O", "greeting 15", servers=[servers(in_pieces)])
    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(lambda _: balancer.ask(), range(1500))} == {greeting}
    assert balancer.server(0)["failures"] == 0


def test_all_servers_say_that_they_are_full(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "mysql", servers=[servers(sending(packet(1040, "Too many connections")))] * 2)
    assert errors(balancer.ask()) == (1040, "gpen: all servers are full")
