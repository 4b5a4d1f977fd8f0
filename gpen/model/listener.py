"""Listeners: what a configuration says of one that has a name, and what belongs to each one that is in force."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpen.model.client import ClientTable
from gpen.model.route import REJECT
from gpen.model.routes import Routes
from gpen.model.selector import Selector
from gpen.model.server import TCP, UDP, Member, Server
from gpen.model.settings import Settings
from gpen.model.shared import SharedTable
from gpen.model.value_types import UNNAMED


@dataclass
class ListenerConfig:
    """What is said behind ``listener NAME``: the settings that it has of its ``own``, the numbers of the ``servers``
    that it uses (None: all), and what is different of some of these there (``members``, MEMBER_FIELDS by number)."""

    own: dict[str, Any] = field(default_factory=dict)
    servers: tuple[int, ...] | None = None
    members: dict[int, dict[str, Any]] = field(default_factory=dict)

    def copy(self) -> ListenerConfig:
        """The same, to be changed by itself."""
        members = {number: dict(fields) for number, fields in self.members.items()}
        return ListenerConfig(dict(self.own), self.servers, members)

    @property
    def uses_all_alike(self) -> bool:
        """Whether servers are used as those do of which nothing is said."""
        return self.servers is None and not self.members


class Scope:
    """A listener in force: its settings, its selector, and its memory of clients, which may be another's as well."""

    def __init__(self, name: str, settings: Settings, selector: Selector) -> None:
        """``name`` is empty for the one without."""
        self.name = name
        self.config = ListenerConfig()
        self.settings = settings
        self.selector = selector
        self.routes = Routes(selector)
        self._own_clients = self.clients = ClientTable()
        self._own_turns = selector.turns

    def selectors(self) -> Iterator[Selector]:
        """Its selector, and those of its routes."""
        yield self.selector
        yield from self.routes

    def members_of(self, server: Server) -> list[Member]:
        """How a server is used here: not at all, or once for each of these."""
        return [member for selector in self.selectors() for member in selector.members_of(server)]

    def all_members(self) -> list[Member]:
        """Each server that is used here, once."""
        every = {member.server: member for selector in self.selectors() for member in selector.all_members()}
        return sorted(every.values(), key=lambda member: (member.server.is_special, member.server.number or 0))

    def numbered_members(self) -> Collection[Member]:
        """Those that a client can get, without those that have no number, each once: where there are routes, those that
        one leads to."""
        if not self.settings.route or self.settings.udp:
            return self.selector.roster.members
        return {member.server: member for route in self.routes for member in route.roster.members}.values()

    @property
    def rejects_all(self) -> bool:
        """Whether its routes let nobody in."""
        return bool(self.settings.route) and not self.settings.udp and all(route.to == REJECT for route in self.routes)

    @property
    def shared(self) -> SharedTable | None:
        """Its own memory of clients, where peers are told of it."""
        clients = self._own_clients
        return clients if isinstance(clients, SharedTable) and clients is self.clients else None

    def publish(self, is_shared: bool) -> None:
        """Whether peers are told of its clients from now on; ``share_memory`` has it used."""
        former = self._own_clients
        if is_shared != isinstance(former, SharedTable):
            self._own_clients = SharedTable() if is_shared else ClientTable()
            self._own_clients.succeed(former)

    def share_memory(self, other: Scope) -> None:
        """Its memory of clients and its turn are this one's from now on: another's, or its own."""
        self.clients, self.selector.turns = other._own_clients, other._own_turns


def transport_of(settings: Settings) -> str:
    """Over which a listener with these settings is reached, and reaches servers."""
    return UDP if settings.udp else TCP


class Misled(ValueError):
    """``tracking_with`` leads nowhere, or round; ``names`` are the listeners that make it so."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = names


def memory_of(name: str, settings: Mapping[str, Settings]) -> str:
    """The listener, of all by their names, whose memory of clients this one has: itself, or where ``tracking_with``
    leads. Raises Misled."""
    passed = [name]
    while (other := settings[passed[-1]].tracking_with) is not None:
        other = "" if other == UNNAMED else other
        if other not in settings:
            raise Misled(f"there is no listener '{other}' (known: {', '.join(map(called, settings))})", passed[-1:])
        if other in passed:
            circle = passed[passed.index(other):]
            raise Misled(f"leads in a circle, {' to '.join(map(called, (*circle, other)))}: one of them needs a memory "
                         "of its own", circle)
        passed.append(other)
    return passed[-1]


def called(name: str) -> str:
    """A listener in lists: by its name, or what the one without is called."""
    return name or UNNAMED
