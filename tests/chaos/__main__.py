"""Command line: `python -m tests.chaos --help`."""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from tabulate import tabulate

from tests.bench.__main__ import number
from tests.chaos.storm import Report, Storm

SHOWN = 20  # damaged transfers


def main() -> int:
    options = arguments()
    say = partial(print, file=sys.stdout, flush=True)
    say(f"chaos: seed {options.seed}")
    reports = []
    for way in options.ways or ("plain", "tls"):
        storm = Storm(way, options.transfers, options.reloads or max(options.transfers // 10, 1), options.seed,
                      every(options.every, say))
        with tempfile.TemporaryDirectory(prefix="gpen-chaos-") as directory, redirect_stdout(io.StringIO()) as told:
            try:
                reports.append(storm.run(Path(directory)))
            except AssertionError as error:
                say(f"{told.getvalue()[-5000:]}\n{way}: {error}")
                return 1
    show(reports, say, "github" if options.markdown else "simple")
    return 0 if all(report.is_well for report in reports) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Hashed transfers both ways, with half-closes and slow readers, "
        "while gpen is stopped, continued and reloaded, its servers drained, moved, judged and closed, its listener "
        "moved.",
        epilog="Exit status: 0; 1 when a transfer was damaged or turned away, or gpen itself misbehaved.")
    add = parser.add_argument
    add("--transfers", type=number(1, 50_000), metavar="N", default=5000, help="each way (5000)")
    add("--reloads", type=number(1), metavar="N", help="a tenth of the transfers, unless given")
    add("--seed", type=int, metavar="N", default=int(time.time()), help="what is done, and in which order (the time)")
    add("--plain", dest="ways", action="append_const", const="plain", help="without TLS only")
    add("--tls", dest="ways", action="append_const", const="tls", help="with TLS only")
    add("--every", type=float, metavar="S", default=5.0, help="say each S seconds how far it is (5)")
    add("--markdown", action="store_true", help="the table as it stands in docs/TESTING.md")
    return parser.parse_args()


def every(seconds: float, say: Callable[[str], None]) -> Callable[[str], None]:
    """Say what is given, but not more often than that."""
    began = last = time.monotonic()

    def progress(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{text}, {last - began:.0f} s")

    return progress


def show(reports: list[Report], say: Callable[[str], None], style: str) -> None:
    """The table, and what is known of damaged transfers."""
    columns = [report.rows() for report in reports]
    names: list[str] = []
    for column in columns:  # what only one way had stands where it stands there
        for before, name in zip([None, *column], column, strict=False):
            if name not in names:
                names.insert(names.index(before) + 1 if before is not None else 0, name)
    say(tabulate([[name, *(column.get(name, "0") for column in columns)] for name in names],
                 ["", *(report.way for report in reports)], tablefmt=style, disable_numparse=True,
                 colalign=("left", *["right"] * len(columns))))
    for report in reports:
        for text in report.damaged[:SHOWN]:
            say(f"DAMAGED, {report.way}: {text}")


if __name__ == "__main__":
    sys.exit(main())
