"""The routes of a listener that are in force: a selector for each.

A route has a turn and a memory of clients of its own, so that a client that asks for two names comes back to a server
of each; limits, verdicts and what else is known of servers are those of the listener and of all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from gpen.model.client import Client
from gpen.model.lease import Lease
from gpen.model.route import ALL, NO_MATCH, Key, To, called
from gpen.model.selector import Selector

if TYPE_CHECKING:
    from gpen.model.roster import Roster
    from gpen.model.selector import Choice
    from gpen.model.server import Member, Server

RosterOf = Callable[["Roster | None", "tuple[int, ...] | None"], "Roster"]


class RouteLease(Lease):
    """A place on a server of a route: what is moved there counts for the listener as well, and the route remembers who
    had it."""

    __slots__ = ("_client", "_listeners", "_route")

    def __init__(self, route: RouteSelector, listeners: Selector, member: Member, client: Client | None) -> None:
        Lease.__init__(self, route, member)
        self._route = route
        self._listeners = listeners
        self._client = client

    def connected(self) -> None:
        Lease.connected(self)
        if self._client is not None:
            self._route.remember(self._client.address, self.server, self._route.pool.now())

    def moved(self, sent: int, received: int) -> None:
        Lease.moved(self, sent, received)
        self._listeners.sent += sent
        self._listeners.received += received


class RouteSelector(Selector):
    """Chooses for a route of a listener. ``total`` is how many sessions have gone this way."""

    def __init__(self, listeners: Selector, key: Key) -> None:
        """``listeners`` is the selector of the listener that it is of."""
        Selector.__init__(self, listeners.pool, listeners.settings, listeners.roster, listeners.listener)
        self.taken = listeners.taken  # max of a server there counts the sessions of the whole listener
        self.route = called(key)
        self.to: To | None = None  # None: the listener's own servers
        self.total = 0
        self._listeners = listeners
        self._memory: OrderedDict[str, tuple[Server, float]] = OrderedDict()

    def _leased(self, member: Member, client: Client | None) -> Lease:
        return RouteLease(self, self._listeners, member, client)

    def choose(self, client: Client, now: float, port: int = 0, tried: Collection[Server] = ()) -> Choice:
        """As Selector has it, for a client as this route remembers it."""
        return Selector.choose(self, self.recalled(client), now, port, tried)

    def recalled(self, client: Client) -> Client:
        """A client with the server that it used last on this route; with that of the listener's memory, where the route
        knows none: what a gpen before, a peer or a command has told is there."""
        server, last = self._memory.get(client.address, (None, 0.0))
        tracking = self.settings.tracking
        if server is None or (tracking and self.pool.now() - last > tracking):
            return client
        same = Client(client.address, client.number)
        same.country, same.server, same.last = client.country, server, client.last
        return same

    def forget(self, address: str) -> None:
        """As Selector has it: what this route remembers."""
        self._memory.pop(address, None)

    def remember(self, address: str, server: Server, last: float) -> None:
        """The client of this address got this server at the time ``last``. It is now the one seen last: who tells of
        several begins with the one seen longest ago."""
        if server.number is None or not self.settings.rule.remembers:
            return
        self._memory[address] = server, last
        self._memory.move_to_end(address)
        while len(self._memory) > self.settings.clients_max:
            self._memory.popitem(last=False)

    def remembered(self) -> Iterator[tuple[str, Server, float]]:
        """Clients, each with its server and when it got that, first the one seen longest ago."""
        yield from ((address, *place) for address, place in self._memory.items())


class Routes:
    """The routes of a listener in force: a RouteSelector for each, and one for clients that none matches."""

    def __init__(self, listeners: Selector) -> None:
        self._listeners = listeners
        self._selectors: dict[Key, RouteSelector] = {}
        self._rosters: dict[tuple[int, ...] | None, Roster] = {}
        self._gone = WeakSet[RouteSelector]()  # that were taken away, by which clients wait yet

    def __iter__(self) -> Iterator[RouteSelector]:
        return iter(self._selectors.values())

    def get(self, key: Key) -> RouteSelector:
        """That of a route; where it is gone by now, that of those whom none matches. There must be routes."""
        return self._selectors.get(key) or self._selectors[NO_MATCH]

    def find(self, key: Key) -> RouteSelector | None:
        """That of a route, if it is there."""
        return self._selectors.get(key)

    def arrange(self, routes: Sequence[tuple[Key, To]], roster_of: RosterOf) -> None:
        """These hold from now on. ``roster_of`` makes the roster of some servers, of the one that there was."""
        wanted: dict[Key, To | None] = dict(routes)
        if wanted:
            wanted.setdefault(NO_MATCH, None)
        before = self._rosters, self._selectors
        self._rosters, self._selectors = {}, {}
        for key, to in wanted.items():
            selector = self._selectors[key] = before[1].get(key) or RouteSelector(self._listeners, key)
            selector.to = to
            selector.roster = self._listeners.roster if to is None else self._roster(to, before[0], roster_of)
            selector.arrange_special()
        self._gone.update(selector for key, selector in before[1].items() if key not in wanted)
        for selector in self._gone:
            self._follow_default(selector)

    def _follow_default(self, selector: RouteSelector) -> None:
        """Who has yet to get a server of a route that is gone gets one of those that clients get now whom none
        matches."""
        default = self._selectors.get(NO_MATCH)
        selector.to = None if default is None else default.to
        selector.roster = (self._listeners if default is None else default).roster
        selector.arrange_special()

    def _roster(self, to: To, before: Mapping[tuple[int, ...] | None, Roster],
                roster_of: RosterOf) -> Roster:
        """Routes to the same servers have one roster together."""
        numbers = None if to == ALL else () if isinstance(to, str) else to
        roster = self._rosters.get(numbers)
        if roster is None:
            roster = self._rosters[numbers] = roster_of(before.get(numbers), numbers)
        return roster
