"""One node takes the writes: 12 writers that reconnect, and who gets their inserts when the writer changes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pytest

from tests.galera.cluster import WATCHER, Cluster, Node
from tests.galera.conftest import FRONT
from tests.galera.load import Load
from tests.galera.watcher import Watcher
from tests.harness import PATIENCE, Gpen, wait_until

pytestmark = pytest.mark.long

AGREED_WITHIN = 1.0  # seconds of Galera's own new view, and the lag of a busy machine
WRITERS, RATE = 12, 120
STALLED = 2.0  # seconds that a watcher does not run
AGREED = "SELECT writer FROM agreed.gpen_writer"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def writing(cluster: Cluster, gpen: Callable[..., Gpen]) -> Callable[[], Gpen]:
    """Start a gpen that prefers one of the nodes. No insert of an earlier test is left."""
    cluster.nodes[0].sql("TRUNCATE app.written")
    cluster.nodes[0].sql("DROP TABLE IF EXISTS agreed.gpen_writer")
    return lambda: gpen(*FRONT, "-O", "prio", servers=[node.address for node in cluster.nodes])


def preferred(gpen: Gpen) -> int | None:
    """The number of the server that gets the writes, if there is one."""
    usable = [row for row in gpen.json("servers") if row["health"] == "up" and row["verdict"] == "up"]
    return min(usable, key=lambda row: row["prio"])["number"] if usable else None


def wait_writer(cluster: Cluster, *gpens: Gpen) -> Node:
    """The node that these gpens prefer, once all do."""
    def chosen() -> list[int]:
        numbers = {preferred(gpen) for gpen in gpens}
        return [number for number in numbers if number is not None and len(numbers) == 1]

    (number,) = wait_until(chosen, what="a writer")
    return cluster.nodes[number]


def handovers(cluster: Cluster, using: Node) -> list[str]:
    """The nodes that made the inserts, in the order of time; each once for as long as it was the only one."""
    rows = using.sql("SELECT node FROM app.written ORDER BY moment, id")
    return [name for name, _ in groupby(row[0] for row in rows)]


def wait_inserts(node: Node, count: int = 50) -> None:
    """Wait until a node has taken so many inserts."""
    wait_until(lambda: inserts(node) >= count, what=f"{count} inserts on {node.name}")


def inserts(node: Node) -> int:
    return int(node.sql("SELECT COUNT(*) FROM app.written WHERE node = %s", node.name)[0][0])


def moments(conditions: dict[str, Callable[[], Any]], seconds: float = PATIENCE) -> dict[str, float]:
    """When each condition came true for the first time, by time.monotonic()."""
    found: dict[str, float] = {}

    def look() -> bool:
        for name, condition in conditions.items():
            if name not in found and condition():
                found[name] = time.monotonic()
        return len(found) == len(conditions)

    wait_until(look, seconds, f"{' and '.join(conditions)}")
    return found


def return_quietly(cluster: Cluster, node: Node, writer: Node) -> None:
    """Start a node; the donor is not the writer, who would have to go for it."""
    (other,) = [other for other in cluster.nodes if other not in (node, writer)]
    node.start(f"--wsrep-sst-donor={other.name}")


def test_the_writer_dies(cluster: Cluster, writing: Callable[[], Gpen], watcher: Callable[..., Watcher],
                         load: Callable[..., Load]) -> None:
    gpen = writing()
    watcher("--writer", gpen.control)
    old = wait_writer(cluster, gpen)
    writers = load(gpen, "writers", WRITERS, RATE)
    wait_inserts(old)
    soon = AGREED_WITHIN + writers.usual().lag
    survivors = [node for node in cluster.nodes if node is not old]
    event = time.monotonic()
    old.kill()
    found = moments({
        "view": lambda: any(node.status("cluster_size") == "2" for node in survivors),
        "writer": lambda: preferred(gpen) not in (None, old.number - 1),
        "insert": lambda: any(not attempt.failed and attempt.began > event for attempt in writers.attempts)})
    new = wait_writer(cluster, gpen)
    assert found["writer"] - found["view"] <= soon
    assert found["insert"] - found["view"] <= soon
    return_quietly(cluster, old, new)
    wait_until(lambda: gpen.server(old.number - 1)["verdict_reason"].startswith("standby"),
               what="the old writer being usable again")
    wait_inserts(new, inserts(new) + 2 * RATE)
    writers.stop()
    print(outcome := writers.since(event))
    assert wait_writer(cluster, gpen) is new
    assert handovers(cluster, new) == [old.name, new.name]
    assert not outcome.later, outcome
    assert all(attempt.node == old.name for attempt in outcome.open), outcome


def test_the_writer_is_moved(cluster: Cluster, writing: Callable[[], Gpen], watcher: Callable[..., Watcher],
                             load: Callable[..., Load]) -> None:
    """By the operator; then the watcher is killed, and the next one takes up the writer as it is."""
    gpen = writing()
    first = watcher("--writer", gpen.control)
    old = wait_writer(cluster, gpen)
    new = next(node for node in reversed(cluster.nodes) if node is not old)
    writers, kept = load(gpen, "writers", WRITERS, RATE), load(gpen, "kept", 4, 40)
    wait_inserts(old)
    event = time.monotonic()
    moved = first.command("move", new.name)
    assert moved.returncode == 0, moved
    wait_inserts(new)
    assert gpen.server(old.number - 1)["sessions"] == 0
    first.process.kill()
    first.process.wait()
    wait_inserts(new, inserts(new) + RATE)
    second = watcher("--writer", gpen.control)
    wait_until(lambda: new.name in second.command("status").stdout, what="the second watcher knowing the writer")
    wait_inserts(new, inserts(new) + RATE)
    writers.stop()
    kept.stop()
    print(outcome := writers.since(event), kept.since(event))
    assert handovers(cluster, new) == [old.name, new.name]
    assert not [attempt for attempt in outcome.later if attempt.node != old.name], outcome
    assert kept.since(event).failed and all(attempt.node == old.name for attempt in kept.since(event).failed)


class Pair:
    """Two gpens with a watcher each that agree, and the load of writers on both."""

    def __init__(self, cluster: Cluster, writing: Callable[[], Gpen], watcher: Callable[..., Watcher],
                 load: Callable[..., Load]) -> None:
        self.cluster = cluster
        # watchers of tests of before, which would be waited for
        cluster.nodes[0].sql("DROP TABLE IF EXISTS agreed.gpen_writer, agreed.gpen_watcher")
        self.gpens = [writing(), writing()]
        self.watchers = [watcher("--writer", gpen.control, "--agree", "agreed") for gpen in self.gpens]
        self.writer = wait_writer(cluster, *self.gpens)
        self.loads = [load(gpen, "writers", WRITERS // 2, RATE / 2) for gpen in self.gpens]
        self.order = [self.writer.name]
        wait_inserts(self.writer)

    def wait_moved(self) -> Node:
        """Wait until both have another writer, which takes inserts, and return the former one."""
        old = self.writer
        wait_until(lambda: wait_writer(self.cluster, *self.gpens) is not old, what="both gpens having another writer")
        self.writer = wait_writer(self.cluster, *self.gpens)
        self.order.append(self.writer.name)
        wait_inserts(self.writer, inserts(self.writer) + RATE)
        return old

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The first watcher does not run."""
        self.watchers[0].process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.watchers[0].process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End the load, and see that the inserts went to one writer after the other."""
        for load in self.loads:
            load.stop()
        assert handovers(self.cluster, self.writer) == self.order

    def move(self, number: int, node: Node) -> None:
        """Have a watcher make this node the writer."""
        wait_until(lambda: not self.watchers[number].command("move", node.name).returncode,
                   what=f"a move to {node.name}")


@pytest.fixture
def pair(cluster: Cluster, writing: Callable[[], Gpen], watcher: Callable[..., Watcher], load: Callable[..., Load],
         ) -> Pair:
    return Pair(cluster, writing, watcher, load)


def test_two_gpens_agree(cluster: Cluster, pair: Pair) -> None:
    """Whatever happens, all inserts of a moment are on one node, through whichever gpen they came."""
    old = pair.writer
    soon = AGREED_WITHIN + max(load.usual(100).lag for load in pair.loads)
    survivors = [node for node in cluster.nodes if node is not old]
    old.kill()
    found = moments({
        "view": lambda: any(node.status("cluster_size") == "2" for node in survivors),
        "agreed": lambda: any(node.sql(AGREED) not in ([], [(old.address,)]) for node in survivors)})
    assert found["agreed"] - found["view"] <= soon
    pair.wait_moved()
    return_quietly(cluster, old, pair.writer)

    pair.move(1, old)
    pair.wait_moved()

    pair.writer.assign("wsrep_desync", "ON")
    pair.wait_moved().make_usual()

    pair.end()


def test_two_gpens_agree_while_a_watcher_hangs(cluster: Cluster, pair: Pair) -> None:
    """The writer is not moved then, for the gpen that nobody tells would stay with the old one; but a dead one is."""
    heir = next(node for node in cluster.nodes if node is not pair.writer)
    with pair.hanging():
        moved = pair.watchers[1].command("move", heir.name)
    assert moved.returncode == 1 and "not confirmed" in moved.stderr, moved
    pair.move(1, heir)
    pair.wait_moved()

    with pair.hanging():
        pair.writer.kill()
        time.sleep(STALLED)
    pair.wait_moved()
    pair.end()


@contextmanager
def another_password(node: Node) -> Iterator[None]:
    """The watchers' password is another one on this node alone; one session of theirs is ended."""
    change = "SET PASSWORD FOR {}@'%' = PASSWORD('{}')"
    with node.session() as cursor:
        cursor.execute("SET SESSION wsrep_on = OFF")
        cursor.execute(change.format(WATCHER[0], "other"))
        try:
            cursor.execute("SELECT id FROM information_schema.PROCESSLIST WHERE user = %s", (WATCHER[0],))
            cursor.execute(f"KILL {cursor.fetchall()[0][0]}")
            yield
        finally:
            cursor.execute(change.format(*WATCHER))


def test_one_refused_login_makes_no_second_writer(pair: Pair) -> None:
    """A watcher that can't see the writer any more leaves it where it is, and says so."""
    agreed = pair.writer.sql("SELECT version FROM agreed.gpen_writer")
    with another_password(pair.writer):
        line = f"{pair.writer.address} ({pair.writer.name}): this watcher is blind to it, up (Synced) is kept: access"
        wait_until(lambda: [line in watcher.stderr for watcher in pair.watchers].count(True) == 1, what="the log")
        wait_inserts(pair.writer, inserts(pair.writer) + 3 * RATE)
        assert sorted(watcher.command("status").returncode for watcher in pair.watchers) == [0, 1]
        assert pair.writer.sql("SELECT version FROM agreed.gpen_writer") == agreed
    wait_until(lambda: not any(watcher.command("status").returncode for watcher in pair.watchers), what="both seeing")
    pair.end()
