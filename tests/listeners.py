"""A gpen with several listeners, as clients of each, and whoever asks for one, see it. The one without a name is -."""

from __future__ import annotations

import socket
from typing import Any

from tests.harness import Gpen, connect, pair_of, read_all

HERE = "127.0.0.1:0"


def own(name: str, *lines: str, at: str = HERE) -> list[str]:
    """The arguments that make a listener with these settings of its own: words behind ``listener NAME``."""
    return [word for line in (f"listen {at}", *lines) for word in ("-O", f"listener {name} {line}")]


def address(balancer: Gpen, name: str) -> str:
    """Where a listener is, as it is written."""
    return balancer.ctl("listen" if name == "-" else f"listener {name} listen").strip()


def place(balancer: Gpen, name: str) -> tuple[str, int] | str:
    """Where the clients of a listener connect: host and port, or the path of a unix socket."""
    return pair_of(address(balancer, name))


def port_of(balancer: Gpen, name: str) -> int:
    """The port of one that has one."""
    return int(place(balancer, name)[1])


def visit(balancer: Gpen, name: str, source: str = "") -> socket.socket:
    """A client's socket, connected to a listener."""
    return connect(place(balancer, name), source)


def ask(balancer: Gpen, name: str, request: bytes = b"", source: str = "") -> bytes:
    """What a client of a listener gets that sends a request and reads to the end."""
    with visit(balancer, name, source) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def told(balancer: Gpen, name: str, count: int, source: str = "") -> str:
    """What so many clients, one after the other, are told first: a server's name of one letter each, and a dot for one
    that was closed without a word."""
    where = place(balancer, name)
    letters = []
    for _ in range(count):
        with connect(where, source) as sock:
            try:
                letters.append(sock.recv(1).decode() or ".")
            except ConnectionResetError:
                letters.append(".")
    return "".join(letters)


def row_of(balancer: Gpen, name: str) -> dict[str, Any]:
    """The row of `listeners` with this name."""
    return next(row for row in balancer.json("listeners") if row["name"] == (None if name == "-" else name))


def names_of(balancer: Gpen) -> list[str | None]:
    """The listeners that there are; None is the one without a name."""
    return [row["name"] for row in balancer.json("listeners")]


def server_of(balancer: Gpen, name: str, number: int) -> dict[str, Any]:
    """The row of a server as a listener has it."""
    return next(row for row in balancer.json(f"listener {name} servers") if row["number"] == number)
