"""``drain N [SECONDS] [quiet] [close]``: no new sessions for a server, and word of the old ones until they are gone."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from typing import ClassVar

import gevent

from gpen.control.script import Call
from gpen.daemon.sessions import Sessions
from gpen.model.ending import Ending
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.text import counted
from gpen.wire.conversation import Conversation
from gpen.wire.pacing import gently

TELL_SECONDS = 1.0
LOOK_SECONDS = 0.1  # 10,000 sessions take about a millisecond
CLOSE_SECONDS = 5.0
_CLOSED = (Ending.KILLED, Ending.SERVER_DOWN, Ending.SHUTDOWN)


def drain(pool: Pool, sessions: Sessions, call: Call) -> Iterator[str]:
    """Set a server's state to drain; yield a line a second while it has sessions, and at last what became of them.

    The server is followed as it is now: deleted or moved meanwhile, the sessions that it had are still waited for;
    those that it has left behind at an address of before are not. A reader who goes away is noticed with the next line;
    then only the report ends: the state stays, and nothing more is closed or ended.

    Switches greenlets. Raises ScriptError when there is no such server, when sessions are left at the end, or when
    somebody takes the server back.
    """
    server = pool.servers.get(call["number"])
    if server is None:
        known = ", ".join(map(str, sorted(pool.servers))) or "none"
        raise call.error(f"there is no server {call['number']} (known: {known})")
    pool.set_state(server, "drain")
    return _Drain(sessions, server, call).report()


class _Drain:
    """The sessions that a server had when its drain began."""

    _quiet_ones: ClassVar[set[_Drain]] = set()  # those that are under way, and end sessions when they are quiet

    def __init__(self, sessions: Sessions, server: Server, call: Call) -> None:
        self._sessions = sessions
        self._server = server
        self._call = call
        self._total = -1
        self._seen: set[Conversation] = set()
        self._left: list[Conversation] = []

    def report(self) -> Iterator[str]:
        name, seconds = self._call["number"], self._call["seconds"]
        if self._call["quiet"]:
            self._quiet_ones.add(self)
        try:
            yield from self._wait(seconds)
        finally:
            if self._call["quiet"]:
                self._quiet_ones.discard(self)
                self._spare()
        if self._left and self._call["close"]:
            self._close()
        closed, ended = self._ended(_CLOSED), self._ended((Ending.DRAINED,))
        went = len(self._seen) - len(self._left) - closed - ended
        by = f", {ended} ended when they were quiet" if self._call["quiet"] else ""
        if self._left:
            raise self._call.error(f"server {name} still has {_count(len(self._left))} after {seconds:g} s; "
                                   f"{went} went by themselves{by}; 'close server {name}' ends the rest")
        yield f"drained server {name}: {_count(went)} went by themselves{by}, {closed} were closed\n"

    def _ended(self, endings: Container[Ending | None]) -> int:
        """How many have ended so."""
        return sum(session.server is self._server and session.ending in endings for session in self._seen)

    def _wait(self, seconds: float | None) -> Iterator[str]:
        """Until no session is left or time is up."""
        started = tells = time.monotonic()
        while self._look():
            now = time.monotonic()
            if seconds is not None and now - started >= seconds:
                return
            if now >= tells:
                tells = max(tells + TELL_SECONDS, now)
                rest = "" if seconds is None else f", {seconds - (now - started):.0f} s"
                yield f"draining server {self._call['number']}: {_count(len(self._left))} left{rest}\n"
            gevent.sleep(LOOK_SECONDS)

    def _look(self) -> bool:
        """Whether sessions are left. Idlers also have places on the server, but are none."""
        server = self._server
        if server.state == "ready":
            raise self._call.error(f"server {self._call['number']} was set back to ready; it is in use again")
        if server.total != self._total:  # at the beginning, and if it was ready for a moment
            self._total = server.total
            self._seen.update(session for session in self._sessions
                              if _is_on(session, server) and session.lease and not session.lease.is_elsewhere)
            self._left = list(self._seen)
            if self._call["quiet"]:
                for session in gently(self._left):
                    session.leave_quietly(Ending.DRAINED)
        self._left = [session for session in self._left if _is_on(session, server)]
        return bool(self._left)

    def _spare(self) -> None:
        """Let those go on that have not been quiet yet, unless another drain is to end them."""
        others = {session for drain in self._quiet_ones for session in drain._left}
        for session in self._left:
            if session not in others:
                session.spare()

    def _close(self) -> None:
        """End what is left, and wait until it has ended."""
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._look() and time.monotonic() < deadline:
            for session in self._left:
                session.stop(Ending.KILLED)
            gevent.sleep(LOOK_SECONDS)


def _is_on(session: Conversation, server: Server) -> bool:
    return session.lease is not None and session.lease.server is server


def _count(sessions: int) -> str:
    return counted(sessions, "session")
