"""HTTP mode: what reaches the server, byte for byte, and what the client gets, through the real gpen."""

from __future__ import annotations

import hashlib
import queue
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Gpen, Server, hold, read_all, wait_until
from tests.wire.http_peers import (
    ADDED,
    OK,
    Recorder,
    added,
    get,
    read_exactly,
    read_request,
    read_response,
    read_until,
    script,
)

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n"
MALFORMED = b"GET / HTTP/1.1\r\nHost : www\r\n\r\n"


@pytest.fixture
def http(gpen: Start, servers: Servers) -> Callable[..., Gpen]:
    """Start gpen in HTTP mode before a server that behaves so."""

    def start(serve: Any, *options: str, **more: Any) -> Gpen:
        return gpen("-H", "-l", "gpen.log", *options, servers=[servers(serve)], **more)

    return start


def ending(balancer: Gpen) -> str:
    """How the only session ended."""
    wait_until(lambda: balancer.log, what="a line in the log")
    return balancer.log.splitlines()[0].split()[-1]


# --- every request ---------------------------------------------------------------------------------------------------


def test_every_request_of_a_kept_connection(http: Start) -> None:
    recorder = Recorder()
    with http(recorder).connect() as sock:
        for number in range(300):
            sock.sendall(get(f"/{number}"))
            assert read_response(sock) == OK
    assert recorder.connections == [[added(get(f"/{number}")) for number in range(300)]]


def test_pipelined_requests_go_one_at_a_time(http: Start) -> None:
    """A recorder's request would hold the next one, if that came before the answer."""
    recorder = Recorder()
    requests = [get(f"/{number}") for number in range(100)]
    with http(recorder).connect() as sock:
        sock.sendall(b"".join(requests))
        assert [read_response(sock) for _ in requests] == [OK] * 100
    assert recorder.connections == [[added(request) for request in requests]]


def test_a_request_byte_for_byte(http: Start) -> None:
    recorder = Recorder()
    requests = get("/a", "A: b") + b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 3\r\n\r\nabc" + get("/b")
    with http(recorder).connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in requests:
            sock.sendall(bytes([byte]))
        assert [read_response(sock) for _ in range(3)] == [OK] * 3
    assert recorder.requests == [added(get("/a", "A: b")),
                                 b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 3\r\n" + ADDED + b"abc",
                                 added(get("/b"))]


def test_chunks_and_what_follows(http: Start) -> None:
    recorder = Recorder()
    head = b"PUT / HTTP/1.1\r\nHost: www\r\nTransfer-Encoding: chunked\r\n"
    with http(recorder).connect() as sock:
        sock.sendall(head + b"\r\n3;x\r\nabc\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n" + get("/next"))
        assert [read_response(sock) for _ in range(2)] == [OK] * 2
    assert recorder.requests == [head + ADDED + b"3\r\nabc\r\n0\r\n\r\n", added(get("/next"))]


def test_a_body_that_is_expected(http: Start) -> None:
    head = b"POST / HTTP/1.1\r\nHost: www\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    with http(script((head + ADDED, go_on), (b"abc", OK), (added(get("/")), OK))).connect() as sock:
        sock.sendall(head + b"\r\n")
        assert read_response(sock) == go_on
        sock.sendall(b"abc" + get("/"))
        assert [read_response(sock) for _ in range(2)] == [OK] * 2


def test_clients_of_all_families(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    recorder = Recorder()
    server = servers(recorder)
    for listen in ("[::1]:0", str(tmp_path / "listen")):
        with gpen("-H", listen=listen, servers=[server]).connect() as sock:
            sock.sendall(get("/"))
            assert read_response(sock) == OK
    assert [request.split(b"\r\n")[2] for request in recorder.requests] == [
        b"X-Forwarded-For: ::1", b"X-Forwarded-For: unknown"]


# --- responses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "response"), [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n"),
    ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK),
    ("GET", b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"),
])
def test_where_a_response_ends(http: Start, method: str, response: bytes) -> None:
    """The next request goes when it has, also when it comes byte for byte, and not before."""

    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):
            requests.append(read_request(sock))
            for byte in response:
                sock.sendall(bytes([byte]))

    requests: list[bytes] = []
    request = get("/").replace(b"GET", method.encode())
    with http(serve).connect() as sock:
        sock.sendall(request * 3)
        assert read_all(sock) == response * 3
    assert requests == [added(request)] * 3


def test_an_answer_before_the_request_is_through(http: Start) -> None:
    """The rest of the body is passed on, and only then the next request."""
    head = b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 6\r\n"
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    with http(script((head + ADDED + b"abc", answer), (b"def" + added(get("/")), OK))).connect() as sock:
        sock.sendall(head + b"\r\nabc")
        assert read_response(sock) == answer
        sock.sendall(b"def" + get("/"))
        assert read_response(sock) == OK


def test_the_server_closes(http: Start) -> None:
    """The client gets the response and the end; a request that waits is dropped, and so are all others."""
    balancer = http(script((added(get("/a")), OK)))
    with balancer.connect() as sock:
        sock.sendall(get("/a") + get("/b"))
        assert read_all(sock) == OK
        sock.sendall(get("/c"))
    balancer.wait_idle()
    assert ending(balancer) in ("server-closed", "server-reset")  # the latter when the second request went out


def test_a_server_that_will_close(http: Start) -> None:
    """It says so, and is asked no more, though it has not closed yet."""
    response = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    seen: list[bytes] = []
    balancer = http(script((added(get("/a")), response), then=lambda sock: seen.append(read_all(sock))))
    with balancer.connect() as sock:
        sock.sendall(get("/a") + get("/b"))
        assert read_all(sock) == response
    assert seen == [b""]
    assert ending(balancer) == "server-closed"


def test_a_response_that_ends_with_the_connection(http: Start) -> None:
    response = b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
    with http(script((added(get("/a")), response))).connect() as sock:
        sock.sendall(get("/a") + get("/b"))
        assert read_all(sock) == response


@pytest.mark.parametrize("response", [
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    OK + OK, OK + b"x", SWITCHING, b"hello",
])
def test_after_a_response_that_is_none_nothing_is_asked(http: Start, response: bytes) -> None:
    """It is passed on, but who knows where it ends? The server gets the end, so that it closes when it is done."""
    recorder = Recorder(lambda request: response)
    balancer = http(recorder)
    with balancer.connect() as sock:
        sock.sendall(get("/a"))
        assert read_exactly(sock, len(response)) == response
        sock.sendall(get("/b"))
        assert read_all(sock) == b""
    with balancer.connect() as sock:
        sock.sendall(get("/a") + get("/b"))
        assert read_all(sock) == response
    balancer.wait_idle()
    assert recorder.connections == [[added(get("/a"))]] * 2


def test_a_server_that_holds_on_behind_a_response_that_is_none(http: Start) -> None:
    """It has heard the end, and does not care: the client, who asks in vain, gets the end nevertheless."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"
    released = threading.Event()
    balancer = http(script((added(get("/a")), response), then=lambda sock: bool(released.wait(30)) and None))
    try:
        with balancer.connect() as sock:
            sock.sendall(get("/a"))
            assert read_exactly(sock, len(response)) == response
            sock.sendall(get("/b"))
            assert read_all(sock) == b""
        balancer.wait_idle()
    finally:
        released.set()


def test_a_server_that_speaks_unasked(http: Start) -> None:
    """408 for an idle client, say: it is passed on, and nothing is asked behind it."""
    words = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
    seen: list[bytes] = []
    unasked = threading.Event()

    def speak(sock: socket.socket) -> None:
        assert unasked.wait(20)
        sock.sendall(words)
        seen.append(read_all(sock))

    with http(script((added(get("/")), OK), then=speak)).connect() as sock:
        sock.sendall(get("/"))
        assert read_response(sock) == OK
        unasked.set()
        assert read_response(sock) == words
        sock.sendall(get("/"))
        assert read_all(sock) == b""
    assert seen == [b""]


def test_a_client_that_ends_its_side_gets_the_whole_answer(http: Start) -> None:
    body = random.Random(1).randbytes(3_000_000)
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + body
    recorder = Recorder(lambda request: response)
    balancer = http(recorder)
    for _ in range(3):
        assert balancer.ask(get("/a")) == response
    assert balancer.ask(get("/a") + get("/b")) == response * 2
    assert recorder.connections[-1] == [added(get("/a")), added(get("/b"))]
    balancer.wait_idle()


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: www\r\n", b"\r\n", b"\r"])
def test_a_client_that_ends_within_a_header(http: Start, part: bytes) -> None:
    """No part of it goes anywhere."""
    recorder = Recorder()
    balancer = http(recorder)
    assert balancer.ask(get("/") + part) == OK
    balancer.wait_idle()
    assert recorder.connections == [[added(get("/"))]]


# --- upgrades --------------------------------------------------------------------------------------------------------


def test_a_websocket(http: Start) -> None:
    """What the client sends right behind its request is not for HTTP, once the server has agreed."""
    data = random.Random(2).randbytes(2_000_000)
    early = get("/") + b"\x81\x85not HTTP\r\n\r\n"
    request = get("/", *UPGRADE)

    def serve(sock: socket.socket) -> None:
        assert read_request(sock) == added(request)
        sock.sendall(SWITCHING + b"at once")
        assert read_exactly(sock, len(early)) == early
        while piece := sock.recv(1 << 16):
            sock.sendall(piece)

    balancer = http(serve)
    with balancer.connect() as sock:
        sock.sendall(request + early)
        greeting = SWITCHING + b"at once"
        assert read_exactly(sock, len(greeting)) == greeting
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        assert read_exactly(sock, len(data)) == data
        sender.join()
        sock.sendall(get("/"))
        assert read_exactly(sock, len(get("/"))) == get("/")
        assert balancer.json("sessions")[0]["up"] == len(added(request)) + len(early) + len(data) + len(get("/"))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert ending(balancer) == "client-closed"


def test_an_upgrade_that_is_refused(http: Start) -> None:
    """Then what follows is HTTP still, and nobody can smuggle a request in that way."""
    recorder = Recorder()
    with http(recorder).connect() as sock:
        sock.sendall(get("/a", *UPGRADE) + get("/b", "X-Forwarded-For: 6.6.6.6"))
        assert [read_response(sock) for _ in range(2)] == [OK] * 2
        sock.sendall(get("/c", *UPGRADE))
        assert read_response(sock) == OK
        sock.sendall(get("/d"))
        assert read_response(sock) == OK
    assert recorder.requests == [
        added(get("/a", *UPGRADE)),
        b"GET /b HTTP/1.1\r\nHost: www\r\nX-Forwarded-For: 6.6.6.6, 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n",
        added(get("/c", *UPGRADE)), added(get("/d"))]


FORGED = get("/forged", "X-Forwarded-For: 6.6.6.6")


@pytest.mark.parametrize(("request_", "response"), [
    (get("/a"), SWITCHING),
    (get("/a", "Upgrade: websocket"), SWITCHING),
    (get("/a", "Connection: close", "Upgrade: websocket"), SWITCHING),
    (get("/a", "Connection: Upgrade", "Upgrade: h2c"), SWITCHING.replace(b"websocket", b"h2c")),
    (get("/a", "Connection: Upgrade", "Upgrade: TLS/1.0"), SWITCHING.replace(b"websocket", b"TLS/1.0, HTTP/1.1")),
    (get("/a", *UPGRADE, "Upgrade: h2c"), SWITCHING.replace(b"websocket", b"h2c")),
    (get("/a", *UPGRADE).replace(b"HTTP/1.1", b"HTTP/1.0"), SWITCHING),
    (get("/a", *UPGRADE).replace(b"GET", b"POST"), SWITCHING),
    (get("/a", *UPGRADE), b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    (get("/a", *UPGRADE), b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
    (get("/a", *UPGRADE), b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n"),
    (get("/a", *UPGRADE), SWITCHING.replace(b"websocket", b"h2c")),
    (get("/a", *UPGRADE), SWITCHING.replace(b"101 Switching Protocols", b"103 Early Hints")
     + b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    (get("/a", *UPGRADE), SWITCHING.replace(b"101 Switching Protocols", b"426 Upgrade Required")[:-2]
     + b"Connection: close\r\nContent-Length: 0\r\n\r\n"),
])
def test_nothing_else_ends_http(http: Start, request_: bytes, response: bytes) -> None:
    """Whatever an application answers: no request reaches the server with what its client claims in it alone."""
    recorder = Recorder(lambda request: OK if b"/forged" in request else response)
    balancer = http(recorder)
    with balancer.connect() as sock:
        sock.sendall(request_)
        assert read_exactly(sock, len(response)) == response
        sock.sendall(FORGED)
        assert read_all(sock) == b""
    with balancer.connect() as sock:
        sock.sendall(request_ + FORGED)
        assert read_all(sock) == response
    balancer.wait_idle()
    assert len(recorder.requests) == 2 and not any(b"6.6.6.6" in request for request in recorder.requests)


@pytest.mark.parametrize("request_", [
    b"CONNECT www:443 HTTP/1.1\r\nHost: www:443\r\n\r\n", b"CONNECT www:443 HTTP/1.0\r\n\r\n",
    b"connect www:443 HTTP/1.1\r\nHost: www:443\r\n\r\n", get("/", *UPGRADE).replace(b"GET /", b"CONNECT www:443"),
])
def test_no_tunnel(http: Start, request_: bytes) -> None:
    """An application may answer 200 to it, and go on speaking HTTP."""
    recorder = Recorder()
    balancer = http(recorder)
    with balancer.connect() as sock:
        sock.sendall(request_ + FORGED)
        assert read_all(sock).startswith(BAD_REQUEST)
    assert recorder.connections == []
    with balancer.connect() as sock:
        sock.sendall(get("/a") + request_ + FORGED)
        assert read_all(sock).startswith(OK + BAD_REQUEST)
    assert recorder.connections == [[added(get("/a"))]]


# --- much ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["Content-Length: 20000000", "Transfer-Encoding: chunked"])
def test_a_large_upload_to_a_slow_server(http: Start, coding: str) -> None:
    """It arrives whole, the client is held back meanwhile, and the next request comes behind it."""
    body = random.Random(3).randbytes(1_000_000) * 20
    is_chunked = "chunked" in coding
    got: list[str] = []
    go_on = threading.Event()

    def serve(sock: socket.socket) -> None:
        assert read_head(sock).endswith(ADDED)
        assert go_on.wait(20)
        sha, left = hashlib.sha256(), len(body)
        with sock.makefile("rb") as file:
            while is_chunked and (size := int(file.readline(), 16)):
                sha.update(file.read(size))
                assert file.readline() == b"\r\n"
            if is_chunked:
                assert file.readline() == b"\r\n"
            else:
                sha.update(file.read(left))
            got.append(sha.hexdigest())
            sock.sendall(OK)
            assert file.readline() == b"GET /next HTTP/1.1\r\n"
        sock.sendall(OK)

    def send(sock: socket.socket) -> None:
        sock.sendall(f"POST / HTTP/1.1\r\nHost: www\r\n{coding}\r\n\r\n".encode())
        for start in range(0, len(body), 1_000_000) if is_chunked else ():
            sock.sendall(b"f4240\r\n" + body[start:start + 1_000_000] + b"\r\n")
        sock.sendall(b"0\r\n\r\n" if is_chunked else body)
        sock.sendall(get("/next"))

    balancer = http(serve)
    with balancer.connect() as sock:
        sender = threading.Thread(target=send, args=(sock,))
        sender.start()
        wait_until(lambda: balancer.json("connection 0")["pend"] > 0 if balancer.json("sessions") else False)
        assert balancer.json("sessions")[0]["up"] < len(body)
        go_on.set()
        assert [read_response(sock) for _ in range(2)] == [OK] * 2
        sender.join()
    assert got == [hashlib.sha256(body).hexdigest()]


def test_what_waits_for_its_turn_is_never_sent_as_it_came(http: Start) -> None:
    """The end of a body waits for room in the server's socket, and behind it, read with it at once, the head of the
    next request for the answer. So that it comes to that, the server answers unseen until a body does not fit."""
    head, body = b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 100000\r\n", b"b" * 100_000
    request = head + ADDED + body
    turns: queue.Queue[int] = queue.Queue()  # bytes to read before the next answer
    got: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        while (count := turns.get(timeout=20)) >= 0:
            got.append(read_exactly(sock, count))
            if count:
                wait_until(lambda: pending() == len(head + b"\r\n"))
            sock.sendall(OK)
        got.append(read_all(sock))

    def pending() -> int:
        """Of the session, when it has read all that was sent to it."""
        is_read = balancer.json("recent")[0]["rx"] == sent
        return int(balancer.json("connection 0")["pend"]) if is_read else 0

    balancer = http(serve)
    count = 0
    with balancer.connect() as sock:
        sock.sendall(head + b"\r\n")
        sent = len(head + b"\r\n")
        wait_until(lambda: balancer.json("sessions")[0]["up"] == len(head + ADDED))
        while True:
            sock.sendall(body + head + b"\r\n")
            sent += len(body + head + b"\r\n")
            count += 1
            if wait_until(pending) > len(head + b"\r\n"):
                break
            turns.put(0)
            assert read_response(sock) == OK
        turns.put(count * len(request))
        assert read_response(sock) == OK
        sock.sendall(body)
        turns.put(0)
        assert read_response(sock) == OK
        turns.put(-1)
    wait_until(lambda: len(got) == count + 2)
    assert b"".join(got) == request * (count + 1)


def read_head(sock: socket.socket) -> bytes:
    """A head, and no byte behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return head


def test_large_downloads_to_a_slow_client(http: Start) -> None:
    """The second one is asked for when the first is through, and nothing is lost."""
    body = random.Random(4).randbytes(1_000_000) * 20
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + body
    recorder = Recorder(lambda request: response)
    balancer = http(recorder)
    with balancer.connect() as sock:
        sock.sendall(get("/a") + get("/b"))
        wait_until(lambda: recorder.requests)
        assert recorder.requests == [added(get("/a"))]
        for _ in range(2):
            got = read_exactly(sock, len(response))
            assert hashlib.sha256(got).digest() == hashlib.sha256(response).digest()
    assert recorder.requests == [added(get("/a")), added(get("/b"))]


def test_many_requests_at_once(http: Start) -> None:
    """More than fits into gpen and the kernel: the client is held back until they are answered."""
    recorder = Recorder()
    requests = [get(f"/{number}", "A: " + "x" * 1000) for number in range(1000)]
    with http(recorder).connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=(b"".join(requests),))
        sender.start()
        assert [read_response(sock) for _ in requests] == [OK] * 1000
        sender.join()
    assert recorder.requests == [added(request) for request in requests]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 1 << 16])
def test_a_malformed_request(http: Start, cut: int) -> None:
    """The client is told when it has got all answers, the server sees nothing of it."""
    recorder = Recorder()
    balancer = http(recorder, "-d")
    stream = get("/a") + get("/b") + MALFORMED + get("/smuggled")
    with balancer.connect() as sock:
        for start in range(0, len(stream), cut):
            sock.sendall(stream[start:start + cut])
        got = read_all(sock)
    assert got.startswith(OK + OK + BAD_REQUEST)
    assert b"\r\nConnection: close\r\n" in got and got.endswith(b"</h1>\n")
    balancer.wait_idle()
    assert recorder.connections == [[added(get("/a")), added(get("/b"))]]
    assert ending(balancer) == "bad-request"
    assert "request of 127.0.0.1:" in balancer.stderr and "refused (400): a malformed header" in balancer.stderr


def test_a_malformed_request_behind_a_large_answer(http: Start) -> None:
    """The answer comes whole, to a client that takes its time, and the refusal behind it."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)
    balancer = http(Recorder(lambda request: response))
    with balancer.connect() as sock:
        sock.sendall(get("/a") + MALFORMED)
        wait_until(lambda: balancer.json("sessions")[0]["down"] > 0)
        got = read_all(sock)
    assert got[:len(response)] == response
    assert got[len(response):].startswith(BAD_REQUEST)


def test_a_refusal_is_not_overtaken_by_a_reset(http: Start) -> None:
    """Though the client goes on sending."""
    balancer = http(Recorder())
    for _ in range(10):
        with balancer.connect() as sock:
            sender = threading.Thread(target=send_all, args=(sock, MALFORMED + bytes(3_000_000)))
            sender.start()
            assert read_until(sock, b"</h1>\n").startswith(BAD_REQUEST)
            sender.join()


def send_all(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        return  # it is not read to the end


def test_a_header_without_end(http: Start) -> None:
    """431, at the limit."""
    recorder = Recorder()
    balancer = http(recorder, "-O", "http_header_max 5000")
    with balancer.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: www\r\n")
        for _ in range(47):
            sock.sendall(b"A: " + b"b" * 95 + b"\r\n")
        wait_until(lambda: balancer.json("sessions")[0]["up"] == 0 and balancer.json("recent")[0]["rx"] > 4700)
        sock.sendall(b"A: " + b"c" * 900)
        assert read_all(sock).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    with balancer.connect() as sock:
        sock.sendall(get("/", "A: " + "b" * 6000))
        assert read_all(sock).startswith(b"HTTP/1.1 431 ")
    assert recorder.requests == []


def test_a_malformed_body(http: Start) -> None:
    """Its head has gone; the server gets no end that it could believe in, and the client its 400."""
    recorder = Recorder()
    balancer = http(recorder)
    head = b"POST / HTTP/1.1\r\nHost: www\r\nTransfer-Encoding: chunked\r\n"
    with balancer.connect() as sock:
        sock.sendall(head + b"\r\n3\r\nabc\r\n")
        wait_until(lambda: balancer.json("sessions")[0]["up"])
        sock.sendall(b"3\r\nabcd\r\n0\r\n\r\n" + get("/smuggled"))
        assert read_all(sock).startswith(BAD_REQUEST)
    wait_until(lambda: recorder.requests)
    assert recorder.requests == [head + ADDED + b"3\r\nabc\r\n"]
    assert ending(balancer) == "bad-request"


def test_a_malformed_body_of_a_request_that_is_being_answered(http: Start) -> None:
    """Nothing is put into the answer."""
    head = b"POST / HTTP/1.1\r\nHost: www\r\nTransfer-Encoding: chunked\r\n"
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    balancer = http(script((head + ADDED, begun), then=hold))
    with balancer.connect() as sock:
        sock.sendall(head + b"\r\n")
        assert read_exactly(sock, len(begun)) == begun
        sock.sendall(b"x\r\n")
        assert read_all(sock) == b""
    assert ending(balancer) == "bad-request"
