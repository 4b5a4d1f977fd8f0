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

TIE = 0.01  # seconds: what a clock in milliseconds and the network's way make of one moment


class Client:
    """One remembered client. ``sx`` bytes were sent to it, ``rx`` received from it, by sessions that have ended;
    ``learnt_from`` is the peer that has told where it was, if it has not been here since."""

    __slots__ = ("address", "connects", "country", "last", "learnt_from", "number", "rx", "server", "sx")

    def __init__(self, address: str, number: int) -> None:
        self.address = address
        self.number = number
        self.server: Server | None = None
        self.country: str | None = None  # as the pool has looked it up; empty when nobody knows
        self.last = 0.0
        self.connects = 0
        self.sx = 0
        self.rx = 0
        self.learnt_from: str | None = None


class ClientTable:
    """Clients by address, in the order in which they were last seen; those that peers tell of, in which they came."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._next_number = 0
        self._sessions: dict[str, int] = {}  # that there are, by address

    def succeed(self, former: ClientTable) -> None:
        """Go on with what a former one has, which but the sessions that began there use from now on."""
        self._clients, self._sessions = former._clients, former._sessions
        self._next_number = former._next_number

    def is_memory_of(self, other: ClientTable) -> bool:
        """Whether one has succeeded the other, or is it."""
        return self._clients is other._clients

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        """From the one seen last to the one seen longest ago."""
        return reversed(self._clients.values())

    def addresses(self) -> list[str]:
        """All of them, from the one seen longest ago: at once, so that none can change meanwhile."""
        return list(self._clients)

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

    def learn(self, address: str, server: Server, last: float, limit: int, peer: str) -> bool:
        """A peer says that the client of this address was at this server when it was seen last, which counts as if it
        had been here. Whether that was news: what is known may be newer.

        Of two that say the same moment, within TIE seconds, both sides take the one that served at the lower address;
        but a peer may correct itself.
        """
        client = self._clients.get(address)
        if client is None:
            if len(self._clients) >= limit and last <= next(iter(self._clients.values())).last:
                return False  # it would be the first to be forgotten
            client = self._clients[address] = Client(address, self._next_number)
            self._next_number += 1
            self.shrink(limit)
        else:
            known = client.server
            if known is not None and _is_outdated(last - client.last, server, known, client.learnt_from == peer):
                return False
            self._clients.move_to_end(address)
        client.server, client.last, client.learnt_from = server, max(last, client.last), peer
        return True

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


def _is_outdated(lead: float, server: Server, known: Server, is_correction: bool) -> bool:
    """Whether what a peer says is older than what is known: it is ``lead`` seconds newer."""
    if lead < -TIE:
        return True
    return not is_correction and lead <= TIE and server.target.shown >= known.target.shown
