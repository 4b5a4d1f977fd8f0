"""One gpen for a whole cluster: a listener for readers, one for writers and one for administrators before real nodes.

What is measured is printed: `python -m pytest -n 0 -s tests/galera/test_one_gpen.py`.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.galera.cluster import Cluster
from tests.galera.conftest import FRONT
from tests.galera.load import Load, Outcome
from tests.galera.test_watch_listeners import At, listening, moved, used, writers
from tests.galera.watcher import Watcher
from tests.harness import PATIENCE, Gpen, wait_until

pytestmark = pytest.mark.long

pytestmark = pytest.mark.timeout(180)

Start = Callable[..., Any]
COUNTED = 9.0  # seconds after the event
OFF = 0.6  # seconds in which all have left a node
NOTICED = 3.5  # in which the other nodes have dropped it, so that writes go on (evs.suspect_timeout 1.5, and a view)


@pytest.fixture
def front(cluster: Cluster, gpen: Start) -> Gpen:
    return gpen(*FRONT, *listening("writer", "prio"), *listening("admin"),
                servers=[node.address for node in cluster.nodes])


@pytest.fixture
def judge(cluster: Cluster, front: Gpen, watcher: Start) -> Watcher:
    one: Watcher = watcher("--gpen", front.control, "--reader=-", "--reader=admin", "--writer=writer", "--prefer",
                           cluster.nodes[0].address)
    wait_until(lambda: one.running and (writers(front), used(front)) == ([0], [0, 1, 2]), PATIENCE, "the writer")
    return one


def penctl(front: Gpen, *words: str) -> str:
    """What pen's own client is answered."""
    done = subprocess.run(["penctl", front.control, *words], capture_output=True, text=True, timeout=PATIENCE,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def since(loads: dict[str, Load], event: float) -> dict[str, Outcome]:
    """What each of the loads met in the seconds after an event that count."""
    time.sleep(max(0.0, event + COUNTED - time.monotonic()))
    for load in loads.values():
        load.stop()
    return {name: load.since(event) for name, load in loads.items()}


def test_all_leave_a_killed_writer_at_one_moment(
        cluster: Cluster, front: Gpen, judge: Watcher, load: Callable[..., Load]) -> None:
    """What one listener finds counts for all; writes go to one other node, and no client got an error that had none of
    its own under way on the node that died."""
    victim = cluster.nodes[0]
    loads = {name: load(At(front, name), kind, 6, rate) for name, kind, rate in (
        ("", "readers", 90), ("writer", "writers", 60), ("admin", "readers", 30))}
    lag = max(each.usual().lag for each in loads.values())
    event = time.monotonic()
    victim.kill()
    wait_until(lambda: writers(front) not in ([], [0]), what="another writer")
    (writer,) = writers(front)
    outcomes = since(loads, event)
    left = {name: outcome.left(victim.name) for name, outcome in outcomes.items()}
    longest = {name: outcome.longest for name, outcome in outcomes.items()}
    print(f"last client on the killed node after {max(left.values()):.3f} s; longest wait of one for writes "
          f"{longest['writer']:.3f} s, of one for reads {max(longest[''], longest['admin']):.3f} s", *(
              f"listener {name or '-'}: {outcome}" for name, outcome in outcomes.items()), sep="\n")
    assert not [outcome for outcome in outcomes.values() if outcome.later]
    assert max(left.values()) < OFF + lag and longest["writer"] < NOTICED + lag
    assert {attempt.node for attempt in outcomes["writer"].attempts if attempt.began > event} <= {
        victim.name, cluster.nodes[writer].name, ""}
    assert max(longest[""], longest["admin"]) < 1.5 + lag
    assert used(front) == [1, 2] and f"(node1) -> {cluster.nodes[writer].address}" in judge.stderr


def test_pens_own_client_works_as_ever(cluster: Cluster, front: Gpen, judge: Watcher) -> None:
    """Without the name of a listener it is about the one without a name, and all servers."""
    if not shutil.which("penctl"):
        pytest.skip("penctl is not installed")
    moved(judge, "node2")
    rows = penctl(front, "servers").splitlines()
    assert [row.split()[:3] for row in rows] == [
        [str(number), "addr", node.host] for number, node in enumerate(cluster.nodes)]
    assert "no prio" in penctl(front, "mode") and penctl(front, "pid") == f"{front.pid}\n"
    penctl(front, "server", "2", "blacklist", "60")
    wait_until(lambda: used(front) == [0, 1], what="what it says counting")
    penctl(front, "server", "2", "blacklist", "0")
    assert writers(front) == [1]
