"""gpenlog and gpenlogd with pen, penlog and penlogd at the other end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server, connect, wait_until
from tests.netlog.programs import (
    GPENLOG,
    WEB,
    Address,
    Collector,
    line,
    needs_penlog,
    note,
    penlogd,
    run,
    send,
)
from tests.pen.balancers import GPEN, PEN, Balancer, needs_pen

Start = Callable[..., Collector]

CLIENT = "192.0.2.7"
NOTES = [note(CLIENT, b"GET /a HTTP/1.1"), note("2001:db8::7", b"GET /6 HTTP/1.1"),
         note("192.0.2.8", b"GET /other HTTP/1.1", server="127.0.0.3")]
LOG = [line(b"GET /a HTTP/1.1"), line(b"GET /6 HTTP/1.1"), line(b"GET /other HTTP/1.1"), line(b"GET /unknown HTTP/1.1"),
       line(b"GET /a HTTP/1.1", b'304 0 "-" "agent \xc3\xa9"'), b"no request in quotes\n", b"\n", line(b"-", b"408 0"),
       b'lb - user [x] "GET /a HTTP/1.1" 200\n']
MERGED = [line(b"GET /a HTTP/1.1", address=CLIENT), line(b"GET /6 HTTP/1.1", address="2001:db8::7"), *LOG[2:4],
          line(b"GET /a HTTP/1.1", b'304 0 "-" "agent \xc3\xa9"', CLIENT), line(b"-", b"408 0"),
          b'192.0.2.7 - user [x] "GET /a HTTP/1.1" 200\n']
PENLOG = ["penlog"]


def feed(program: list[str], address: Address) -> None:
    """Notes of a balancer, then a web server's log by way of this program."""
    send(address, *NOTES, source="127.0.0.1")
    done = run([*program, address[0], str(address[1]), WEB], b"".join(LOG))
    assert (done.returncode, done.stderr) == (0, b"")


@needs_penlog
@pytest.mark.parametrize("program", [GPENLOG, PENLOG], ids=["gpenlog", "penlog"])
def test_gpenlogd_writes_what_penlogd_writes(program: list[str], gpenlogd: Start) -> None:
    collector = gpenlogd()
    feed(program, collector.address)
    collector.wait_for(b"".join(MERGED))


@needs_penlog
@pytest.mark.parametrize("program", [GPENLOG, PENLOG], ids=["gpenlog", "penlog"])
def test_penlogd_writes_the_same(program: list[str], tmp_path: Path) -> None:
    """penlogd keeps what it writes to itself until its end, which waits for no datagram."""
    with penlogd(tmp_path) as address:
        feed(program, address)
        wait_until(lambda: received_by(address[1]) == 0, what="an empty buffer of penlogd's socket")
    assert (tmp_path / "log").read_bytes() == b"".join(MERGED)


def received_by(port: int) -> int:
    """How many bytes wait in the buffer of a UDP port (proc(5): rx_queue)."""
    for row in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = row.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            return int(fields[4].rpartition(":")[2], 16)
    raise AssertionError(f"nobody has port {port}")


@needs_penlog
def test_long_lines_of_penlog(gpenlogd: Start) -> None:
    collector = gpenlogd()
    send(collector.address, note(CLIENT, b"GET /" + b"x" * 930), source="127.0.0.1")
    long = [line(b"GET /" + b"x" * 930, b'200 5 "' + b"y" * 3000 + b'"'), line(b"GET /b")]
    done = run([*PENLOG, *map(str, collector.address), WEB], b"".join(long))
    assert done.returncode == 0
    collector.wait_for(long[0].replace(b"127.0.0.1", CLIENT.encode(), 1) + long[1])


def visit(kind: str, directory: Path, collector: str) -> list[bytes]:
    """Five clients' requests through a balancer that tells this collector; what the web server has logged of them."""
    logged: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        """A web server that logs the address that it sees: the balancer's."""
        request = sock.recv(65536)
        logged.append(line(request.split(b"\r\n")[0], address="127.0.0.1"))
        sock.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with Server(serve, at=WEB) as web, Balancer(kind, directory, "-l", collector, servers=[web.address]) as balancer:
        for number in range(5):
            with connect(("127.0.0.1", balancer.port), f"127.0.1.{number + 1}") as client:
                client.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
                assert client.recv(100).startswith(b"HTTP/1.1 204")
    assert sorted(logged) == [line(b"GET /%d HTTP/1.1" % number) for number in range(5)]
    return sorted(logged)


VISITS = b"".join(line(b"GET /%d HTTP/1.1" % number, address=f"127.0.1.{number + 1}") for number in range(5))


@needs_pen
@pytest.mark.parametrize("kind", [PEN, GPEN])
def test_a_balancer_tells_gpenlogd(kind: str, tmp_path: Path, gpenlogd: Start) -> None:
    collector = gpenlogd()
    place = "{}:{}".format(*collector.address)
    run([*GPENLOG, place, WEB], b"".join(visit(kind, tmp_path, place)))
    collector.wait_for(VISITS)


@needs_penlog
def test_gpen_tells_penlogd(tmp_path: Path) -> None:
    with penlogd(tmp_path) as address:
        lines = visit(GPEN, tmp_path, "{}:{}".format(*address))
        run([*PENLOG, address[0], str(address[1]), WEB], b"".join(lines))
        wait_until(lambda: received_by(address[1]) == 0, what="an empty buffer of penlogd's socket")
    assert (tmp_path / "log").read_bytes() == VISITS
