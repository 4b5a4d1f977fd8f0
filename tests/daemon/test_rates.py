"""connection_rate and client_rate: how often clients come to a listener, and one address; the excess waits, or is
refused."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import datagrams, door
from tests.certificates import Certificates
from tests.harness import Gpen, Server, connect, hold, naming, read_all, wait_until
from tests.listeners import own, place, row_of
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import Recorder, get

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
ONE, OTHER = "127.0.0.1", "127.0.0.2"
TWO = ("-r", "-l", "gpen.log", "-O", "client_rate 2/3600")
LATE = 0.02  # seconds that gpen may be interrupted, while it lets a client in

each_way = pytest.mark.parametrize("workers", [(), ("-O", "workers 2")], ids=["alone", "workers"])


def endings(balancer: Gpen, number: int) -> list[str]:
    """The last words of so many lines of the log, once they are there."""
    wait_until(lambda: balancer.log.count("\n") >= number, what=f"{number} lines in the log")
    return [line.split()[-1] for line in balancer.log.splitlines()]


def moments(balancer: Gpen) -> list[float]:
    """When gpen has accepted each of the clients that are there, in seconds, in their order."""
    return sorted(-row["age"] for row in balancer.json("sessions"))


@contextmanager
def crowd(address: tuple[str, int] | str, number: int) -> Iterator[list[socket.socket]]:
    """So many clients that come at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(address)) for _ in range(number)]


# --- of a listener ----------------------------------------------------------------------------------------------------


@each_way
def test_the_excess_waits_and_no_more_come_in_any_time(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    balancer = gpen("-r", *workers, "-O", "connection_rate 20/0.5", servers=[servers(naming("a"))])
    with crowd(balancer.address, 60) as socks:
        assert [sock.recv(1) for sock in socks] == [b"a"] * 60
        came = moments(balancer)
    assert len(came) == 60
    assert all(later - earlier > 0.5 - LATE for earlier, later in zip(came, came[20:], strict=False))
    assert came[-1] - came[0] < 2.5
    row = balancer.json("listeners")[0]
    assert 20 <= row["delayed"] <= 40
    assert "connections wait in the kernel: connection_rate is 20/0.5" in balancer.stderr
    assert balancer.stderr.count("connection_rate") == 1


def test_those_that_wait_come_evenly(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "connection_rate 10/1", servers=[servers(naming("a"))])
    with crowd(balancer.address, 30) as socks:
        assert [sock.recv(1) for sock in socks] == [b"a"] * 30
        waited = moments(balancer)[10:]
    assert waited[10] - waited[0] > 0.9
    assert max(later - earlier for earlier, later in itertools.pairwise(waited)) < 0.4


def test_who_waits_takes_no_time_and_is_shown(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "connection_rate 2/3600", "-O", "metrics 127.0.0.1:0", servers=[servers(naming("a"))])
    with crowd(balancer.address, 5) as socks:
        assert [sock.recv(1) for sock in socks[:2]] == [b"a"] * 2
        wait_until(lambda: balancer.json("listeners")[0]["waiting"] == 3)
        assert door.value(balancer, "gpen_listener_waiting_connections", listener="-") == 3
        explained = balancer.json(f"explain {ONE}")
        assert explained["server"] == 0
        assert "it would wait 3" in explained["why"] and "connection_rate is 2/3600" in explained["why"]
        before, end = balancer.cpu, time.monotonic() + 0.4
        wait_until(lambda: time.monotonic() > end)
        assert balancer.cpu - before < 0.2, "it does not look again and again"
        balancer.ctl("connection_rate 5/3600")
        assert [sock.recv(1) for sock in socks[2:]] == [b"a"] * 3, "another rate begins anew"


def test_each_listener_has_its_own(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "connection_rate 1/3600", *own("w"), *own("v", "connection_rate 3/3600"),
                    servers=[servers(naming("a"))])
    with crowd(balancer.address, 2) as first, crowd(place(balancer, "w"), 2), crowd(place(balancer, "v"), 4) as last:
        assert first[0].recv(1) == b"a"
        assert [sock.recv(1) for sock in last[:3]] == [b"a"] * 3
        for name in ("w", "v"):
            wait_until(lambda name=name: row_of(balancer, name)["waiting"] == 1)  # type: ignore[misc]
        assert [row["sessions"] for row in balancer.json("listeners")] == [1, 1, 3]


def test_it_goes_on_when_it_was_full_meanwhile_and_moves(gpen: Start, servers: Serve) -> None:
    """What waits for a place does not wait for ever, nor what waits at an address that the listener leaves."""
    balancer = gpen("-r", "-x", "2", "-O", "connection_rate 4/0.2", servers=[servers(naming("a"))])
    with crowd(balancer.address, 12) as socks:
        for sock in socks:
            assert sock.recv(1) == b"a"
            sock.close()
    balancer.ctl("connection_rate 1/3600")
    with crowd(balancer.address, 3) as socks:
        assert socks[0].recv(1) == b"a"
        balancer.ctl("conn_max 10", "listen 127.0.0.2:0")
        assert [sock.recv(1) for sock in socks[1:]] == [b"a"] * 2, "who waits where nobody listens any more is taken"
        balancer.ctl("no connection_rate")
        assert balancer.ask(source=OTHER) == b"a"


def test_flows_that_are_too_many_do_not_begin(gpen: Start) -> None:
    with datagrams.DatagramServer(datagrams.naming("a")) as server, ExitStack() as stack:
        balancer = gpen("-U", "-r", "-O", "connection_rate 2/3600", servers=[server.address])
        flows = [stack.enter_context(datagrams.client(balancer)) for _ in range(5)]
        for sock in flows:
            sock.send(b"x")
        for sock in flows[:2]:
            assert sock.recv(9) == b"a"
        wait_until(lambda: balancer.json("listeners")[0]["dropped"] == 3)
        flows[0].send(b"x")
        assert flows[0].recv(9) == b"a", "those that are there go on"
        assert len(server.received) == 3
        assert "its datagram would be dropped for 3" in balancer.json(f"explain {ONE}")["why"]
    assert balancer.stderr.count("new flows are dropped: connection_rate is 2/3600") == 1


# --- of one address ---------------------------------------------------------------------------------------------------


@each_way
def test_a_client_comes_so_often_and_no_more(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    """Also when it has gone again: and others are not concerned."""
    balancer = gpen(*TWO, *workers, servers=[servers(naming("a"))])
    assert [balancer.ask() for _ in range(5)] == [b"a", b"a", b"", b"", b""]
    assert [balancer.ask(source=OTHER) for _ in range(3)] == [b"a", b"a", b""]
    assert endings(balancer, 8).count("client-rate") == 4
    balancer.ctl("client_rate 3/3600")
    assert [balancer.ask() for _ in range(4)] == [b"a", b"a", b"a", b""], "another rate begins anew"
    balancer.ctl("no client_rate")
    assert balancer.ask() == b"a"


def test_it_may_come_again_when_its_time_is_over(gpen: Start, servers: Serve) -> None:
    """Those that are refused do not count: who keeps trying gets in as often as it may."""
    balancer = gpen("-r", "-O", "client_rate 5/0.4", servers=[servers(naming("a"))])
    begun, served = time.monotonic(), 0
    while time.monotonic() - begun < 1.1:
        served += balancer.ask() == b"a"
    assert 10 <= served <= 15


def test_what_is_shown(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO, "-O", "metrics 127.0.0.1:0", servers=[servers(naming("a"))])
    for _ in range(22):
        balancer.ask()
    why = "it has begun 2 sessions in 3600 s, and client_rate is 2/3600: the next one may come in 3"
    row = balancer.json(f"explain {ONE}")
    assert row["server"] is None and row["why"].startswith(why) and row["others"][0]["why_not"].startswith(why)
    assert balancer.json(f"explain {OTHER}")["server"] == 0
    assert balancer.json("info")["endings"]["client-rate"] == 20
    assert door.value(balancer, "gpen_listener_rate_refusals_total", listener="-") == 20
    told = f"{ONE} comes too often: client_rate is 2/3600"
    assert [row["cause"] for row in balancer.json("events") if row["event"] == "refused"] == [told]
    assert balancer.stderr.count(f"refused: {told}") == 1


def test_the_address_that_a_proxy_tells_counts(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO, "-O", "accept_proxy 3", "-O", "acl 3 permit 127.0.0.1", servers=[servers(naming("a"))])

    def ask(address: str) -> bytes:
        return balancer.ask(f"PROXY TCP4 {address} 10.0.0.1 1000 2000\r\n".encode())

    assert [ask("192.0.2.1") for _ in range(3)] == [b"a", b"a", b""]
    assert ask("192.0.2.2") == b"a"


def test_who_is_refused_for_another_reason_does_not_count(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO, "-O", "client_max 1", servers=[servers(naming("a"))])
    with balancer.connect() as first:
        assert first.recv(1) == b"a"
        assert [balancer.ask() for _ in range(3)] == [b""] * 3
        assert endings(balancer, 3) == ["client-max"] * 3
    balancer.wait_idle()
    assert [balancer.ask() for _ in range(2)] == [b"a", b""]


def test_a_client_of_mysql_is_told(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "client_rate 1/50", "-O", "mysql", servers=[servers(naming("greeting"))])
    assert balancer.ask() == b"greeting"
    answer = balancer.ask()
    assert answer[4:7] == b"\xff" + (1226).to_bytes(2, "little")
    assert answer[7:] == b"gpen: 127.0.0.1 connects too often (client_rate), try again in 50 s"


@each_way
def test_a_client_of_http_is_told_when_to_come_again(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    balancer = gpen("-H", *workers, "-O", "client_rate 1/50", servers=[servers(Recorder(lambda request: page))])
    assert balancer.ask(get("/")).endswith(b"hi")
    refused = balancer.ask(get("/"))
    assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\n") and b"\r\nRetry-After: 50\r\n" in refused


def test_a_flood_of_one_address_does_not_fill_conn_max_while_it_is_told(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-H", "-x", "30", "-O", "client_rate 1/3600", "-l", "gpen.log", servers=[servers(hold)])
    with crowd(balancer.address, 60) as socks:
        assert len(endings(balancer, 59)) == 59
        assert len(balancer.json("sessions")) <= 18
        assert all(read_all(sock).startswith(b"HTTP/1.1 429 ") for sock in socks[1:])


def test_a_client_of_tls_is_closed_before_its_handshake(gpen: Start, servers: Serve,
                                                        certificates: Certificates) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "client_rate 1/3600", *certificates.server.options,
                    servers=[servers(naming("a"))])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
        assert client.recv(1) == b"a"
        assert balancer.ask() == b""
        assert endings(balancer, 1) == ["client-rate"]


def test_flows_count(gpen: Start) -> None:
    with datagrams.DatagramServer(datagrams.naming("a")) as server:
        balancer = gpen("-U", *TWO, servers=[server.address])
        for source in (ONE, OTHER, ONE, OTHER):
            assert datagrams.ask(balancer, source=source) == b"a"
        datagrams.tell(balancer, source=ONE)
        assert datagrams.endings(balancer, 1) == ["client-rate"]


@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
def test_an_address_counts_whatever_the_notation(gpen: Start, servers: Serve, listen: str) -> None:
    balancer = gpen(*TWO, servers=[servers(naming("a"))], listen=listen)
    assert [balancer.ask() for _ in range(3)] == [b"a", b"a", b""]
    if listen == "[::]:0":
        with crowd((ONE, int(balancer.address[1])), 3) as socks:
            assert [sock.recv(1) for sock in socks] == [b"a", b"a", b""]


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_a_reload_that_leaves_a_rate_as_it_is_begins_nothing_anew(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text("client_rate 2/3600\nconnection_rate 5/3600\n")
    balancer = gpen("-F", str(file), "-r", servers=[servers(naming("a"))])
    assert [balancer.ask() for _ in range(3)] == [b"a", b"a", b""]
    file.write_text("client_rate 2/3600\nconnection_rate 5/3600\nidle_timeout 50\n")
    assert "idle_timeout" in balancer.ctl("reload")
    assert [balancer.ask() for _ in range(2)] == [b"", b""]
    with balancer.connect(OTHER) as sixth:
        wait_until(lambda: balancer.json("listeners")[0]["waiting"] == 1)
        file.write_text("client_rate 3/3600\nconnection_rate 50/3600\nbandwidth 10m\n")
        balancer.ctl("reload")
        assert sixth.recv(1) == b"a"
    assert [balancer.ask() for _ in range(4)] == [b"a", b"a", b"a", b""]
    assert balancer.ctl("client_rate", "connection_rate", "bandwidth") == "3/3600\n50/3600\n10m\n"
    balancer.ctl(f"write {tmp_path / 'written'}")
    assert {"client_rate 3/3600", "connection_rate 50/3600", "bandwidth 10m"} <= set(
        (tmp_path / "written").read_text().splitlines())
