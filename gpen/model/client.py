"""The memory of which client went where, and how many sessions each has: every step is O(1), and the least recently
seen client is forgotten first.

Its sessions are counted by its address, and not in what is remembered of it: that may be forgotten while they last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpen.model.server import Server


class Client:
    """One remembered client. ``sx`` bytes were sent to it, ``rx`` received from it, by sessions that have ended."""

    __slots__ = ("address", "connects", "country", "last", "number", "rx", "server", "sx")

    def __init__(self, address: str, number: int) -> None:
        self.address = address
        self.number = number
        self.server: Server | None = None
        self.country: str | None = None  # as the pool has looked it up; empty when nobody knows
        self.last = 0.0
        self.connects = 0
        self.sx = 0
        self.rx = 0


class ClientTable:
    """Clients by address, in the order in which they were last seen."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._next_number = 0
        self._sessions: dict[str, int] = {}  # that there are, by address

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        """From the one seen last to the one seen longest ago."""
        return reversed(self._clients.values())

    def get(self, address: str) -> Client | None:
        return self._clients.get(address)

    def touch(self, address: str, now: float, limit: int, tracking: float) -> Client:
        """The client of this address, a session of which begins now: exactly one ``leave`` follows. A new one may push
        out the one that was not seen for longest.

        Its server is forgotten when it was last seen more than ``tracking`` seconds ago (0 = never).
        """
        sessions = self._sessions
        sessions[address] = sessions.get(address, 0) + 1
        client = self._clients.get(address)
        if client is None:
            client = Client(address, self._next_number)
            self._next_number += 1
            self._clients[address] = client
            if len(self._clients) > limit:
                self.shrink(limit)
        else:
            self._clients.move_to_end(address)
            if tracking and now - client.last > tracking:
                client.server = None
        client.last = now
        client.connects += 1
        return client

    def leave(self, client: Client) -> None:
        """A session of this client is over. Raises KeyError when it has none."""
        sessions, address = self._sessions, client.address
        if sessions[address] > 1:
            sessions[address] -= 1
        else:
            del sessions[address]

    def sessions_of(self, address: str) -> int:
        """How many sessions this address has."""
        return self._sessions.get(address, 0)

    def stick(self, client: Client, server: Server) -> None:
        """Remember that the client was served by this server."""
        client.server = server

    def release(self, client: Client) -> None:
        """Forget by which server the client was served."""
        client.server = None

    def remember(self, address: str, server: Server, last: float, limit: int) -> None:
        """The client of this address was at this server when it was seen last. It is now the one seen last: who tells
        of several begins with the one seen longest ago."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = Client(address, self._next_number)
            self._next_number += 1
            self.shrink(limit)
        self._clients.move_to_end(address)
        client.server, client.last = server, last

    def forget(self, address: str) -> None:
        """The client of this address is new when it comes again; one that is unknown stays so."""
        self._clients.pop(address, None)

    def shrink(self, limit: int) -> None:
        """Forget the least recently seen until ``limit`` remain."""
        while len(self._clients) > limit:
            self._clients.popitem(last=False)

    def forget_countries(self) -> None:
        """Whoever tells countries has changed."""
        for client in self._clients.values():
            client.country = None

    def glimpse(self, address: str, now: float, tracking: float) -> Client:
        """The client as ``touch`` would find it, without remembering that it was asked for."""
        glimpsed = Client(address, -1)
        known = self._clients.get(address)
        if known is not None and not (tracking and now - known.last > tracking):
            glimpsed.server = known.server
        return glimpsed
