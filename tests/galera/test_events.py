"""What happens to one node, and what its clients notice: the limits are those of the table in docs/BENCHMARKS.md.

The load is 20 threads that connect, query and close, 190 times a second together; errors are counted for 9 s. Where
a node went down it comes back within that time, so that its return is under the same eyes. Limits of time are for an
idle machine; to them the lag of a busy one is added, which is what the slowest client took before the event.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from contrib.cluster import NODES
from tests.galera.cluster import Cluster, Node
from tests.galera.load import Attempt, Load, Outcome, Usual
from tests.galera.watcher import COMMAND
from tests.harness import Gpen, wait_until

COUNTED = 9.0  # seconds after the event
OPEN_AT_MOST = 3  # sessions on the node at the instant that it dies, if they are over at once
OFF = 0.6
TOLD = 0.2  # by a node that says itself that it is non-Primary
SELDOM = 8.0  # seconds in which a watcher who hears of nothing asks nobody
GONE, CUT = 1047, 2013  # what a client gets of a node that is non-Primary, and whose session there is closed
WATCHER_PORT = 4570
NORMAL_RATE = 190

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


def counted(load: Load, event: float) -> Outcome:
    """What the load met in the seconds after the event that count."""
    time.sleep(max(0.0, event + COUNTED - time.monotonic()))
    load.stop()
    outcome = load.since(event)
    print(outcome)
    return outcome


def instant(condition: Callable[[], Any], what: str, seconds: float = 20) -> float:
    """When the condition came true, by time.monotonic()."""
    wait_until(condition, seconds, what)
    return time.monotonic()


def wait_used(gpen: Gpen, number: int) -> None:
    """Wait until a server that comes back gets clients."""
    total = gpen.server(number)["total"]
    wait_until(lambda: gpen.server(number)["total"] > total, what=f"server {number} getting clients")


def sources(attempts: list[Attempt]) -> set[tuple[int, str]]:
    """The errors, and the nodes on which they were met."""
    return {(attempt.code, attempt.node) for attempt in attempts}


def span(attempts: list[Attempt]) -> float:
    """Seconds between the first and the last of these."""
    return max(a.ended for a in attempts) - min(a.ended for a in attempts) if attempts else 0.0


def open_at_most(before: Usual) -> float:
    """How many sessions a node may have open at an instant."""
    return OPEN_AT_MOST + before.lag * NORMAL_RATE / NODES


def assert_unharmed(outcome: Outcome, before: Usual) -> None:
    """Nobody got an error, and the clients were served as fast as ever."""
    assert not outcome.failed, outcome
    assert outcome.rate > before.rate / 2, outcome


# --- a node dies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Node.kill, Node.stop])
def test_a_node_dies(cluster: Cluster, front: Gpen, load: Callable[..., Load], end: Callable[[Node], None]) -> None:
    victim = cluster.nodes[1]
    readers = load(front)
    before = readers.usual()
    event = time.monotonic()
    end(victim)
    victim.start()
    wait_used(front, 1)
    outcome = counted(readers, event)
    assert not outcome.later, outcome
    assert len(outcome.open) <= open_at_most(before), outcome
    assert outcome.longest < 1.5 + before.lag, outcome
    assert outcome.rate > before.rate / 2, outcome


@pytest.mark.timeout(180)
def test_a_rolling_restart(cluster: Cluster, front: Gpen, load: Callable[..., Load]) -> None:
    readers = load(front)
    before = readers.usual()
    event = time.monotonic()
    for number, node in enumerate(cluster.nodes):
        front.ctl(f"drain {number} 30")
        node.stop()
        node.start()
        front.ctl(f"server {number} state ready")
        wait_used(front, number)
    readers.stop()
    assert_unharmed(readers.since(event), before)


# --- a node must be left alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "value", "usual"), [("wsrep_desync", "ON", "OFF"), ("read_only", "ON", "OFF")])
def test_a_node_that_serves_but_should_not(cluster: Cluster, front: Gpen, load: Callable[..., Load], variable: str,
                                           value: str, usual: str) -> None:
    node = cluster.nodes[1]
    readers = load(front)
    before = readers.usual()
    node.assign(variable, value)
    event = time.monotonic()
    time.sleep(COUNTED / 2)
    assert readers.since(event).left(node.name) <= OFF + before.lag, readers.since(event)
    node.assign(variable, usual)
    wait_used(front, 1)
    assert_unharmed(counted(readers, event), before)


def test_a_node_that_rejects_queries(cluster: Cluster, front: Gpen, load: Callable[..., Load]) -> None:
    node = cluster.nodes[1]
    readers = load(front)
    before = readers.usual()
    node.assign("wsrep_reject_queries", "ALL")
    event = time.monotonic()
    time.sleep(COUNTED / 2)
    assert readers.since(event).left(node.name) <= OFF + before.lag, readers.since(event)
    node.assign("wsrep_reject_queries", "NONE")
    wait_used(front, 1)
    outcome = counted(readers, event)
    assert sources(outcome.failed) <= {(GONE, node.name), (CUT, node.name)}, outcome
    assert all(attempt.asked - event <= OFF + before.lag for attempt in outcome.failed), outcome


def test_a_donor(cluster: Cluster, front: Gpen, load: Callable[..., Load]) -> None:
    """A real state transfer: another node has lost its data."""
    donor, joiner = cluster.nodes[1:]
    joiner.stop()
    joiner.wipe()
    joiner.wait_forgotten()
    readers = load(front)
    before = readers.usual()
    joiner.launch(f"--wsrep-sst-donor={donor.name}")
    event = instant(lambda: donor.status("local_state") == "2", f"{donor.name} being a donor")
    end = instant(lambda: donor.status("local_state") == "4", f"{donor.name} being a donor no more")
    outcome = readers.since(event)
    served = [attempt for attempt in outcome.attempts if attempt.node == donor.name and attempt.began < end]
    assert end - event > OFF, "the transfer was too short to show anything"
    assert max((attempt.began for attempt in served), default=event) - event <= OFF + before.lag, outcome
    joiner.wait_synced()
    for number in (1, 2):
        wait_used(front, number)
    assert_unharmed(counted(readers, event), before)


# --- a node is cut off -----------------------------------------------------------------------------------------------


def test_a_node_is_cut_off(cluster: Cluster, front: Gpen, load: Callable[..., Load]) -> None:
    assert_cut_off(cluster, front, load, lambda: OFF)


def test_a_node_is_cut_off_and_says_so(cluster: Cluster, start_front: Callable[..., Gpen], load: Callable[..., Load],
                                       ) -> None:
    """With gpen-galera notify as Galera's wsrep_notify_cmd, and a watcher who asks seldom and has just asked."""
    listening = f"{cluster.net}1:{WATCHER_PORT}"
    command = [*COMMAND, "notify", "--to", listening]

    def told() -> float:
        """All nodes run the command at once, and on a busy machine it takes its time to start."""
        began = time.monotonic()
        for process in [subprocess.Popen([*command, "--status", "synced"]) for _ in cluster.nodes]:
            assert process.wait(SELDOM) == 0
        took = time.monotonic() - began
        wait_until(lambda: asked_ago(cluster.nodes[1]) < 1, what="the watcher asking")
        return min(TOLD + 3 * took, SELDOM / 2)

    with cluster.notifying(command) as notices:
        front = start_front("--listen", listening, "--interval", str(SELDOM))
        assert_cut_off(cluster, front, load, told)
    assert len(notices) > NODES and {notice.returncode for notice in notices} == {0}


def asked_ago(node: Node) -> float:
    """Seconds since the watcher asked this node."""
    times = node.sql("SELECT TIME_MS FROM information_schema.PROCESSLIST WHERE USER = 'watcher' AND COMMAND = 'Sleep'")
    return min((float(time) for (time,) in times), default=math.inf) / 1000


def assert_cut_off(cluster: Cluster, front: Gpen, load: Callable[..., Load], limit: Callable[[], float]) -> None:
    """A non-Primary node gives errors for so many seconds at most, to visitors and to who is connected already."""
    node = cluster.nodes[1]
    kept = load(front, "kept", 6, 60)  # first, so that the node gets its third of them
    readers = load(front)
    at_most = readers.usual().lag + limit()
    event = time.monotonic()
    node.isolate()
    try:
        time.sleep(COUNTED / 2)
        assert front.server(1)["sessions"] == 0
    finally:
        node.unisolate()
    cluster.wait_whole()
    wait_used(front, 1)
    outcome, stayed = counted(readers, event), kept.since(event)
    assert sources(outcome.failed) <= {(GONE, node.name), (CUT, node.name)}, outcome
    assert span(outcome.failed) <= at_most, outcome
    assert {attempt.node for attempt in stayed.failed} == {node.name}, stayed
    assert span(stayed.failed) <= at_most, stayed


def test_a_node_freezes(cluster: Cluster, front: Gpen, load: Callable[..., Load]) -> None:
    node = cluster.nodes[1]
    readers = load(front)
    before = readers.usual()
    soon = 1.5 + before.lag
    event = time.monotonic()
    node.freeze()
    try:
        down = instant(lambda: front.server(1)["verdict"] == "down", "a verdict on the frozen node")
        time.sleep(max(0.0, event + COUNTED / 2 - time.monotonic()))
    finally:
        node.thaw()
    wait_until(lambda: front.server(1)["verdict"] == "up", what=f"{node.name} being believed again")
    believed = front.server(1)["verdict_since"]
    assert node.synced and node.status("cluster_size") == "3"
    wait_used(front, 1)
    outcome = counted(readers, event)
    assert (front.server(1)["verdict"], front.server(1)["verdict_since"]) == ("up", believed)
    slow = [attempt.began for attempt in outcome.attempts if event <= attempt.began and attempt.took > soon - 1]
    assert down - event <= soon, down - event
    assert not outcome.later, outcome
    assert outcome.longest <= soon, outcome
    assert max(slow, default=event) - event <= soon, outcome
    assert len(outcome.open) <= open_at_most(before), outcome


def test_the_quorum_is_lost(cluster: Cluster, front: Gpen, load: Callable[..., Load]) -> None:
    last, *others = cluster.nodes
    readers = load(front)
    before = readers.usual()
    event = time.monotonic()
    for node in others:
        node.kill()
    lost = instant(lambda: last.status("cluster_status") != "Primary", "the quorum being lost")
    told = instant(lambda: any(attempt.text.startswith("gpen: ") for attempt in readers.since(lost).attempts),
                   "gpen turning a client away")
    last.option("pc.bootstrap=1")
    back = instant(lambda: last.synced, "the last node being a cluster of its own")
    wait_until(lambda: readers.since(back).reached(last.name) > NORMAL_RATE, what="clients being served again")
    outcome = readers.since(event)
    print(outcome)
    held = [attempt for attempt in outcome.failed if not attempt.node]
    served = [attempt.ended for attempt in outcome.attempts if attempt.ended > back and not attempt.failed]
    assert {(attempt.code, attempt.text.partition(":")[0]) for attempt in held} == {(GONE, "gpen")}, outcome
    assert all(10 <= attempt.took <= 11 + before.lag for attempt in held), outcome
    assert told - lost >= 9.5
    assert span([attempt for attempt in outcome.failed if attempt.node == last.name]) <= OFF + before.lag, outcome
    assert min(served) - back <= 1.0 + before.lag, outcome
    assert not readers.since(back).later, outcome
