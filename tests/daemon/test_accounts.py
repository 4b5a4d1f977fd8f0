"""A session is live or settled, never both: what it moved is counted once, though its last words are under way."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import Gpen, Server, wait_until
from tests.web.pages import data_of
from tests.wire.http_peers import Recorder, get, read_response

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
MALFORMED = b"GET / HTTP/1.1\r\nHost : www\r\n\r\n"
CLIENTS = 3


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    return gpen("-H", "-O", "hold 5", servers=[servers(Recorder(lambda request: BODY))])


@contextlib.contextmanager
def lingering(balancer: Gpen, count: int) -> Iterator[list[socket.socket]]:
    """Clients that had an answer, then asked for what they can't have, were told so, and do not leave."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(balancer.connect()) for _ in range(count)]
        for sock in clients:
            sock.sendall(get("/"))
            assert len(read_response(sock)) == len(BODY)
        yield clients


def refuse(clients: list[socket.socket]) -> None:
    for sock in clients:
        sock.sendall(MALFORMED)
    assert all(b" 400 " in read_response(sock) for sock in clients)


def moved(balancer: Gpen) -> tuple[Any, ...]:
    """Bytes to and from the server and to and from the client, by all that tells them."""
    page, = data_of(balancer.ctl("status"))["servers"]
    server, client = balancer.server(0), balancer.json("recent")[0]
    return server["sx"], server["rx"], client["rx"], client["sx"], (page["sx"], page["rx"])


def test_what_was_moved_is_counted_once(balancer: Gpen) -> None:
    with lingering(balancer, CLIENTS) as clients:
        sent, received, _, told, _ = moved(balancer)
        assert received == told == CLIENTS * len(BODY)
        refuse(clients)
        during = [moved(balancer)]
        states = {row["state"] for row in balancer.json("sessions")}
        while balancer.json("sessions"):
            during.append(moved(balancer))
        after = moved(balancer)
        assert states == {"ending"} and len(during) > 1
        assert all(figures[:2] == (sent, received) for figures in during)
        assert all(figures == after for figures in during)


def test_its_place_is_free_at_once(balancer: Gpen) -> None:
    """For clients that wait, for a drain, and for who asks; but its descriptor counts against conn_max."""
    balancer.ctl(f"server 0 max {CLIENTS}")
    with lingering(balancer, CLIENTS) as clients, balancer.connect() as waiting:
        waiting.sendall(get("/"))
        wait_until(lambda: "held" in {row["state"] for row in balancer.json("sessions")})
        refuse(clients)
        assert len(read_response(waiting)) == len(BODY)
        assert balancer.server(0)["sessions"] == 1
        assert balancer.ctl("close server 0") == "Closing 1 connections of server 0\n"
        assert balancer.ctl("drain 0 5").endswith("0 sessions went by themselves, 0 were closed\n")
        balancer.ctl(f"conn_max {CLIENTS}", "server 0 state ready")
        assert [row["state"] for row in balancer.json("sessions")] == ["ending"] * CLIENTS
        with balancer.connect() as late:
            late.sendall(get("/"))
            assert len(read_response(late)) == len(BODY)  # when the first of them is gone
    balancer.wait_idle()


def test_figures_never_fall(balancer: Gpen) -> None:
    """While clients come, are refused and linger."""
    stop = threading.Event()

    def visit() -> None:
        while not stop.is_set():
            with lingering(balancer, 2) as clients:
                refuse(clients)

    threads = [threading.Thread(target=visit) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        seen = [moved(balancer)[:4] for _ in range(200) if balancer.json("recent")]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(after >= before for row in zip(*seen, strict=True) for before, after in itertools.pairwise(row))


def test_clients_without_a_server_are_told_once(gpen: Start) -> None:
    """A 503 is counted once as well."""
    balancer = gpen("-H", "-e", "127.0.0.1:1", servers=["127.0.0.1:1"])
    with balancer.connect() as sock:
        sock.sendall(get("/"))
        page = read_response(sock)
        assert b" 503 " in page
        while balancer.json("sessions"):
            assert balancer.json("recent")[0]["sx"] == len(page)
    assert balancer.json("recent")[0]["sx"] == len(page)
