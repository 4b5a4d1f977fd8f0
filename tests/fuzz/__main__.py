"""Command line: `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import ast
import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path

from tests.fuzz.campaign import Campaign
from tests.fuzz.kind import Kind
from tests.fuzz.kinds import KINDS


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="gpen-fuzz-") as directory:
        if options.input is not None:
            return attempt(options.only, options.input, Path(directory))
        return run(options, Path(directory))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Random input, valid and spoiled, against gpen and gpenlogd.",
        epilog="Kinds: " + "; ".join(f"{kind.name}, {kind.about}" for kind in KINDS) + ". Exit status: 0; 1 when "
        "something failed: then the smallest input is printed, and how to try it again.")
    add = parser.add_argument
    # what is given as text is read as options are, and refused as they are
    add("--seconds", type=float, metavar="S", default=os.environ.get("FUZZ_SECONDS") or "3600",
        help="how long, and one round of each kind at least, which takes a minute (FUZZ_SECONDS, 3600)")
    add("--seed", type=int, metavar="N", default=os.environ.get("FUZZ_SEED") or f"{time.time():.0f}",
        help="the same seed makes the same input (FUZZ_SEED, the time)")
    add("--only", type=kinds, metavar="KIND,...", default=KINDS, help="some kinds")
    add("--round", type=int, metavar="N", help="only this round of each")
    add("--input", type=written, metavar="FILE", help="only this input of one kind, as it was printed")
    add("--every", type=float, metavar="S", default=10.0, help="say each S seconds how far it is (10)")
    add("--markdown", action="store_true", help="the table as it stands in docs/TESTING.md")
    options = parser.parse_args()
    if options.input is not None and len(options.only) != 1:
        parser.error("--input needs one kind: --only KIND")
    return options


def kinds(text: str) -> Sequence[Kind]:
    known = {kind.name: kind for kind in KINDS}
    for name in (names := text.split(",")):
        if name not in known:
            raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(known)}")
    return [known[name] for name in names]


def written(path: str) -> object:
    """The input that a file has."""
    try:
        return ast.literal_eval(Path(path).read_text().strip())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from None
    except (ValueError, SyntaxError) as error:
        raise argparse.ArgumentTypeError(f"{path}: no input as it was printed: {error}") from None


def attempt(kinds: Sequence[Kind], case: object, directory: Path) -> int:
    """One input. Raises what is wrong with it."""
    with ExitStack() as stack:
        trial = stack.enter_context(kinds[0].trial(directory))
        trial.check(case)
        trial.settle()
    print("it is well")
    return 0


def run(options: argparse.Namespace, directory: Path) -> int:
    """All rounds that there is time for; the exit status."""
    say = partial(print, file=sys.stdout, flush=True)
    say(f"fuzz: seed {options.seed}")
    campaign = Campaign(options.only, options.seed, say, options.every)
    try:
        with redirect_stdout(io.StringIO()):  # what programs told, which pytest keeps for tests that fail
            if options.round is None:
                campaign.run(directory, options.seconds)
            else:
                campaign.run(directory, first=options.round)
    except KeyboardInterrupt:
        say("fuzz: interrupted")
    print(campaign.table("github" if options.markdown else "simple"))
    return int(any(tally.failure for tally in campaign.tallies))


if __name__ == "__main__":
    sys.exit(main())
