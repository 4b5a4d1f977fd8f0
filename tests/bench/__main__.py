"""Command line of the benchmark: `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import counts, report
from tests.bench.process import BenchError
from tests.bench.proxies import MAX_SESSIONS, PROXIES, Proxy
from tests.bench.run import Result, run, say
from tests.bench.trials import BURDENS, MEASURES, Plan

NEEDED_PROGRAMS = ("wrk", "nginx", "taskset")
NEEDED_DESCRIPTORS = 2 * MAX_SESSIONS + 200
EVERYTHING = [*MEASURES, *BURDENS]


def main() -> int:
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("bench: ended by a signal"))
    try:
        return show(options, benchmark(options))
    except BenchError as error:
        say(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure gpen, compiled and as pure Python, against pen, haproxy and nginx stream: each alone on "
        "one core, load and web server on another, in turns.",
        epilog="Exit status: 0; 1 when --check finds a target missed; 2 when it can't be measured.",
    )
    add = parser.add_argument
    add("--rounds", type=number(1), metavar="N", help="rounds of each measure (5; quick: 2)")
    add("--seconds", type=number(1), metavar="N", help="seconds of each trial (3; quick: 1)")
    add("--clients", type=number(1), metavar="N", help="clients to remember (200000; quick: 20000)")
    add("--sessions", type=number(1, MAX_SESSIONS - 100), metavar="N", help="idle ones (5000; quick: 1000)")
    add("--only", type=names(list(PROXIES)), metavar="NAME,...", help=f"of {', '.join(PROXIES)}")
    add("--measure", type=names(EVERYTHING), metavar="NAME,...", help=f"of {', '.join(EVERYTHING)}")
    add("--quick", action="store_true", help="under two minutes, for a first look")
    add("--check", action="store_true", help="exit with 1 when a gpen misses a target")
    add("--markdown", action="store_true", help="the tables as they stand in docs/BENCHMARKS.md")
    add("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    add("--verbose", action="store_true", help="show the balancers' command lines and files as well")
    return parser.parse_args()


def number(least: int, most: int = 10**6) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {least} to {most}")
        return int(text)

    return parse


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        for name in (found := text.split(",")):
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
        return found

    return parse


def benchmark(options: argparse.Namespace) -> Result:
    proxies = installed(options.only or list(PROXIES))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("needs two cores: one for the balancer, one for the load")
    os.sched_setaffinity(0, {cores[1]})  # ours, and with us of all that we start but the balancer
    raise_descriptor_limit()
    plan = Plan(
        rounds=options.rounds or (2 if options.quick else 5),
        seconds=options.seconds or (1 if options.quick else 3),
        clients=options.clients or (20_000 if options.quick else 200_000),
        sessions=options.sessions or (1000 if options.quick else 5000),
        proxy_core=cores[0],
    )
    with tempfile.TemporaryDirectory(prefix="gpen-bench-") as directory:
        os.chmod(directory, 0o755)  # nginx's worker is another user
        return run(plan, proxies, measurable(options.measure or EVERYTHING), Path(directory))


def measurable(wanted: Sequence[str]) -> list[str]:
    """The measures that this machine can make, saying which it can't."""
    reason = counts.missing()
    left_out = [name for name in wanted if name in MEASURES and MEASURES[name].exact] if reason else []
    for name in left_out:
        say(f"{name} is left out: {reason}")
    return [name for name in wanted if name not in left_out]


def installed(wanted: Sequence[str]) -> list[Proxy]:
    """The balancers that are there, saying which are not."""
    for program in NEEDED_PROGRAMS:
        if not shutil.which(program):
            raise BenchError(f"{program} is not installed: the load needs {', '.join(NEEDED_PROGRAMS)}")
    reasons = {name: PROXIES[name].missing() for name in wanted}
    for name, reason in reasons.items():
        if reason:
            say(f"{name} is left out: {reason}")
    found = [PROXIES[name] for name, reason in reasons.items() if not reason]
    if not found:
        raise BenchError("no balancer is left to measure")
    return found


def raise_descriptor_limit() -> None:
    """Let the balancers that we start hold all sessions: each costs them two descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NEEDED_DESCRIPTORS:
        raise BenchError(f"the limit of descriptors is {hard}, needs {NEEDED_DESCRIPTORS}: see ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < NEEDED_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (NEEDED_DESCRIPTORS, hard))


def show(options: argparse.Namespace, result: Result) -> int:
    """Print the report, write the samples; the exit status."""
    render = report.as_markdown if options.markdown else report.as_text
    print(render(result, options.verbose))
    if options.json:
        options.json.write_text(report.as_json(result) + "\n")
    if not options.check:
        return 0
    targets = report.targets(result)
    if not targets:
        raise BenchError("--check: gpen was not measured, so no target could be checked")
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
