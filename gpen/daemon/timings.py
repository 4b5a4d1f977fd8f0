"""How long clients wait: for the choice of their server, and for the connection to it."""

from __future__ import annotations

from typing import NamedTuple

from gpen.web.exposition import Histogram
from gpen.web.metrics import TIMES
from gpen.wire.conversation import Conversation
from gpen.wire.flow import Flow


class Timing(NamedTuple):
    """Those of one listener, in seconds."""

    choose: Histogram
    connect: Histogram


class Timings:
    """Those of all sessions of TCP that got a server and are over, by their listeners."""

    def __init__(self) -> None:
        self._timings: dict[str, Timing] = {}

    def of(self, listener: str) -> Timing:
        """Those of the listener of this name."""
        timing = self._timings.get(listener)
        if timing is None:
            timing = self._timings[listener] = Timing(Histogram(TIMES), Histogram(TIMES))
        return timing

    def note(self, session: Conversation) -> None:
        """It is over."""
        if session.connected and not isinstance(session, Flow):
            choose, connect, _ = session.timings()
            timing = self.of(session.front.name)
            timing.choose.observe(choose)
            timing.connect.observe(connect)
