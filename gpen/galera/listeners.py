"""The listeners of one gpen: which of them get the writes, what these are told, and what they say. Pure.

How a node is (up, drain, down) belongs to the server, and so to all listeners. What is a listener's own is the choice:
one that gets the writes uses the writer and no other (`listener NAME servers N`), whatever fails, fills up or is added;
what it has elsewhere is closed there (`listener NAME close server N`). Beneath that the prios say who would follow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from gpen.galera.plan import (
    Plan,
    Row,
    closing,
    is_amiss,
    leaving,
    misfit,
    modes_in,
    node_of,
    orders,
    ranking,
    rows_in,
)

UNNAMED = "-"  # what the listener without a name is called
UNKNOWN = -1  # as a prio: it is none that a server has
TOO_OLD = "knows no listeners: it is older than this watcher; restart it with this version"


class Roles(NamedTuple):
    """The listeners with a part of their own, by their names; all others are readers as well."""

    readers: Sequence[str] = ()
    writers: Sequence[str] = ()

    @property
    def named(self) -> list[str]:
        return [name for name in (*self.readers, *self.writers) if name != UNNAMED]


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


def check_roles(roles: Roles) -> None:
    """Raises ValueError, in one line, for listeners that can't have these parts."""
    for option, names in zip(("--reader", "--writer"), roles, strict=True):
        for name in names:
            if name == UNNAMED and option == "--writer":
                raise ValueError("--writer=-: the listener without a name uses all servers: give the one "
                                 "for writes a name, and that here (listener NAME listen [HOST:]PORT)")
            if name != UNNAMED and not NAME.fullmatch(name):
                raise ValueError(f"{option}={name}: with --gpen this is the name of a listener of it")
            if [*roles.readers, *roles.writers].count(name) > 1:
                raise ValueError(f"{option}={name}: this listener is given twice")


class Listener(NamedTuple):
    """What `listeners json` tells of one. ``servers``: the numbers of those that it uses; None: all."""

    sessions: int
    servers: frozenset[int] | None


def listeners_in(text: str) -> dict[str, Listener]:
    """The listeners that `listeners json` has answered, by their names. Raises ValueError when these are none."""
    try:
        rows = json.loads(text)
        return {UNNAMED if row["name"] is None else row["name"]: _listener(row) for row in rows}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise ValueError("no list of listeners") from None


def _listener(row: Mapping[str, Any]) -> Listener:
    servers = row["servers"]
    if not isinstance(row["sessions"], int) or not (servers is None or all(isinstance(each, int) for each in servers)):
        raise ValueError
    return Listener(row["sessions"], None if servers is None else frozenset(servers))


class Desk:
    """One listener that gets the writes, as it was seen last. It lists the servers that it uses, and no others: what
    prio these have is what they were told, and who has sessions is not with the ones that it uses, is with them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.trouble = ""  # why it can't go with the writer
        self._found: Listener | None = None  # None: there is no such listener
        self._own: dict[int, Row] = {}  # the servers that it uses, as it has them
        self._told: dict[tuple[int, str | None], int] = {}  # the prios that servers were given, by number and node

    @property
    def questions(self) -> list[str]:
        return [f"listener {self.name} mode json", f"listener {self.name} servers json"]

    def forget(self) -> None:
        """The gpen began anew, or has perhaps not done what it was told: what prios there are is not known."""
        self._told.clear()

    def look(self, gpen: str, found: Mapping[str, Listener], modes: str, servers: str) -> None:
        """What a gpen has answered: which listeners there are, and the two questions. Raises ValueError when the last
        is no list of servers."""
        self._found = found.get(self.name)
        rows = [] if self._found is None else rows_in(servers)
        self._own = {row["number"]: row for row in rows if row["number"] is not None}
        self.trouble = lack(gpen, [self.name], found) or misfit(gpen, modes_in(modes), self.name)

    def ranked(self, rows: Sequence[Row]) -> list[Row]:
        """A gpen's servers with the prios that they have here, and whether they are used."""
        if self._found is None:
            return list(rows)
        uses = self._found.servers
        return [{**row, "prio": self._prio(row), "used": uses is None or row["number"] in uses} for row in rows]

    def _prio(self, row: Row) -> int:
        own = self._own.get(row["number"])
        return int(own["prio"]) if own else self._told.get((row["number"], node_of(row)), UNKNOWN)

    def view(self, rows: Sequence[Row]) -> list[Row]:
        """The same with the sessions that they have, or may have, here; up is who is used."""
        sessions = {number: row["sessions"] for number, row in self._own.items()}
        elsewhere = max(0, self._found.sessions - sum(sessions.values())) if self._found else 0
        return [{**row, "sessions": sessions.get(row["number"], elsewhere), "verdict": "up" if row["used"] else "down"}
                for row in self.ranked(rows)]

    def leaving(self, plan: Plan, rows: Sequence[Row]) -> list[Row]:
        """The servers whose sessions here are to end quietly."""
        return leaving(plan, self.view(rows)) if self._found is not None else []

    def commands(self, plan: Plan, rows: Sequence[Row]) -> list[str]:
        """The lines that carry out a plan at this listener: its ``up`` says whether a server is used here. That comes
        first, so no moment between two lines is wrong."""
        if not plan or self._found is None:
            return []
        view, selection = self.view(rows), self._selection(plan, rows)
        lines = [f"servers {selection}"] if selection else []
        lines += [*ranking(plan, view), *closing(plan, view)]
        self._told = {(row["number"], node_of(row)): order.prio for row, order in orders(plan, rows)
                      if order.prio is not None}
        return [f"listener {self.name} {line}" for line in lines]

    def is_amiss(self, plan: Plan, rows: Sequence[Row]) -> bool:
        """Whether this listener, which was just looked at, does not follow the plan."""
        return bool(plan) and self._found is not None and (
            bool(self._selection(plan, rows)) or is_amiss(plan, self.view(rows)))

    def _selection(self, plan: Plan, rows: Sequence[Row]) -> str:
        """The servers that are to be used, as a command has them; nothing where they are already. For nobody it is a
        number that no server has."""
        wanted = frozenset(row["number"] for row, order in orders(plan, rows) if order.up)
        uses = self._found.servers if self._found else None
        if wanted:
            return "" if wanted == uses else ",".join(map(str, sorted(wanted)))
        return "" if uses is not None and not uses & {row["number"] for row in rows} else self.nobody(rows)

    @staticmethod
    def nobody(rows: Sequence[Row]) -> str:
        """A selection of none of these servers."""
        numbers = {row["number"] for row in rows}
        return str(next(number for number in count() if number not in numbers))


def lack(gpen: str, names: Iterable[str], found: Mapping[str, Listener]) -> str:
    """Which of these listeners a gpen does not have, and the remedy."""
    for name in names:
        if name not in found:
            which = "" if name == UNNAMED else f"listener {name} "
            return f"{gpen}: has no listener {name}: gpenctl {gpen} {which}listen [HOST:]PORT"
    return ""
