"""Follows what a MySQL client and its server say (proto/mysql_talk.py), where a session shall end between exchanges.

At the beginning of a session it is there until the login is over, for that tells how all else is to be read, and
whether it can be: not where it is encrypted or compressed. Then it is gone, and the relay is as fast as any; until the
session is to end. What it sees from then on begins in the midst of things, so a session that is at rest as far as time
tells is not known to be: a transaction may be open. Only the server knows, so it is asked, by a COM_PING of our own:
its OK tells the status, and does not reach the client.

If the server was but slow, in the middle of an answer, its OK comes behind the rest of that. Then the client is not
read until it is found: the server says nothing behind it, for it is asked nothing.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from contextlib import suppress

from gpen.proto.mysql_talk import Login, Talk
from gpen.proto.protocol import Farewell, Protocol, ServerFirst
from gpen.wire.alarm import Alarm
from gpen.wire.quiet import has_fallen_quiet, is_still
from gpen.wire.relay import End, Move

_PING, _QUIT = b"\1\0\0\0\x0e", b"\1\0\0\0\1"
_OK = b"\7\0\0\1\0\0\0"  # to a ping; status and warnings are behind it
_OK_BYTES, _STATUS = 11, slice(7, 9)
_MOST_ERROR = 1024  # bytes of an error
_SHORTER = 10  # times: the pause that is enough behind the end of a transaction
_LONGER = 4  # times: the pause where its client is about to say more
_LATE_SECONDS = 0.5  # in which nothing comes behind a late answer

Hear = Callable[[memoryview], bool]


class Ear:
    """Hears what comes from an End, as long as ``hear`` says that it wants more."""

    __slots__ = ("_further", "_hear")

    def __init__(self, end: End, hear: Hear) -> None:
        self._hear = hear
        self._further = end.tap
        end.tap = self._take

    def _take(self, end: End, data: memoryview) -> None:
        if not self._hear(data) and end.tap == self._take:
            end.tap = self._further
        if self._further is not None:
            self._further(end, data)


class Follower(ServerFirst):
    """The protocol of one session, from the moment that it has a server."""

    def __init__(self, protocol: Protocol, down: End, up: End) -> None:
        """``protocol`` is that of its listener. Client and server have yet to say their first word to each other."""
        self._protocol = protocol
        self._down, self._up = down, up
        self._login: Login | None = Login()  # until it is over
        self._capabilities: int | None = None  # None: it can't be followed
        self._talk: Talk | None = None
        self._question: Question | None = None
        self._is_client_last = False  # of the two, who has spoken
        Ear(down, self._log_in(Login.client))
        Ear(up, self._log_in(Login.server))

    def farewell(self, why: Farewell) -> bytes:
        return self._protocol.farewell(why)

    def _log_in(self, hear: Callable[[Login, memoryview], bool]) -> Hear:
        def take(data: memoryview) -> bool:
            login = self._login
            if login is not None and not hear(login, data):
                self._capabilities = login.capabilities if login.is_readable else None
                self._login = None
            return self._login is not None

        return take

    def is_quiet(self, seconds: float, now: float) -> bool:
        """Whether it is between two exchanges, and has been for so long."""
        down, up = self._down, self._up
        if self._login is not None:
            return False
        self.follow()
        talk = self._talk
        if talk is None or talk.is_lost:
            return has_fallen_quiet(down, up, seconds, now)
        if self._question is not None:
            return self._question.has_failed
        if not talk.is_known or (talk.is_at_rest and talk.status is None):
            if has_fallen_quiet(down, up, seconds, now):
                self._question = Question(down, up, self._answered)
            return False
        pause = seconds / _SHORTER if talk.has_ended_transaction else seconds * _LONGER if talk.is_in_use else seconds
        return (talk.is_at_rest and not (talk.is_in_transaction or talk.has_cursor)
                and is_still(down, up, pause, now))

    def follow(self) -> None:
        """The session is to end: follow it from now on, or from the end of its login on, if it can be."""
        if self._talk is None and self._capabilities is not None and self._up.fd >= 0:
            self._talk = talk = Talk(self._capabilities)
            self._is_client_last = self._down.active >= self._up.active
            Ear(self._down, lambda data: self._hear_client(talk, data))
            Ear(self._up, lambda data: self._hear_server(talk, data))

    def _hear_client(self, talk: Talk, data: memoryview) -> bool:
        talk.client(data, not self._is_client_last)
        self._is_client_last = True
        return self._talk is talk

    def _hear_server(self, talk: Talk, data: memoryview) -> bool:
        talk.server(data)
        self._is_client_last = False
        return self._talk is talk or self._question is not None  # whose answer is read where there is a tap only

    def _answered(self, status: int | None) -> None:
        """By the server, to our question; None where it is not known to what moment that belongs."""
        self._question = None
        talk = self._talk
        if talk is not None and status is not None and (talk.is_at_rest or not talk.is_known):
            talk.told(status)

    def leave_off(self) -> None:
        """The session goes on."""
        self._talk = None

    def say_goodbye(self) -> None:
        """Tell the server that the session ends, or it counts it among those that were aborted."""
        if self._talk is not None and self._talk.is_at_rest and self._question is None:
            self._up.say(_QUIT)


class Question:
    """A COM_PING of our own, and what becomes of it. ``has_failed``: the answer is an error, which the client has got:
    the session is of no use any more."""

    def __init__(self, down: End, up: End, answered: Callable[[int | None], object]) -> None:
        """``answered`` is called once, with the status that the server has told."""
        self._down, self._up = down, up
        self._answered = answered
        self._held = b""
        self._is_late = False  # the server was in the middle of something else
        self._is_over = False
        self.has_failed = False
        self._before = up.read_by(self._read)
        self._move: Move = self._before or up.sock.recv_into
        up.say(_PING)

    def _read(self, view: memoryview) -> int:
        """Read what comes, and keep the answer to ourselves. Raises OSError."""
        if self._is_over:  # another reads by this since
            return self._move(view)
        count = self._move(view[: len(view) - _MOST_ERROR])
        if not count:
            return 0
        came, self._held = self._held + bytes(view[:count]), b""
        rest = self._sift(came)
        if not rest:
            raise BlockingIOError
        view[: len(rest)] = rest
        return len(rest)

    def _leave(self) -> None:
        """Read no more; but somebody may have come before us meanwhile, and reads by us (shaping)."""
        self._is_over = True
        if self._up.recv_into == self._read:
            self._up.read_by(self._before)

    def _sift(self, came: bytes) -> bytes:
        """What the client gets of this."""
        if self._is_late:
            return self._without_end(came)
        if came[: len(_OK)] == _OK[: len(came)]:
            if len(came) < _OK_BYTES:
                self._held = came
                return b""
            self._leave()
            self._answered(int.from_bytes(came[_STATUS], "little"))
            return came[_OK_BYTES:]
        if _is_error(came):
            if len(came) < _whole(came):
                self._held = came
                return b""
            self.has_failed = True
            with suppress(OSError):
                self._up.sock.shutdown(_socket.SHUT_RDWR)  # it gets nothing more, and that is its end
            return came
        self._is_late = True
        self._down.pause()
        return self._without_end(came)

    def _without_end(self, came: bytes) -> bytes:
        """The same without what may be the OK, or its beginning, at the end."""
        for size in range(min(_OK_BYTES, len(came)), 0, -1):
            if came[-size:][: len(_OK)] == _OK[:size]:
                self._held = came[-size:]
                if size == _OK_BYTES:
                    self._wait()
                return came[:-size]
        return came

    def _wait(self) -> None:
        """Look in a while whether that was all."""
        held, up = self._held, self._up

        def look() -> None:
            try:
                if self._held is held and up.fd >= 0:
                    self._forget()
            except Exception:
                up.failed()

        Alarm(up.poller.loop, "to look for a server's late answer", look).set(_LATE_SECONDS)

    def _forget(self) -> None:
        """What is held is the answer; the client may speak again."""
        self._leave()
        self._answered(None)
        if self._up.pending is None:
            self._up.release()


def _is_error(came: bytes) -> bool:
    """Whether this is an error that answers a command, or what has come of one, and nothing else: the transaction is
    gone, say, and this was to tell the client."""
    return came[3:5] == b"\1\xff" and came[7:8] in (b"#", b"") and len(came) <= _whole(came) <= _MOST_ERROR


def _whole(came: bytes) -> int:
    """How many bytes the packet has of which this is the beginning."""
    return 4 + int.from_bytes(came[:3], "little")
