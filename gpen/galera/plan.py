"""What a gpen shall think of its servers, and the control commands that make it think so. Pure.

A plan is a whole: told again it changes nothing, so a gpen that was restarted, or could not be reached for a while, is
simply told the plan of now.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpen.model.address import Address
from gpen.model.words import printable

LONGEST = 500  # characters of a reason that a gpen is told: its lines may have 8192 bytes

Row = Mapping[str, Any]  # of `servers json`

_NEEDED = {"prio": "writes go to several nodes", "roundrobin": "clients that it remembers stay at the old writer"}


@dataclass(frozen=True)
class Order:
    """What to do with one server. ``up``: None leaves that to the gpen; ``close``: sessions that it has from before are
    of no use, and end."""

    up: bool | None
    reason: str
    prio: int | None = None
    close: bool = False


Plan = Mapping[str, Order]  # by the nodes' addresses


_NONE = type(None)
_TOLD: Mapping[str, tuple[type, ...]] = {
    "number": (int,), "address": (str, _NONE), "host": (str, _NONE), "port": (int, str, _NONE), "prio": (int,),
    "state": (str,), "health": (str,), "sessions": (int,)}


def rows_in(text: str) -> list[Row]:
    """The rows that `servers json` has answered. Raises ValueError when these are none."""
    try:
        rows = json.loads(text)
    except RecursionError:
        raise ValueError("brackets without end") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_server(row) for row in rows):
        raise ValueError("no list of servers")
    return rows


def _is_server(row: Row) -> bool:
    """Whether a row holds what is read of one; gpen's two special servers have no number, and are not looked at."""
    if row.get("number", "") is None:
        return True
    return all(name in row and isinstance(row[name], kind) for name, kind in _TOLD.items())


def node_of(row: Row) -> str | None:
    """The address HOST:PORT of the node that a server is; None for one that is not looked up yet, for a unix socket,
    for an empty slot and for gpen's two special servers."""
    host, port = row["address"], row["port"]
    if row["number"] is None or row.get("health") == "empty" or not host or host.startswith("/") or not port:
        return None
    return str(Address(host, port))


def nodes_of(rows: Iterable[Row]) -> set[str]:
    return {node for node in map(node_of, rows) if node}


def front(rows: Iterable[Row]) -> str | None:
    """The node that gets the connections of a gpen that runs with -O prio: the one with the lowest prio, if it is
    the only one with that."""
    ranks = sorted((row["prio"], node) for row in rows if (node := node_of(row)))
    if not ranks or (len(ranks) > 1 and ranks[0][0] == ranks[1][0]):
        return None
    return ranks[0][1]


def misfit(name: str, modes: Mapping[str, Any]) -> str:
    """Why a gpen with these modes can't go with the writer, and the remedy; nothing when it can."""
    for mode, effect in _NEEDED.items():
        if not modes.get(mode, True):
            return f"{name}: runs without {mode}: {effect}: gpenctl {name} {mode}"
    return ""


@dataclass(frozen=True)
class Changes:
    """What to do with the servers of one gpen. ``deleted``: their numbers; ``added``: the commands for new ones."""

    deleted: Collection[int] = ()
    added: Sequence[str] = ()

    def commands(self, rows: Iterable[Row], by_address: bool = False) -> list[str]:
        """The lines that make the changes, as far as they are not made yet."""
        return [*(f"no server {_which(row, by_address)}" for row in rows if row["number"] in self.deleted), *self.added]

    def kept(self, rows: Iterable[Row]) -> list[Row]:
        """The servers that stay: of others nothing can be told."""
        return [row for row in rows if row["number"] not in self.deleted]


class Herald:
    """Turns plans into commands for one gpen, and remembers which servers' sessions it has ended."""

    def __init__(self, by_address: bool = False) -> None:
        """``by_address``: the commands name the address as well, so that no server is meant that has got the number
        of another since they were made."""
        self.by_address = by_address
        self._ended: set[str] = set()

    def meet(self, plan: Plan, rows: Sequence[Row]) -> None:
        """Take a gpen as it is at the first contact: with prios, only the server in front can have sessions that
        another one should have."""
        if any(order.prio is not None for order in plan.values()):
            self._ended = {node for node, order in plan.items() if order.close and order.up} - {front(rows)}

    def commands(self, plan: Plan, rows: Sequence[Row]) -> list[str]:
        """The lines that carry out a plan, in an order in which no moment between two is wrong: who loses rank does so
        first, and sessions end when new ones go elsewhere already."""
        known = [(row, plan[node]) for row in rows if (node := node_of(row)) and node in plan]
        ranks = [(order.prio, row["number"], _which(row, self.by_address)) for row, order in known
                 if order.prio is not None and order.prio != row["prio"]]
        lines = [f"server {which} prio {prio}" for prio, _, which in sorted(ranks, reverse=True)]
        for row, order in sorted(known, key=lambda pair: bool(pair[1].up)):
            if order.up is None:
                continue
            health = "up" if order.up else "down"
            lines.append(f"server {_which(row, self.by_address)} health {health} because {_plain(order.reason)}")
        lines += [f"close server {_which(row, self.by_address)}" for row, order in known
                  if order.close and node_of(row) not in self._ended]
        return lines

    def done(self, plan: Plan) -> None:
        """The commands for this plan have been carried out."""
        self._ended = {node for node, order in plan.items() if order.close}


def _which(row: Row, by_address: bool) -> str:
    """How a command names a server."""
    place = f" at {Address(row['host'], row['port'])}" if by_address and row["host"] else ""
    return f"{row['number']}{place}"


def _plain(reason: str) -> str:
    """A reason as words that mean nothing to the control language, and that no gpen refuses."""
    words = printable(" ".join(reason.replace('"', "'").replace("#", "no.").split()))
    return (words if len(words) <= LONGEST else f"{words[:LONGEST]}...") or "no reason"
