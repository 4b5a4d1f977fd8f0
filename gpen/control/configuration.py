"""The configuration in force: settings, servers and access lists.

It changes by adopting a Draft, in one step. ``dump`` gives the commands that make it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gpen.control.draft import Base, Draft
from gpen.control.script import Call
from gpen.model.acl import LISTS, AccessList
from gpen.model.address import Address
from gpen.model.check import Check
from gpen.model.client import ClientTable
from gpen.model.health import MEANWHILE
from gpen.model.listener import ListenerConfig, Misled, Scope, memory_of, transport_of
from gpen.model.numbers import numbers_words
from gpen.model.pool import ANSWERED, SOURCES, SPECIAL, Pool
from gpen.model.roster import Roster
from gpen.model.selector import Selector, special_name
from gpen.model.server import AGENT, FIELDS, MEMBER_FIELDS, TRANSPORTS, Member, Server, Target
from gpen.model.settings import SETTINGS, SHARED, Settings
from gpen.model.slowstart import fraction
from gpen.model.text import quote


class Configuration:
    """Settings, servers, access lists and listeners. ``scopes`` are the listeners in force by their names, first the
    one without, which is there even if it listens nowhere; ``settings`` are its own, and what all others share."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump, ``wall`` the time of day in seconds since 1970."""
        self.settings = Settings()
        self.pool = pool = Pool(self.settings, clock, wall)
        self._rosters = {transport: Roster(transport) for transport in TRANSPORTS}  # of all servers, as they are
        self.scopes = {"": Scope("", self.settings, Selector(pool, self.settings, self._rosters[pool.transport]))}
        self.ignored: set[str] = set()  # commands without effect that were run
        pool.returns.on_return = self._returned
        pool.use(self._rosters[pool.transport])

    def _returned(self, target: Target) -> None:
        """A server has come back: tell of the slow starts that it gets."""
        for scope in self.scopes.values():
            settings = scope.settings
            if settings.slowstart and settings.listen and not settings.rule.is_personal and any(
                    member.target is target for member in scope.members_of(target.server)):
                self.pool.events.tell(target.server, "slowstart", f"its share grows for {settings.slowstart:g} s",
                                      scope.name)

    def settings_in_use(self) -> list[Settings]:
        """Those of the listeners that have an address."""
        every = [scope.settings for scope in self.scopes.values()]
        return [settings for settings in every if settings.listen] or every[:1]

    @property
    def unnamed(self) -> Scope:
        """The listener without a name."""
        return self.scopes[""]

    # --- as the base of a draft ---------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        return list(self.pool.servers)

    def address_of(self, number: int) -> Address | None:
        server = self.pool.servers.get(number)
        return None if server is None else server.address

    def fields_of(self, number: int) -> Mapping[str, Any] | None:
        server = self.pool.servers.get(number)
        if server is None:
            return None
        return {"address": server.address, **{name: getattr(server, name) for name in FIELDS}}

    def list_of(self, number: int) -> AccessList:
        return self.pool.acls[number]

    def own_checks(self) -> dict[int, Check]:
        return {number: server.check for number, server in self.pool.servers.items() if server.check is not None}

    def with_own_tls(self) -> frozenset[int]:
        return frozenset(number for number, server in self.pool.servers.items() if server.tls == "on")

    def listener_names(self) -> list[str]:
        return [name for name in self.scopes if name]

    def listener_of(self, name: str) -> ListenerConfig | None:
        scope = self.scopes.get(name)
        return None if scope is None else scope.config

    def new_addresses(self) -> Mapping[int | str, Address]:
        return {}

    def origin_of(self, label: int | str) -> str:
        return ""

    # --- changing -----------------------------------------------------------------------------------------------------

    def run(self, call: Call) -> None:
        """Carry out one configuring command. Raises ScriptError, with nothing changed, when it makes no sense now."""
        draft = Draft(self)
        draft.run(call)
        self.adopt(draft)

    def new_scope(self, name: str) -> Scope:
        """What a listener of this name will have, if a draft makes it that is adopted with it."""
        settings = Settings()
        return Scope(name, settings, Selector(self.pool, settings, self._rosters[self.pool.transport], name))

    def adopt(self, draft: Draft, scopes: Mapping[str, Scope] | None = None) -> None:
        """Put a draft over this configuration, or over one that it was adopted from, in force; its new listeners get
        these ``scopes``. Can't fail."""
        pool = self.pool
        for name, value in draft.values.items():
            self.settings.replace(name, value)
            if name in SPECIAL:
                pool.set_special(name, value)
        for number in draft.deleted & pool.servers.keys():
            pool.delete(number, draft.cause)
        is_judged = bool(draft.servers) and pool.is_judged()
        for number, fields in draft.servers.items():
            server = pool.servers.get(number) or pool.add(number, fields["address"], is_judged)
            pool.configure(server, fields, draft.cause)
        for number, access in draft.lists.items():
            pool.acls[number] = access
        if draft.values or draft.listeners:
            self._adopt_listeners(draft, scopes or {})
        for number, actions in draft.actions.items():
            pool.act(pool.servers[number], actions)
        self._adopt_observed(draft)
        self.ignored |= draft.ignored

    def _adopt_listeners(self, draft: Draft, scopes: Mapping[str, Scope]) -> None:
        """Make, change and end listeners, and give each the settings that it has now."""
        for name, config in draft.listeners.items():
            if config is None:
                self._end(name)
            else:
                if name not in self.scopes:
                    self.scopes[name] = scopes.get(name) or self.new_scope(name)
                self.scopes[name].config = config
                for special in SPECIAL:
                    self.pool.set_special(special_name(name, special), config.own.get(special))
        for scope in self.scopes.values():
            if scope.name:
                scope.settings.become(self.settings.overlaid(scope.config.own))
        self._arrange()

    def _end(self, name: str) -> None:
        if self.scopes.pop(name, None) is not None:
            for special in SPECIAL:
                self.pool.set_special(special_name(name, special), None)

    def _arrange(self) -> None:
        """Each listener uses servers, and remembers clients, as its settings say now."""
        pool, scopes = self.pool, self.scopes.values()
        listening = next((scope for scope in scopes if scope.settings.listen), self.unnamed)
        before = pool.transport
        pool.reach_over(transport_of(listening.settings))
        settings = {scope.name: scope.settings for scope in scopes}
        is_reached_otherwise = pool.transport != before
        for scope in scopes:
            scope.publish(self.settings.peers is not None)
        for scope in scopes:
            selector, transport, config = scope.selector, transport_of(scope.settings), scope.config
            roster, is_new = self._roster(selector.roster, transport, config.servers, config.members)
            is_reached_otherwise |= is_new or roster is not selector.roster
            selector.roster = roster
            selector.arrange_special()
            is_reached_otherwise |= self._arrange_routes(scope, transport)
            scope.share_memory(self.scopes[_memory(scope.name, settings)])
            scope.clients.shrink(self.settings.clients_max)
        if is_reached_otherwise:
            pool.forget_unused()

    def _arrange_routes(self, scope: Scope, transport: str) -> bool:
        """The routes of a listener lead where its settings say; whether some of their servers may be reached otherwise
        than before."""
        before, members = {id(selector.roster) for selector in scope.routes}, scope.config.members
        changed = []

        def roster_of(current: Roster | None, numbers: tuple[int, ...] | None) -> Roster:
            roster, is_new = self._roster(current, transport, numbers, members)
            changed.append(is_new)
            return roster

        scope.routes.arrange(scope.settings.route, roster_of)
        return any(changed) or before != {id(selector.roster) for selector in scope.routes}

    def _roster(self, current: Roster | None, transport: str, numbers: tuple[int, ...] | None,
                members: Mapping[int, Mapping[str, Any]]) -> tuple[Roster, bool]:
        """The roster of servers with these numbers (None: of all), of which this is different; the ``current`` one, if
        that may be changed. And whether some have yet to be reached so, which is seen to."""
        if numbers is None and not members:
            roster = self._rosters[transport]
            is_new = roster not in self.pool.rosters
        elif current is None or current in self._rosters.values():
            roster, is_new = Roster(transport, numbers, members), True
        else:
            roster = current
            is_new = roster.change(transport, numbers, members)
        if is_new:
            self.pool.use(roster)
        return roster, is_new

    def dismiss_unused(self, leaving: Iterable[Scope] = ()) -> None:
        """Neither the listeners in force, nor these, which were deleted and have sessions yet, need other rosters."""
        pool = self.pool
        used = [selector.roster for scope in (*self.scopes.values(), *leaving) for selector in scope.selectors()]
        unused = [roster for roster in pool.rosters if roster not in used]
        for roster in unused:
            pool.dismiss(roster)
        if unused:
            pool.forget_unused()

    def _adopt_observed(self, draft: Draft) -> None:
        """Take for found, and remember, what another gpen has."""
        pool = self.pool
        for (listener, number), said in draft.failed.items():
            server = pool.servers.get(number)
            member = None if server is None else _member(self.scopes[listener], server)
            if member is not None:
                pool.act(member.server, {"failed": said}, member.target)
        for (listener, address, key), place in draft.clients.items():
            scope = self.scopes[listener]
            number, idle = place or (-1, 0.0)
            remembered = pool.servers.get(number)  # it may have been deleted since
            if key is not None:
                route = scope.routes.find(key)
                if route is not None and remembered is None:
                    route.forget(address)
                elif route is not None and remembered is not None:
                    route.remember(address, remembered, pool.now() - idle)
                continue
            if remembered is None:
                scope.clients.forget(address)
            else:
                scope.clients.remember(address, remembered, pool.now() - idle, self.settings.clients_max)
            for other in self.scopes.values():
                if other.clients is scope.clients:
                    for each in other.routes:  # which know it by themselves, and before the listener
                        each.forget(address)

    # --- as commands --------------------------------------------------------------------------------------------------

    def dump(self, given: Base | None = None) -> Iterator[str]:
        """The commands that make this configuration, from the defaults and also from what is ``given`` already."""
        given = given or Configuration(lambda: 0.0, lambda: 0.0)
        for setting in SETTINGS.values():
            value = self.settings.get(setting.name)
            if not setting.missing and not value == setting.default == given.settings.get(setting.name):
                yield from setting.lines(value)
        for number in range(LISTS):
            entries = self.pool.acls[number].entries
            if entries or given.list_of(number).entries:
                yield f"no acl {number}"
            yield from (f"acl {number} {entry}" for entry in entries)
        for number in sorted({*self.numbers(), *given.numbers()}):
            yield server_line(number, self.fields_of(number) or _NO_SERVER, given.fields_of(number) or {})
        for name in dict.fromkeys([*self.listener_names(), *given.listener_names()]):
            yield from listener_lines(name, self.listener_of(name), given.listener_of(name))

    def state(self) -> Iterator[str]:
        """The commands that make of a gpen with this configuration, which begins anew, one that is where this is."""
        now, slowstart = self.pool.now(), max(settings.slowstart for settings in self.settings_in_use())
        for server in self.pool.all_servers():
            if server.number is not None and not server.is_empty:
                yield from (f"server {server.number} {words}" for words in _state_words(server, now))
                if fraction(server.target, slowstart, now) < 1:
                    yield f"server {server.number} returned {_seconds(now - server.target.returned)}"
        others = [target for server in self.pool.all_servers() for target in server.targets.values()
                  if target is not server.target and target.down_until]
        for scope in self.scopes.values():
            prefix = f"listener {scope.name} " if scope.name else ""
            for target in others if scope.name else ():
                member = _member(scope, target.server)
                if member is not None and member.target is target:
                    yield from (f"{prefix}server {member.number} {words}" for words in _failed_words(target, now))
            if scope.settings.tracking_with is None:
                yield from (f"{prefix}{line}" for line in _client_lines(scope.clients, now))
        for scope in self.scopes.values():  # behind all those: what is said of a listener's client, its routes forget
            prefix = f"listener {scope.name} " if scope.name else ""
            for route in scope.routes:
                yield from (f"{prefix}client {address} {_place_words(server, now - last)} route {route.route}"
                            for address, server, last in route.remembered() if not server.deleted)


def _member(scope: Scope, server: Server) -> Member | None:
    """How a listener uses a server, if it does: it or its routes."""
    return next((member for selector in scope.selectors() if (member := selector.roster.get(server)) is not None), None)


def _memory(name: str, settings: Mapping[str, Settings]) -> str:
    """As ``memory_of``; what leads nowhere is not there yet, as long as the file of -F is not read, and is refused
    behind that."""
    try:
        return memory_of(name, settings)
    except Misled:
        return name


def _client_lines(clients: ClientTable, now: float) -> Iterator[str]:
    for client in reversed(list(clients)):
        server = client.server
        if server is not None and server.number is not None and not server.deleted:
            yield f"client {client.address} {_place_words(server, now - client.last)}"


def _place_words(server: Server, idle: float) -> str:
    """Where a client was, so many seconds ago."""
    return f"server {server.number} idle {_seconds(idle)}"


def _state_words(server: Server, now: float) -> Iterator[str]:
    """What is to be said of a server behind its number."""
    if server.state != FIELDS["state"]:
        yield f"state {server.state}"
    names = {source: name for name, source in SOURCES.items()}
    for source, verdict in server.verdicts.items():  # in their order: of equals the first is told
        if source in names:
            yield f"{names[source]} {verdict.word} for {_seconds(now - verdict.began)}{_because(verdict.reason)}"
        elif source == AGENT and str(server.agent):
            yield f"{ANSWERED} {quote(str(server.agent))} for {_seconds(now - verdict.began)}"
    if server.target.down_until:
        yield from _failed_words(server.target, now)


def _failed_words(target: Target, now: float) -> Iterator[str]:
    left, reason = _seconds(max(target.down_until - now, _A_MOMENT)), target.reason
    if _is_blacklisted(target.server):
        if target is target.server.target:
            yield f"blacklist {left}"
        reason = reason.partition(MEANWHILE)[2]
    if reason:
        yield f"failed {left}{_because(reason)}"


def _is_blacklisted(server: Server) -> bool:
    """Whether a command has blacklisted it, and that counts yet however it is reached: else each way is told alone."""
    return all(target.blamed == math.inf and target.down_until == server.target.down_until
               for target in server.targets.values())


def _because(reason: str) -> str:
    return f" because {quote(reason)}" if reason else ""


def _seconds(value: float) -> str:
    """A number of seconds that can be read back: twelve digits at most (model/value_types.py)."""
    return f"{max(value, 0):.3f}" if value < _LONG else f"{min(value, _LONGEST):.0f}"


_LONG, _LONGEST = 1e8, 1e12 - 1
_A_MOMENT = 0.001  # what is over, and waits for its trial
_NO_SERVER = {**FIELDS, "address": Address("0.0.0.0", 0)}  # pen's way to say so


def server_line(number: int, fields: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The command that makes this server, also where it has been given other fields before."""
    words = [f"server {number} {address_words(fields['address'])}"]
    words += [field_words(name, fields[name]) for name, default in FIELDS.items()
              if not fields[name] == default == given.get(name, default)]
    return " ".join(words)


def address_words(address: Address) -> str:
    """An address as the fields of a server."""
    if address.path:
        return f"address {quote(address.path)}"
    return f"address {address.host}" + (f" port {address.port}" if address.port != "" else "")


def field_words(name: str, value: Any) -> str:
    """One of FIELDS as it is written."""
    return f"{name} {'default' if value is None else value}"


def listener_lines(name: str, config: ListenerConfig | None, given: ListenerConfig | None = None) -> Iterator[str]:
    """The commands that make this listener, also where something else has been given of it before."""
    if config is None:
        yield f"no listener {name}"
        return
    given = given or ListenerConfig()
    prefix = f"listener {name} "
    for setting in SETTINGS.values():
        if setting.name in config.own:
            yield from (f"{prefix}{line}" for line in setting.lines(config.own[setting.name]))
        elif setting.name in given.own:
            yield f"{prefix}{inherit_line(setting.name)}"
    if not (config.servers is None and given.servers is None):
        yield f"{prefix}servers {numbers_words(config.servers)}"
    for number in sorted(given.members.keys() - config.members.keys()):
        yield f"{prefix}inherit server {number}"
    for number, fields in sorted(config.members.items()):
        yield f"{prefix}server {number} {member_words(fields, given.members.get(number, {}))}"


def inherit_line(name: str) -> str:
    """What takes a setting of a listener back."""
    return f"inherit {name}" if SETTINGS[name].scope == SHARED else f"no {name}"


def member_words(fields: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What is different of a server for a listener, and what is not any more."""
    return " ".join(f"{name} {fields.get(name, 'default')}" for name in MEMBER_FIELDS
                    if name in fields or name in given)
