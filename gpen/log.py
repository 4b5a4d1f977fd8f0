"""The log of gpen-galera and gpen-discover: stderr, a line for each change; and what nobody expected to go wrong."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from gpen.journal import ERROR, INFO, WARNING, has_stderr, marked, timestamp
from gpen.model.text import printable, shortened

QUIET = 60.0  # seconds without it, after which a failure is told again
ROOM = 0.5  # seconds for whoever reads the log to catch up: then lines are lost, rather than that we stand still


def say(line: str, urgency: int = INFO) -> None:
    """One line to the log, with the time in UTC where that is not the journal's; from any thread."""
    when = "" if has_stderr() else f"{timestamp(time.time())} "
    with suppress(OSError, ValueError):
        _STDERR.write(marked(f"{when}{printable(line)}", urgency) + "\n")


class _Stderr:
    """stderr, of which nobody reads in time, perhaps, what is written there: then that is lost, and told later."""

    def __init__(self) -> None:
        self._lost = 0

    def write(self, text: str) -> None:
        """Raises OSError and ValueError."""
        if not self._has_room():
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            text = marked(f"lines of this log are lost, as nobody read them: {lost}", WARNING) + "\n" + text
        sys.stderr.write(printable(text, keep="\n"))
        sys.stderr.flush()

    def _has_room(self) -> bool:
        """Whether what is written does not have to wait. Who has lost a line waits no more for the next ones."""
        try:
            poll = select.poll()
            poll.register(sys.stderr.fileno(), select.POLLOUT)
        except (OSError, ValueError):
            return True  # it is none of the system's
        return bool(poll.poll(0 if self._lost else ROOM * 1000))


_STDERR = _Stderr()


def warn(line: str) -> None:
    """The same of something that somebody should look after."""
    say(line, WARNING)


def failure(error: BaseException) -> str:
    """An exception that nobody expected, in a few words: what it is, and where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}: {shortened(' '.join(str(error).split()))}"


class Faults:
    """Work that is done again and again, whatever goes wrong in one piece of it: that is told once, and costs that
    piece only. For one thread."""

    def __init__(self) -> None:
        self.standing: dict[str, str] = {}  # what failed when it was done last, and how
        self.count = 0  # of what failed, each time
        self._last: dict[str, float] = {}

    def attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Do a piece of work, and return whether it went well."""
        try:
            work()
            self.standing.pop(what, None)
            return True
        except Exception as error:
            text, now = f"{what} failed: {failure(error)}", time.monotonic()
            self.standing[what] = text
            self.count += 1
            last, self._last[text] = self._last.get(text), now
            if last is None or now - last > QUIET:
                say(f"{text}; it is tried again, and that is told once", ERROR)
            self._last = {text: at for text, at in self._last.items() if now - at <= QUIET}
            return False
