"""The rounds of a run: every measure of every balancer in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.bench.measure import Neighbours
from tests.bench.proxies import GPENS, Proxy
from tests.bench.trials import (
    BURDENS,
    CLIENTS,
    MEASURES,
    Ground,
    Plan,
    Sample,
    burdened,
    remembered_clients,
    under_burden,
)

LEAST_TURNS = 4
Item = TypeVar("Item")
Samples = dict[str, dict[str, list[Sample]]]


@dataclass
class Result:
    """All that a run has found.

    samples: by measure and balancer, one a round. burden: of each gpen, by burden. remembered: how many
    clients each gpen still knew at the end. disturbance: the share of the machine, 0 to 1, that other programs
    took meanwhile. commands, files: how each balancer was started.
    """

    plan: Plan
    proxies: Sequence[Proxy]
    samples: Samples = field(default_factory=dict)
    burden: Samples = field(default_factory=dict)
    remembered: dict[str, int] = field(default_factory=dict)
    disturbance: float = 0.0
    commands: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def run(plan: Plan, proxies: Sequence[Proxy], names: Sequence[str], directory: Path) -> Result:
    """Measure what `names` says of each balancer, with files in `directory`."""
    ground = Ground(directory, plan)
    result = Result(plan, proxies, commands=ground.commands, files=ground.files)
    neighbours = Neighbours()
    with ground.servers():
        compare(ground, result, [name for name in MEASURES if name in names])
        if burdens := [name for name in BURDENS if name in names]:
            for gpen in GPENS:
                if gpen in proxies:
                    compare_burdens(ground, result, gpen, burdens)
    result.disturbance = neighbours.share()
    return result


def compare(ground: Ground, result: Result, measures: Sequence[str]) -> None:
    """Every measure of every balancer; each round begins with another balancer, and what is exact takes one."""
    for number in range(ground.plan.rounds):
        for measure in map(MEASURES.__getitem__, measures):
            proxies = [proxy for proxy in result.proxies if proxy.name in measure.among]
            if not proxies or (number and measure.exact):
                continue
            row = result.samples.setdefault(measure.name, {proxy.name: [] for proxy in proxies})
            for proxy in rotated(proxies, number):
                sample = measure.trial(ground, proxy)
                row[proxy.name].append(sample)
                progress(number, 1 if measure.exact else ground.plan.rounds, measure.title, proxy.name, sample)


def compare_burdens(ground: Ground, result: Result, gpen: Proxy, burdens: Sequence[str]) -> None:
    """A gpen plain and under its burdens, in many turns of a second: a ratio within 5% needs them."""
    rounds = max(LEAST_TURNS, ground.plan.rounds * ground.plan.seconds)
    say(f"preparing {gpen.name} with {' and with '.join(burdens)}")
    with burdened(ground, gpen, burdens) as runs:
        found = result.burden[gpen.name] = {name: [] for name in runs}
        for number in range(rounds):
            for name in rotated(list(runs), number):
                sample = under_burden(runs[name])
                found[name].append(sample)
                progress(number, rounds, "new conn/s", f"{gpen.name}, {name}", sample)
        if CLIENTS in runs:
            result.remembered[gpen.name] = remembered_clients(ground, gpen)


def rotated(items: Sequence[Item], by: int) -> list[Item]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def progress(number: int, rounds: int, title: str, name: str, sample: Sample) -> None:
    cost = f", {sample.cpu.total * 1e6:.1f} µs each" if sample.cpu else ""
    busy = f", core {sample.busy:.0%} busy" if sample.busy is not None else ""
    wrong = f", {sample.errors} errors" if sample.errors else ""
    say(f"{number + 1}/{rounds}  {title:<15}  {name:<20} {sample.value:>10,.1f}{cost}{busy}{wrong}")


def say(text: str) -> None:
    """Tell the user who waits, on stderr."""
    print(text, file=sys.stderr, flush=True)
