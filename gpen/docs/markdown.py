"""Text to Markdown, as GitHub and Python-Markdown both read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_BAR = r"\|"  # also within code
_MEANS_SOMETHING = re.compile(r"[\\`*\[\]<>]|(?<!\w)_|_(?!\w)")


def escape(text: str) -> str:
    """The text as it is, for a paragraph or a cell of a table."""
    return _MEANS_SOMETHING.sub(r"\\\g<0>", text)


def code(text: str) -> str:
    """The text as it is, as code within a paragraph."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def block(lines: Iterable[str]) -> str:
    """Lines that are not filled."""
    return "\n".join(f"    {line}".rstrip() for line in lines)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, whose cells are Markdown."""
    return "\n".join(_lines(heads, rows))


def _lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"
