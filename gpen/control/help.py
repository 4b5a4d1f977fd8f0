"""What ``help`` says: rows made from the command table, and their layout, in the groups of the man page.

gpenctl lays out the rows of the daemon that it asks, so that its terminal's width counts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from gpen.control.commands import COMMANDS, Command
from gpen.control.script import UnknownCommand
from gpen.model.settings import OWN, PROCESS

Row = dict[str, Any]

WIDTH = 100  # characters of a line, where nobody says otherwise
NARROWEST = 40
COMMAND, SETTING, IGNORED, MISSING = GROUPS = ("commands", "settings", "without effect", "not in this version")
_NAMES_ONLY = (IGNORED, MISSING)
_SCOPES = {PROCESS: " Of the whole gpen, not of one listener.", OWN: " Each listener has its own."}


def group_of(command: Command) -> str:
    """The group that a command stands in."""
    if command.is_ignored:
        return IGNORED
    if command.setting is None:
        return COMMAND
    return MISSING if command.setting.missing else SETTING


def rows() -> list[Row]:
    """All commands, by group and name."""
    ordered = sorted(COMMANDS.values(), key=lambda command: (GROUPS.index(group_of(command)), command.name))
    return [_row(command) for command in ordered]


def row(name: str) -> Row:
    """One command. Raises ValueError for a name that is none."""
    command = COMMANDS.get(name)
    if command is None:
        hint = UnknownCommand(name).suggestion
        raise ValueError(f"'{name}' is not a command" + (f"; did you mean '{hint}'?" if hint else ""))
    return _row(command)


def _row(command: Command) -> Row:
    setting = command.setting
    told = {"group": group_of(command), "name": command.name, "usage": command.usage, "usage_no": command.usage_no,
            "help": command.help, "access": command.access, "example": command.example}
    if setting is None or setting.missing:
        return told
    return told | {"default": setting.told(setting.default), "option": setting.flag, "at_start_only": setting.startup,
                   "scope": setting.scope}


def overview(rows: Iterable[Row], width: int = WIDTH) -> str:
    """All commands, a line or two each, folded to a width; those that do nothing by name only, at the end."""
    rows = list(rows)
    longest = max((len(_text(row, "name")) for row in rows if row.get("group") not in _NAMES_ONLY), default=0)
    column = min(longest + 4, max(width, NARROWEST) // 2)
    lines = []
    for group in dict.fromkeys((*GROUPS, *(_text(row, "group") for row in rows))):
        members = [row for row in rows if _text(row, "group") == group]
        if members:
            lines += [group.upper(), *_members(members, group in _NAMES_ONLY, column, width), ""]
    hint = "'help NAME' says more; 'no NAME' puts a setting back to its default."
    return "\n".join([*lines, *_folded(hint, "", "", width)]) + "\n"


def _members(rows: list[Row], names_only: bool, column: int, width: int) -> Iterator[str]:
    if names_only:
        yield from _folded(", ".join(_text(row, "name") for row in rows), "  ", "  ", width)
        return
    for row in rows:
        sentence = _text(row, "help").split(". ")[0].rstrip(".") + "."
        yield from _folded(sentence, f"  {_text(row, 'name'):<{column - 4}}  ", " " * column, width)


def details(row: Row, width: int = WIDTH) -> str:
    """One command: how it is written, and all that is to be said of it."""
    ways = [*_text(row, "usage").split(" | "), _text(row, "usage_no")]
    lines = [line for way in ways if way for line in _folded(way, "", "    ", width)]
    remarks = [_text(row, "help")]
    if _text(row, "default"):
        remarks.append(f"Default: {_text(row, 'default')}."
                       + (f" Option {_text(row, 'option')}." if _text(row, "option") else "")
                       + (" Set at start only." if row.get("at_start_only") else "")
                       + _SCOPES.get(_text(row, "scope"), ""))
    if _text(row, "access") not in ("", "view"):
        remarks.append(f"Needs control_access {_text(row, 'access')}.")
    if _text(row, "example"):
        remarks.append(f"Example: {_text(row, 'example')}")
    return "\n".join([*lines, *(line for text in remarks for line in _folded(text, "    ", "    ", width))]) + "\n"


def _text(row: Row, field: str) -> str:
    value = row.get(field)
    return value if isinstance(value, str) else ""


def _folded(text: str, first: str, others: str, width: int) -> list[str]:
    width = max(width, NARROWEST, len(others) + NARROWEST // 2)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_long_words=False,
                         break_on_hyphens=False) or [first.rstrip()]
