"""Fixtures of the cluster: one for all tests, whole again before each; its watchers and the load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contrib.cluster import NODES
from tests.galera.cluster import Cluster, home
from tests.galera.load import Load
from tests.galera.watcher import Watcher
from tests.harness import PATIENCE, Gpen, wait_until

FRONT = ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")


@pytest.fixture(scope="session")
def galera() -> Iterator[Cluster]:
    """The cluster of the session."""
    with home() as directory, Cluster(directory / "cluster") as cluster:
        yield cluster


@pytest.fixture
def cluster(galera: Cluster) -> Iterator[Cluster]:
    """The cluster with all nodes synced; what the nodes log meanwhile is shown when the test fails."""
    galera.mend()
    logs = {node: node.log_size for node in galera.nodes}
    yield galera
    for node, size in logs.items():
        print(f"--- what {node.name} logged\n{node.logged(size)}")


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Callable[..., Watcher]]:
    """Start a watcher: watcher("--reader", gpen.control)."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(Watcher(tmp_path, *options))


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Load]]:
    """Start clients of a gpen: load(gpen), load(gpen, "writers", 12)."""
    with ExitStack() as stack:

        def start(gpen: Gpen, *options: Any) -> Load:
            assert isinstance(gpen.address, tuple)
            return stack.enter_context(Load(tmp_path, gpen.address, *options))

        yield start


@pytest.fixture
def start_front(cluster: Cluster, gpen: Callable[..., Gpen], watcher: Callable[..., Watcher]) -> Callable[..., Gpen]:
    """Start a gpen for readers before the cluster, and its watcher, with options of it, who finds all nodes usable."""

    def start(*options: str) -> Gpen:
        front = gpen(*FRONT, servers=[node.address for node in cluster.nodes])
        judge = watcher(*options, "--reader", front.control)
        wait_until(lambda: judge.running and [row["verdict"] for row in front.json("servers")] == ["up"] * NODES,
                   PATIENCE, "the watcher finding all nodes usable")
        return front

    return start


@pytest.fixture
def front(start_front: Callable[..., Gpen]) -> Gpen:
    """A gpen for readers before the cluster, with a watcher at its defaults."""
    return start_front()
