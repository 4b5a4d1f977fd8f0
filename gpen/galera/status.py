"""What `gpen-galera status` tells: made from what the watcher knows, and shown as tables."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gpen.console import Answer
from gpen.galera import blocking
from gpen.galera.agree import Agreed
from gpen.galera.node import FULL_WORD
from gpen.galera.plan import front, full, node_of, nodes_of
from gpen.galera.watch import Gpen, Watcher

WITHDRAWN = ("drain", "maint")  # servers that an operator has taken out, or a verdict so that their sessions go on
CELL = 36  # characters of a text in a table; a longer one is told below as well

Row = dict[str, Any]


def status(watcher: Watcher, now: float) -> Answer:
    """All that is known, for JSON; ``now`` is monotonic. Times are seconds of the wall clock."""
    return {
        "well": is_well(watcher),
        "fault": watcher.fault,
        "writer": watcher.election.current,
        "agreed": watcher.election.version if isinstance(watcher.election, Agreed) else None,
        "heir": watcher.election.heir or None,
        "trouble": watcher.trouble,
        "cluster": watcher.cluster.followed.uuid or None,
        "nodes": [node_row(watcher, node, now) for node in sorted(watcher.cluster.nodes, key=_natural)],
        "gpens": [row for gpen in watcher.gpens for row in _gpen_rows(watcher, gpen)],
    }


def is_well(watcher: Watcher) -> bool:
    """Whether every node is usable, every gpen answers, and nothing fails in the watcher itself."""
    nodes = watcher.cluster.nodes
    return (bool(nodes) and len(watcher.cluster.usable()) == len(nodes)
            and all(gpen.problem == "" for gpen in watcher.gpens) and not watcher.trouble
            and not watcher.fault)


def node_row(watcher: Watcher, node: str, now: float) -> Row:
    report, verdict, limit = watcher.cluster.report(node), watcher.cluster.verdict(node), watcher.limit(node)
    blind_since = watcher.cluster.blind_since(node)
    return {
        "node": node, "name": watcher.cluster.name(node), "state": report.comment if report else None,
        "cluster_status": report.status if report else None, "usable": verdict.usable if verdict else None,
        "reason": verdict.reason if verdict else watcher.cluster.problem(node) or "not asked yet",
        "role": role(watcher, node), "latency": round(report.latency, 6) if report else None,
        "queue": report.queue if report else None, "paused": watcher.lag.paused(node) if report else None,
        "max_connect_errors": report.max_connect_errors if report and report.max_connect_errors >= 0 else None,
        "blocks": report.blocks if report else None, "warning": "" if limit is None else blocking.warning(limit),
        "since": _wall(verdict.since if verdict else None, now),
        "cluster": report.view.uuid if report else None,
        "blind": "" if blind_since is None else watcher.cluster.problem(node), "blind_since": _wall(blind_since, now),
        "full": {gpen.name: found for gpen in watcher.gpens if (found := _fullness(watcher, gpen, node))},
    }


def _fullness(watcher: Watcher, gpen: Gpen, node: str) -> str:
    """Why a gpen finds no room on a node; nothing when it does."""
    found = watcher.fullness(node).removeprefix(FULL_WORD) if node in nodes_of(gpen.rows) else ""
    return found or full(gpen.rows).get(node, "")


def _wall(moment: float | None, now: float) -> float | None:
    """A time of the monotonic clock by the wall clock."""
    return None if moment is None else round(time.time() - (now - moment), 3)


def role(watcher: Watcher, node: str) -> str:
    """The part of a node: writer, standby or reader."""
    if node == watcher.election.current:
        return "writer"
    return "standby" if any(node in nodes_of(gpen.rows) for gpen in watcher.writer_gpens()) else "reader"


def _gpen_rows(watcher: Watcher, gpen: Gpen) -> list[Row]:
    """A gpen, or its listeners that get the writes, each, and those that do not."""
    whole, roles = _gpen_row(watcher, gpen), gpen.balancer.roles
    if roles is None:
        return [whole]
    rows = [whole | _writer_row(gpen, name) for name in roles.writers]
    rows += [whole | _reader_row(gpen, name) for name in roles.readers or [""]]
    return [rows[0], *(row | {"capped": []} for row in rows[1:])]


def _gpen_row(watcher: Watcher, gpen: Gpen) -> Row:
    servers = _servers_of(gpen)
    return {
        "gpen": gpen.name, "listener": None, "kind": "writer" if gpen.balancer.is_writer else "reader",
        "problem": "not asked yet" if gpen.problem is None else gpen.problem,
        "servers": len(servers), **_counted(servers), "sessions": sum(row["sessions"] for row in servers),
        "front": front(gpen.rows) if gpen.balancer.is_writer else None,
        "capped": [{"server": row["number"], "max": row["max"], "room": room} for row in servers
                   if (node := node_of(row)) and (room := watcher.room(node)) and 0 < row["max"] < room],
    }


def _servers_of(gpen: Gpen) -> list[Mapping[str, Any]]:
    return [row for row in gpen.rows if row["number"] is not None and row["health"] != "empty"]


def _counted(servers: Sequence[Mapping[str, Any]]) -> Row:
    return {"up": sum(row["health"] == "up" and row["state"] == "ready" for row in servers),
            **{word: sum(word in (row["state"], row["health"]) for row in servers) for word in WITHDRAWN}}


def _writer_row(gpen: Gpen, name: str) -> Row:
    used = [row for row in _servers_of(gpen) if row.get("used", True)]
    return {"listener": name, "kind": "writer", **_counted(used), "sessions": _sessions(gpen, [name])}


def _reader_row(gpen: Gpen, name: str) -> Row:
    """Without a name: of all listeners that do not get the writes."""
    writers = [desk.name for desk in gpen.balancer.desks]
    names = [name] if name else set(gpen.balancer.listeners).difference(writers)
    return {"listener": name or None, "kind": "reader", "sessions": _sessions(gpen, names), "front": None}


def _sessions(gpen: Gpen, names: Collection[str]) -> int:
    return sum(found.sessions for name, found in gpen.balancer.listeners.items() if name in names)


def _natural(node: str) -> list[int | str]:
    """For sorting: 10.0.0.9 before 10.0.0.10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", node)]


def show(answer: Answer) -> str:
    """An answer as tables."""
    from tabulate import tabulate

    nodes = [[row["node"], row["name"], row["state"] or "-", _usable(row),
              row["role"], "-" if row["latency"] is None else f"{row['latency'] * 1000:.1f} ms",
              "-" if row["queue"] is None else row["queue"], _share(row.get("paused")),
              _clock(row["since"])] for row in answer["nodes"]]
    gpens = [[_title(row), row["kind"], _short(_problem(row)) or "answers", _servers(row),
              row["sessions"], row["front"] or "-"] for row in answer["gpens"]]
    fault = answer.get("fault")  # a watcher of before an upgrade tells none
    parts = [f"the watcher itself fails: {fault}"] if fault else []
    parts += [tabulate(nodes, ["node", "name", "state", "usable", "role", "latency", "queue", "paused", "since"],
                      "simple", disable_numparse=True)]
    rows = answer["nodes"]
    notes = (_long({row["node"]: row["reason"] for row in rows}), _blindness(rows), _clusters(answer), _limits(rows),
             _full(rows))
    parts += ["\n".join(lines) for lines in notes if lines]
    if answer["agreed"] is not None:
        heir = f", hands over to {answer['heir']}" if answer["heir"] else ""
        parts.append(f"agreed writer: {answer['writer'] or 'none yet'} (choice {answer['agreed']}){heir}")
    if answer["trouble"]:
        parts.append(f"agreement: {answer['trouble']}")
    parts.append(tabulate(gpens, ["gpen", "kind", "answers", "servers up", "sessions", "in front"], "simple",
                          disable_numparse=True))
    problems = _long({row["gpen"]: _problem(row) for row in answer["gpens"]}) + _capped(answer["gpens"])
    parts += ["\n".join(problems)] * bool(problems)
    return "\n\n".join(parts)


def _title(row: Row) -> str:
    """A gpen, or a listener of it. A watcher of before an upgrade tells none."""
    return " ".join(filter(None, (row["gpen"], row.get("listener"))))


def _usable(row: Row) -> str:
    known = "yes" if row["usable"] else _short(row["reason"])
    return f"{known} (blind)" if row.get("blind") and row["usable"] is not None else known


def _blindness(rows: Sequence[Row]) -> list[str]:
    """The nodes that the watcher can't see."""
    return [f"{row['node']}: this watcher is blind to it since {_clock(row['blind_since'])}, and keeps what it knew "
            f"then: {row['blind']}" for row in rows if row.get("blind")]


def _clusters(answer: Answer) -> list[str]:
    """Which cluster is followed, where nodes are of several."""
    found = {row["cluster"] for row in answer["nodes"] if row.get("cluster") and row["cluster_status"] == "Primary"}
    found -= {answer.get("cluster")}
    return [f"cluster {answer['cluster']} is followed; another one: gpen-galera adopt UUID"] if found else []


def _limits(rows: Sequence[Row]) -> list[str]:
    """Each max_connect_errors that nodes have, with what it comes to. A watcher of before an upgrade tells none."""
    nodes: dict[str, list[str]] = {}
    for row in rows:
        if row.get("max_connect_errors") is not None:
            note = "" if row["blocks"] else " (without effect: it remembers no hosts)"
            text = row["warning"] or f"max_connect_errors is {row['max_connect_errors']}{note}"
            nodes.setdefault(text, []).append(row["node"])
    return [f"{', '.join(names)}: {text}" for text, names in nodes.items()]


def _servers(row: Row) -> str:
    """How many servers of a gpen can get a client, and how many were taken out otherwise than as down. A watcher of
    before an upgrade does not tell these."""
    withdrawn = [f", {row[word]} {word}" for word in WITHDRAWN if row.get(word)]
    return f"{row['up']} of {row['servers']}{''.join(withdrawn)}"


def _share(share: float | None) -> str:
    """Of the time, in which flow control held writes up. A watcher of before an upgrade does not tell it."""
    return "-" if share is None else f"{share:.0%}"


def _full(rows: Sequence[Row]) -> list[str]:
    """Where nodes have no room. A watcher of before an upgrade tells none."""
    return [f"{row['node']}: full for gpen {gpen}: {found}: clients wait, or get another node of a --reader"
            for row in rows for gpen, found in row.get("full", {}).items()]


def _capped(rows: Sequence[Row]) -> list[str]:
    """The servers with a max that is lower than their node has room for. A watcher of before an upgrade tells none."""
    return [f"{row['gpen']}: server {cap['server']} has max {cap['max']}, and its node room for {cap['room']}: gpenctl "
            f"{row['gpen']} server {cap['server']} max 0 has the watcher set it"
            for row in rows for cap in row.get("capped", [])]


def _problem(row: Row) -> str:
    """A gpen's problem without its name, which is in the table already."""
    return str(row["problem"]).removeprefix(f"{row['gpen']}: ")


def _short(text: str) -> str:
    return textwrap.shorten(text, CELL, placeholder="...")


def _long(texts: Mapping[str, str]) -> list[str]:
    """What `_short` cuts, whole: a line each."""
    return [f"{name}: {text}" for name, text in texts.items() if len(text) > CELL]


def _clock(moment: float | None) -> str:
    return "-" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
