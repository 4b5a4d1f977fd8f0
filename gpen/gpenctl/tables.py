"""How gpenctl shows what a daemon answers: JSON or pen's plain lines -> records -> a table or CSV.

Pure text: no socket, no terminal. What comes from outside may have fields that this file does not know, and
lack those it knows; neither breaks a table. No control character gets through into a cell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

from gpen.control import units
from gpen.model.text import printable, ranges
from gpen.model.value_types import UNNAMED

Record = dict[str, Any]


class Column(NamedTuple):
    """One column. The higher `drop`, the sooner it gives way on a narrow terminal; 0 never does."""

    heading: str
    cell: Callable[[Record], str]
    drop: int = 0
    right: bool = False
    color: Callable[[str], str] = lambda cell: ""


# Values to text

SPANS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else compact(value)


def compact(value: Any) -> str:
    """A value as JSON; of one that is nested too deep, less."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "..."


def limit(value: Any) -> str:
    return "-" if value == 0 else plain(value)


def size(value: Any) -> str:
    return units.size(value) if is_number(value) else plain(value)


def span(value: Any) -> str:
    """Seconds, in the two units that matter: 12s, 3m12s, 2h05m, 4d03h."""
    if not is_number(value):
        return plain(value)
    seconds = max(0, round(value))
    for large, large_name, small, small_name in SPANS:
        if seconds >= large:
            return f"{seconds // large}{large_name}{seconds % large // small:02}{small_name}"
    return f"{seconds}s"


def moment(value: Any) -> str:
    """A unix time as local date and time."""
    if not is_number(value):
        return plain(value)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    except (OverflowError, ValueError, OSError):
        return plain(value)


def rate(value: Any) -> str:
    return f"{value:.1f}" if is_number(value) else ""


def size_rate(value: Any) -> str:
    return size(round(value)) if is_number(value) else ""


def place(server: Record) -> str:
    """Address and port of a server, or its path."""
    host, port = plain(server.get("address")), plain(server.get("port"))
    if not port or host.startswith("/") or (host.endswith(f":{port}") and (host[0] == "[" or host.count(":") == 1)):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def name(server: Record) -> str:
    """What a server is called, where number and address do not say it already."""
    for key, known in (("name", "number"), ("host", "address")):
        called = plain(server.get(key))
        if called not in (plain(server.get(known)), place(server)):
            return called
    return ""


def why(server: Record) -> str:
    """What is said of a server's health, when one that is down is tried again, and how far one is that came back."""
    left, share = server.get("blacklisted"), server.get("slow_start")
    retry = f"retry in {span(left)}" if left else ""
    start = f"slow start, {plain(share)} %" if share is not None else ""
    return ", ".join(filter(None, (plain(server.get("reason") or server.get("verdict_reason")), retry, start)))


def how_long(server: Record) -> str:
    """How long a server has been up or down; a verdict knows that better than the last change of anything."""
    verdict = server.get("verdict")
    return span(server.get("verdict_for" if verdict and verdict == server.get("health") else "for"))


def tls(server: Record) -> str:
    """What the clients of a server agreed on with us, the most common first."""
    agreed = server.get("tls")
    if not isinstance(agreed, dict):
        return ""
    counts = [(text, count) for text, count in agreed.items() if is_number(count)]
    return ", ".join(f"{text} ({count})" for text, count in sorted(counts, key=lambda item: -item[1]))


def check(server: Record) -> str:
    kind = plain(server.get("check"))
    return "" if kind == "off" else kind


def weight(server: Record) -> str:
    """Its weight; and what its agent has left of it, where that is something else."""
    configured, now = server.get("weight"), server.get("weight_now", server.get("weight"))
    return plain(configured) if now == configured else f"{plain(now)} of {plain(configured)}"


def called(listener: Record) -> str:
    return plain(listener.get("name")) or UNNAMED


def used(listener: Record) -> str:
    """The servers that a listener uses."""
    numbers = listener.get("servers", "")
    if isinstance(numbers, list) and all(isinstance(number, int) for number in numbers):
        return ranges(numbers)
    return "all" if numbers is None else plain(numbers)


# The tables

HEALTH_COLORS = {"up": "32", "down": "31", **dict.fromkeys(("trial", "drain", "drained", "maint"), "33")}


def health_color(cell: str) -> str:
    return HEALTH_COLORS.get(cell, "")


def text(heading: str, key: str, drop: int = 0) -> Column:
    return Column(heading, lambda record: plain(record.get(key)), drop)


def health(heading: str, key: str, drop: int = 0) -> Column:
    return Column(heading, lambda record: plain(record.get(key)), drop, color=health_color)


def figure(heading: str, key: str, drop: int = 0, show: Callable[[Any], str] = plain) -> Column:
    return Column(heading, lambda record: show(record.get(key)), drop, right=True)


FIELD_BY_FIELD = ("connection", "info", "ready")  # one thing, of which each line of the table tells something
COLUMNS: dict[str, tuple[Column, ...]] = {
    "servers": (
        figure("#", "number"),
        Column("name", name, 4),
        Column("address", place),
        health("state", "state"),
        health("health", "health"),
        Column("for", how_long, 5, right=True),
        Column("reason", why, 1),
        figure("sessions", "sessions"),
        figure("old", "old", 2, lambda old: "" if old == 0 else plain(old)),  # of gpens that were replaced
        figure("sessions/s", "session_rate", 2, rate),
        figure("max", "max", 6, limit),
        figure("hard", "hard", 11, limit),
        Column("weight", weight, 8, right=True),
        figure("prio", "prio", 10),
        figure("acl", "acl", 12),
        text("owner", "owner", 5),
        figure("sent", "sx", 3, size),
        figure("received", "rx", 3, size),
        figure("bytes/s", "byte_rate", 2, size_rate),
        figure("total", "total", 7),
        figure("failures", "failures", 9),
        text("verdict by", "verdict_by", 13),
        Column("check", check, 14),
        Column("tls", tls, 15),
    ),
    "recent": (
        text("client", "address"),
        figure("sessions", "sessions", 1),
        figure("connects", "connects"),
        figure("server", "server", 1),
        figure("sent", "sx", 2, size),
        figure("received", "rx", 2, size),
        figure("idle", "idle", 3, span),
    ),
    "sessions": (
        figure("id", "id"),
        text("client", "client"),
        figure("server", "server", 1),
        text("address", "server_address"),
        text("state", "state", 2),
        figure("age", "age", 3, span),
        figure("idle", "idle", 4, span),
        figure("to server", "up", 5, size),
        figure("to client", "down", 5, size),
        text("tls", "tls", 6),
        text("cipher", "cipher", 8),
        text("sni", "sni", 7),
        text("certificate", "subject", 8),
        text("server tls", "server_tls", 9),
        text("listener", "listener", 1),
        text("route", "route", 2),
    ),
    "listeners": (
        Column("listener", called),
        text("address", "address"),
        text("protocol", "protocol", 4),
        figure("sessions", "sessions"),
        figure("sessions/s", "session_rate", 2, rate),
        figure("max", "conn_max", 3),
        figure("waiting", "held", 1, lambda held: "" if held == 0 else plain(held)),
        figure("in kernel", "waiting", 2, lambda waiting: "" if waiting == 0 else plain(waiting)),
        figure("total", "total", 7),
        text("rule", "rule", 5),
        Column("servers", used, 2),
        text("memory of", "tracking_with", 6),
        figure("routes", "routes", 4, lambda routes: str(len(routes)) if isinstance(routes, list) and routes else ""),
    ),
    "workers": (
        figure("worker", "number"),
        figure("pid", "pid"),
        figure("sessions", "sessions"),
        figure("total", "total"),
        figure("CPU s", "cpu"),
        figure("since", "started", 2, moment),
        figure("silent", "silent", 1, lambda silent: "" if silent == 0 else span(silent)),
    ),
    "peers": (
        text("peer", "name"),
        text("address", "address"),
        health("state", "state"),
        figure("since", "since", 3, lambda since: "" if since is None else moment(since)),
        figure("sent", "sent", 1),
        figure("received", "received", 1),
        figure("unknown", "unknown", 2),
        figure("pending", "pending", 1),
        text("error", "error", 1),
    ),
    "events": (
        figure("time", "time", 0, moment),
        figure("server", "server"),
        health("event", "event"),
        text("cause", "cause"),
        text("listener", "listener", 1),
    ),
    "explain": (
        figure("server", "server"),
        text("address", "address"),
        text("chosen", "chosen"),
        text("why", "why"),
    ),
    **dict.fromkeys(FIELD_BY_FIELD, (text("field", "field"), text("value", "value"))),
    "mode": (text("mode", "mode"), text("", "on")),
    "help": (text("name", "name"), text("help", "help")),  # as a table it is laid out in paragraphs
}
HUGE = 10**18  # seconds, bytes or sessions
LISTED = ("workers", "peers")  # settings that are listed without a value
EMPTY = {"recent": "clients in that time"}
OF_LISTENERS = ("servers", "sessions", "recent", "events", "explain", "mode")  # behind `listener NAME` as well
NOTED = {  # above the table of servers, where it is not 0
    "held": "clients that wait for a server",
    "looped": "datagrams dropped, for they would go round for ever",
}
FIELDS = {  # the headings of a CSV without rows
    "servers": "number name address host port state health reason since for blacklisted sessions old max hard weight "
    "weight_now slow_start prio acl owner server_tls tls_name sx rx total failures verdict verdict_by "
    "verdict_reason verdict_since verdict_for check check_port agent causes checks held looped tls",
    "sessions": "id client server server_address state age idle up down tls cipher sni subject server_tls "
    "server_cipher tls_name listener route unique_id proxy",
    "recent": "address connects sx rx server idle sessions",
    "events": "time server event cause listener",
    "workers": "number pid sessions total cpu started silent",
    "peers": "name address state since for sent received unknown pending error",
    "listeners": "name address transport protocol sessions conn_max held total waiting delayed dropped bandwidth "
    "bandwidth_total shortages clients sx rx endings handshakes server_handshakes server_resumed dsr transparent rule "
    "servers tracking_with routes",
}


def asked(line: str) -> str:
    """The command of COLUMNS whose table a line asks for; empty where it asks for none, or sets something."""
    name, *values = line.split() or [""]
    if name != "listener":
        return name if name in COLUMNS and (name not in LISTED or values in ([], ["json"])) else ""
    name, *values = values[1:] or [""]
    is_setting = name == "servers" and values not in ([], ["json"])
    return name if name in OF_LISTENERS and not is_setting else ""


def records(name: str, value: Any) -> list[Record]:
    """What the command `name` answered (`value`, from JSON or `parse_plain`) as records: the lines of CSV."""
    if name == "explain" and isinstance(value, dict):
        value = list(explanation(value))
    items = value if isinstance(value, list) else [value]
    return [{key: measured(field) for key, field in item.items()} for item in items if isinstance(item, dict)]


def measured(value: Any) -> Any:
    """A number that can be calculated with; what is infinite, not a number or larger than any count is text."""
    return compact(value) if is_number(value) and not abs(value) < HUGE else value


def explanation(value: Record) -> Iterator[Record]:
    """The chosen server first, then the others, each with its reason."""
    chosen, address = value.get("server"), value.get("server_address")
    why, route = value.get("why"), value.get("route")
    yield {"server": chosen, "address": address, "chosen": chosen is not None,
           "why": f"{why} (route {route})" if route else why}
    others = value.get("others")
    for other in others if isinstance(others, list) else ():
        if isinstance(other, dict):
            rest = {key: item for key, item in other.items() if key != "why_not"}
            yield {**rest, "chosen": False, "why": other.get("why_not")}


def table(name: str, value: Any, width: int = 0, color: bool = False) -> str:
    """The table of what the command `name` answered, at most `width` characters wide if possible (0: any)."""
    rows = records(name, value)
    if name in FIELD_BY_FIELD:
        rows = [{"field": key, "value": item} for row in rows for key, item in row.items()]
    elif name == "mode":
        rows = [{"mode": key, "on": "on" if item else "off"} for row in rows for key, item in row.items()]
    elif name == "sessions" and any(row.get("listener") for row in rows):
        rows = [{**row, "listener": row.get("listener") or UNNAMED} for row in rows]
    if not rows:
        return f"no {EMPTY.get(name, name)}"
    return (noted(rows) if name == "servers" else "") + draw(COLUMNS[name], rows, width, color)


def noted(servers: list[Record]) -> str:
    """A line about the clients that no server can take now, and one about datagrams that were dropped, if there are
    any."""
    first = servers[0]
    lines = [f"{what}: {printable(plain(first[key]))}\n" for key, what in NOTED.items() if first.get(key)]
    return "".join([*lines, "\n"]) if lines else ""


def draw(columns: Sequence[Column], rows: list[Record], width: int, color: bool) -> str:
    import tabulate  # here, since gpenctl in a pipe needs no table and starts sooner without

    tabulate.MIN_PADDING = 0  # `fit` counts on it: a column is as wide as its widest cell
    cells = [[printable(column.cell(row)) for column in columns] for row in rows]
    kept = fit(columns, cells, width)
    return tabulate.tabulate(
        [[paint(columns[i], row[i], color) for i in kept] for row in cells],
        headers=[columns[i].heading for i in kept],
        tablefmt="simple",
        disable_numparse=True,
        colalign=["right" if columns[i].right else "left" for i in kept],
    )


def fit(columns: Sequence[Column], cells: list[list[str]], width: int) -> list[int]:
    """The indexes of the columns to show: those that say something, and of these the most important ones."""
    widest = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    kept: list[int] = []
    used = -2  # two blanks between columns
    for i in sorted(range(len(columns)), key=lambda i: columns[i].drop):
        needed = max(widest[i], len(columns[i].heading)) + 2
        if widest[i] and (not columns[i].drop or not width or used + needed <= width):
            kept.append(i)
            used += needed
    return sorted(kept)


def paint(column: Column, cell: str, color: bool) -> str:
    code = column.color(cell) if color else ""
    return f"\x1b[{code}m{cell}\x1b[0m" if code else cell


def csv_text(name: str, value: Any) -> str:
    """The same as CSV with a line of headings: every field under its own name, exact figures."""
    import csv
    import io

    rows = [{csv_cell(key): csv_cell(item) for key, item in row.items()} for row in records(name, value)]
    fields = list(dict.fromkeys(key for row in rows for key in row)) or FIELDS.get(name, "").split()
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    if fields:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", r"\x00")  # which Python 3.10 can't write
    return compact(value) if isinstance(value, (bool, list, dict)) else value


# pen's plain lines

PEN_NAMES = {"addr": "address", "conn": "sessions"}
PEN_NONE = "(unknown address family 0"  # of a slot that never had an address


def parse_plain(name: str, reply: str) -> Any:
    """What the JSON of the command `name` would hold, read from pen's plain `reply`; None if unreadable."""
    try:
        return PLAIN[name]([line for line in reply.splitlines() if line.strip()])
    except (KeyError, ValueError, IndexError):
        return None


def plain_servers(lines: Iterable[str]) -> list[Record]:
    rows = (line.replace(PEN_NONE, "0.0.0.0").split() for line in lines)
    return [{"number": int(number), **pairs(words)} for number, *words in rows]


def plain_recent(lines: Iterable[str]) -> list[Record]:
    return [{"address": line.split()[0], **pairs(line.split()[1:])} for line in lines]


def plain_mode(lines: Sequence[str]) -> Record:
    words = " ".join(lines).split()
    return {word: i == 0 or words[i - 1] != "no" for i, word in enumerate(words) if word != "no"}


def plain_connection(lines: Sequence[str]) -> Record:
    connection: Record = {"connection": int(lines[0].removeprefix("Connection ").removesuffix(":"))}
    for part in ", ".join(lines[1:]).split(", "):
        key, equals, item = part.partition(" = ")
        if not equals:
            raise ValueError(part)
        connection[key] = int(item)
    return connection


def pairs(words: Sequence[str]) -> Record:
    named = zip(words[::2], words[1::2], strict=True)
    return {PEN_NAMES.get(key, key): item if key == "addr" else int(item) for key, item in named}


PLAIN: dict[str, Callable[[list[str]], Any]] = {
    "servers": plain_servers,
    "recent": plain_recent,
    "mode": plain_mode,
    "connection": plain_connection,
}
