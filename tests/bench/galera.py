"""Measures transactions through balancers before a real Galera cluster: `python -m tests.bench.galera --help`.

sysbench oltp_read_write, 8 threads, through each in turns, and without a balancer. All go to the first of three nodes,
so that what the nodes tell one another is alike. A transaction is 40 messages, each of which wakes the balancer by
itself. The balancer is alone on its core; nodes and sysbench share another, so that transactions/s say little, and the
balancer's CPU time for a transaction says what it costs.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from contrib.cluster import PORT, ClusterError, missing
from tests.bench import command, load, report
from tests.bench.measure import CpuTime, cpu_time
from tests.bench.process import BenchError
from tests.bench.proxies import GPEN, GPEN_PURE, not_installed
from tests.bench.run import rotated, say
from tests.bench.trials import Plan, Sample
from tests.galera.balancers import BALANCERS, Balancer, debian_version, gpen
from tests.galera.cluster import Cluster

DIRECT, HAPROXY = "direct", "haproxy"
GPENS = (Balancer(GPEN.name, gpen, GPEN.version, GPEN.missing),
         Balancer(GPEN_PURE.name, partial(gpen, pure=True), GPEN_PURE.version, GPEN_PURE.missing))
CPU_AT_MOST = {GPEN.name: 0.97, GPEN_PURE.name: 1.09}  # of haproxy's
SYSBENCH = ("sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-user=app", "--mysql-password=app",
            "--mysql-db=app", "--tables=4", "--table-size=10000", "--threads=8", f"--mysql-port={PORT}")
PREPARING_SECONDS = 60

Samples = Mapping[str, Sequence[Sample]]  # by way; of a transaction


def balancers() -> list[Balancer]:
    """Those that are there, saying which are not."""
    found = []
    for balancer in (BALANCERS["pen"], BALANCERS[HAPROXY], *GPENS):
        if reason := balancer.missing():
            say(f"{balancer.name} is left out: {reason}")
        else:
            found.append(balancer)
    return found


@contextmanager
def way_to(cluster: Cluster, balancer: Balancer | None, core: int, directory: Path) -> Iterator[tuple[str, int | None]]:
    """The host to connect to, and the process that costs: of a balancer on its core, or of none."""
    if balancer is None:
        yield cluster.nodes[0].host, None
        return
    with balancer.start(cluster, [cluster.nodes[0].address], directory) as front:
        os.sched_setaffinity(front.pid, {core})
        yield front.host, front.pid


def transactions(host: str, seconds: int) -> tuple[int, float]:
    """How many sysbench makes, and how many a second."""
    told = load.output_of([*SYSBENCH, f"--mysql-host={host}", f"--time={seconds}", "run"], seconds + 60)
    return parse_sysbench(told)


def parse_sysbench(text: str) -> tuple[int, float]:
    found = re.search(r"transactions: +(\d+) +\(([\d.]+) per sec", text)
    if not found or not int(found[1]):
        raise BenchError(f"sysbench: made no transactions: {text.strip()[-300:]}")
    return int(found[1]), float(found[2])


def trial(host: str, pid: int | None, seconds: int) -> Sample:
    """Transactions a second, and the CPU time of each."""
    if pid is None:
        return Sample(transactions(host, seconds)[1])
    before = cpu_time(pid)
    count, rate = transactions(host, seconds)
    used = cpu_time(pid) - before
    return Sample(rate, cpu=CpuTime(used.user / count, used.system / count))


def compare(cluster: Cluster, ways: Mapping[str, Balancer | None], plan: Plan, directory: Path) -> Samples:
    """All ways in turns, so that what disturbs one disturbs all; each round begins with another."""
    found: dict[str, list[Sample]] = {name: [] for name in ways}
    for number in range(plan.rounds):
        for name in rotated(list(ways), number):
            with way_to(cluster, ways[name], plan.proxy_core, directory) as (host, pid):
                sample = trial(host, pid, plan.seconds)
            found[name].append(sample)
            cost = f", {sample.cpu.total * 1e6:.0f} µs each" if sample.cpu else ""
            say(f"{number + 1}/{plan.rounds}  {name:<12} {sample.value:>6,.0f} transactions/s{cost}")
    return found


def table(samples: Samples) -> report.Table:
    """Medians, and the medians of the rounds' own ratios to haproxy's."""
    others = samples.get(HAPROXY)
    rows = []
    for name, own in samples.items():
        rate, micros = f"{report.middle(own):,.0f}", ""
        if name != DIRECT:
            micros = report.cpu_cell(own)
        rows.append([name, rate, f"{report.ratio(own, others):.2f}" if others else "", micros,
                     f"{cost(own, others):.2f}" if others and micros else ""])
    return report.Table(["way", "transactions/s", "of haproxy's", "CPU µs a transaction (user)", "of haproxy's"], rows)


def cost(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """The median of the rounds' ratios of CPU time."""
    return median(mine.cpu.total / other.cpu.total for mine, other in zip(samples, others, strict=True)
                  if mine.cpu and other.cpu)


def targets(samples: Samples) -> list[report.Target]:
    return [report.Target(f"{name}: CPU time of a transaction, of haproxy's", most,
                          cost(samples[name], samples[HAPROXY]), at_most=True)
            for name, most in CPU_AT_MOST.items() if name in samples and HAPROXY in samples]


def benchmark(plan: Plan, directory: Path, options: argparse.Namespace) -> tuple[report.Table, ...]:
    if reason := missing() or not_installed("sysbench"):
        raise BenchError(reason)
    ways: dict[str, Balancer | None] = {DIRECT: None, **{balancer.name: balancer for balancer in balancers()}}
    say("starting a cluster of three nodes")
    try:
        with Cluster(directory / "cluster") as cluster:
            where = f"--mysql-host={cluster.nodes[0].host}"
            load.output_of([*SYSBENCH, where, "prepare"], PREPARING_SECONDS)
            samples = compare(cluster, ways, plan, directory)
    except ClusterError as error:
        raise BenchError(str(error)) from error
    say(about(ways))
    rows = [target.row() for target in targets(samples)]
    return table(samples), *([report.Table(["target", "wanted", "measured", ""], rows)] if rows else [])


def about(ways: Mapping[str, Balancer | None]) -> str:
    versions = {name.partition(",")[0]: balancer.version() for name, balancer in ways.items() if balancer}
    return ". ".join([
        report.machine(),
        f"MariaDB {debian_version('mariadb-server')}, galera {debian_version('galera-4')}",
        ", ".join(f"{name} {number}" for name, number in versions.items())])


def main() -> None:
    options = command.parser("tests.bench.galera", __doc__)
    options.set_defaults(seconds=8)
    options.epilog = "Takes about five minutes; progress goes to stderr."
    command.main(options.parse_args(), benchmark)


if __name__ == "__main__":
    main()
