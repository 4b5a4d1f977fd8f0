"""Something that is to be done once, in a while: a timer of gevent's loop that can be put off.

A callback of gevent's from which an exception leaves is not called any more, and whoever counts on it waits for ever.
So none leaves an Alarm: what has failed is told, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpen.wire.faults import Faults

AGAIN_SECONDS = 0.1  # until it rings once more, when what it was for has failed

_FAULTS = Faults()  # of all of them: a fault is told once


class Alarm:
    """Calls ``act`` once, in so many seconds, as alarm(2) has it: one that is set anew is put off."""

    __slots__ = ("_act", "_loop", "_timer", "_what")

    def __init__(self, loop: Any, what: str, act: Callable[[], object]) -> None:
        """``loop`` is gevent's. ``act`` runs in the hub and must not switch greenlets; it may set the alarm again, or
        stop it. ``what`` it is for, in words, where it fails."""
        self._loop = loop
        self._what = what
        self._act = act
        self._timer: Any = None

    @property
    def is_set(self) -> bool:
        """Whether it is yet to ring; not any more while ``act`` runs."""
        return self._timer is not None

    def set(self, seconds: float) -> None:
        """Ring in so many seconds from now, and not when it was to before. 0: in the next turn of the loop."""
        self.stop()
        self._timer = self._loop.timer(seconds)
        self._timer.start(self._ring)

    def stop(self) -> None:
        """Do not ring. A second call does nothing."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _ring(self) -> None:
        self.stop()
        try:
            self._act()
        except Exception:
            _FAULTS.tell(self._what)
            if not self.is_set:
                self.set(AGAIN_SECONDS)
