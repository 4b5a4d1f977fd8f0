"""What the small benchmarks' commands have in common: options, cores, a directory, and tables at the end."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.__main__ import raise_descriptor_limit
from tests.bench.measure import Neighbours
from tests.bench.process import BenchError
from tests.bench.report import Table
from tests.bench.run import say
from tests.bench.trials import Plan

Benchmark = Callable[[Plan, Path, argparse.Namespace], tuple[Table, ...]]


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """The options that each has; ``about`` is the module's docstring."""
    options = argparse.ArgumentParser(prog=f"python -m {module}", description=(about or "").partition("\n")[0])
    options.add_argument("--rounds", type=int, default=5, help="of each trial (5)")
    options.add_argument("--seconds", type=int, default=2, help="of each trial (2)")
    options.add_argument("--markdown", action="store_true", help="tables as they stand in docs/BENCHMARKS.md")
    return options


def main(options: argparse.Namespace, benchmark: Benchmark) -> None:
    """Run it with the load on one core and the balancers on another, and print its tables."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("bench: needs two cores: one for the balancer, one for the load")
    os.sched_setaffinity(0, {cores[1]})
    raise_descriptor_limit()
    neighbours = Neighbours()
    with tempfile.TemporaryDirectory(prefix="gpen-bench-") as directory:
        os.chmod(directory, 0o755)  # nginx's worker is another user
        try:
            tables = benchmark(Plan(options.rounds, options.seconds, 0, 0, cores[0]), Path(directory), options)
        except (BenchError, AssertionError) as error:
            sys.exit(f"bench: {error}")
    say(f"other programs used {neighbours.share():.0%} of the machine meanwhile")
    for table in tables:
        print((table.markdown() if options.markdown else table.text()) + "\n")
