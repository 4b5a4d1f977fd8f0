"""Text to the language of man pages (man(7))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator


def escape(text: str) -> str:
    """The text as it is, for a line that shows it."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def term(name: str, text: str) -> tuple[str, str, str]:
    """An item of a list: a word in bold, and what is said of it."""
    return ".TP", rf"\fB{escape(name)}\fR", escape(text)


def terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of such items."""
    for name, text in rows:
        yield from term(name, text)


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs are filled, unless they are indented: those are to be copied."""
    for paragraph in re.split(r"\n\n+", text.strip("\n")):
        if paragraph.startswith("    "):
            yield from as_it_is(line.strip() for line in paragraph.splitlines())
        else:
            yield from (".PP", escape(" ".join(paragraph.split())))


def as_it_is(lines: Iterable[str]) -> list[str]:
    """Lines that are not filled, a little to the right."""
    return [".PP", ".RS 4", ".nf", *(escape(line) for line in lines), ".fi", ".RE"]
