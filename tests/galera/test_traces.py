"""Checks leave no trace on the nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.galera.cluster import Cluster, Node
from tests.galera.watcher import Watcher
from tests.harness import Gpen, wait_until

pytestmark = pytest.mark.long

CHECKS = 1000


def counter(node: Node, name: str) -> int:
    """A status counter of a node."""
    return int(node.sql(f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])


def traces(cluster: Cluster) -> list[tuple[int, int, int]]:
    """What each node has counted and logged of clients that went wrong."""
    return [(counter(node, "Aborted_connects"), counter(node, "Aborted_clients"), node.log_size)
            for node in cluster.nodes]


def opened() -> int:
    """How many TCP connections this machine has begun so far."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp"))
    return int(values[names.index("ActiveOpens")])


def test_the_watcher_s(cluster: Cluster, gpen: Callable[..., Gpen], watcher: Callable[..., Watcher]) -> None:
    """From its first connection to its goodbye."""
    before, asked = traces(cluster), [counter(node, "Com_show_variables") for node in cluster.nodes]
    front = gpen("-r", servers=[node.address for node in cluster.nodes])
    judge = watcher("--interval=0.01", "--reader", front.control)
    wait_until(lambda: all(counter(node, "Com_show_variables") - already > CHECKS / 3 + 10
                           for node, already in zip(cluster.nodes, asked, strict=True)), 40, f"{CHECKS} checks")
    assert judge.stop() == 0
    assert traces(cluster) == before


def test_gpen_s_own(cluster: Cluster, gpen: Callable[..., Gpen]) -> None:
    """`check connect`."""
    before, begun = traces(cluster), opened()
    front = gpen("-r", "-O", "check_interval 0.01", "-O", "check connect",
                 servers=[node.address for node in cluster.nodes])
    wait_until(lambda: opened() - begun > CHECKS, 40, f"{CHECKS} checks")
    assert [row["verdict"] for row in front.json("servers")] == ["up"] * len(cluster.nodes)
    front.stop()
    assert traces(cluster) == before
