"""gpen's own small web server, alone and behind a gpen."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import LOCAL, Gpen, read_all


@pytest.fixture(scope="module")
def dummy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpen]:
    with Gpen(tmp_path_factory.mktemp("dummy"), "-O", "dummy", LOCAL) as balancer:
        yield balancer


def test_requests_through_a_balancer(dummy: Gpen, gpen: Callable[..., Gpen]) -> None:
    """Many on one connection."""
    host, port = gpen(servers=[dummy.ctl("listen").strip()]).ctl("listen").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, "/")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200
        assert (dummy.ctl("listen").strip().encode() in body) is (method == "GET")
    connection.close()


@pytest.mark.parametrize("request_, replies", [
    (b"GET / HTTP/1.0\r\n\r\n", 1), (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 1),
    (b"GET / HTTP/1.1\r\n\r\n" * 3, 3), (b"GET / HTTP/1.1\r\n", 0), (b"", 0), (b"x" * 70_000, 0)])
def test_what_it_answers(dummy: Gpen, request_: bytes, replies: int) -> None:
    with dummy.connect() as sock:
        sock.sendall(request_)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).count(b"HTTP/1.1 200 OK") == replies


def test_nothing_is_left(dummy: Gpen, tmp_path: Path) -> None:
    dummy.wait_idle()
