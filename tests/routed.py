"""A client's machine, gpen's, and a server's, with the routes that a transparent gpen needs: those of the documents."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from tests.harness import ROOT
from tests.networks import Machine

CLIENT, OTHER, CLIENT6 = "10.1.0.2", "10.1.0.3", "fd00:1::2"
NEAR, NEAR6 = "10.1.0.1", "fd00:1::1"  # of gpen's machine, to clients
FAR, FAR6 = "10.2.0.1", "fd00:2::1"  # and to servers
SERVER, SERVER6 = "10.2.0.2", "fd00:2::2"
DOCUMENT = ROOT / "docs" / "TRANSPARENT.md"


class Routed(NamedTuple):
    """The three machines."""

    client: Machine
    gpen: Machine
    server: Machine

    def connect(self, address: tuple[str, int], source: tuple[str, int] = ("", 0), at: Machine | None = None,
                ) -> socket.socket:
        """A connection of the client's machine, or of another, from there."""
        return (at or self.client).inside(lambda: socket.create_connection(address, 20, source))

    def datagrams(self, address: tuple[str, int], source: str) -> socket.socket:
        """A socket of the client's machine that is connected there, for datagrams."""
        with self.client.entered():
            sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((source, 0))
            sock.connect(address)
            sock.settimeout(20)
            return sock

    def shell(self, machine: Machine, line: str) -> None:
        """Run a line there as a shell does."""
        machine.run("sh -c", line)


def lines_of(program: str) -> list[str]:
    """The lines of the document that begin with one of these words, in their order."""
    return re.findall(rf"^    ((?:{program}) .*)$", DOCUMENT.read_text(), re.MULTILINE)


def rules() -> list[str]:
    """What gpen's machine needs."""
    return [line for line in lines_of("nft|ip") if "replace" not in line]


def routes() -> list[str]:
    """What a server's machine needs."""
    return [line for line in lines_of("ip") if "replace" in line]


@contextmanager
def routed(with_rules: bool = True) -> Iterator[Routed]:
    """The three machines; without the rules, replies of servers get lost."""
    with ExitStack() as stack:
        all_three = Routed(*(stack.enter_context(Machine()) for _ in range(3)))
        client, gpen, server = all_three
        for machine, name, near, far in ((client, "near", (CLIENT, OTHER, CLIENT6), (NEAR, NEAR6)),
                                         (server, "far", (SERVER, SERVER6), (FAR, FAR6))):
            gpen.run(f"ip link add {name} type veth peer name cable netns {machine.path}")
            for place, device, addresses in ((machine, "cable", near), (gpen, name, far)):
                for address in addresses:
                    place.run(f"ip address add {address}/{'64 dev' if ':' in address else '24 dev'} {device}"
                              f"{' nodad' if ':' in address else ''}")
                place.run(f"ip link set {device} up")
        for line in routes():
            all_three.shell(server, line)
        if with_rules:
            for line in rules():
                all_three.shell(gpen, line)
        yield all_three
