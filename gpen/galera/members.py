"""Where the members of a cluster are. What they call themselves (wsrep_incoming_addresses) is often not what they are
reached at: behind NAT, in containers, with a network of their own for replication. Pure.

The list is in the order of wsrep_local_index, the same for all nodes of a view. So a node that answers tells by its
index which entry is its own, whatever that says; and one that has answered once is known by what it called itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from gpen.galera.report import MYSQL_PORT, Report
from gpen.model.address import Address, parse_server


class Members:
    """Knows the nodes by the addresses at which they are reached."""

    def __init__(self, mapped: Mapping[str, str] | None = None) -> None:
        """``mapped``: where the operator says that a node is reached, by what it calls itself."""
        self._mapped = mapped or {}
        self._own: dict[str, str] = {}  # what a node calls itself, by its address; empty: nothing of use

    def saw(self, address: str, report: Report) -> None:
        """A node has told of itself."""
        own = report.members[report.index] if report.index < len(report.members) else ""
        place = place_of(own)
        self._own[address] = str(place) if place else ""

    def forget(self, address: str) -> None:
        self._own.pop(address, None)

    def addresses(self, reports: Mapping[str, Report]) -> list[str]:
        """The members that hold data, of the view that these nodes are in, by their own reports: where each is reached,
        as far as that is known; else what it calls itself, perhaps AUTO. An arbitrator (garbd) has an empty entry."""
        members = next(iter(reports.values())).members if reports else ()
        answering = {report.index: address for address, report in reports.items()}
        return [answering[index] if index in answering else self._reached_at(member)
                for index, member in enumerate(members) if member or index in answering]

    def _reached_at(self, member: str) -> str:
        place = place_of(member)
        if place is None:
            return member
        called = str(place)
        if called in self._own:
            return called
        return next((address for address, own in self._own.items() if own == called), self._mapped.get(called, called))

    def called(self, address: str) -> str:
        """How all watchers know a node, at whatever addresses they reach it: as it calls itself, if no other does so
        too."""
        own = self._own.get(address, "")
        return own if own and list(self._own.values()).count(own) == 1 else address

    def known_as(self, called: str) -> str:
        """Where the node is that is called so; what it is called, where none here is."""
        return next((address for address in self._own if self.called(address) == called), called)

    def is_missing(self, address: str, members: Iterable[str]) -> bool:
        """Whether a node that has told what it calls itself is none of these members, as these call themselves."""
        own = self._own.get(address, "")
        return bool(own) and own not in [str(place_of(member)) for member in members]

    def may_include(self, address: str, addresses: Collection[str], nodes: Collection[str]) -> bool:
        """Whether a node may be one of the members at these addresses: it is known as one, or may be one of those that
        none of the ``nodes`` is known as."""
        if address in addresses:
            return True
        return not self._own.get(address) and any(other not in nodes for other in addresses)


@lru_cache(4096)  # with 50 nodes this is asked 200 times a second
def place_of(member: str) -> Address | None:
    """Where a member is; None for AUTO, which a node says that does not know its own address."""
    try:
        address = parse_server(member, MYSQL_PORT).address
    except ValueError:
        return None
    if address.host.upper() == "AUTO" or not address.host or not isinstance(address.port, int):
        return None
    place = Address(address.host, address.port or MYSQL_PORT)
    return None if place.is_none else place


def mapping(pairs: Iterable[str]) -> dict[str, str]:
    """What is reached where, from texts A=B. Raises ValueError."""
    mapped = {}
    for pair in pairs:
        called, _, reached = pair.partition("=")
        places = place_of(called), place_of(reached)
        if None in places:
            raise ValueError(f"'{pair}' is not A=B: expected two addresses HOST[:PORT]")
        mapped[str(places[0])] = str(places[1])
    return mapped
