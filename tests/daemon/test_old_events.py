"""What epoll told of a descriptor whose number is a new client's by the time it is its turn. gpen is stopped, things
happen in the order that epoll will tell them in, and it goes on."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, reset, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@contextlib.contextmanager
def stopped(balancer: Gpen) -> Iterator[None]:
    balancer.signal(signal.SIGSTOP)
    state = Path(f"/proc/{balancer.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    yield
    balancer.signal(signal.SIGCONT)


@pytest.fixture
def conversations() -> Iterator[list[socket.socket]]:
    """The server's sides of its connections."""
    socks: list[socket.socket] = []
    yield socks
    for sock in socks:
        sock.close()


@pytest.fixture
def server(servers: Serve, conversations: list[socket.socket]) -> Server:
    """One that greets, and keeps the connection."""

    def keep(sock: socket.socket) -> None:
        conversations.append(sock.dup())
        sock.sendall(b"A")
        while sock.recv(100):
            pass

    return servers(keep)


@pytest.mark.parametrize("how", [reset, socket.socket.close])
def test_a_client_that_is_held_gets_no_other_ones_end(gpen: Start, server: Server, conversations: list[socket.socket],
                                                      how: Callable[[socket.socket], None]) -> None:
    balancer = gpen("-r", "-O", "hold 10", "-O", "tcp_fastclose both", "-l", "gpen.log", servers=[server])
    address = balancer.address
    for _ in range(2):
        with balancer.connect() as old:
            assert old.recv(1) == b"A"
            balancer.ctl("server 0 state drain")
            with stopped(balancer):
                conversations[-1].shutdown(socket.SHUT_RDWR)  # its session ends, and the client's descriptor is free
                new = socket.create_connection(address, 10)  # takes it
                how(old)  # what was told of the old one comes behind
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
            balancer.ctl("server 0 state ready")
            with new:
                assert new.recv(1) == b"A"
            balancer.wait_idle()
    assert "client-reset" not in balancer.log


def test_twenty_at_a_time(gpen: Start, server: Server, conversations: list[socket.socket]) -> None:
    """As many end as come, in one pass, and each of those who come is served."""
    balancer = gpen("-r", "-O", "hold 10", "-O", "tcp_fastclose both", "-l", "gpen.log", servers=[server])
    address = balancer.address
    old = [balancer.connect() for _ in range(20)]
    assert [sock.recv(1) for sock in old] == [b"A"] * 20
    balancer.ctl("server 0 state drain")
    with stopped(balancer):
        for conversation in conversations:
            conversation.shutdown(socket.SHUT_RDWR)
        new = [socket.create_connection(address, 10) for _ in range(20)]
        for sock in old:
            reset(sock)
    wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"] * 20)
    balancer.ctl("server 0 state ready")
    assert [sock.recv(1) for sock in new] == [b"A"] * 20
    for sock in new:
        sock.close()
    balancer.wait_idle()
