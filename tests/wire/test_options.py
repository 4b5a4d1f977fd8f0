"""Socket options on both sides, looked at in the running gpen's own descriptors."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, family_of, hold, needs_root, wait_until

PIDFD_GETFD = 438  # pidfd_getfd(2), the same number on every machine


def descriptor_of(pid: int, fd: int) -> socket.socket:
    """A copy of another process's socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(pid)
    try:
        copy = libc.syscall(PIDFD_GETFD, handle, fd, 0)
    finally:
        os.close(handle)
    if copy < 0:
        pytest.skip(f"can't look into another process: {os.strerror(ctypes.get_errno())}")
    return socket.socket(fileno=copy)


def options_of(balancer: Gpen, option: tuple[int, int]) -> list[bool]:
    """Whether an option is set toward the client and toward the server, for a client that connects now."""
    with balancer.connect():
        row = wait_until(lambda: [row for row in balancer.json("sessions") if row["state"] == "open"])[-1]
        connection = balancer.json(f"connection {row['id']}")
        flags = []
        for fd in (connection["downfd"], connection["upfd"]):
            with descriptor_of(balancer.pid, fd) as sock:
                flags.append(bool(sock.getsockopt(*option)))
    balancer.wait_idle()
    return flags


@pytest.mark.parametrize("name, option", [
    ("tcp_nodelay", (socket.IPPROTO_TCP, socket.TCP_NODELAY)),
    ("keepalive", (socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
])
def test_option_on_both_sides(gpen: Callable[..., Gpen], servers: Callable[..., Server], name: str,
                              option: tuple[int, int]) -> None:
    balancer = gpen(servers=[servers(hold)])
    assert options_of(balancer, option) == [False, False]
    assert balancer.ctl(name) == ""
    assert options_of(balancer, option) == [True, True]
    assert balancer.ctl(f"no {name}") == ""
    assert options_of(balancer, option) == [False, False]


@pytest.mark.parametrize("at, source", [("127.0.0.1", "127.0.0.5"), ("::1", "::1")])
def test_source(gpen: Callable[..., Gpen], servers: Callable[..., Server], at: str, source: str) -> None:
    peers: list[str] = []
    server = servers(lambda sock: peers.append(sock.getpeername()[0]), at=at)
    gpen("-O", f"source {source}", servers=[server]).ask()
    assert peers == [source]


def test_source_of_another_family_is_not_used(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    peers: list[str] = []
    family_of("::1")
    gpen("-O", "source ::1", servers=[servers(lambda sock: peers.append(sock.getpeername()[0]))]).ask()
    assert peers == ["127.0.0.1"]


def test_a_source_that_is_not_here_blames_no_server(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    server = servers(hold)
    balancer = gpen("-l", "gpen.log", "-O", "source 192.0.2.77", servers=[server])
    assert balancer.ask() == b""
    assert (balancer.server(0)["health"], balancer.server(0)["failures"], server.served) == ("up", 0, 0)
    wait_until(lambda: balancer.log.endswith(" local-error\n"))
    assert "annot assign requested address" in balancer.stderr
    balancer.ctl("no source")
    balancer.ask()
    assert server.served == 1


@needs_root
def test_a_source_that_can_not_reach(gpen: Callable[..., Gpen], tmp_path: Path) -> None:
    """From loopback nothing leaves the machine: here, a network of the test's own with a route outward. Where that is
    so of several servers, none is to blame."""
    network = ("ip link set lo up && ip link add veth0 type veth peer name veth1 && "
               "ip address add 192.0.2.1/24 dev veth0 && ip link set veth0 up && ip link set veth1 up && "
               'exec "$0" "$@"')
    balancer = gpen("-l", "gpen.log", "-O", "source 127.0.0.1", servers=["192.0.2.9:80", "192.0.2.10:80"],
                    listen=str(tmp_path / "front"), wrapper=("unshare", "--net", "sh", "-c", network))
    assert balancer.ask() == b""
    assert [balancer.server(number)["health"] for number in (0, 1)] == ["up", "up"]
    wait_until(lambda: balancer.log.endswith(" local-error\n"))
    assert "by no fault of theirs: invalid argument" in balancer.stderr
