"""The rounds of a run: every measure of every balancer in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.bench.measure import Neighbours
from tests.bench.proxies import GPEN, Proxy
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

LEAST_TURNS = 6
Item = TypeVar("Item")
Samples = dict[str, dict[str, list[Sample]]]


@dataclass
class Result:
    """All that a run has found.

    samples: by measure and balancer, one a round. burden: gpen's own, by burden. remembered: how many
    clients gpen still knew at the end. disturbance: the share of the machine, 0 to 1, that other programs
    took meanwhile. commands, files: how each balancer was started.
    """

    plan: Plan
    proxies: Sequence[Proxy]
    samples: Samples = field(default_factory=dict)
    burden: dict[str, list[Sample]] = field(default_factory=dict)
    remembered: int | None = None
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
        burdens = [name for name in BURDENS if name in names]
        if burdens and GPEN in proxies:
            compare_burdens(ground, result, burdens)
    result.disturbance = neighbours.share()
    return result


def compare(ground: Ground, result: Result, measures: Sequence[str]) -> None:
    """Every measure of every balancer; each round begins with another balancer."""
    result.samples = {measure: {proxy.name: [] for proxy in result.proxies} for measure in measures}
    for number in range(ground.plan.rounds):
        for measure in measures:
            for proxy in rotated(result.proxies, number):
                sample = MEASURES[measure].trial(ground, proxy)
                result.samples[measure][proxy.name].append(sample)
                progress(number, ground.plan.rounds, MEASURES[measure].title, proxy.name, sample)


def compare_burdens(ground: Ground, result: Result, burdens: Sequence[str]) -> None:
    """gpen plain and under its burdens, in many turns of a second: a ratio within 10% needs them."""
    rounds = max(LEAST_TURNS, ground.plan.rounds * ground.plan.seconds)
    say(f"preparing gpen with {' and with '.join(burdens)}")
    with burdened(ground, burdens) as runs:
        result.burden = {name: [] for name in runs}
        for number in range(rounds):
            for name in rotated(list(runs), number):
                sample = under_burden(runs[name])
                result.burden[name].append(sample)
                progress(number, rounds, "new conn/s", f"gpen, {name}", sample)
        if CLIENTS in runs:
            result.remembered = remembered_clients(ground)


def rotated(items: Sequence[Item], by: int) -> list[Item]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def progress(number: int, rounds: int, title: str, name: str, sample: Sample) -> None:
    cost = f", {sample.cpu.total * 1e6:.1f} µs each" if sample.cpu else ""
    busy = f", core {sample.busy:.0%} busy" if sample.busy is not None else ""
    wrong = f", {sample.errors} errors" if sample.errors else ""
    say(f"{number + 1}/{rounds}  {title:<15}  {name:<14} {sample.value:>10,.1f}{cost}{busy}{wrong}")


def say(text: str) -> None:
    """Tell the user who waits, on stderr."""
    print(text, file=sys.stderr, flush=True)
