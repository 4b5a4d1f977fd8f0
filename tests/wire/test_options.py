"""Socket options on both sides, looked at in the running gpen's own descriptors."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, family_of, hold, naming, needs_root, wait_until

pytestmark = pytest.mark.one_process  # which has the sockets that are looked at

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


TCP = socket.IPPROTO_TCP
KEEPALIVE = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), (TCP, socket.TCP_KEEPIDLE), (TCP, socket.TCP_KEEPINTVL),
             (TCP, socket.TCP_KEEPCNT))
NODELAY, USER_TIMEOUT = ((TCP, socket.TCP_NODELAY),), ((TCP, socket.TCP_USER_TIMEOUT),)  # that in milliseconds


def options_of(balancer: Gpen, options: Sequence[tuple[int, int]], expected: Sequence[int] = ()) -> list[list[int]]:
    """The options' values toward the client and toward the server, for a client that connects now; as they are at
    last, when they become what is expected."""

    def values(fd: int) -> list[int]:
        with descriptor_of(balancer.pid, fd) as sock:
            return [sock.getsockopt(*option) for option in options]

    with balancer.connect():
        row = wait_until(lambda: [row for row in balancer.json("sessions") if row["state"] == "open"])[-1]
        connection = balancer.json(f"connection {row['id']}")
        sides = connection["downfd"], connection["upfd"]
        if expected:
            wait_until(lambda: all(values(fd)[:len(expected)] == list(expected) for fd in sides))
        found = [values(fd) for fd in sides]
    balancer.wait_idle()
    return found


@pytest.mark.parametrize(("options", "steps"), [
    (NODELAY, [("tcp_nodelay", [1]), ("no tcp_nodelay", [0])]),
    (KEEPALIVE, [("keepalive 61 11 7", [1, 61, 11, 7]), ("keepalive", [1, 60, 10, 6]), ("no keepalive", [0]),
                 ("keepalive 32767 32767 127", [1, 32767, 32767, 127]), ("keepalive 1 1 1", [1, 1, 1, 1])]),
    (USER_TIMEOUT, [("user_timeout 30", [30_000]), ("user_timeout 2.3", [2300]), ("user_timeout 0.0001", [1]),
                    ("user_timeout 2147483", [2_147_483_000]), ("no user_timeout", [0]), ("user_timeout 0", [0])]),
])
@pytest.mark.parametrize("at", ["127.0.0.1", "::1"])
def test_options_on_both_sides(gpen: Callable[..., Gpen], servers: Callable[..., Server], at: str,
                               options: Sequence[tuple[int, int]], steps: Sequence[tuple[str, list[int]]]) -> None:
    """They count for new connections, whether set at the start or while gpen listens."""
    (first, values), host = steps[0], f"[{at}]" if ":" in at else at
    balancer = gpen("-O", first, servers=[servers(hold, at=at)], listen=f"{host}:0")
    assert options_of(balancer, options, values) == [values, values]
    for line, values in steps[1:]:
        assert balancer.ctl(line) == ""
        assert [side[:len(values)] for side in options_of(balancer, options, values)] == [values, values], line


def test_options_of_a_new_listener(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> None:
    balancer = gpen("-O", "keepalive 61 11 7", servers=[servers(hold)])
    balancer.ctl("listen [::1]:0")
    assert options_of(balancer, KEEPALIVE, [1, 61, 11, 7]) == [[1, 61, 11, 7]] * 2


def test_gone_peers_are_looked_for_unless_told_otherwise(gpen: Callable[..., Gpen],
                                                        servers: Callable[..., Server]) -> None:
    balancer = gpen(servers=[servers(hold)])
    expected = [1, 60, 10, 6, 0, 0]
    assert options_of(balancer, KEEPALIVE + NODELAY + USER_TIMEOUT, expected) == [expected] * 2


def test_a_session_keeps_the_options_that_it_began_with(gpen: Callable[..., Gpen], servers: Callable[..., Server],
                                                       ) -> None:
    balancer = gpen(servers=[servers(hold)])
    with balancer.connect():
        row = wait_until(lambda: [row for row in balancer.json("sessions") if row["state"] == "open"])[0]
        with descriptor_of(balancer.pid, balancer.json(f"connection {row['id']}")["upfd"]) as sock:
            wait_until(lambda: sock.getsockopt(*KEEPALIVE[0]) == 1)
            balancer.ctl("no keepalive", "keepalive 5 5 5")
            with balancer.connect():
                wait_until(lambda: len(balancer.json("sessions")) == 2)
            assert sock.getsockopt(*KEEPALIVE[1]) == 60


def test_unix_sockets_have_no_such_options(gpen: Callable[..., Gpen], servers: Callable[..., Server],
                                           tmp_path: Path) -> None:
    server = servers(naming("u"), at=str(tmp_path / "server"))
    balancer = gpen("-O", "keepalive 1 1 1", "-O", "user_timeout 1", "-O", "tcp_nodelay", servers=[server],
                    listen=str(tmp_path / "front"))
    assert balancer.ask() == b"u"
    assert balancer.ctl("no keepalive", "no tcp_nodelay", "no user_timeout") == ""
    assert balancer.ask() == b"u"


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
    assert "annot assign requested address: source names one that this machine does not have" in balancer.stderr
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
