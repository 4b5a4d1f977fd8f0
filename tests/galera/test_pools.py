"""Applications' pools of connections before a real cluster: nodes restart, the writer moves, and nobody notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from contrib.cluster import Node
from tests.galera.cluster import Cluster
from tests.galera.load import Load, Outcome
from tests.galera.watcher import Watcher
from tests.harness import Gpen, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

Start = Callable[..., Any]
PROTECTED = ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")
CONNECTIONS, RATE = 20, 200.0


def served(load: Load, number: int) -> None:
    """Wait until so many more transactions have been done."""
    before = len(load.attempts)
    wait_until(lambda: len(load.attempts) >= before + number, what=f"{number} transactions")


def told(outcome: Outcome, what: str) -> list[str]:
    """The errors; the figures are shown when the test fails."""
    print(f"{what}: {outcome}")
    return [f"{attempt.code} {attempt.text}" for attempt in outcome.failed]


def restart(front: Gpen, number: int, node: Node) -> None:
    """Restart a node as a careful operator does."""
    assert front.ctl(f"drain {number} 20 quiet").splitlines()[-1].startswith("drained ")
    node.stop()
    node.start()
    node.wait_synced()
    front.ctl(f"server {number} state ready")


def outlived(front: Gpen, clients: Load) -> Outcome:
    """How the transactions went, none of which failed; nor was a session closed that was not quiet."""
    outcome = clients.since(0.0)
    assert told(outcome, "pooled") == []
    endings = front.json("info")["endings"]
    print(endings)
    assert endings.get("drained", 0) and not endings.get("killed", 0)
    return outcome


def test_readers_through_a_rolling_restart(cluster: Cluster, start_front: Callable[..., Gpen],
                                           load: Callable[..., Load]) -> None:
    front = start_front()
    clients = load(front, "pooled readers", CONNECTIONS, RATE)
    served(clients, 300)
    for number, node in enumerate(cluster.nodes):
        restart(front, number, node)
        served(clients, 300)
    assert {attempt.node for attempt in outlived(front, clients).attempts} == {node.name for node in cluster.nodes}


class Writers:
    """A gpen for writes, with a watcher who has the first node as the writer."""

    def __init__(self, cluster: Cluster, gpen: Start, watcher: Start, *options: str) -> None:
        self.front: Gpen = gpen(*PROTECTED, "-O", "prio", servers=[node.address for node in cluster.nodes])
        self._watcher: Watcher = watcher("--writer", self.front.control, "--prefer", cluster.nodes[0].address, *options)
        wait_until(lambda: self._writer() == cluster.nodes[0].address and self.front.server(0)["verdict"] == "up",
                   what="the first node being the writer")

    def _writer(self) -> Any:
        done = self._watcher.command("status", "--json")
        return json.loads(done.stdout)["writer"] if done.stdout else None

    def move(self, node: Node) -> None:
        """Make this node the writer."""
        done = self._watcher.command("move", node.address)
        assert done.returncode == 0, done.stderr


def test_writers_through_a_rolling_restart(cluster: Cluster, gpen: Start, watcher: Start, load: Callable[..., Load],
                                           ) -> None:
    """The role goes to the next node before one is restarted."""
    writers = Writers(cluster, gpen, watcher)
    clients = load(writers.front, "pooled", CONNECTIONS, RATE)
    served(clients, 300)
    for number, node in enumerate(cluster.nodes):
        writers.move(cluster.nodes[(number + 1) % 3])
        served(clients, 300)
        restart(writers.front, number, node)
    outlived(writers.front, clients)


@pytest.mark.parametrize("agreed", [False, True], ids=["one watcher", "agreed"])
def test_three_moves_of_the_writer(cluster: Cluster, gpen: Start, watcher: Start, load: Callable[..., Load],
                                   agreed: bool) -> None:
    if agreed:
        cluster.nodes[0].sql("DROP TABLE IF EXISTS agreed.gpen_writer, agreed.gpen_watcher")
    writers = Writers(cluster, gpen, watcher, *(("--agree", "agreed") if agreed else ()))
    clients = load(writers.front, "pooled", CONNECTIONS, RATE)
    served(clients, 300)
    for node in (cluster.nodes[1], cluster.nodes[2], cluster.nodes[0]):
        writers.move(node)
        served(clients, 300)
    outlived(writers.front, clients)
