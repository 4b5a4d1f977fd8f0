"""The pool: owns the servers, and reserves places on them (lease.py) by what is known of each (health.py).

Invariants, in every state that a caller can see:
- a server's ``sessions`` is the number of its open leases, and its ``load``, those of them that are clients' and where
  the server is now, never exceeds what its limits allowed at the choice;
- a lease is given back exactly once, by ``release`` or ``fail``;
- while a server is on trial at most one lease is its trial.

Choosing and counting is one step (``reserve``), so that a burst can't overrun a limit.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any

from gpen.model.acl import LISTS, AccessList
from gpen.model.address import SPEC_OPTIONS, Address, Endpoint, ServerSpec
from gpen.model.client import Client
from gpen.model.events import Events
from gpen.model.health import Health, seconds_told
from gpen.model.lease import Lease, Spare, dismiss_spares, has_all, make_way
from gpen.model.scheduler import ROUND_ROBIN, RULES, Rule, Turns
from gpen.model.server import FIELDS, Server
from gpen.model.settings import Settings

RETRY_SECONDS = 1.0
BY_COMMAND = "by a command"
UNJUDGED = "nobody has said yet how it is here"
SPECIAL = ("emergency", "abuse")
SOURCES = {"health": "command", "checked": "check"}  # of verdicts, by what commands call them
_flags: Callable[[Settings], Sequence[bool]] = attrgetter(*(rule.name for rule in RULES))


# Who would get a client: a server, or None when it is turned away; the rule that chose, if one did; and whom it chose,
# also where that one does not take the client and a stubborn pool turns it away. A plain tuple: one is made for each
# client.
Choice = tuple[Server | None, Rule | None, Server | None]
_NOBODY: Choice = (None, None, None)


class Pool:
    """The servers by number, and the two special ones (emergency, abuse) by name."""

    def __init__(self, settings: Settings, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump, ``wall`` the time of day in seconds since 1970."""
        self.settings = settings
        self.acls = [AccessList() for _ in range(LISTS)]
        self.servers: dict[int, Server] = {}
        self.special: dict[str, Server] = {}
        self.events = Events(clock, wall)
        self.health = Health(settings, self.events, clock, lambda: self._order)
        self.turns = Turns()
        self.on_moved: Callable[[], object] = lambda: None  # called when endpoints of servers have come or gone
        self.is_ourselves: Callable[[Endpoint], bool] = lambda endpoint: False  # whether gpen itself listens there
        self.country_of: Callable[[str], str] = lambda address: ""  # the country of an address, where it is known
        self.now = clock
        self._order: list[Server] = []
        self._places: list[Server] = []  # without the slots that are empty

    # --- choosing -------------------------------------------------------------------------------------------------

    def reserve(self, client: Client, port: int = 0, tried: Collection[Server] = ()) -> Lease | None:
        """A place on the server that this client gets now, counted; None when no server can take it.

        ``tried`` are the servers that failed this client already; with any of them, a stubborn pool gives up.
        Does not switch greenlets.
        """
        server, rule, chosen = self.choose(client, self.now(), port, tried)
        if rule is not None and chosen is not None:
            rule.advance(self.turns, chosen)
        return None if server is None else self._lease(server)

    def reserve_abuse(self) -> Lease | None:
        """A place on the abuse server, or None when there is none."""
        server = self.special.get("abuse")
        return None if server is None or self._refuses_all(server) else self._lease(server)

    def _lease(self, server: Server) -> Lease:
        if server.spares:
            make_way(server)
        return Lease(self, server)

    def reserve_spare(self, client: Client, give_way: Callable[[], object]) -> Spare | None:
        """A place for an idler, which calls itself this client, on a server that has room for one more; see Spare."""
        full = [server for server in self.all_servers() if has_all(server) or server.trial is not None]
        server, rule, chosen = self.choose(client, self.now(), tried=() if self.settings.stubborn else full)
        if server is None or server in full:
            return None
        if rule is not None and chosen is not None:
            rule.advance(self.turns, chosen)
        return Spare(self, server, give_way)

    def tend_spares(self) -> None:
        """End idlers for which only time, or what became of others, leaves no reason: beyond a limit that was lowered,
        and at the emergency server while another can serve."""
        for server in self.all_servers():
            while server.spares and 0 < server.max < server.load + len(server.spares):
                server.spares[-1].give_way()
        emergency, now = self.special.get("emergency"), self.now()
        if emergency is not None and emergency.spares and any(
                self._unavailable(server, now) is None for server in self._places):
            dismiss_spares(emergency)

    def choose(self, client: Client, now: float, port: int = 0, tried: Collection[Server] = ()) -> Choice:
        """What ``reserve`` would do, without doing it; but dice that a rule throws are thrown.

        In pen's order: the server that the client used last, then the rule in force, then the emergency server. When
        a choice fails the rule chooses again among the others, so that a client that fails over goes where the next
        new client would go; for round robin that is pen's "next index, ring-wise". Before the emergency server is
        tried, and before a client is turned away, the rule may choose a server of which it is time to look whether it
        is back (``_is_due``). For silence alone nobody is turned away: see silence.py.
        """
        settings = self.settings
        remembered = None if settings.roundrobin else client.server
        if remembered is not None and not remembered.deleted:
            if remembered not in tried and self.refusal(remembered, client, now) is None:
                return remembered, None, None
            if settings.stubborn and not remembered.is_empty:
                return _NOBODY
        rule = self.rule
        key = f"{client.address}:{port}" if settings.roundrobin and rule.is_personal else client.address
        if settings.stubborn:
            return _NOBODY if tried else self._choose_once(rule, key, client, now)

        def is_usable(server: Server) -> bool:
            return server not in tried and self.refusal(server, client, now) is None

        def is_due(server: Server) -> bool:
            return (server not in tried and self._is_due(server, now)
                    and self.refusal(server, client, now, impatient=True) is None)

        def is_last_resort(server: Server) -> bool:
            return (server.is_silent and server not in tried
                    and self.refusal(server, client, now, desperate=True) is None)

        server = rule.pick(self._places, is_usable, self.turns, key)
        if server is None and any(now < other.down_until for other in self._places):
            server = rule.pick(self._places, is_due, self.turns, key)
        if server is not None:
            return server, rule, server
        emergency = self.special.get("emergency")
        if emergency is not None and emergency not in tried and not self._refuses_all(emergency):
            return emergency, None, None
        if any(other.is_silent for other in self._places):
            server = rule.pick(self._places, is_last_resort, self.turns, key)
        return _NOBODY if server is None else (server, rule, server)

    def _choose_once(self, rule: Rule, key: str, client: Client, now: float) -> Choice:
        """As pen does when it is stubborn: the rule chooses among the servers that are there, and one that is full, or
        denies the client, has had its turn."""
        server = rule.pick(self._places, lambda server: rule.is_personal or self._unavailable(server, now) is None,
                           self.turns, key)
        takes = server is not None and self.refusal(server, client, now) is None
        return server if takes else None, rule, server

    def _refuses_all(self, special: Server) -> bool:
        """Whether a special server takes nobody now; it is tried whatever its connects came to."""
        return special.is_full or special.is_empty or bool(special.condemned)

    @property
    def rule(self) -> Rule:
        """The rule that chooses for a new client."""
        flags = _flags(self.settings)
        return RULES[flags.index(True)] if True in flags else ROUND_ROBIN

    def refusal(self, server: Server, client: Client, now: float, impatient: bool = False,
                desperate: bool = False) -> str | None:
        """Why this server can't take this client now; None when it can. ``impatient`` does not wait for the end of a
        blacklist, ``desperate`` heeds none."""
        reason = self._unavailable(server, now, impatient, desperate)
        if reason is not None:
            return reason
        if 0 < server.max <= server.sessions and server.is_full:
            returning = client.server is server
            if not (returning and server.load < server.hard):
                limit = f"hard {server.hard}" if returning and server.hard > server.max else f"max {server.max}"
                return f"full: {server.load} sessions, {limit}"
        if not self.permits(server.acl, client):
            return f"its access list {server.acl} denies the client"
        return None

    def _unavailable(self, server: Server, now: float, impatient: bool = False, desperate: bool = False) -> str | None:
        """Why this server can take nobody now, be there room or not."""
        if server.state != "ready":
            return f"its state is {server.state}"
        if server.condemned:
            return f"down for {seconds_told(server, now):.0f} s: {server.condemned}"
        if server.drained:
            return f"draining for {seconds_told(server, now):.0f} s: {server.drained}"
        if server.down_until and not desperate:
            if now < server.down_until and not impatient:
                return f"blacklisted for {server.down_until - now:.0f} s more: {server.reason}"
            if server.trial is not None and not isinstance(server.trial, Spare):
                return f"on trial with another connection after: {server.reason}"
        if not server.endpoints:
            return "its slot is empty" if server.is_empty else f"its address {server.address} is not resolved"
        return None

    def _is_due(self, server: Server, now: float) -> bool:
        """Whether this server is blacklisted, but failed long enough ago to be tried by one connection when no other
        can serve. One that a command blacklisted never is."""
        return now < server.down_until and now - server.blamed >= RETRY_SECONDS

    def has_room(self) -> bool:
        """Whether some client could be taken: by a server that is not full, or that is due; or in an emergency."""
        now, stubborn = self.now(), self.settings.stubborn
        emergency = self.special.get("emergency")
        return any(server.load < max(server.max, server.hard) or not server.max for server in self._places
                   if self._unavailable(server, now, not stubborn and self._is_due(server, now)) is None) or (
                       emergency is not None and not self._refuses_all(emergency))

    def has_decided(self, tried: Collection[Server] = ()) -> bool:
        """Whether a client that was refused a place need not ask again: a stubborn pool chooses once, as long as there
        is a server to choose."""
        now = self.now()
        return self.settings.stubborn and (
            bool(tried) or any(self._unavailable(server, now) is None for server in self._places))

    def has_substitute(self, server: Server) -> bool:
        """Whether another server, which answers flows of UDP, could take the clients of this one."""
        now, rule, settings = self.now(), self.rule, self.settings
        if settings.stubborn and (rule.is_personal or not settings.roundrobin):
            return False  # they go nowhere else
        return any(other is not server and not (other.is_down or other.unanswered or other.is_full)
                   and self._unavailable(other, now) is None and not (rule.weighs and not other.weight)
                   and (other.acl == server.acl or not self.acls[other.acl].entries) for other in self._places)

    def is_crowded(self) -> bool:
        """Whether servers are well, but full."""
        now = self.now()
        return any(server.is_full and self._unavailable(server, now) is None for server in self._places)

    def permits(self, number: int, client: Client) -> bool:
        """Whether access list ``number`` lets this client in."""
        access = self.acls[number]
        return not access.entries or access.permits(client.address, lambda: self._country(client))

    def _country(self, client: Client) -> str:
        if client.country is None:
            client.country = self.country_of(client.address)
        return client.country

    # --- the operator's changes -----------------------------------------------------------------------------------

    def add(self, number: int, address: Address, is_judged: bool = False) -> Server:
        """A new server under a number that is free; one that ``is_judged`` gets nobody before it was."""
        server = Server(str(number), number)
        server.address = address
        self.servers[number] = server
        self._arrange(server)
        self.events.note(server, "added", str(address))
        if is_judged and not server.is_empty:
            self.health.judge(server, "command", "down", UNJUDGED)
        return server

    def is_judged(self) -> bool:
        """Whether somebody outside judges all servers, again and again, for else its words would expire (health_ttl):
        then it will soon say how new ones are, and they may be no place to write to."""
        return self.settings.health_ttl > 0 and bool(self._places) and all(
            "command" in server.verdicts for server in self._places)

    def configure(self, server: Server, fields: Mapping[str, Any], cause: str = BY_COMMAND) -> None:
        """Give a server these of its FIELDS, and its address if that is among them; ``cause`` is told in events."""
        for name, value in fields.items():
            if name == "address":
                self.move(server, value)
            elif name == "state":
                self.set_state(server, value, cause)
            else:
                setattr(server, name, value)

    def act(self, server: Server, actions: Mapping[str, Any]) -> None:
        """Do what commands ask for, in their order: ``blacklist`` it for so many seconds, give a verdict on its
        ``health``, or take for found what another gpen has found: that a connect ``failed`` (for so many seconds it is
        left alone; 0: no longer), and what it ``checked``."""
        health = self.health
        for name, said in actions.items():
            if name == "blacklist":
                health.blacklist(server, said)
            elif name == "failed" and said:
                health.blame(server, said.reason, seconds=said.seconds)
            elif name in SOURCES and said.word == "unknown":
                health.withdraw(server, SOURCES[name], "withdrawn", "is withdrawn by a command")
            elif name in SOURCES:
                health.judge(server, SOURCES[name], said.word, said.reason, said.seconds)

    def delete(self, number: int, cause: str = BY_COMMAND) -> Server:
        """Take a server away: it gets no new sessions, the old ones go on. Raises KeyError."""
        server = self.servers.pop(number)
        server.deleted = True
        dismiss_spares(server)
        self._arrange(server)
        self.on_moved()
        self.events.note(server, "deleted", cause)
        return server

    def move(self, server: Server, address: Address) -> None:
        """Give a server another address: what was known of the place where it was counts no more.

        Where somebody outside judges it, again and again (health_ttl), it gets nobody before it was judged here.
        """
        if address == server.address:
            return
        is_judged = self.is_judged() if server.is_empty else (
            self.settings.health_ttl > 0 and "command" in server.verdicts)
        dismiss_spares(server)
        was_empty, old, server.address = server.is_empty, server.address, address
        _count_elsewhere(server, old)
        if server.is_empty:
            event, cause = "emptied", f"by a command; it was {old}"
        else:
            event, cause = ("filled", str(address)) if was_empty else ("moved", f"from {old} to {address}")
        self.events.note(server, event, cause)
        server.endpoints = ()
        server.silences = {}
        self.on_moved()
        server.verdicts.clear()
        server.weigh()
        self.health.forget(server)
        self._arrange(server)
        if is_judged and not server.is_empty:
            self.health.judge(server, "command", "down", UNJUDGED)

    def set_state(self, server: Server, state: str, cause: str = BY_COMMAND) -> None:
        """The operator's word on a server: ready, drain or maint."""
        if server.state != state:
            server.state = state
            self.events.note(server, state, cause)
            if state != "ready":
                dismiss_spares(server)

    def set_special(self, name: str, spec: ServerSpec | None) -> None:
        """Set or unset the emergency or the abuse server. One that stays where it is keeps its counters."""
        server = self.special.get(name)
        if server is not None and (spec is None or server.address != spec.address):
            server.deleted = True
            dismiss_spares(server)
            del self.special[name]
            self.on_moved()
        if spec is None:
            return
        server = self.special.get(name)
        if server is None:
            server = self.special[name] = Server(name)
            server.address = spec.address
            self.events.date(server)
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
        before new ones. An empty slot has none. Where gpen itself listens is no place for a server: it is left out, and
        a server that has no other is down.

        When the one in use is gone, or a server that is down has got a new one, what was observed counts no more. What
        was said of the server by command stays: that was meant wherever it is."""
        old = server.endpoints
        others = [endpoint for endpoint in endpoints if not self.is_ourselves(endpoint)]
        found: Sequence[Endpoint] = () if server.is_empty else others or endpoints
        stay = [endpoint for endpoint in old if endpoint in found]
        fresh = [endpoint for endpoint in found if endpoint not in old]
        if fresh or len(stay) < len(old):
            server.endpoints = (*stay, *fresh)
            server.silences = {endpoint: silence for endpoint, silence in server.silences.items() if endpoint in found}
            self.on_moved()
            for spare in [spare for spare in server.spares if spare.endpoint not in server.endpoints]:
                spare.give_way()
            if old:
                self._note_move(server, old, has_moved=old[0] not in stay, has_more=bool(fresh))
        if found and not others:
            self.health.judge(server, "address", "down", f"its name means gpen itself, {found[0]}")
        else:
            self.health.withdraw(server, "address", "resolved", "counts no more")

    def _note_move(self, server: Server, old: Sequence[Endpoint], has_moved: bool, has_more: bool) -> None:
        cause = f"from {_listed(old)} to {_listed(server.endpoints)}: '{server.address.host}' was looked up again"
        if has_moved or (has_more and server.is_down):
            self._forget_observed(server)
            self.events.note(server, "moved" if has_moved else "resolved", cause)
        else:
            self.events.tell(server, "resolved", cause)

    def _forget_observed(self, server: Server) -> None:
        """What checks and connects have found where the server was counts no more."""
        server.verdicts = {source: verdict for source, verdict in server.verdicts.items() if source == "command"}
        server.weigh()
        server.excuse(self.now())
        server.trial = None
        if server.blamed != math.inf:
            self.health.forget(server)

    def _arrange(self, server: Server) -> None:
        """Put a server where it belongs now, in the order of the numbers, or take it out."""
        _keep(self._order, server, not server.deleted)
        _keep(self._places, server, not (server.deleted or server.is_empty))


def _keep(servers: list[Server], server: Server, belongs: bool) -> None:
    number = server.number or 0
    is_last = not servers or (servers[-1].number or 0) < number  # as when they come from a file: without a search
    index = len(servers) if is_last else bisect_left(servers, number, key=lambda other: other.number or 0)
    is_there = servers[index : index + 1] == [server]
    if belongs and not is_there:
        servers.insert(index, server)
    elif is_there and not belongs:
        del servers[index]


def _count_elsewhere(server: Server, old: Address) -> None:
    """The server has left that address: its sessions there are none of the new one's, unless it had that before."""
    here, back = server.load, server.elsewhere.pop(server.address, 0)
    if here:
        server.elsewhere[old] = here
    server.beside += here - back


def _listed(endpoints: Sequence[Endpoint]) -> str:
    return ", ".join(map(str, endpoints))
