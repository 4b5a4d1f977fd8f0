"""Idlers: spare connections that notice a server that is gone."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.harness import Gpen, Server, SilentServer, connect, echo, hold, naming, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def test_idlers(gpen: Callable[..., Gpen]) -> None:
    with Server(hold) as server:
        balancer = gpen("-r", servers=[server])
        descriptors = balancer.fds()
        assert balancer.ctl("idlers 3") == "Idlers: 0/3\n"
        wait_until(lambda: balancer.ctl("idlers") == "Idlers: 3/3\n")
        assert balancer.server(0)["sessions"] == 3
        assert balancer.ctl("idlers 1").endswith("/1\n")
        wait_until(lambda: balancer.ctl("idlers") == "Idlers: 1/1\n")
        assert balancer.server(0)["sessions"] == 1
    wait_until(lambda: balancer.server(0)["health"] == "down", seconds=20)
    assert balancer.ctl("idlers 0").endswith("/0\n")
    wait_until(lambda: balancer.fds() == descriptors)
    assert balancer.server(0)["sessions"] == 0


def wait_for_idlers(balancer: Gpen, count: int) -> None:
    wait_until(lambda: balancer.ctl("idlers").startswith(f"Idlers: {count}/"), what=f"{count} idlers")


def places(balancer: Gpen) -> list[int]:
    return [row["sessions"] for row in balancer.json("servers")]


@pytest.mark.parametrize("change", [
    "server 0 state maint", "server 0 state drain", "server 0 health down", "server 0 blacklist 100",
    "server 0 address 0.0.0.0", "no server 0", "server 0 address {}",
])
def test_they_go_where_no_client_would(gpen: Start, servers: Serve, change: str) -> None:
    old = servers(hold)
    with SilentServer() as other:
        balancer = gpen("-r", "-t", "50", "-O", "idlers 3", servers=[old])
        wait_for_idlers(balancer, 3)
        balancer.ctl(change.format(other.address))
        wait_for_idlers(balancer, 0)
        wait_until(lambda: not old._open, what="the end of the connections")
    assert "Traceback" not in balancer.stderr


def test_they_go_while_they_connect(gpen: Start, servers: Serve) -> None:
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "50", servers=[silent.address])
        descriptors = balancer.fds()
        balancer.ctl("idlers 3")
        wait_until(lambda: places(balancer) == [3])
        host, _, port = servers(hold).address.rpartition(":")
        balancer.ctl(f"server 0 address {host} port {port}")
        wait_for_idlers(balancer, 3)
        assert (places(balancer), balancer.server(0)["failures"]) == ([3], 0)
        balancer.ctl("idlers 0")
        wait_until(lambda: balancer.fds() == descriptors)


def test_they_leave_the_emergency_server(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-e", servers(hold).address, "-O", "idlers 2", servers=[servers(hold)])
    wait_until(lambda: places(balancer) == [2, 0])
    balancer.ctl("server 0 health down")
    wait_until(lambda: places(balancer) == [0, 2])
    balancer.ctl("server 0 health up")
    wait_until(lambda: places(balancer) == [2, 0])


def test_they_leave_a_special_server_that_moves(gpen: Start, servers: Serve) -> None:
    old, new = servers(hold), servers(hold)
    balancer = gpen("-r", "-e", old.address, "-O", "idlers 2", servers=["127.0.0.1:1"])
    balancer.ctl("server 0 state maint")
    wait_for_idlers(balancer, 2)
    balancer.ctl(f"emergency {new.address}")
    wait_until(lambda: not old._open and len(new._open) == 2)


@pytest.mark.parametrize("options", [(), ("-O", "prio"), ("-O", "leastconn"), ("-s",), ("-O", "hold 20")])
def test_a_client_takes_their_place(gpen: Start, servers: Serve, options: tuple[str, ...]) -> None:
    server = servers(naming("a"))
    balancer = gpen("-r", "-O", "idlers 2", *options, servers=[f"{server.address}:2"])
    wait_for_idlers(balancer, 2)
    with ExitStack() as stack:
        for _ in range(2):
            assert stack.enter_context(balancer.connect()).recv(1) == b"a"
            assert places(balancer) == [2]
        wait_until(lambda: len(server._open) == 2, what="no more connections than max")
        if "hold 20" not in options:
            assert balancer.ask() == b"", "clients count"
    wait_for_idlers(balancer, 2)


def test_they_keep_to_the_limits(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "idlers 5", servers=[f"{servers(hold).address}:1", f"{servers(hold).address}:2"])
    wait_for_idlers(balancer, 3)
    assert places(balancer) == [1, 2]
    balancer.ctl("server 1 max 1")
    wait_until(lambda: places(balancer) == [1, 1])
    balancer.ctl("server 1 max 0")
    wait_until(lambda: places(balancer) == [1, 4])


@pytest.mark.parametrize("idlers", [5, 30])
def test_descriptors_are_for_clients(gpen: Start, servers: Serve, idlers: int) -> None:
    """As many clients as there are descriptors for are served, as if there were no idlers."""
    balancer = gpen("-r", servers=[servers(naming("a"))])
    address, before = balancer.address, balancer.fds()
    balancer.ctl(f"idlers {idlers}")
    wait_for_idlers(balancer, idlers)
    limit(balancer, before + 20)
    with ExitStack() as stack:
        for _ in range(9):
            assert stack.enter_context(connect(address)).recv(1) == b"a"
        assert "can't accept" not in balancer.stderr
        limit(balancer, 1000)
    assert balancer.server(0)["failures"] == 0


def limit(balancer: Gpen, soft: int) -> None:
    hard = resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_one_that_is_the_trial(gpen: Start, servers: Serve) -> None:
    """A server that is back is found by an idler."""
    with Server(echo) as server:
        balancer = gpen("-r", "-b", "1", "-O", "idlers 1", servers=[server])
        wait_for_idlers(balancer, 1)
        port = server.port
    wait_until(lambda: balancer.server(0)["health"] != "up")
    with Server(echo, port=port):
        wait_until(lambda: balancer.server(0)["health"] == "up" and balancer.ctl("idlers").startswith("Idlers: 1/"))


def test_a_client_need_not_wait_for_the_trial_of_an_idler(gpen: Start) -> None:
    """The idler's connect hangs; the client has the next one, and finds that the server is not back."""
    with SilentServer() as silent:
        balancer = gpen("-r", "-t", "50", "-b", "1", servers=[silent.address])
        balancer.ctl("server 0 blacklist 0.1", "idlers 1")
        wait_until(lambda: places(balancer) == [1])
        assert balancer.server(0)["health"] == "trial"
        with balancer.connect():
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
            assert places(balancer) == [1]
