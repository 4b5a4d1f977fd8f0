"""bandwidth and bandwidth_total: how fast bytes move, by the clock; and that all of them come."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests import door
from tests.certificates import Certificates
from tests.harness import Gpen, Server, connect, echo, naming, read_all, reset, sending, wait_until
from tests.listeners import own, place
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import Recorder, get, read_response

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Visit = Callable[[], Any]  # a client: a socket, or one that speaks TLS
DATA = os.urandom(1 << 20)  # what takes a second, at 1m
HASH = hashlib.sha256(DATA).digest()
SIOCOUTQ = 0x5411  # bytes that the other end has not acknowledged (tcp(7))
LEAST, MOST = 0.85, 2.5  # seconds that it takes: a tenth may come at once; and this machine may be busy

WORKERS = ("-O", "workers 2")
each_way = pytest.mark.parametrize("workers", [(), WORKERS], ids=["alone", "workers"])


def giving(sock: socket.socket) -> None:
    """A server that sends it all, and ends; then it waits for the client's end."""
    sock.sendall(DATA)
    sock.shutdown(socket.SHUT_WR)
    read_all(sock)


def taking(sock: socket.socket) -> None:
    """A server that answers what it was sent, up to its end, with the hash of that."""
    sock.sendall(hashlib.sha256(read_all(sock)).digest())


def rest_of(client: Any) -> bytes:
    """What it gets up to the end."""
    return read_all(client) if isinstance(client, socket.socket) else bytes(client.read_all())


def got(visit: Visit) -> tuple[float, bytes]:
    """For how many seconds a client gets something, and the hash of that."""
    with visit() as client:
        begun = time.monotonic()
        data = rest_of(client)
        return time.monotonic() - begun, hashlib.sha256(data).digest()


def given(visit: Visit) -> tuple[float, bytes]:
    """For how many seconds a client is busy that sends, and what the server answers: the hash of what it has."""
    with visit() as client:
        begun = time.monotonic()
        client.sendall(DATA)
        client.shutdown(socket.SHUT_WR)
        answer = rest_of(client)
        return time.monotonic() - begun, answer


def together(visits: list[Visit], transfer: Callable[[Visit], tuple[float, bytes]]) -> list[float]:
    """For how many seconds each of several clients was busy at the same time; all have had all."""
    with ThreadPoolExecutor(len(visits)) as pool:
        done = list(pool.map(transfer, visits))
    assert {data for _, data in done} == {HASH}
    return sorted(seconds for seconds, _ in done)


@each_way
@pytest.mark.parametrize(("serve", "transfer"), [(giving, got), (taking, given)], ids=["down", "up"])
@pytest.mark.parametrize("way", ["tcp", "tls"])
def test_a_session_is_as_fast_as_it_may_be(gpen: Start, servers: Serve, certificates: Certificates, way: str,
                                           serve: Any, transfer: Any, workers: tuple[str, ...]) -> None:
    options = certificates.server.options if way == "tls" else ()
    balancer = gpen("-r", *workers, *options, "-O", "bandwidth 1m", servers=[servers(serve)])
    context = trusting(certificates.authority.certificate)
    visit = balancer.connect if way == "tcp" else lambda: TlsClient(balancer.address, context)
    seconds = together([visit, visit], transfer)
    assert seconds[0] > LEAST and seconds[1] < MOST, "each has its own rate"


def test_what_a_server_sends_over_tls_is_no_faster(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(DATA)
            tls.unwrap()

    balancer = gpen("-O", "server_tls on", "-O", "server_tls_name localhost", "-O",
                    f"server_tls_ca {certificates.authority.certificate}", "-O", "bandwidth 1m",
                    servers=[servers(serve)])
    assert LEAST < together([balancer.connect], got)[0] < MOST


@each_way
@pytest.mark.parametrize(("serve", "transfer"), [(giving, got), (taking, given)], ids=["down", "up"])
def test_all_of_a_listener_share_its_rate(gpen: Start, servers: Serve, serve: Any, transfer: Any,
                                          workers: tuple[str, ...]) -> None:
    """Evenly, and one that is alone has all of it."""
    balancer = gpen("-r", *workers, "-O", "bandwidth_total 4m", servers=[servers(serve)])
    seconds = together([balancer.connect] * 4, transfer)
    assert seconds[0] > 0.6 and LEAST < seconds[-1] < MOST
    balancer.ctl("bandwidth_total 1m")
    assert LEAST < together([balancer.connect], transfer)[0] < MOST
    assert balancer.stderr.count("sessions wait for their share: bandwidth_total is 4m") == 1


def test_both_limits_hold(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "bandwidth 2m", "-O", "bandwidth_total 3m", servers=[servers(giving)])
    seconds = together([balancer.connect] * 3, got)
    assert seconds[0] > 0.6 and LEAST < seconds[-1] < MOST


def test_the_directions_are_apart(gpen: Start, servers: Serve) -> None:
    """Both are full at once."""
    balancer = gpen("-r", "-O", "bandwidth 1m", servers=[servers(echo)])
    with balancer.connect() as client, ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        sent = pool.submit(lambda: (client.sendall(DATA), client.shutdown(socket.SHUT_WR)))
        assert read_all(client) == DATA
        sent.result()
        assert LEAST < time.monotonic() - begun < MOST


@each_way
def test_http(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA
    recorder = Recorder(lambda request: page)
    balancer = gpen("-H", *workers, "-O", "bandwidth 1m", servers=[servers(recorder)])

    def ask() -> bytes:
        with balancer.connect() as client:
            client.sendall(get("/"))
            return read_response(client)

    begun = time.monotonic()
    assert ask().endswith(DATA)
    assert LEAST < time.monotonic() - begun < MOST


def test_it_changes_for_sessions_that_are_there(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", servers=[servers(echo)])
    with balancer.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"

        def passed(count: int) -> float:
            begun = time.monotonic()
            client.sendall(bytes(count))
            while count:
                count -= len(client.recv(count))
            return time.monotonic() - begun

        assert passed(1 << 18) < 0.7
        balancer.ctl("bandwidth 256k")
        assert 0.8 < passed(1 << 18) < MOST
        balancer.ctl("bandwidth 1")
        client.sendall(bytes(1000))
        balancer.ctl("no bandwidth", "bandwidth_total 256k")
        assert 0.8 < passed(1 << 18) < MOST, "and who waited for years goes on"
        assert len(client.recv(1000)) == 1000
        balancer.ctl("no bandwidth_total")
        assert passed(1 << 18) < 0.7
        balancer.ctl("bandwidth 256k")
        assert 0.8 < passed(1 << 18) < MOST


def test_each_listener_has_its_own(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", *own("w", "bandwidth 1m"), servers=[servers(giving)])
    assert together([balancer.connect] * 2, got)[-1] < 0.6
    assert LEAST < together([lambda: connect(place(balancer, "w"))], got)[0] < MOST


def test_what_is_small_does_not_wait(gpen: Start, servers: Serve) -> None:
    """As long as it is less than the rate."""
    balancer = gpen("-r", "-O", "bandwidth 100k", "-O", "bandwidth_total 100k", servers=[servers(echo)])
    with balancer.connect() as client:
        begun = time.monotonic()
        for _ in range(20):
            client.sendall(b"0123456789")
            assert client.recv(10) == b"0123456789"
        assert time.monotonic() - begun < 1


def test_a_slow_reader_gets_all(gpen: Start, servers: Serve) -> None:
    """Who takes less than its session may move has it waiting in gpen, and the rate goes on behind that."""
    data = DATA * 16
    balancer = gpen("-r", "-O", "bandwidth 32m", "-O", "bandwidth_total 32m", servers=[servers(sending(data))])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        client.settimeout(20)
        client.connect(balancer.address)
        number = wait_until(lambda: balancer.json("sessions"))[0]["id"]
        wait_until(lambda: balancer.json(f"connection {number}")["pend"])
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(data).digest()


@pytest.mark.one_process
def test_who_waits_takes_no_processor(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-O", "bandwidth 1m", servers=[servers(giving)])
    before = balancer.cpu
    seconds, _ = got(balancer.connect)
    assert balancer.cpu - before < seconds / 4


# --- ends -------------------------------------------------------------------------------------------------------------


def gone(sock: socket.socket) -> None:
    """A server that sends it all, and is reset as soon as that is with gpen's machine."""
    sock.sendall(DATA[: 1 << 17])
    wait_until(lambda: not _unsent(sock))
    reset(sock)


def _unsent(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock.fileno(), SIOCOUTQ, bytes(4)), sys.byteorder)


@contextmanager
def limited(gpen: Start, servers: Serve, serve: Any, *options: str) -> Iterator[tuple[Gpen, socket.socket]]:
    """A gpen whose sessions are slow, and a client of it."""
    balancer = gpen("-r", "-l", "gpen.log", "-O", "bandwidth 64k", *options, servers=[servers(serve)])
    with balancer.connect() as client:
        yield balancer, client


def test_what_a_server_has_sent_before_it_was_reset_comes(gpen: Start, servers: Serve) -> None:
    """It waits in gpen's socket, and takes its four seconds, in which it is not idle."""
    with limited(gpen, servers, gone, "-O", "bandwidth 32k", "-O", "idle_timeout 2") as (balancer, client):
        begun = time.monotonic()
        assert read_all(client) == DATA[: 1 << 17], balancer.log
        assert time.monotonic() - begun > 3.4
        wait_until(lambda: balancer.log)
        assert balancer.log.split()[-1] == "server-reset"


def test_a_client_that_goes_ends_its_session_at_once(gpen: Start, servers: Serve) -> None:
    with limited(gpen, servers, giving) as (balancer, client):
        assert client.recv(1000)
        reset(client)
        wait_until(lambda: balancer.log, 5)
        assert balancer.log.split()[-1] == "client-reset"
        assert balancer.json("sessions") == []


def test_the_client_speaks_on_behind_the_end_of_the_server(gpen: Start, servers: Serve) -> None:
    """And slowly: a half-close is passed on behind the last byte."""
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        heard.append(read_all(sock))

    with limited(gpen, servers, serve) as (_, client):
        assert client.recv(1) == b""
        client.sendall(DATA[:65536])
        client.close()
        wait_until(lambda: heard)
        assert heard[0] == DATA[:65536]


def test_sessions_are_closed_while_they_wait(gpen: Start, servers: Serve) -> None:
    with limited(gpen, servers, giving, "-O", "bandwidth_total 64k") as (balancer, client), balancer.connect() as other:
        assert client.recv(100) and other.recv(100)
        for row in balancer.json("sessions"):
            balancer.ctl(f"close {row['id']}")
        wait_until(lambda: balancer.log.count("killed") == 2)
        read_all(client)
        balancer.ctl("no bandwidth", "no bandwidth_total")
        assert together([balancer.connect], got)[0] < 0.6


@each_way
def test_those_of_a_listener_that_is_deleted_go_on(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    balancer = gpen("-r", *workers, *own("w", "bandwidth_total 1m"), servers=[servers(giving)])
    with connect(place(balancer, "w")) as client:
        begun = client.recv(1000)
        balancer.ctl("no listener w")
        assert begun + read_all(client) == DATA


@each_way
def test_idle_sessions_take_no_time(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    balancer = gpen("-r", *workers, "-O", "bandwidth 1k", "-O", "bandwidth_total 2k", servers=[servers(naming("a"))])
    with ExitStack() as stack:
        for _ in range(20):
            assert stack.enter_context(balancer.connect()).recv(1) == b"a"
        before, end = balancer.cpu, time.monotonic() + 0.5
        wait_until(lambda: time.monotonic() > end)
        assert balancer.cpu - before < 0.1


@each_way
def test_what_is_shown(gpen: Start, servers: Serve, workers: tuple[str, ...]) -> None:
    balancer = gpen("-r", *workers, "-O", "bandwidth 2m", "-O", "bandwidth_total 1m", "-O", "metrics 127.0.0.1:0",
                    servers=[servers(giving)])
    assert balancer.ctl("bandwidth", "bandwidth_total") == "2m\n1m\n"
    assert "bandwidth 2m has no effect: bandwidth_total is less" in balancer.stderr
    together([balancer.connect], got)
    assert door.value(balancer, "gpen_listener_bandwidth_limit_bytes", listener="-") == 1 << 20
    assert door.value(balancer, "gpen_listener_session_bandwidth_limit_bytes", listener="-") == 2 << 20
    assert (door.value(balancer, "gpen_listener_bandwidth_shortages_total", listener="-") or 0) > 3
    row = balancer.json("listeners")[0]
    assert (row["bandwidth"], row["bandwidth_total"], row["shortages"] > 3) == (2 << 20, 1 << 20, True)
    assert balancer.json("explain 127.0.0.1")["why"] == "round robin; bandwidth is 2m; bandwidth_total is 1m"
