"""Pipes for bytes in bulk, which go through them from one socket to another without being read (splice(2)).

They are few, and belong to nobody: an End takes one for what an event has brought, and gives it back when that is sent.
Only where the other side does not take all, what is left stays in the pipe, and that with the End, until it has gone.
"""

from __future__ import annotations

import errno

from gpen.wire.kernel import Pipe, monotonic

# Most bytes that are in a pipe. In MB for each second of CPU time, four streams over loopback, medians of 5 rounds on a
# busy machine, compiled: 1 MiB 2,816, 512 KiB 2,159, 256 KiB 2,064; 2 and 4 MiB, which only root may have, 1,600.
# Reading and sending, 1,320; pen, 1,190.
PIECE = 1 << 20
SIZES = (PIECE, PIECE // 4)  # of a pipe: the first that is to be had; smaller ones gain nothing
MOST = 64  # at one time. One user's pipes may have 64 MiB together (pipe-user-pages-soft in pipe(7))
_PAUSE = 1.0  # seconds until one is asked for again, when none was to be had


class Pipes:
    """The pipes of one poller. Those that are not needed stay open until nobody has needed them for a second."""

    def __init__(self) -> None:
        self.most = MOST
        self.used = 0  # were taken, and not given back
        self._free: list[Pipe] = []
        self._spare = 0  # how many of them nobody has taken since ``tend`` was called: the first ones
        self._again = 0.0  # when to ask the kernel again

    @property
    def free(self) -> int:
        """How many are open for nobody."""
        return len(self._free)

    def take(self) -> Pipe | None:
        """One that is empty; None when none is to be had."""
        pipe = self._free.pop() if self._free else self._opened()
        if pipe is not None:
            self.used += 1
            self._spare = min(self._spare, len(self._free))
        return pipe

    def _opened(self) -> Pipe | None:
        if self.used >= self.most or monotonic() < self._again:
            return None
        for size in SIZES:
            try:
                return Pipe(size)
            except OSError as error:
                if error.errno != errno.EPERM:
                    break
        self._again = monotonic() + _PAUSE
        return None

    def give(self, pipe: Pipe) -> None:
        """It is not needed any more. What is in it nobody shall get, so such a one is not used again."""
        self.used -= 1
        if len(pipe):
            pipe.close()
        else:
            self._free.append(pipe)

    def tend(self, most: int) -> None:
        """Close what was not needed of late; the janitor calls it each second. There are descriptors for so many at
        ``most``."""
        self.most = min(most, MOST)
        self._close(max(self._spare, self.used + len(self._free) - self.most))
        self._spare = len(self._free)

    def shed(self) -> bool:
        """Close all that nobody needs now; whether there was any."""
        had = bool(self._free)
        self._close(len(self._free))
        return had

    def _close(self, count: int) -> None:
        for pipe in self._free[:count]:
            pipe.close()
        del self._free[:count]
        self._spare = 0
