"""Numbers of servers in words: all, or single ones and ranges with commas between them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpen.model.text import ranges
from gpen.model.value_types import MOST

_RANGE = re.compile("([0-9]{1,10})(?:-([0-9]{1,10}))?")
_MOST_NUMBERS = 100_000


def parse_numbers(text: str) -> tuple[int, ...]:
    """Read numbers and ranges of them. Raises ValueError."""
    numbers: set[int] = set()
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MOST:
            raise ValueError(f"'{piece or text}' is not a number or a range of numbers: expected something like 0-2,5, "
                             "or all")
        if len(numbers) + last - first >= _MOST_NUMBERS:
            raise ValueError(f"'{text}' is more than {_MOST_NUMBERS:,} numbers")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def numbers_words(numbers: Sequence[int] | None) -> str:
    """Numbers of servers as they are written."""
    return "all" if numbers is None else ranges(numbers).replace(" ", "")
