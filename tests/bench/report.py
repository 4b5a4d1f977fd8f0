"""A run's samples as tables, for a terminal or for the README, and the targets that gpen has to meet."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

from tests.bench.proxies import GPEN, version
from tests.bench.run import Result
from tests.bench.trials import BEST, CLIENTS, MEASURES, PLAIN, SESSIONS, Measure, Sample

Row = Mapping[str, Sequence[Sample]]

AT_LEAST = {"requests": 0.9, "connections": 0.5, "bulk": 1.0}
IDLE_KB = 12.0
BURDENED_AT_LEAST = 0.9


@dataclass(frozen=True)
class Target:
    """What gpen has to reach: `measured` at least (or at most) `wanted`."""

    title: str
    wanted: float
    measured: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def row(self) -> list[str]:
        limit = f"{'at most' if self.at_most else 'at least'} {self.wanted:,g}"
        measured = f"{self.measured:,}" if isinstance(self.measured, int) else f"{self.measured:.2f}"
        return [self.title, limit, measured, "met" if self.met else "MISSED"]


@dataclass(frozen=True)
class Table:
    """A header and rows of text; the first column names the rows."""

    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        rule = ["-" * width for width in widths]
        return "\n".join(aligned(row, widths) for row in [self.header, rule, *self.rows])

    def markdown(self) -> str:
        rule = ["---"] + ["--:"] * (len(self.header) - 1)
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows])


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *cells = row
    right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *right]).rstrip()


def as_text(result: Result, verbose: bool) -> str:
    """The whole report for a terminal."""
    parts = ["\n".join(about(result)), *(table.text() for table in tables(result))]
    return "\n\n".join([*parts, started(result)] if verbose else parts)


def as_markdown(result: Result, verbose: bool) -> str:
    """The whole report for the README."""
    parts = [". ".join(about(result)) + ".", *(table.markdown() for table in tables(result))]
    return "\n\n".join([*parts, f"```\n{started(result)}\n```"] if verbose else parts)


def as_json(result: Result) -> str:
    """Every sample of the run."""
    rows = [
        {"measure": measure, "name": name, "round": number, **asdict(sample)}
        for measure, row in [*result.samples.items(), ("burden", result.burden)]
        for name, samples in row.items()
        for number, sample in enumerate(samples, start=1)
    ]
    return json.dumps(
        {
            "about": about(result),
            "plan": asdict(result.plan),
            "commands": result.commands,
            "files": result.files,
            "remembered": result.remembered,
            "disturbance": result.disturbance,
            "samples": rows,
        },
        indent=1,
    )


def tables(result: Result) -> list[Table]:
    found = targets(result)
    return [
        *([comparison(result)] if result.samples else []),
        *([burden_table(result)] if result.burden else []),
        *([Table(["target", "wanted", "measured", ""], [t.row() for t in found])] if found else []),
    ]


def comparison(result: Result) -> Table:
    """One row a balancer, one column a measure, one more where CPU time was counted."""
    columns = [["", *(proxy.name for proxy in result.proxies)]]
    for name, row in result.samples.items():
        measure = MEASURES[name]
        other = reference(measure, row)
        columns.append([measure.title, *(value_cell(row, proxy, other) for proxy in row)])
        if any(sample.cpu for samples in row.values() for sample in samples):
            columns.append(["CPU µs (user)", *map(cpu_cell, row.values())])
    header, *rows = [list(cells) for cells in zip(*columns, strict=True)]
    return Table(header, rows)


def burden_table(result: Result) -> Table:
    """gpen's new connections a second, plain and burdened."""
    titles = {
        PLAIN: "gpen, remembering clients",
        CLIENTS: f"with {result.remembered or 0:,} clients remembered",
        SESSIONS: f"with {result.plan.sessions:,} idle sessions open",
    }
    rows = [
        [titles[name], value_cell(result.burden, name, PLAIN), cpu_cell(samples)]
        for name, samples in result.burden.items()
    ]
    turns = len(result.burden[PLAIN])
    return Table([f"{turns} turns of 1 s", "new conn/s", "CPU µs (user)"], rows)


def value_cell(row: Row, name: str, other: str | None) -> str:
    """`61,234 (0.97)`: median, its ratio to the other, and a mark when something went wrong."""
    value = middle(row[name])
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    compared = f" ({ratio(row[name], row[other]):.2f})" if other else ""
    errors = sum(sample.errors for sample in row[name])
    return f"{shown}{compared}" + (f" !{errors:,} errors" if errors else "")


def cpu_cell(samples: Sequence[Sample]) -> str:
    times = [sample.cpu for sample in samples if sample.cpu]
    total, user = median(time.total for time in times), median(time.user for time in times)
    return f"{total * 1e6:.1f} ({user * 1e6:.1f})"


def middle(samples: Sequence[Sample]) -> float:
    return median(sample.value for sample in samples)


def ratio(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """The median of the rounds' ratios: what disturbs a round disturbs both of its parts."""
    return median(mine.value / other.value for mine, other in zip(samples, others, strict=True))


def reference(measure: Measure, row: Row) -> str | None:
    """Whom a measure's values are compared with: None when that one was not measured."""
    others = {name: middle(samples) for name, samples in row.items() if name != GPEN.name}
    if measure.compared_with == BEST:
        return max(others, key=lambda name: others[name], default=None)
    return measure.compared_with if measure.compared_with in others else None


def targets(result: Result) -> list[Target]:
    """Every target for which this run has the figures."""
    gpen = GPEN.name
    found = []
    for name, wanted in AT_LEAST.items():
        row = result.samples.get(name, {})
        other = reference(MEASURES[name], row)
        if gpen in row and other:
            title = f"{MEASURES[name].title}, of {other}'s"
            found.append(Target(title, wanted, ratio(row[gpen], row[other])))
    if gpen in (row := result.samples.get("idle", {})):
        found.append(Target("KB of memory for an idle session", IDLE_KB, middle(row[gpen]), at_most=True))
    for name in result.burden:
        if name != PLAIN:
            measured = ratio(result.burden[name], result.burden[PLAIN])
            found.append(Target(f"new conn/s with many {name}, of plain", BURDENED_AT_LEAST, measured))
    if result.remembered is not None:
        found.append(Target("clients remembered", result.plan.clients, result.remembered))
    if found:
        found.append(Target("errors of gpen under load", 0, gpen_errors(result), at_most=True))
    return found


def gpen_errors(result: Result) -> int:
    rows = [row.get(GPEN.name, []) for row in result.samples.values()] + list(result.burden.values())
    return sum(sample.errors for samples in rows for sample in samples)


def about(result: Result) -> list[str]:
    """The machine, the versions, and how to read the figures: a line each."""
    versions = ", ".join(f"{proxy.name} {proxy.version()}" for proxy in result.proxies)
    return [
        machine(),
        f"{versions}, wrk {version('wrk', '-v')}",
        f"Medians of {result.plan.rounds} rounds of {result.plan.seconds} s. In parentheses the ratio to pen "
        "for new connections, else to the best that is not gpen: the median of the rounds' own ratios",
        f"Other programs used {result.disturbance:.0%} of the machine meanwhile",
    ]


def started(result: Result) -> str:
    """How the balancers were started: the command lines, and the files that these name."""
    files = [f"\n# {name}\n{text.strip()}" for name, text in result.files.items()]
    return "\n".join([*result.commands.values(), *files])


def machine() -> str:
    """Processor, memory, system and date, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {date.today().isoformat()}"
    )


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
