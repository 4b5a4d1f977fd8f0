"""gpenctl's `watch`: the tables of servers and listeners, drawn again and again, with their sessions and bytes a
second."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from gpen.gpenctl.link import LinkError
from gpen.gpenctl.show import View, failed, fetch, out, refused, seconds
from gpen.gpenctl.tables import Record, records, table
from gpen.model.text import printable
from gpen.usage import UsageError

# Alternate screen, no cursor, no line wrap; and all that back.
OPEN, CLOSE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

INTERVAL = 1.0  # seconds between two pictures


def watch(view: View, words: list[str]) -> int:
    """Show servers and listeners every so many seconds (`words`: at most their number) until Ctrl-C, which returns 0.

    While the daemon is away a line says so. Raises UsageError, and LinkError when it is away at the beginning.
    """
    pause = interval(words)
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


def interval(words: list[str]) -> float:
    if len(words) > 1:
        raise UsageError(f"watch: expected at most a number of seconds, not {' '.join(words)!r}")
    return seconds("watch", words[0]) if words else INTERVAL


class Picture:
    """The servers and, where one has a name, the listeners, with what has come since the last look."""

    def __init__(self, view: View) -> None:
        self.text = ""
        self._view = view
        self._servers, self._listeners = Rates(), Rates()
        self._has_listeners = True  # as long as the daemon, which may be a pen, has not said that it knows none

    def renew(self) -> list[str]:
        """Ask the daemon. Where it tells nothing new, the text stays, and the line that says why is returned."""
        view = self._view
        try:
            reply, value = refused(view), None
            if not reply:
                reply, value = fetch("servers", view)
            listeners = self._ask_listeners() if value is not None else []
        except LinkError as error:
            self._has_listeners = True  # what answers next may be another
            return [warning(str(error), view)]
        if value is None:
            return [warning(reply.strip() if failed(reply) else "the daemon sent no list of servers", view)]
        servers = records("servers", value)
        self._servers.add(servers, time.monotonic())
        self.text = table("servers", servers, view.width, view.color)
        if any(listener.get("name") for listener in listeners):
            self._listeners.add(listeners, time.monotonic())
            self.text += f"\n\n{table('listeners', listeners, view.width, view.color)}"
        return []

    def _ask_listeners(self) -> list[Record]:
        """The listeners; none of a daemon that knows no such thing. Raises LinkError."""
        _, value = fetch("listeners", self._view) if self._has_listeners else ("", None)
        self._has_listeners = value is not None
        return records("listeners", value)


def warning(text: str, view: View) -> str:
    return f"\x1b[31m{printable(text)}\x1b[0m" if view.color else printable(text)


def heading(view: View, pause: float) -> str:
    end = ", Ctrl-C ends" if view.terminal else ""
    return f"{time.strftime('%H:%M:%S')}  {printable(view.target.text)}  every {pause:g} s{end}"


class Rates:
    """Sessions and bytes a second of each server, or listener: the difference between two looks."""

    def __init__(self) -> None:
        self.before: dict[str, tuple[float, float]] = {}
        self.when = 0.0

    def add(self, servers: list[Record], now: float) -> None:
        """Give each of them its `session_rate` and `byte_rate` since the last call; `now` in seconds."""
        counts = {identity(server): counters(server) for server in servers}
        for server in servers:
            name = identity(server)
            if name in self.before and now > self.when:
                sessions, transferred = (
                    (new - old) / (now - self.when)
                    for new, old in zip(counts[name], self.before[name], strict=True)
                )
                if sessions >= 0 and transferred >= 0:  # else the daemon started anew
                    server["session_rate"] = sessions if "total" in server else None
                    server["byte_rate"] = transferred
        self.before, self.when = counts, now


def identity(server: Record) -> str:
    return f"{server.get('number')} {server.get('name')} {server.get('address')}"


def counters(server: Record) -> tuple[float, float]:
    total, sent, received = (
        value if isinstance(value, (int, float)) else 0 for value in map(server.get, ("total", "sx", "rx"))
    )
    return total, sent + received


@contextlib.contextmanager
def full_screen() -> Iterator[None]:
    """The terminal's second screen, without a cursor; the first one comes back however this ends."""
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    sys.stdout.write(OPEN)
    try:
        yield
    finally:
        sys.stdout.write(CLOSE)
        sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def redraw(lines: list[str]) -> None:
    """Over the old frame, without clearing first: no flicker. What does not fit below is counted."""
    height = shutil.get_terminal_size().lines - 1  # the cursor rests in the last line
    if len(lines) > height:
        lines = [*lines[: height - 1], f"... and {len(lines) - height + 1} more lines: the window is too low"]
    # A line is erased before it is written: afterwards the cursor may stand on its last character.
    sys.stdout.write(HOME + "".join(f"{ERASE_LINE}{line}\n" for line in lines) + ERASE_BELOW)
    sys.stdout.flush()
