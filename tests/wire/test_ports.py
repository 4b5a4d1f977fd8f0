"""Ports of this machine: as many connections, and flows, to each server as there are, from each source address; on a
machine of the test's own, which has 200."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer
from tests.harness import Gpen, Server, connect, needs_root, read_all, wait_until
from tests.networks import Machine

Start = Callable[..., Gpen]
LOW, COUNT = 40000, 200
SERVERS = ("127.0.0.1", "127.0.0.2")
LISTEN = "127.0.0.1:53"
SIX = ("fd00::1", "fd00::2")

pytestmark = needs_root


@pytest.fixture
def network() -> Iterator[Machine]:
    with Machine() as made:
        made.run("sysctl -qw", f"net.ipv4.ip_local_port_range={LOW} {LOW + COUNT - 1}")
        for host in (*SIX, "fd00::11", "fd00::12"):
            made.run(f"ip address add {host}/128 dev lo nodad")
        yield made


@pytest.fixture
def answers(network: Machine) -> Iterator[Callable[[str], DatagramServer]]:
    """Start a server at an address that says who it is, and what it was told."""
    with ExitStack() as stack:

        def start(host: str) -> DatagramServer:
            return stack.enter_context(network.inside(lambda: DatagramServer(
                lambda data: [f"{host} {data.decode()}".encode()], host, 5300)))

        yield start


def udp(gpen: Start, network: Machine, servers: Sequence[DatagramServer], *options: str) -> Gpen:
    return gpen("-U", "-r", "-x", "2000", "-l", "gpen.log", *options, servers=[server.address for server in servers],
                listen=LISTEN, wrapper=network.wrapper)


def flows(network: Machine, count: int, first: int) -> list[socket.socket]:
    """Clients, each with a port that the kernel gives nobody."""
    made = []
    with network.entered():
        for port in range(first, first + count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(10)
            sock.bind(("127.0.0.1", port))
            sock.connect(("127.0.0.1", 53))
            made.append(sock)
    return made


def asked(clients: Sequence[socket.socket], word: str) -> list[str]:
    """Who answers each client, all of which ask at once; each answer is the client's own, and there is no second."""
    for number, sock in enumerate(clients):
        sock.send(f"{word}{number}".encode())
    hosts = []
    for number, sock in enumerate(clients):
        host, said = sock.recv(100).decode().split()
        assert said == f"{word}{number}"
        hosts.append(host)
    for sock in clients:
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        sock.settimeout(10)
    return hosts


@pytest.mark.parametrize(("hosts", "source", "each"), [
    (SERVERS, "", COUNT), (SERVERS, "127.0.0.11", COUNT), (SERVERS, "127.0.0.11-127.0.0.12", 2 * COUNT),
    (SIX, "fd00::11,127.0.0.11,fd00::12", 2 * COUNT)])
def test_flows_to_each_server(gpen: Start, network: Machine, answers: Callable[[str], DatagramServer],
                              hosts: tuple[str, str], source: str, each: int) -> None:
    servers = [answers(host) for host in hosts]
    balancer = udp(gpen, network, servers, *(("-O", f"source {source}") if source else ()))
    clients = flows(network, 2 * each, 10000)
    try:
        chosen = asked(clients, "first")
        assert Counter(chosen) == dict.fromkeys(hosts, each)
        assert asked(clients, "again") == chosen
        for server in servers:
            places = Counter(client[:2] for client in server.clients)
            assert set(places.values()) == {2} and len(places) == each, "no two flows have one end"
        late, = flows(network, 1, 9000)
        with late:
            late.send(b"x")
            wait_until(lambda: balancer.log.endswith("local-error\n"))
        assert [row["failures"] for row in balancer.json("servers")] == [0, 0]
        balancer.ctl("close server 0")
        wait_until(lambda: balancer.server(0)["sessions"] == 0)
        balancer.ctl("server 1 state drain")
        after = flows(network, each, 20000)
        clients += after
        assert asked(after, "later") == [hosts[0]] * each, "their ports are free again"
        others = [sock for sock, host in zip(clients, chosen, strict=False) if host == hosts[1]]
        assert asked(others, "still") == [hosts[1]] * each
    finally:
        for sock in clients:
            sock.close()


def test_a_port_of_somebody_else_is_not_shared(gpen: Start, network: Machine,
                                               answers: Callable[[str], DatagramServer]) -> None:
    """Another program has half of the ports, and lets others of its user share them, as another gpen's flows do."""
    servers = [answers(host) for host in SERVERS]
    with ExitStack() as stack:
        for port in range(LOW, LOW + COUNT, 2):
            sock = stack.enter_context(network.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", port))
            sock.connect(("127.0.0.2", 5300))
        balancer = udp(gpen, network, servers)
        clients = [stack.enter_context(sock) for sock in flows(network, COUNT, 10000)]
        assert Counter(asked(clients, "first")) == dict.fromkeys(SERVERS, COUNT // 2)
        assert all(client[1] % 2 for server in servers for client in server.clients)
        assert balancer.json("listeners")[0]["sessions"] == COUNT


def test_flows_that_share_ports_pass_to_another_gpen(gpen: Start, network: Machine, tmp_path: Path,
                                                     answers: Callable[[str], DatagramServer]) -> None:
    """They go on there, and new ones find the ports that are left."""
    servers = [answers(host) for host in SERVERS]
    old = udp(gpen, network, servers)
    clients = flows(network, 2 * COUNT - 50, 10000)
    try:
        chosen = asked(clients, "first")
        control = old.control
        new = Gpen(tmp_path, "--replace", *old.arguments, name="new", control=control, wrapper=network.wrapper)
        with new:
            wait_until(lambda: old.process.poll() is not None)
            assert asked(clients, "again") == chosen
            more = flows(network, 50, 20000)
            clients += more
            asked(more, "more")
            for server in servers:
                assert len({client[:2] for client in server.clients}) == COUNT
    finally:
        for sock in clients:
            sock.close()


def test_a_stranger_is_heard_by_nobody(gpen: Start, network: Machine, answers: Callable[[str], DatagramServer]) -> None:
    """Also while a flow has a port, but no server yet."""
    servers = [answers(host) for host in SERVERS]
    over = threading.Event()

    def shout(sock: socket.socket) -> None:
        while not over.is_set():
            for port in range(LOW, LOW + COUNT):
                sock.sendto(b"stranger", ("127.0.0.1", port))

    udp(gpen, network, servers)
    with ExitStack() as stack:
        clients = [stack.enter_context(sock) for sock in flows(network, 2 * COUNT, 10000)]
        asked(clients[:COUNT], "first")
        stranger = stack.enter_context(network.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        stranger.bind(("127.0.0.1", 9999))
        shouting = threading.Thread(target=shout, args=(stranger,))
        shouting.start()
        try:
            assert Counter(asked(clients[COUNT:], "second")) == dict.fromkeys(SERVERS, COUNT // 2)
        finally:
            over.set()
            shouting.join()


@pytest.mark.parametrize(("hosts", "source", "each"), [
    (SERVERS, "", COUNT), (SERVERS, "127.0.0.11", COUNT), (SERVERS, "192.0.2.1,127.0.0.11-127.0.0.12", 2 * COUNT),
    (SIX, "127.0.0.11 fd00::11 fd00::12", 2 * COUNT)])
def test_connections_to_each_server(gpen: Start, network: Machine, tmp_path: Path, hosts: tuple[str, str], source: str,
                                    each: int) -> None:
    """Also where one of the addresses is none of this machine's."""
    with ExitStack() as stack:
        addresses = []
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with network.entered():
                server = stack.enter_context(socket.socket(family))
            server.bind((host, 5300))
            server.listen(1000)
            addresses.append(f"[{host}]:5300" if ":" in host else f"{host}:5300")
        front = str(tmp_path / "front")
        options = ("-O", f"source {source}") if source else ()
        balancer = gpen("-r", "-x", "2000", "-q", "1000", "-l", "gpen.log", *options, servers=addresses, listen=front,
                        wrapper=network.wrapper)
        for _ in range(2 * each):
            stack.enter_context(connect(front))
        wait_until(lambda: [row["sessions"] for row in balancer.json("servers")] == [each, each])
        wait_until(lambda: all(row["state"] == "open" for row in balancer.json("sessions")))
        with connect(front) as late:
            assert late.recv(1) == b""
        wait_until(lambda: balancer.log.endswith("local-error\n"))
        assert [row["failures"] for row in balancer.json("servers")] == [0, 0]


def test_checks_come_from_there_too(gpen: Start, network: Machine) -> None:
    """And when one address has no port left, from another."""
    with network.inside(lambda: socket.create_server(("127.0.0.1", 5300), backlog=1000)) as server:
        balancer = gpen("-O", "source 127.0.0.11,127.0.0.12", "-O", 'check send "x" expect y', "-O",
                        "check_interval 0.1", servers=["127.0.0.1:5300"], listen="127.0.0.1:80",
                        wrapper=network.wrapper)
        seen = set()
        server.settimeout(10)
        while len(seen) < 2:
            sock, client = server.accept()
            seen.add(client[0])
            sock.close()
        assert seen == {"127.0.0.11", "127.0.0.12"}
        assert balancer.server(0)["failures"] == 0


def test_workers_take_turns_as_well(gpen: Start, network: Machine) -> None:
    with network.inside(lambda: socket.create_server(("127.0.0.1", 5300), backlog=100)) as server:
        balancer = gpen("-O", "workers 2", "-O", "source 127.0.0.11-127.0.0.12", servers=["127.0.0.1:5300"],
                        listen="127.0.0.1:80", wrapper=network.wrapper)
        server.settimeout(10)
        seen = set()
        while len(seen) < 2:
            with network.inside(balancer.connect):
                sock, client = server.accept()
                seen.add(client[0])
                sock.close()
        assert seen == {"127.0.0.11", "127.0.0.12"}


@pytest.mark.parametrize(("said", "answer"), [
    ("source 10.0.0.1", "source 10.0.0.1"),
    ("source 10.0.0.1,10.0.0.5-10.0.0.9", "source 10.0.0.1,10.0.0.5-10.0.0.9"),
    ("source 10.0.0.1 ::1-::9 10.0.0.1", "source 10.0.0.1,::1-::9"),
    ("source ::ffff:10.0.0.1-::ffff:10.0.0.1", "source 10.0.0.1"),
    ("source 10.0.0.9-10.0.0.1", "the range '10.0.0.9-10.0.0.1' ends before it begins"),
    ("source 10.0.0.9-::1", "the range '10.0.0.9-::1' mixes IPv4 and IPv6"),
    ("source 10.0.0.0-10.0.16.0", "'10.0.0.0-10.0.16.0' are 4097 addresses: at most 4096 are possible"),
    ("source 10.0.0.1, ::1", "source 10.0.0.1,::1"),
    ("source 10.0.0.1-", "'10.0.0.1-' is not an IPv4 or IPv6 address: expected ADDRESS or FIRST-LAST, several with"),
])
def test_what_can_be_said(gpen: Start, tmp_path: Path, said: str, answer: str) -> None:
    balancer = gpen(servers=["127.0.0.1:9"])
    reply = balancer.ctl(said)
    if not answer.startswith("source "):
        assert reply.startswith("error: ") and answer in reply
        return
    assert reply == ""
    balancer.ctl(f"write {tmp_path}/it.cfg")
    assert answer in (tmp_path / "it.cfg").read_text().splitlines()


FEW_HERE = ("-r", "-x", "2000", "-O", "source 127.0.0.11,10.0.0.0-10.0.15.254")


def told_from(network: Machine) -> str:
    """From where the server that says so was connected to for a new client."""
    with network.inside(lambda: connect(("127.0.0.1", 53))) as sock:
        return read_all(sock).decode()


def test_thousands_of_addresses_that_are_not_here_cost_little(gpen: Start, network: Machine) -> None:
    """They are not tried for each connection: that took 10 ms. One that comes is soon used."""
    with network.inside(lambda: Server(lambda sock: sock.sendall(sock.getpeername()[0].encode()))) as server:
        balancer = gpen(*FEW_HERE, servers=[server], listen=LISTEN, wrapper=network.wrapper)
        before = balancer.cpu
        assert {told_from(network) for _ in range(100)} == {"127.0.0.11"}
        assert balancer.cpu - before < 0.5
        network.run("ip address add 10.0.15.254/32 dev lo")
        wait_until(lambda: told_from(network) == "10.0.15.254")


def test_they_cost_flows_as_little(gpen: Start, network: Machine, answers: Callable[[str], DatagramServer]) -> None:
    server = answers("127.0.0.1")
    balancer = udp(gpen, network, [server], *FEW_HERE)
    before = balancer.cpu
    with ExitStack() as stack:
        asked([stack.enter_context(sock) for sock in flows(network, 100, 10000)], "x")
    assert balancer.cpu - before < 0.5
    assert {client[0] for client in server.clients} == {"127.0.0.11"}
