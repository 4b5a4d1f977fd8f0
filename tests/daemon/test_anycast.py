"""Two gpens at one address (anycast): a router shares its flows between them, and they agree without a word."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.datagrams import DatagramServer, client, naming
from tests.harness import Gpen, Server, connect, echo, needs_root
from tests.networks import Machine

Start = Callable[..., Gpen]
SHARED = "192.0.2.100"  # RFC 5737, as the others
SERVERS = [f"203.0.113.{number}" for number in (1, 2, 3)]
CLIENTS = [f"198.51.100.{number}" for number in range(1, 101)]

pytestmark = needs_root


class Site:
    """A router, where the clients are too, with a cable to each of two balancers, and these with one to the servers."""

    def __init__(self) -> None:
        self.router, self.servers = Machine(), Machine()
        self.balancers = [Machine(), Machine()]
        for number, balancer in enumerate(self.balancers, 1):
            _cable(self.router, f"to-b{number}", f"10.1.{number}.1", balancer, "front", f"10.1.{number}.2")
            _cable(self.servers, f"to-b{number}", f"10.2.{number}.1", balancer, "back", f"10.2.{number}.2")
            balancer.run(f"ip address add {SHARED}/32 dev lo")
            balancer.run(f"ip route add 198.51.100.0/24 via 10.1.{number}.1")
            balancer.run(f"ip route add 203.0.113.0/24 via 10.2.{number}.1")
            self.router.run(f"ip nexthop add id {number} via 10.1.{number}.2 dev to-b{number}")
        self.servers.run("ip route add local 203.0.113.0/24 dev lo")
        self.router.run("ip route add local 198.51.100.0/24 dev lo")
        self.router.run("sysctl -qw net.ipv4.fib_multipath_hash_policy=1")  # by addresses and ports
        self.router.run("ip nexthop add id 10 group 1/2 type resilient buckets 128")
        self.router.run(f"ip route add {SHARED}/32 nhid 10")

    def withdraw(self, number: int) -> None:
        """The router learns that this balancer is gone: the flows of the other one stay where they are."""
        self.router.run(f"ip nexthop replace id 10 group {3 - number} type resilient buckets 128")

    def close(self) -> None:
        for machine in (self.router, *self.balancers, self.servers):
            machine.close()


def _cable(here: Machine, name: str, address: str, there: Machine, other: str, its: str) -> None:
    here.run(f"ip link add {name} type veth peer name {other} netns {there.path}")
    for machine, link, own in ((here, name, address), (there, other, its)):
        machine.run(f"ip address add {own}/24 dev {link}")
        machine.run(f"ip link set {link} up")


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def test_a_balancer_that_is_gone(gpen: Start, site: Site) -> None:
    """The clients of the other one notice nothing, and whoever comes again gets the server that it had."""
    with ExitStack() as stack:
        with site.servers.entered():
            far = [stack.enter_context(Server(_say_who, at=address, port=8000)) for address in SERVERS]
        first, second = _balancers(gpen, site, "80", [f"{server.address}:1000" for server in far])
        with site.router.entered():
            had = {address: _open(stack, address) for address in CLIENTS}
            at_first = {row["client"].rpartition(":")[0] for row in first.json("sessions")}
            assert 20 < len(at_first) < 80, "the router shares the flows"
            assert len(second.json("sessions")) == len(CLIENTS) - len(at_first)
            site.withdraw(2)
            for address in at_first:
                sock, _ = had[address]
                sock.sendall(b"still there")
                assert sock.recv(100) == b"still there"
            again = {address: _open(stack, address)[1] for address in CLIENTS}
        assert again == {address: server for address, (_, server) in had.items()}
        assert len(set(again.values())) == len(SERVERS)
        assert len(second.json("sessions")) == len(CLIENTS) - len(at_first), "and no new one came to the other"


def test_flows_go_on_at_the_other_one(gpen: Start, site: Site) -> None:
    """A flow of UDP, in its midst, gets the same server by the balancer that is left."""
    with ExitStack() as stack:
        with site.servers.entered():
            far = [stack.enter_context(DatagramServer(naming(address), at=address, port=53)) for address in SERVERS]
        first, second = _balancers(gpen, site, "53/udp", [f"{server.address}:1000" for server in far])
        with site.router.entered():
            flows = [stack.enter_context(client((SHARED, 53), source)) for source in CLIENTS]
            had = [_ask(flow) for flow in flows]
            assert 20 < len(second.json("sessions")) < 80
            site.withdraw(2)
            assert [_ask(flow) for flow in flows] == had
        assert len(first.json("sessions")) == len(CLIENTS)


def _balancers(gpen: Start, site: Site, port: str, servers: list[str]) -> Iterator[Gpen]:
    """A gpen on each of the two machines; the second one lists the servers in the other order."""
    return (gpen("-O", "stateless", servers=order, listen=f"{SHARED}:{port}", wrapper=machine.wrapper)
            for machine, order in zip(site.balancers, (servers, servers[::-1]), strict=True))


def _ask(flow: socket.socket) -> bytes:
    flow.send(b"who?")
    return flow.recv(100)


def _say_who(sock: socket.socket) -> None:
    sock.sendall(sock.getsockname()[0].encode())
    echo(sock)


def _open(stack: ExitStack, client: str) -> tuple[socket.socket, str]:
    sock = stack.enter_context(connect((SHARED, 80), client))
    return sock, sock.recv(100).decode()
