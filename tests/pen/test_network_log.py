"""The datagrams that pen and gpen send with -l HOST:PORT are the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.harness import PATIENCE, Server, connect
from tests.pen.balancers import needs_pen
from tests.pen.conftest import Start

pytestmark = needs_pen

REQUESTS = (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /b\n", b"\x01\x02 tab\tend\xff", b"\r\nsecond line",
            b"\0\r\n", b"GET /" + b"x" * 800 + b" HTTP/1.0\r\n\r\n")


@pytest.fixture
def collector() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        yield sock


def test_a_datagram_for_each_request(start: Start, farm: dict[str, Server], collector: socket.socket) -> None:
    balancer = start("-r", "-l", f"127.0.0.1:{collector.getsockname()[1]}", servers=[farm["A"].address])
    told = []
    for request in REQUESTS:
        with connect(("127.0.0.1", balancer.port), "127.0.0.5") as sock:
            assert sock.recv(1) == b"A"
            sock.sendall(request)
            told.append(collector.recv(65536))
    assert told == [b"+ 127.0.0.5 127.0.0.1 " + request.split(b"\n")[0].split(b"\r")[0] + b"\n" for request in REQUESTS]


def test_a_collector_that_is_away_harms_nobody(start: Start, farm: dict[str, Server], collector: socket.socket) -> None:
    place = collector.getsockname()
    balancer = start("-r", "-l", f"127.0.0.1:{place[1]}", servers=[farm["A"].address])
    collector.close()
    for _ in range(3):
        with connect(("127.0.0.1", balancer.port)) as sock:
            assert sock.recv(1) == b"A"
            sock.sendall(b"unheard\n")
            assert sock.recv(100) == b"unheard\n"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again, connect(("127.0.0.1", balancer.port)) as sock:
        again.bind(place)
        again.settimeout(PATIENCE)
        sock.sendall(b"heard\n")
        while (told := again.recv(65536)) != b"+ 127.0.0.1 127.0.0.1 heard\n":
            assert told.endswith(b" unheard\n")
