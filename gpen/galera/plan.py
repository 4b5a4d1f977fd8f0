"""What a gpen shall think of its servers, and the control commands that make it think so. Pure.

A plan is a whole: told again it changes nothing, so a gpen that was restarted, or could not be reached for a while, is
simply told the plan of now.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, NamedTuple

from gpen.galera.report import MEMBERS
from gpen.model.address import Address
from gpen.model.text import printable

LONGEST_NAME = 255  # characters of a host's name, or of a path
LONGEST = 500  # characters of a reason that a gpen is told: its lines may have 8192 bytes

Row = Mapping[str, Any]  # of `servers json`

_NEEDED = {"prio": "writes go to several nodes", "roundrobin": "clients that it remembers stay at the old writer"}

OTHERS = ""  # in a plan: the order for the servers that it does not name
LAST_RANK = 99  # of a server that has no place in the succession
FULL = "greeted with error 1040:"  # how gpen tells that a node has too many connections
FOUGHT, WINDOW = 3, 10.0  # another front so many times within so many seconds is no operator's doing


@dataclass(frozen=True)
class Order:
    """What to do with one server. ``up``: None says nothing of its health; ``close``: the sessions that it has are of
    no use, and end, ``quietly`` if there is time for that; ``limit``: the sessions that it has room for; ``drains``:
    not up, but the sessions that it has are to go on, whatever the gpen does with those of a server that is down."""

    up: bool | None
    reason: str
    prio: int | None = None
    close: bool = False
    limit: int | None = None
    drains: bool = False
    quietly: bool = False


Plan = Mapping[str, Order]  # by the nodes' addresses


class Plans(NamedTuple):
    """All that one gpen is told: of its servers, and of the choice among them that only its listeners for writes make.
    The second is empty where a gpen has no such listeners: the first tells the choice then, if there is one."""

    servers: Plan = MappingProxyType({})
    writers: Plan = MappingProxyType({})


def are_alike(one: Plans, other: Plans) -> bool:
    """Whether both want the same, in whatever words."""
    return one == other or _deeds(one) == _deeds(other)


def _deeds(plans: Plans) -> list[dict[str, Order]]:
    return [{node: replace(order, reason="") for node, order in plan.items()} for plan in plans]


_NONE = type(None)
_TOLD: Mapping[str, tuple[type, ...]] = {
    "number": (int,), "address": (str, _NONE), "host": (str, _NONE), "port": (int, str, _NONE), "prio": (int,),
    "state": (str,), "health": (str,), "sessions": (int,)}
_PERHAPS: Mapping[str, tuple[type, ...]] = {  # not told by each version of gpen
    "max": (int,), "rx": (int,), "verdict": (str, _NONE), "reason": (str, _NONE)}
_MOST = 1 << 63  # below that are all numbers that a gpen tells


def rows_in(text: str) -> list[Row]:
    """The rows that `servers json` has answered. Raises ValueError when these are none."""
    try:
        rows = json.loads(text)
    except (RecursionError, ValueError):
        raise ValueError("no JSON") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_server(row) for row in rows):
        raise ValueError("no list of servers")
    if sum(not is_empty(row) for row in rows) > MEMBERS:
        raise ValueError(f"more than {MEMBERS} servers, which no cluster has")
    return rows


def _is_server(row: Row) -> bool:
    """Whether a row holds what is read of one; gpen's two special servers have no number, and are not looked at."""
    if row.get("number", "") is None:
        return True
    return _TOLD.keys() <= row.keys() and _is_place(str(row["address"] or "")) and _is_word(row["host"] or "") and all(
        isinstance(row[name], kind) and (not isinstance(row[name], int) or 0 <= row[name] < _MOST)
        for name, kind in (*_TOLD.items(), *_PERHAPS.items()) if name in row)


@lru_cache(4096)
def _is_place(text: str) -> bool:
    """Whether this is what gpen tells as an address: a number, a path, or nothing."""
    if not _is_word(text):
        return False
    with suppress(ValueError):
        return not text or text.startswith("/") or bool(ip_address(text))
    return False


def _is_word(text: object) -> bool:
    return isinstance(text, str) and len(text) <= LONGEST_NAME and text.isprintable()


def node_of(row: Row) -> str | None:
    """The address HOST:PORT of the node that a server is; None for one that is not looked up yet, for a unix socket,
    for an empty slot and for gpen's two special servers."""
    host, port = row["address"], row["port"]
    if row["number"] is None or row.get("health") == "empty" or not host or host.startswith("/") or not port:
        return None
    return _text(host, port)


@lru_cache(4096)  # with 50 nodes and 6 gpens this is asked 50,000 times a second
def _text(host: str, port: int) -> str:
    return str(Address(host, port))


def nodes_of(rows: Iterable[Row]) -> set[str]:
    return {node for node in map(node_of, rows) if node}


def front(rows: Iterable[Row]) -> str | None:
    """The node that gets the connections of a gpen that runs with -O prio: the one with the lowest prio, if no other
    server has that. It may be listed twice. Where only some servers are ``used``, it is one of these."""
    servers = [row for row in rows if not is_empty(row)]
    servers = [row for row in servers if row.get("used", True)] or servers
    lowest = min((row["prio"] for row in servers), default=0)
    first = {node_of(row) for row in servers if row["prio"] == lowest}
    return first.pop() if len(first) == 1 else None


def is_empty(row: Row) -> bool:
    """Whether it is a slot without a server, or one of gpen's two special servers."""
    return row["number"] is None or row.get("health") == "empty"


def is_full(row: Row) -> bool:
    """Whether a server was found to have no room for a connection: it is there, and will have room again."""
    return row["health"] != "up" and (row.get("reason") or "").startswith(FULL)


def modes_in(text: str) -> Mapping[str, Any]:
    """The modes that `mode json` has answered; none where a gpen does not tell them: it gets its plans even so."""
    try:
        told = json.loads(text)
    except (RecursionError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def misfit(name: str, modes: Mapping[str, Any], listener: str = "") -> str:
    """Why a gpen with these modes, or a listener of it, can't go with the writer, and the remedy; nothing when it can.
    """
    which = f"listener {listener} " if listener else ""
    for mode, effect in _NEEDED.items():
        if not modes.get(mode, True):
            return f"{name}: {which}runs without {mode}: {effect}: gpenctl {name} {which}{mode}"
    return ""


class Addition(NamedTuple):
    """A new server. ``prio``: None where that does not count."""

    number: int
    place: Address
    prio: int | None = None

    def commands(self, by_address: bool) -> list[str]:
        which = f"server {self.number}" + (f" at {self.place}" if by_address else "")
        prio = "" if self.prio is None else f" prio {self.prio}"
        return [f"{which} address {self.place.host} port {self.place.port}{prio}",
                f"{which} health down because new, not asked yet"]


@dataclass(frozen=True)
class Changes:
    """What to do with the servers of one gpen. ``deleted``: their numbers; ``added``: new ones."""

    deleted: Collection[int] = ()
    added: Sequence[Addition] = ()

    def commands(self, rows: Iterable[Row], by_address: bool = False) -> list[str]:
        """The lines that make the changes, as far as they are not made yet; ``by_address`` as in `commands`."""
        return [*(f"no server {which(row, by_address)}" for row in rows if row["number"] in self.deleted),
                *(line for new in self.added for line in new.commands(by_address))]

    def kept(self, rows: Iterable[Row]) -> list[Row]:
        """The servers that stay: of others nothing can be told."""
        return [row for row in rows if row["number"] not in self.deleted]


def commands(plan: Plan, rows: Iterable[Row], limits: Mapping[int, int] | None = None,
             by_address: bool = False) -> list[str]:
    """The lines that carry out a plan, in an order in which no moment between two is wrong: who loses rank does so
    first, and sessions end when new ones go elsewhere already. ``limits``: the `max` that servers were given before, by
    their numbers; ``by_address``: the commands name the address as well, so that no server is meant that has got the
    number of another since they were made."""
    known = orders(plan, rows)
    lines = ranking(plan, rows, by_address)
    limited = new_limits(plan, rows, limits or {})
    lines += [f"server {which(row, by_address)} max {limited[row['number']]}" for row, _ in known
              if row["number"] in limited]
    for row, order in sorted(known, key=lambda pair: bool(pair[1].up)):
        if order.up is not None:
            health = "up" if order.up else "drain" if order.drains else "down"
            lines.append(f"server {which(row, by_address)} health {health} because {_plain(order.reason)}")
    return [*lines, *closing(plan, rows, by_address)]


def ranking(plan: Plan, rows: Iterable[Row], by_address: bool = False) -> list[str]:
    """The lines that give servers their prios, that of the lowest rank first."""
    ranks = [(order.prio, row["number"], which(row, by_address)) for row, order in orders(plan, rows)
             if _is_misplaced(row, order)]
    return [f"server {which} prio {prio}" for prio, _, which in sorted(ranks, reverse=True)]


def closing(plan: Plan, rows: Iterable[Row], by_address: bool = False) -> list[str]:
    """The lines that end the sessions that are of no use."""
    return [f"close server {which(row, by_address)}" for row, order in orders(plan, rows)
            if order.close and (_has_sessions(row) or _falls(row, order))]


def leaving(plan: Plan, rows: Iterable[Row]) -> list[Row]:
    """The servers whose sessions are to end quietly: those that have some, or may have got some since the last look."""
    return [row for row, order in orders(plan, rows)
            if order.close and order.quietly and (_has_sessions(row) or _falls(row, order))]


def new_limits(plan: Plan, rows: Iterable[Row], limits: Mapping[int, int]) -> dict[int, int]:
    """The `max` that servers are to have and have not, by number. A lower one is the operator's, and stays."""
    return {row["number"]: order.limit for row, order in orders(plan, rows)
            if order.limit is not None and row.get("max", 0) != order.limit
            and (not 0 < row.get("max", 0) < order.limit or row["max"] == limits.get(row["number"]))}


def retries(plan: Plan, rows: Iterable[Row], by_address: bool = False) -> list[str]:
    """The lines that have servers tried again at once that were full, and are no worse."""
    return [f"server {which(row, by_address)} blacklist 0" for row, order in orders(plan, rows)
            if order.up and row.get("verdict") == "up" and is_full(row)]


def strays(plan: Plan, rows: Iterable[Row], sessions: str, listeners: Collection[str] | None = None) -> list[str]:
    """The lines that end the sessions that began on a server that is gone, or has another address now, where the plan
    has no use for them. ``sessions``: what `sessions json` has answered; nothing comes of what a gpen has not said.
    ``listeners``: only those of these."""
    listed = {(row["number"], node_of(row)) for row in rows}
    try:
        found = json.loads(sessions)
    except (RecursionError, ValueError):
        return []
    return [f"close {row['id']}" for row in (found if isinstance(found, list) else ())
            if isinstance(row, dict) and isinstance(row.get("id"), int) and isinstance(row.get("server"), int)
            and isinstance(node := row.get("server_address"), str) and (row["server"], node) not in listed
            and (listeners is None or row.get("listener") in listeners)
            and (order := plan.get(node) or plan.get(OTHERS)) is not None and order.close]


def is_amiss(plan: Plan, rows: Iterable[Row]) -> bool:
    """Whether servers that were just looked at are ranked otherwise than in the plan, or have sessions that are of no
    use: the gpen began anew, was reloaded, or somebody has changed a server."""
    return any(_is_misplaced(row, order) or (order.close and _has_sessions(row)) for row, order in orders(plan, rows))


def orders(plan: Plan, rows: Iterable[Row]) -> list[tuple[Row, Order]]:
    """Each server that there is with its order, if it has one."""
    found = ((row, plan.get(node_of(row) or OTHERS) or plan.get(OTHERS)) for row in rows if not is_empty(row))
    return [(row, order) for row, order in found if order is not None]


def _is_misplaced(row: Row, order: Order) -> bool:
    return order.prio is not None and order.prio != row["prio"]


def _has_sessions(row: Row) -> bool:
    return bool(row.get("sessions", 0) > 0)


def _falls(row: Row, order: Order) -> bool:
    """Whether this order takes new connections away from a server: some may have come since it was looked at."""
    return _is_misplaced(row, order) or (row.get("verdict") == "up" and order.up is False)


def full(rows: Iterable[Row]) -> dict[str, str]:
    """The nodes that have no room at a gpen with these servers, and what is known of that."""
    return {node: "too many connections (1040)" if is_full(row) else f"{row['sessions']} of {row['max']} sessions"
            for row in rows if (node := node_of(row)) and (is_full(row) or 0 < row.get("max", 0) <= row["sessions"])}


class Rivalry:
    """Whether somebody else, such as another watcher, goes on putting another node in front of a gpen."""

    def __init__(self) -> None:
        self._seen: list[float] = []

    def saw(self, plan: Plan, rows: Iterable[Row], now: float) -> None:
        """The servers of a gpen to which this plan had been told already."""
        used = front(rows)
        if used is not None and any(order.prio == 0 and node != used for node, order in plan.items()):
            self._seen.append(now)

    def trouble(self, name: str, now: float) -> str:
        """What is to be said of it; nothing while there is none."""
        self._seen = [moment for moment in self._seen if now - moment < WINDOW]
        if len(self._seen) < FOUGHT:
            return ""
        return (f"{name}: somebody else puts another node in front again and again: if that is another watcher, give "
                "all watchers of one writer --agree=SCHEMA")


def which(row: Row, by_address: bool) -> str:
    """How a command names a server."""
    place = f" at {Address(row['host'], row['port'])}" if by_address and row["host"] else ""
    return f"{row['number']}{place}"


def _plain(reason: str) -> str:
    """A reason as words that mean nothing to the control language, and that no gpen refuses."""
    words = printable(" ".join(reason.replace('"', "'").replace("#", "no.").split()))
    return (words if len(words) <= LONGEST else f"{words[:LONGEST]}...") or "no reason"
