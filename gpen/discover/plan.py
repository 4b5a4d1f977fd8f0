"""What one gpen is to be told so that its servers become those that a source has told of. Pure.

A server that leaves gets a verdict from outside, ``drain``, whose reason everybody can see: what an operator says of it
(state) stays the operator's. It is deleted once it has no session, or when its time is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from gpen.discover.source import Found
from gpen.model.address import Address, bracketed, parse_host
from gpen.model.text import printable, quote, shortened
from gpen.model.value_types import MOST

MOST_SERVERS = 10_000
PROBATION = 10.0  # seconds for which a server has been up that counts for --floor, unless it has been found to work
LEFT = "it has left "  # how the reason begins why a server of ours drains
CHANGED = ("weight", "prio", "max")  # what a source may say of a server

Row = Mapping[str, Any]  # of `servers json`
Wanted = Mapping[Address, Found]  # by where they are

_NONE = type(None)
_TOLD: Mapping[str, tuple[type, ...]] = {
    "number": (int,), "address": (str, _NONE), "host": (str, _NONE), "port": (int, str, _NONE), "state": (str,),
    "health": (str,), "sessions": (int,), "weight": (int,), "prio": (int,), "max": (int,), "verdict": (str, _NONE),
    "verdict_by": (str, _NONE), "verdict_reason": (str, _NONE), "for": (int, float), "rx": (int,)}
TOO_OLD = ("it is older than this program, and knows no owners of servers: restart it with this version (gpenctl "
           "upgrade)")


@dataclass(frozen=True)
class Terms:
    """How a gpen is treated: ``owner`` is who we are, ``source`` whom its servers come from, ``numbers`` those that its
    servers may have. At least ``floor`` servers that can be used stay; ``patience``: seconds that a server which
    leaves has for its sessions; None: as long as they last."""

    owner: str
    source: str
    numbers: range
    floor: int
    patience: float | None


class Step(NamedTuple):
    """A command, and what it comes to, for people."""

    line: str
    news: str


class Plan(NamedTuple):
    """``renewals``: commands that say again what would expire else (health_ttl). ``leaving``: since when, in seconds of
    the clock, servers with these numbers leave; ``kept``: the numbers of those that would, if that left enough others;
    ``theirs``: whose the servers are that are there already, by their addresses; ``trouble``: what can't be done, and
    why."""

    steps: Sequence[Step]
    renewals: Sequence[str]
    leaving: Mapping[int, float]
    kept: Sequence[int]
    theirs: Mapping[str, str]
    trouble: str = ""


# --- what was told ----------------------------------------------------------------------------------------------------


def wanted_of(found: Sequence[Found]) -> Wanted:
    """These servers, each once. Raises ValueError, which names one that makes no sense: then all are suspect."""
    if len(found) > MOST_SERVERS:
        raise ValueError(f"{len(found):,} servers are more than {MOST_SERVERS:,}")
    wanted: dict[Address, Found] = {}
    for server in found:
        wanted.setdefault(place_of(server), server)
    return wanted


@lru_cache(2 * MOST_SERVERS)  # a source that tells of each change tells all servers each time
def place_of(server: Found) -> Address:
    """Where a server is, as gpen writes it. Raises ValueError."""
    name = f"'{printable(shortened(server.host))}:{server.port}'"
    if not 0 < server.port <= 65535:
        raise ValueError(f"{name}: port {server.port} is out of range: expected 1 to 65535")
    for word in CHANGED:
        value = getattr(server, word)
        if value is not None and not 0 <= value <= MOST:
            raise ValueError(f"{name}: {word} {value} is out of range: expected 0 to {MOST}")
    host = server.host.lower().rstrip(".")
    place = parse_host(f"{bracketed(host)}:{server.port}") if host and host.isprintable() else Address()
    if place.path or place.is_none or place.port != server.port:
        raise ValueError(f"{name} is not HOST:PORT")
    return place


def rows_in(text: str) -> list[Row]:
    """The servers that `servers json` has answered, without gpen's special ones. Raises ValueError when that is no such
    answer, or that of a gpen which knows no owners."""
    try:
        rows = json.loads(text)
    except (RecursionError, ValueError):
        raise ValueError("no answer to 'servers json': is it a gpen?") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list of servers in answer to 'servers json': is it a gpen?")
    rows = [row for row in rows if row.get("number", "") is not None]
    if any("owner" not in row for row in rows):
        raise ValueError(TOO_OLD)
    if not all(isinstance(row.get(name, _TOLD), kinds) for row in rows for name, kinds in _TOLD.items()):
        raise ValueError("servers that are not understood in answer to 'servers json': is it a gpen?")
    return rows


# --- what is to be done -----------------------------------------------------------------------------------------------


def plan(wanted: Wanted, rows: Sequence[Row], terms: Terms, leaving: Mapping[int, float], now: float) -> Plan:
    """What there is to do with these servers, where those with the numbers of ``leaving`` have been told to leave."""
    there = [row for row in rows if row["health"] != "empty" and row["host"]]
    own = [row for row in there if row["owner"] == terms.owner]
    others = [row for row in there if row["owner"] != terms.owner]
    ours, theirs = _ours(wanted, own), {**_matches(wanted, others, "address"), **_matches(wanted, others, "host")}
    missing = [place for place in wanted if place not in ours and place not in theirs]
    stay = {row["number"] for row in ours.values()}
    gone = [row for row in own if row["number"] not in stay]
    count = sum(map(_works, {row["number"]: row for row in (*theirs.values(), *ours.values())}.values()))
    kept = _kept(gone, terms.floor - count) if wanted else []
    stay |= {row["number"] for row in kept}
    gone = [row for row in gone if row["number"] not in stay]
    since = {row["number"]: leaving.get(row["number"], now) for row in gone}
    numbers = _free(terms.numbers, rows, len(missing))
    steps = [_added(number, place, wanted[place], terms) for place, number in zip(missing, numbers, strict=False)]
    steps += [step for place, row in ours.items() for step in _changed(row, wanted[place])]
    steps += [step for row in (*ours.values(), *kept) for step in _returned(row, leaving)]
    for row in gone:
        steps += _leaves(row, terms, row["number"] in leaving, now - since[row["number"]])
    lacking = len(missing) - len(numbers)
    trouble = (f"{lacking} of {len(wanted)} servers have no number: all from {terms.numbers[0]} to "
               f"{terms.numbers[-1]} are taken (--numbers)" if lacking else "")
    renewals = [_drain(row, terms) for row in gone if _is_drained(row) and row["sessions"]]
    return Plan(steps, renewals, since, [row["number"] for row in kept],
                {str(place): _whose(row) for place, row in theirs.items() if place not in ours}, trouble)


def _ours(wanted: Wanted, own: Sequence[Row]) -> dict[Address, Row]:
    """The server that is each of those that are wanted: by the address that it was given, else by the one that this was
    looked up as. None is two of them, as what is said of one might not be said of the other."""
    found = _matches(wanted, own, "host")
    numbers = {row["number"] for row in found.values()}
    return {**_matches(wanted, [row for row in own if row["number"] not in numbers], "address"), **found}


def _matches(wanted: Wanted, rows: Iterable[Row], name: str) -> dict[Address, Row]:
    """The servers whose host or address (``name``) is one of those that are wanted; the first of several."""
    found: dict[Address, Row] = {}
    for row in rows:
        place = _place(row, name)
        if place in wanted:
            found.setdefault(place, row)
    return found


def _place(row: Row, name: str) -> Address:
    if (row[name] or "").startswith("/"):
        return Address(path=row[name])
    return Address(row[name] or "", row["port"] or 0)


def _is_usable(row: Row) -> bool:
    return bool(row["state"] == "ready" and row["health"] == "up")


def _works(row: Row) -> bool:
    """Whether a server can be used that is no mere promise: somebody says so, a client has had an answer of it, or it
    has been up for a while. What is new counts as up until somebody has tried it."""
    return _is_usable(row) and (row["verdict"] == "up" or row["rx"] > 0 or row["for"] >= PROBATION)


def _kept(gone: Sequence[Row], count: int) -> list[Row]:
    """So many of those that would leave, if they can be used: first those that serve yet."""
    able = [row for row in gone if _is_usable(row)
            or (row["state"] == "ready" and row["health"] == "drain" and _is_drained(row))]
    return sorted(able, key=lambda row: (_is_drained(row), row["number"]))[:max(count, 0)]


def _free(numbers: range, rows: Iterable[Row], count: int) -> list[int]:
    """So many numbers that no server has, or as many as there are."""
    taken = {row["number"] for row in rows}
    free = (number for number in numbers if number not in taken)
    return [number for number, _ in zip(free, range(count), strict=False)]


def _added(number: int, place: Address, server: Found, terms: Terms) -> Step:
    fields = "".join(f" {name} {value}" for name in CHANGED if (value := getattr(server, name)) is not None)
    return Step(f"server {number} at {place} address {place.host} port {place.port}{fields} owner {terms.owner}",
                f"server {number} at {place} is new{fields and f':{fields}'}")


def _changed(row: Row, server: Found) -> Iterator[Step]:
    fields = "".join(f" {name} {value}" for name in CHANGED
                     if (value := getattr(server, name)) is not None and value != row[name])
    if fields:
        yield Step(f"server {_which(row)}{fields}", f"server {_which(row)} has{fields}")


def _returned(row: Row, leaving: Mapping[int, float]) -> Iterator[Step]:
    if _is_drained(row) or row["number"] in leaving:
        yield Step(f"server {_which(row)} health unknown", f"server {_which(row)} stays")


def _leaves(row: Row, terms: Terms, is_told: bool, seconds: float) -> Iterator[Step]:
    """What a server is told that leaves since so many seconds. A verdict of a check that says ``down`` hides ours; it
    gets no clients then, either."""
    is_left = _is_drained(row) or (is_told and row["verdict"] == "down")
    if not is_left:
        yield Step(_drain(row, terms), f"server {_which(row)} drains: {LEFT}{terms.source}")
        return
    is_overdue = terms.patience is not None and seconds >= terms.patience
    if row["sessions"] and is_overdue:
        yield Step(f"close server {_which(row)}", f"server {_which(row)} has {row['sessions']} sessions yet, which are "
                                                  f"closed after {terms.patience:g} s")
    if not row["sessions"] or is_overdue:
        yield Step(f"no server {_which(row)}", f"server {_which(row)} is deleted")


def _drain(row: Row, terms: Terms) -> str:
    return f"server {_which(row)} health drain because {quote(LEFT + terms.source)}"


def _is_drained(row: Row) -> bool:
    """Whether we have told it to leave, or a gpen-discover of before has."""
    return bool(row["verdict"] == "drain" and row["verdict_by"] == "command"
                and (row["verdict_reason"] or "").startswith(LEFT))


def _which(row: Row) -> str:
    """How a command names a server: so that none is meant that has got its number since."""
    return f"{row['number']} at {_place(row, 'host')}"


def _whose(row: Row) -> str:
    return f"server {row['number']}, which " + (f"has the owner {row['owner']}" if row["owner"] else "nobody owns")
