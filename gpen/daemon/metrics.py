"""What is measured of this gpen: the rows from which gpen/web makes the text for Prometheus."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpen.consumption import consumption
from gpen.control.script import parse_words
from gpen.daemon.listeners import Listeners
from gpen.daemon.queries import Queries
from gpen.daemon.readiness import Readiness
from gpen.daemon.timings import Timings
from gpen.model.events import Events
from gpen.web.exposition import Row, exposition, labelled
from gpen.web.metrics import IDENTITIES, METRICS, with_servers
from gpen.wire.pacing import gently


class Metrics:
    """Collected anew each time that somebody asks."""

    def __init__(self, queries: Queries, readiness: Readiness, listeners: Listeners, events: Events,
                 refresh: Callable[[], object], peers: Callable[[], Iterable[Row]]) -> None:
        """``refresh`` learns what has become of the sessions of workers; ``peers`` gives the rows of those."""
        self.timings = Timings()
        self._queries = queries
        self._readiness = readiness
        self._listeners = listeners
        self._events = events
        self._refresh = refresh
        self._peers = peers

    def text(self, is_openmetrics: bool) -> Iterator[str]:
        """The whole text, in pieces. Switches greenlets, before the first."""
        self._refresh()
        rows = self._rows().items()
        labels = {about: [labelled(row, IDENTITIES[about]) for row in gently(each)] for about, each in rows}
        return exposition(METRICS, labels, is_openmetrics)

    def _rows(self) -> dict[str, Iterable[Row]]:
        info = self._queries.info(parse_words(["info"]))
        listeners = self._queries.listeners(parse_words(["listeners"]))
        servers = {row["name"]: row for row in gently(self._queries.servers(parse_words(["servers"])))}
        return {
            "gpen": [info | {"python": platform.python_version(), "events": dict(self._events.counts)}],
            "listener": (with_servers(row | self._more(row["name"] or ""), servers) for row in listeners),
            "server": servers.values(),
            "worker": info["workers"],
            "peer": self._peers(),
            "process": [consumption()],
        }

    def _more(self, listener: str) -> dict[str, Any]:
        """What else there is to a listener's row."""
        front = self._listeners.get(listener)
        is_ready = front is not None and not self._readiness.problem(front)
        return self.timings.of(listener)._asdict() | {"ready": int(is_ready)}
