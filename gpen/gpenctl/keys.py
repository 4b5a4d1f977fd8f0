"""The keys of a terminal: what it sends when they are pressed, and their names. Pure."""

from __future__ import annotations

import re

NAMES = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"\x1b[C": "right", b"\x1bOC": "right",
    b"\x1b[D": "left", b"\x1bOD": "left", b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home", b"\x1b[F": "end",
    b"\x1bOF": "end", b"\x1b[4~": "end", b"\x1b[5~": "page up", b"\x1b[6~": "page down", b"\r": "enter", b"\n": "enter",
    b" ": "space", b"\x0c": "redraw",  # Ctrl-L
    b"\x1b": "escape",
}
_KEY = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\[O\x1b]|(?=\x1b))|[^\x1b]", re.DOTALL)


class Keys:
    """Bytes to names of keys. One sequence may come in pieces; Escape is one that has no more than its beginning."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_open(self) -> bool:
        """Whether more may belong to what has come, and `escaped` has to be called when nothing does."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are whole with these bytes: letters and signs by themselves, others by NAMES; one that has no
        name is left out."""
        text, found, end = self._rest + data, [], 0
        while match := _KEY.match(text, end):
            found.append(match[0])
            end = match.end()
        self._rest = text[end:]
        return [name for name in map(_name, found) if name]

    def escaped(self) -> list[str]:
        """What the bytes meant, to which nothing has been added."""
        rest, self._rest = self._rest, b""
        return ["escape"] if rest else []


def _name(key: bytes) -> str:
    if key in NAMES:
        return NAMES[key]
    return key.decode("ascii") if len(key) == 1 and 0x20 < key[0] < 0x7f else ""
