"""Balancers that are each other's peers, for tests; and a peer that only says what a test wants."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from gpen.proto.peers import (
    CONFIRM,
    HEARTBEAT,
    Decoder,
    Entry,
    Hello,
    Message,
    control,
    entries_of,
    hello,
    parse_status,
)
from tests.harness import PATIENCE, Gpen, free_port, wait_until


class Circle:
    """Who there is: names, each with an address of this machine's where it takes connections."""

    def __init__(self, *names: str, host: str = "127.0.0.{}") -> None:
        self.addresses = {name: f"{host.format(number)}:{free_port(host.format(number))}"
                          for number, name in enumerate(names, 1)}

    def options(self, name: str, *more: str) -> list[str]:
        """What makes a gpen one of them: all have the same lines but for the first."""
        lines = [f"peers {name} {self.addresses[name]}",
                 *(f"peer {other} {address}" for other, address in self.addresses.items()), *more]
        return [word for line in lines for word in ("-O", line)]

    def pair(self, name: str) -> tuple[str, int]:
        """An address as sockets take it."""
        host, _, port = self.addresses[name].rpartition(":")
        return host, int(port)


def peer(balancer: Gpen, name: str) -> dict[str, Any]:
    """What a gpen says of one of its peers."""
    return next(row for row in balancer.json("peers") if row["name"] == name)


def wait_connected(balancer: Gpen, *names: str, seconds: float = PATIENCE) -> None:
    """Wait until these are connected with it."""
    for name in names:
        wait_until(lambda: peer(balancer, name)["state"] == "connected", seconds, f"{name} to connect")  # noqa: B023


def remembered(balancer: Gpen) -> dict[str, int]:
    """Which client is at which server, by the number that this has there; a listener's are behind its name and a
    blank."""
    found = {}
    for line in balancer.ctl("state").splitlines():
        words = line.split()
        listener = f"{words[1]} " if words[0] == "listener" else ""
        if "client" in words:
            words = words[words.index("client"):]
            found[listener + words[1]] = int(words[3])
    return found


def wait_remembered(balancer: Gpen, **expected: int) -> None:
    """Wait until it remembers these clients: those of 127.1.0.N are called _N."""
    wanted = {f"127.1.0.{name[1:]}": number for name, number in expected.items()}
    wait_until(lambda: {name: number for name, number in remembered(balancer).items() if name in wanted} == wanted,
               15, f"{wanted} in the memory of {balancer.control}")


class Stub:
    """One end of a connection with a gpen, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = Decoder(lambda table: True)
        self.messages: list[Message] = []

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def entries(self) -> list[Entry]:
        """All that it was told."""
        return entries_of(self.messages)

    def say(self, *pieces: bytes) -> None:
        self.sock.sendall(b"".join(pieces))

    def listen(self) -> bool:
        """Take what has come; False at the end. Waits for something."""
        data = self.sock.recv(1 << 16)
        self.messages += self.decoder.read(data)
        return bool(data)

    def wait_entries(self, count: int) -> Sequence[Entry]:
        """Wait until it was told so many entries, and stay alive meanwhile."""
        while len(self.entries) < count:
            assert self.listen(), "the connection has ended"
            self.say(control(HEARTBEAT), control(CONFIRM))
        return self.entries

    def read_end(self) -> bytes:
        """All that comes to the end."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(1 << 16):
                received += data
        return bytes(received)


def visitor(circle: Circle, to: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection to where a gpen takes peers, from this address."""
    return socket.create_connection(circle.pair(to), PATIENCE, (source, 0))


@contextlib.contextmanager
def stub(circle: Circle, name: str, to: str) -> Iterator[Stub]:
    """The peer of this name connects to another, and is taken."""
    sock = visitor(circle, to, circle.pair(name)[0])
    with Stub(sock) as mate:
        mate.say(hello(Hello(to, name, os.getpid())))
        answer = sock.recv(4, socket.MSG_WAITALL)
        assert parse_status(answer) == 200, answer
        yield mate
