"""gpen and a real haproxy ask the same agent, and think the same of its server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agents import Agent
from tests.harness import PATIENCE, Gpen, Server, connect, echo, read_all, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
View = tuple[str, float]  # up, drain or down, and the weight that counts

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")

WEIGHT = 100
MAINTENANCE, DRAINING = 0x01, 0x08  # bits of srv_admin_state

# what the agent says, one after the other, and what that comes to
TOLD: tuple[tuple[str, View], ...] = (
    ("up\n", ("up", 100)), ("75%\n", ("up", 75)), ("down\n", ("down", 75)), ("20%\n", ("down", 20)),
    ("up\n", ("up", 20)), ("drain\n", ("drain", 20)), ("up 50%\n", ("drain", 50)), ("ready\n", ("up", 50)),
    ("maint #by Ann\n", ("down", 50)), ("up\n", ("down", 50)), ("ready\n", ("up", 50)), ("0%\n", ("drain", 0)),
    ("up\n", ("drain", 0)), ("100%\n", ("up", 100)), ("stopped # on purpose\n", ("down", 100)),
    ("UP,ready, 30%\r\n", ("up", 30)), ("fail\n", ("down", 30)), ("nonsense\n", ("down", 30)),
    ("nonsense up\n", ("up", 30)), ("250%\n", ("up", 250)), ("down maint 10% up ready 100%\n", ("up", 100)),
)


class Haproxy:
    """A haproxy whose one server has the agent."""

    def __init__(self, directory: Path, server: Server, agent: Agent) -> None:
        self._socket = directory / "haproxy.sock"
        file = directory / "haproxy.cfg"
        file.write_text(f"""
global
  stats socket {self._socket} mode 600 level admin
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
backend web
  balance roundrobin
  server a {server.address} weight {WEIGHT} agent-check agent-port {agent.port} agent-inter 100ms
""")
        self.process = subprocess.Popen(["haproxy", "-db", "-f", file], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._socket.exists, what="haproxy's socket")

    @property
    def view(self) -> View:
        with connect(str(self._socket)) as sock:
            sock.sendall(b"show servers state web\n")
            _, names, values, *_ = read_all(sock).decode().splitlines()
        row = dict(zip(names.removeprefix("# ").split(), values.split(), strict=False))
        admin, weight = int(row["srv_admin_state"]), int(row["srv_uweight"])
        if row["srv_op_state"] == "0" or admin & MAINTENANCE:
            return "down", weight
        return "drain" if admin & DRAINING or not weight else "up", weight


@pytest.fixture
def server(servers: Serve) -> Server:
    return servers(echo)


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        yield agent


@pytest.fixture
def haproxy(tmp_path: Path, server: Server, agent: Agent) -> Iterator[Haproxy]:
    haproxy = Haproxy(tmp_path, server, agent)
    yield haproxy
    haproxy.process.terminate()
    haproxy.process.wait(PATIENCE)


def test_both_think_the_same(gpen: Start, server: Server, agent: Agent, haproxy: Haproxy) -> None:
    balancer = gpen("-O", "check_interval 0.1", "-O", "leastconn", "-O", f"server 0 weight {WEIGHT} check agent "
                    f"{agent.port}", servers=[server])

    def view() -> View:
        row = balancer.server(0)
        return row["health"], row["weight_now"]

    for line, expected in TOLD:
        agent.line, before = line, agent.served
        wait_until(lambda before=before: agent.served > before + 4, what="questions")
        wait_until(lambda expected=expected: (haproxy.view, view()) == (expected, expected),
                   what=f"{line!r}: {expected}")
