"""The configuration in force: settings, servers and access lists.

It changes by adopting a Draft, in one step. ``dump`` gives the commands that make it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpen.control.draft import Base, Draft
from gpen.control.script import Call
from gpen.model.acl import LISTS, AccessList
from gpen.model.address import Address
from gpen.model.check import Check
from gpen.model.client import ClientTable
from gpen.model.health import MEANWHILE
from gpen.model.pool import SOURCES, SPECIAL, Pool
from gpen.model.server import FIELDS, Server
from gpen.model.settings import SETTINGS, Settings
from gpen.model.text import quote


class Configuration:
    """Settings, servers and access lists, with the memory of clients that they govern."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump, ``wall`` the time of day in seconds since 1970."""
        self.settings = Settings()
        self.pool = Pool(self.settings, clock, wall)
        self.clients = ClientTable()
        self.ignored: set[str] = set()  # commands without effect that were run

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

    def adopt(self, draft: Draft) -> None:
        """Put a draft over this configuration, or over one that it was adopted from, in force. Can't fail."""
        pool = self.pool
        for name, value in draft.values.items():
            self.settings.replace(name, value)
            if name in SPECIAL:
                pool.set_special(name, value)
        if "clients_max" in draft.values:
            self.clients.shrink(self.settings.clients_max)
        for number in draft.deleted & pool.servers.keys():
            pool.delete(number, draft.cause)
        is_judged = bool(draft.servers) and pool.is_judged()
        for number, fields in draft.servers.items():
            server = pool.servers.get(number) or pool.add(number, fields["address"], is_judged)
            pool.configure(server, fields, draft.cause)
        for number, access in draft.lists.items():
            pool.acls[number] = access
        for number, actions in draft.actions.items():
            pool.act(pool.servers[number], actions)
        for address, place in draft.clients.items():
            remembered = None if place is None else pool.servers.get(place[0])  # it may have been deleted since
            if place is None or remembered is None:
                self.clients.forget(address)
            else:
                self.clients.remember(address, remembered, pool.now() - place[1], self.settings.clients_max)
        self.ignored |= draft.ignored

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

    def state(self) -> Iterator[str]:
        """The commands that make of a gpen with this configuration, which begins anew, one that is where this is."""
        now = self.pool.now()
        for server in self.pool.all_servers():
            if server.number is not None and not server.is_empty:
                yield from (f"server {server.number} {words}" for words in _state_words(server, now))
        for client in reversed(list(self.clients)):
            server_of = client.server
            if server_of is not None and server_of.number is not None and not server_of.deleted:
                yield f"client {client.address} server {server_of.number} idle {_seconds(now - client.last)}"


def _state_words(server: Server, now: float) -> Iterator[str]:
    """What is to be said of a server behind its number."""
    if server.state != FIELDS["state"]:
        yield f"state {server.state}"
    names = {source: name for name, source in SOURCES.items()}
    for source, verdict in server.verdicts.items():  # in their order: of equals the first is told
        if source in names:
            yield f"{names[source]} {verdict.word} for {_seconds(now - verdict.began)}{_because(verdict.reason)}"
    if server.down_until:
        left, reason = _seconds(max(server.down_until - now, _A_MOMENT)), server.reason
        if server.blamed == math.inf:
            yield f"blacklist {left}"
            reason = reason.partition(MEANWHILE)[2]
        if reason:
            yield f"failed {left}{_because(reason)}"


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
