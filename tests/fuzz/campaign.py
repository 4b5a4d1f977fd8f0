"""Rounds of cases, one kind after the other, until the time is over; and what came of them."""

from __future__ import annotations

import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from tabulate import tabulate

from tests.fuzz.kind import Kind, Trial

Say = Callable[[str], None]

_SETTINGS = hypothesis.settings(database=None, deadline=None, derandomize=False, report_multiple_bugs=False,
                                suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
                                verbosity=hypothesis.Verbosity.quiet)


@dataclass
class Tally:
    """What became of a kind."""

    kind: Kind
    rounds: int = 0
    cases: int = 0
    inputs: int = 0
    seconds: float = 0.0
    failure: str = ""


class Campaign:
    """Tries kinds of input. A kind that has failed is not tried further."""

    def __init__(self, kinds: Iterable[Kind], seed: int, say: Say = print, every: float = 10.0) -> None:
        """``seed`` makes all cases; each ``every`` seconds it is said how far it is."""
        self.tallies = [Tally(kind) for kind in kinds]
        self._seed, self._say, self._every = seed, say, every
        self._began = self._said = time.monotonic()
        self._limit = 0.0

    def run(self, directory: Path, seconds: float = 0.0, first: int = 0) -> None:
        """Rounds from number ``first`` on, of each kind in turn, for so many seconds; with 0, one round of each."""
        self._limit = seconds
        number = first
        with ExitStack() as stack:
            trials = [(tally, _opened(stack, tally.kind, directory)) for tally in self.tallies]
            while number == first or (time.monotonic() - self._began < seconds and not self._all_failed):
                for tally, trial in trials:
                    if not tally.failure and (number == first or time.monotonic() - self._began < seconds):
                        self._round(tally, trial, number)
                number += 1

    @property
    def _all_failed(self) -> bool:
        return all(tally.failure for tally in self.tallies)

    def _round(self, tally: Tally, trial: Trial, number: int) -> None:
        kind, failed = tally.kind, list[Any]()

        def check(case: Any) -> None:
            tally.cases += 1
            tally.inputs += kind.size(case)
            self._progress(kind)
            try:
                trial.check(case)
            except Exception:
                failed.append(case)
                raise

        seed = zlib.crc32(f"{self._seed} {kind.name} {number}".encode())
        test = hypothesis.given(kind.cases)(check)
        began = time.monotonic()
        try:
            hypothesis.seed(seed)(hypothesis.settings(_SETTINGS, max_examples=kind.round)(test))()
            trial.settle()
        except Exception as error:
            tally.failure = self._told(kind, number, error, failed)
            self._say(tally.failure)
        tally.rounds += 1
        tally.seconds += time.monotonic() - began

    def _told(self, kind: Kind, number: int, error: Exception, failed: Sequence[Any]) -> str:
        """What went wrong, and how it is tried again. The last that failed is the smallest."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)[-3:])
        again = f"python -m tests.fuzz --only {kind.name}"
        one = (f"  the smallest input:\n    {failed[-1]!r}\n"
               f"  once more: write it to FILE, and  {again} --input FILE\n" if failed else "")
        return f"FAILED {kind.name}\n{trace}{one}  the whole round:  {again} --seed {self._seed} --round {number}"

    def _progress(self, kind: Kind) -> None:
        now = time.monotonic()
        if now - self._said < self._every:
            return
        self._said = now
        inputs, failures = (sum(values) for values in zip(*((t.inputs, bool(t.failure)) for t in self.tallies),
                                                          strict=True))
        limit = f" of {self._limit:.0f}" if self._limit else ""
        self._say(f"fuzz: {now - self._began:.0f}{limit} s, {inputs:,} inputs, {failures} failures; now: {kind.name}")

    def table(self, style: str = "simple") -> str:
        """Kinds, how much was tried, and whether it failed."""
        rows = [[tally.kind.name, tally.kind.about, f"{tally.inputs:,}", f"{tally.cases:,}", f"{tally.seconds:.0f}",
                 int(bool(tally.failure))] for tally in self.tallies]
        sums = [f"{sum(values):,.0f}" for values in zip(*((t.inputs, t.cases, t.seconds, bool(t.failure))
                                                          for t in self.tallies), strict=True)]
        return tabulate([*rows, ["all", "", *sums]], ["kind", "what", "inputs", "cases", "seconds", "failures"],
                        tablefmt=style, disable_numparse=True, colalign=("left", "left", *["right"] * 4))


def _opened(stack: ExitStack, kind: Kind, directory: Path) -> Trial:
    (place := directory / kind.name).mkdir()
    return stack.enter_context(kind.trial(place))
