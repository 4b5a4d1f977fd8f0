"""The door of a gpen that another replaces."""

from __future__ import annotations

import contextlib
import http.client
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.door import DOOR, Connection, ask, asked
from tests.harness import Gpen, Server, connect, echo, hold, pair_of, read_all, wait_until
from tests.replacing import Pretender, replacing

Start = Callable[..., Gpen]
Servers = Callable[..., Server]


@pytest.mark.parametrize("at", ["127.0.0.1:0", "/door"])
def test_the_new_one_answers_there(gpen: Start, servers: Servers, tmp_path: Path, at: str) -> None:
    """Nobody is turned away, and whoever had a connection to the old one gets a new one."""
    place = at if ":" in at else f"{tmp_path}{at}"
    old = gpen("-O", f"metrics {place}", servers=[servers(hold)])
    with contextlib.closing(Connection(old)) as connection, old.connect():
        assert asked(connection, "/api/info").json["pid"] == old.pid
        with replacing(old) as new:
            assert connection.sock.recv(1) == b""  # its end: asked before that comes, the old one answers once more
            assert asked_again(connection) in (None, new.pid)
            assert ask(new, "/api/info").json["pid"] == new.pid
            assert new.ctl("metrics") != ""
    assert not (tmp_path / "door").exists()


def asked_again(connection: Connection) -> int | None:
    """The pid of who answers a connection that was there before; None when it was ended."""
    try:
        return int(asked(connection, "/api/info").json["pid"])
    except (OSError, http.client.HTTPException):
        return None


def test_who_comes_meanwhile_is_answered_when_nobody_takes_over(gpen: Start, servers: Servers) -> None:
    """Between the other's word that it is ready and its end nobody is answered, and nobody turned away."""
    old = gpen(*DOOR, servers=[servers(echo)])
    place = pair_of(old.ctl("metrics").strip())
    with Pretender(old) as other:
        other.listen()
        other.ready("")
        other.listen()
        sock = connect(place)
        sock.sendall(b"GET /api/info HTTP/1.0\r\n\r\n")
        assert not select.select([sock], [], [], 0.2)[0]
    with sock:
        assert f'"pid":{old.pid},'.encode() in read_all(sock)


def test_who_has_just_come_is_answered(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """Also where the door moves before the request comes; whoever was answered before has to come again."""
    balancer = gpen(*DOOR, servers=[servers(echo)])
    with connect(pair_of(balancer.ctl("metrics").strip())) as new, contextlib.closing(Connection(balancer)) as known:
        assert asked(known, "/api/info").status == 200
        balancer.ctl(f"metrics {tmp_path}/door")
        assert known.sock.recv(1) == b""  # its end: asked before that comes, it is answered once more
        assert asked_again(known) is None
        new.sendall(b"GET /api/info HTTP/1.1\r\n\r\n")
        assert read_all(new).startswith(b"HTTP/1.1 200")


def test_no_scrape_is_lost(gpen: Start, servers: Servers) -> None:
    """Whoever asks while one replaces another has the whole answer of one of them."""
    many = [word for number in range(1, 200) for word in ("-O", f"server {number} address 127.1.0.{number}:80")]
    old = gpen(*DOOR, *many, servers=[servers(echo)])
    place, problems, over = pair_of(old.ctl("metrics").strip()), [], threading.Event()

    def scrape() -> int:
        count = 0
        while not over.is_set():
            with connect(place) as sock:
                sock.sendall(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
                answer = read_all(sock)
            if not (answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n0\r\n\r\n")):
                problems.append(answer[:100])
            count += 1
        return count

    with ThreadPoolExecutor(20) as pool:
        scrapes = [pool.submit(scrape) for _ in range(20)]
        try:
            with replacing(old) as new:
                wait_until(lambda: old.process.poll() is not None, what="the end of the old one")
                assert ask(new, "/api/info").json["pid"] == new.pid
                over.set()
                assert min(each.result() for each in scrapes) > 0
        finally:
            over.set()
    assert problems == []
