"""Clients that mean harm, or are slow, at the HTTP door: they cost themselves alone."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.door import DOOR, Connection, ask
from tests.harness import Gpen, Server, connect, echo, pair_of, read_all, wait_until

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
TOKEN = "a-token-that-is-long-enough"
KNOWN = f"Authorization: Bearer {TOKEN}\r\n".encode()
ACT = b"POST /api/control HTTP/1.1\r\n" + KNOWN
MOST = 64  # clients at a time


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def balancer(gpen: Start, servers: Servers, token: Path) -> Gpen:
    """One whose page may act; its end finds tracebacks in what it told."""
    return gpen(*DOOR, "-O", f"metrics_token {token}", "-O", "metrics_control on", servers=[servers(echo)])


def place_of(balancer: Gpen) -> tuple[str, int] | str:
    return pair_of(balancer.ctl("metrics").strip())


def said(balancer: Gpen, request: bytes) -> bytes:
    """What comes back to these bytes and the end of input."""
    with connect(place_of(balancer)) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


# --- requests that are none -----------------------------------------------------------------------------------------


NONE = [
    (b"GET / HTTP/1\r\n\r\n", b"400"),
    (b"GET / HTTP/x\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 90 + b"\r\n", b"400"),
    (ACT + b"Content-Length: 100\r\n\r\n{}", b"400"),
    (ACT + b"Content-Length: 1000\r\n\r\n" + b"[" * 1000, b"400"),
    (ACT + b'Content-Length: 33\r\n\r\n{"action": ["drain"],"number": 0}', b"400"),
    (ACT + b"Content-Length: 3\r\n\r\n\xff\xfe\xfd", b"400"),
    (ACT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"411"),
    (ACT + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"411"),
    (b"POST /api/control HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n", b"401"),
    (b"GET /%ff%00\xff HTTP/1.1\r\n\r\n", b"404"),
    (b"GET /api/explain?address=10.0.0.1%00 HTTP/1.1\r\n\r\n", b"400"),
    (b"GET /api/explain?address=10.0.0.1&address=10.0.0.2 HTTP/1.1\r\n\r\n", b"400"),
    (b"OPTIONS /api/control HTTP/1.1\r\nOrigin: http://elsewhere\r\n\r\n", b"405"),
]
LEFT = [b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/9.9\r\n\r\n" * 10, b"GET /page.js HTTP/1.1\r\n\r\n",
        ACT + b"Content-Length: 100\r\n\r\n{}", b"GET /api/info HTTP/1.1\r\n\r\n" * 300]


def test_what_is_no_request(balancer: Gpen) -> None:
    """It is refused, and no fault of gpen's is told."""
    for request, status in NONE:
        assert said(balancer, request).split(b" ", 2)[1] == status, request
    assert "Traceback" not in balancer.stderr and balancer.server(0)["state"] == "ready"


def test_a_whole_address_for_a_path(balancer: Gpen) -> None:
    """As clients send it that take the door for a proxy."""
    assert said(balancer, b"GET http://gpen:1/api/info HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert b"<title>" in said(balancer, b"GET http://gpen HTTP/1.1\r\n\r\n")


def test_clients_that_leave(balancer: Gpen) -> None:
    """A reset, whenever it comes, is no fault of gpen's, and leaves nothing."""
    before = balancer.fds()
    for request in LEFT * 3:
        with connect(place_of(balancer)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(request)
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.recv(1)
    wait_until(lambda: balancer.fds() <= before, what="the end of all connections")
    assert ask(balancer, "/api/info").status == 200 and "Traceback" not in balancer.stderr


def test_one_that_leaves_amid_a_large_answer(balancer: Gpen) -> None:
    before = balancer.fds()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(balancer.connect())
        wait_until(lambda: balancer.json("info")["sessions"] == 200)
        for _ in range(5):
            with connect(place_of(balancer)) as sock:
                sock.sendall(b"GET /api/sessions HTTP/1.1\r\n\r\n")
                assert sock.recv(20) == b"HTTP/1.1 200 OK\r\nCont"[:20]
    balancer.wait_idle()
    wait_until(lambda: balancer.fds() <= before, what="the end of all connections")


# --- floods ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def flood(balancer: Gpen, head: bytes, more: bytes) -> Iterator[None]:
    """A client that sends as fast as it can, and reads what comes."""
    with connect(place_of(balancer)) as sock:
        def send() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(head)
                while True:
                    sock.sendall(more)

        threads = [threading.Thread(target=send), threading.Thread(target=read_all, args=(sock,))]
        for thread in threads:
            thread.start()
        yield
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(("head", "more"), [
    (b"POST /api/control HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
    (b"POST /api/control HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65_536),
    (b"", b"GET /x HTTP/1.1\r\n\r\n" * 500),
], ids=["chunks", "length", "pipelined"])
def test_no_session_waits_for_one_that_floods(balancer: Gpen, head: bytes, more: bytes) -> None:
    """It took all of gpen's time, for as long as it liked."""
    with flood(balancer, head, more):
        begun = time.monotonic()
        for _ in range(10):
            assert balancer.ask(b"hello") == b"hello"
        assert time.monotonic() - begun < 10


# --- slow ones ------------------------------------------------------------------------------------------------------


def silent(place: tuple[str, int] | str) -> socket.socket:
    return connect(place)


def deaf(place: tuple[str, int] | str) -> socket.socket:
    """Asks for more than fits, and reads nothing."""
    sock = connect(place)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"GET /page.js HTTP/1.1\r\n\r\n" * 100)
    return sock


@pytest.mark.parametrize("client", [silent, deaf])
def test_those_who_wait_give_way(balancer: Gpen, client: Callable[[tuple[str, int] | str], socket.socket]) -> None:
    """Nobody is kept out for long by as many clients as there may be, and twice that."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MOST if client is silent else MOST):
            stack.enter_context(client(place_of(balancer)))
        assert ask(balancer, "/api/info").status == 200
        assert balancer.stop() == 0
    assert "Traceback" not in balancer.stderr


def test_many_at_once_are_all_answered(balancer: Gpen) -> None:
    """Those who ask give way to nobody, and who comes later waits."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(Connection(balancer))) for _ in range(3 * MOST)]
        for connection in connections:
            connection.request("GET", "/metrics", headers={"Connection": "close"})
        for connection in connections:
            assert connection.getresponse().read().startswith(b"# HELP")


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_a_token_that_is_no_file(balancer: Gpen, token: Path, kind: str) -> None:
    """Nobody waits for who writes into it."""
    token.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        if kind == "fifo":
            os.mkfifo(token, 0o600)
        elif kind == "directory":
            token.mkdir()
        else:
            sock.bind(str(token))
        answer = ask(balancer, "/api/control", "POST", json.dumps({"action": "drain", "number": 0}),
                     Authorization=f"Bearer {TOKEN}")
    assert answer.status == 403 and answer.json["error"].startswith("metrics_token: ")
    assert balancer.ask(b"hello") == b"hello"


def test_who_may_not_act_does_not_fill_the_diagnostics(gpen: Start, servers: Servers) -> None:
    """Told once, with the address as people write it."""
    balancer = gpen("-O", "metrics [::]:0", servers=[servers(echo)])
    port = balancer.ctl("metrics").rpartition(":")[2]
    with connect(("127.0.0.1", int(port))) as sock:
        sock.sendall(b"POST /api/control HTTP/1.1\r\n\r\n" * 100)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).count(b"HTTP/1.1 403") == 100
    (line,) = [line for line in balancer.stderr.splitlines() if "refused" in line]
    assert " page: 127.0.0.1: refused: actions are off" in line


def test_it_moves_100_times(balancer: Gpen, tmp_path: Path) -> None:
    """With a client connected each time; nothing of that stays."""
    balancer.ctl(f"metrics {tmp_path}/door")
    before = balancer.fds()
    for number in range(50):
        with connect(place_of(balancer)):
            assert "error" not in balancer.ctl("metrics 127.0.0.1:0" if number % 2 else f"metrics {tmp_path}/door2")
        assert "error" not in balancer.ctl(f"metrics {tmp_path}/door")
    wait_until(lambda: balancer.fds() <= before, what="the end of all connections")
    assert ask(balancer, "/api/info").status == 200 and not (tmp_path / "door2").exists()
