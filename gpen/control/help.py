"""What ``help`` says: rows made from the command table, and their layout, by the topics of the table.

gpenctl lays out the rows of the daemon that it asks, so that its terminal's width counts.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from gpen.control.commands import COMMANDS, OPTIONS, START, Command, Option, advice
from gpen.model.settings import OWN, PROCESS, SETTINGS

Row = dict[str, Any]

WIDTH = 100  # characters of a line, where nobody says otherwise
NARROWEST = 40
_SENTENCE_END = re.compile(r"(?<!\.)\. ")  # not the end of PORT...
IGNORED, MISSING = _NAMES_ONLY = ("without effect", "not in this version")
_SCOPES = {PROCESS: " Of the whole gpen, not of one listener.", OWN: " Each listener has its own."}


def group_of(command: Command) -> str:
    """The topic that a command is shown under."""
    if command.is_ignored:
        return IGNORED
    return MISSING if command.setting is not None and command.setting.missing else command.topic


def _groups() -> tuple[str, ...]:
    """All topics: first those that have no settings, then the others in the settings' order."""
    lone = [command.topic for command in COMMANDS.values() if command.setting is None]
    of_settings = [setting.topic for setting in SETTINGS.values() if not setting.missing]
    ordered = dict.fromkeys([*(topic for topic in lone if topic not in of_settings), *of_settings])
    return (*(topic for topic in ordered if topic not in _NAMES_ONLY), *_NAMES_ONLY)


GROUPS = _groups()


def rows() -> list[Row]:
    """All commands, by group and name."""
    ordered = sorted(COMMANDS.values(), key=lambda command: (GROUPS.index(group_of(command)), command.name))
    return [_row(command) for command in ordered]


def options() -> Iterator[tuple[str, list[Option]]]:
    """The options of gpen's command line by their topics, and in each in the order of the table."""
    topics = dict.fromkeys((START, "the process", "the control socket", "logs", *GROUPS))
    for topic in topics:
        if members := [option for option in OPTIONS if option.topic == topic]:
            yield topic, members


def row(name: str) -> Row:
    """One command. Raises ValueError for a name that is none."""
    command = COMMANDS.get(name)
    if command is None:
        raise ValueError(f"'{name}' is not a command; {advice(name) or 'help lists them'}")
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
    """All commands by their topics, a line or two each, folded to a width; those that do nothing by name only, at the
    end."""
    rows = list(rows)
    longest = max((len(_text(row, "name")) for row in rows if row.get("group") not in _NAMES_ONLY), default=0)
    column = min(longest + 4, max(width, NARROWEST) // 2)
    lines = []
    for group in dict.fromkeys((*GROUPS, *(_text(row, "group") for row in rows))):
        members = [row for row in rows if _text(row, "group") == group]
        if members:
            lines += [group.upper(), *_members(members, group in _NAMES_ONLY, column, width), ""]
    hint = "'help NAME' says more; NAME alone tells a setting's value, and 'no NAME' puts it back to its default."
    return "\n".join([*lines, *_folded(hint, "", "", width)]) + "\n"


def _members(rows: list[Row], names_only: bool, column: int, width: int) -> Iterator[str]:
    if names_only:
        yield from _folded(", ".join(_text(row, "name") for row in rows), "  ", "  ", width)
        return
    for row in rows:
        sentence = f"{brief(_text(row, 'help'))}."
        yield from _folded(sentence, f"  {_text(row, 'name'):<{column - 4}}  ", " " * column, width)


def brief(text: str) -> str:
    """What a help begins with: its first sentence without its point, and without what explains it from the third word
    on."""
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0].removesuffix(".")
    for mark in re.finditer("[:;] ", sentence):
        head = sentence[: mark.start()]
        if head.count(" ") >= 2 and head.count("(") == head.count(")"):
            return head
    return sentence


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
