"""HTTP mode behind TLS: servers hear that the client came by https, and the pages are encrypted as well."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable

import pytest

from tests.certificates import Certificates
from tests.harness import Gpen, Server, refusing
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import OK, Recorder, added, get, read_exactly, read_request, read_response

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
Connect = Callable[[Gpen], TlsClient]


@pytest.fixture
def secure(gpen: Start, certificates: Certificates) -> Start:
    """Start gpen in HTTP mode with a certificate."""
    return lambda *options, **more: gpen("-H", *certificates.server.options, *options, **more)


@pytest.fixture
def dial(certificates: Certificates) -> Connect:
    """Connect to gpen by TLS."""
    context = trusting(certificates.authority.certificate)
    return lambda balancer: TlsClient(balancer.address, context)


def test_every_request(secure: Start, servers: Servers, dial: Connect) -> None:
    recorder = Recorder()
    with dial(secure(servers=[servers(recorder)])) as sock:
        for number in range(50):
            sock.sendall(get(f"/{number}", "X-Forwarded-Proto: http") + get("/next"))
            assert [read_response(sock) for _ in range(2)] == [OK] * 2
    expected = [get(path) for number in range(50) for path in (f"/{number}", "/next")]
    assert recorder.requests == [added(request).replace(b"-Proto: http", b"-Proto: https") for request in expected]


def test_pages(secure: Start, servers: Servers, dial: Connect) -> None:
    """The client gets them whole, behind the answers, and then the end of TLS."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000)
    balancer = secure(servers=[servers(Recorder(lambda request: answer))])
    with dial(balancer) as sock:
        sock.sendall(get("/") + b"GET / HTTP/1.1\r\nHost : www\r\n\r\n")
        got = sock.read_all()
    assert got.startswith(answer)
    assert got[len(answer):].startswith(b"HTTP/1.1 400 Bad Request\r\n") and got.endswith(b"</h1>\n")
    with refusing() as address, dial(secure(servers=[address])) as sock:
        sock.sendall(get("/"))
        got = sock.read_all()
    assert got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n") and got.endswith(b"</h1>\n")


def test_a_websocket(secure: Start, servers: Servers, dial: Connect) -> None:
    data = random.Random(5).randbytes(1_000_000)
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    def serve(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(switching)
        while piece := sock.recv(1 << 16):
            sock.sendall(piece)

    with dial(secure(servers=[servers(serve)])) as sock:
        sock.sendall(get("/", "Connection: Upgrade", "Upgrade: websocket") + data[:1000])
        assert read_exactly(sock, len(switching)) == switching
        sender = threading.Thread(target=sock.sendall, args=(data[1000:],))
        sender.start()
        assert read_exactly(sock, len(data)) == data
        sender.join()
