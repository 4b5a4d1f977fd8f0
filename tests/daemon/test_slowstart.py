"""Slow starts through the running gpen: who comes back, what it gets meanwhile, and where that is told."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests import datagrams
from tests.daemon.crew import workers
from tests.harness import PATIENCE, Gpen, Server, connect, free_port, naming, wait_until
from tests.listeners import own, place, server_of
from tests.metrics import fetch, samples
from tests.replacing import replacing

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
LEASTCONN = ("-r", "-O", "leastconn", "-O", "slowstart 600")


@pytest.fixture
def pool() -> Iterator[Callable[..., Counter[bytes]]]:
    """Open so many connections, which stay: pool(address, 60); who has served them."""
    with ExitStack() as stack:

        def more(address: tuple[str, int] | str, count: int) -> Counter[bytes]:
            socks: list[socket.socket] = [stack.enter_context(connect(address)) for _ in range(count)]
            return Counter(sock.recv(1) for sock in socks)

        yield more


@pytest.fixture
def three(servers: Serve) -> list[Server]:
    return [servers(naming(name)) for name in "ABC"]


@pytest.mark.parametrize("crew", [(), workers(2)])
def test_a_pool_does_not_fall_on_who_is_back(gpen: Start, three: list[Server], pool: Callable[..., Counter[bytes]],
                                             crew: tuple[str, ...]) -> None:
    """Without, it gets 53 of the next 60: see the other listener, which has none."""
    balancer = gpen(*LEASTCONN, *own("fast", "slowstart 0"), *crew, "-O", "metrics 127.0.0.1:0", servers=three)
    balancer.ctl("server 2 state drain")
    assert pool(balancer.address, 100) == {b"A": 50, b"B": 50}
    balancer.ctl("server 2 state ready")
    assert pool(balancer.address, 60)[b"C"] <= 2
    assert balancer.server(2)["slow_start"] in (1, 2)
    balancer.ctl("server 2 returned 300")
    assert pool(balancer.address, 60)[b"C"] == pytest.approx(60 * 0.5 / 2.5, abs=2)
    assert balancer.server(2)["slow_start"] == 50 and balancer.server(0)["slow_start"] is None
    door = int(balancer.ctl("metrics").rpartition(":")[2])
    assert samples(fetch(door))['gpen_server_slow_start_ratio{server="2"}'] == 0.5
    assert "server 2 slowstart: its share grows for 600 s" in balancer.ctl("events")
    while "would get server 2" in (told := balancer.ctl("explain 192.0.2.1")):
        pool(balancer.address, 1)
    assert f"not server 2 {three[2].address}: available, but it came back 300 s ago, and has 50 % of its share" in told
    assert server_of(balancer, "fast", 2)["slow_start"] is None
    assert pool(place(balancer, "fast"), 60)[b"C"] >= 50


def test_at_the_start_of_gpen_all_are_alike(gpen: Start, three: list[Server], pool: Callable[..., Counter[bytes]],
                                            ) -> None:
    balancer = gpen(*LEASTCONN, servers=three)
    assert pool(balancer.address, 30) == {b"A": 10, b"B": 10, b"C": 10}
    assert "slowstart" not in balancer.ctl("events")


def test_one_that_a_check_has_found_again(gpen: Start, servers: Serve, pool: Callable[..., Counter[bytes]]) -> None:
    port = free_port()
    balancer = gpen("-r", "-O", "slowstart 600", "-O", "check connect", "-O", "check_interval 0.1", "-O",
                    "check_rise 1", "-O", "check_fall 1", servers=[servers(naming("A")), f"127.0.0.1:{port}"])
    wait_until(lambda: balancer.server(1)["health"] == "down")
    assert balancer.server(1)["slow_start"] is None, "it gets nobody"
    servers(naming("B"), port=port)
    wait_until(lambda: balancer.server(1)["health"] == "up")
    assert pool(balancer.address, 40)[b"B"] <= 2
    balancer.ctl("server 0 state drain")
    assert pool(balancer.address, 10) == {b"B": 10}, "it is the only one"


def test_a_new_server(gpen: Start, three: list[Server], pool: Callable[..., Counter[bytes]]) -> None:
    balancer = gpen(*LEASTCONN, servers=three[:2])
    pool(balancer.address, 20)
    balancer.ctl(f"server 2 address {three[2].address}")
    assert pool(balancer.address, 20)[b"C"] <= 1
    balancer.ctl("slowstart 0")
    assert pool(balancer.address, 10) == {b"C": 10}, "which can be said at any time"


def test_flows_of_udp(gpen: Start) -> None:
    with ExitStack() as stack:
        three = [stack.enter_context(datagrams.DatagramServer(datagrams.naming(name))) for name in "ABC"]
        balancer = gpen("-U", "-r", "-O", "slowstart 600", "-O", "udp_replies 1", servers=[it.address for it in three])
        balancer.ctl("server 2 state maint", "server 2 state ready")
        counts = Counter(datagrams.ask(balancer) for _ in range(20))
        assert counts[b"C"] <= 1 and abs(counts[b"A"] - counts[b"B"]) <= 1


def test_a_gpen_that_takes_over_goes_on(gpen: Start, three: list[Server], pool: Callable[..., Counter[bytes]]) -> None:
    balancer = gpen(*LEASTCONN, servers=three)
    balancer.ctl("server 2 state maint", "server 2 state ready", "server 2 returned 150")
    assert balancer.ctl("state").startswith("server 2 returned 150.")
    with replacing(balancer) as new:
        assert new.server(2)["slow_start"] == 25
        assert pool(new.address, 60)[b"C"] == pytest.approx(60 * 0.25 / 2.25, abs=2)
        assert balancer.process.wait(PATIENCE) == 0


def test_it_has_no_effect_on_hashes(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-O", "stateless", "-O", "slowstart 60", servers=three)
    assert "slowstart 60 has no effect: with hash and stateless a client has a server of its own" in balancer.stderr
    before = [balancer.ask(source=f"127.0.3.{i}") for i in range(20)]
    balancer.ctl("server 2 state maint", "server 2 state ready")
    assert [balancer.ask(source=f"127.0.3.{i}") for i in range(20)] == before
    assert balancer.server(2)["slow_start"] is None
