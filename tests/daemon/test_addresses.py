"""Every kind of client to every kind of server, and the files of unix sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, connect, family_of, naming, pair_of, read_all, refusing, run_gpen, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def three(servers: Serve, tmp_path: Path) -> list[Server]:
    return [servers(naming("four")), servers(naming("six"), at="::1"), servers(naming("unix"), at=f"{tmp_path}/back")]


@pytest.mark.parametrize("listen, client", [
    ("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "[::1]"), ("0", "127.0.0.1"), ("UNIX", "unix")])
def test_families(gpen: Start, three: list[Server], tmp_path: Path, listen: str, client: str) -> None:
    balancer = gpen("-r", "-l", "gpen.log", servers=three, listen=listen.replace("UNIX", f"{tmp_path}/front"))
    assert [balancer.ask() for _ in range(3)] == [b"four", b"six", b"unix"]
    wait_until(lambda: balancer.log.count("\n") == 3)
    lines = balancer.log.splitlines()
    assert [line.split()[4] for line in lines] == [server.address for server in three]
    assert {line.split()[0].rpartition(":")[0] or "unix" for line in lines} == {client}


def test_an_ipv4_client_of_an_ipv6_listener_is_shown_as_ipv4(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-r", "-O", "acl 3 permit 127.0.0.0/8", "-O", "client_acl 3", servers=three, listen="[::]:0")
    port = balancer.address[1]
    with connect(("127.0.0.1", int(port))) as sock:
        assert sock.recv(10) == b"four"
        assert balancer.json("sessions")[0]["client"].startswith("127.0.0.1:")


def test_the_listening_address_moves(gpen: Start, three: list[Server], tmp_path: Path) -> None:
    """The new socket is opened first; sessions of the old one go on."""
    balancer = gpen("-r", servers=three)
    with balancer.connect() as old:
        assert old.recv(10) == b"four"
        assert balancer.ctl(f"listen {tmp_path}/front") == f"{tmp_path}/front\n"
        assert balancer.ask() == b"six"
        assert balancer.ctl("listen 127.0.0.1:0").startswith("127.0.0.1:")
        assert balancer.ask() == b"unix"
        assert not os.path.exists(f"{tmp_path}/front")
        old.sendall(b"still here")
        assert old.recv(10) == b"still here"


def test_clients_in_the_backlog_move_too(gpen: Start, servers: Serve) -> None:
    """Those who wait for conn_max are served, and so is who moved the address."""
    family_of("::1")
    server = servers(naming("a"))
    balancer = gpen("-x", "1", servers=[server])
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(5)]
        assert socks[0].recv(1) == b"a"
        assert len(balancer.json("sessions")) == 1
        assert balancer.ctl("listen [::1]:0").startswith("[::1]:")
        assert [sock.recv(1) for sock in socks[1:]] == [b"a"] * 4
    assert balancer.ask() == b"a"


def test_an_address_that_is_taken_changes_nothing(gpen: Start, three: list[Server]) -> None:
    balancer = gpen("-r", servers=three)
    before = balancer.ctl("listen")
    reply = balancer.ctl(f"listen {three[0].address}")
    assert reply.startswith(f"error: can't listen on {three[0].address}: ")
    assert reply.count("\n") == 1
    assert balancer.ctl("listen") == before
    assert balancer.ask() == b"four"


def test_from_all_addresses_to_one_and_back(gpen: Start, three: list[Server]) -> None:
    """0.0.0.0:P stands in the way of 127.0.0.1:P, and must not be closed for it."""
    balancer = gpen(servers=three, listen="0.0.0.0:0")
    port = pair_of(balancer.ctl("listen").strip())[1]
    for address in (f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
        assert balancer.ctl(f"listen {address}") == f"{address}\n"
        assert balancer.ask() == b"four"


def stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_a_stale_socket_is_removed_and_ours_goes_with_us(gpen: Start, three: list[Server], tmp_path: Path) -> None:
    stale_socket(tmp_path / "front")
    stale_socket(tmp_path / "gpen.ctl")
    balancer = gpen("-r", servers=three, listen=str(tmp_path / "front"))
    assert balancer.ask() == b"four"
    assert balancer.stop() == 0
    assert not (tmp_path / "front").exists()
    assert not os.path.exists(balancer.control)


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:8080"])
def test_a_file_that_is_called_as_an_address_is_no_reason(tmp_path: Path, address: str) -> None:
    (tmp_path / address).touch()
    done = run_gpen("--check", address, "127.0.0.1:1", directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("which", ["listen", "control"])
@pytest.mark.parametrize("kind", ["live", "regular"])
def test_what_is_not_ours_is_left_alone(three: list[Server], tmp_path: Path, which: str, kind: str) -> None:
    path = tmp_path / "other"
    if kind == "live":
        path = Path(three[2].address)
    else:
        path.write_text("precious")
    listen, control = (str(path), f"{tmp_path}/c") if which == "listen" else ("127.0.0.1:0", str(path))
    done = run_gpen("-f", "-C", control, listen, three[0].address)
    status = 2 if (which, kind) == ("listen", "regular") else 1  # which is known before anything is begun
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert str(path) in done.stderr
    if kind == "live":
        with connect(str(path)) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"unix"
    else:
        assert path.read_text() == "precious"


def test_what_was_opened_is_closed_when_the_rest_fails(three: list[Server], tmp_path: Path) -> None:
    done = run_gpen("-f", "-C", three[2].address, "-p", f"{tmp_path}/pid", f"{tmp_path}/front", three[0].address)
    assert done.returncode == 1
    assert not (tmp_path / "front").exists()
    assert not (tmp_path / "pid").exists()


def test_a_port_that_is_taken(three: list[Server]) -> None:
    done = run_gpen("-f", three[0].address, three[1].address)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert three[0].address in done.stderr


def test_the_default_port_of_a_server_is_ours(gpen: Start) -> None:
    with refusing() as free:
        port = int(free.rpartition(":")[2])
    balancer = gpen(servers=["127.0.0.9"], listen=f"127.0.0.1:{port}")
    assert balancer.server(0)["port"] == port
    with Server(naming("nine"), at="127.0.0.9", port=port):
        assert balancer.ask() == b"nine"
