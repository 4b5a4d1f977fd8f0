"""What is wrong with a command line, in one line for the user: for all programs but gpen, whose command line is pen's.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from gpen.model.text import printable
from gpen.start import check_package

FAILED, USAGE = 1, 2  # exit statuses
_STAND_IN = "ARGUMENT"
# in what docopt tells of the words that it has no place for: an option's long name, or its short one; an argument
_UNMATCHED = re.compile(r"Option\((?:'-\w'|None), '(--[^']*)'|Option\('(-\w)'|Argument\(None, '([^']*)'")


class UsageError(Exception):
    """The command line is wrong, or names something that can't be used; one line for the user."""

    status = USAGE


def read(program: str, usage: str, words: Sequence[str], version: str, missing: str = "an argument is missing",
         options_first: bool = False) -> dict[str, Any]:
    """What docopt makes of the words behind a program's name (two words, where that has commands). ``missing`` is what
    is said when there is one too few. Raises UsageError; --help and --version exit."""
    from docopt import DocoptExit, docopt  # only now: `gpen-galera notify` starts without it

    check_package("docopt")
    try:
        return dict(docopt(usage, list(words), version=version, options_first=options_first))
    except DocoptExit as error:
        problem = _first_line(error)
    if problem.startswith(("Usage", "Warning")):  # it says that something is wrong, and not what
        try:
            docopt(usage, [*words, _STAND_IN], options_first=options_first)
            problem = missing
        except DocoptExit as error:  # without an argument that is missing, it names also what is right
            problem = _first_line(error)
    if problem.startswith("Warning"):
        named = [next(filter(None, names)) for names in _UNMATCHED.findall(problem)]
        wrong = [name for name in named if name not in (*program.split(), _STAND_IN)]
        problem = f"unknown or repeated {', '.join(wrong)}" if wrong else missing
    if problem.startswith("Usage"):
        problem = "wrong usage"
    raise UsageError(f"{problem}; {program} --help shows the usage")


def _first_line(error: Any) -> str:
    return str(error.code).partition("\n")[0]


def complain(program: str, what: object) -> None:
    """Tell who complains, and of what."""
    tell(f"{program}: {what}")


def tell(text: str) -> None:
    """One line to stderr, in which nothing can act on a terminal, where there is somebody to read it."""
    with contextlib.suppress(OSError):
        print(printable(text, keep="\t"), file=sys.stderr, flush=True)
