"""Counts what a connection and a request take, and records it for gpen: `python -m tests.bench.instructions --help`.

What is recorded (`instructions.json`) is of one minor version of Python and of a gpen that is compiled or pure. A test
holds gpen to it, so that nobody makes the path slower unawares.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.bench import counts
from tests.bench.process import BenchError
from tests.bench.proxies import GPENS, PROXIES, Proxy
from tests.bench.run import say
from tests.bench.trials import COUNTED, Ground, Plan, instructions, system_calls_by_name

RECORDS = Path(__file__).with_name("instructions.json")
COMMAND = "python -m tests.bench.instructions --record"
TOLERANCE = 0.1  # a machine that is eight times too busy makes up to 5%, another build of Python 3.11 made 6%


def counted(proxy: Proxy, directory: Path) -> counts.Instructions:
    """What they take of a balancer, with its files in a directory. Raises BenchError."""
    ground = new_ground(directory)
    with ground.servers():
        return instructions(ground, proxy)


def new_ground(directory: Path) -> Ground:
    return Ground(directory, Plan(rounds=1, seconds=1, clients=0, sessions=0, proxy_core=min(os.sched_getaffinity(0))))


def kind_of(gpen: Proxy) -> str:
    """What a record is of: "3.11 pure"."""
    return f"{'.'.join(platform.python_version_tuple()[:2])} {'pure' if gpen.pure else 'compiled'}"


def records() -> dict[str, counts.Instructions]:
    """What was recorded, by kind."""
    return {kind: counts.Instructions(**row) for kind, row in json.loads(RECORDS.read_text()).items()}


def record(gpen: Proxy, found: counts.Instructions) -> None:
    """Put it in place of what was recorded of this kind."""
    whole = counts.Instructions(round(found.connection, -2), round(found.request, -1))
    rows = {kind: asdict(row) for kind, row in sorted({**records(), kind_of(gpen): whole}.items())}
    RECORDS.write_text(json.dumps(rows, indent=1) + "\n")


def deviations(found: counts.Instructions, recorded: counts.Instructions) -> list[str]:
    """A line for each of both that is not within a tenth of what was recorded."""
    lines = []
    for what, number in asdict(found).items():
        expected = asdict(recorded)[what]
        if abs(number / expected - 1) > TOLERANCE:
            lines.append(f"a {what} takes {number:,.0f} instructions, recorded are {expected:,.0f} "
                         f"({number / expected - 1:+.0%}): if that is wanted, record it with {COMMAND}")
    return lines


def show(proxy: Proxy, recording: bool) -> None:
    """Print what one balancer takes, and record it, if it is a gpen."""
    with tempfile.TemporaryDirectory(prefix="gpen-bench-") as path:
        directory = Path(path)
        directory.chmod(0o755)  # nginx's worker is another user
        ground = new_ground(directory)
        with ground.servers():
            found = instructions(ground, proxy)
            calls = system_calls_by_name(ground, proxy)
    print(f"{proxy.name}: {found.connection:,.0f} instructions a connection, {found.request:,.0f} a request")
    print(f"{proxy.name}: {sum(calls.values()):.1f} system calls a connection: "
          + ", ".join(f"{name} {count:.1f}" for name, count in calls.items() if count >= 0.1))
    if recording and proxy in GPENS:
        record(proxy, found)
        print(f"recorded for {kind_of(proxy)} in {RECORDS.name}")


def main() -> None:
    known = {name: proxy for name, proxy in PROXIES.items() if proxy.name in COUNTED}
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.instructions",
        description="Count the user instructions and the system calls of a connection and of a request.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; usually both gpens")
    parser.add_argument("--record", action="store_true", help="what the test shall hold gpen to from now on")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"'{unknown.pop()}' is none of {', '.join(known)}")
    try:
        if reason := counts.missing():
            raise BenchError(reason)
        for proxy in [known[name] for name in options.names] or GPENS:
            if reason := proxy.missing():
                say(f"{proxy.name} is left out: {reason}")
            else:
                show(proxy, options.record)
    except BenchError as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
