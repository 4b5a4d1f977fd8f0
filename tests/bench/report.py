"""A run's samples as tables, for a terminal or for docs/BENCHMARKS.md, and the targets that gpen has to meet."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

from tests.bench.proxies import GPEN, GPEN_PURE, GPENS, Proxy, version
from tests.bench.run import Result
from tests.bench.trials import BEST, CLIENTS, MEASURES, PLAIN, SESSIONS, Measure, Sample

Row = Mapping[str, Sequence[Sample]]

BURDENED_AT_LEAST = 0.95


@dataclass(frozen=True)
class Wanted:
    """What a gpen has to reach.

    at_least: by measure, the ratio to whom that one is compared with. cheaper: the same of CPU time, the other's
    divided by gpen's. at_most: by measure, the value itself.
    """

    at_least: Mapping[str, float]
    cheaper: Mapping[str, float]
    at_most: Mapping[str, float]


WANTED = {
    GPEN.name: Wanted({"requests": 1.0, "bulk": 2.5}, {"connections": 0.95},
                      {"connection-instructions": 55_000, "request-instructions": 600, "idle": 1.0}),
    GPEN_PURE.name: Wanted({"requests": 0.9, "bulk": 2.5}, {"connections": 0.72},
                           {"connection-instructions": 140_000, "request-instructions": 16_000, "idle": 2.0}),
}


@dataclass(frozen=True)
class Target:
    """What a gpen has to reach: `measured` at least (or at most) `wanted`."""

    title: str
    wanted: float
    measured: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def row(self) -> list[str]:
        limit = f"{'at most' if self.at_most else 'at least'} {self.wanted:,g}"
        whole = isinstance(self.measured, int) or self.measured >= 100
        measured = f"{self.measured:,.0f}" if whole else f"{self.measured:.2f}"
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
    """The whole report for docs/BENCHMARKS.md."""
    parts = [". ".join(about(result)) + ".", *(table.markdown() for table in tables(result))]
    return "\n\n".join([*parts, f"```\n{started(result)}\n```"] if verbose else parts)


def as_json(result: Result) -> str:
    """Every sample of the run."""
    rows = [
        {"measure": measure, "name": name, "round": number, **asdict(sample)}
        for measure, row in [*result.samples.items(), *burdens_by_gpen(result)]
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


def burdens_by_gpen(result: Result) -> list[tuple[str, Row]]:
    return [(f"burden of {name}", row) for name, row in result.burden.items()]


def tables(result: Result) -> list[Table]:
    found = targets(result)
    exact = [name for name in result.samples if MEASURES[name].exact]
    timed = [name for name in result.samples if name not in exact]
    return [
        *(comparison(result, names) for names in (timed, exact) if names),
        *([burden_table(result)] if result.burden else []),
        *([Table(["target", "wanted", "measured", ""], [t.row() for t in found])] if found else []),
    ]


def comparison(result: Result, measures: Sequence[str]) -> Table:
    """One row a balancer, one column a measure, one more where CPU time was counted."""
    rows = [result.samples[name] for name in measures]
    names = [proxy.name for proxy in result.proxies if any(proxy.name in row for row in rows)]
    columns = [["", *names]]
    for measure, row in zip(map(MEASURES.__getitem__, measures), rows, strict=True):
        other = reference(measure, row)
        columns.append([measure.title, *(value_cell(row, name, other) if name in row else "" for name in names)])
        if any(sample.cpu for samples in row.values() for sample in samples):
            columns.append(["CPU µs (user)", *(cpu_cell(row[name]) if name in row else "" for name in names)])
    return turned(columns)


def turned(columns: Iterable[list[str]]) -> Table:
    header, *rows = [list(cells) for cells in zip(*columns, strict=True)]
    return Table(header, rows)


def burden_table(result: Result) -> Table:
    """New connections a second of each gpen, plain and burdened."""
    rows = []
    for gpen, row in result.burden.items():
        titles = {
            PLAIN: f"{gpen}, remembering clients",
            CLIENTS: f"with {result.remembered.get(gpen, 0):,} clients remembered",
            SESSIONS: f"with {result.plan.sessions:,} idle sessions open",
        }
        rows += [[titles[name], value_cell(row, name, PLAIN), cpu_cell(samples)] for name, samples in row.items()]
    turns = max(len(row[PLAIN]) for row in result.burden.values())
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


def cheapness(samples: Sequence[Sample], others: Sequence[Sample]) -> float:
    """As ratio, of CPU time: the others' divided by ours."""
    return median(other.cpu.total / mine.cpu.total for mine, other in zip(samples, others, strict=True)
                  if mine.cpu and other.cpu)


def reference(measure: Measure, row: Row) -> str | None:
    """Whom a measure's values are compared with: None when that one was not measured."""
    gpens = [gpen.name for gpen in GPENS]
    others = {name: middle(samples) for name, samples in row.items() if name not in gpens}
    if measure.compared_with == BEST:
        return max(others, key=lambda name: others[name], default=None)
    return measure.compared_with if measure.compared_with in others else None


def targets(result: Result) -> list[Target]:
    """Every target for which this run has the figures."""
    return [target for gpen in GPENS for target in targets_of(gpen, result)]


def targets_of(gpen: Proxy, result: Result) -> list[Target]:
    found = [*compared(gpen.name, result), *own(gpen.name, result), *burdened(gpen.name, result)]
    if found:
        found.append(Target(f"{gpen.name}: errors under load", 0, errors_of(gpen.name, result), at_most=True))
    return found


def compared(gpen: str, result: Result) -> list[Target]:
    """What it has to reach of another's."""
    found = []
    for wanted, judge, what in (
        (WANTED[gpen].at_least, ratio, "{title}, of {other}'s"),
        (WANTED[gpen].cheaper, cheapness, "CPU time of {title}, {other}'s divided by its own"),
    ):
        for name, value in wanted.items():
            row, measure = result.samples.get(name, {}), MEASURES[name]
            if gpen in row and (other := reference(measure, row)):
                title = what.format(title=measure.title, other=other)
                found.append(Target(f"{gpen}: {title}", value, judge(row[gpen], row[other])))
    return found


def own(gpen: str, result: Result) -> list[Target]:
    """What it must not exceed."""
    return [Target(f"{gpen}: {MEASURES[name].title}", most, middle(result.samples[name][gpen]), at_most=True)
            for name, most in WANTED[gpen].at_most.items() if gpen in result.samples.get(name, {})]


def burdened(gpen: str, result: Result) -> list[Target]:
    """What it has to reach of what it reaches without a burden."""
    row = result.burden.get(gpen, {})
    found = [Target(f"{gpen}: new conn/s with many {name}, of plain", BURDENED_AT_LEAST, ratio(row[name], row[PLAIN]))
             for name in row if name != PLAIN]
    if gpen in result.remembered:
        found.append(Target(f"{gpen}: clients remembered", result.plan.clients, result.remembered[gpen]))
    return found


def errors_of(gpen: str, result: Result) -> int:
    rows = [row.get(gpen, []) for row in result.samples.values()] + list(result.burden.get(gpen, {}).values())
    return sum(sample.errors for samples in rows for sample in samples)


def about(result: Result) -> list[str]:
    """The machine, the versions, and how to read the figures: a line each."""
    programs = {proxy.name.partition(",")[0]: proxy.version() for proxy in result.proxies}
    versions = ", ".join(f"{name} {number}" for name, number in programs.items())
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
