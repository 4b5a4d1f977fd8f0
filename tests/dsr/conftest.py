"""A network with a client, a balancer and three servers, which have the service's address at their loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.datagrams import DatagramServer, naming
from tests.harness import Gpen, Server, connect, echo
from tests.networks import Machine, Switch, switched

SERVICE, PORT = "192.0.2.100", 7000  # RFC 5737
CLIENT, BALANCER = "192.0.2.1", "192.0.2.2"
SERVERS = ("192.0.2.11", "192.0.2.12", "192.0.2.13")

Start = Callable[..., Gpen]


class Lan:
    """The machines; ``tcp`` and ``udp`` are servers at PORT of each of the servers' machines, which say who they are:
    of TCP at once, and then what they get; of UDP, which answer from the address that they are bound to, in each
    reply."""

    def __init__(self, switch: Switch, machines: list[Machine], stack: ExitStack) -> None:
        self.switch = switch
        self.client, self.balancer, *self.servers = machines
        self.tcp: list[Server] = []
        self.udp: list[DatagramServer] = []
        for machine, address in zip(self.servers, SERVERS, strict=True):
            machine.run("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
            machine.run(f"ip address add {SERVICE}/32 dev lo")
            with machine.entered():
                self.tcp.append(stack.enter_context(Server(_saying(address), at="0.0.0.0", port=PORT)))
                self.udp.append(stack.enter_context(DatagramServer(naming(address), at=SERVICE, port=PORT)))

    def connect(self, address: str = SERVICE, port: int = PORT) -> tuple[socket.socket, str]:
        """A client's connection, and the server that answers."""
        with self.client.entered():
            sock = connect((address, port))
        assert isinstance(sock, socket.socket)
        return sock, sock.recv(100).decode().strip()

    def name(self, address: str = SERVICE) -> str:
        """The server of a connection that is closed at once."""
        sock, name = self.connect(address)
        sock.close()
        return name

    def datagrams(self, port: int = PORT) -> socket.socket:
        """A client's socket of UDP, connected to the service."""
        with self.client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(20)
        sock.connect((SERVICE, port))
        return sock


def _saying(address: str) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        sock.sendall(f"{address}\n".encode())
        echo(sock)

    return serve


@pytest.fixture
def lan() -> Iterator[Lan]:
    plugs = [[f"{address}/24"] for address in (CLIENT, BALANCER, *SERVERS)]
    with switched(*plugs) as (switch, machines), ExitStack() as stack:
        yield Lan(switch, machines, stack)


@pytest.fixture
def direct(gpen: Start, lan: Lan) -> Start:
    """Start a gpen on the balancer: direct("-r")."""

    def start(*options: str, listen: str = f"{SERVICE}:{PORT}", servers: tuple[str, ...] = SERVERS) -> Gpen:
        return gpen("-O", "dsr_if cable", *options, listen=listen, servers=servers, wrapper=lan.balancer.wrapper)

    return start
