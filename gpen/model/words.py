"""How words and numbers are written: a word so that it is read back as it was, numbers short."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

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


def shortened(text: str, most: int = 100) -> str:
    """What somebody has sent, as it may be told: in one line, of characters that can be printed, and not at length."""
    safe = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return safe if len(safe) <= most else f"{safe[:most]}..."
