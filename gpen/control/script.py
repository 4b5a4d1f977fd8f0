"""Lines to calls: the grammar of the control language, the same at the command line, in files and on the socket.

A line is words between blanks; a word may stand in double quotes, with backslash before a quote or backslash; a word
that begins with # begins a comment. Each call keeps where it came from, so that an error can say so.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpen.control.commands import COMMANDS, Arguments, Command, suggestion

MAX_INCLUDES = 8
_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|(#.*)|([^\s"]\S*)|(\S.*))')


class ScriptError(Exception):
    """A command that can't be run: one line that names where it stands, the value, and what was expected."""

    def __init__(self, message: str, origin: str = "") -> None:
        super().__init__(f"{origin}: {message}" if origin else message)


class UnknownCommand(ScriptError):
    """The first word of the line is no command."""

    def __init__(self, name: str, origin: str = "") -> None:
        self.name = name
        self.suggestion = suggestion(name)
        hint = f"; did you mean '{self.suggestion}'?" if self.suggestion else ": 'help' lists the commands"
        super().__init__(f"unknown command '{name}'{hint}", origin)


@dataclass(frozen=True)
class Call:
    """A command with its arguments. ``json`` asks for the reply in JSON, ``no`` that ``no`` stood in front."""

    command: Command
    arguments: Arguments = field(default_factory=dict)
    no: bool = False
    json: bool = False
    origin: str = ""

    def error(self, message: str) -> ScriptError:
        """An error about this call."""
        name = f"no {self.command.name}" if self.no else self.command.name
        return ScriptError(f"{name}: {message}", self.origin)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


def words_of(line: str) -> list[str]:
    """The words of a line without its comment. Raises ValueError at an open quote."""
    words, position = [], 0
    line = line.rstrip().removeprefix("\ufeff")  # a byte order mark, which editors leave
    while position < len(line):
        match = _WORD.match(line, position)
        if match is None:
            break
        quoted, comment, plain, bad = match.groups()
        if comment is not None:
            break
        if bad is not None:
            raise ValueError(f"{bad}: a quoted word must end with a double quote and a blank")
        words.append(re.sub(r'\\(["\\])', r"\1", quoted) if quoted is not None else plain)
        position = match.end()
    return words


def parse_line(line: str, origin: str = "") -> Call | None:
    """Read one line; None when it is empty or a comment. Raises ScriptError."""
    try:
        words = words_of(line)
    except ValueError as error:
        raise ScriptError(str(error), origin) from None
    return parse_words(words, origin) if words else None


def parse_words(words: list[str], origin: str = "") -> Call:
    """Read the words of one command. Raises ScriptError."""
    no = words[0] == "no"
    if no:
        words = words[1:]
        if not words:
            raise ScriptError("no: expected the name of a command", origin)
    command = COMMANDS.get(words[0])
    if command is None:
        raise UnknownCommand(words[0], origin)
    parse = command.parse_no if no else command.parse
    if parse is None:
        raise ScriptError(f"no {command.name}: there is no such command: {command.usage}", origin)
    json = command.json and not no and words[-1] == "json" and len(words) > 1
    try:
        arguments = parse(words[1:-1] if json else words[1:])
    except ValueError as error:
        raise Call(command, no=no, origin=origin).error(str(error)) from None
    return Call(command, arguments, no, json, origin)


def asks_to_stay(line: str) -> bool:
    """Whether by this line a control client asks that its connection stay open."""
    try:
        return words_of(line) == ["stay"]
    except ValueError:
        return False


def parse_lines(lines: Iterable[str], name: str) -> list[Call]:
    """Read a script of configuring commands; ``include`` is followed. Raises ScriptError at the first wrong line."""
    return list(_calls(lines, name, ()))


def read_file(path: str) -> list[Call]:
    """Read a file of configuring commands, whole. Raises ScriptError when it can't be read or has a wrong line."""
    return list(_calls_of_file(path, "", ()))


def _calls_of_file(path: str, origin: str, including: tuple[str, ...]) -> Iterator[Call]:
    if path in including or len(including) >= MAX_INCLUDES:
        raise ScriptError(f"include: '{path}' is included by itself or more than {MAX_INCLUDES} deep", origin)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ScriptError(f"can't read the file '{path}': it is not a regular file", origin)
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ScriptError(f"can't read the file '{path}': {reason}", origin) from None
    yield from _calls(lines, path, (*including, path))


def _calls(lines: Iterable[str], name: str, including: tuple[str, ...]) -> Iterator[Call]:
    for number, line in enumerate(lines, 1):
        origin = f"{name}:{number}"
        call = parse_line(line, origin)
        if call is None:
            continue
        check_configures(call)
        if call.command.name == "include":
            yield from _calls_of_file(call["file"], origin, including)
        else:
            yield call


def check_configures(call: Call, hint: str = "") -> None:
    """Raises ScriptError, with a hint behind it, for a call that changes nothing: what only looks, and a setting
    without a value."""
    if not call.command.configures:
        raise call.error("this command can't stand in a configuration; it is for the control socket")
    setting = call.command.setting
    if setting is not None and not call.arguments:
        raise call.error(f"needs a value: {setting.name} {setting.kind.metavar}{hint}")


