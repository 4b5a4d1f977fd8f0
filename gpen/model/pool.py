"""The pool: owns the servers, and all that is known of them, whichever listeners use them.

Invariants, in every state that a caller can see:
- a server's ``sessions`` is the number of its open leases, and its ``load``, those of them that are clients' and where
  the server is now, never exceeds what its limits allowed at the choice;
- a lease is given back exactly once, by ``release`` or ``fail``;
- while a server is on trial, as it is reached so, at most one lease is its trial.

Who gets which of them, selector.py says, for each listener.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpen.model.acl import LISTS, AccessList
from gpen.model.address import SPEC_OPTIONS, Address, Endpoint, ServerSpec
from gpen.model.agent import SILENT
from gpen.model.client import Client
from gpen.model.events import Events
from gpen.model.health import Health
from gpen.model.lease import dismiss_spares
from gpen.model.roster import Roster, index_of
from gpen.model.server import AGENT, FIELDS, TCP, Member, Server, Stay, Target
from gpen.model.settings import Settings
from gpen.model.slowstart import Returns

BY_COMMAND = "by a command"
UNJUDGED = "nobody has said yet how it is here"
SPECIAL = ("emergency", "abuse")
SOURCES = {"health": "command", "checked": "check"}  # of verdicts, by what commands call them
ANSWERED = "answered"  # what they call what an agent has said


class Pool:
    """The servers by number, and the special ones (emergency, abuse) by name."""

    def __init__(self, settings: Settings, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``settings`` are those of the process; ``clock`` gives seconds that never jump, ``wall`` the time of day in
        seconds since 1970."""
        self.settings = settings
        self.acls = [AccessList() for _ in range(LISTS)]
        self.servers: dict[int, Server] = {}
        self.special: dict[str, Server] = {}
        self.events = Events(clock, wall)
        self.returns = Returns(clock)
        self.events.on_dated = self.returns.look
        self.health = Health(settings, self.events, clock, lambda: self._order)
        self.on_moved: Callable[[], object] = lambda: None  # called when endpoints of servers have come or gone
        # whether gpen itself listens where a server would be reached
        self.is_ourselves: Callable[[Target, Endpoint], bool] = lambda target, endpoint: False
        self.country_of: Callable[[str], str] = lambda address: ""  # the country of an address, where it is known
        self.now = clock
        self.transport = TCP  # over which servers are reached where no listener is named
        self.rosters: list[Roster] = []  # those in use
        self.unresolved: list[Target] = []  # that have come since somebody looked, and have no endpoints yet
        self._order: list[Server] = []

    def permits(self, number: int, client: Client) -> bool:
        """Whether access list ``number`` lets this client in."""
        access = self.acls[number]
        return not access.entries or access.permits(client.address, lambda: self._country(client))

    def _country(self, client: Client) -> str:
        if client.country is None:
            client.country = self.country_of(client.address)
        return client.country

    # --- how they are used ----------------------------------------------------------------------------------------

    def use(self, roster: Roster) -> None:
        """A roster that was made, or changed, counts from now on, until ``dismiss``."""
        if roster not in self.rosters:
            self.rosters.append(roster)
        for server in self._order:
            self._enroll(server, roster)

    def dismiss(self, roster: Roster) -> None:
        """Nobody uses this roster any more: it is empty until somebody does again."""
        self.rosters.remove(roster)
        roster.clear()

    def reach_over(self, transport: str) -> None:
        """Where no listener is named, servers are reached over this transport from now on."""
        if transport != self.transport:
            self.transport = transport
            for server in self.all_servers():
                server.target = self.target(server, transport)

    def forget_unused(self) -> None:
        """Ways to reach servers that no roster uses any more are not looked after."""
        for server in self._order:
            self._forget_unused(server)

    def _forget_unused(self, server: Server) -> None:
        if len(server.targets) > 1:
            members = (roster.get(server) for roster in self.rosters)
            used = {server.target, *(member.target for member in members if member is not None)}
            server.targets = {key: target for key, target in server.targets.items() if target in used}

    def target(self, server: Server, transport: str, port: int | str | None = None) -> Target:
        """The server as it is reached so; nothing is known of it if nobody has reached it so yet."""
        target = server.targets.get((transport, port))
        if target is None:
            target = server.targets[transport, port] = Target(server, transport, port)
            target.since, target.changed = self.events.wall(), self.now()
            self.health.begin(target)
            target.is_away = not target.takes_clients
            self.unresolved.append(target)
        return target

    def special_member(self, name: str, transport: str) -> Member | None:
        """The special server of this name, if there is one."""
        server = self.special.get(name)
        return None if server is None else Member(server, self.target(server, transport))

    def _enroll(self, server: Server, roster: Roster) -> None:
        target = self.target(server, roster.transport, roster.port_of(server)) if roster.uses(server) else None
        roster.renew(server, target)

    # --- the operator's changes -----------------------------------------------------------------------------------

    def add(self, number: int, address: Address, is_judged: bool = False) -> Server:
        """A new server under a number that is free; one that ``is_judged`` gets nobody before it was."""
        server = self._new(str(number), number, address)
        self.servers[number] = server
        self._arrange(server)
        self.events.note(server, "added", str(address))
        self.returns.begin(*server.targets.values())
        if is_judged and not server.is_empty:
            self.health.judge(server, "command", "down", UNJUDGED)
        return server

    def _new(self, name: str, number: int | None, address: Address) -> Server:
        server = Server(name, number)
        server.address = address
        server.target = self.target(server, self.transport)
        return server

    def is_judged(self) -> bool:
        """Whether somebody outside judges all servers, again and again, for else its words would expire (health_ttl):
        then it will soon say how new ones are, and they may be no place to write to."""
        if not self.settings.health_ttl:
            return False
        places = [server for server in self._order if not server.is_empty]
        return bool(places) and all("command" in server.verdicts for server in places)

    def configure(self, server: Server, fields: Mapping[str, Any], cause: str = BY_COMMAND) -> None:
        """Give a server these of its FIELDS, and its address if that is among them; ``cause`` is told in events."""
        for name, value in fields.items():
            if name == "address":
                self.move(server, value)
            elif name == "state":
                self.set_state(server, value, cause)
            else:
                setattr(server, name, value)
        if "weight" in fields or "prio" in fields:
            self._arrange(server)

    def act(self, server: Server, actions: Mapping[str, Any], target: Target | None = None) -> None:
        """Do what commands ask for, in their order: ``blacklist`` it for so many seconds, give a verdict on its
        ``health``, or take for found what another gpen has found: that a connect ``failed`` (for so many seconds it is
        left alone; 0: no longer) at one ``target``, what it ``checked``, how many seconds ago it ``returned``, and what
        the agent ``answered``."""
        health = self.health
        for name, said in actions.items():
            if name == ANSWERED and said.word == "unknown":
                self.forget_agent(server, "withdrawn", "is withdrawn by a command")
            elif name == ANSWERED:
                self.heed(server, said.word, said.seconds)
            elif name == "blacklist":
                health.blacklist(server, said)
            elif name == "returned":
                self.returns.resume(server, said)
            elif name == "failed" and said:
                health.found(target or server.target, said.reason, said.seconds)
            elif name in SOURCES and said.word == "unknown":
                health.withdraw(server, SOURCES[name], "withdrawn", "is withdrawn by a command")
            elif name in SOURCES:
                health.judge(server, SOURCES[name], said.word, said.reason, said.seconds)

    def heed(self, server: Server, line: str, age: float = 0.0) -> bool:
        """A server's agent says so, and has for ``age`` seconds. Whether anything is different by it. Raises ValueError
        if it says nothing."""
        old, new = server.agent, server.agent.followed_by(line)
        is_told = 0 in (new.share, old.share)  # of nothing, the server is drained, which is an event of its own
        server.agent = new.as_told if is_told or new.is_notable else new
        self.health.judge(server, AGENT, new.verdict, f"its agent says '{new}'", age)
        if new.share != old.share:
            self._arrange(server)
            if new.is_notable and not is_told:
                self.events.tell(server, "weight", f"{new.of(server.weight):g} of {server.weight}: its agent says "
                                                   f"'{new}'")
        return new != old

    def forget_agent(self, server: Server, event: str, cause: str) -> None:
        """What a server's agent has said counts no more."""
        self.health.withdraw(server, AGENT, event, cause)
        self._silence_agent(server)

    def _silence_agent(self, server: Server) -> None:
        had, server.agent = server.agent, SILENT
        if had.share is not None:
            self._arrange(server)

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
        for target in server.targets.values():
            target.locate(())
            target.silences = {}
        self.unresolved += server.targets.values()
        self.on_moved()
        server.verdicts.clear()
        server.agent = SILENT
        server.weigh()
        self.health.forget(server)
        self.returns.begin(*server.targets.values())
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
        """Set or unset a special server. One that stays where it is keeps its counters."""
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
            server = self.special[name] = self._new(name, None, spec.address)
        for option in SPEC_OPTIONS:
            setattr(server, option, spec.options.get(option, FIELDS[option]))

    def server(self, label: int | str) -> Server | None:
        """The server of this number or special name."""
        return self.special.get(label) if isinstance(label, str) else self.servers.get(label)

    def all_servers(self) -> Sequence[Server]:
        """The numbered servers in order, then the special ones."""
        if not self.special:
            return list(self._order)
        first = [name for name in SPECIAL if name in self.special]
        return [*self._order, *(self.special[name] for name in dict.fromkeys((*first, *sorted(self.special))))]

    def prefer(self, target: Target, endpoint: Endpoint) -> None:
        """Try this one of a server's addresses first from now on: it has just answered."""
        target.endpoints = (endpoint, *(other for other in target.endpoints if other != endpoint))

    def resolved(self, target: Target, endpoints: Sequence[Endpoint]) -> None:
        """The server's address means these endpoints now, as it is reached so; in which order does not matter, and
        those that stay are tried before new ones. An empty slot has none. Where gpen itself listens is no place for a
        server: it is left out, and a server that has no other is down.

        When the one in use is gone, or a server that is down has got a new one, what was observed counts no more. What
        was said of the server by command stays: that was meant wherever it is."""
        server, old = target.server, target.endpoints
        others = [endpoint for endpoint in endpoints if not self.is_ourselves(target, endpoint)]
        is_main = target is server.target
        found: Sequence[Endpoint] = () if server.is_empty else others or (endpoints if is_main else ())
        stay = [endpoint for endpoint in old if endpoint in found]
        fresh = [endpoint for endpoint in found if endpoint not in old]
        if fresh or len(stay) < len(old):
            target.locate((*stay, *fresh))
            target.silences = {endpoint: silence for endpoint, silence in target.silences.items() if endpoint in found}
            self.on_moved()
            for spare in [spare for spare in server.spares if spare.target is target
                          and spare.endpoint not in target.endpoints]:
                spare.give_way()
            if old:
                self._note_move(target, old, has_moved=old[0] not in stay, has_more=bool(fresh))
        if not is_main:
            return  # a verdict is of the server, however it is reached
        if found and not others:
            self.health.judge(server, "address", "down", f"its name means gpen itself, {found[0]}")
        else:
            self.health.withdraw(server, "address", "resolved", "counts no more")

    def _note_move(self, target: Target, old: Sequence[Endpoint], has_moved: bool, has_more: bool) -> None:
        server = target.server
        cause = f"from {_listed(old)} to {_listed(target.endpoints)}: '{server.address.host}' was looked up again"
        if has_moved or (has_more and target.is_down):
            self._forget_observed(target)
            self.events.note_target(target, "moved" if has_moved else "resolved", cause)
            if has_moved:
                self.returns.begin(target)
        else:
            self.events.tell(server, "resolved", cause)

    def _forget_observed(self, target: Target) -> None:
        """What checks and connects have found where the server was counts no more."""
        server = target.server
        if target is server.target:  # else what was found since would go as well, with each of the other targets
            server.verdicts = {source: verdict for source, verdict in server.verdicts.items() if source == "command"}
            server.weigh()
            self._silence_agent(server)
        target.excuse(self.now())
        target.trial = None
        if target.blamed != math.inf:
            self.health.forget_target(target)

    def _arrange(self, server: Server) -> None:
        """Put a server where it belongs now, in the order of the numbers, or take it out."""
        _keep(self._order, server, not server.deleted)
        for roster in self.rosters:
            self._enroll(server, roster)
        self._forget_unused(server)


def stand_in(name: str, number: int | None, endpoints: Sequence[Endpoint]) -> Member:
    """What stands for a server of another process's pool, which chooses it."""
    server = Server(name, number)
    server.target = target = Target(server, TCP)
    target.locate(endpoints)
    return Member(server, target)


def _keep(servers: list[Server], server: Server, belongs: bool) -> None:
    index = index_of(servers, server.number or 0)
    is_there = servers[index : index + 1] == [server]
    if belongs and not is_there:
        servers.insert(index, server)
    elif is_there and not belongs:
        del servers[index]


def _count_elsewhere(server: Server, old: Address) -> None:
    """The server has left that address: its sessions there are none of the new one's, unless it had that before."""
    server.stay.left = server.load
    if server.stay.left:
        server.elsewhere[old] = server.stay
    back = server.elsewhere.pop(server.address, None) or Stay()
    server.beside += server.stay.left - back.left
    back.left = 0
    server.stay = back


def _listed(endpoints: Sequence[Endpoint]) -> str:
    return ", ".join(map(str, endpoints))
