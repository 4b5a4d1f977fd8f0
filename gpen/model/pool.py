"""The pool: owns the servers, reserves places on them, and keeps the verdict on each.

Invariants, in every state that a caller can see:
- a server's ``sessions`` is the number of its open leases, and never exceeds what its limits allowed at the choice;
- a lease is given back exactly once, by ``release`` or ``fail``;
- while a server is on trial at most one lease is its trial.

Choosing and counting is one step (``reserve``), so that a burst can't overrun a limit.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from gpen.model import scheduler
from gpen.model.acl import LISTS, AccessList
from gpen.model.address import SPEC_OPTIONS, Address, Endpoint, ServerSpec
from gpen.model.client import Client
from gpen.model.server import FIELDS, Server, Verdict
from gpen.model.settings import Settings

EVENTS_KEPT = 1000
RETRY_SECONDS = 1.0
SPECIAL = ("emergency", "abuse")


class Event(NamedTuple):
    """One change of a server's state, or of gpen itself: wall clock time in seconds, the server, what happened, and
    why."""

    time: float
    server: int | str | None
    event: str
    cause: str


class Lease:
    """A place on a server. Ends with exactly one ``release`` or ``fail``."""

    __slots__ = ("_address", "_endpoints", "_pool", "is_open", "server")

    def __init__(self, pool: Pool, server: Server) -> None:
        self._pool = pool
        self._address = server.address
        self._endpoints = server.endpoints
        self.server = server
        self.is_open = True

    @property
    def is_outdated(self) -> bool:
        """Whether the server is elsewhere by now, or has got an address that was not there to be tried: what this
        place has seen says nothing of that."""
        server = self.server
        return server.address is not self._address or not set(server.endpoints) <= set(self._endpoints)

    def connected(self) -> None:
        """The server accepted the connection: if this was its trial, it is won. Older connections prove nothing."""
        if self.server.trial is self:
            self._pool.restore(self.server, "a connection succeeded")

    def unanswered(self) -> None:
        """A flow has got no reply there, where one was due: so many in a row are held against the server, and one on
        trial at once. What is blacklisted already, or has moved, is not blamed again."""
        server, limit = self.server, self._pool.settings.udp_unanswered
        is_trial = server.trial is self
        if not limit or (server.down_until and not is_trial) or self.is_outdated:
            return
        server.unanswered += 1
        if server.unanswered >= limit or is_trial:
            self._pool.blame(server, f"{server.unanswered} {'flow' if server.unanswered == 1 else 'flows'} in a row "
                                     "unanswered")

    def release(self) -> None:
        """Give the place back: the session is over, or the attempt ended without a verdict on the server."""
        if not self.is_open:
            raise RuntimeError("a lease was given back twice")
        self.is_open = False
        server = self.server
        server.sessions -= 1
        if server.trial is self:
            server.trial = None

    def fail(self, cause: str) -> None:
        """Give the place back, and hold against the server that it could not be reached."""
        self.release()
        if not self.is_outdated:  # else the new place is not to blame
            self._pool.blame(self.server, cause)


class Pool:
    """The servers by number, and the two special ones (emergency, abuse) by name."""

    def __init__(self, settings: Settings, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump, ``wall`` the time of day in seconds since 1970."""
        self.settings = settings
        self.acls = [AccessList() for _ in range(LISTS)]
        self.servers: dict[int, Server] = {}
        self.special: dict[str, Server] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.random = random.Random()
        self.on_condemned: Callable[[Server], object] = lambda server: None  # called when a verdict takes a server down
        self.on_unwell: Callable[[Server], object] = lambda server: None  # called when anything says so of it
        self.country_of: Callable[[str], str] = lambda address: ""  # the country of an address, where it is known
        self._clock = clock
        self._wall = wall
        self._order: list[Server] = []
        self._cursor = -1

    # --- choosing -------------------------------------------------------------------------------------------------

    def reserve(self, client: Client, port: int = 0, tried: Collection[Server] = ()) -> Lease | None:
        """A place on the server that this client gets now, counted; None when no server can take it.

        ``tried`` are the servers that failed this client already; with any of them, a stubborn pool gives up.
        Does not switch greenlets.
        """
        now = self._clock()
        server = self.choose(client, now, port, tried)
        if server is None:
            return None
        lease = Lease(self, server)
        server.sessions += 1
        server.total += 1
        if server.number is not None:
            self._cursor = server.number
        if server.down_until:
            server.trial = lease
        return lease

    def reserve_abuse(self) -> Lease | None:
        """A place on the abuse server, or None when there is none."""
        server = self.special.get("abuse")
        if server is None or server.is_full:
            return None
        server.sessions += 1
        server.total += 1
        return Lease(self, server)

    def choose(self, client: Client, now: float, port: int = 0, tried: Collection[Server] = ()) -> Server | None:
        """The server that ``reserve`` would take, without taking it.

        In pen's order: the server that the client used last, then the rule in force, then the emergency server. When
        a choice fails the rule chooses again among the others, so that a client that fails over goes where the next
        new client would go; for round robin that is pen's "next index, ring-wise".
        """
        settings = self.settings
        remembered = None if settings.roundrobin else client.server
        if remembered is not None and not remembered.deleted:
            if remembered not in tried and self.refusal(remembered, client, now) is None:
                return remembered
            if settings.stubborn:
                return None
        if settings.stubborn and tried:
            return None
        server = self._by_rule(client, now, port, tried)
        if server is None and not settings.stubborn:
            return self._emergency(tried)
        return server

    def _emergency(self, tried: Collection[Server]) -> Server | None:
        server = self.special.get("emergency")
        return None if server is None or server in tried or server.is_full else server

    def _by_rule(self, client: Client, now: float, port: int, tried: Collection[Server]) -> Server | None:
        settings, servers = self.settings, self._order

        def usable(server: Server) -> bool:
            return server not in tried and self.refusal(server, client, now) is None

        if settings.prio:
            return scheduler.lowest_prio(servers, usable)
        if settings.weight:
            return scheduler.least_weighted(servers, usable)
        if settings.leastconn:
            return scheduler.least_connections(servers, usable, self._cursor)
        if settings.random:
            return scheduler.best_of_two(servers, usable, self.random)
        if settings.hash:
            key = f"{client.address}:{port}" if settings.roundrobin else client.address
            if not settings.stubborn:
                return scheduler.rendezvous(servers, usable, key)
            server = scheduler.rendezvous(servers, lambda _: True, key)
            return server if server is not None and usable(server) else None
        return scheduler.round_robin(servers, usable, self._cursor)

    def refusal(self, server: Server, client: Client, now: float) -> str | None:
        """Why this server can't take this client now; None when it can."""
        reason = self._unavailable(server, now)
        if reason is not None:
            return reason
        if server.is_full:
            returning = client.server is server
            if not (returning and server.sessions < server.hard):
                limit = f"hard {server.hard}" if returning and server.hard > server.max else f"max {server.max}"
                return f"full: {server.sessions} sessions, {limit}"
        if not self.permits(server.acl, client):
            return f"its access list {server.acl} denies the client"
        return None

    def _unavailable(self, server: Server, now: float) -> str | None:
        """Why this server can take nobody now, be there room or not."""
        if server.state != "ready":
            return f"its state is {server.state}"
        if server.condemned:
            return f"down for {self._wall() - self._condemned_since(server):.0f} s: {server.condemned}"
        if server.down_until:
            if now < server.down_until:
                return f"blacklisted for {server.down_until - now:.0f} s more: {server.reason}"
            if server.trial is not None:
                return f"on trial with another connection after: {server.reason}"
        if not server.endpoints:
            return f"its address {server.address} is not resolved"
        return None

    def _condemned_since(self, server: Server) -> float:
        return min(verdict.since for verdict in server.verdicts.values() if not verdict.up)

    def has_room(self, emergency: bool = True) -> bool:
        """Whether some client could be taken, by a server that is not full or (``emergency``) the emergency server."""
        now = self._clock()
        return any(server.sessions < max(server.max, server.hard) or not server.max
                   for server in self._order if self._unavailable(server, now) is None) or (
                       emergency and self._emergency(()) is not None)

    def is_crowded(self) -> bool:
        """Whether servers are well, but full."""
        now = self._clock()
        return any(server.is_full and self._unavailable(server, now) is None for server in self._order)

    def hurry(self) -> None:
        """Clients wait and nobody can take them: what failed more than RETRY_SECONDS ago is tried now, one connection
        at a time, instead of at the end of its blacklist time. What a command blacklisted is left alone."""
        now = self._clock()
        for server in self._order:
            if server.down_until > now and now - server.blamed >= RETRY_SECONDS:
                server.down_until = now

    def rule(self) -> str:
        """The name of the rule that chooses for a new client."""
        settings = self.settings
        for name in ("prio", "weight", "leastconn", "random", "hash"):
            if settings.get(name):
                return name
        return "round robin"

    def permits(self, number: int, client: Client) -> bool:
        """Whether access list ``number`` lets this client in."""
        access = self.acls[number]
        return not access.entries or access.permits(client.address, lambda: self._country(client))

    def _country(self, client: Client) -> str:
        if client.country is None:
            client.country = self.country_of(client.address)
        return client.country

    # --- verdicts -------------------------------------------------------------------------------------------------

    def blame(self, server: Server, cause: str) -> None:
        """The server could not be reached: leave it alone for the blacklist time. Special servers are always tried."""
        server.failures += 1
        server.reason = cause
        self.on_unwell(server)
        if server.name in SPECIAL or server.deleted:
            return
        if not server.is_down:
            self.note(server, "down", f"{cause}; blacklisted for {self.settings.blacklist:g} s")
        server.blamed = self._clock()
        server.down_until = server.blamed + self.settings.blacklist

    def blacklist(self, server: Server, duration: float) -> None:
        """Blacklist a server for so many seconds by command; 0 takes it off the list."""
        if duration:
            server.trial = None
            server.blamed = math.inf
            server.down_until = self._clock() + duration
            server.reason = "blacklisted by a command"
            self.note(server, "down", f"blacklisted by a command for {duration:g} s")
            self.on_unwell(server)
        elif server.down_until:
            self.restore(server, "taken off the blacklist by a command")

    def restore(self, server: Server, cause: str) -> None:
        """The server is not blacklisted any more."""
        self._clear(server)
        if not server.condemned:
            self.note(server, "up", cause)

    def _clear(self, server: Server) -> None:
        server.down_until = 0.0
        server.trial = None
        server.reason = ""
        server.unanswered = 0

    def judge(self, server: Server, source: str, up: bool, reason: str) -> None:
        """A verdict on the server by ``source`` (command, check). One that turns to up also ends a blacklist; one that
        is only renewed does not, for a client's connect may know better."""
        old = server.verdicts.get(source)
        turned = old is None or old.up != up
        since = self._wall() if old is None or turned else old.since
        server.verdicts[source] = Verdict(up, reason, since, self._clock())
        was_down = server.is_down
        if turned and up:
            self._clear(server)
        self._weigh(server, was_down, reason)
        if not up:
            self.on_unwell(server)

    def withdraw(self, server: Server, source: str, event: str, cause: str) -> None:
        """The verdict of this source counts no more."""
        if source in server.verdicts:
            was_down = server.is_down
            verdict = server.verdicts.pop(source)
            self.note(server, event, f"the verdict {'up' if verdict.up else 'down'} ({verdict.reason}) {cause}")
            self._weigh(server, was_down, "no verdict says otherwise")

    def expire(self) -> None:
        """Drop the verdicts of commands that were not renewed for health_ttl seconds."""
        ttl, now = self.settings.health_ttl, self._clock()
        for server in self.servers.values() if ttl else ():
            verdict = server.verdicts.get("command")
            if verdict is not None and now - verdict.renewed >= ttl:
                self.withdraw(server, "command", "expired", f"was not renewed for {ttl:g} s")

    def _weigh(self, server: Server, was_down: bool, cause: str) -> None:
        """Draw the conclusion from all verdicts."""
        was_condemned = bool(server.condemned)
        server.condemned = _condemning(server)
        if server.is_down != was_down:
            self.note(server, "down" if server.is_down else "up", server.condemned or cause)
        if server.condemned and not was_condemned:
            self.on_condemned(server)

    def note(self, server: Server, event: str, cause: str) -> None:
        """Remember a change of a server's state for ``events``."""
        server.since = self._wall()
        self.events.append(Event(server.since, server.label, event, cause))

    def note_own(self, event: str, cause: str) -> None:
        """Remember for ``events`` what has happened to gpen itself."""
        self.events.append(Event(self._wall(), None, event, cause))

    # --- the operator's changes -----------------------------------------------------------------------------------

    def add(self, number: int, address: Address) -> Server:
        """A new server under a number that is free."""
        server = Server(str(number), number)
        server.address = address
        server.since = self._wall()
        self.servers[number] = server
        insort(self._order, server, key=_number)
        self.note(server, "added", str(address))
        return server

    def configure(self, server: Server, fields: Mapping[str, Any]) -> None:
        """Give a server these of its FIELDS, and its address if that is among them."""
        for name, value in fields.items():
            if name == "address":
                self.move(server, value)
            elif name == "state":
                self.set_state(server, value)
            else:
                setattr(server, name, value)

    def act(self, server: Server, actions: Mapping[str, Any]) -> None:
        """Do what a command asks for: ``blacklist`` it for so many seconds, or give a verdict on its ``health``: up or
        not (None: no verdict any more), and why."""
        if "blacklist" in actions:
            self.blacklist(server, actions["blacklist"])
        if "health" in actions:
            up, reason = actions["health"]
            if up is None:
                self.withdraw(server, "command", "withdrawn", "is withdrawn by a command")
            else:
                self.judge(server, "command", up, reason)

    def delete(self, number: int) -> Server:
        """Take a server away: it gets no new sessions, the old ones go on. Raises KeyError."""
        server = self.servers.pop(number)
        server.deleted = True
        self._order.remove(server)
        self.note(server, "deleted", "by a command")
        return server

    def move(self, server: Server, address: Address) -> None:
        """Give a server another address: what was known of the place where it was counts no more."""
        if address == server.address:
            return
        self.note(server, "moved", f"from {server.address} to {address}")
        server.address = address
        server.endpoints = ()
        server.verdicts.clear()
        server.condemned = ""
        self._clear(server)

    def set_state(self, server: Server, state: str) -> None:
        """The operator's word on a server: ready, drain or maint."""
        if server.state != state:
            server.state = state
            self.note(server, state, "by a command")

    def set_special(self, name: str, spec: ServerSpec | None) -> None:
        """Set or unset the emergency or the abuse server. One that stays where it is keeps its counters."""
        if spec is None:
            self.special.pop(name, None)
            return
        server = self.special.get(name)
        if server is None or server.address != spec.address:
            server = self.special[name] = Server(name)
            server.address = spec.address
            server.since = self._wall()
        for option in SPEC_OPTIONS:
            setattr(server, option, spec.options.get(option, FIELDS[option]))

    def server(self, label: int | str) -> Server | None:
        """The server of this number or special name."""
        return self.special.get(label) if isinstance(label, str) else self.servers.get(label)

    def all_servers(self) -> Sequence[Server]:
        """The numbered servers in order, then the special ones."""
        return [*self._order, *(self.special[name] for name in SPECIAL if name in self.special)]

    def prefer(self, server: Server, endpoint: Endpoint) -> None:
        """Try this one of a server's addresses first from now on: it has just answered."""
        server.endpoints = (endpoint, *(other for other in server.endpoints if other != endpoint))

    def resolved(self, server: Server, endpoints: Sequence[Endpoint]) -> None:
        """The server's address means these endpoints now; in which order does not matter, and those that stay are tried
        before new ones.

        When the one in use is gone, or a server that is down has got a new one, what was observed counts no more. What
        was said of the server by command stays: that was meant wherever it is."""
        old = server.endpoints
        stay = [endpoint for endpoint in old if endpoint in endpoints]
        fresh = [endpoint for endpoint in endpoints if endpoint not in old]
        if not fresh and len(stay) == len(old):
            return
        server.endpoints = (*stay, *fresh)
        if not old:
            return
        has_moved = old[0] not in stay
        cause = f"from {_listed(old)} to {_listed(server.endpoints)}: '{server.address.host}' was looked up again"
        if has_moved or (fresh and server.is_down):
            self._forget_observed(server)
            self.note(server, "moved" if has_moved else "resolved", cause)
        else:
            self.events.append(Event(self._wall(), server.label, "resolved", cause))

    def _forget_observed(self, server: Server) -> None:
        """What checks and connects have found where the server was counts no more."""
        server.verdicts = {source: verdict for source, verdict in server.verdicts.items() if source == "command"}
        server.condemned = _condemning(server)
        server.unanswered = 0
        if server.blamed != math.inf:
            self._clear(server)

def _number(server: Server) -> int:
    return server.number or 0


def _condemning(server: Server) -> str:
    """Why a verdict says that the server is down; empty when none does."""
    return next((verdict.reason for verdict in server.verdicts.values() if not verdict.up), "")


def _listed(endpoints: Sequence[Endpoint]) -> str:
    return ", ".join(map(str, endpoints))
