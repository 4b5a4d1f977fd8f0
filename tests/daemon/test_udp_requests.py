"""udp_requests: a flow takes so many datagrams, and the next one begins another flow, at another server."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests import datagrams
from tests.datagrams import DatagramServer, echo, naming
from tests.harness import Gpen, wait_until
from tests.listeners import own, place

Start = Callable[..., Gpen]
ONE_EACH = ("-U", "-l", "gpen.log", "-O", "udp_requests 1")


@pytest.fixture
def three() -> Iterator[list[DatagramServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(DatagramServer()) for _ in range(3)]


def addresses(servers: list[DatagramServer]) -> list[str]:
    return [server.address for server in servers]


def heard(servers: list[DatagramServer]) -> list[int]:
    return [len(server.received) for server in servers]


def test_one_client_is_spread_over_all_servers(gpen: Start, three: list[DatagramServer]) -> None:
    """Without -r, too: where each datagram is chosen a server for, none is remembered. Nothing piles up."""
    balancer = gpen(*ONE_EACH, servers=addresses(three))
    sent = [f"gauge:{number}|g".encode() for number in range(300)]
    with datagrams.client(balancer) as sock:
        before = balancer.fds()
        for data in sent:
            sock.send(data)
        wait_until(lambda: sum(heard(three)) == 300)
        assert heard(three) == [100] * 3
        assert sorted(data for server in three for data in server.received) == sorted(sent)
        assert balancer.fds() <= before + 64
        wait_until(lambda: balancer.fds() <= before, what="the sockets of flows that are over are closed")
    assert Counter(datagrams.endings(balancer, 300)) == {"requested": 300}
    assert balancer.json("sessions") == []
    assert [row["total"] for row in balancer.json("servers")] == [100] * 3


def test_a_flow_takes_so_many(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_requests 4", servers=addresses(three))
    with datagrams.client(balancer) as sock:
        for number in range(10):
            sock.send(b"%d" % number)
        wait_until(lambda: sum(heard(three)) == 10)
        assert [server.received for server in three] == [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"],
                                                         [b"8", b"9"]]
        assert datagrams.endings(balancer, 2) == ["requested"] * 2
        assert len(balancer.json("sessions")) == 1


def test_replies_that_are_due_are_waited_for(gpen: Start) -> None:
    """And each client of one port has its own."""
    with ExitStack() as stack:
        servers = [stack.enter_context(DatagramServer(naming(name))) for name in "abc"]
        balancer = gpen(*ONE_EACH, "-O", "udp_replies 1", servers=addresses(servers))
        with datagrams.client(balancer) as sock:
            for _ in range(30):
                sock.send(b"?")
            assert Counter(sock.recv(9) for _ in range(30)) == {b"a": 10, b"b": 10, b"c": 10}
        assert datagrams.endings(balancer, 30) == ["replied"] * 30
        assert balancer.json("sessions") == []


def test_a_server_that_does_not_answer_is_noticed(gpen: Start) -> None:
    with DatagramServer() as silent:
        balancer = gpen(*ONE_EACH, "-O", "udp_replies 1", "-O", "udp_timeout 0.3", servers=[silent.address])
        with datagrams.client(balancer) as sock:
            for _ in range(3):
                sock.send(b"?")
            assert datagrams.endings(balancer, 3) == ["unanswered"] * 3


def test_replies_that_nobody_counts_come_too(gpen: Start) -> None:
    """For a moment, though the flow is over."""
    with DatagramServer(echo) as server:
        balancer = gpen("-U", "-l", "gpen.log", "-O", "udp_requests 3", servers=[server.address])
        with datagrams.client(balancer) as sock:
            for number in range(9):
                sock.send(b"%d" % number)
                assert sock.recv(9) == b"%d" % number
        assert datagrams.endings(balancer, 3) == ["requested"] * 3


def test_what_a_server_refuses_goes_to_the_next(gpen: Start, three: list[DatagramServer]) -> None:
    """Nothing is lost, and who refuses gets no more."""
    with datagrams.refusing() as nobody:
        balancer = gpen(*ONE_EACH, servers=[nobody, *addresses(three[:2])])
        with datagrams.client(balancer) as sock:
            for _ in range(20):
                sock.send(b"x")
            wait_until(lambda: sum(heard(three)) == 20)
    assert heard(three)[:2] == [10, 10]
    row = balancer.server(0)
    assert row["failures"] == 1 and row["blacklisted"] > 0


def test_places_and_limits(gpen: Start, three: list[DatagramServer]) -> None:
    """A flow that is over has none."""
    balancer = gpen(*ONE_EACH, "-x", "5", "-O", "client_max 2", servers=[f"{server.address}:1" for server in three])
    with datagrams.client(balancer) as sock:
        for _ in range(60):
            sock.send(b"x")
        wait_until(lambda: sum(heard(three)) == 60)
    assert Counter(datagrams.endings(balancer, 60)) == {"requested": 60}


def test_it_changes_while_gpen_runs_and_is_of_a_listener(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", *own("w", "udp_requests 1"), servers=addresses(three))
    with datagrams.client(balancer) as sock, datagrams.client(place(balancer, "w")) as other:  # type: ignore[arg-type]
        for _ in range(6):
            sock.send(b"x")
        wait_until(lambda: heard(three) == [6, 0, 0])
        for _ in range(3):
            other.send(b"x")
        wait_until(lambda: heard(three) == [7, 1, 1])
        assert balancer.ctl("udp_requests 1") == "1\n"
        for _ in range(3):
            sock.send(b"x")
        wait_until(lambda: sum(heard(three)) == 12)
        assert min(heard(three)) == 2
        balancer.ctl("no udp_requests")
        before = heard(three)
        for _ in range(3):
            sock.send(b"x")
        wait_until(lambda: sorted(now - then for now, then in zip(heard(three), before, strict=True)) == [0, 0, 3])
    balancer.ctl("listener w listen 127.0.0.1:0", "no listener w")
    wait_until(lambda: len(balancer.json("listeners")) == 1)


def test_syslog(gpen: Start, three: list[DatagramServer]) -> None:
    """Lines of logger(1) over one socket."""
    program = shutil.which("logger")
    if program is None:
        pytest.skip("logger is not installed: it is in Debian's package bsdutils")
    balancer = gpen(*ONE_EACH, servers=addresses(three))
    host, port = balancer.address
    lines = "".join(f"line {number}\n" for number in range(90))
    subprocess.run([program, "-n", str(host), "-P", str(port), "-d", "--rfc3164", "-t", "gpen"], input=lines.encode(),
                   check=True, timeout=20)
    wait_until(lambda: sum(heard(three)) == 90)
    assert heard(three) == [30] * 3
    told = sorted(int(data.split()[-1]) for server in three for data in server.received)
    assert told == list(range(90))


def test_without_udp_it_has_no_effect(gpen: Start) -> None:
    balancer = gpen("-O", "udp_requests 1", servers=["127.0.0.1:9"])
    assert "udp_requests 1 has no effect: it is for UDP" in balancer.stderr


def test_memory_does_not_grow(gpen: Start, three: list[DatagramServer]) -> None:
    balancer = gpen("-U", "-O", "udp_requests 1", servers=addresses(three))
    with datagrams.client(balancer) as sock:
        def send(count: int) -> None:
            total = sum(heard(three)) + count
            for number in range(count):
                sock.send(b"x")
                if number % 50 == 49:
                    wait_until(lambda number=number: sum(heard(three)) >= total - count + number - 50)  # type: ignore[misc]
            wait_until(lambda: sum(heard(three)) == total)

        send(1000)
        before = balancer.rss
        begun = time.monotonic()
        send(3000)
        print(f"{3000 / (time.monotonic() - begun):.0f} datagrams/s")
        assert balancer.rss < before + (1 << 20)
