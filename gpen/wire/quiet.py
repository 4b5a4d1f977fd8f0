"""Sessions that are to end between two exchanges, and never within one: each goes on until it is quiet.

A session of TCP is quiet when the last bytes came from its server, all of them have been taken, and ``quiet`` seconds
have passed. There is one Quieter in a process: in the main process for what is served there, and in each worker for
what that one serves. Who is to end is looked at by a timer, so that it costs the relay nothing; and when nobody is,
there is no timer.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from typing import Any

from gpen.model.ending import Ending
from gpen.model.lease import Lease
from gpen.wire.alarm import Alarm
from gpen.wire.conversation import Conversation
from gpen.wire.pacing import PAUSE, TURN
from gpen.wire.relay import End

LOOK_SECONDS = 0.02  # to the next look at all of them
_REST = 9  # times as long as the last look took, at least: where they are thousands


class Quieter:
    """Ends sessions when they are quiet."""

    def __init__(self, loop: Any) -> None:
        """``loop`` is gevent's."""
        self._alarm = Alarm(loop, "to end sessions that are quiet", self._look)
        self._wanted: dict[Conversation, tuple[Lease | None, Ending]] = {}
        self._left: list[Conversation] = []  # that this look has yet to come to
        self._spent = 0.0  # seconds that it has taken

    def __len__(self) -> int:
        """How many sessions are yet to end."""
        return len(self._wanted)

    def take(self, session: Conversation, ending: Ending) -> None:
        """End this one when it is quiet, which is served by this process."""
        if not self._alarm.is_set:
            self._alarm.set(LOOK_SECONDS)
        self._wanted[session] = session.lease, ending

    def drop(self, session: Conversation) -> None:
        """Let this one go on, which is served by this process."""
        self._wanted.pop(session, None)

    def _look(self) -> None:
        """In the hub, as all that moves bytes: what is seen here is true until the session has ended. In turns, for
        others wait meanwhile: to end 2,000 sessions takes 100 ms."""
        began = time.monotonic()
        if not self._left:
            self._left, self._spent = list(self._wanted), 0.0
        while self._left and time.monotonic() - began < TURN:
            session = self._left.pop()
            try:
                self._see_to(session, began)
            except Exception:
                self._wanted.pop(session, None)
                session.failed()
        self._spent += time.monotonic() - began
        if self._left:
            self._alarm.set(PAUSE)
        elif self._wanted:
            self._alarm.set(max(LOOK_SECONDS, _REST * self._spent))

    def _see_to(self, session: Conversation, now: float) -> None:
        if session not in self._wanted:
            return  # spared meanwhile
        lease, ending = self._wanted[session]
        if session.finished or (session.lease is not lease and lease is not None):
            del self._wanted[session]
        elif lease is None:
            self._wanted[session] = session.lease, ending  # a worker may not have taken up yet what it was told
        elif session.is_quiet(now):
            del self._wanted[session]
            session.part(ending)


def has_fallen_quiet(down: End, up: End, seconds: float, now: float) -> bool:
    """Whether no exchange is under way between a client's End and a server's, as far as bytes and the time tell: the
    last bytes came from the server so many seconds ago, and all is still since; or nothing was said at all."""
    return (up.active > down.active if up.received else not down.received) and is_still(down, up, seconds, now)


def is_still(down: End, up: End, seconds: float, now: float) -> bool:
    """Whether nothing has moved for so long between them, nothing is on its way, and no side has ended."""
    return (now - max(up.active, down.active) >= seconds
            and not any(end.eof or end.deaf or end.has_parted for end in (down, up))
            and up.pending is None and down.pending is None
            and not (down.unacknowledged() or unread(down) or unread(up)))


def unread(end: End) -> bool:
    """Whether bytes have come that nobody has read, though no event may have told of it yet."""
    count: int = struct.unpack("i", fcntl.ioctl(end.fd, termios.FIONREAD, b"\0\0\0\0"))[0]
    return count > 0 or end.stream.has_more
