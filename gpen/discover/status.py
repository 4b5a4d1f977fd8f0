"""What `gpen-discover status` shows, as tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gpen.model.text import counted

Row = Mapping[str, Any]


def show(answer: Row) -> str:
    """An answer as tables, with what is wrong below."""
    from tabulate import tabulate

    gpens = [[row["gpen"], "no" if row["problem"] else "yes", len(row["servers"]), _usable(row),
              sum(server["leaves"] for server in row["servers"]), len(row["theirs"]),
              sum(server["sessions"] for server in row["servers"])] for row in answer["gpens"]]
    parts = [_source(answer), tabulate(
        [[server["address"], *("-" if server[name] is None else server[name] for name in ("weight", "prio", "max"))]
         for server in answer["servers"]], ["server", "weight", "prio", "max"], "simple", disable_numparse=True)]
    parts.append(tabulate(gpens, ["gpen", "answers", "servers", "usable", "leave", "of others", "sessions"], "simple",
                          disable_numparse=True))
    notes = [note for row in answer["gpens"] for note in _notes(row)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _source(answer: Row) -> str:
    """The source, how old its last answer is, and what was wrong since."""
    if answer["answered"] is None:
        known = "has not answered yet"
    else:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer["answered"]))
        known = f"told {counted(len(answer['servers']), 'server')} at {when}, {answer['age']:.0f} s ago"
    lines = [f"{answer['source']}: {known}; owner {answer['owner']}"]
    if answer["error"]:
        lines.append(f"since then: {answer['error']}" if answer["answered"] is not None else answer["error"])
    return "\n".join(lines)


def _usable(row: Row) -> int:
    return sum(server["health"] == "up" and server["state"] == "ready" for server in row["servers"])


def _notes(row: Row) -> list[str]:
    """What there is to know of a gpen beside its figures."""
    notes = [f"{row['gpen']}: {row[what]}" for what in ("problem", "refusal") if row[what]]
    for server in row["servers"]:
        which = f"{row['gpen']}: server {server['number']} at {server['address']}"
        if server["leaves"]:
            notes.append(f"{which} leaves: {counted(server['sessions'], 'session')} left")
        if server["kept"]:
            notes.append(f"{which} has left, and is kept (--floor)")
    return notes + [f"{row['gpen']}: {place} is {whose}: it is left as it is"
                    for place, whose in row["theirs"].items()]
