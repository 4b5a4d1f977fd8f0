"""A transparent gpen, in networks of the test's own: servers see the client's address, and it keeps but one right."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from gpen.docs.texts import TRANSPARENT
from gpen.rights import NET_RAW
from tests.daemon.test_rights import bits, rights_of
from tests.datagrams import DatagramServer
from tests.harness import (
    PATIENCE,
    PROGRAM,
    Gpen,
    Server,
    free_port,
    needs_root,
    open_to_all,
    read_all,
    run_gpen,
    wait_until,
)
from tests.networks import Machine
from tests.replacing import replacing
from tests.routed import CLIENT, CLIENT6, FAR, FAR6, NEAR, NEAR6, OTHER, SERVER, SERVER6, Routed, routed, routes, rules

Start = Callable[..., Gpen]

pytestmark = needs_root
AS_CLIENT = ("-r", "-O", "transparent")


@pytest.fixture(scope="module")
def net() -> Iterator[Routed]:
    with routed() as machines:
        yield machines


def tell_peer(sock: socket.socket) -> None:
    """Tell who has come, then echo."""
    host, port, *_ = sock.getpeername()
    sock.sendall(f"{host} {port}\n".encode())
    while piece := sock.recv(1 << 16):
        sock.sendall(piece)


@pytest.fixture(scope="module")
def server(net: Routed) -> Iterator[Server]:
    with net.server.inside(lambda: Server(tell_peer, at=SERVER)) as server:
        yield server


@pytest.fixture(scope="module")
def server6(net: Routed) -> Iterator[Server]:
    with net.server.inside(lambda: Server(tell_peer, at=SERVER6)) as server:
        yield server


@pytest.fixture
def front(net: Routed, gpen: Start) -> Callable[..., Gpen]:
    """A gpen on its machine."""
    return lambda *options, listen="", **more: gpen(
        *options, listen=listen or f"{NEAR}:{free_port()}", wrapper=net.gpen.wrapper, **more)


def seen(net: Routed, balancer: Gpen, source: str = CLIENT, data: bytes = b"") -> tuple[str, int, int]:
    """Whom the server sees when a client comes from there: address and port; and the client's own port."""
    assert isinstance(balancer.address, tuple)
    with net.connect(balancer.address, (source, 0)) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        line, _, rest = read_all(sock).decode().partition("\n")
        assert rest == data.decode()
        host, _, port = line.rpartition(" ")
        return host, int(port or 0), sock.getsockname()[1]


def test_the_server_sees_the_client(net: Routed, front: Start, server: Server) -> None:
    balancer = front(*AS_CLIENT, "-l", "gpen.log", servers=[server])
    for source in (CLIENT, OTHER, CLIENT):
        host, port, own = seen(net, balancer, source, b"x" * 100_000)
        assert (host, port) == (source, own)
    wait_until(lambda: balancer.log.count("\n") == 3)
    assert f"{CLIENT}:" in balancer.log and SERVER in balancer.log
    assert balancer.json(f"explain {CLIENT}")["why"] == f"round robin; it sees {CLIENT} (transparent)"
    row = balancer.json("listeners")[0]
    assert (row["transparent"], row["protocol"]) == (True, "TCP (transparent)")
    assert " protocol TCP(transparent) conn 0 " in balancer.ctl("listeners")


def test_over_ipv6(net: Routed, front: Start, server6: Server) -> None:
    balancer = front(*AS_CLIENT, listen=f"[{NEAR6}]:{free_port()}", servers=[server6])
    host, port, own = seen(net, balancer, CLIENT6, b"x" * 100_000)
    assert (host, port) == (CLIENT6, own)


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_a_client_of_the_other_family_comes_from_gpen_s_own(net: Routed, front: Start, server: Server, server6: Server,
                                                            is_ipv6: bool) -> None:
    target, near, own, source = ((server6, NEAR, FAR6, CLIENT) if is_ipv6 else (server, f"[{NEAR6}]", FAR, CLIENT6))
    balancer = front(*AS_CLIENT, listen=f"{near}:{free_port()}", servers=[target])
    assert [seen(net, balancer, source)[0] for _ in range(2)] == [own, own]
    assert balancer.stderr.count(f"clients come to {target.address} from gpen's own address, for theirs is of IPv") == 1
    assert balancer.json(f"explain {source}")["why"].endswith(
        f"; it sees gpen's own address, for the client's is of IPv{4 if is_ipv6 else 6} (transparent)")


def test_a_port_that_is_taken(net: Routed, front: Start, server: Server) -> None:
    """A client that has the same port at two listeners is at the same server twice: once from another port."""
    one, two = free_port(), free_port()
    balancer = front(*AS_CLIENT, "-O", f"listener two listen {NEAR}:{two}", listen=f"{NEAR}:{one}", servers=[server])
    with ExitStack() as stack:
        first = stack.enter_context(net.connect((NEAR, one), (CLIENT, 0)))
        own = first.getsockname()[1]
        assert first.recv(100) == f"{CLIENT} {own}\n".encode()
        second = net.client.inside(lambda: stack.enter_context(socket.socket()))
        second.settimeout(PATIENCE)
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind((CLIENT, own))
        second.connect((NEAR, two))
        host, port = second.recv(100).split()
        assert host == CLIENT.encode() and int(port) != own
    assert balancer.server(0)["failures"] == 0


def test_whom_a_proxy_tells(net: Routed, front: Start, server: Server) -> None:
    balancer = front(*AS_CLIENT, "-O", f"acl 3 permit {CLIENT}", "-O", "accept_proxy 3", servers=[server])
    assert isinstance(balancer.address, tuple)
    with net.connect(balancer.address, (CLIENT, 0)) as sock:
        sock.sendall(f"PROXY TCP4 {OTHER} 10.9.9.9 4711 80\r\n".encode())
        assert sock.recv(100) == f"{OTHER} 4711\n".encode()


def test_one_of_two_listeners(net: Routed, front: Start, server: Server) -> None:
    two = free_port()
    balancer = front("-r", "-O", f"listener two listen {NEAR}:{two}", "-O", "listener two transparent",
                     servers=[server])
    assert seen(net, balancer)[0] == FAR
    with net.connect((NEAR, two), (CLIENT, 0)) as sock:
        assert sock.recv(100).startswith(f"{CLIENT} ".encode())


@pytest.mark.parametrize("workers", [0, 2])
def test_another_user_with_one_right_left(net: Routed, front: Start, server: Server, tmp_path: Path, workers: int,
                                          ) -> None:
    """Also of the workers; and programs of checks have none."""
    open_to_all(tmp_path)
    told = tmp_path / "told"
    told.touch(0o666)
    told.chmod(0o666)
    program = tmp_path / "check"
    program.write_text(f"#!/bin/sh\ngrep Cap /proc/self/status > {told}\n")
    program.chmod(0o755)
    balancer = front(*AS_CLIENT, "-u", "nobody", "-O", f"workers {workers}", "-O", f"check exec {program}",
                     servers=[server])
    assert seen(net, balancer)[0] == CLIENT
    pids = [balancer.pid, *(row["pid"] for row in balancer.json("workers"))]
    assert len(pids) == 1 + workers
    for pid in pids:
        assert os.stat(f"/proc/{pid}").st_uid != 0
        rights = rights_of(pid)
        assert rights["CapPrm"] == rights["CapEff"] == bits(NET_RAW) and rights["CapAmb"] == bits()
    wait_until(lambda: told.read_text().count("Cap") >= 5)
    assert set(re.findall(r"Cap(?:Prm|Eff|Amb):\s+([0-9a-f]+)", told.read_text())) == {bits()}


def everybody_reaches(file: str) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in Path(file).resolve().parents)


# an upgrade of a gpen that has become nobody needs a Python, and a gpen, that this user may run
USERS = [(), ("-u", "nobody")] if everybody_reaches(sys.executable) and everybody_reaches(PROGRAM) else [()]


@pytest.mark.parametrize("options", USERS, ids=" ".join)
def test_an_upgrade_keeps_the_right(net: Routed, front: Start, server: Server, tmp_path: Path,
                                    options: tuple[str, ...]) -> None:
    open_to_all(tmp_path)
    balancer = front(*AS_CLIENT, *options, servers=[server])
    assert "error" not in balancer.ctl("upgrade")
    try:
        pid = int(balancer.ctl("pid"))
        assert pid != balancer.pid and seen(net, balancer)[0] == CLIENT
    finally:
        os.kill(int(balancer.ctl("pid")), 15)
        balancer.process.wait(PATIENCE)


def test_without_the_right(net: Routed, gpen: Start, server: Server) -> None:
    """It is refused at the start, by --check, and by a command; each says what to do."""
    bare = ("setpriv", "--reuid=nobody", "--clear-groups", "--bounding-set=-net_raw,-net_admin", "--inh-caps=-all")
    expected = "transparent: needs the capability CAP_NET_RAW or CAP_NET_ADMIN, which gpen keeps only if this is set"
    for options in (("-f",), ("--check",)):
        done = run_gpen(*options, "-O", "transparent", f"127.0.0.1:{free_port()}", server.address, wrapper=bare)
        assert done.returncode == 2 and expected in done.stderr and "AmbientCapabilities=CAP_NET_RAW" in done.stderr
    balancer = gpen(servers=["127.0.0.1:9"])
    assert expected in balancer.ctl("transparent")
    assert balancer.ctl("no transparent") == ""


def test_no_idlers_with_it(gpen: Start) -> None:
    done = run_gpen("--check", "-O", "transparent", "-O", "idlers 2", f"127.0.0.1:{free_port()}", "127.0.0.1:9")
    assert done.returncode == 2 and "idlers: they would come from gpen's own address" in done.stderr


def test_another_gpen_in_its_place(net: Routed, front: Start, server: Server) -> None:
    balancer = front(*AS_CLIENT, servers=[server])
    with replacing(balancer, name="second", wrapper=net.gpen.wrapper) as new:
        assert balancer.process.wait(PATIENCE) == 0
        assert seen(net, new)[:1] == (CLIENT,)


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_datagrams(net: Routed, front: Start, is_ipv6: bool) -> None:
    """The server sees the client's address and port, replies come back, and a flow goes on at the gpen that takes its
    place."""
    here, source, near = (SERVER6, CLIENT6, f"[{NEAR6}]") if is_ipv6 else (SERVER, CLIENT, NEAR)
    with net.server.inside(lambda: DatagramServer(lambda data: [data], at=here)) as server:
        balancer = front(*AS_CLIENT, "-U", listen=f"{near}:{free_port()}", servers=[server.address])
        assert isinstance(balancer.address, tuple)
        with net.datagrams(balancer.address, source) as sock, net.datagrams(balancer.address, source) as other:
            for one in (sock, other):
                for data in (b"1", b"22"):
                    one.send(data)
                    assert one.recv(100) == data
            with replacing(balancer, name="second", wrapper=net.gpen.wrapper) as new:
                assert balancer.process.wait(PATIENCE) == 0
                sock.send(b"333")
                assert sock.recv(100) == b"333"
                assert len(new.json("sessions")) == 2
            assert {client[:2] for client in server.clients} == {one.getsockname()[:2] for one in (sock, other)}


def test_replies_that_go_astray_are_not_the_server_s_fault(gpen: Start) -> None:
    """Without the rules the server's answers never reach gpen: a client is turned away, and the server is not down."""
    with routed(with_rules=False) as net, net.server.inside(lambda: Server(tell_peer, at=SERVER)) as server:
        balancer = gpen(*AS_CLIENT, "-t", "1", listen=f"{NEAR}:{free_port()}", servers=[server],
                        wrapper=net.gpen.wrapper)
        assert isinstance(balancer.address, tuple)
        with closing(net.connect(balancer.address, (CLIENT, 0))) as sock:
            assert read_all(sock) == b""
        assert "no fault of its own: it answers gpen, but not its clients (transparent)" in balancer.stderr
        row = balancer.server(0)
        assert row["health"] == "up" and row["failures"] == 0
        assert server.served == 0  # what it was asked again, its program has not seen
        for line in rules():
            net.shell(net.gpen, line)
        assert seen(net, balancer)[0] == CLIENT


def test_a_server_that_is_gone_is_down(gpen: Start) -> None:
    with routed() as net:
        balancer = gpen(*AS_CLIENT, "-t", "1", listen=f"{NEAR}:{free_port()}", servers=[f"{SERVER}:9"],
                        wrapper=net.gpen.wrapper)
        assert isinstance(balancer.address, tuple)
        with net.connect(balancer.address, (CLIENT, 0)) as sock:
            assert read_all(sock) == b""
        assert balancer.server(0)["failures"] == 1  # refused
        net.server.cut()
        balancer.ctl("server 0 blacklist 0")
        with net.connect(balancer.address, (CLIENT, 0)) as sock:
            assert read_all(sock) == b""
        wait_until(lambda: balancer.server(0)["failures"] == 2)


def test_on_one_machine(gpen: Start) -> None:
    """A loopback client of a loopback server needs no rules."""
    with Machine() as machine, machine.inside(lambda: Server(tell_peer, at="127.0.0.9")) as server:
        balancer = gpen(*AS_CLIENT, listen=f"127.0.0.1:{free_port()}", servers=[server], wrapper=machine.wrapper)
        assert isinstance(balancer.address, tuple)
        with machine.inside(lambda: socket.create_connection(balancer.address, 20, ("127.0.0.50", 0))) as sock:
            assert sock.recv(100).startswith(b"127.0.0.50 ")


def test_one_client_s_datagrams_over_all_servers(gpen: Start) -> None:
    """udp_requests ends a flow whose socket has the client's address, too."""
    with Machine() as machine, ExitStack() as stack:
        servers = [stack.enter_context(machine.inside(lambda host=host: DatagramServer(at=host)))
                   for host in ("127.0.0.9", "127.0.0.10")]
        balancer = gpen(*AS_CLIENT, "-U", "-O", "udp_requests 1", listen=f"127.0.0.1:{free_port()}",
                        servers=[server.address for server in servers], wrapper=machine.wrapper)
        with machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind(("127.0.0.50", 0))
            sock.connect(balancer.address)
            for number in range(10):
                sock.send(b"%d" % number)
            wait_until(lambda: sum(len(server.received) for server in servers) == 10)
            assert [len(server.received) for server in servers] == [5, 5]
            assert {client[0] for server in servers for client in server.clients} == {"127.0.0.50"}
        assert balancer.json("sessions") == []


def test_the_manual_has_the_lines_that_were_tried() -> None:
    manual = [line.strip() for line in TRANSPARENT.splitlines()]
    assert [*rules(), *routes()] and all(line in manual for line in [*rules(), *routes()])
