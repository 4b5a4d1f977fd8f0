"""What is wrong with a command line, in one line for the user: for all programs but gpen, whose command line is pen's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from gpen.journal import ERROR, marked
from gpen.model.text import printable
from gpen.start import check_package

FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit statuses
_STAND_IN = "ARGUMENT"
_MOST_WRONG = 3  # words that are looked for together: an option and its value, say


class UsageError(Exception):
    """The command line is wrong, or names something that can't be used; one line for the user."""

    status = USAGE


def carry_out(program: str, run: Callable[[list[str]], int], words: list[str]) -> int:
    """The exit status of a program that ``run`` is, with the words behind its name; a UsageError is told."""
    try:
        return run(words)
    except UsageError as error:
        complain(program, error)
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED


def read(program: str, usage: str, words: Sequence[str], version: str, missing: str = "an argument is missing",
         options_first: bool = False) -> dict[str, Any]:
    """What docopt makes of the words behind a program's name (two words, where that has commands). ``missing`` is what
    is said when there is one too few. Raises UsageError; --help and --version exit."""
    from docopt import DocoptExit, docopt  # only now: `gpen-galera notify` starts without it

    check_package("docopt")
    try:
        return dict(docopt(usage, list(words), True, version, options_first))
    except DocoptExit as error:
        problem = str(error.code).partition("\n")[0]
    if problem.startswith(("Usage", "Warning")):  # it says that something is wrong, and not what
        problem = _problem(partial(_takes, usage, options_first), list(words), missing)
    raise UsageError(f"{problem}; {program} --help shows the usage")


def spread(words: Sequence[str], many: Collection[str]) -> Iterator[str]:
    """The words with ``--reader A B`` written as ``--reader A --reader B``, for the options that may have ``many``
    values: to docopt an option has one."""
    option, values = "", 0
    for word in words:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            option, values = (name if name in many else ""), len(equals)
        elif option:
            values += 1
            if values > 1:
                yield option
        yield word


def _takes(usage: str, options_first: bool, words: list[str]) -> bool:
    """Whether docopt has a place for all of these words."""
    from docopt import DocoptExit, docopt

    try:
        docopt(usage, words, False, None, options_first)
    except DocoptExit:
        return False
    return True


def _problem(takes: Callable[[list[str]], bool], words: list[str], missing: str) -> str:
    """What is wrong with words that are not taken: those are, with another one, or without one (the last first), or
    without a few that stand together."""
    more = [*words, _STAND_IN]
    if takes(more):
        return missing
    for count in range(1, _MOST_WRONG + 1):
        for given in (more, words):
            for first in range(len(words) - count, -1, -1):
                if takes([*given[:first], *given[first + count:]]):
                    wrong = given[first:first + (1 if given[first].startswith("-") else count)]
                    return f"unknown or repeated {', '.join(word.partition('=')[0] for word in wrong)}"
    return "wrong usage"


def seconds(arguments: Mapping[str, Any], name: str) -> float:
    """A number of seconds above 0. Raises UsageError."""
    value = number(arguments, name)
    if not 0.01 <= value <= 86400:
        raise UsageError(f"{name}: '{arguments[name]}' is out of range: expected 0.01 to 86400 seconds")
    return value


def number(arguments: Mapping[str, Any], name: str) -> float:
    """A number that is not negative. Raises UsageError."""
    text = arguments[name]
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UsageError(f"{name}: '{text}' is not a number")
    return value


def complain(program: str, what: object) -> None:
    """Tell who complains, and of what."""
    tell(f"{program}: {what}")


def tell(text: str) -> None:
    """One line to stderr, in which nothing can act on a terminal, where there is somebody to read it."""
    with contextlib.suppress(OSError):
        print(marked(printable(text, keep="\t"), ERROR), file=sys.stderr, flush=True)
