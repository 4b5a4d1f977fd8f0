"""Servers answer clients themselves, and gpen sends them the frames: real servers, clients and a switch."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.dsr.conftest import CLIENT, PORT, SERVERS, SERVICE, Lan, Start
from tests.harness import Gpen, needs_root, read_all, wait_until
from tests.replacing import Pretender, replacing

pytestmark = needs_root


@contextmanager
def connections(lan: Lan, count: int, port: int = PORT) -> Iterator[list[tuple[socket.socket, str]]]:
    with ExitStack() as stack:
        made = [lan.connect(port=port) for _ in range(count)]
        for sock, _ in made:
            stack.enter_context(sock)
        yield made


def is_alive(sock: socket.socket) -> bool:
    sock.sendall(b"still there?")
    return sock.recv(100) == b"still there?"


def transferred(sock: socket.socket, data: bytes) -> str:
    """The hash of what comes back."""
    sending = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
    sending.start()
    got = read_all(sock)
    sending.join()
    return hashlib.sha256(got).hexdigest()


def frames(balancer: Gpen) -> dict[str, int]:
    counts: dict[str, int] = balancer.json("listeners")[0]["dsr"]["frames"]
    return counts


def test_transfers(direct: Start, lan: Lan) -> None:
    """As large as the cables join them, frames arrive whole; what servers send does not come by."""
    balancer, data = direct("-r", "-l", "gpen.log"), os.urandom(8 << 20)
    with connections(lan, 6) as made:
        assert [name for _, name in made] == [*SERVERS, *SERVERS]
        assert {(row["client"].partition(":")[0], row["state"]) for row in balancer.json("sessions")} == {
            (CLIENT, "open")}
        assert [balancer.server(number)["sessions"] for number in (0, 1, 2)] == [2, 2, 2]
        assert transferred(made[0][0], data) == hashlib.sha256(data).hexdigest()
    balancer.wait_idle()
    row = balancer.server(0)
    assert row["sx"] > len(data) and row["rx"] == 0
    assert frames(balancer)["forwarded"] < 6000, "they were joined"
    assert frames(balancer)["dropped"] == frames(balancer)["overrun"] == 0
    assert [line.split()[-1] for line in balancer.log.splitlines()] == ["client-closed"] * 6


def test_a_client_is_remembered(direct: Start, lan: Lan) -> None:
    balancer = direct()
    with connections(lan, 4) as made:
        assert len({name for _, name in made}) == 1
    assert balancer.json(f"explain {CLIENT}")["server_address"] == f"{made[0][1]}:{PORT}"


def test_flows_of_udp(direct: Start, lan: Lan) -> None:
    """A flow has one server, whatever it sends; large datagrams come in pieces."""
    balancer = direct("-U", "-r")
    with ExitStack() as stack:
        socks = [stack.enter_context(lan.datagrams()) for _ in range(3)]
        had = []
        for sock in socks:
            sock.send(b"1")
            had.append(sock.recv(100).decode())
        assert had == list(SERVERS)
        large = os.urandom(20_000)
        for sock, name in zip(socks, had, strict=True):
            for data in (b"2", large, b"3"):
                sock.send(data)
                assert sock.recv(100).decode() == name
    assert [server.received for server in lan.udp] == [[b"1", b"2", large, b"3"]] * 3
    assert [(row["state"], row["server"]) for row in balancer.json("sessions")] == [("open", n) for n in (0, 1, 2)]


def test_the_flow_that_was_idle_for_longest_gives_way(direct: Start, lan: Lan) -> None:
    """Where there is room for two: datagrams in pieces are as good as others."""
    balancer = direct("-U", "-r", "-x", "2")
    with ExitStack() as stack:
        first, idle, last = (stack.enter_context(lan.datagrams()) for _ in range(3))
        for sock, data in ((first, b"1"), (idle, b"2"), (first, bytes(5000)), (last, b"3")):
            sock.send(data)
            assert sock.recv(100).decode() in SERVERS
        ports = {int(row["client"].partition(":")[2]) for row in balancer.json("sessions")}
        assert ports == {sock.getsockname()[1] for sock in (first, last)}


def test_a_server_that_drains(direct: Start, lan: Lan) -> None:
    """Keeps what it has, and gets nothing new."""
    balancer = direct("-r")
    with connections(lan, 3) as made:
        assert balancer.ctl("server 0 state drain") == ""
        assert all(is_alive(sock) for sock, _ in made)
        with connections(lan, 4) as more:
            assert {name for _, name in more} == set(SERVERS[1:])
        assert balancer.server(0)["sessions"] == 1
        assert "drain" in str(balancer.json(f"explain {CLIENT}")["others"])


@pytest.mark.parametrize("line", ["close server 0", "server 0 state maint"])
def test_a_connection_that_is_cut(direct: Start, lan: Lan, line: str) -> None:
    """Its client is told when it speaks again, and its server too; so that nobody waits for the other."""
    balancer = direct("-r")
    with connections(lan, 3) as made:
        balancer.ctl(line)
        assert [row["server"] for row in balancer.json("sessions")] == [1, 2]
        with pytest.raises(ConnectionResetError):
            is_alive(made[0][0])
        wait_until(lambda: lan.tcp[0].live == 0, what="the end of the server's connection")
        assert is_alive(made[1][0]) and is_alive(made[2][0])


def test_a_server_that_is_gone(direct: Start, lan: Lan) -> None:
    """Whose machine answers no ARP any more: clients go to the others, and connections there are cut."""
    balancer = direct("-r")
    with connections(lan, 3) as made:
        lan.switch.pull(lan.servers[1])
        made[1][0].sendall(b"anybody?")

        def is_told() -> bool:
            try:
                made[1][0].send(b"?")
            except OSError:
                return True
            return False

        wait_until(is_told, what="a reset")
        with connections(lan, 4) as more:
            assert {name for _, name in more} == {SERVERS[0], SERVERS[2]}
        assert balancer.server(1)["reason"] == "no answer to ARP"
        assert "no answer to ARP" in str(balancer.json(f"explain {CLIENT}")["others"])
        assert is_alive(made[0][0])
        lan.switch.put_back(lan.servers[1])
        wait_until(lambda: balancer.server(1)["health"] == "up", what="its return")
        assert {lan.name() for _ in SERVERS} == set(SERVERS)


def test_checks(direct: Start, lan: Lan) -> None:
    """Go to the servers' own addresses and ports; a connection to one that is found down is cut, where on_down says
    so."""
    with ExitStack() as stack:
        checked = []
        for machine in lan.servers:
            with machine.entered():
                checked.append(stack.enter_context(socket.create_server(("0.0.0.0", 7001))))
        balancer = direct("-r", "-O", "check connect", "-O", "check_interval 0.2", "-O", "on_down close",
                          servers=tuple(f"{server}:7001" for server in SERVERS))
        made = stack.enter_context(connections(lan, 3))
        checked[0].close()
        wait_until(lambda: balancer.server(0)["health"] == "down", what="a verdict")
        with connections(lan, 4) as more:
            assert {name for _, name in more} == set(SERVERS[1:])
        with pytest.raises(ConnectionResetError):
            is_alive(made[0][0])
        assert is_alive(made[1][0])


def test_a_flow_goes_on_elsewhere(direct: Start, lan: Lan) -> None:
    """One of UDP, when its server is down."""
    balancer = direct("-U", "-r")
    with lan.datagrams() as sock:
        sock.send(b"1")
        assert sock.recv(100).decode() == SERVERS[0]
        balancer.ctl("server 0 health down because of a test")
        sock.send(b"2")
        assert sock.recv(100).decode() == SERVERS[1]


def test_several_listeners_and_workers(direct: Start, lan: Lan) -> None:
    """TCP and UDP at one address, and a listener that serves itself beside them, at which workers are."""
    balancer = direct("-r", "-O", "workers 2", "-O", f"listener dns listen {SERVICE}:{PORT}",
                      "-O", "listener dns udp", "-O", f"listener plain listen 0.0.0.0:{PORT}",
                      "-O", "listener plain no dsr_if")
    with connections(lan, 3) as made, lan.datagrams() as flow:
        assert {name for _, name in made} == set(SERVERS)
        flow.send(b"1")
        assert flow.recv(100).decode() in SERVERS
        sock, name = lan.connect("192.0.2.2")
        with sock:
            assert name in SERVERS and is_alive(sock)
        rows = {row["name"]: row for row in balancer.json("listeners")}
        assert [rows[name]["sessions"] for name in (None, "dns")] == [3, 1]
        assert [rows[name]["protocol"] for name in (None, "dns", "plain")] == ["TCP (dsr)", "UDP (dsr)", "TCP"]
        assert rows["plain"]["dsr"] is None and rows["dns"]["dsr"]["interface"] == "cable"
        assert all(is_alive(sock) for sock, _ in made)


def test_all_ports(direct: Start, lan: Lan) -> None:
    """As pen has it, port 0 is every port; servers need none then."""
    balancer = direct("-r", listen=f"{SERVICE}:0")
    with ExitStack() as stack:
        with lan.servers[0].entered():
            other = stack.enter_context(socket.create_server(("0.0.0.0", 7001)))
        balancer.ctl("server 1 state drain", "server 2 state drain")
        with lan.client.entered():
            stack.enter_context(socket.create_connection((SERVICE, 7001), timeout=20))
        accepted, client = other.accept()
        accepted.close()
        assert client[0] == CLIENT
        assert lan.name() == SERVERS[0]


def test_limits(direct: Start, lan: Lan) -> None:
    """Of servers, clients and the listener: a client that finds no place goes on asking, and gets the next."""
    balancer = direct("-r", "-x", "3", "-O", "server 0 max 1")
    with connections(lan, 3) as made:
        assert sorted(name for _, name in made) == sorted(SERVERS)
        waiting = threading.Thread(target=lambda: made.append(lan.connect()))
        waiting.start()
        wait_until(lambda: frames(balancer)["dropped"], what="a SYN without room")
        made[0][0].close()
        waiting.join()
        assert made[3][1] == SERVERS[0]
        assert len(balancer.json("sessions")) == 3
        made[3][0].close()


def test_rates(direct: Start, lan: Lan) -> None:
    """What is beyond connection_rate is dropped, and asks again; what is beyond client_rate is refused."""
    balancer = direct("-r", "-O", "connection_rate 2/1", "-O", "udp_requests 1")
    with connections(lan, 3) as made:
        assert [name for _, name in made] == list(SERVERS)
        assert frames(balancer)["dropped"] > 0
        assert "connection_rate is 2" in balancer.stderr
    balancer.ctl("no connection_rate", "client_rate 1/60", "-")
    with connections(lan, 1), pytest.raises(TimeoutError), lan.client.entered():
        socket.create_connection((SERVICE, PORT), timeout=1.2)
    assert "client-rate" in str(balancer.json("listeners")[0]["endings"])


def test_another_takes_its_place(direct: Start, lan: Lan) -> None:
    """In the middle of transfers: the socket passes with the frames in it, and connections keep their servers."""
    balancer, data = direct("-r"), os.urandom(32 << 20)
    results: list[str] = []
    with connections(lan, 5) as made, lan.datagrams():
        threads = [threading.Thread(target=lambda sock=sock: results.append(transferred(sock, data)))
                   for sock, _ in made[:2]]
        for thread in threads:
            thread.start()
        with replacing(balancer, wrapper=lan.balancer.wrapper) as new:
            for thread in threads:
                thread.join()
            assert results == [hashlib.sha256(data).hexdigest()] * 2
            assert all(is_alive(sock) for sock, _ in made[2:])
            assert balancer.process.wait(20) == 0
            assert [new.server(number)["sessions"] for number in (0, 1, 2)] >= [1, 1, 1]
            assert len({row["id"] for row in new.json("sessions")}) >= 3
            assert new.ctl("dsr_if") == "cable\n"
            assert lan.name() in SERVERS


def test_nobody_takes_its_place(direct: Start, lan: Lan) -> None:
    """Who has asked for it goes away: what has come meanwhile is sent on."""
    balancer = direct("-r")
    with connections(lan, 2) as made:
        with Pretender(balancer) as other:
            other.listen()
            other.ready("")
            told = [message["flows"] for message in other.listen() if message.kind == "direct flows"]
            assert [len(flows) for flows in told] == [2]
            made[0][0].sendall(b"meanwhile")
        assert made[0][0].recv(100) == b"meanwhile"
        assert is_alive(made[1][0])
        assert lan.name() == SERVERS[2]


def test_changes(direct: Start, lan: Lan) -> None:
    """At run time: what is wrong changes nothing; written and read again."""
    balancer = direct("-r", "-O", f"dsr_ip {SERVICE}", listen=str(PORT))
    assert lan.name() == SERVERS[0]
    assert balancer.json("listeners")[0]["address"] == f"{SERVICE}:{PORT}"
    assert "there is none of that name" in balancer.ctl("dsr_if nowhere")
    assert "no interface of Ethernet" in balancer.ctl("dsr_if lo")
    assert "servers answer clients themselves" in balancer.ctl("http")
    assert lan.name() == SERVERS[1]
    assert balancer.ctl("write saved.cfg") == ""
    saved = (balancer.directory / "saved.cfg").read_text()
    assert f"dsr_if cable\ndsr_ip {SERVICE}\n" in saved
    balancer.ctl("dsr_ip 192.0.2.101")
    for machine in lan.servers:
        machine.run("ip address add 192.0.2.101/32 dev lo")
    assert lan.name("192.0.2.101") in SERVERS
    assert balancer.ctl("no dsr_if") == ""
    assert balancer.json("listeners")[0]["dsr"] is None
