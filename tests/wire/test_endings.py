"""How conversations end badly: resets, clients that vanish or don't read, silence. What arrived is passed on."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from tests.harness import PATIENCE, Gpen, Server, echo, naming, read_all, reset, sending, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
SIOCOUTQ = 0x5411
MB = 1 << 20


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the other machine's kernel has not yet taken."""
    return int(struct.unpack("i", fcntl.ioctl(sock, SIOCOUTQ, bytes(4)))[0])


def leave_then_reset(sock: socket.socket) -> None:
    """Wait until what was sent has left, then reset."""
    wait_until(lambda: not unacknowledged(sock))
    reset(sock)


def ending_of(balancer: Gpen) -> str:
    """The last word of the last line of the session log."""
    wait_until(lambda: balancer.log.endswith("\n"), what="a line in the session log")
    return balancer.log.split()[-1]


@pytest.mark.parametrize("size", [1, 100_000, 8 * MB])
def test_what_left_a_server_that_resets_arrives(gpen: Start, servers: Serve, size: int) -> None:
    balancer = gpen("-l", "gpen.log", servers=[servers(sending(bytes(size), leave_then_reset))])
    with balancer.connect() as sock:
        assert len(read_all(sock)) == size
    assert ending_of(balancer) == "server-reset"
    balancer.wait_idle()


def test_the_last_bytes_wait_for_a_slow_client(gpen: Start, servers: Serve) -> None:
    """The server is gone before the client reads the first byte."""
    server = servers(sending(bytes(150_000), leave_then_reset))
    balancer = gpen("-l", "gpen.log", servers=[server])
    with balancer.connect() as sock:
        wait_until(lambda: balancer.json("sessions") == [] or balancer.json("sessions")[0]["state"] == "ending")
        assert len(read_all(sock)) == 150_000
    balancer.wait_idle()


def test_what_left_a_server_that_resets_arrives_slowly(gpen: Start, servers: Serve) -> None:
    """The client has little room and takes small pieces, so that bytes wait in gpen when the reset comes."""
    balancer = gpen(servers=[servers(sending(bytes(MB), leave_then_reset))])
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(balancer.address)
        received = 0
        while piece := sock.recv(1000):
            received += len(piece)
    assert received == MB


def test_what_left_a_client_that_resets_arrives(gpen: Start, servers: Serve) -> None:
    received: list[bytes] = []
    balancer = gpen("-l", "gpen.log", servers=[servers(lambda sock: received.append(read_all(sock)))])
    with balancer.connect() as sock:
        sock.sendall(bytes(2 * MB))
        leave_then_reset(sock)
    wait_until(lambda: received)
    assert len(received[0]) == 2 * MB
    assert ending_of(balancer) == "client-reset"


def test_a_client_that_vanishes_while_it_is_sent_to(gpen: Start, servers: Serve) -> None:
    gone: list[int] = []

    def serve(sock: socket.socket) -> None:
        try:
            while True:
                sock.sendall(bytes(MB))
        except OSError as error:
            gone.append(error.errno or 0)

    balancer = gpen("-l", "gpen.log", servers=[servers(serve)])
    descriptors = balancer.fds()
    sock = balancer.connect()
    sock.recv(10)
    reset(sock)
    wait_until(lambda: gone, what="the server's notice that the client is gone")
    balancer.wait_idle()
    assert ending_of(balancer) == "client-reset"
    wait_until(lambda: balancer.fds() == descriptors)
    assert balancer.server(0)["health"] == "up"


def answer_with_reset(sock: socket.socket) -> None:
    """Reset once the first byte of a client is here, so that the connect is surely over."""
    sock.recv(1)
    reset(sock)


def test_a_reset_is_no_failed_connect(gpen: Start, servers: Serve) -> None:
    resetter, other = servers(answer_with_reset), servers(naming("other"))
    balancer = gpen("-r", servers=[resetter, other])
    assert sorted(balancer.ask(b"x") for _ in range(10)) == [b""] * 5 + [b"otherx"] * 5
    balancer.wait_idle()
    assert [row["failures"] for row in balancer.json("servers")] == [0, 0]


def test_what_comes_before_a_reset_at_once_arrives(gpen: Start, servers: Serve) -> None:
    """The reset may be there before gpen has seen that the connect succeeded."""
    balancer = gpen(servers=[servers(sending(b"last words", leave_then_reset))])
    assert {balancer.ask() for _ in range(100)} == {b"last words"}
    assert balancer.server(0)["failures"] == 0


def is_stalled(balancer: Gpen) -> bool:
    """Whether sessions move bytes no more: each is idle for a moment, with bytes to move."""
    return all(row["idle"] > 0.3 and row["up"] + row["down"] > 0 for row in balancer.json("sessions"))


def test_clients_that_do_not_read_cost_no_memory(gpen: Start, servers: Serve) -> None:
    size, clients = 24 * MB, 10
    balancer = gpen(servers=[servers(sending(bytes(size)))])
    balancer.ctl("servers")
    before = balancer.rss
    socks = [balancer.connect(seconds=40) for _ in range(clients)]
    wait_until(lambda: len(balancer.json("sessions")) == clients and is_stalled(balancer))
    assert balancer.rss - before < clients * 256 * 1024 + 2 * MB
    for sock in socks:
        with sock:
            assert len(read_all(sock)) == size
    balancer.wait_idle()
    assert balancer.server(0)["rx"] == size * clients


def test_a_server_that_does_not_read_stops_the_client(gpen: Start, servers: Serve) -> None:
    """The client sends and never reads; the echo comes to a halt, and so does the client."""
    balancer = gpen(servers=[servers(echo)])
    before = balancer.rss
    with balancer.connect() as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(200 * MB))
        assert balancer.rss - before < 4 * MB


def test_a_reset_behind_a_client_that_does_not_read(gpen: Start, servers: Serve) -> None:
    """Nothing is read from the server while the client takes nothing; the reset is noticed all the same."""

    def serve(sock: socket.socket) -> None:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(200 * MB))
        reset(sock)

    balancer = gpen("-l", "gpen.log", servers=[servers(serve)])
    with balancer.connect():
        balancer.wait_idle(30)
    assert ending_of(balancer) == "server-reset"


def test_a_client_that_resets_behind_a_server_that_does_not_read(gpen: Start, servers: Serve) -> None:
    """Nothing is read from the client meanwhile either, and it was the client that has left."""
    over = threading.Event()
    balancer = gpen("-l", "gpen.log", servers=[servers(lambda sock: over.wait(PATIENCE))])
    with balancer.connect() as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(200 * MB))
        reset(sock)
    balancer.wait_idle(30)
    over.set()
    assert ending_of(balancer) == "client-reset"


@pytest.mark.parametrize("half_closed", ["nobody", "client", "server"])
def test_idle_timeout(gpen: Start, servers: Serve, half_closed: str) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        if half_closed == "server":
            sock.shutdown(socket.SHUT_WR)
        over.wait(PATIENCE)

    over = threading.Event()
    balancer = gpen("-l", "gpen.log", "-O", "idle_timeout 1", servers=[servers(serve)])
    start = time.monotonic()
    with balancer.connect() as sock:
        assert sock.recv(5) == b"hello"
        if half_closed == "client":
            sock.shutdown(socket.SHUT_WR)
        balancer.wait_idle(10)
        assert time.monotonic() - start > 0.8
    over.set()
    assert ending_of(balancer) == "idle"


def test_a_client_that_comes_late_has_its_whole_idle_timeout(gpen: Start, servers: Serve) -> None:
    """It is not taken for idle since the last event that gpen saw, long before it came."""
    balancer = gpen("-O", "idle_timeout 1", servers=[servers(echo)])
    assert balancer.ask(b"x") == b"x"
    time.sleep(1.2)  # this quiet is what is tested
    start = time.monotonic()
    with balancer.connect() as sock:
        assert sock.recv(1) == b""
        assert time.monotonic() - start > 0.8


def test_idle_timeout_spares_the_busy(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "idle_timeout 1", servers=[servers(echo)])
    with balancer.connect() as busy, balancer.connect() as idle:
        while not select.select([idle], [], [], 0.05)[0]:
            busy.sendall(b"x")
            assert busy.recv(1) == b"x"
        assert idle.recv(1) == b""
        busy.sendall(b"y")
        assert busy.recv(1) == b"y"


# tcp_fastclose, who closes, whether the session ends although the other side has not closed
FASTCLOSE = [("off", "client", False), ("off", "server", False), ("up", "server", True), ("up", "client", False),
             ("down", "client", True), ("down", "server", False), ("both", "client", True), ("both", "server", True)]


@pytest.mark.parametrize(("mode", "closer", "ends"), FASTCLOSE)
def test_tcp_fastclose(gpen: Start, servers: Serve, mode: str, closer: str, ends: bool) -> None:
    def serve(sock: socket.socket) -> None:
        if closer == "server":
            sock.sendall(b"last")
            sock.shutdown(socket.SHUT_WR)
        over.wait(PATIENCE)

    over = threading.Event()
    balancer = gpen("-O", f"tcp_fastclose {mode}", servers=[servers(serve)])
    with balancer.connect() as sock:
        if closer == "client":
            sock.shutdown(socket.SHUT_WR)
        else:
            assert read_all(sock) == b"last"
        if ends:
            balancer.wait_idle()
        else:
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["half-closed"])
        over.set()


@pytest.mark.parametrize("mode", ["down", "both"])
def test_tcp_fastclose_takes_all_that_the_client_sent(gpen: Start, servers: Serve, mode: str) -> None:
    """The client sends and half-closes, while the server sends as well and begins to read late."""
    data = os.urandom(3 * MB)
    received: list[bytes] = []
    half_closed = threading.Event()

    def send(sock: socket.socket) -> None:
        try:
            for _ in range(64):
                sock.sendall(bytes(MB // 16))
        except OSError:
            return

    def serve(sock: socket.socket) -> None:
        sender = threading.Thread(target=send, args=(sock,))
        sender.start()
        half_closed.wait(1)  # or the client's bytes have no room on the way
        received.append(read_all(sock))
        sender.join()

    balancer = gpen("-O", f"tcp_fastclose {mode}", servers=[servers(serve)])
    with balancer.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        half_closed.set()
        read_all(sock)
        balancer.wait_idle()
    wait_until(lambda: received)
    assert received[0] == data


def test_a_reset_behind_a_half_close(gpen: Start, servers: Serve) -> None:
    """The server says nothing, and the client is gone: the session is over before the last bytes lose patience."""
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        over.wait(PATIENCE)

    balancer = gpen("-l", "gpen.log", servers=[servers(serve)])
    socks = [balancer.connect() for _ in range(5)]
    for sock in socks:
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["half-closed"] * 5)
    for sock in socks:
        reset(sock)
    balancer.wait_idle(8)
    over.set()
    assert [line.split()[-1] for line in balancer.log.splitlines()] == ["client-reset"] * 5
