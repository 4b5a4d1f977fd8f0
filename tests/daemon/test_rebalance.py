"""`rebalance [PERCENT] [over SECONDS]`, and session_max_age: pools spread again, and nobody is cut off."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

import pytest

from gpen.daemon.ages import JITTER, age_limit
from tests.daemon.crew import workers
from tests.gpenctl.daemon import GPENCTL
from tests.harness import Gpen, Server, connect, echo, hold, naming, read_all, wait_until
from tests.listeners import own, place, server_of
from tests.pools import Pool

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
QUIET = ("-O", "quiet 0.03", "-l", "gpen.log")
LEASTCONN = ("-r", "-O", "leastconn", *QUIET)


@pytest.fixture
def three(servers: Serve) -> list[Server]:
    return [servers(naming(name)) for name in "ABC"]


def endings(balancer: Gpen) -> Counter[str]:
    return Counter(line.split()[-1] for line in balancer.log.splitlines())


def without_the_third(balancer: Gpen) -> None:
    balancer.ctl("server 2 state maint")


def is_spread(pool: Pool) -> bool:
    """A tenth more than 20 is tolerated."""
    spread = pool.spread
    return max(spread.values()) <= 22 and sum(spread.values()) == 60


@pytest.mark.parametrize("crew", [(), workers(2)])
def test_pools_spread_again(gpen: Start, three: list[Server], crew: tuple[str, ...]) -> None:
    balancer = gpen(*LEASTCONN, *crew, servers=three)
    without_the_third(balancer)
    with Pool(balancer.address, 60, pause=0.3) as pool:
        assert pool.spread == {"A": 30, "B": 30}
        balancer.ctl("server 2 state ready")
        began = time.monotonic()
        *told, last = balancer.ctl("rebalance over 2").splitlines()
        assert 1.5 <= time.monotonic() - began < 5
        assert told[0] == "rebalancing: 20 sessions left, 0 ended, 2 s" and len(told) >= 2
        assert last == ("rebalanced: 20 sessions ended when they were quiet; server 0 has 20, 1 has 20, 2 has 20")
        wait_until(lambda: pool.spread == {"A": 20, "B": 20, "C": 20})
        assert pool.broken + pool.closed == 20 and pool.broken <= 1, "what both say at one moment may cross"
        assert balancer.ctl("rebalance").splitlines() == [
            "rebalanced: 0 sessions ended when they were quiet; server 0 has 20, 1 has 20, 2 has 20"]
        assert endings(balancer) == {"rebalanced": 20}
        assert "ended rebalanced 20\n" in balancer.ctl("info")


@pytest.mark.parametrize("options", [QUIET, ("-r", *QUIET), ("-r", "-O", "random", *QUIET)])
def test_by_other_rules(gpen: Start, three: list[Server], options: tuple[str, ...]) -> None:
    """Round robin gives some of those that ended to the same servers again, and clients are remembered by default."""
    balancer = gpen(*options, servers=three)
    without_the_third(balancer)
    with Pool(balancer.address, 60, sources=12) as pool:
        balancer.ctl("server 2 state ready")
        wait_until(lambda: balancer.ctl("rebalance over 0.8") and is_spread(pool))


def test_a_single_client_that_is_remembered(gpen: Start, three: list[Server]) -> None:
    """One program with a large pool: it is not sent back to where it was."""
    balancer = gpen("-O", "leastconn", *QUIET, servers=three)
    with Pool(balancer.address, 60) as pool:
        assert pool.spread == {"A": 60}
        last = balancer.ctl("rebalance over 1").splitlines()[-1]
        assert 40 <= int(last.split()[1]) < 50, "a few more where a client comes back before another one ends"
        wait_until(lambda: is_spread(pool))


def test_weights_and_limits(gpen: Start, three: list[Server]) -> None:
    balancer = gpen(*LEASTCONN, servers=three)
    without_the_third(balancer)
    balancer.ctl("server 0 weight 4", "server 1 weight 1", "server 2 weight 5")
    with Pool(balancer.address, 50) as pool:
        assert pool.spread == {"A": 40, "B": 10}
        balancer.ctl("server 2 state ready", "server 2 max 10")
        assert balancer.ctl("rebalance over 0.5").splitlines()[-1].startswith("rebalanced: 10 sessions ended")
        wait_until(lambda: pool.spread == {"A": 32, "B": 8, "C": 10})


def test_what_is_tolerated(gpen: Start, three: list[Server]) -> None:
    balancer = gpen(*LEASTCONN, servers=three[:2])
    balancer.ctl("server 1 state drain")
    with Pool(balancer.address, 40) as pool:
        balancer.ctl("server 1 state ready")
        assert balancer.ctl("rebalance 100").splitlines()[-1].startswith("rebalanced: 0 sessions ended")
        assert balancer.ctl("rebalance 99% over 0").splitlines()[-1].startswith("rebalanced: 20 sessions ended")
        wait_until(lambda: pool.spread == {"A": 20, "B": 20})


def test_those_that_do_not_come_back_are_no_reason_to_end_more(gpen: Start, three: list[Server]) -> None:
    balancer = gpen(*LEASTCONN, servers=three)
    without_the_third(balancer)
    with Pool(balancer.address, 60, returns=False) as pool:
        balancer.ctl("server 2 state ready")
        assert balancer.ctl("rebalance over 0.5").endswith("server 0 has 20, 1 has 20, 2 has 0\n")
        assert pool.spread == {"A": 20, "B": 20}


def test_the_preferred_server_gets_its_clients_back(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-r", "-O", "prio", *QUIET, servers=three[:2])
    balancer.ctl("server 1 prio 1", "server 0 state drain")
    with Pool(balancer.address, 10) as pool:
        balancer.ctl("server 0 state ready", "rebalance over 0.3")
        wait_until(lambda: pool.spread == {"A": 10})


def test_nobody_is_cut_off(gpen: Start, servers: Serve, three: list[Server]) -> None:
    """A server that has been asked and does not answer: its sessions stay, and that is told."""
    mute = servers(hold)
    balancer = gpen(*LEASTCONN, servers=[mute, three[0]])
    balancer.ctl("server 1 state drain")
    socks = [balancer.connect() for _ in range(4)]
    for sock in socks:
        sock.sendall(b"?")
    wait_until(lambda: [row["up"] for row in balancer.json("sessions")] == [1] * 4)
    balancer.ctl("server 1 state ready")
    last = balancer.ctl("rebalance over 0").splitlines()[-1]
    assert last == ("error: rebalance: after 0 s not all that servers have beyond their share was quiet or found its "
                    "way to another: 0 sessions ended when they were quiet; server 0 has 4, 1 has 0")
    assert len(balancer.json("sessions")) == 4
    for sock in socks:
        sock.close()


def test_one_listener_of_two(gpen: Start, three: list[Server]) -> None:
    balancer = gpen(*LEASTCONN, *own("other", "no leastconn", "hash"), *own("third"), servers=three[:2])
    balancer.ctl("server 1 state drain")
    with Pool(balancer.address, 10) as pool, Pool(place(balancer, "third"), 10) as third:
        balancer.ctl("server 1 state ready")
        assert balancer.ctl("listener other rebalance") == (
            "error: listener other: rebalance: by hash each client has a server of its own, and would "
            "come back to the one that it has\n")
        assert balancer.ctl("listener third rebalance over 0").splitlines()[-1] == (
            "rebalanced: listener third: 5 sessions ended when they were quiet; server 0 has 5, 1 has 5")
        assert (pool.closed, third.closed) == (0, 5)
        assert server_of(balancer, "third", 1)["sessions"] == 5
        told = balancer.ctl("rebalance over 0").splitlines()
        assert any("5 sessions ended" in line for line in told) and not any("other" in line for line in told)


def test_each_route_by_itself(gpen: Start, servers: Serve) -> None:
    """And what a route remembers of a client is forgotten as well."""
    balancer = gpen("-O", "leastconn", *QUIET, "-O", "route sni a.example servers 0", "-O", "route default servers 1-2",
                    servers=[servers(echo) for _ in range(3)])
    balancer.ctl("server 2 state maint")
    with ExitStack() as stack:
        def visit() -> socket.socket:
            sock = stack.enter_context(balancer.connect())
            sock.sendall(b"no TLS")
            assert sock.recv(100) == b"no TLS"
            return sock

        socks = [visit() for _ in range(10)]
        balancer.ctl("server 2 state ready")
        last = balancer.ctl("rebalance over 0").splitlines()[-1]
        assert last.startswith("rebalanced: route default: 5 sessions ended when they were quiet; server 1 has 5")
        for sock in select.select(socks, [], [], 5)[0]:
            assert sock.recv(1) == b""
            visit()
        assert [balancer.server(number)["sessions"] for number in range(3)] == [0, 5, 5]


def test_one_at_a_time_and_only_as_long_as_somebody_listens(gpen: Start, three: list[Server]) -> None:
    balancer = gpen(*LEASTCONN, servers=three[:2])
    balancer.ctl("server 1 state drain")
    with Pool(balancer.address, 40) as pool:
        balancer.ctl("server 1 state ready")
        with connect(balancer.control) as sock:
            sock.sendall(b"rebalance over 200\n")
            assert sock.recv(100) == b"rebalancing: 20 sessions left, 0 ended, 200 s\n"
            assert balancer.ctl("rebalance") == "error: rebalance: it is under way already\n"
        wait_until(lambda: not balancer.ctl("rebalance over 0").startswith("error"))
        wait_until(lambda: pool.spread == {"A": 20, "B": 20})


def test_gpenctl_follows_it(gpen: Start, three: list[Server]) -> None:
    balancer = gpen(*LEASTCONN, servers=three[:2])
    done = subprocess.run([*GPENCTL, balancer.control, "rebalance", "20", "over", "1"], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout) == (
        0, "rebalanced: 0 sessions ended when they were quiet; server 0 has 0, 1 has 0\n")
    assert balancer.ctl("rebalance up") == "error: rebalance: 'up' is not a whole number from 0 to 2147483647\n"
    assert balancer.ctl("rebalance 5 in 3").startswith("error: rebalance: 'in 3' is not 'over SECONDS': expected")


# --- session_max_age --------------------------------------------------------------------------------------------------


def test_ages_lie_apart() -> None:
    limits = sorted(age_limit(number, 1000) for number in range(100))
    assert limits[0] >= 1000 * (1 - JITTER) and limits[-1] <= 1000
    assert max(after - before for before, after in pairwise(limits)) < 3


@pytest.mark.parametrize("crew", [(), workers(2)])
def test_a_pool_is_renewed(gpen: Start, three: list[Server], crew: tuple[str, ...]) -> None:
    balancer = gpen(*LEASTCONN, "-O", "session_max_age 1", *crew, servers=three)
    without_the_third(balancer)
    with Pool(balancer.address, 60, pause=0.2) as pool:
        balancer.ctl("server 2 state ready")
        wait_until(lambda: pool.closed >= 60)
        wait_until(lambda: is_spread(pool))
        assert pool.broken <= 2, "what both say at one moment may cross"
        balancer.ctl("session_max_age 0")
        wait_until(lambda: endings(balancer)["max-age"] == pool.closed)
        assert all(row["age"] < 3 for row in balancer.json("sessions"))


def test_one_that_is_never_quiet_goes_on(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*QUIET, "-O", "session_max_age 0.5", servers=[servers(hold)])
    with balancer.connect() as asking, balancer.connect() as idle:
        asking.sendall(b"?")
        assert read_all(idle) == b""
        wait_until(lambda: endings(balancer) == {"max-age": 1})
        wait_until(lambda: balancer.json("sessions")[0]["age"] > 2)
        assert len(balancer.json("sessions")) == 1
