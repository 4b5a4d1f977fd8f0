"""The status page: the page of gpen/web as a snapshot of what its commands tell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpen.control.script import Call, parse_words
from gpen.web.snapshot import MOST_ROWS, snapshot

if TYPE_CHECKING:
    from gpen.daemon.queries import Queries


def status_page(queries: Queries) -> str:
    """The whole page for the balancer behind these queries."""
    return snapshot(time.time(), queries.info(_call("info")), {
        "listeners": queries.listeners(_call("listeners")), "servers": queries.servers(_call("servers")),
        "sessions": queries.sessions(_call("sessions")), "recent": queries.recent(_call("recent")),
        "events": queries.events(_call("events", str(MOST_ROWS)))})


def _call(*words: str) -> Call:
    return parse_words(list(words))
