"""The events of the tests before pen, haproxy and gpen: `python -m tests.galera.bench`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrib.cluster import ClusterError, missing
from tests.bench.measure import Neighbours
from tests.bench.process import BenchError
from tests.bench.report import Table, machine
from tests.bench.run import say
from tests.galera.balancers import BALANCERS, Balancer, debian_version
from tests.galera.cluster import Cluster
from tests.galera.load import Load, Outcome
from tests.harness import wait_until

SETTLING = 3.0  # seconds of load before an event: the checks have found all servers up
STAYS = 1.0  # a node that still got clients in the last second was not left
SLOW = 0.5


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """What happens to a node while clients come, what undoes it, and whether the node then still answers clients."""

    title: str
    happen: Callable[[Cluster], None]
    undo: Callable[[Cluster], None]
    serves: bool = True


def victim_does(name: str, *arguments: str) -> Callable[[Cluster], None]:
    """A method of the second node."""
    def act(cluster: Cluster) -> None:
        getattr(cluster.nodes[1], name)(*arguments)

    return act


def become_donor(cluster: Cluster) -> None:
    """Let the third node, which has lost its data, take it from the second; return when that has begun."""
    _, donor, joiner = cluster.nodes
    joiner.stop()
    joiner.wipe()
    joiner.wait_forgotten()
    joiner.launch(f"--wsrep-sst-donor={donor.name}")
    wait_until(lambda: donor.status("local_state") == "2", what=f"{donor.name} being a donor")


def lose_quorum(cluster: Cluster) -> None:
    for node in cluster.nodes[1:]:
        node.kill()


def found_anew(cluster: Cluster) -> None:
    """The last node left becomes a cluster of its own, and the others join it."""
    cluster.nodes[0].option("pc.bootstrap=1")
    cluster.mend()


def no_undoing(cluster: Cluster) -> None:
    pass


EVENTS = (
    Event("SIGKILL", victim_does("kill"), victim_does("start"), serves=False),
    Event("graceful stop", victim_does("stop"), victim_does("start"), serves=False),
    Event("desync", victim_does("assign", "wsrep_desync", "ON"), victim_does("make_usual")),
    Event("donor of a real SST", become_donor, no_undoing),
    Event("read_only", victim_does("assign", "read_only", "ON"), victim_does("make_usual")),
    Event("reject_queries", victim_does("assign", "wsrep_reject_queries", "ALL"), victim_does("make_usual")),
    Event("non-Primary", victim_does("isolate"), victim_does("unisolate")),
    Event("SIGSTOP", victim_does("freeze"), victim_does("thaw"), serves=False),
    Event("quorum lost", lose_quorum, found_anew),
)


def outcome_of(event: Event, balancer: Balancer, cluster: Cluster, seconds: float) -> Outcome:
    """What clients of a balancer meet in so many seconds after an event."""
    cluster.mend()
    with tempfile.TemporaryDirectory(prefix="gpen-bench-") as path:
        directory = Path(path)
        servers = [node.address for node in cluster.nodes]
        with balancer.start(cluster, servers, directory) as front, Load(directory, (front.host, front.port)) as load:
            time.sleep(SETTLING)
            moment = time.monotonic()
            try:
                event.happen(cluster)
                time.sleep(max(0.0, moment + seconds - time.monotonic()))
                load.stop()
            finally:
                event.undo(cluster)
            return load.since(moment)


def cell(event: Event, outcome: Outcome, cluster: Cluster, seconds: float) -> str:
    """Errors, when the node was left, and what the clients waited, in a few words."""
    left = outcome.left(cluster.nodes[1].name)
    words = [f"{len(outcome.failed):,}"]
    if event.serves:
        words.append("stays" if left > seconds - STAYS else f"off after {max(0.0, left):.1f} s")
    if outcome.longest > SLOW:
        words.append(f"waits {outcome.longest:.1f} s")
    return ", ".join(words)


def compare_events(cluster: Cluster, balancers: Sequence[Balancer], events: Sequence[Event], seconds: float) -> Table:
    rows = []
    for event in events:
        row = [event.title]
        for balancer in balancers:
            outcome = outcome_of(event, balancer, cluster, seconds)
            say(f"{event.title}, {balancer.name}: {outcome}")
            row.append(cell(event, outcome, cluster, seconds))
        rows.append(row)
    return Table(["event", *(balancer.name for balancer in balancers)], rows)


# --- the command -----------------------------------------------------------------------------------------------------


def main() -> int:
    options = arguments()
    try:
        print(report(options))
    except (BenchError, ClusterError) as error:
        say(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.galera.bench",
        description="Measure pen, haproxy and gpen before a three-node Galera cluster of its own, on this machine: "
        "what 20 threads notice that connect, query and close 190 times a second together while something happens to "
        "a node.",
        epilog="Takes about 20 minutes; progress goes to stderr.")
    add = parser.add_argument
    add("--only", metavar="NAME;...", help=f"of {'; '.join(BALANCERS)}", type=lambda text: text.split(";"))
    add("--events", metavar="NAME,...", help=f"of {', '.join(event.title for event in EVENTS)}",
        type=lambda text: text.split(","))
    add("--seconds", type=int, default=20, metavar="N", help="to count errors after an event (20)")
    add("--markdown", action="store_true", help="the table as it stands in docs/BENCHMARKS.md")
    return parser.parse_args()


def report(options: argparse.Namespace) -> str:
    balancers = [BALANCERS[name] for name in chosen(options.only, list(BALANCERS))]
    titles = chosen(options.events, [event.title for event in EVENTS])
    events = [event for event in EVENTS if event.title in titles]
    for reason in (missing(), *(balancer.missing() for balancer in balancers)):
        if reason:
            raise BenchError(reason)
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(prefix="gpen-galera-") as directory:
        os.chmod(directory, 0o755)  # the nodes run as another user
        with Cluster(Path(directory) / "cluster") as cluster:
            table = compare_events(cluster, balancers, events, options.seconds)
    return f"{about(balancers, neighbours)}\n\n{table.markdown() if options.markdown else table.text()}"


def chosen(wanted: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            raise BenchError(f"'{name}' is none of {', '.join(known)}")
    return wanted


def about(balancers: Sequence[Balancer], neighbours: Neighbours) -> str:
    versions = {f"{balancer.name.partition(',')[0]} {balancer.version()}" for balancer in balancers}
    return ". ".join([
        machine(),
        f"MariaDB {debian_version('mariadb-server')}, galera {debian_version('galera-4')}",
        ", ".join(sorted(versions)),
        f"Programs that are neither ours nor ended used {neighbours.share():.0%} of the machine meanwhile",
    ]) + "."


if __name__ == "__main__":
    sys.exit(main())
