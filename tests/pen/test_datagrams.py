"""The same datagrams through pen -U and gpen -U: who gets which server.

The names of the tests are what pen's own suite covers: tracking, round robin, failover with blacklisting and coming
back, emergency, abuse.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import PATIENCE, wait_until
from tests.pen.balancers import GPEN, PEN, Balancer, needs_pen

pytestmark = needs_pen

CLIENTS = [f"127.0.0.{i}" for i in range(2, 8)]
Start = Callable[..., Balancer]


class NamingServer:
    """Answers each datagram with its name."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", port))
        self.port = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            data, client = self._sock.recvfrom(65536)
            if data == b"end" and client[0] == "127.0.0.1":
                return
            self._sock.sendto(self.name.encode(), client)

    def close(self) -> None:
        if self._thread.is_alive():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"end", ("127.0.0.1", self.port))
            self._thread.join(PATIENCE)
        self._sock.close()


@pytest.fixture
def servers() -> Iterator[dict[str, NamingServer]]:
    """A, B, and E for emergencies and abuse."""
    those = {name: NamingServer(name) for name in "ABE"}
    yield those
    for server in those.values():
        server.close()


@pytest.fixture(params=[PEN, GPEN])
def start(request: pytest.FixtureRequest, tmp_path: Path, servers: dict[str, NamingServer]) -> Iterator[Start]:
    """Start the balancer of this test before A and B."""
    started: list[Balancer] = []

    def begin(*options: str) -> Balancer:
        places = [servers[name].address for name in "AB"]
        started.append(Balancer(request.param, tmp_path, "-U", *options, servers=places))
        return started[-1].__enter__()

    yield begin
    for balancer in started:
        balancer.__exit__()


def name(balancer: Balancer, source: str = "127.0.0.1") -> str:
    """The server that a new flow from this address gets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", balancer.port))
        sock.settimeout(2)
        sock.send(b"who?")
        try:
            return sock.recv(100).decode()
        except (TimeoutError, ConnectionError):
            return ""


def names(balancer: Balancer, count: int, source: str = "127.0.0.1") -> str:
    return "".join(name(balancer, source) for _ in range(count))


def test_tracking(start: Start) -> None:
    balancer = start()
    first = {client: name(balancer, client) for client in CLIENTS}
    assert sorted(first.values()) == ["A"] * 3 + ["B"] * 3
    for client in CLIENTS:
        assert names(balancer, 3, client) == first[client] * 3


def test_round_robin(start: Start) -> None:
    balancer = start("-r")
    assert names(balancer, 6) in ("ABABAB", "BABABA")


def test_hash(start: Start) -> None:
    balancer = start("-h")
    first = {client: name(balancer, client) for client in CLIENTS}
    assert first == {client: name(balancer, client) for client in CLIENTS}


def test_failover_with_blacklisting_and_coming_back(start: Start) -> None:
    balancer = start("-r")
    balancer.ask("server 0 blacklist 600")
    assert names(balancer, 4) == "BBBB"
    balancer.ask("server 0 blacklist 0")
    assert set(names(balancer, 4)) == {"A", "B"}


def test_a_client_that_is_tracked_fails_over(start: Start) -> None:
    balancer = start()
    first = name(balancer)
    other = "AB".replace(first, "")
    balancer.ask(f"server {'AB'.index(first)} blacklist 600")
    assert names(balancer, 3) == other * 3


def test_emergency(start: Start, servers: dict[str, NamingServer]) -> None:
    balancer = start("-e", servers["E"].address)
    assert name(balancer) in "AB"
    for number in range(2):
        balancer.ask(f"server {number} blacklist 600")
    assert names(balancer, 3) == "EEE"
    assert name(balancer, "127.0.0.9") == "E"


def test_abuse(start: Start, servers: dict[str, NamingServer]) -> None:
    balancer = start("-B", servers["E"].address)
    balancer.ask("acl 1 deny 127.0.0.2")
    balancer.ask("client_acl 1")
    assert name(balancer, "127.0.0.2") == "E"
    assert name(balancer, "127.0.0.3") in "AB"


# --- beyond pen, which never notices --------------------------------------------------------------------------------


def test_a_server_that_is_gone_is_noticed(tmp_path: Path, servers: dict[str, NamingServer]) -> None:
    places = [servers[name].address for name in "AB"]
    with Balancer(GPEN, tmp_path, "-U", "-r", "-b", "1", servers=places) as balancer:
        assert set(names(balancer, 4)) == {"A", "B"}
        port = servers["A"].port
        servers["A"].close()
        assert names(balancer, 4) == "BBBB"
        again = NamingServer("A", port)
        try:
            wait_until(lambda: name(balancer) == "A", what="the return of A")
        finally:
            again.close()
