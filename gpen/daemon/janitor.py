"""Periodic maintenance, once a second, in one greenlet, which ends with gpen only: whatever fails, the rest is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import gevent

from gpen.daemon.sessions import Sessions
from gpen.wire.faults import Faults
from gpen.wire.pacing import Pacer, gently

PERIOD = 1.0
VISITS = 5  # in a period, to sessions that are new
SLICE = 500  # sessions that are visited between two looks at the clock

Work = tuple[str, Callable[[], object]]  # what it is about, and what is to be done


def run(sessions: Sessions, works: Sequence[Work]) -> None:
    """Do these works for ever, and look after sessions that are new. Switches greenlets."""
    faults, newcomers = Faults(), _Newcomers(sessions)
    while True:
        for _ in range(VISITS):
            gevent.sleep(PERIOD / VISITS)
            faults.attempt("the janitor: new sessions", newcomers.visit)
        for name, work in works:
            faults.attempt(f"the janitor: {name}", work)


class _Newcomers:
    """Sessions that were there at the last visit already, and not at the one before: they are likely to last."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._newest = self._visited = -1  # numbers of the last session that was seen, and that was visited

    def visit(self) -> None:
        """Have the kernel watch over them. Switches greenlets when they are many."""
        seen = self._newest
        new = self._sessions.begun_since(self._visited)
        self._newest, self._visited = new[0].id if new else seen, seen
        for session in gently([session for session in new if session.id <= seen]):
            session.keep_alive()


def tend_sessions(sessions: Sessions) -> None:
    """Visit all sessions. Switches greenlets when they are many."""
    pacer = Pacer()
    now = time.monotonic()
    for number, session in enumerate(sessions, 1):
        try:
            session.tend(now)
        except Exception:
            session.failed()
        if number % SLICE == 0:
            pacer.pause()
            now = time.monotonic()
