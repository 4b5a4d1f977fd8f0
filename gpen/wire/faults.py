"""Work that is done again and again, for ever: whatever goes wrong in one piece of it costs that piece only.

Exceptions that nobody expected are told with their traceback, but not each time: a fault that shows itself once a
second would fill the diagnostics with one and the same.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

log = logging.getLogger("gpen")

QUIET = 60.0  # seconds without it, after which a fault is told again
OVER = 5.0  # seconds without it, after which a trouble has ended: it may come and go with each session


class Seldom:
    """What may come very often, and is told at first, and then once in QUIET seconds."""

    def __init__(self) -> None:
        self._told = -QUIET
        self._untold = 0

    def comes(self) -> str | None:
        """It comes once more: what is to be told behind it, of those before that were not told; None when it is not to
        be told now."""
        now = time.monotonic()
        if now - self._told < QUIET:
            self._untold += 1
            return None
        more = f" ({self._untold} more since that was told last)" if self._untold else ""
        self._told, self._untold = now, 0
        return more


_Fault = tuple[type[BaseException], int | None, str, int]


class Faults:
    """The faults that were told: one for each kind of exception and place in the sources."""

    def __init__(self) -> None:
        self._last: dict[_Fault, float] = {}

    def tell(self, what: str) -> None:
        """Tell that ``what`` failed by the exception that is being handled, unless that is known."""
        fault, now = _fault(), time.monotonic()
        last, self._last[fault] = self._last.get(fault), now
        if last is None or now - last > QUIET:
            log.exception("%s failed; that is told once", what)

    def attempt(self, what: str, work: Callable[[], object]) -> None:
        """Do a piece of work, which may fail. Switches greenlets if it does."""
        try:
            work()
        except Exception:
            self.tell(what)


class Troubles:
    """What this machine lacks, or forbids, for a while: each told when it begins, and when it has ended, however many
    sessions it fails."""

    def __init__(self) -> None:
        self._current: dict[str, _Trouble] = {}

    def tell(self, what: str) -> None:
        """That is so now."""
        trouble = self._current.get(what)
        if trouble is None:
            trouble = self._current[what] = _Trouble()
            log.warning("%s; told again when that is over", what)
        trouble.times += 1
        trouble.last = time.monotonic()

    def tend(self) -> None:
        """Tell what has ended; to be called each second."""
        now = time.monotonic()
        for what, trouble in list(self._current.items()):
            if now - trouble.last >= OVER:
                del self._current[what]
                times = "once" if trouble.times == 1 else f"{trouble.times} times"
                log.info("over, with nothing of the kind for %g s: %s (%s)", OVER, what, times)


class _Trouble:
    times = 0
    last = 0.0


def _fault() -> _Fault:
    """What the exception is that is being handled, and where it was raised."""
    error = sys.exc_info()[1]
    assert error is not None and error.__traceback__ is not None
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), getattr(error, "errno", None), trace.tb_frame.f_code.co_filename, trace.tb_lineno
