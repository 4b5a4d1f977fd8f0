"""The watcher's log: stderr, a line for each change; and what nobody expected to go wrong."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from gpen.journal import ERROR, INFO, WARNING, has_stderr, marked
from gpen.model.text import printable, shortened

QUIET = 60.0  # seconds without it, after which a failure is told again


def say(line: str, urgency: int = INFO) -> None:
    """One line to the log, with the time in UTC where that is not the journal's; from any thread."""
    from gpen.control.reply import timestamp

    when = "" if has_stderr() else f"{timestamp(time.time())} "
    with suppress(OSError, ValueError):
        sys.stderr.write(marked(f"{when}{printable(line)}", urgency) + "\n")
        sys.stderr.flush()


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
