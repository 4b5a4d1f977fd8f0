"""Names of servers, with an /etc/hosts of the test's own (in a mount namespace)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, SilentServer, knowing, naming, needs_root, run_gpen, seeing, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n127.0.0.1 web.test\n::1 web.test\n")
    return path


def test_all_addresses_of_a_name_are_tried(gpen: Start, servers: Serve, hosts: Path) -> None:
    server = servers(naming("six"), at="::1")
    balancer = gpen(servers=[f"web.test:{server.port}"], wrapper=seeing({"/etc/hosts": hosts}))
    assert balancer.server(0)["address"] == "127.0.0.1"
    assert balancer.ask() == b"six"
    assert (balancer.server(0)["failures"], balancer.server(0)["address"]) == (0, "::1")  # tried first from now on


def test_a_silent_address_leaves_time_for_the_next(gpen: Start, servers: Serve, hosts: Path) -> None:
    """All addresses of a name share the timeout; the server is not blamed, and the one that answers is preferred."""

    def seconds() -> float:
        start = time.monotonic()
        assert balancer.ask() == b"six"
        return time.monotonic() - start

    with SilentServer() as silent:
        servers(naming("six"), at="::1", port=silent.port)
        balancer = gpen("-t", "3", servers=[f"web.test:{silent.port}"], wrapper=seeing({"/etc/hosts": hosts}))
        assert 1.4 < seconds() < 3
        assert (balancer.server(0)["failures"], balancer.server(0)["address"]) == (0, "::1")
        assert seconds() < 1.4


def test_a_name_is_looked_up_again_when_a_connect_fails(gpen: Start, servers: Serve, hosts: Path) -> None:
    server = servers(naming("moved"), at="127.0.0.7")
    balancer = gpen("-b", "0", servers=[f"web.test:{server.port}"], wrapper=seeing({"/etc/hosts": hosts}))
    hosts.write_text("127.0.0.7 web.test\n")
    assert balancer.ask() == b""
    wait_until(lambda: balancer.server(0)["address"] == "127.0.0.7")
    assert balancer.ask() == b"moved"
    assert "'web.test' is 127.0.0.7 now" in balancer.stderr


def test_a_name_that_is_gone_keeps_its_address(gpen: Start, servers: Serve, hosts: Path) -> None:
    with Server(naming("a")) as server:
        balancer = gpen("-b", "0", servers=[f"web.test:{server.port}"], wrapper=seeing({"/etc/hosts": hosts}))
    hosts.write_text("127.0.0.1 localhost\n")
    assert balancer.ask() == b""
    wait_until(lambda: "its last known address stays" in balancer.stderr)
    with Server(naming("back"), port=server.port):
        assert balancer.ask() == b"back"


def test_a_name_that_is_unknown(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    done = run_gpen("-f", "127.0.0.1:0", "none.invalid:80", wrapper=knowing(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none.invalid" in done.stderr
    balancer = gpen(servers=[servers(naming("a"))], wrapper=knowing(tmp_path))
    reply = balancer.ctl("server 1 address none.invalid port 80")
    assert reply.startswith("error: ")
    assert "none.invalid" in reply
    assert [row["number"] for row in balancer.json("servers")] == [0]


def test_a_service_by_name(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=["127.0.0.1:smtp"])
    assert balancer.server(0)["port"] == 25
    assert balancer.ctl("server 1 address 127.0.0.1 port nosuch").startswith("error: ")


@needs_root
def test_a_name_service_that_does_not_answer(gpen: Start, servers: Serve, nowhere: dict[str, Path]) -> None:
    """gpen starts all the same; the servers whose addresses are known serve, and the name is looked up again."""
    known, slow = servers(naming("known")), servers(naming("slow"), at="127.0.0.7")
    balancer = gpen("-r", "-t", "1", servers=[f"slow.test:{slow.port}", known], wrapper=seeing(nowhere))
    assert "server 0: can't resolve the name 'slow.test': no answer within 1 s" in balancer.stderr
    assert [balancer.ask() for _ in range(2)] == [b"known"] * 2
    assert balancer.server(0)["failures"] == 0
    nowhere["/etc/hosts"].write_text("127.0.0.7 slow.test\n")
    wait_until(lambda: balancer.server(0)["address"] == "127.0.0.7")
    assert sorted(balancer.ask() for _ in range(2)) == [b"known", b"slow"]
