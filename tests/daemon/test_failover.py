"""Servers that can't be reached: the next one serves, the verdict stands in `events`, one trial ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, SilentServer, echo, naming, needs_root, refusing, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def last_event(balancer: Gpen, number: int) -> tuple[str, str]:
    """What happened to a server last, and why."""
    event = [event for event in balancer.json("events") if event["server"] == number][-1]
    return event["event"], event["cause"]


def test_refused(gpen: Start, servers: Serve) -> None:
    with refusing() as address:
        balancer = gpen("-l", "gpen.log", servers=[address, servers(naming("b"))])
        assert balancer.ask() == b"b"
        row = balancer.server(0)
    assert (row["health"], row["reason"], row["failures"]) == ("down", "connection refused", 1)
    assert 20 < row["blacklisted"] <= 30
    assert last_event(balancer, 0) == ("down", "connection refused; blacklisted for 30 s")
    wait_until(lambda: " server 1 " in balancer.log)
    assert "refused" in balancer.stderr


def test_no_answer(gpen: Start, servers: Serve) -> None:
    with SilentServer() as silent:
        balancer = gpen("-t", "1", servers=[silent.address, servers(naming("b"))])
        start = time.monotonic()
        assert balancer.ask(b"sent meanwhile") == b"bsent meanwhile"
        assert 0.9 < time.monotonic() - start < 10
    assert last_event(balancer, 0) == ("down", "connection timed out; blacklisted for 30 s")


@needs_root
def test_unreachable(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """In a network of its own, without a route to anywhere; unix sockets still lead in and out."""
    b = servers(naming("b"), at=str(tmp_path / "b"))
    balancer = gpen(servers=["192.0.2.1:80", b], listen=str(tmp_path / "front"),
                    wrapper=("unshare", "--net"))
    assert balancer.ask() == b"b"
    assert last_event(balancer, 0) == ("down", "network is unreachable; blacklisted for 30 s")


def test_no_such_unix_socket(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(servers=[str(tmp_path / "none"), servers(naming("b"))])
    assert balancer.ask() == b"b"
    assert last_event(balancer, 0)[1].startswith("no such file or directory")


def test_nobody_is_left(gpen: Start) -> None:
    with refusing() as a, refusing() as b:
        balancer = gpen("-l", "gpen.log", servers=[a, b])
        assert balancer.ask() == b""
        assert balancer.ask() == b""
    wait_until(lambda: balancer.log.count("\n") == 2)
    assert [line.split()[-1] for line in balancer.log.splitlines()] == ["connect-failed", "no-server"]


def test_one_trial_decides(gpen: Start, servers: Serve) -> None:
    """While one client tries the server whose blacklist is over, the others are served at once."""
    b = servers(naming("b"))
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "3", "-b", "0.5", servers=[silent.address, b])
        assert balancer.ask() == b"b"
        for _ in range(2):
            wait_until(lambda: balancer.server(0)["health"] == "trial")
            assert sorted(seconds_to_be_served(balancer, 6))[-2] < 2.5
            assert balancer.server(0)["health"] == "down"
        assert balancer.server(0)["failures"] == 3
    with Server(naming("a"), port=silent.port):
        wait_until(lambda: balancer.server(0)["health"] == "trial")
        wait_until(lambda: balancer.ask() == b"a")
        assert balancer.server(0)["health"] == "up"
    assert last_event(balancer, 0) == ("up", "a connection succeeded")


def seconds_to_be_served(balancer: Gpen, clients: int) -> list[float]:
    """How long each of some clients, all at once, waits for an answer of server b."""
    address = balancer.address
    assert address

    def visit(_: int) -> float:
        start = time.monotonic()
        assert balancer.ask() == b"b"
        return time.monotonic() - start

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(visit, range(clients)))


def test_a_returning_client_does_not_wait_for_its_server(gpen: Start, servers: Serve) -> None:
    with Server(naming("a")) as a:
        balancer = gpen("-t", "10", servers=[a, servers(naming("b"))])
        assert balancer.ask() == b"a"
    assert balancer.ask() == b"b"
    start = time.monotonic()
    assert balancer.ask() == b"b"
    assert time.monotonic() - start < 5
    assert "blacklisted" in balancer.ctl("explain 127.0.0.1")


def test_emergency(gpen: Start, servers: Serve) -> None:
    emergency = servers(naming("e"))
    with refusing() as address:
        balancer = gpen("-b", "1", "-e", emergency.address, servers=[address])
        assert balancer.ask() == b"e"
        assert balancer.json("servers")[-1]["name"] == "emergency"
        assert balancer.json("servers")[-1]["total"] == 1
    with Server(naming("a"), port=int(address.split(":")[1])):
        wait_until(lambda: balancer.ask() == b"a")


def test_emergency_when_all_are_full(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-e", servers(naming("e")).address, servers=[f"{servers(naming('a')).address}:1"])
    with balancer.connect() as first, balancer.connect() as second:
        assert (first.recv(1), second.recv(1)) == (b"a", b"e")


def test_stubborn(gpen: Start, servers: Serve) -> None:
    b = servers(naming("b"))
    with refusing() as address:
        balancer = gpen("-s", servers=[address, b])
        assert balancer.ask() == b""
    assert b.served == 0
    assert balancer.ctl("no stubborn") == ""
    assert balancer.ask() == b"b"


@pytest.mark.parametrize("abuse", [True, False])
def test_clients_that_are_denied(gpen: Start, servers: Serve, abuse: bool) -> None:
    options = ["-B", servers(naming("abuse")).address] if abuse else []
    balancer = gpen("-l", "gpen.log", "-O", "acl 1 permit 127.0.0.2", "-O", "client_acl 1", *options,
                    servers=[servers(naming("a"))])
    assert balancer.ask(source="127.0.0.2") == b"a"
    assert balancer.ask(source="127.0.0.3") == (b"abuse" if abuse else b"")
    wait_until(lambda: balancer.log.count("\n") == 2)
    assert (" denied\n" in balancer.log) is not abuse
    assert ("abuse" in balancer.ctl("explain 127.0.0.3").splitlines()[0]) is abuse


def test_the_list_of_a_server(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "acl 2 deny 127.0.0.3", "-O", "server 0 acl 2",
                    servers=[servers(naming("a")), servers(naming("b"))])
    assert {balancer.ask(source="127.0.0.3") for _ in range(4)} == {b"b"}
    assert {balancer.ask(source="127.0.0.2") for _ in range(4)} == {b"a", b"b"}


def test_blacklist_by_command(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", servers=[servers(naming("a")), servers(echo)])
    balancer.ctl("server 0 blacklist 60")
    assert {balancer.ask() for _ in range(4)} == {b""}
    assert last_event(balancer, 0) == ("down", "blacklisted by a command for 60 s")
    balancer.ctl("server 0 blacklist 0")
    assert b"a" in {balancer.ask() for _ in range(2)}


@pytest.mark.parametrize("what", ["address", "port"])
def test_a_server_that_moves_leaves_its_verdict_behind(gpen: Start, servers: Serve, what: str) -> None:
    with refusing() as old:
        port = int(old.rpartition(":")[2]) if what == "address" else 0
        new = servers(naming("new"), at="127.0.0.7" if what == "address" else "127.0.0.1", port=port)
        balancer = gpen(servers=[old])
        assert balancer.ask() == b""
        assert balancer.server(0)["health"] == "down"
        balancer.ctl(f"server 0 {what} {'127.0.0.7' if what == 'address' else new.port}")
        assert (balancer.server(0)["health"], balancer.server(0)["reason"]) == ("up", "")
        assert balancer.ask() == b"new"
    assert last_event(balancer, 0) == ("moved", f"from {old} to {new.address}")
