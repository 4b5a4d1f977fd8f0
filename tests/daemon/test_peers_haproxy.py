"""gpen beside a real haproxy, as peers: its stick-tables of servers' keys and gpen's memory of clients are one."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.harness import Gpen, Server, connect, free_port, naming, read_all, wait_until
from tests.peers import Circle, peer, remembered, wait_connected, wait_remembered

Start = Callable[..., Gpen]

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")


class Haproxy:
    """haproxy as the peer ``h`` of the gpen ``g``, with two tables: gpen, and web, which has IPv6 addresses."""

    def __init__(self, directory: Path, circle: Circle, servers: list[Server], tls: str = "") -> None:
        self.ports = free_port(), free_port()
        self._socket = directory / "haproxy.sock"
        lines = "\n".join(f"  server s{number} {server.address}" for number, server in enumerate(servers, 1))
        own = f"  bind {circle.addresses['h']} {tls}\n  server h" if tls else f"  peer h {circle.addresses['h']}"
        tables = "".join(f"""
backend {name}
  stick-table type {kind} size 100k expire 30m srvkey addr peers mates
  stick on src
{lines}
frontend at-{name}
  bind 127.0.0.1:{port}
  default_backend {name}
""" for name, kind, port in zip(("gpen", "web"), ("ip", "ipv6"), self.ports, strict=True))
        other = f"  server g {circle.addresses['g']} {tls}" if tls else f"  peer g {circle.addresses['g']}"
        self._file = directory / "haproxy.cfg"
        self._file.write_text(f"""
global
  stats socket {self._socket} mode 600 level admin
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
peers mates
{own}
{other}
{tables}""")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(["haproxy", "-db", "-L", "h", "-f", self._file], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_until(self._is_up, what="haproxy")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()[0]
        with contextlib.suppress(OSError):
            return bool(self.ask("show info"))
        return False

    def ask(self, line: str) -> str:
        with connect(str(self._socket)) as sock:
            sock.sendall(f"{line}\n".encode())
            return read_all(sock).decode()

    def table(self, name: str) -> dict[str, str]:
        """Which client is at which server there, by their addresses."""
        return dict(re.findall(r"key=(\S+) .* server_key=(\S+)", self.ask(f"show table {name}")))

    def client(self, number: int, listener: int = 0) -> bytes:
        """What a client from 127.1.0.N gets."""
        with socket.create_connection(("127.0.0.1", self.ports[listener]), 20, (f"127.1.0.{number}", 0)) as sock:
            return sock.recv(9)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def circle() -> Circle:
    return Circle("g", "h", host="127.0.0.1")  # haproxy connects from there


@pytest.fixture
def both(servers: Callable[..., Server]) -> list[Server]:
    return [servers(naming("x")), servers(naming("y"))]


@pytest.fixture
def haproxy(tmp_path: Path, circle: Circle, both: list[Server]) -> Iterator[Haproxy]:
    running = Haproxy(tmp_path, circle, both)
    yield running
    running.stop()


def beside(gpen: Start, circle: Circle, both: list[Server], *more: str) -> Gpen:
    return gpen(*circle.options("g", "tracking 1800", "listener web listen 127.0.0.1:0", *more), servers=both[::-1])


def test_both_ways(gpen: Start, haproxy: Haproxy, circle: Circle, both: list[Server]) -> None:
    """What each has before they meet, and what comes later; in a table of IPv4 and in one of IPv6 addresses."""
    first = {number: haproxy.client(number) for number in (1, 2, 3)}
    balancer = beside(gpen, circle, both)
    balancer.ctl("listener web client 127.1.0.9 server 1", "listener web client 2001:db8::9 server 0")
    wait_remembered(balancer, **{f"_{number}": b"yx".index(name) for number, name in first.items()})
    assert {number: balancer.ask(source=f"127.1.0.{number}") for number in first} == first
    second = {number: balancer.ask(source=f"127.1.0.{number}") for number in (4, 5, 6)}
    wait_until(lambda: len(haproxy.table("gpen")) == 6, what="all there")
    assert {number: haproxy.client(number) for number in (*first, *second)} == {**first, **second}
    haproxy.client(8, 1)  # now gpen can tell that this table has IPv6 addresses only
    wait_until(lambda: haproxy.table("web").keys() == {f"::ffff:127.1.0.{number}" for number in (8, 9)} | {
        "2001:db8::9"}, what="all in the other table")
    assert haproxy.client(9, 1) == b"x" and "web 127.1.0.8" in remembered(balancer)


def test_haproxy_starts_anew(gpen: Start, haproxy: Haproxy, circle: Circle, both: list[Server]) -> None:
    balancer = beside(gpen, circle, both)
    wait_connected(balancer, "h")
    names = {number: haproxy.client(number) for number in (1, 2)}
    balancer.ctl("client 127.1.0.3 server 0")
    wait_remembered(balancer, **{f"_{number}": b"yx".index(name) for number, name in names.items()})
    haproxy.stop()
    haproxy.start()
    wait_until(lambda: len(haproxy.table("gpen")) == 3, what="haproxy to be told all")
    assert {number: haproxy.client(number) for number in (1, 2, 3)} == {**names, 3: b"y"}


def is_established(haproxy: Haproxy) -> bool:
    """Whether haproxy says that it has a connection with gpen, behind the hellos."""
    return "last_status=ESTA" in haproxy.ask("show peers")


def test_the_newer_counts_behind_a_break(gpen: Start, haproxy: Haproxy, circle: Circle, both: list[Server]) -> None:
    """haproxy tells first what was new meanwhile as if it were so now: gpen asks when it was."""
    balancer = beside(gpen, circle, both)
    wait_connected(balancer, "h")
    wait_until(lambda: is_established(haproxy), what="haproxy to have it too")
    balancer.signal(signal.SIGSTOP)
    try:
        there = {number: b"yx".index(haproxy.client(number)) for number in (1, 2)}
        wait_until(lambda: not is_established(haproxy), what="haproxy to give gpen up")
    finally:
        balancer.signal(signal.SIGCONT)
    balancer.ctl(f"client 127.1.0.1 server {1 - there[1]}")
    wait_remembered(balancer, _1=1 - there[1], _2=there[2])
    wait_until(lambda: haproxy.table("gpen").get("127.1.0.1") == both[there[1]].address, what="the newer word there")
    assert remembered(balancer)["127.1.0.1"] == 1 - there[1]


def test_haproxy_is_stopped(gpen: Start, haproxy: Haproxy, circle: Circle, both: list[Server]) -> None:
    balancer = beside(gpen, circle, both)
    wait_connected(balancer, "h")
    haproxy.signal(signal.SIGSTOP)
    wait_until(lambda: peer(balancer, "h")["state"] != "connected", what="gpen to give it up")
    began = time.monotonic()
    assert balancer.ask(source="127.1.0.1") in (b"x", b"y") and time.monotonic() - began < 1
    haproxy.signal(signal.SIGCONT)
    wait_until(lambda: "127.1.0.1" in haproxy.table("gpen"), what="what it has missed")


def test_tls(gpen: Start, tmp_path: Path, circle: Circle, both: list[Server], certificates: Certificates) -> None:
    ours, theirs = (pair.in_one(tmp_path / f"{name}.pem") for name, pair in (
        ("ours", certificates.server), ("theirs", certificates.client)))
    authority = certificates.authority.certificate
    running = Haproxy(tmp_path, circle, both, tls=f"ssl crt {theirs} ca-file {authority} verify required")
    try:
        balancer = beside(gpen, circle, both, f"peers_certificate {ours}", f"peers_ca {authority}")
        name = running.client(1)
        wait_remembered(balancer, _1=b"yx".index(name))
        balancer.ctl("client 127.1.0.2 server 0")
        wait_until(lambda: running.table("gpen").get("127.1.0.2") == both[1].address, what="what gpen has")
    finally:
        running.stop()
