"""Datagrams that would go round for ever: from gpen's servers, or from gpen itself. They are dropped, and counted."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.datagrams import DatagramServer, ask, client, echo, endings, is_silent, silence
from tests.harness import Gpen, family_of, free_port, knowing, needs_root, wait_until
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., DatagramServer]


@pytest.fixture
def servers() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(DatagramServer(*arguments, **options))


def port_of(balancer: Gpen) -> int:
    return int(balancer.address[1])


def dropped(balancer: Gpen) -> int:
    return int(balancer.json("servers")[0]["looped"])


def forge(source: tuple[str, int], to: tuple[str, int], data: bytes = b"loop", count: int = 1) -> None:
    """Datagrams that seem to come from elsewhere."""
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 64, socket.IPPROTO_UDP, 0,
                         socket.inet_aton(source[0]), socket.inet_aton(to[0]))
    packet += struct.pack("!HHHH", source[1], to[1], 8 + len(data), 0) + data
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(count):
            raw.sendto(packet, (to[0], 0))


def settle(balancer: Gpen, count: int) -> None:
    """So many were dropped, and nothing goes round."""
    wait_until(lambda: dropped(balancer) == count, what=f"{count} dropped datagrams")
    assert ask(("127.0.0.1", port_of(balancer)), b"x", "127.0.0.50") == b"x"
    assert dropped(balancer) == count


# --- servers ---------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0", "[::]:0"])
@pytest.mark.parametrize("options", [["-r"], ["-r", "-O", "udp_replies 1"]])
def test_forged_as_a_server(gpen: Start, servers: Serve, listen: str, options: list[str]) -> None:
    """Each of two, and the special ones; with what they would reply to."""
    a, b, emergency, abuse = (servers(echo, at=f"127.0.0.{number}") for number in (2, 3, 4, 5))
    balancer = gpen("-U", *options, "-e", emergency.address, "-B", abuse.address, servers=[a, b], listen=listen)
    for number, server in enumerate((a, b, emergency, abuse), 1):
        forge(("127.0.0." + str(number + 1), server.port), ("127.0.0.1", port_of(balancer)), count=50)
        settle(balancer, number * 50)
    assert not any(b"loop" in server.received for server in (a, b, emergency, abuse))
    assert balancer.stderr.count("would go round for ever") == 1
    assert f"dropped a datagram from 127.0.0.2:{a.port}, server 0: such datagrams" in balancer.stderr
    assert [row["event"] for row in balancer.json("events") if row["server"] is None] == ["dropped"]
    assert data_of(balancer.ctl("status"))["info"]["looped"] == 200


@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
def test_a_server_of_ipv6(gpen: Start, servers: Serve, listen: str) -> None:
    """Whoever has its address; written in another way, and IPv4 as IPv6."""
    family_of("::1")
    port = free_port("::1")
    balancer = gpen("-U", "-r", servers=[servers(echo), f"[0:0:0:0:0:0:0:1]:{port}", f"[::ffff:127.0.0.9]:{port}"],
                    listen=listen)
    sources = [("::1", "::1")] + ([("127.0.0.9", "127.0.0.1")] if listen == "[::]:0" else [])
    for source, to in sources:
        with client((to, port_of(balancer)), source, port) as sock:
            sock.send(b"x")
            assert is_silent(sock)
    assert dropped(balancer) == len(sources)


def test_the_machine_of_a_server_is_a_client_as_well(gpen: Start, servers: Serve) -> None:
    """From any other port."""
    balancer = gpen("-U", servers=[servers(echo)])
    assert ask(balancer, b"x") == b"x"
    assert dropped(balancer) == 0


@needs_root
def test_each_address_of_a_name(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    a = servers(echo, at="127.0.0.7")
    balancer = gpen("-U", servers=[f"both.test:{a.port}"],
                    wrapper=knowing(tmp_path, "127.0.0.7 both.test\n127.0.0.8 both.test\n"))
    with client(balancer, "127.0.0.8", a.port) as sock:
        sock.send(b"x")
        assert is_silent(sock)
    settle(balancer, 1)


def test_a_client_whose_address_becomes_a_servers(gpen: Start, servers: Serve) -> None:
    """By whatever command: its flow ends, and when the server is elsewhere, it is served again."""
    a, port = servers(echo), free_port("127.0.0.9")
    place = f"127.0.0.9:{port}"
    balancer = gpen("-U", "-l", "gpen.log", servers=[a, a.address])
    changes = [(f"server 1 address {place}", f"server 1 address {a.address}"), (f"server 2 address {place}",
               "no server 2"), (f"emergency {place}", "no emergency"), (f"abuse {place}", "no abuse")]
    with client(balancer, "127.0.0.9", port) as sock:
        for number, (change, back) in enumerate(changes):
            sock.send(b"before")
            assert sock.recv(10) == b"before"
            assert not balancer.ctl(change).startswith("error")
            sock.send(b"while")
            assert is_silent(sock)
            assert endings(balancer, number + 1) == ["loop"] * (number + 1)
            assert dropped(balancer) == 2 * (number + 1)
            assert not balancer.ctl(back).startswith("error")
        sock.send(b"after")
        assert sock.recv(10) == b"after"


# --- gpen itself -----------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize(("listen", "source"), [
    ("127.0.0.1:0", "127.0.0.1"), ("0", "127.0.0.1"), ("0", "127.0.0.2"), ("[::]:0", "127.0.0.2")])
def test_forged_as_the_listener(gpen: Start, servers: Serve, listen: str, source: str) -> None:
    server = servers(echo)
    balancer = gpen("-U", servers=[server], listen=listen)
    forge((source, port_of(balancer)), ("127.0.0.1", port_of(balancer)), count=20)
    settle(balancer, 20)
    assert server.received == [b"x"]
    assert "gpen itself: such datagrams" in balancer.stderr


@needs_root
def test_forged_as_the_listener_of_before(gpen: Start, servers: Serve) -> None:
    """It is there as long as it has flows; then that address is another's."""
    balancer = gpen("-U", servers=[servers(echo)])
    old = ("127.0.0.1", port_of(balancer))
    with client(old) as sock:
        sock.send(b"x")
        assert sock.recv(10) == b"x"
        balancer.ctl("listen 127.0.0.2:0")
        new = ("127.0.0.2", port_of(balancer))
        forge(old, new)
        wait_until(lambda: dropped(balancer) == 1)
        forge(new, old)
        sock.send(b"y")
        assert sock.recv(10) == b"y"
    balancer.ctl(f"close {balancer.json('sessions')[0]['id']}")
    with client(new, *old) as sock:
        sock.send(b"z")
        assert sock.recv(10) == b"z"


def test_a_client_whose_address_becomes_gpens(gpen: Start, servers: Serve) -> None:
    """It has gone, and its flow is there."""
    balancer, port = gpen("-U", "-l", "gpen.log", servers=[servers(echo)], listen="0"), free_port()
    with client(("127.0.0.1", port_of(balancer)), "127.0.0.1", port) as sock:
        sock.send(b"x")
        assert sock.recv(10) == b"x"
    before = port_of(balancer)
    assert balancer.ctl(f"listen 127.0.0.1:{port}") == f"127.0.0.1:{port}\n"
    with client(("127.0.0.1", before)) as other:
        other.send(b"x")  # of no flow: but it wakes the old listener
        assert endings(balancer, 1) == ["loop"]


@needs_root
@pytest.mark.parametrize("options", [[], ["-O", "udp_replies 1"]])
def test_a_server_that_leads_back_to_gpen(gpen: Start, servers: Serve, options: list[str]) -> None:
    """Its address was another machine's when gpen began: one datagram would take all flows there are, for ever."""
    port = free_port()
    balancer = gpen("-U", "-l", "gpen.log", *options, servers=[f"192.0.2.1:{port}"], listen=str(port),
                    wrapper=("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"'))
    inside = ["nsenter", "-t", str(balancer.pid), "-n"]
    subprocess.run([*inside, "ip", "address", "add", "192.0.2.1/32", "dev", "lo"], check=True, timeout=20)
    code = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"
    for number in range(1, 4):
        subprocess.run([*inside, "python3", "-c", code], check=True, timeout=20)
        wait_until(lambda number=number: dropped(balancer) == number)
        assert len(balancer.json("sessions")) == number
    assert "gpen itself: such datagrams would go round for ever; they are forged, or a server leads back to gpen" in (
        balancer.stderr)


@needs_root
def test_a_flood_costs_clients_nothing(gpen: Start, servers: Serve) -> None:
    a, b = servers(echo, at="127.0.0.2"), servers(silence, at="127.0.0.3")
    balancer = gpen("-U", "-O", "prio", servers=[a, f"{b.address}::::1"])
    for _ in range(20):
        forge(("127.0.0.3", b.port), ("127.0.0.1", port_of(balancer)), count=200)
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(client(balancer)) for _ in range(10)]
            for sock in socks:
                sock.send(b"x")
            assert [sock.recv(10) for sock in socks] == [b"x"] * 10
    wait_until(lambda: dropped(balancer) == 4000)
    assert not b.received
