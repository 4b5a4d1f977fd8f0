"""Verdicts from outside, by command: where they are shown, what they do to clients and sessions, when they end."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import LOCAL, Gpen, Server, SilentServer, echo, naming, read_all, refusing, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def events(balancer: Gpen, number: int = 0) -> list[tuple[str, str]]:
    """What happened to a server since it was added."""
    return [(row["event"], row["cause"]) for row in balancer.json("events 1000") if row["server"] == number][1:]


def verdict(balancer: Gpen, number: int = 0) -> tuple[str | None, str | None, str | None]:
    """The verdict on a server, by whom, and why."""
    row = balancer.server(number)
    return row["verdict"], row["verdict_by"], row["verdict_reason"]


def test_where_it_is_shown(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", servers=[servers(naming("a")), servers(naming("b"))])
    assert verdict(balancer) == (None, None, None)
    before = time.time()
    assert balancer.ctl('server 0 health down because Donor/Desynced, "for an SST"') == ""
    row = balancer.server(0)
    assert (row["health"], row["state"], row["reason"]) == ("down", "ready", "Donor/Desynced, for an SST")
    assert verdict(balancer) == ("down", "command", "Donor/Desynced, for an SST")
    assert before - 1 < row["verdict_since"] < time.time() + 1
    assert events(balancer) == [("down", "Donor/Desynced, for an SST")]
    assert re.search(r"down for \d+ s: Donor/Desynced, for an SST", balancer.ctl("explain 127.0.0.1"))
    assert "Donor/Desynced, for an SST" in balancer.ctl("status")
    assert {balancer.ask() for _ in range(4)} == {b"b"}
    balancer.ctl("server 0 health up because Synced")
    assert {balancer.ask() for _ in range(4)} == {b"a", b"b"}
    assert verdict(balancer) == ("up", "command", "Synced")
    assert events(balancer)[1:] == [("up", "Synced")]


def test_without_a_reason(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(echo)])
    balancer.ctl("server 0 health down")
    assert verdict(balancer) == ("down", "command", "by a command")
    assert balancer.ask(b"x") == b""


@pytest.mark.parametrize(("line", "says"), [
    ("server 0 health", "health: expected a value"),
    ("server 0 health maybe", "'maybe' is not up, drain, down or unknown"),
    ("server 0 health drain 5", "'5' is not one of"),
    ("server 0 health down because", "because: expected WORDS"),
    ("server 0 health down why not", "'why' is not one of"),
    ("server 7 health down", "there is no server 7 (known: 0)"), ("health_ttl -1", "is not a number of seconds"),
    ("on_down perhaps", "'perhaps' is not one of keep, close")])
def test_what_is_wrong(gpen: Start, servers: Serve, line: str, says: str) -> None:
    balancer = gpen(servers=[servers(echo)])
    reply = balancer.ctl(line)
    assert reply.startswith("error: ") and says in reply and reply.count("\n") == 1
    assert verdict(balancer) == (None, None, None)


def test_health_among_other_changes(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(echo)])
    balancer.ctl("server 0 health down prio 7 max 3")
    row = balancer.server(0)
    assert (row["verdict"], row["prio"], row["max"]) == ("down", 7, 3)


def test_state_and_health_are_two_axes(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    balancer.ctl("server 0 state drain", "server 0 health up")
    assert balancer.ask() == b""
    balancer.ctl("server 0 health down", "server 0 state ready")
    assert balancer.ask() == b""
    balancer.ctl("server 0 health up")
    assert balancer.ask() == b"a"


# --- time to live -----------------------------------------------------------------------------------------------------


def test_a_verdict_that_is_not_renewed_is_dropped(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "health_ttl 1.5", servers=[servers(naming("a"))])
    start = time.monotonic()
    balancer.ctl("server 0 health down because Joined")
    assert balancer.ask() == b""
    wait_until(lambda: balancer.ask() == b"a")
    assert time.monotonic() - start >= 1.5
    assert verdict(balancer) == (None, None, None)
    assert events(balancer) == [
        ("down", "Joined"), ("expired", "the verdict down (Joined) was not renewed for 1.5 s"),
        ("up", "no verdict says otherwise")]


def test_a_verdict_that_is_renewed_stays(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "health_ttl 3", servers=[servers(echo)])
    balancer.ctl("server 0 health down because Joined")
    since = balancer.server(0)["verdict_since"]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        balancer.ctl("server 0 health down because Joined")
        time.sleep(0.2)
    assert balancer.server(0)["verdict_since"] == since
    assert events(balancer) == [("down", "Joined")]


# --- sessions ---------------------------------------------------------------------------------------------------------


def open_session(balancer: Gpen, expected: bytes) -> socket.socket:
    client = balancer.connect()
    assert client.recv(10) == expected
    return client


def test_nobody_but_the_emergency_server_is_left(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-e", servers(naming("e")).address, servers=[servers(naming("a"))])
    balancer.ctl("server 0 health drain")
    assert balancer.ask() == b"e"
    balancer.ctl("no emergency", "hold 20")
    with balancer.connect() as client:
        wait_until(lambda: balancer.server(0)["held"] == 1)
        balancer.ctl("server 0 health up")
        assert client.recv(10) == b"a"


def test_on_down_keep(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    with open_session(balancer, b"a") as client:
        balancer.ctl("server 0 health down")
        client.sendall(b"still there")
        assert client.recv(20) == b"still there"


def test_on_down_close(gpen: Start, servers: Serve) -> None:
    """Its own sessions only, and only when it goes down by a verdict."""
    balancer = gpen("-r", "-l", "gpen.log", "-O", "on_down close", servers=[servers(naming("a")), servers(naming("b"))])
    with open_session(balancer, b"a") as a, open_session(balancer, b"b") as b:
        balancer.ctl("server 1 blacklist 5", "server 1 health up", "server 1 blacklist 5")
        balancer.ctl("server 0 health down")
        assert read_all(a) == b""
        b.sendall(b"still there")
        assert b.recv(20) == b"still there"
        balancer.ctl("on_down keep", "server 1 health down", "on_down close", "server 1 health down because renewed")
        b.sendall(b"still there")
        assert b.recv(20) == b"still there"
    wait_until(lambda: balancer.log.count("\n") == 2)
    assert balancer.log.split("\n")[0].endswith("server-down")
    balancer.wait_idle()


@pytest.mark.parametrize("because", ["", " because Donor/Desynced"])
def test_drain_closes_nothing(gpen: Start, servers: Serve, because: str) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "on_down close", servers=[servers(naming("a")), servers(naming("b"))])
    with open_session(balancer, b"a") as client:
        balancer.ctl(f"server 0 health drain{because}")
        assert balancer.ask() == b"b", "a client that is remembered goes elsewhere"
        for line in ("health drain because renewed", "health up", "health drain", "blacklist 5", "blacklist 0"):
            balancer.ctl(f"server 0 {line}")
        client.sendall(b"still there")
        assert client.recv(20) == b"still there"
        balancer.ctl("server 0 health down because gone", "server 0 health drain")
        assert read_all(client) == b""
    wait_until(lambda: balancer.log.count("server-down\n") == 1)
    balancer.wait_idle()


def test_from_down_to_drain_nothing_is_closed(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    with open_session(balancer, b"a") as client:
        balancer.ctl("server 0 health down", "on_down close", "server 0 health drain", "server 0 health unknown")
        client.sendall(b"still there")
        assert client.recv(20) == b"still there"
        assert balancer.ask() == b"a"


@pytest.mark.parametrize("word", ["down", "drain"])
def test_a_client_that_is_being_connected_goes_to_another(gpen: Start, servers: Serve, word: str) -> None:
    b = servers(naming("b"))
    with SilentServer() as silent:
        balancer = gpen("-t", "15", servers=[silent.address, b])
        start = time.monotonic()
        with balancer.connect() as client:
            client.sendall(b"kept")
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
            balancer.ctl(f"server 0 health {word}")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"bkept"
        assert time.monotonic() - start < 10
        assert balancer.server(0)["failures"] == 0, "nobody waited for its answer"
    balancer.wait_idle()


# --- beside the blacklist ---------------------------------------------------------------------------------------------


def test_up_ends_a_blacklist_once(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen(servers=[address])
        assert balancer.ask() == b""
        assert balancer.server(0)["health"] == "down"
        balancer.ctl("server 0 health up because Synced")
        assert balancer.server(0)["health"] == "up"
        assert balancer.ask() == b""
        balancer.ctl("server 0 health up because Synced")
        assert balancer.server(0)["health"] == "down", "a client knew better than a renewal"
    assert [event for event, _ in events(balancer)] == ["down", "up", "down"]


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_settings_are_written_verdicts_are_not(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen("-O", "health_ttl 7", "-O", "on_down close", servers=[servers(naming("a"))])
    balancer.ctl("server 0 health down", f"write {tmp_path}/saved")
    with Gpen(tmp_path, "-F", f"{tmp_path}/saved", LOCAL, name="again") as again:
        assert again.ctl("health_ttl", "on_down") == "7\nclose\n"
        assert verdict(again) == (None, None, None)


def test_a_reload_leaves_verdicts_alone(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    balancer.ctl("server 0 health down because Joined", f"write {tmp_path}/saved", f"include {tmp_path}/saved")
    assert verdict(balancer) == ("down", "command", "Joined")


def test_deleted_and_moved(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    balancer.ctl("server 0 health down", f"server 0 port {servers(naming('b')).port}")
    assert verdict(balancer) == (None, None, None)
    assert balancer.ask() == b"b"
    balancer.ctl("server 0 health down", "no server 0", f"server 0 address 127.0.0.1 port {servers(naming('c')).port}")
    assert balancer.ask() == b"c"
