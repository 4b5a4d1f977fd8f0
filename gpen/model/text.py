r"""How words and numbers are written: a word so that it is read back as it was, numbers short, and what somebody else
has said so that it can do no harm.

What comes from outside may hold anything: sequences that a terminal obeys, ends of lines that forge a line of a log,
marks that turn the direction of writing round. Two functions see to it, and nothing else in gpen does:

- ``shortened`` quotes such a text in a message. Its backslashes are doubled, so that ``\x1b`` there is a byte that was
  sent, and ``\\x1b`` four characters.
- ``printable`` is the last thing before a line leaves for stderr, syslog, the log, a terminal, a page or a reply. It
  leaves backslashes alone, so that twice does no more than once, and what was quoted stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

_ODD = re.compile(r"[^\x20-\x7e]")
# fillers, joiners, selectors of variants: letters and marks to Unicode, and so to str.isprintable, but not to the eye
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
                     "\U000e0100-\U000e01ef]")
_NEEDS_QUOTES = re.compile(r'[\s"\\#]')


def quote(word: str) -> str:
    """The word, in double quotes where it is empty or has blanks, quotes, backslashes or a #."""
    if word and not _NEEDS_QUOTES.search(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in order, what follows one another as a range: ``0-3, 7``; ``none`` when there is none."""
    runs = [[number for _, number in run] for _, run in
            groupby(enumerate(sorted(numbers)), key=lambda item: item[1] - item[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs) or "none"


def counted(number: int, noun: str) -> str:
    """So many of something: ``1 session``, ``2 sessions``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str | bytes, keep: str = "") -> str:
    r"""A text in characters that can be printed, and are seen; those of ``keep`` stay. Others are written as bytes of
    UTF-8, as in the logs of web servers: ``\x1b``, ``\xe2\x80\xae``; what is no UTF-8, as the byte that it is."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable():
        return text
    return _ODD.sub(lambda found: found[0] if found[0] in keep or _is_seen(found[0]) else _in_bytes(found[0]), text)


def shortened(text: str | bytes, most: int = 100) -> str:
    """What somebody else has said, as it may be quoted: see above. At most so many characters of it."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    more = "..." if len(text) > most else ""
    return printable(text[:most].replace("\\", "\\\\")) + more


def _is_seen(character: str) -> bool:
    return character.isprintable() and not _UNSEEN.match(character)


def _in_bytes(character: str) -> str:
    is_byte = "\udc80" <= character <= "\udcff"  # that was no UTF-8 (PEP 383)
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape" if is_byte
                                                                 else "surrogatepass"))
