"""Routes and rules of this machine that lead nowhere: whose fault that is, and how often it is told."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer
from tests.datagrams import naming as answering
from tests.harness import Gpen, Server, hold, naming, needs_root, pair_of, wait_until
from tests.networks import Machine

pytestmark = needs_root

Start = Callable[..., Gpen]
AWAY = "198.51.100.1"
ROUTES = {"blackhole": "invalid argument", "unreachable": "no route to host", "prohibit": "permission denied",
          "throw": "network is unreachable"}
RULES = {"blackhole": "invalid argument", "prohibit": "permission denied", "unreachable": "network is unreachable"}

each_route = pytest.mark.parametrize(("kind", "reason"), ROUTES.items(), ids=ROUTES)
each_rule = pytest.mark.parametrize(("kind", "reason"), RULES.items(), ids=RULES)


@pytest.fixture
def network() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.fixture
def front(tmp_path: Path) -> str:
    """A listener that leads into every network."""
    return str(tmp_path / "front")


@pytest.fixture
def inside(network: Machine) -> Iterator[Callable[..., Server]]:
    """Start a server in the network: inside(naming("a"), at="127.0.0.2")."""
    with ExitStack() as stack:
        yield lambda serve, **options: stack.enter_context(network.inside(lambda: Server(serve, **options)))


@pytest.fixture
def answers(network: Machine) -> Iterator[Callable[..., DatagramServer]]:
    """The same for UDP."""
    with ExitStack() as stack:
        yield lambda reply, **options: stack.enter_context(network.inside(lambda: DatagramServer(reply, **options)))


def told(balancer: Gpen, words: str) -> int:
    """How many lines of the diagnostics hold these words."""
    return sum(words in line for line in balancer.stderr.splitlines())


def own_events(balancer: Gpen) -> list[str]:
    """What has happened to gpen itself."""
    return [row["event"] for row in balancer.json("events 100") if row["server"] is None]


# --- a server that this machine has no way to -------------------------------------------------------------------------


@each_route
@pytest.mark.parametrize("away", [f"{AWAY}:80", "[2001:db8:1::1]:80"], ids=["IPv4", "IPv6"])
def test_a_server_without_a_way(gpen: Start, network: Machine, front: str, inside: Callable[..., Server], kind: str,
                                reason: str, away: str) -> None:
    """It has failed like any other: nobody else tries it, and that is told once."""
    network.run(f"ip {'-6 ' * ('[' in away)}route add {kind} {pair_of(away)[0]}")
    balancer = gpen("-r", "-l", "gpen.log", listen=front, servers=[away, inside(naming("b"))], wrapper=network.wrapper)
    assert [balancer.ask() for _ in range(6)] == [b"b"] * 6
    server = balancer.server(0)
    assert (server["health"], server["failures"], server["reason"]) == ("down", 1, reason)
    assert told(balancer, reason) == 1 and "no fault" not in balancer.stderr
    balancer.wait_idle()
    assert balancer.log.count(" server 1 ") == len(balancer.log.splitlines()) == 6


@each_route
def test_the_only_server(gpen: Start, network: Machine, front: str, kind: str, reason: str) -> None:
    """Nobody knows whether others could be reached."""
    network.run(f"ip route add {kind} {AWAY}")
    balancer = gpen("-l", "gpen.log", listen=front, servers=[f"{AWAY}:80"], wrapper=network.wrapper)
    assert balancer.ask() == b""
    assert (balancer.server(0)["health"], balancer.server(0)["reason"]) == ("down", reason)
    wait_until(lambda: balancer.log.endswith(" connect-failed\n"))


@each_rule
def test_a_way_that_is_closed_and_opened(gpen: Start, network: Machine, front: str, inside: Callable[..., Server],
                                         kind: str, reason: str) -> None:
    network.refuse_first()
    a, b = inside(naming("a"), at="127.0.0.2"), inside(naming("b"))
    balancer = gpen("-r", "-O", "prio", "-b", "1", listen=front, servers=[a, b], wrapper=network.wrapper)
    assert balancer.ask() == b"a"
    network.run(f"ip rule add pref 1 to 127.0.0.2 {kind}")
    assert [balancer.ask() for _ in range(3)] == [b"b"] * 3
    assert (balancer.server(0)["health"], balancer.server(0)["reason"]) == ("down", reason)
    network.run("ip rule del pref 1")
    wait_until(lambda: balancer.ask() == b"a")
    assert balancer.server(0)["health"] == "up"


@each_rule
def test_a_server_s_other_address(gpen: Start, network: Machine, front: str, inside: Callable[..., Server],
                                  tmp_path: Path, kind: str, reason: str) -> None:
    """A name with two addresses, one of which there is a way to."""
    network.refuse_first()
    network.run(f"ip rule add pref 1 to 127.0.0.2 {kind}")
    (tmp_path / "hosts").write_text("127.0.0.2 both\n::1 both\n")
    server = inside(naming("a"), at="::1")
    seeing = ("unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path / "hosts"} /etc/hosts && exec "$0" "$@"')
    balancer = gpen("-O", "check connect", "-O", "check_interval 0.2", listen=front, servers=[f"both:{server.port}"],
                    wrapper=(*network.wrapper, *seeing))
    assert balancer.ask() == b"a"
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)


def test_where_ipv6_is_off(gpen: Start, network: Machine, front: str, inside: Callable[..., Server]) -> None:
    """The kernel says "Cannot assign requested address", as where no port is free."""
    network.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    balancer = gpen("-r", listen=front, servers=["[2001:db8::1]:80", inside(naming("b"))], wrapper=network.wrapper)
    assert [balancer.ask() for _ in range(4)] == [b"b"] * 4
    server = balancer.server(0)
    assert (server["health"], server["reason"]) == ("down", "this machine has no address of its family")


@each_rule
@pytest.mark.parametrize("check", ["connect", "greeting", "send a expect b"])
def test_a_check(gpen: Start, network: Machine, front: str, inside: Callable[..., Server], kind: str, reason: str,
                 check: str) -> None:
    network.refuse_first()
    network.run(f"ip rule add pref 1 to 127.0.0.2 {kind}")
    balancer = gpen("-O", f"check {check}", "-O", "check_interval 0.2", listen=front, wrapper=network.wrapper,
                    servers=[inside(naming("b"), at="127.0.0.2"), inside(naming("b"))])
    wait_until(lambda: balancer.server(1)["verdict"] == "up")
    wait_until(lambda: balancer.server(0)["verdict"] == "down")
    assert balancer.server(0)["reason"] == reason
    network.run("ip rule del pref 1")
    wait_until(lambda: balancer.server(0)["health"] == "up")


def test_idlers(gpen: Start, network: Machine, front: str, inside: Callable[..., Server]) -> None:
    network.run(f"ip route add blackhole {AWAY}")
    balancer = gpen("-r", "-O", "idlers 2", listen=front, servers=[f"{AWAY}:80", inside(hold)], wrapper=network.wrapper)
    wait_until(lambda: balancer.ctl("idlers") == "Idlers: 2/2\n")
    assert (balancer.server(0)["health"], balancer.server(1)["sessions"]) == ("down", 2)


# --- all servers ------------------------------------------------------------------------------------------------------

PROHIBITIONS = pytest.mark.parametrize(("kind", "reason"), [("blackhole", "invalid argument"),
                                                            ("prohibit", "permission denied")])


@PROHIBITIONS
def test_all_servers(gpen: Start, network: Machine, front: str, inside: Callable[..., Server], kind: str, reason: str,
                     ) -> None:
    """It is this machine: none is held to be down, and it is told when that begins and when it ends."""
    network.refuse_first()
    servers = [inside(naming("a"), at="127.0.0.2"), inside(naming("b"), at="127.0.0.3")]
    balancer = gpen("-r", "-l", "gpen.log", listen=front, servers=servers, wrapper=network.wrapper)
    network.run(f"ip rule add pref 1 to 127.0.0.0/8 {kind}")
    assert [balancer.ask() for _ in range(8)] == [b""] * 8
    assert [balancer.server(number)["health"] for number in (0, 1)] == ["up", "up"]
    wait_until(lambda: balancer.log.count(" local-error\n") == 8)
    assert told(balancer, f"servers can't be reached, by no fault of theirs: {reason}") == 1
    assert told(balancer, "connect failed") <= 1
    network.run("ip rule del pref 1")
    assert sorted(balancer.ask() for _ in range(4)) == [b"a", b"a", b"b", b"b"]
    wait_until(lambda: told(balancer, "over, with nothing of the kind for 5 s") == 1)
    assert own_events(balancer) == ["cut off", "connected"]


@PROHIBITIONS
def test_all_but_the_emergency_server(gpen: Start, network: Machine, front: str, inside: Callable[..., Server],
                                      kind: str, reason: str) -> None:
    network.refuse_first()
    network.run(f"ip rule add pref 1 to 127.0.0.2/31 {kind}")
    balancer = gpen("-r", "-e", inside(naming("sorry")).address, listen=front, wrapper=network.wrapper,
                    servers=["127.0.0.2:80", "127.0.0.3:80"])
    assert [balancer.ask() for _ in range(6)] == [b"sorry"] * 6
    assert own_events(balancer) == ["cut off"]
    assert told(balancer, reason) <= 2


@PROHIBITIONS
def test_all_servers_with_checks(gpen: Start, network: Machine, front: str, inside: Callable[..., Server], kind: str,
                                 reason: str) -> None:
    network.refuse_first()
    servers = [inside(naming("a"), at="127.0.0.2"), inside(naming("b"), at="127.0.0.3")]
    balancer = gpen("-r", "-O", "check connect", "-O", "check_fall 1", "-O", "check_interval 0.2", listen=front,
                    servers=servers, wrapper=network.wrapper)
    wait_until(lambda: [balancer.server(number)["verdict"] for number in (0, 1)] == ["up", "up"])
    network.run(f"ip rule add pref 1 to 127.0.0.0/8 {kind}")
    wait_until(lambda: told(balancer, f"servers can't be checked, by no fault of theirs: {reason}") == 1)
    time.sleep(1)  # in which each would be checked several times
    assert [balancer.server(number)["health"] for number in (0, 1)] == ["up", "up"]
    network.run("ip rule del pref 1")
    wait_until(lambda: [balancer.server(number)["verdict"] for number in (0, 1)] == ["up", "up"])
    assert told(balancer, "can't be checked") == 1
    assert own_events(balancer) == ["cut off", "connected"]


@PROHIBITIONS
def test_all_servers_with_a_program_that_says_otherwise(gpen: Start, network: Machine, front: str, tmp_path: Path,
                                                        kind: str, reason: str) -> None:
    """A check's program goes its own ways: that it is content does not mean that gpen has reached a server."""
    network.run(f"ip route add {kind} 198.51.100.0/24")
    program, calls = tmp_path / "check", tmp_path / "calls"
    program.write_text(f"#!/bin/sh\necho >>{calls}\n")
    program.chmod(0o755)
    balancer = gpen("-r", "-O", f"check exec {program}", "-O", "check_interval 0.1", listen=front,
                    servers=[f"{AWAY}:80", "198.51.100.2:80"], wrapper=network.wrapper)
    for number in range(4, 20, 4):
        wait_until(lambda: calls.exists() and len(calls.read_text()) > number)  # noqa: B023 (it is used up at once)
        assert balancer.ask() == balancer.ask() == b""
    assert own_events(balancer) == ["cut off"]
    assert [balancer.server(number)["health"] for number in (0, 1)] == ["up", "up"]


@PROHIBITIONS
def test_all_servers_which_are_down_when_the_way_is_open(gpen: Start, network: Machine, front: str,
                                                         inside: Callable[..., Server], kind: str, reason: str) -> None:
    """They refuse: that is no fault of this machine's any more."""
    network.refuse_first()
    network.run(f"ip rule add pref 1 to 127.0.0.2/31 {kind}")
    balancer = gpen("-r", listen=front, servers=["127.0.0.2:80", "127.0.0.3:80"], wrapper=network.wrapper)
    assert balancer.ask() == balancer.ask() == b""
    assert own_events(balancer) == ["cut off"]
    network.run("ip rule del pref 1")
    network.run(f"ip rule add pref 1 to 127.0.0.3 {kind}")
    assert balancer.ask() == balancer.ask() == b""
    assert own_events(balancer) == ["cut off", "connected"]
    assert [balancer.server(number)["reason"] for number in (0, 1)] == ["connection refused", reason]


def test_all_but_one_that_was_added(gpen: Start, network: Machine, front: str, inside: Callable[..., Server]) -> None:
    """From then on it is again the others' own fault."""
    network.refuse_first()
    network.run("ip rule add pref 1 to 127.0.0.2/31 prohibit")
    balancer = gpen("-r", listen=front, servers=["127.0.0.2:80", "127.0.0.3:80"], wrapper=network.wrapper)
    assert balancer.ask() == balancer.ask() == b""
    balancer.ctl(f"server 2 address {inside(naming('c')).address}")
    assert [balancer.ask() for _ in range(6)] == [b"c"] * 6
    assert [balancer.server(number)["health"] for number in (0, 1, 2)] == ["down", "down", "up"]


# --- shortages --------------------------------------------------------------------------------------------------------


def test_ports_that_are_used_up(gpen: Start, network: Machine, front: str, inside: Callable[..., Server]) -> None:
    """Of ports, each server has its own; and what they were used up with is no server's fault."""
    network.run("sysctl -qw", "net.ipv4.ip_local_port_range=40000 40001")
    a, b = inside(hold, port=81), inside(naming("b"), port=82)
    balancer = gpen("-O", "prio", "-O", "server 1 prio 1", listen=front, servers=[a, b], wrapper=network.wrapper)
    with balancer.connect(), balancer.connect():
        wait_until(lambda: balancer.server(0)["sessions"] == 2)
        assert [balancer.ask() for _ in range(2)] == [b"b"] * 2
        assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)
        assert told(balancer, "server 0 127.0.0.1:81 can't be reached, by no fault of its own: cannot assign") == 1
    wait_until(lambda: told(balancer, "over, with nothing of the kind") == 1)


# --- UDP --------------------------------------------------------------------------------------------------------------


def client(network: Machine, balancer: Gpen) -> socket.socket:
    """A client in the network, which waits as long as a test may."""
    sock = network.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.settimeout(20)
    sock.connect(balancer.address)
    return sock


def ask(network: Machine, balancer: Gpen) -> bytes:
    with client(network, balancer) as sock:
        sock.send(b"who?")
        return sock.recv(100)


@each_route
def test_a_server_of_udp_without_a_way(gpen: Start, network: Machine, answers: Callable[..., DatagramServer], kind: str,
                                       reason: str) -> None:
    network.run(f"ip route add {kind} {AWAY}")
    balancer = gpen("-U", "-r", servers=[f"{AWAY}:53", answers(answering("b")).address], wrapper=network.wrapper)
    assert [ask(network, balancer) for _ in range(4)] == [b"b"] * 4
    server = balancer.server(0)
    assert (server["health"], server["failures"], server["reason"]) == ("down", 1, reason)
    assert told(balancer, reason) == 1 and "no fault" not in balancer.stderr


@each_rule
def test_a_flow_whose_way_is_closed(gpen: Start, network: Machine, answers: Callable[..., DatagramServer], kind: str,
                                    reason: str) -> None:
    """What it sends goes to the next server."""
    network.refuse_first()
    a, b = answers(answering("a"), at="127.0.0.2"), answers(answering("b"))
    balancer = gpen("-U", "-O", "prio", servers=[a.address, b.address], wrapper=network.wrapper)
    with client(network, balancer) as sock:
        sock.send(b"who?")
        assert sock.recv(100) == b"a"
        network.run(f"ip rule add pref 1 to 127.0.0.2 {kind}")
        sock.send(b"who?")
        assert sock.recv(100) == b"b"
    assert (balancer.server(0)["health"], balancer.server(0)["reason"]) == ("down", reason)


@PROHIBITIONS
def test_all_servers_of_udp(gpen: Start, network: Machine, kind: str, reason: str) -> None:
    network.run(f"ip route add {kind} 198.51.100.0/24")
    balancer = gpen("-U", "-r", "-l", "gpen.log", servers=[f"{AWAY}:53", "198.51.100.2:53"], wrapper=network.wrapper)
    for number in range(5):
        with client(network, balancer) as sock:
            sock.send(b"who?")
            wait_until(lambda: len(balancer.log.splitlines()) > number)  # noqa: B023 (it is used up at once)
    assert [balancer.server(number)["health"] for number in (0, 1)] == ["up", "up"]
    assert balancer.log.count(" local-error\n") == 5
    assert told(balancer, f"servers can't be reached, by no fault of theirs: {reason}") == 1


# --- the log ----------------------------------------------------------------------------------------------------------


@each_rule
def test_a_log_elsewhere(gpen: Start, network: Machine, front: str, inside: Callable[..., Server],
                         answers: Callable[..., DatagramServer], kind: str, reason: str) -> None:
    network.refuse_first()
    collector = answers(lambda data: [], at="127.0.0.2")
    balancer = gpen("-l", collector.address, listen=front, servers=[inside(naming("a"))], wrapper=network.wrapper)
    network.run(f"ip rule add pref 1 to 127.0.0.2 {kind}")
    for _ in range(4):
        assert balancer.ask(b"GET /lost\n").startswith(b"a")
    assert told(balancer, f"can't log to {collector.address}: {reason}") == 1
    network.run("ip rule del pref 1")
    balancer.ask(b"GET /found\n")
    wait_until(lambda: [data for data in collector.received if b"found" in data])
    wait_until(lambda: told(balancer, "over, with nothing of the kind") == 1)
    assert not [data for data in collector.received if b"lost" in data]
