"""What becomes of peers when one stops, when the cable is cut, and when a balancer is gone for good: what the others
know comes together again, and nobody waits or grows meanwhile."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gpen.proto.peers import ASK, IPV4, Definition, Encoder, control, definition
from tests.harness import LOCAL, Gpen, Server, connect, free_port, naming, needs_root, read_all, wait_until
from tests.networks import FAR, NEAR, Machine, two_machines
from tests.peers import Circle, peer, remembered, stub, wait_connected, wait_remembered

Start = Callable[..., Gpen]
MB = 1 << 20


@pytest.fixture
def circle() -> Circle:
    return Circle("a", "b")


@pytest.fixture
def both(servers: Callable[..., Server]) -> list[Server]:
    return [servers(naming("x")), servers(naming("y"))]


def fill(balancer: Gpen, count: int, server: int = 0) -> None:
    """Have it remember so many clients."""
    with connect(balancer.control) as sock:
        reader = threading.Thread(target=read_all, args=(sock,))
        reader.start()
        sock.sendall("".join(f"client {address(number)} server {server}\n" for number in range(count)).encode())
        sock.shutdown(socket.SHUT_WR)
        reader.join()


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


# --- slow and stopped -------------------------------------------------------------------------------------------------


def test_one_that_is_stopped_and_goes_on(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """It is given up after 5 seconds, costs no memory, and is told the last word on each client when it is back."""
    a, b = (gpen(*circle.options(name), servers=both) for name in "ab")
    wait_connected(a, "b")
    wait_connected(b, "a")
    b.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: peer(a, "b")["state"] != "connected", what="a to give it up")
        assert peer(a, "b")["error"] == "it has said nothing for 5 seconds"
        fill(a, 1000)
        before = a.rss
        for number in range(4):
            fill(a, 1000, number % 2)
        assert a.rss - before < 2 * MB
        assert a.ask(source="127.1.0.1") in (b"x", b"y")
    finally:
        b.signal(signal.SIGCONT)
    wait_until(lambda: len(remembered(b)) == 1001, what="all clients there")
    assert remembered(b) == remembered(a)


def test_one_that_reads_nothing(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """It stays connected by signs of life, takes nothing, and is sent away; a remembers no more for that."""
    circle = Circle("a", "b", "c")
    a = gpen(*circle.options("a", "clients_max 90000"), servers=both)
    with stub(circle, "c", "a") as teacher:
        encoder = Encoder()
        teacher.say(definition(Definition(1, "gpen", IPV4, 4)), *(
            encoder.update(IPV4, 1, 1, number.to_bytes(4, "big"), both[0].address) for number in range(90_000)))
        wait_until(lambda: peer(a, "c")["received"] == 90_000, what="a to learn")
    before = a.rss
    with stub(circle, "b", "a") as mate:
        mate.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mate.say(control(ASK))
        alive = threading.Event()

        def beat() -> None:
            while not alive.wait(1):
                try:
                    mate.say(b"\0\4")
                except OSError:
                    return

        beater = threading.Thread(target=beat)
        beater.start()
        wait_until(lambda: peer(a, "b")["error"] == "it has taken nothing for 5 seconds", what="a to give it up")
        alive.set()
        beater.join()
    assert a.rss - before < 20 * MB
    assert a.ask(source="127.1.0.1") in (b"x", b"y")


def test_more_changes_than_are_kept(gpen: Start, circle: Circle, both: list[Server]) -> None:
    """While one is gone, more clients come than a remembers: it is told all that a has."""
    a = gpen(*circle.options("a", "clients_max 100"), servers=both)
    with gpen(*circle.options("b", "clients_max 5000"), servers=both) as b:
        wait_connected(a, "b")
        b.signal(signal.SIGSTOP)
        wait_until(lambda: peer(a, "b")["state"] != "connected", what="a to give it up")
        fill(a, 1500, 1)
        b.signal(signal.SIGCONT)
        wait_until(lambda: remembered(b).keys() >= {address(number) for number in range(1400, 1500)},
                   what="what a has there")


# --- far away ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as pair:
        yield pair


@needs_root
def test_a_cable_that_is_cut_and_mended(gpen: Start, machines: tuple[Machine, Machine]) -> None:
    """Both go on alone; behind that each has what the other has learnt, and of both the newer."""
    ports = free_port(), free_port()
    peers = ("-O", f"peer a {NEAR}:{ports[0]}", "-O", f"peer b {FAR}:{ports[1]}")
    known = ("-O", "server 0 address 10.9.0.1:80", "-O", "server 1 address 10.9.0.2:80")
    a = gpen("-O", f"peers a {ports[0]}", *peers, *known, wrapper=machines[0].wrapper)
    b = gpen("-O", f"peers b {ports[1]}", *peers, *known, wrapper=machines[1].wrapper)
    wait_connected(a, "b")
    a.ctl("client 127.1.0.1 server 0", "client 127.1.0.2 server 0")
    wait_remembered(b, _1=0, _2=0)
    machines[0].cut()
    b.ctl("client 127.1.0.1 server 1", "client 127.1.0.4 server 0")
    wait_until(lambda: peer(a, "b")["state"] == peer(b, "a")["state"] == "unreachable", what="both to notice")
    a.ctl("client 127.1.0.2 server 1", "client 127.1.0.3 server 0", "client 127.1.0.4 server 1")
    assert remembered(b) == {"127.1.0.1": 1, "127.1.0.2": 0, "127.1.0.4": 0}
    machines[0].run("ip link set cable up")
    for balancer in (a, b):
        wait_remembered(balancer, _1=1, _2=1, _3=0, _4=1)


# --- gone for good ----------------------------------------------------------------------------------------------------

CLIENTS = 10_000


def ask_from(place: tuple[str, int], number: int) -> bytes:
    """The name of the server that this client gets."""
    with socket.socket() as sock:
        sock.bind((f"127.{number // 250 // 250 + 2}.{number // 250 % 250}.{number % 250 + 1}", 0))
        sock.settimeout(20)
        sock.connect(place)
        return sock.recv(10)


class Names:
    """A server that says its name to each that comes, and no more: it takes 20 us."""

    def __init__(self, name: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self._name = name
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.socket.accept()
            except OSError:
                return
            with sock:
                sock.sendall(self._name)

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.socket.close()


@needs_root
def test_a_balancer_takes_over_ten_thousand_clients(circle: Circle, gpen: Start) -> None:
    """One is killed, and all its clients come to the other: of 1,000, 999 at least get the server that they had. It has
    a network of its own, for 40,000 connections that have ended keep their ports from others for a minute."""
    with Machine() as machine, machine.entered(), ExitStack() as stack:
        servers = [Names(name) for name in (b"x", b"y", b"z")]
        for server in servers:
            stack.callback(server.close)
        addresses = [f"127.0.0.1:{server.socket.getsockname()[1]}" for server in servers]
        b = gpen(*circle.options("b", f"clients_max {CLIENTS}"), servers=addresses[::-1])
        a = Gpen(b.directory, *circle.options("a", f"clients_max {CLIENTS}"), LOCAL, *addresses, name="a")
        stack.callback(a.process.wait)
        stack.callback(a.process.kill)
        wait_connected(a, "b")
        place = a.address
        assert isinstance(place, tuple)
        had = [ask_from(place, number) for number in range(CLIENTS)]
        wait_until(lambda: json.loads(b.ctl("info json"))["clients"] == CLIENTS, what="all clients at the other")
        a.signal(signal.SIGKILL)
        a.process.wait()
        place = b.address
        assert isinstance(place, tuple)
        same = sum(ask_from(place, number) == name for number, name in enumerate(had))
    assert min(map(had.count, (b"x", b"y", b"z"))) > CLIENTS // 4 and same >= 0.999 * CLIENTS
