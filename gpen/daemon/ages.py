"""The setting session_max_age: sessions that have lasted for so long end when they are quiet."""

from __future__ import annotations

import time
from collections.abc import Iterable

from gpen.daemon.front import Front
from gpen.daemon.sessions import Sessions
from gpen.model.ending import Ending
from gpen.model.evenly import evenly
from gpen.wire.conversation import Conversation
from gpen.wire.pacing import gently

JITTER = 0.1  # of the age, by which sessions end earlier, each by another part of it


def age_limit(number: int, seconds: float) -> float:
    """The age at which the session of this number ends, where the setting is so many seconds: of those that began one
    after the other, as a pool's, the limits lie evenly."""
    return seconds * (1 - JITTER * evenly(number))


class Ages:
    """Ends those that are too old."""

    def __init__(self, listeners: Iterable[Front], sessions: Sessions) -> None:
        self._listeners = listeners
        self._sessions = sessions
        self._old: set[Conversation] = set()  # that are to end

    def tend(self) -> None:
        """Look who is too old now; one that is no more, for the setting has changed, goes on. Switches greenlets when
        they are many."""
        if not self._old and not any(front.settings.session_max_age for front in self._listeners):
            return
        now = time.monotonic()
        old = {session for session in gently(list(self._sessions)) if _is_old(session, now)}
        before, self._old = self._old, old
        for session in gently(before | old):
            if session.finished:
                continue
            if session not in old:
                session.spare()
            elif session in before:  # a drain that was given up may have spared it
                session.end_when_quiet(Ending.MAX_AGE)
            else:
                session.move_when_quiet(Ending.MAX_AGE)


def _is_old(session: Conversation, now: float) -> bool:
    settings = session.front.settings
    return bool(settings.session_max_age and not settings.udp and session.connected and not session.finished
                and session.age(now) >= age_limit(session.id, settings.session_max_age))
