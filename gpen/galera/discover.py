"""Servers that follow the cluster's own list of its nodes (wsrep_incoming_addresses). Pure; time is handed in.

Added is what the followed group tells. Deleted is only what the group has not told, and what has not answered, for a
long time; never so that fewer than a floor of servers is left, and never what an operator has set to drain or maint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import count

from gpen.galera.members import place_of
from gpen.galera.plan import Addition, Changes, Row, node_of
from gpen.model.address import Address


class Discovery:
    """Adds and deletes servers of any number of gpens."""

    def __init__(self, floor: int, forget: float) -> None:
        """``floor``: so many servers are kept; ``forget``: seconds that a node is gone before it is deleted."""
        self._floor = floor
        self._forget = forget
        self._gone_since: dict[str, float] = {}

    def saw(self, nodes: Iterable[str], members: Collection[str], answering: Collection[str], now: float) -> None:
        """The nodes that are watched, the addresses that the followed group tells (none: there is no group), and the
        nodes that answer."""
        if not members:
            self._gone_since.clear()
            return
        gone = {node for node in nodes if node not in members and node not in answering}
        self._gone_since = {node: self._gone_since.get(node, now) for node in gone}

    def changes(self, rows: Sequence[Row], members: Iterable[str], now: float, rank: int | None = None) -> Changes:
        """What to change at one gpen with these servers. ``rank``: the prio of new ones, where prio counts."""
        servers = {row["number"]: row for row in rows if row["number"] is not None}
        return Changes(self._deletions(servers, now), _additions(servers, members, rank))

    def _deletions(self, servers: dict[int, Row], now: float) -> tuple[int, ...]:
        forgotten = [number for number, row in servers.items() if row["state"] == "ready"
                     and now - self._gone_since.get(node_of(row) or "", now) >= self._forget]
        spare = max(0, len(servers) - self._floor)
        return tuple(forgotten[:spare])


def _additions(servers: dict[int, Row], members: Iterable[str], rank: int | None) -> tuple[Addition, ...]:
    known = {node_of(row) for row in servers.values()}
    known |= {str(Address(row["host"], row["port"])) for row in servers.values()}
    numbers = (number for number in count() if number not in servers)
    places = dict.fromkeys(filter(None, map(place_of, members)))
    return tuple(Addition(next(numbers), place, rank) for place in places if str(place) not in known)
