"""gpenctl's `watch`: the tables of servers and listeners, drawn again and again, with their sessions and bytes a
second."""

from __future__ import annotations

import contextlib
import time

from gpen.gpenctl.feed import Feed
from gpen.gpenctl.rates import Rates
from gpen.gpenctl.screen import full_screen, redraw
from gpen.gpenctl.show import View, out, refused, seconds
from gpen.gpenctl.tables import table
from gpen.model.text import printable
from gpen.usage import UsageError

INTERVAL = 1.0  # seconds between two pictures


def watch(view: View, words: list[str]) -> int:
    """Show servers and listeners every so many seconds (`words`: at most their number) until Ctrl-C, which returns 0.

    While the daemon is away a line says so. Raises UsageError, and LinkError when it is away at the beginning.
    """
    pause = interval("watch", words)
    if view.format in ("json", "csv"):
        raise UsageError(
            f"watch shows tables only, not {view.format}; the command servers gives {view.format}"
        )
    picture = Picture(view)
    refused(view)
    try:
        with full_screen() if view.terminal else contextlib.nullcontext():
            while True:
                problem = picture.renew()
                frame = [heading(view, pause), *problem, *picture.text.split("\n")]
                redraw(frame) if view.terminal else out("\n".join([*frame, ""]), view, painted=True)
                time.sleep(pause)
    except KeyboardInterrupt:
        return 0


def interval(command: str, words: list[str]) -> float:
    """The seconds between two pictures that stand behind a command: `words`, if any. Raises UsageError."""
    if len(words) > 1:
        raise UsageError(f"{command}: expected at most a number of seconds, not {' '.join(words)!r}")
    return seconds(command, words[0]) if words else INTERVAL


class Picture:
    """The servers and, where one has a name, the listeners, with what has come since the last look."""

    def __init__(self, view: View) -> None:
        self.text = ""
        self._view = view
        self._feed = Feed(view)
        self._servers, self._listeners = Rates(), Rates()

    def renew(self) -> list[str]:
        """Ask the daemon. Where it tells nothing new, the text stays, and the line that says why is returned."""
        view, look = self._view, self._feed.look("listeners")
        if look.problem:
            return [warning(look.problem, view)]
        servers, listeners = look.of("servers"), look.of("listeners")
        self._servers.add(servers, look.when)
        self.text = table("servers", servers, view.width, view.color)
        if any(listener.get("name") for listener in listeners):
            self._listeners.add(listeners, look.when)
            self.text += f"\n\n{table('listeners', listeners, view.width, view.color)}"
        return []


def warning(text: str, view: View) -> str:
    return f"\x1b[31m{printable(text)}\x1b[0m" if view.color else printable(text)


def heading(view: View, pause: float) -> str:
    end = ", Ctrl-C ends" if view.terminal else ""
    return f"{time.strftime('%H:%M:%S')}  {printable(view.target.text)}  every {pause:g} s{end}"
