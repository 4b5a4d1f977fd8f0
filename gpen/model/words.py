"""How a word of the control language is written so that it is read back as it was."""

from __future__ import annotations

import re

_NEEDS_QUOTES = re.compile(r'[\s"\\#]')


def quote(word: str) -> str:
    """The word, in double quotes where it is empty or has blanks, quotes, backslashes or a #."""
    if word and not _NEEDS_QUOTES.search(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
