"""What the daemon says, in the form the user wants."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from typing import Any, NamedTuple

from gpen.gpenctl.link import LONGEST_WAIT, Target, ask, meet
from gpen.gpenctl.tables import asked, parse_plain, records
from gpen.model.text import printable
from gpen.usage import UsageError, complain, tell


def seconds(name: str, value: str) -> float:
    """The number of seconds that `value` names. Raises UsageError."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < LONGEST_WAIT:
        raise UsageError(f"{name}: {value!r} is not a number of seconds above 0")
    return number


LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # what JSON can hold, but no UTF-8, nor surrogateescape
UNKNOWN = re.compile(r"do_cmd: ignoring command starting with '(.*)'")
ERROR = re.compile(r"error:|do_cmd: ignoring|Exit is not enabled;|Connection -?\d+ out of range$")


class View(NamedTuple):
    """How the user wants to see things; `timeout` in seconds."""

    target: Target
    timeout: float
    format: str  # table, plain, json or csv
    color: bool
    terminal: bool  # stdout is one: control characters stay out

    @property
    def width(self) -> int:
        """Columns of the terminal; 0, that is any, in a pipe."""
        return shutil.get_terminal_size().columns if self.terminal else 0


def explained(value: Any, width: int) -> str:
    """What the daemon has told of its commands, folded to a width (0: as wide as help is)."""
    from gpen.control import help

    rows = records("help", value)
    if isinstance(value, dict):
        return help.details(rows[0], width or help.WIDTH)
    return help.overview(rows, width or help.WIDTH)


def refused(view: View) -> str:
    """What the daemon says if it does not talk to us; empty when it does. Raises LinkError when there is no daemon."""
    greeting = meet(view.target, view.timeout)
    return "" if greeting.isdigit() else f"{greeting}\n"


def fetch(line: str, view: View) -> tuple[str, Any]:
    """The reply to `line` asked for as JSON, and its value: None for an error or anything that is no table.

    A real pen ignores the word json or takes it for an argument (`recent json` is 0 seconds). So whoever does
    not answer JSON is asked again without the word, and pen's plain lines are read. Raises LinkError.
    """
    words, name = line.split(), asked(line)
    bare = words[:-1] if words[-1] == "json" else words
    reply = ask(view.target, line if bare is not words else f"{line} json", view.timeout)
    if failed(reply) and name != "help":  # whose JSON a gpen of before does not know
        return reply, None
    if not is_json(reply):
        reply = ask(view.target, " ".join(bare), view.timeout)
        return reply, None if failed(reply) else parse_plain(name, reply)
    value = json.loads(reply)
    if name == "connection" and "state" not in value:  # out of range, which only the plain reply says
        return ask(view.target, " ".join(bare), view.timeout), None
    return reply, value


def is_json(reply: str) -> bool:
    try:
        return isinstance(json.loads(reply), (dict, list))
    except (ValueError, RecursionError):
        return False


def failed(reply: str) -> bool:
    return any(map(ERROR.match, reply.split("\n")))


def show_reply(reply: str, view: View) -> int:
    """Show a reply as the daemon sent it, error lines on stderr. The exit status: 0, or 1 after an error."""
    if not failed(reply):
        out(reply, view, ended=view.terminal)
        return 0
    lines = reply.rstrip("\n").split("\n")
    out("\n".join(line for line in lines if not ERROR.match(line)), view)
    for line in filter(ERROR.match, lines):
        tell(line)
        if unknown := UNKNOWN.match(line):
            suggest(unknown[1])
    return 1


def suggest(name: str) -> None:
    """Say what is meant by the unknown command `name`, if anything is near."""
    from gpen.control.commands import COMMANDS, advice  # here, since it is seldom needed

    if name not in COMMANDS:  # a pen does not know all that gpen knows
        complain("gpenctl", advice(name) or "'help' lists the commands")


def out(text: str, view: View, ended: bool = True, painted: bool = False) -> None:
    """Write `text` to stdout, with a last line end if `ended`; `painted` text has clean cells already."""
    if ended and text and not text.endswith("\n"):
        text += "\n"
    if view.terminal and not painted:
        text = printable(text, keep="\n\t")
    sys.stdout.write(LONE.sub(lambda match: printable(match[0]), text))
    sys.stdout.flush()
