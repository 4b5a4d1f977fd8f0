"""Which servers a listener uses, and what of them is different there.

Listeners for which nothing is different share one roster: a hundred listeners of a thousand servers are a thousand
members, and not a hundred thousand. So they take 35.3 MB of memory, where one listener takes 34.9; and a connection
costs 316,000 instructions with a hundred, 308,000 with one, and 336,000 in the gpen that knew but one (callgrind, 800
connections that say a byte, one after the other; AMD EPYC, 2026-11-26).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any

from gpen.model.server import Member, Server, Target

_number = attrgetter("number")


class Roster:
    """``members`` are the servers that are there, without slots that are empty, in the order of their numbers."""

    def __init__(self, transport: str, numbers: Collection[int] | None = None,
                 differences: Mapping[int, Mapping[str, Any]] | None = None) -> None:
        """Over ``transport``, those of these ``numbers`` only, unless None; ``differences`` are MEMBER_FIELDS of some
        servers, by their numbers."""
        self.members: list[Member] = []
        self.transport = ""
        self._numbers: frozenset[int] | None = None
        self._said: Collection[int] | None = None  # what that was made of
        self._differences: dict[int, dict[str, Any]] = {}
        self.change(transport, numbers, differences or {})
        self._known: dict[Server, Member] = {}

    def get(self, server: Server) -> Member | None:
        """How a server is used here, if it is."""
        return self._known.get(server)

    def change(self, transport: str, numbers: Collection[int] | None,
               differences: Mapping[int, Mapping[str, Any]]) -> bool:
        """This holds from now on. Whether something is different by it: ``renew`` each server then."""
        old = self.transport, self._numbers, self._differences
        self.transport = transport
        if numbers is not self._said:  # to look at 1,000 numbers for each of 100 listeners took 7 ms
            self._numbers, self._said = None if numbers is None else frozenset(numbers), numbers
        self._differences = {number: dict(fields) for number, fields in differences.items()}
        return old != (self.transport, self._numbers, self._differences)

    def port_of(self, server: Server) -> int | str | None:
        """The port where it is reached from here, if that is not its own."""
        port: int | str | None = self._differences.get(server.number or 0, {}).get("port")
        return None if port == server.address.port or server.address.path else port

    def uses(self, server: Server) -> bool:
        """Whether a server belongs here."""
        return not (server.deleted or server.is_empty) and (self._numbers is None or server.number in self._numbers)

    def renew(self, server: Server, target: Target | None) -> None:
        """Something of a server has changed: it is reached so, or is not to be here any more (None)."""
        member = self._known.get(server)
        if target is None:
            if member is not None:
                del self._known[server]
                del self.members[index_of(self.members, member.number)]
            return
        if member is None:
            member = self._known[server] = Member(server, target)
            self.members.insert(index_of(self.members, member.number), member)
        different = self._differences.get(server.number or 0, {})
        member.target = target
        member.max = different.get("max", 0)
        member.configured = different.get("weight", server.weight)
        member.weight = server.agent.of(member.configured)
        member.prio = different.get("prio", server.prio)

    def clear(self) -> None:
        """Nobody says any more what becomes of servers."""
        self.members.clear()
        self._known.clear()


def index_of(items: Sequence[Server | Member], number: int) -> int:
    """Where one with this number is among them, who are in the order of their numbers, or belongs."""
    if not items or (items[-1].number or 0) < number:  # as when they come from a file: without a search
        return len(items)
    return bisect_left(items, number, key=_number)
