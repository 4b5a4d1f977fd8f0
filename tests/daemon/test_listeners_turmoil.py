"""Random commands for several listeners, thousands, while clients of each live: afterwards nothing is left, what was
counted is even, and what is written can be started again."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import datagrams
from tests.certificates import Certificates
from tests.daemon.test_turmoil import CALM, TURMOIL, by_datagrams, by_stream, live, random_command
from tests.harness import Gpen, Server, echo, hold, naming, refusing, run_gpen, sending, wait_until
from tests.listeners import own, place, row_of
from tests.servers import free_port

NAMES = ("w", "v", "u")  # u is of UDP, and v now and then
OWN_COMMANDS: tuple[str, ...] = (
    "listener new listen 127.0.0.1:0", "listener new listen {directory}/new.sock", "listener new tracking_with {name}",
    "no listener new", "listener {name} servers 0-{number}", "listener {name} servers all",
    "listener {name} server {number} max {number} weight {few}", "listener {name} server {number} port {port}",
    "listener {name} server {number} prio {few} max default", "listener {name} inherit server {number}",
    "listener {name} inherit {setting}", "listener {name} no {setting}", "listener new udp", "listener new no udp",
    "listener {name} tracking_with -", "listener {name} tracking_with w", "listener {name} no tracking_with",
    "listener {name} client 127.0.0.1 server {number}", "listener {name} no client 127.0.0.1",
    "listener {name} log {directory}/other.log", "listener {name} inherit log", "listener {name} no emergency",
    "listener {name} emergency 127.0.0.1:{port}", "conn_max_total {few}", "no conn_max_total",
    "client 127.0.0.1 server {number}",
    "listener {name} close server {number}", "listener {name} explain 127.0.0.1", "listeners json", "state",
    "listener {name} servers json", "listener {name} sessions", "listener {name} recent", "listener {name} events json",
    "listener {name} mode", "listener {name} http", "listener {name} inherit http", "listener v udp",
    "listener v no udp",
    "listener {name} ssl_certificate {directory}/own.pem", "listener {name} no ssl_certificate",
    "listener {name} proxy_protocol v2", "listener {name} inherit proxy_protocol")
SETTINGS = ("timeout", "hold", "conn_max", "roundrobin", "prio", "on_down", "idle_timeout", "emergency", "udp_timeout",
            "client_acl", "stubborn", "keepalive", "log_format", "tracking")


def command(dice: random.Random, balancer: Gpen, places: list[str]) -> str:
    """One for a listener, or for all."""
    kind, name = dice.random(), dice.choice(NAMES)
    if kind < 0.4:
        return dice.choice(OWN_COMMANDS).format(
            name=name, number=dice.randrange(4), few=dice.randrange(4), setting=dice.choice(SETTINGS),
            port=dice.choice(places).rpartition(":")[2], directory=balancer.directory)
    line = random_command(dice, places)
    return f"listener {name} {line}" if kind < 0.7 else line


def calm() -> list[str]:
    """What lets all sessions end."""
    values = ("client_acl", "conn_max", "pending_max", "hold", "mysql", "greeting", "idle_timeout", "udp_timeout",
              "log", "http", "ssl_certificate", "proxy_protocol")
    return [*CALM, "no conn_max_total", "no listener new", "listener v no udp",
            *(f"listener {name} inherit {value}" for name in NAMES for value in values)]


@pytest.mark.turmoil
@pytest.mark.parametrize("seed", [1, 2])
def test_random_commands(gpen: Callable[..., Gpen], servers: Callable[..., Server], certificates: Certificates,
                         tmp_path: Path, seed: int) -> None:
    certificates.server.in_one(tmp_path / "own.pem")
    with contextlib.ExitStack() as stack:
        backends = [servers(echo), servers(naming("b")), servers(sending(bytes(300_000))), servers(hold)]
        for server, reply in zip(backends, (datagrams.echo, datagrams.silence, datagrams.naming("c")), strict=False):
            stack.enter_context(datagrams.DatagramServer(reply, port=server.port))
        places = [*(server.address for server in backends), stack.enter_context(refusing())]
        balancer = gpen("-b", "1", "-l", "gpen.log", *own("w"), *own("u", "udp"),
                        *own("v", "prio", "timeout 1", at=f"127.0.0.1:{free_port()}"), servers=backends)
        balancer.ctl(*calm())
        descriptors = balancer.fds()
        stir(balancer, places, seed)
        replies = balancer.ctl(*calm()).splitlines()
        assert [line for line in replies if line.startswith("error") and "listener new: there is no" not in line] == []
        settle(balancer, descriptors)


def stir(balancer: Gpen, places: list[str], seed: int) -> None:
    """A third of the commands of test_turmoil.py, a hangup now and then, and clients of each listener meanwhile."""
    dice, is_over = random.Random(seed), threading.Event()
    visits = [("-", by_stream), ("w", by_stream), ("v", by_stream), ("v", by_datagrams), ("u", by_datagrams)]
    threads = [threading.Thread(target=live, args=(place(balancer, name), visit, seed + number, is_over))
               for number, (name, visit) in enumerate(visits)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(TURMOIL // 30):
            balancer.ctl(*[command(dice, balancer, places) for _ in range(10)])
            if dice.random() < 0.1:
                balancer.signal(signal.SIGHUP)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def settle(balancer: Gpen, descriptors: int) -> None:
    """Nothing is left of all that, and what holds now can be written and read."""
    wait_until(lambda: not any(row["sessions"] for row in balancer.json("servers")), what="the end of idlers")
    balancer.wait_idle()
    for name in NAMES:
        assert {row["sessions"] for row in balancer.json(f"listener {name} servers")} <= {0}
        assert (row_of(balancer, name)["sessions"], row_of(balancer, name)["held"]) == (0, 0)
    wait_until(lambda: balancer.fds() <= descriptors, what=f"{descriptors} descriptors, not {balancer.fds()}")
    assert "failed; that is told once" not in balancer.stderr and "Traceback" not in balancer.stderr
    assert not [line for line in balancer.log.splitlines() if line.endswith(" error")]
    balancer.ctl("write written.cfg")
    done = run_gpen("--check", "-F", "written.cfg", directory=balancer.directory)
    assert done.returncode == 0, done.stderr
