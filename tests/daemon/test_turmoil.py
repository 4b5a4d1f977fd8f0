"""Clients of all kinds while everything is being reconfigured: afterwards nothing is left, and nothing went wrong."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tests.harness import Gpen, Server, connect, echo, naming, refusing, reset, sending, wait_until

CLIENTS, VISITS, SEED = 12, 60, 7


def ask(sock: socket.socket) -> None:
    sock.sendall(b"hello")
    sock.recv(100)


def vanish(sock: socket.socket) -> None:
    reset(sock)


def send_and_vanish(sock: socket.socket) -> None:
    sock.sendall(bytes(200_000))
    reset(sock)


def half_close(sock: socket.socket) -> None:
    sock.sendall(bytes(100_000))
    with contextlib.suppress(OSError):  # it may have been reset meanwhile
        sock.shutdown(socket.SHUT_WR)
    while sock.recv(1 << 16):
        pass


def leave(sock: socket.socket) -> None:
    sock.close()


VISITORS = (ask, vanish, send_and_vanish, half_close, leave)
COMMANDS = ("close server 0", "close server 1", "server 0 state drain", "server 0 state ready", "server 1 state maint",
            "server 1 state ready", "no server 2", "server 2 address {0} port {1}", "server 1 blacklist 1",
            "server 1 blacklist 0", "tcp_fastclose both", "tcp_fastclose off", "roundrobin", "no roundrobin",
            "leastconn", "no leastconn", "hash", "no hash", "clients_max 1", "clients_max 9", "keepalive",
            "no keepalive", "multi_accept 1", "conn_max 5", "conn_max 400", "sessions json",
            "servers", "recent", "status", "explain 127.0.0.1", "write all.cfg", "server 0 max 2", "server 0 max 0",
            "idlers 3", "idlers 0", "server 3 address {0} port {1}", "server 3 address 0.0.0.0", "server 1 health down",
            "server 1 health up", "on_down close", "on_down keep", "emergency {0}:{1}", "no emergency", "hold 0.1",
            "no hold", "hold_max 1", "no hold_max")


def test_turmoil(gpen: Callable[..., Gpen], servers: Callable[..., Server], tmp_path: Path) -> None:
    backends = [servers(echo), servers(naming("b")), servers(sending(bytes(300_000))), servers(reset)]
    (tmp_path / "again.cfg").write_text("timeout 2\n")
    with refusing() as refused:
        balancer = gpen("-l", "gpen.log", "-b", "1", "-F", "again.cfg", servers=[*backends, refused])
        address, descriptors = balancer.address, balancer.fds()
        threads = [threading.Thread(target=visit, args=(address, number)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        reconfigure(balancer, backends[2], lambda: any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()
        balancer.ctl("conn_max 400", "server 1 state ready", "idlers 0")
        balancer.wait_idle()
    assert wait_until(lambda: balancer.fds() == descriptors)
    # clients that had left before they were accepted may be accepted yet
    wait_until(lambda: len(balancer.log.splitlines()) == CLIENTS * VISITS, what="a line for each session")
    lines = balancer.log.splitlines()
    assert not [line for line in lines if line.endswith(" error")]


def visit(address: tuple[str, int] | str, number: int) -> None:
    dice = random.Random(SEED + number)
    for _ in range(VISITS):
        with connect(address) as sock:
            try:
                dice.choice(VISITORS)(sock)
            except ConnectionError:
                continue


def reconfigure(balancer: Gpen, server: Server, goes_on: Callable[[], bool]) -> None:
    dice = random.Random(SEED)
    while goes_on():
        command = dice.choice(COMMANDS).format("127.0.0.1", server.port)
        assert not balancer.ctl(command).startswith("do_cmd")
        if dice.random() < 0.1:
            balancer.signal(signal.SIGHUP)
