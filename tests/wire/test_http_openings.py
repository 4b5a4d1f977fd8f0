"""HTTP mode before there is a server: it is dialled when the head of the first request is whole, valid and in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.harness import Gpen, Server, hold, read_all, refusing, reset, wait_until
from tests.proto.test_http_requests import SMUGGLING
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import ADDED, OK, Recorder, added, get, read_exactly, read_response

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
HALF = b"GET / HTTP/1.1\r\nHost: w"
LATE = b"HTTP/1.1 408 Request Timeout\r\n"
LIMIT = ("-O", "http_head_timeout 1")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def http(gpen: Start, servers: Servers, recorder: Recorder) -> Start:
    """Start gpen in HTTP mode before the recorder."""
    return lambda *options: gpen("-H", "-l", "gpen.log", *options, servers=[servers(recorder)])


def states(balancer: Gpen) -> list[str]:
    return [row["state"] for row in balancer.json("sessions")]


def ending(balancer: Gpen) -> str:
    """How the session ended that ended last."""
    lines = wait_until(lambda: (log := balancer.log).endswith("\n") and log, what="a whole line in the log")
    return str(lines).splitlines()[-1].partition(" down ")[2].split()[1]


def costs_nothing(balancer: Gpen, recorder: Recorder) -> bool:
    """Whether no server was troubled so far."""
    row = balancer.server(0)
    return (row["total"], row["sessions"], row["failures"], recorder.connections) == (0, 0, 0, [])


# --- no server for who has not asked ---------------------------------------------------------------------------------


def test_half_heads_hold_no_server(http: Start, recorder: Recorder) -> None:
    balancer = http()
    with ExitStack() as stack:
        clients = [stack.enter_context(balancer.connect()) for _ in range(50)]
        for client in clients[10:]:
            client.sendall(HALF)
        wait_until(lambda: sum(row["rx"] for row in balancer.json("recent")) == 40 * len(HALF))
        assert states(balancer) == ["request"] * 50
        assert costs_nothing(balancer, recorder)
        for client in clients[10:]:
            client.sendall(b"ww\r\n\r\n")
        assert [read_response(client) for client in clients[10:]] == [OK] * 40
        assert sorted(states(balancer)) == ["open"] * 40 + ["request"] * 10
    balancer.wait_idle()
    assert recorder.requests == [added(get("/"))] * 40
    assert balancer.server(0)["total"] == 40


def test_refused_requests_cost_no_server(http: Start, recorder: Recorder) -> None:
    balancer = http("-O", "http_header_max 1000")
    chunk = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"
    for name, request in {**SMUGGLING, "malformed chunk": chunk}.items():
        assert balancer.ask(request).startswith(b"HTTP/1.1 400 Bad Request\r\n"), name
        assert ending(balancer) == "bad-request"
    assert balancer.ask(get("/", "A: " + "b" * 1000)).startswith(b"HTTP/1.1 431 ")
    assert costs_nothing(balancer, recorder)


@pytest.mark.parametrize("said", [b"", b"\r", b"\r\n", HALF])
def test_a_client_that_leaves(http: Start, recorder: Recorder, said: bytes) -> None:
    balancer = http()
    for leave, word in ((socket.socket.close, "client-closed"), (reset, "client-reset")):
        client = balancer.connect()
        client.sendall(said)
        wait_until(lambda: sum(row["rx"] for row in balancer.json("recent")) >= len(said) and states(balancer))
        leave(client)
        balancer.wait_idle()
        assert ending(balancer) == word
    assert balancer.ask(said) == b""
    balancer.wait_idle()
    assert ending(balancer) == "client-closed"
    assert costs_nothing(balancer, recorder)
    assert balancer.json("recent")[0]["connects"] == 3


def test_a_server_that_is_closed_by_a_command_does_not_matter(http: Start, recorder: Recorder) -> None:
    """Nobody who has not asked is on a server: close, drain and a limit don't concern such a client."""
    balancer = http()
    with balancer.connect() as client:
        client.sendall(HALF)
        wait_until(lambda: states(balancer) == ["request"])
        balancer.ctl("server 0 max 1", "close server 0", "on_down close", "server 0 health down", "server 0 health up")
        assert balancer.ask(get("/")) == OK
        client.sendall(b"ww\r\n\r\n")
        assert read_response(client) == OK
    balancer.wait_idle()


def test_close_ends_one_that_has_not_asked(http: Start) -> None:
    balancer = http()
    with balancer.connect() as client:
        client.sendall(HALF)
        number = wait_until(lambda: balancer.json("sessions"))[0]["id"]
        balancer.ctl(f"close {number}")
        assert read_all(client) == b""
    assert ending(balancer) == "killed"


def test_they_count_for_conn_max(http: Start) -> None:
    """Until their time is over."""
    balancer = http("-x", "2", *LIMIT)
    with balancer.connect() as one, balancer.connect() as two:
        one.sendall(HALF)
        wait_until(lambda: states(balancer) == ["request"] * 2)
        assert balancer.ask(get("/")) == OK
        assert read_all(one).startswith(LATE) and read_all(two).startswith(LATE)


# --- time ------------------------------------------------------------------------------------------------------------


def trickle(client: Any, begin: bytes) -> tuple[bytes, float]:
    """Send this, and then a byte now and then, and read at the same time: what comes, and after how many seconds."""
    start, got = time.monotonic(), b""
    client.settimeout(0.1)
    client.sendall(begin)
    while time.monotonic() - start < 10:
        try:
            if not (piece := client.recv(1 << 16)):
                break
            got += piece
        except TimeoutError:
            client.sendall(b"x")
    return got, time.monotonic() - start


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nA: b", b"GET / HTTP/1.1\r\nA: b\r\n"])
def test_bytes_do_not_renew_it(http: Start, recorder: Recorder, begin: bytes) -> None:
    balancer = http("-d", *LIMIT)
    with balancer.connect() as client:
        got, seconds = trickle(client, begin)
    assert got.startswith(LATE) and b"\r\nConnection: close\r\n" in got and got.endswith(b"</h1>\n")
    assert 0.9 < seconds < 5
    assert ending(balancer) == "request-timeout"
    assert "refused (408): no whole header within 1 s (http_head_timeout)" in balancer.stderr
    assert costs_nothing(balancer, recorder)


def test_a_silent_client(http: Start, recorder: Recorder) -> None:
    balancer = http(*LIMIT)
    start = time.monotonic()
    with balancer.connect() as client:
        assert read_all(client).startswith(LATE)
    assert 0.9 < time.monotonic() - start < 5
    assert costs_nothing(balancer, recorder)


def test_blank_lines_are_no_head(http: Start, recorder: Recorder) -> None:
    """Who sends nothing else, and much of that, holds nobody up and is sent away."""
    balancer = http(*LIMIT)
    with balancer.connect() as client:
        sender = threading.Thread(target=flood, args=(client,))
        sender.start()
        wait_until(lambda: balancer.json("recent") and balancer.json("recent")[0]["rx"] > 1_000_000)
        start = time.monotonic()
        assert balancer.ask(get("/")) == OK
        assert time.monotonic() - start < 1
        wait_until(lambda: balancer.log.count("request-timeout") == 1)
        sender.join()
    assert recorder.requests == [added(get("/"))]


def flood(client: socket.socket) -> None:
    try:
        while True:
            client.sendall(b"\r\n" * 10_000)
    except OSError:
        return


@pytest.mark.parametrize("said", [OK, OK * 2])
def test_later_requests(http: Start, recorder: Recorder, said: bytes) -> None:
    """From their first byte; behind the answers to those before."""
    balancer = http(*LIMIT)
    count = len(said) // len(OK)
    with balancer.connect() as client:
        client.sendall(get("/") * count)
        assert read_exactly(client, len(said)) == said
        got, seconds = trickle(client, HALF)
        assert got.startswith(LATE)
        assert 0.9 < seconds < 5
    assert recorder.connections == [[added(get("/"))] * count]
    assert ending(balancer) == "request-timeout"


def test_the_time_between_requests_does_not_count(http: Start) -> None:
    """Nor does the time that an answer takes, or a body."""
    balancer = http(*LIMIT)
    with balancer.connect() as client:
        for _ in range(2):
            client.sendall(get("/"))
            assert read_response(client) == OK
            time.sleep(2.5)  # that nothing happens meanwhile is what is tested; the janitor comes each second
        client.sendall(b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 10\r\n\r\n12345")
        time.sleep(2.5)
        client.sendall(b"67890" + get("/"))
        assert [read_response(client) for _ in range(2)] == [OK] * 2


def test_the_time_of_an_answer_does_not_count(gpen: Start, servers: Servers) -> None:
    """A head that came with the request before waits for its turn, and need not be whole before that."""
    answered = threading.Event()

    def answer(request: bytes) -> bytes:
        assert b"/slow" not in request or answered.wait(20)
        return OK

    recorder = Recorder(answer)
    balancer = gpen("-H", *LIMIT, servers=[servers(recorder)])
    with balancer.connect() as client:
        client.sendall(get("/slow") + HALF)
        time.sleep(2.5)  # longer than a head may take
        assert states(balancer) == ["open"]
        answered.set()
        assert read_response(client) == OK
        client.sendall(b"ww\r\n\r\n")
        assert read_response(client) == OK
    assert recorder.requests == [added(get("/slow")), added(get("/"))]


def test_a_late_head_behind_an_answer_that_is_being_read(gpen: Start, servers: Servers) -> None:
    """The client gets all of the answer, and then the refusal."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)
    balancer = gpen("-H", "-l", "gpen.log", *LIMIT, servers=[servers(Recorder(lambda request: response))])
    with balancer.connect() as client:
        client.sendall(get("/") + HALF)
        wait_until(lambda: balancer.json("sessions")[0]["down"] > 0)
        got = read_all(client)
    assert got[:len(response)] == response and got[len(response):].startswith(LATE)


def test_never(http: Start, recorder: Recorder) -> None:
    balancer = http("-O", "http_head_timeout 0")
    with balancer.connect() as first, balancer.connect() as later:
        later.sendall(get("/"))
        assert read_response(later) == OK
        first.sendall(HALF)
        later.sendall(HALF)
        time.sleep(2.5)
        for client in (first, later):
            client.sendall(b"ww\r\n\r\n")
            assert read_response(client) == OK


def test_idle_timeout_counts_as_well(http: Start, recorder: Recorder) -> None:
    balancer = http("-O", "idle_timeout 1")
    with balancer.connect() as client:
        client.sendall(HALF)
        assert read_all(client) == b""
    assert ending(balancer) == "idle"
    assert costs_nothing(balancer, recorder)


def test_changed_at_runtime(http: Start) -> None:
    balancer = http()
    assert balancer.ctl("http_head_timeout").strip().startswith("10")
    with balancer.connect() as client:
        client.sendall(get("/"))
        assert read_response(client) == OK
        balancer.ctl("http_head_timeout 1")
        client.sendall(HALF)
        assert read_all(client).startswith(LATE)


def test_http_is_switched_off_meanwhile(http: Start, recorder: Recorder) -> None:
    """A session ends as what it began as."""
    balancer = http(*LIMIT)
    with balancer.connect() as one, balancer.connect() as two:
        one.sendall(HALF)
        two.sendall(HALF)
        wait_until(lambda: states(balancer) == ["request"] * 2)
        balancer.ctl("no http")
        two.sendall(b"ww\r\n\r\n")
        assert read_response(two) == OK
        assert read_all(one).startswith(LATE)
    assert recorder.requests == [added(get("/"))]


# --- what is said before there is a server ---------------------------------------------------------------------------

BODY = b"0123456789" * 30_000
POST = b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: %d\r\n" % len(BODY)


def test_a_request_that_is_held(http: Start, recorder: Recorder) -> None:
    """With all that came with it, and behind it, and the end of the client's side."""
    balancer = http("-O", "hold 20")
    balancer.ctl("server 0 health down")
    with balancer.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(POST + b"\r\n" + BODY + get("/next"),))
        sender.start()
        wait_until(lambda: states(balancer) == ["held"])
        balancer.ctl("server 0 health up")
        assert [read_response(client) for _ in range(2)] == [OK] * 2
        sender.join()
    balancer.ctl("server 0 health down")
    with balancer.connect() as client:
        client.sendall(get("/last"))
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: states(balancer) == ["held"])
        balancer.ctl("server 0 health up")
        assert read_all(client) == OK
    balancer.wait_idle()
    assert recorder.connections == [[POST + ADDED + BODY, added(get("/next"))], [added(get("/last"))]]


def test_a_held_client_that_leaves(http: Start, recorder: Recorder) -> None:
    balancer = http("-O", "hold 60")
    balancer.ctl("server 0 health down")
    client = balancer.connect()
    client.sendall(get("/"))
    wait_until(lambda: states(balancer) == ["held"])
    reset(client)
    wait_until(lambda: not states(balancer))
    assert costs_nothing(balancer, recorder)


def test_the_next_server_gets_it(gpen: Start, servers: Servers) -> None:
    """Whole, when the first refuses."""
    recorder = Recorder()
    with refusing() as address:
        balancer = gpen("-H", "-r", servers=[address, servers(recorder)])
        with balancer.connect() as client:
            client.sendall(POST + b"\r\n" + BODY)
            assert read_response(client) == OK
    assert recorder.connections == [[POST + ADDED + BODY]]


def test_the_time_a_server_takes_does_not_count(gpen: Start, servers: Servers) -> None:
    """Once the head is whole, its time limit is nothing to the client that waits for a server."""
    recorder = Recorder()
    balancer = gpen("-H", *LIMIT, "-O", "hold 20", servers=[servers(recorder)])
    balancer.ctl("server 0 health down")
    with balancer.connect() as client:
        client.sendall(get("/"))
        time.sleep(2.5)
        assert states(balancer) == ["held"]
        balancer.ctl("server 0 health up")
        assert read_response(client) == OK


def test_a_server_that_closes_at_once(gpen: Start, servers: Servers) -> None:
    """The client gets the end, as with a later request."""
    balancer = gpen("-H", "-l", "gpen.log", servers=[servers(lambda sock: None)])
    with balancer.connect() as client:
        client.sendall(POST + b"\r\n" + BODY[:100])
        assert read_all(client) == b""
    balancer.wait_idle()
    assert ending(balancer) in ("server-closed", "server-reset")


def test_a_request_that_does_not_fit_into_the_servers_socket(gpen: Start, servers: Servers) -> None:
    """Many are sent before the server reads any."""
    balancer = gpen("-H", servers=[servers(hold)])
    with balancer.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 100000000\r\n\r\n" + BODY)
        sender = threading.Thread(target=flood, args=(client,))
        sender.start()
        wait_until(lambda: balancer.json("sessions") and balancer.json("connection 0")["pend"] > 0)
        client.shutdown(socket.SHUT_RDWR)
        sender.join()


def test_who_may_not_send_a_proxy_header(http: Start, recorder: Recorder) -> None:
    """In HTTP mode it is a malformed request."""
    balancer = http("-O", "acl 1 deny 127.0.0.1", "-O", "accept_proxy 1")
    for header in (b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)):
        assert balancer.ask(header + get("/")).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert costs_nothing(balancer, recorder)
    with balancer.connect() as client:  # a body is none, in whatever piece it comes
        client.sendall(b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 10\r\n\r\n")
        wait_until(lambda: balancer.json("sessions")[0]["up"])
        client.sendall(b"PROXY TCP4")
        assert read_response(client) == OK


def test_the_abuse_server(gpen: Start, servers: Servers) -> None:
    """It gets what clients ask that are denied, with who they are; others get nothing."""
    abuse, recorder = Recorder(), Recorder()
    balancer = gpen("-H", "-B", servers(abuse).address, "-O", "acl 1 deny 127.0.0.1", "-O", "client_acl 1",
                    servers=[servers(recorder)])
    with balancer.connect() as client:
        client.sendall(HALF)
        wait_until(lambda: states(balancer) == ["request"])
        assert abuse.connections == []
        client.sendall(b"ww\r\n\r\n")
        assert read_response(client) == OK
    assert abuse.requests == [added(get("/"))] and recorder.connections == []


def test_the_dummy_server(gpen: Start) -> None:
    with refusing() as address:
        assert gpen("-H", "-O", "dummy", servers=[address]).ask(get("/")).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_server_that_hears_of_the_client(gpen: Start, servers: Servers) -> None:
    """The PROXY protocol's header, and the request behind it."""
    recorder = Recorder()
    balancer = gpen("-H", "-O", "proxy_protocol v1", servers=[servers(recorder)])
    assert balancer.ask(get("/")) == OK
    assert recorder.requests[0].startswith(b"PROXY TCP4 127.0.0.1 ")
    assert recorder.requests[0].partition(b"\r\n")[2] == added(get("/"))


@pytest.mark.parametrize("cut", [5, 1000])
def test_what_is_logged_and_shown(http: Start, cut: int) -> None:
    """pen's line for a request, and the bytes of debug 2, though they came before there was a server."""
    balancer = http("-O", "log_format pen", "-O", "debug 2", "-O", "ascii")
    with balancer.connect() as client:
        client.sendall(get("/logged")[:cut])
        wait_until(lambda: balancer.json("recent") and balancer.json("recent")[0]["rx"] > 0)
        client.sendall(get("/logged")[cut:])
        assert read_response(client) == OK
    wait_until(lambda: "GET /logged HTTP/1.1" in balancer.log)
    assert f"{len(get('/logged'))} bytes from the client: GET /logged HTTP/1.1" in balancer.stderr


def test_accounts(http: Start) -> None:
    balancer = http()
    assert balancer.ask(get("/")) == OK
    balancer.wait_idle()
    row, client = balancer.server(0), balancer.json("recent")[0]
    assert (row["sx"], row["rx"], row["total"]) == (len(added(get("/"))), len(OK), 1)
    assert (client["rx"], client["sx"]) == (len(get("/")), len(OK))


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(http: Start, certificates: Certificates) -> Start:
    return lambda *options: http(*certificates.server.options, *options)


@pytest.fixture
def dial(certificates: Certificates) -> Callable[[Gpen], TlsClient]:
    context = trusting(certificates.authority.certificate)
    return lambda balancer: TlsClient(balancer.address, context)


def test_tls_bytes_do_not_renew_it(secure: Start, dial: Callable[[Gpen], TlsClient], recorder: Recorder) -> None:
    """From the end of the handshake."""
    balancer = secure(*LIMIT)
    with dial(balancer) as client:
        for byte in b"GET / HTT":
            client.sendall(bytes([byte]))
            time.sleep(0.2)
        got = client.read_all()
    assert got.startswith(LATE) and got.endswith(b"</h1>\n")
    assert ending(balancer) == "request-timeout"
    assert costs_nothing(balancer, recorder)


def test_tls_later_requests(secure: Start, dial: Callable[[Gpen], TlsClient]) -> None:
    balancer = secure(*LIMIT)
    with dial(balancer) as client:
        client.sendall(get("/"))
        assert read_response(client) == OK
        client.sendall(HALF)
        assert client.read_all().startswith(LATE)


@pytest.mark.parametrize("count", [1, 3])
def test_tls_goodbyes(secure: Start, dial: Callable[[Gpen], TlsClient], recorder: Recorder, count: int) -> None:
    """One that comes with requests, and nothing behind it, is a half-close; one in their place is the end."""
    balancer = secure()
    with dial(balancer) as client:
        client.sendall(HALF)
        wait_until(lambda: states(balancer) == ["request"])
    balancer.wait_idle()
    assert ending(balancer) == "client-closed"
    assert costs_nothing(balancer, recorder)
    with dial(balancer) as client:
        client.fin = False
        client.sock.sendall(client.encrypted(get("/") * count) + client.goodbye())
        assert client.read_all() == OK * count
        balancer.wait_idle()
    assert recorder.requests == [added(get("/")).replace(b"-Proto: http", b"-Proto: https")] * count


def test_tls_that_is_spoilt(secure: Start, dial: Callable[[Gpen], TlsClient], recorder: Recorder) -> None:
    """Behind half a head, and behind a whole one: what came before is delivered."""
    balancer = secure()
    for said, count in ((HALF, 0), (get("/"), 1)):
        with dial(balancer) as client:
            client.sock.sendall(client.encrypted(said) + b"\x17\x03\x03\0\x20" + bytes(32))
            balancer.wait_idle()
        assert ending(balancer) == "client-reset"
        assert len(recorder.requests) == count
