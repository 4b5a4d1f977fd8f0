"""Measures what worker processes cost, and what they bring: `python -m tests.bench.workers --help`.

One gpen without workers and one with two serve the same load in turns of a second. All run on one core, and the load
on another, so the rate says nothing of what two cores bring. CPU time does: it is told what two cores would be good
for, if all three processes share them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench import command, load, report
from tests.bench.measure import cpu_time, own_cpu_time
from tests.bench.proxies import GPEN, Proxy
from tests.bench.run import say
from tests.bench.tls import HANDSHAKES, chained, gpen_command, s_time
from tests.bench.trials import Ground, Plan, Running
from tests.certificates import Authority

WORKERS = 2
CLOSING = "Connection: close"
REQUESTS, CONNECTIONS = "a request on a kept connection", "a new connection"
MAIN_AT_MOST = 45e-6  # seconds of the main process's CPU time for a connection
HANDSHAKES_AT_LEAST = 1.6  # of those of one process, on two cores


@dataclass(frozen=True)
class Turn:
    """A second of load: CPU time in seconds for each piece of it, of all of gpen's processes, and of the main one."""

    whole: float
    main: float


Done = Callable[[str], int]  # loads a front for a second, and tells how much was done


def wrk(*headers: str) -> Done:
    """One of wrk's loads."""
    return lambda front: int(load.wrk(front, 1, *headers).requests)


def turn(run: Running, done: Done) -> Turn:
    """Load it for a second."""
    whole, main = cpu_time(run.pid), own_cpu_time(run.pid)
    count = done(run.front)
    return Turn((cpu_time(run.pid) - whole).total / count, (own_cpu_time(run.pid) - main).total / count)


@contextmanager
def both(ground: Ground, proxy: Proxy) -> Iterator[list[Running]]:
    """This gpen without workers, and with."""
    with ExitStack() as stack:
        yield [stack.enter_context(ground.proxy(each)) for each in (
            proxy, proxy.called(f"{proxy.name}, {WORKERS} workers", "-O", f"workers {WORKERS}"))]


def compare(ground: Ground, proxy: Proxy, what: str, done: Done) -> list[list[Turn]]:
    """Turns of both, of which the first one was to warm up."""
    turns: list[list[Turn]] = [[], []]
    with both(ground, proxy) as runs:
        for number in range(ground.plan.rounds * ground.plan.seconds + 1):
            for run, found in zip(runs, turns, strict=True):
                found.append(turn(run, done))
            say(f"{number}  {what}: " + ", ".join(f"{found[-1].whole * 1e6:.1f} µs" for found in turns))
    return [found[1:] for found in turns]


def measure(plan: Plan, directory: Path) -> dict[str, list[list[Turn]]]:
    """All that is compared."""
    ground, authority = Ground(directory, plan), Authority(directory, "bench")
    with ground.servers():
        found = {REQUESTS: compare(ground, GPEN, REQUESTS, wrk()),
                 CONNECTIONS: compare(ground, GPEN, CONNECTIONS, wrk(CLOSING))}
        for kind, title in HANDSHAKES.items():
            with_tls = replace(GPEN, command=partial(gpen_command, chained(authority, kind)))
            found[title] = compare(ground, with_tls, title, lambda front: s_time(front, 1))
    return found


def row(what: str, alone: list[Turn], with_workers: list[Turn]) -> list[str]:
    one, all_, main = (median(turn.whole for turn in alone), median(turn.whole for turn in with_workers),
                       median(turn.main for turn in with_workers))
    return [what, f"{one * 1e6:.1f}", f"{all_ * 1e6:.1f}", f"{main * 1e6:.1f}", f"{(all_ - main) * 1e6:.1f}",
            f"{one / all_:.2f}", f"{two_cores(one, all_, main):.2f}"]


def two_cores(one: float, whole: float, main: float) -> float:
    """How many times as much two cores bring as one process on one: what all three take of both, if they may run on
    either; but the main process has one at most."""
    return min(2 * one / whole, one / main if main else 2.0)


def targets(found: dict[str, list[list[Turn]]]) -> report.Table:
    rows = []
    main = median(turn.main for turn in found[CONNECTIONS][1])
    rows.append(report.Target("the main process's µs for a connection, of 45", 1.0, MAIN_AT_MOST / main).row())
    for title in HANDSHAKES.values():
        alone, workers = found[title]
        times = two_cores(median(turn.whole for turn in alone), median(turn.whole for turn in workers),
                          median(turn.main for turn in workers))
        rows.append(report.Target(f"{title} on two cores, of one process's", HANDSHAKES_AT_LEAST, times).row())
    return report.Table(["target", "wanted", "measured", ""], rows)


def benchmark(plan: Plan, directory: Path, options: argparse.Namespace) -> tuple[report.Table, ...]:
    found = measure(plan, directory)
    header = ["CPU µs for", "workers 0", f"workers {WORKERS}", "of these: main", "a worker", "a CPU second",
              "two cores"]
    return report.Table(header, [row(what, *turns) for what, turns in found.items()]), targets(found)


def main() -> None:
    command.main(command.parser("tests.bench.workers", __doc__).parse_args(), benchmark)


if __name__ == "__main__":
    main()
