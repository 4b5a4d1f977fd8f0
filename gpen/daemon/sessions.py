"""The register: all sessions and flows that are, by their numbers, and what those came to that are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count, takewhile

from gpen.model.acl import Entry
from gpen.model.ending import Ending
from gpen.model.server import Server
from gpen.wire.conversation import Conversation


class Sessions:
    """``live`` are those that are, in the order in which they began; it is changed here only. ``total`` is how many
    there ever were; ``most`` is how many there may be at one time, by the limit of descriptors and conn_max_total.
    ``timed`` is told of each that is over, if somebody wants to know how long they take."""

    def __init__(self, most: int) -> None:
        self.live: dict[int, Conversation] = {}
        self.total = 0
        self.started = time.time()
        self.most = most
        self.timed: Callable[[Conversation], object] | None = None
        self._ids = count()

    def __len__(self) -> int:
        return len(self.live)

    def __iter__(self) -> Iterator[Conversation]:
        """Those of this moment; they may end meanwhile."""
        return iter(list(self.live.values()))

    def get(self, number: int) -> Conversation | None:
        """The one of this number, if it is."""
        return self.live.get(number)

    def begun_since(self, number: int) -> list[Conversation]:
        """Those that began after the one of this number, the newest first."""
        return list(takewhile(lambda session: session.id > number, reversed(self.live.values())))

    def is_full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self.live) >= self.most

    def fresh_id(self) -> int:
        """A number that no session ever had."""
        return next(self._ids)

    def begin(self, session: Conversation) -> None:
        """A session or flow begins: count it."""
        self.live[session.id] = session
        self.total += 1

    def forget(self, session: Conversation) -> bool:
        """It is no session any more; whether it was one."""
        return self.live.pop(session.id, None) is not None

    # --- those of a server, or of clients -----------------------------------------------------------------------------

    def of_number(self, number: int, listener: str = "") -> list[Conversation]:
        """All sessions of the servers that have or had this number, wherever these were then; of one ``listener`` only,
        if it is named."""
        return [session for session in self
                if session.lease is not None and session.lease.server.number == number
                and (not listener or session.listener == listener)]

    def close_number(self, number: int, listener: str = "") -> int:
        """End all these. Returns how many they are. Clients that are just being connected go to another."""
        theirs = self.of_number(number, listener)
        for session in theirs:
            assert session.lease is not None
            session.leave(session.lease, Ending.KILLED)
        return len(theirs)

    def close_clients(self, clients: Entry, listener: str = "") -> int:
        """End all sessions of the clients of a network; of one ``listener`` only, if it is named. Returns how many they
        are."""
        theirs = [session for session in self
                  if (not listener or session.listener == listener) and clients.has(session.address)]
        for session in theirs:
            session.stop(Ending.KILLED)
        return len(theirs)

    def close_at(self, server: Server) -> None:
        """The same for the sessions of one server, at the address where it is now."""
        for session in self:
            lease = session.lease
            if lease is not None and lease.server is server and not lease.is_elsewhere:
                session.leave(lease, Ending.KILLED)

    def condemned(self, server: Server) -> None:
        """A verdict gives a server no clients any more. Those that are just being connected to it go to another. One
        that is down loses its sessions as well, if on_down says so."""
        for session in self:
            if session.lease is not None and session.server is server and session.is_where_its_server_is:
                session.leave(session.lease, session.ending_of_condemned if server.condemned else None)

    def follow_servers(self) -> None:
        """Clients that are just being connected to where a server was get another place: there, or elsewhere."""
        for session in self:
            if session.is_connecting and session.lease is not None and session.lease.is_outdated:
                session.leave(session.lease)
