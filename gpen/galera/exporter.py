"""`gpen-galera watch --metrics`: the watcher's metrics over HTTP, for Prometheus.

What is known is read in the watcher's own thread, as all that it tells is; the text is made in a thread of the client.
A watcher that thinks no more does not answer, so a scrape that fails is an alarm.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gpen import __version__
from gpen.consumption import consumption
from gpen.galera.agree import Agreed
from gpen.galera.http_server import HttpHandler, HttpServer
from gpen.galera.metrics import IDENTITIES, METRICS, STATES, UNKNOWN
from gpen.galera.report import Report
from gpen.galera.status import is_well, role
from gpen.galera.watch import Watcher
from gpen.model.address import Address
from gpen.model.text import printable
from gpen.web.exposition import OPENMETRICS_TYPE, PROMETHEUS_TYPE, Row, exposition, labelled, wants_openmetrics

PATIENCE = 5.0  # seconds that the watcher may take
MOST = 8  # clients at a time

Rows = dict[str, list[Row]]


class Exporter:
    """Answers at an address for a watcher, from threads of its own."""

    def __init__(self, address: Address, watcher: Watcher) -> None:
        """Raises OSError when the address can't be had."""
        self._server = _Server(address, _Handler)
        self._server.collect = partial(_collected, watcher)

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True).start()

    def close(self) -> None:
        """Answer no more; after ``start``."""
        self._server.shutdown()
        self._server.server_close()


class _Server(HttpServer):
    most = MOST
    collect: Callable[[], Rows | None]


class _Handler(HttpHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path != "/metrics":
            self.answer(404, "Not Found", f"there is nothing at {printable(path)}: /metrics is here\n")
            return
        rows = self.server.collect()
        if rows is None:
            self.answer(503, "Service Unavailable", f"the watcher did not answer within {PATIENCE:g} s\n")
            return
        is_openmetrics = wants_openmetrics(self.headers.get("Accept", ""))
        text = "".join(exposition(METRICS, {about: [labelled(row, IDENTITIES[about]) for row in each]
                                             for about, each in rows.items()}, is_openmetrics))
        self.answer(200, "OK", text, OPENMETRICS_TYPE if is_openmetrics else PROMETHEUS_TYPE)

    do_HEAD = do_GET


def _collected(watcher: Watcher) -> Rows | None:
    """What the watcher knows, read in its own thread; None: it does not answer."""
    replies: queue.SimpleQueue[Rows] = queue.SimpleQueue()
    watcher.look(lambda: replies.put(rows(watcher, time.monotonic())))
    try:
        return replies.get(timeout=PATIENCE)
    except queue.Empty:
        return None


# --- rows ------------------------------------------------------------------------------------------------------------


def rows(watcher: Watcher, now: float) -> Rows:
    """All that metrics are about; ``now`` is monotonic."""
    return {
        "watcher": [_watcher(watcher)], "process": [consumption()], "cluster": _cluster(watcher),
        "writer": [_writer(watcher, now)] if watcher.options.has_writer else [],
        "node": [_node(watcher, node, now) for node in watcher.cluster.nodes],
        "gpen": [{"gpen": gpen.name, "up": int(gpen.problem == ""), "rounds": watcher.tally.rounds(gpen.name)}
                 for gpen in watcher.gpens],
    }


def _watcher(watcher: Watcher) -> Row:
    return {"version": __version__, "python": platform.python_version(), "started": round(watcher.started, 3),
            "well": int(is_well(watcher)), "passes": watcher.tally.passes, "wakes": watcher.tally.wakes,
            "faults": watcher.faults}


def _cluster(watcher: Watcher) -> list[Row]:
    """None until one is followed."""
    cluster = watcher.cluster
    if not cluster.followed.uuid:
        return []
    answering, view = len(cluster.answering()), cluster.view
    return [{"uuid": cluster.followed.uuid, "primary": int(answering > 0), "answering": answering,
             "size": view.size if view else 0, "conf_id": view.conf_id if view else None}]


def _writer(watcher: Watcher, now: float) -> Row:
    election = watcher.election
    is_agreed = isinstance(election, Agreed)
    verdict = watcher.cluster.verdict(election.current) if election.current else None
    is_open = not election.heir and now >= election.opens_at
    return {"known": int(election.current is not None), "usable": int(bool(verdict and verdict.usable and is_open)),
            "changes": watcher.tally.writer_changes, "choice": election.version if is_agreed else None,
            "trouble": int(bool(watcher.trouble)) if is_agreed else None}


def _node(watcher: Watcher, node: str, now: float) -> Row:
    cluster = watcher.cluster
    report, verdict = cluster.report(node), cluster.verdict(node)
    part = role(watcher, node)
    return {
        "node": node, "name": cluster.name(node), "blind": int(cluster.blind_since(node) is not None),
        "role": part if part == "writer" or (verdict and verdict.usable) else "out",
        "verdict": verdict.word if verdict else None, "usable": int(verdict.usable) if verdict else None,
        "changed": round(now - verdict.since, 3) if verdict else None, "questions": watcher.tally.questions(node),
        "paused": watcher.lag.paused(node), **_told(report)}


_UNTOLD: Mapping[str, Any] = {"state": UNKNOWN, **dict.fromkeys((
    "primary", "size", "ready", "read_only", "queue", "paused_total", "committed", "connections", "max_connections",
    "latency"))}


def _told(report: Report | None) -> Mapping[str, Any]:
    """What a node tells of itself."""
    if report is None:
        return _UNTOLD
    paused, size = _known(report.paused_ns), _known(report.view.size)
    return {
        "state": STATES.get(report.state, UNKNOWN), "primary": int(report.status == "Primary"), "size": size,
        "ready": int(report.ready), "read_only": int(report.read_only), "queue": _known(report.queue),
        "paused_total": None if paused is None else paused / 1e9, "committed": _known(report.committed),
        "connections": _known(report.connections), "max_connections": _known(report.max_connections),
        "latency": round(report.latency, 6)}


def _known(number: int) -> int | None:
    """A number that a node has told; what it has not is negative."""
    return number if number >= 0 else None
