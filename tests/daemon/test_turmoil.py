"""Clients of all kinds while everything is being reconfigured: afterwards nothing is left, and nothing went wrong."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import datagrams
from tests.certificates import Certificates
from tests.harness import Gpen, Server, connect, echo, hold, naming, refusing, reset, sending, wait_until
from tests.tlsclient import TlsClient, Truncated, trusting
from tests.wire.http_peers import Recorder, get

CLIENTS, VISITS, SEED = 12, 60, 7
TURMOIL = int(os.environ.get("TURMOIL", "360"))  # random commands in each mode; `make campaign` takes more


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
            "leastconn", "no leastconn", "hash", "no hash", "stateless", "no stateless", "clients_max 1",
            "clients_max 9", "keepalive", "no keepalive", "multi_accept 1", "conn_max 5", "conn_max 400",
            "sessions json",
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
        wait_until(lambda: not any(row["sessions"] for row in balancer.json("servers")), what="the end of idlers")
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


# --- commands with random values, thousands, while clients of each kind live ------------------------------------------

RANDOM_COMMANDS: tuple[str, ...] = (
    "server {0} state {1}", "server {0} state ready", "server {0} max {2}", "server {0} hard {2}",
    "server {0} weight {2}", "server {0} prio {2}", "server {0} blacklist {3}", "server {0} health {4}",
    "server {0} acl {2}", "close server {0}", "no server {0}", "server {0} address {5}", "timeout {3}", "blacklist {3}",
    "idle_timeout {3}", "hold {3}", "hold_max {2}", "greeting {3}", "no greeting", "mysql", "no mysql", "idlers {2}",
    "check {6}", "check_interval 0.{2}1", "check_timeout 0.{2}1", "check_fall 1", "check_rise {2}1", "udp_timeout {3}",
    "udp_replies {2}", "udp_unanswered {2}", "conn_max {2}", "conn_max 400", "pending_max {2}", "clients_max {2}1",
    "tracking {2}", "tcp_fastclose {7}", "tcp_nodelay", "keepalive", "roundrobin", "no roundrobin", "leastconn",
    "random", "no leastconn", "no random", "hash", "no hash", "stateless", "no stateless", "prio", "no prio",
    "stubborn", "no stubborn", "weight", "no weight", "multi_accept {2}1", "on_down {8}", "health_ttl {3}",
    "acl {2} permit 127.0.0.0/8", "acl {2} deny 127.0.0.1", "no acl {2}", "client_acl {2}", "emerg_server {5}",
    "abuse_server {5}",
    "proxy_protocol off", "accept_proxy off", "ssl_handshake {3}", "http_header_max 1000{2}", "debug {9}",
    "servers json", "sessions json", "recent", "status", "clients", "events 20", "explain 127.0.0.{2}", "help",
    "nonsense {3}", "reload", "mode", "write all.cfg")
RANDOM_COMMANDS += ("server {0} address {5}",) * 6  # so that most numbers are servers most of the time
CALM = ("client_acl 0", "no acl 0", "conn_max 400", "pending_max 0", "idlers 0", "check off", "hold 0", "no mysql",
        "no greeting", "idle_timeout 1", "udp_timeout 0.5", "debug 0")


def random_command(dice: random.Random, places: list[str]) -> str:
    host, _, port = dice.choice(places).rpartition(":")
    return dice.choice(RANDOM_COMMANDS).format(
        dice.randrange(4), dice.choice(("ready", "drain", "maint")), dice.randrange(4), dice.choice((0, 0.1, 0.5, 2)),
        dice.choice(("up", "down because of a test", "unknown")), f"{host} port {port}",
        dice.choice(("off", "connect", "greeting", "exec /bin/true", "exec /bin/false")),
        dice.choice(("off", "up", "down", "both")), dice.choice(("keep", "close")), dice.choice((0, 0, 1)))


Visit = Callable[[tuple[str, int] | str, random.Random], None]


def by_stream(address: tuple[str, int] | str, dice: random.Random) -> None:
    with connect(address, seconds=5) as sock:
        dice.choice(VISITORS)(sock)


def by_datagrams(address: tuple[str, int] | str, dice: random.Random) -> None:
    assert not isinstance(address, str)
    with datagrams.client(address) as sock:
        sock.settimeout(0.05)
        for _ in range(dice.randrange(5)):
            sock.send(bytes(dice.randrange(2000)))
            sock.recv(1 << 16)


def by_https(context: ssl.SSLContext) -> Visit:
    def visit(address: tuple[str, int] | str, dice: random.Random) -> None:
        if dice.random() < 0.2:
            by_stream(address, dice)
            return
        with TlsClient(address, context, seconds=5) as sock:
            for _ in range(dice.randrange(4)):
                sock.sendall(dice.choice((get("/"), get("/"), b"GET / HTTP/1.1\r\nHost : www\r\n\r\n", b"\0" * 20000)))
                sock.recv(100)
            if dice.random() < 0.3:
                reset(sock.sock)

    return visit


def live(address: tuple[str, int] | str, visit: Visit, seed: int, is_over: threading.Event) -> None:
    dice = random.Random(seed)
    while not is_over.is_set():
        with contextlib.suppress(OSError, Truncated):
            visit(address, dice)


def stir(balancer: Gpen, visit: Visit, places: list[str], seed: int) -> None:
    """So many random commands, while clients come and go; and in the end nothing is left."""
    dice, is_over, address = random.Random(seed), threading.Event(), balancer.address
    balancer.ctl(*CALM)
    descriptors = balancer.fds()
    threads = [threading.Thread(target=live, args=(address, visit, seed + number, is_over)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(TURMOIL // 10):
            balancer.ctl(*[random_command(dice, places) for _ in range(10)])
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert "error" not in balancer.ctl(*CALM)
    wait_until(lambda: not any(row["sessions"] for row in balancer.json("servers")), what="the end of idlers")
    balancer.wait_idle()
    wait_until(lambda: balancer.fds() <= descriptors, what=f"{descriptors} descriptors, not {balancer.fds()}")
    assert "failed; that is told once" not in balancer.stderr and "Traceback" not in balancer.stderr


@pytest.mark.turmoil
@pytest.mark.parametrize("seed", [1, 2])
def test_random_commands(gpen: Callable[..., Gpen], servers: Callable[..., Server], seed: int) -> None:
    backends = [servers(echo), servers(naming("b")), servers(sending(bytes(300_000))), servers(hold)]
    with refusing() as refused:
        balancer = gpen("-b", "1", "-l", "gpen.log", servers=backends)
        stir(balancer, by_stream, [*(server.address for server in backends), refused], seed)
        assert not [line for line in balancer.log.splitlines() if line.endswith(" error")]


@pytest.mark.turmoil
def test_random_commands_udp(gpen: Callable[..., Gpen]) -> None:
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(datagrams.DatagramServer(reply))
                    for reply in (datagrams.echo, datagrams.silence, datagrams.naming("c"))]
        places = [*(server.address for server in backends), stack.enter_context(datagrams.refusing())]
        balancer = gpen("-U", "-b", "1", "-l", "gpen.log", servers=places)
        stir(balancer, by_datagrams, places, 3)
        assert not [line for line in balancer.log.splitlines() if line.endswith(" error")]


@pytest.mark.turmoil
def test_random_commands_https(gpen: Callable[..., Gpen], servers: Callable[..., Server], certificates: Certificates,
                               ) -> None:
    backends = [servers(Recorder()), servers(reset), servers(Recorder()), servers(hold)]
    with refusing() as refused:
        balancer = gpen("-H", *certificates.server.options, "-b", "1", "-l", "gpen.log", servers=backends)
        visit = by_https(trusting(certificates.authority.certificate))
        stir(balancer, visit, [*(server.address for server in backends), refused], 4)
        assert not [line for line in balancer.log.splitlines() if line.endswith(" error")]
