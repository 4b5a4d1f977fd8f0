"""What bars and graphs on a terminal are made of, and where that may be blocks. Pure, but for the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence


class Signs:
    """Blocks and arrows, or what every terminal has."""

    def __init__(self, are_plain: bool = False) -> None:
        self._full, self._empty = "#-" if are_plain else "━─"
        self._levels = " .:-=+*#" if are_plain else " ▁▂▃▄▅▆▇█"
        self.selected = ">" if are_plain else "▶"
        self.descending, self.ascending = "v^" if are_plain else "▼▲"
        self.dot = "|" if are_plain else "·"
        self.cut = "~" if are_plain else "…"

    def bar(self, part: float, width: int) -> tuple[str, str]:
        """The full and the empty piece of a bar so wide, of which a part (0 to 1) is full."""
        full = min(width, max(round(part * width), 1 if part else 0))
        return self._full * full, self._empty * (width - full)

    def graph(self, figures: Sequence[float], highest: float) -> str:
        """A character a figure; those that are more than 0 can be seen."""
        top = len(self._levels) - 1
        return "".join(self._levels[min(top, max(1, round(top * figure / highest))) if figure > 0 else 0]
                       for figure in figures)


def lacks_blocks() -> bool:
    """Whether the terminal may have none: Linux' console, and one that is said not to speak UTF-8."""
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    encoding = locale.partition(".")[2].lower().replace("-", "")
    return os.environ.get("TERM") == "linux" or (bool(encoding) and not encoding.startswith("utf8"))
