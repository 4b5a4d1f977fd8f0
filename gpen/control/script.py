"""Lines to calls: the grammar of the control language, the same at the command line, in files and on the socket.

A line is words between blanks; a word may stand in double quotes, with backslash before a quote or backslash; a word
that begins with # begins a comment. Each call keeps where it came from, so that an error can say so.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpen.control.commands import ACCESS, COMMANDS, SCOPED, Arguments, Command, advice
from gpen.model.address import Address
from gpen.model.text import shortened
from gpen.model.value_types import UNNAMED, listener_prefix, parse_listener

MAX_INCLUDES = 8
MAX_FILE = 1 << 20  # bytes of one file
MAX_LINES = 100_000  # of all files together that are read at one time
MAX_ERRORS = 100  # that are told
LONGEST_TOLD = 200  # characters of a word in an error
_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|(#.*)|([^\s"]\S*)|(\S.*))')


class ScriptError(Exception):
    """A command that can't be run: one line that names where it stands, the value, and what was expected."""

    def __init__(self, message: str, origin: str = "") -> None:
        super().__init__(f"{origin}: {message}" if origin else message)
        self.origin = origin
        self.server: str = ""  # the number of the server that it leaves unmade

    @property
    def errors(self) -> Sequence[ScriptError]:
        """Each by itself, where there are several."""
        return (self,)

    def told(self) -> list[str]:
        """What is told of it: a line each, and of very many how many more there are."""
        errors = self.errors
        more = len(errors) - MAX_ERRORS
        return [*map(str, errors[:MAX_ERRORS]), *([f"and {more:,} more errors"] if more > 0 else [])]


class ScriptErrors(ScriptError):
    """Several things that are wrong."""

    def __init__(self, errors: Iterable[ScriptError]) -> None:
        self._errors = [single for error in errors for single in error.errors]
        super().__init__("")

    def __str__(self) -> str:
        return "\n".join(self.told())

    @property
    def errors(self) -> Sequence[ScriptError]:
        return self._errors


class Errors:
    """What is wrong, gathered on the way, so that all of it is told."""

    def __init__(self) -> None:
        self._errors: list[ScriptError] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, error: ScriptError) -> None:
        self._errors.append(error)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """What raises ScriptError here is gathered, and what stands behind the block goes on."""
        try:
            yield
        except ScriptError as error:
            self.add(error)

    def told(self) -> list[str]:
        """See ScriptError."""
        return ScriptErrors(self._errors).told()

    def raise_all(self) -> None:
        """Raises ScriptErrors if there are any."""
        if self._errors:
            raise ScriptErrors(self._errors)


class NotInOurLanguage(ScriptError):
    """A line that has no command in it."""

    @property
    def discreet(self) -> ScriptError:
        """The same for those who may not know the line: it may be of a file that is no configuration at all."""
        return ScriptError("it does not begin with a command of gpen", self.origin)


class UnknownCommand(NotInOurLanguage):
    """The first word of the line is no command."""

    def __init__(self, name: str, origin: str = "") -> None:
        super().__init__("", origin)
        self.name = name

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin else ""
        told = advice(self.name)  # looked for when it is asked: it takes 200 us
        meant = f"; {told}" if told else ": 'help' lists the commands, and so does gpenctl(1)"
        return f"{place}unknown command '{shortened(self.name)}'{meant}"


@dataclass(frozen=True)
class Call:
    """A command with its arguments. ``json`` asks for the reply in JSON, ``no`` that ``no`` stood in front;
    ``listener`` is the one that it is said for, empty when none was named."""

    command: Command
    arguments: Arguments = field(default_factory=dict)
    no: bool = False
    json: bool = False
    origin: str = ""
    listener: str = ""

    @property
    def asks(self) -> bool:
        """Whether it would set something, if it had arguments, and asks for that without."""
        is_settable = self.command.setting is not None or self.command.name == "servers"
        return is_settable and not (self.arguments or self.no)

    @property
    def access(self) -> str:
        """What a client must be allowed to do to say it, one of ACCESS."""
        if self.asks:
            return ACCESS[0]
        if self.command.name == "inherit" and self["setting"] is None:
            return SCOPED["server"].access  # it undoes what that says
        return self.command.access

    def error(self, message: str) -> ScriptError:
        """An error about this call."""
        name = f"no {self.command.name}" if self.no else self.command.name
        return ScriptError(f"{listener_prefix(self.listener)}{name}: {message}", self.origin)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def refuse_elsewhere(self, address: Address | None) -> None:
        """Raises ScriptError when the command is for a server ``at`` another address than the one with its number."""
        wanted = self.arguments.get("at")
        if wanted is not None and wanted != address:
            raise self.error(f"the server with this number is at {address or 'no address'}, not at {wanted}: nothing "
                             "is changed")


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
        raise NotInOurLanguage(str(error), origin) from None
    return parse_words(words, origin) if words else None


def parse_words(words: list[str], origin: str = "") -> Call:
    """Read the words of one command. Raises ScriptError."""
    if words[0] == "listener" and len(words) > 1:
        return _parse_scoped(words[1], words[2:], origin)
    return _parse(words, COMMANDS, origin, "")


def _parse_scoped(name: str, words: list[str], origin: str) -> Call:
    """Read what stands behind ``listener NAME``."""
    if name == UNNAMED:
        raise ScriptError(f"listener {name}: it is the one without a name: say the command without 'listener {name}'",
                          origin)
    try:
        listener = parse_listener(name)
    except ValueError as error:
        raise ScriptError(f"listener: {error}", origin) from None
    if not words:
        raise ScriptError(f"listener {listener}: expected a command behind the name: listener {listener} listen "
                          "[HOST:]PORT, say", origin)
    said = words[1] if words[0] == "no" and len(words) > 1 else words[0]
    if said not in SCOPED and words != ["no"]:
        raise ScriptError(f"listener {listener}: {_why_not_scoped(said, listener)}", origin)
    return _parse(words, SCOPED, origin, listener)


def _why_not_scoped(name: str, listener: str) -> str:
    """Why this is no command behind ``listener NAME``."""
    if name in COMMANDS:
        return f"{name}: it is of the whole gpen, not of one listener: say it without 'listener {listener}'"
    told = advice(name, SCOPED)
    meant = f"; {told}" if told else ": 'help listener' tells what may stand there"
    return f"unknown command '{shortened(name)}'{meant}"


def _parse(words: list[str], commands: Mapping[str, Command], origin: str, listener: str) -> Call:
    no = words[0] == "no"
    if no:
        words = words[1:]
        if not words:
            scope = listener_prefix(listener)
            raise ScriptError(f"{scope}no: expected the name of a command", origin)
    command = commands.get(words[0])
    if command is None:
        raise UnknownCommand(words[0], origin)
    parse = command.parse_no if no else command.parse
    if parse is None:
        usage = command.usage.replace("listener NAME", f"listener {listener}")
        raise Call(command, no=no, origin=origin, listener=listener).error(f"there is no such command: {usage}")
    json = command.json and not no and words[-1] == "json" and len(words) > 1
    try:
        arguments = parse(words[1:-1] if json else words[1:])
    except ValueError as error:
        problem = Call(command, no=no, origin=origin, listener=listener).error(_told(error, words))
        if command.name == "server" and "address" in words[2:]:
            problem.server = words[1]
        raise problem from None
    return Call(command, arguments, no, json, origin, listener)


def _told(error: ValueError, words: Iterable[str]) -> str:
    """What is wrong with these words, of which those that nobody would read to their end are cut."""
    text = str(error)
    for word in words:
        if len(word) > LONGEST_TOLD:
            text = text.replace(word, f"{word[:LONGEST_TOLD]}...")
    return text


def parse_configuring(line: str, origin: str, hint: str = "") -> Call | None:
    """Read a line of a configuration; None when it is empty. Raises ScriptError, with a hint behind it, also for what
    changes nothing: what only looks, and a setting without a value."""
    call = parse_line(line, origin)
    if call is None:
        return None
    if not call.command.configures:
        raise call.error("this command can't stand in a configuration; it is for the control socket")
    setting = call.command.setting
    if call.asks:
        what = f"{setting.name} {setting.kind.metavar}" if setting is not None else "servers NUMBERS, or all"
        raise call.error(f"needs a value: {what}{hint}")
    return call


def asks_to_stay(line: str) -> bool:
    """Whether by this line a control client asks that its connection stay open."""
    try:
        return words_of(line) == ["stay"]
    except ValueError:
        return False


Step = Call | ScriptError  # what a line of a script is: a command, or what is wrong with it


def attempt(parse: Callable[[], Call | None]) -> Iterator[Step]:
    """What ``parse`` returns, or what it raises; nothing for a line that is empty."""
    try:
        call = parse()
    except ScriptError as error:
        yield error
        return
    if call is not None:
        yield call


def read_lines(lines: Iterable[str], name: str) -> Iterator[Step]:
    """Read a script of configuring commands, line by line; ``include`` is followed."""
    return _Reader().lines(lines, name, ())


def read_file(path: str, locate: Callable[[str], str] = str) -> Iterator[Step]:
    """Read a file of configuring commands, line by line. Where it can't be read, that is the only step. ``locate``
    gives the name that a file has from within a chroot."""
    return _Reader(locate).file(path, "", ())


class _Reader:
    """Reads a file and what it includes, within limits: whoever may say ``include`` may not keep gpen busy."""

    def __init__(self, locate: Callable[[str], str] = str) -> None:
        self._locate = locate
        self._lines_left = MAX_LINES

    def file(self, path: str, origin: str, including: tuple[str, ...]) -> Iterator[Step]:
        try:
            name = _real_name(self._locate(path), path, origin)
            if name in including or len(including) >= MAX_INCLUDES:
                raise ScriptError(f"include: '{path}' is included by itself or more than {MAX_INCLUDES} deep", origin)
            text = _text_of(path, name, origin)
        except ScriptError as error:
            yield error
            return
        yield from self.lines(text.split("\n"), path, (*including, name))

    def lines(self, lines: Iterable[str], name: str, including: tuple[str, ...]) -> Iterator[Step]:
        for number, line in enumerate(lines, 1):
            if self._lines_left <= 0:
                return
            self._lines_left -= 1
            origin = f"{name}:{number}"
            if not self._lines_left:
                yield ScriptError(f"too many lines: at most {MAX_LINES:,}, with those of all included files", origin)
                return
            yield from self._steps(line, origin, including)

    def _steps(self, line: str, origin: str, including: tuple[str, ...]) -> Iterator[Step]:
        for step in attempt(lambda: parse_configuring(line, origin)):
            if isinstance(step, Call) and step.command.name == "include":
                yield from self.file(step["file"], origin, including)
            else:
                yield step


def _real_name(name: str, path: str, origin: str) -> str:
    try:
        return os.path.realpath(name)
    except (OSError, ValueError) as error:  # a working directory that is gone, a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ScriptError(f"can't read the file '{path}': {reason}", origin) from None


def _text_of(path: str, name: str, origin: str) -> str:
    """The text of a file, which was given as ``path`` and has this ``name``. Raises ScriptError, which says nothing of
    what is in it."""
    try:
        return _read_regular(name).decode()
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    except OSError as error:
        reason = error.strerror or str(error)
    raise ScriptError(f"can't read the file '{path}': {reason}", origin)


def _read_regular(path: str) -> bytes:
    """The bytes of a regular file that is not too large. Does not wait for anything but a disk. Raises OSError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        data = bytearray()
        while len(data) <= MAX_FILE:
            piece = file.read(MAX_FILE + 1 - len(data))
            if piece is None:
                raise OSError(errno.EAGAIN, "it has nothing to read yet, as no regular file does")
            if not piece:
                return bytes(data)
            data += piece
    raise OSError(errno.EFBIG, f"it is larger than {MAX_FILE >> 20} MiB")
