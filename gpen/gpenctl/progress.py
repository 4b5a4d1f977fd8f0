"""gpenctl's `drain` and `rebalance`: what the daemon tells each second, as one bar on a terminal, line by line
elsewhere."""

from __future__ import annotations

import re
import sys

from gpen.gpenctl.link import CUT, LinkError, follow
from gpen.gpenctl.show import View, out, show_reply
from gpen.model.text import printable
from gpen.usage import complain

PROGRESS = re.compile(r"(?:draining (server [0-9]{1,9})|rebalancing): ([0-9]{1,9}) sessions? left")
SILENCE = 5.0  # seconds in which a daemon that speaks each second must be heard, however short --timeout is
SHORTEST = 5  # characters of a bar that still shows something


def progress(line: str, view: View) -> int:
    """Send `line`, and show how it goes. The exit status: 0, or 1 when the daemon said error.

    Raises LinkError, also when the daemon ends before. Ctrl-C goes on up, and tells of a drain how to take the server
    back.
    """
    bar = Bar(view)
    server, status = "", -1
    try:
        for told in follow(view.target, line, view.timeout, max(view.timeout, SILENCE)):
            found = PROGRESS.match(told)
            if not found:
                bar.clear()
                status = show_reply(f"{told}\n", view)
                continue
            server = found[1] or ""
            if view.terminal and view.format == "table":
                bar.draw(told, int(found[2]))
            else:
                out(told, view)
    except KeyboardInterrupt:
        bar.clear()
        if server:
            back = f"gpenctl {view.target.text} {server} state ready"
            complain("gpenctl", f"{server} stays in state drain; to take it back: {back}")
        raise
    finally:
        bar.clear()
    if status < 0:
        raise LinkError(f"{view.target.text}: {CUT}")
    return status


class Bar:
    """One line of a terminal, drawn again and again: text, and a bar of the sessions that are gone."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.most = 0
        self.longest = 0
        self.drawn = 0

    def draw(self, text: str, left: int) -> None:
        """Show `text`; of the most sessions that ever were, so many are `left`."""
        text = printable(text)
        self.most = max(self.most, left, 1)
        self.longest = max(self.longest, len(text))
        width = self.view.width - 1  # in its last column a terminal may wrap
        room = width - self.longest - 3
        if room < SHORTEST:
            self.write(text[:width].ljust(width), width)
            return
        done = room * (self.most - left) // self.most
        gone = f"\x1b[32m{'#' * done}\x1b[0m" if self.view.color else "#" * done
        self.write(f"{text:<{self.longest}} [{gone}{'-' * (room - done)}]", width)

    def write(self, line: str, width: int) -> None:
        sys.stdout.write(f"\r{line}")
        sys.stdout.flush()
        self.drawn = width

    def clear(self) -> None:
        """An empty line, for what comes next."""
        if self.drawn:
            self.write(" " * self.drawn + "\r", 0)
