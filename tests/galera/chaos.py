"""Two balancers, two watchers that agree, twelve writers, and a cluster to which one thing after another happens.

    python -m tests.galera.chaos [--seconds 100] [--seed N] [--listeners]

What must hold: an insert that a writer was told is done is found on every node afterwards, and no two nodes take
inserts at once. The seed says what is done, to which node or to the writer, and when; what the machine makes of it
differs from run to run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import pymysql
from tabulate import tabulate

from contrib.cluster import missing
from tests.galera.cluster import Cluster, Node
from tests.galera.watcher import Watcher
from tests.harness import Gpen, free_port, pair_of, wait_until

FRONT = ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")
TABLE = "app.chaos"
WRITERS = 12
PAUSE = 0.03  # seconds between two inserts of a writer
SILENCE = 20.0  # seconds until a writer gives up on an answer
STAY = 20  # inserts of a session: some end before a node does, most do not
CALM = (2.0, 5.0)  # seconds between two events
OUT = (2.0, 5.0)  # seconds that one lasts
GAP = 0.5  # seconds without an insert that count


@dataclass(frozen=True)
class Insert:
    """One that a writer was told is done: which row, by which node, and when it was asked for and answered."""

    token: str
    node: str
    asked: float
    ended: float


@dataclass
class Report:
    """What came of it."""

    seed: int
    seconds: float
    events: Counter[str] = field(default_factory=Counter)
    inserts: list[Insert] = field(default_factory=list)
    failed: int = 0
    lost: list[str] = field(default_factory=list)

    def at_once(self) -> list[tuple[Insert, Insert]]:
        """Neighbours in time at two nodes, of which the second was asked for before the first was answered."""
        found = []
        last: dict[str, Insert] = {}
        for insert in sorted(self.inserts, key=lambda insert: insert.asked):
            found += [(other, insert) for node, other in last.items()
                      if node != insert.node and other.ended > insert.asked]
            if insert.node not in last or last[insert.node].ended < insert.ended:
                last[insert.node] = insert
        return found

    def gaps(self) -> list[float]:
        """How long nobody's insert was done, each time that it was long."""
        ends = sorted(insert.ended for insert in self.inserts)
        return [later - sooner for sooner, later in pairwise(ends) if later - sooner >= GAP]

    @property
    def is_well(self) -> bool:
        return bool(self.inserts) and not self.lost and not self.at_once()

    def rows(self) -> list[tuple[str, str]]:
        gaps = self.gaps()
        return [("seed", str(self.seed)), ("seconds", f"{self.seconds:.0f}"),
                ("events", ", ".join(f"{count} {name}" for name, count in sorted(self.events.items()))),
                ("inserts", f"{len(self.inserts):,}"), ("of them lost", str(len(self.lost))),
                ("of them at two nodes at once", str(len(self.at_once()))), ("failed, and told so", str(self.failed)),
                (f"times without a writer ({GAP:g} s or more)", str(len(gaps))),
                ("the longest", f"{max(gaps, default=0.0):.1f} s"), ("all together", f"{sum(gaps):.1f} s")]


class Chaos:
    """Runs once, before a cluster that is whole."""

    def __init__(self, cluster: Cluster, seed: int, seconds: float, say: Callable[[str], None],
                 by_listener: bool = False) -> None:
        """``by_listener``: the writes come through one listener of each gpen, and not through gpens of their own."""
        self.report = Report(seed, seconds)
        self._by_listener = by_listener
        self._cluster = cluster
        self._seconds = seconds
        self._say = say
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._acts = {"isolate": self._isolate, "freeze": self._freeze, "kill": self._kill, "stop": self._stop,
                      "move": self._move, "desync": self._desync}

    def run(self, directory: Path) -> Report:
        """Let it happen; ``directory`` takes the files of balancers and watchers."""
        self._make_table()
        with contextlib.ExitStack() as stack:
            servers = [f"{node.address}::::{node.number}" for node in self._cluster.nodes]
            gpens = [stack.enter_context(Gpen(directory, *FRONT, *self._options(), "127.0.0.1:0", *servers,
                                              name=f"gpen{number}")) for number in range(2)]
            self._watchers = [stack.enter_context(Watcher(directory, *(
                ("--gpen", gpen.control, "--writer=writer") if self._by_listener else ("--writer", gpen.control)),
                "--agree=agreed")) for gpen in gpens]
            wait_until(lambda: all(self._front(gpen) for gpen in gpens), 30, "a writer for both")
            with self._writing(gpens):
                self._happen()
        self._cluster.mend()
        self._look_for_lost()
        return self.report

    def _make_table(self) -> None:
        node = self._cluster.nodes[0]
        node.sql(f"DROP TABLE IF EXISTS {TABLE}, agreed.gpen_writer, agreed.gpen_watcher")
        node.sql(f"CREATE TABLE {TABLE} (token VARCHAR(32) PRIMARY KEY) ENGINE=InnoDB")

    def _options(self) -> list[str]:
        if not self._by_listener:
            return ["-O", "prio"]
        return ["-O", f"listener writer listen 127.0.0.1:{free_port()}", "-O", "listener writer prio"]

    def _front(self, gpen: Gpen) -> bool:
        """Whether it has a writer."""
        rows = gpen.json("listener writer servers" if self._by_listener else "servers")
        return [row["verdict"] for row in rows if row["health"] == "up"] == ["up"]

    def _address(self, gpen: Gpen) -> tuple[str, int]:
        """Where it takes writes."""
        host, port = pair_of(gpen.ctl("listener writer listen" if self._by_listener else "listen").strip())
        return str(host), int(port)

    # --- writers ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self, gpens: Sequence[Gpen]) -> Iterator[None]:
        writers = [threading.Thread(target=self._write, args=(number, self._address(gpens[number % len(gpens)])))
                   for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            yield
        finally:
            self._over.set()
            for writer in writers:
                writer.join()

    def _write(self, number: int, address: tuple[str, int]) -> None:
        """Insert row after row, in sessions of STAY rows, as long as it lasts."""
        serial = 0
        while not self._over.is_set():
            try:
                with pymysql.connect(host=address[0], port=address[1], user="app", password="app", ssl_disabled=True,
                                     autocommit=True, read_timeout=SILENCE, connect_timeout=SILENCE) as connection:
                    cursor = connection.cursor()
                    cursor.execute("SELECT @@wsrep_node_name")
                    (node,) = cursor.fetchone() or ("",)
                    for _ in range(STAY):
                        serial += 1
                        asked = time.monotonic()
                        cursor.execute(f"INSERT INTO {TABLE} VALUES ('{number}-{serial}')")
                        self.report.inserts.append(Insert(f"{number}-{serial}", node, asked, time.monotonic()))
                        if self._over.wait(PAUSE):
                            break
            except (pymysql.MySQLError, OSError):
                self.report.failed += 1
                self._over.wait(PAUSE)

    def _look_for_lost(self) -> None:
        done = {insert.token for insert in self.report.inserts}
        for node in self._cluster.nodes:
            node.sql("SET SESSION wsrep_sync_wait = 1")
            lost = done - {str(row[0]) for row in node.sql(f"SELECT token FROM {TABLE}")}
            self.report.lost += [f"{token}, on {node.name}" for token in sorted(lost)]

    # --- events -------------------------------------------------------------------------------------------------------

    def _happen(self) -> None:
        """One event after another, to a cluster that is whole before each: two at a time may take the quorum."""
        deadline, due = time.monotonic() + self._seconds, list[str]()
        while True:
            time.sleep(self._random.uniform(*CALM))
            if time.monotonic() >= deadline:
                return
            due = due or self._random.sample(list(self._acts), len(self._acts))  # each once, then each once again
            name, node = due.pop(), self._random.choice([*self._cluster.nodes, None, None]) or self._writer()
            self._say(f"{deadline - time.monotonic():3.0f} s left: {name} {node.name}")
            self.report.events[name] += 1
            self._acts[name](node)
            self._cluster.mend()

    def _writer(self) -> Node:
        """The node that took the newest insert."""
        name = self.report.inserts[-1].node
        return next(node for node in self._cluster.nodes if node.name == name)

    def _last(self) -> None:
        time.sleep(self._random.uniform(*OUT))

    def _isolate(self, node: Node) -> None:
        node.isolate()
        self._last()
        node.unisolate()

    def _freeze(self, node: Node) -> None:
        node.freeze()
        self._last()
        node.thaw()

    def _kill(self, node: Node) -> None:
        node.kill()
        self._last()
        node.wait_forgotten()

    def _stop(self, node: Node) -> None:
        node.stop()
        self._last()

    def _move(self, node: Node) -> None:
        self._watchers[self._random.randrange(len(self._watchers))].command("move", node.address)

    def _desync(self, node: Node) -> None:
        with node.desynced():
            self._last()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.galera.chaos", description=(__doc__ or "").partition("\n")[0],
        epilog="Exit status: 0; 1 when an insert was lost, or two nodes took some at once.")
    parser.add_argument("--seconds", type=float, metavar="S", default=100.0, help="how long things happen (100)")
    parser.add_argument("--seed", type=int, metavar="N", default=int(time.time()), help="what happens (the time)")
    parser.add_argument("--listeners", action="store_true", help="a listener for writes in gpens for reads as well")
    options = parser.parse_args()
    if reason := missing():
        parser.exit(2, f"{reason}\n")
    say = partial(print, file=sys.stdout, flush=True)
    say(f"chaos-galera: seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="gpen-galera-") as directory:
        os.chmod(directory, 0o755)  # the nodes run as another user
        with Cluster(Path(directory) / "cluster") as cluster, redirect_stdout(io.StringIO()) as told:
            report = Chaos(cluster, options.seed, options.seconds, say, options.listeners).run(Path(directory))
    if not report.is_well:
        say(told.getvalue())
    say(tabulate(report.rows(), tablefmt="simple", disable_numparse=True, colalign=("left", "right")))
    for text in report.lost[:20]:
        say(f"LOST: {text}")
    for first, second in report.at_once()[:20]:
        say(f"AT ONCE: {first} and {second}")
    return 0 if report.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
