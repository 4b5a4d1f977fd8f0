"""close address A: all sessions and flows of the clients there end, and nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.crew import workers
from tests.datagrams import DatagramServer, client, endings, naming
from tests.harness import Gpen, Server, echo, read_all, wait_until
from tests.listeners import ask, own, visit

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Clients = dict[str, socket.socket]
SOURCES = ("127.0.0.2", "127.0.0.3", "127.0.1.2")


@pytest.fixture(params=[0, 2], ids=["one process", "workers"])
def balancer(request: pytest.FixtureRequest, gpen: Start, servers: Serve) -> Gpen:
    return gpen("-l", "gpen.log", *workers(request.param), *own("w"), servers=[servers(echo)])


@pytest.fixture
def clients(balancer: Gpen) -> Iterator[Clients]:
    """One of each address, served."""
    with ExitStack() as stack:
        made = {source: stack.enter_context(balancer.connect(source)) for source in SOURCES}
        assert [is_served(sock) for sock in made.values()] == [True] * 3
        yield made
    balancer.wait_idle()


def is_served(sock: socket.socket) -> bool:
    try:
        sock.sendall(b"?")
        return sock.recv(1) == b"?"
    except ConnectionError:
        return False


def test_those_of_an_address(balancer: Gpen, clients: Clients) -> None:
    assert balancer.ctl("close address 127.0.0.3") == "Closing 1 connections of address 127.0.0.3\n"
    assert read_all(clients["127.0.0.3"]) == b""
    assert [is_served(sock) for sock in clients.values()] == [True, False, True]
    wait_until(lambda: balancer.log.endswith("killed\n"))
    assert balancer.ctl("close address 127.0.0.3") == "Closing 0 connections of address 127.0.0.3\n"
    with balancer.connect("127.0.0.3") as again:
        assert is_served(again)


@pytest.mark.parametrize(("network", "left"), [("127.0.0.0/24", [False, False, True]), ("0.0.0.0/0", [False] * 3),
                                               ("::/0", [True] * 3), ("::ffff:127.0.1.2", [True, True, False])])
def test_those_of_a_network(balancer: Gpen, clients: Clients, network: str, left: list[bool]) -> None:
    told = balancer.ctl(f"close address {network}")
    assert told.startswith(f"Closing {left.count(False)} connections of address ")
    for sock, is_left in zip(clients.values(), left, strict=True):
        assert is_left or read_all(sock) == b""
    assert [is_served(sock) for sock in clients.values()] == left


def test_those_of_a_listener(balancer: Gpen, clients: Clients) -> None:
    with visit(balancer, "w", "127.0.0.2") as there:
        assert is_served(there)
        assert balancer.ctl("listener w close address 127.0.0.2") == "Closing 1 connections of address 127.0.0.2\n"
        assert read_all(there) == b""
        assert is_served(clients["127.0.0.2"])
    assert ask(balancer, "w", b"yes", "127.0.0.2") == b"yes"


def test_who_waits_for_a_server(gpen: Start) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "hold 60", "-O", "blacklist 60", servers=["127.0.0.1:1"])
    with balancer.connect("127.0.0.2") as sock:
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
        assert balancer.ctl("close address 127.0.0.2") == "Closing 1 connections of address 127.0.0.2\n"
        assert read_all(sock) == b""


def test_clients_of_a_unix_socket_are_of_no_address(gpen: Start, servers: Serve, tmp_path: object) -> None:
    balancer = gpen(servers=[servers(echo)], listen=f"{tmp_path}/front")
    with balancer.connect() as sock:
        assert is_served(sock)
        assert balancer.ctl("close address 0.0.0.0/0") == "Closing 0 connections of address 0.0.0.0/0\n"
        assert is_served(sock)


def test_flows(gpen: Start) -> None:
    with DatagramServer(naming("a")) as server:
        balancer = gpen("-U", "-l", "gpen.log", servers=[server.address])
        with client(balancer, "127.0.3.1") as one, client(balancer, "127.0.3.2") as other:
            for sock in (one, other):
                sock.send(b"who?")
                assert sock.recv(10) == b"a"
            assert balancer.ctl("close address 127.0.3.1") == "Closing 1 connections of address 127.0.3.1\n"
            assert endings(balancer, 1) == ["killed"]
            assert [row["client"].partition(":")[0] for row in balancer.json("sessions")] == ["127.0.3.2"]
            balancer.ctl("close address 127.0.3.0/24")
            assert endings(balancer, 2) == ["killed"] * 2


@pytest.mark.parametrize(("line", "named"), [
    ("close address", "ADDRESS"), ("close address nobody", "'nobody'"),
    ("close address 10.0.0.1 10.0.0.2", "'10.0.0.2'"), ("close address 10.0.0.0/33", "'33'"),
    ("listener w close address", "ADDRESS"), ("listener w close 3", "address"),
    ("listener none close address 10.0.0.1", "none")])
def test_an_error_names_what_is_wrong(gpen: Start, line: str, named: str) -> None:
    told = gpen(*own("w"), servers=["127.0.0.1:1"]).ctl(line)
    assert told.startswith("error: ") and named in told and told.count("\n") == 1
