"""How a server is checked: the value of the setting ``check`` and of ``server N check``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gpen.model.text import quote

_AGENT = "agent"
_PORT = re.compile("[0-9]{1,5}")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPED = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


@dataclass(frozen=True)
class Check:
    """``kind`` is one of KINDS; the rest is what it needs, as it was written. ``agent`` is the port of the agent that
    is asked beside, or alone where the kind is off; 0 for none."""

    kind: str = "off"
    send: str = ""
    expect: str = ""
    program: str = ""
    agent: int = 0

    def __str__(self) -> str:
        if not self.agent:
            return self._own
        return f"{_AGENT} {self.agent}" if self.kind == "off" else f"{self._own} {_AGENT} {self.agent}"

    @property
    def _own(self) -> str:
        """What it is without its agent."""
        if self.kind == "send":
            return f"send {quote(self.send)} expect {quote(self.expect)}"
        return f"exec {quote(self.program)}" if self.kind == "exec" else self.kind

    @property
    def is_talk(self) -> bool:
        """Whether gpen itself talks with the server's program, and leaves without a login where one is due."""
        return self.kind in ("greeting", "send")

    @property
    def question(self) -> bytes:
        """The bytes to send."""
        return _unescaped(self.send)

    @property
    def answer(self) -> bytes:
        """The bytes that shall come back, somewhere in what does."""
        return _unescaped(self.expect)

    @property
    def command(self) -> list[str]:
        """The program with its arguments."""
        return shlex.split(self.program)


OFF = Check()
Take = Callable[[list[str]], tuple[Check, list[str]]]


def take_check(words: Sequence[str]) -> tuple[Check, list[str]]:
    """Read a check from the first words, and return it with the words behind it. Raises ValueError."""
    kind, *rest = words or [""]
    if kind not in KINDS:
        raise ValueError(f"'{kind}' is not a check: expected {USAGE}")
    check, rest = KINDS[kind].take(rest)
    if rest[:1] == [_AGENT] and not check.agent:
        beside, rest = _asking(rest[1:])
        check = replace(check, agent=beside.agent)
    return check, rest


def parse_check(words: Sequence[str]) -> Check:
    """Read a check from all of the words. Raises ValueError."""
    check, rest = take_check(words)
    if rest:
        raise ValueError(f"'{rest[0]}' is too much: expected {USAGE}")
    return check


def _bare(kind: str) -> Take:
    """A kind that needs nothing else."""
    return lambda words: (Check(kind), words)


def _sending(words: list[str]) -> tuple[Check, list[str]]:
    if len(words) < 3 or words[1] != "expect" or not words[2]:
        raise ValueError("expected send STRING expect STRING")
    for text in (words[0], words[2]):
        if not text.isprintable():
            raise ValueError(rf"{text!r}: control characters are written as \r, \n, \t, \0 and \xHH")
        _unescaped(text)
    return Check("send", send=words[0], expect=words[2]), words[3:]


def _executing(words: list[str]) -> tuple[Check, list[str]]:
    if not words:
        raise ValueError("expected exec PROGRAM")
    return Check("exec", program=parse_program(words[0])), words[1:]


def _asking(words: list[str]) -> tuple[Check, list[str]]:
    if not words:
        raise ValueError("expected agent PORT")
    return Check(agent=parse_port_number(words[0])), words[1:]


def parse_program(text: str) -> str:
    """Read a program with its arguments, which is written as a shell takes it. Raises ValueError."""
    try:
        program = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"'{text}': {str(error).lower()}") from None
    if not text.isprintable():
        raise ValueError(f"{text[:100]!r} has characters that can't be printed")
    if not program or not program[0].startswith("/"):
        raise ValueError(f"'{text}' does not begin with the absolute path of a program: expected /PATH, and what it "
                         "is given")
    return text


def parse_port_number(text: str) -> int:
    """Read a port where somebody can listen. Raises ValueError."""
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"'{text}' is not a port: expected 1 to 65535")
    return int(text)


def _unescaped(text: str) -> bytes:
    r"""The bytes of a string with \r, \n, \t, \0, \xHH and \\ in it. Raises ValueError."""
    pieces, position = [], 0
    for match in _ESCAPE.finditer(text):
        code = match[1]
        if code not in _ESCAPED and len(code) != 3:
            raise ValueError(rf"'{text}': '\{code}' is none of \r, \n, \t, \0, \xHH and \\")
        pieces += [text[position : match.start()].encode(), _ESCAPED.get(code) or bytes.fromhex(code[1:])]
        position = match.end()
    return b"".join([*pieces, text[position:].encode()])


class Kind(NamedTuple):
    """One kind of check: its usage, and what reads the words behind its name, and returns those behind it."""

    usage: str
    take: Take


# what each of them does is in wire/check.py
KINDS: dict[str, Kind] = {
    "off": Kind("off", _bare("off")),
    "connect": Kind("connect", _bare("connect")),
    "greeting": Kind("greeting", _bare("greeting")),
    "send": Kind("send STRING expect STRING", _sending),
    "exec": Kind("exec PROGRAM", _executing),
    _AGENT: Kind(f"{_AGENT} PORT", _asking),
}
USAGE = "|".join(kind.usage for kind in KINDS.values())
