"""What a listener has of limits by time: how often clients come, and how many bytes move.

Where there are none, they cost nothing: what is limited is decided when the settings change, and another function or
object stands in the place of the usual one from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gpen.model.rates import show_bytes
from gpen.model.value_types import listener_prefix
from gpen.wire.faults import Seldom
from gpen.wire.listener import Listener
from gpen.wire.shaping import FROM_CLIENT, FROM_SERVER, Ask, Grant, Meter, Shaper
from gpen.wire.throttle import Guard, HeldBack, Throttle, Ways

if TYPE_CHECKING:
    from gpen.wire.conversation import Front
    from gpen.wire.session import Session

log = logging.getLogger("gpen")


class Limits:
    """Those of one listener. ``guard`` is that of client_rate, where the main process admits clients, ``throttle`` that
    of connection_rate, ``shaper`` that of bandwidth and bandwidth_total, where sessions are; None where there is
    none."""

    def __init__(self, front: Front) -> None:
        self.guard: Guard | None = None
        self.throttle: Throttle | None = None
        self.held_back = HeldBack()
        self.shortages = 0  # of bytes that all sessions together may move
        self._front = front
        self._refusals = Seldom()
        self.shaper: Shaper | None = None
        self._shaper: Shaper | None = None  # that too while nothing is limited: what it has begun stays with it
        self._meters: list[Meter] = []
        self._held: Any = None  # the front's listener, whatever it is, that the throttle holds back

    def adopt(self, ways: Ways) -> None:
        """Be as the settings are now, of a listener that would begin sessions in these ways. What has come so far
        counts, unless its rate is another."""
        settings, old = self._front.settings, self.throttle
        if self.guard is None or self.guard.rate != settings.client_rate:
            self.guard = Guard(settings.client_rate) if settings.client_rate else None
        if old is None or old.rate != settings.connection_rate:
            self.throttle = None
            if old is not None:
                old.end()
            if settings.connection_rate:
                self.throttle = Throttle(settings.connection_rate, listener_prefix(self._front.name),
                                         self._front.poller.loop, self._front.troubles, self.held_back)
        listener = self._front.listener
        if self.throttle is not old or listener is not self._held:
            self._hold_back(listener, ways)

    def _hold_back(self, listener: Any, ways: Ways) -> None:
        throttle = self.throttle
        self._held = listener
        if isinstance(listener, Listener):
            listener.serve_by(*(ways if throttle is None else throttle.stands_before(ways, listener)))
        elif listener is not None:
            listener.admits = throttle.admits_flow if throttle is not None else None

    def shape(self, sessions: Callable[[], Iterable[Session]], ask: Ask | None = None) -> None:
        """Be as the settings are now, for the bytes of all these sessions, and of those that come; what they move
        together is asked for there, or else here."""
        settings = self._front.settings
        rate, total = settings.bandwidth, settings.bandwidth_total
        self.measure()
        if self._shaper is None:
            if not (rate or total):
                return
            self._shaper = Shaper(self._front.poller, ask or self.lend)
        was, self.shaper = self.shaper, self._shaper if rate or total else None
        self._shaper.change(rate, total)
        if self.shaper is not None and was is None:
            for session in sessions():
                session.shape(self.shaper)

    def measure(self) -> None:
        """The same for what all sessions move, where others shape them."""
        for meter in self._meters:
            meter.change(self._front.settings.bandwidth_total)

    def lend(self, direction: int, grant: Grant) -> None:
        """Have somebody move more bytes of those that all sessions may move."""
        if not self._meters:
            self._meters = [Meter(self._front.poller.loop, self._tell_short) for _ in (FROM_CLIENT, FROM_SERVER)]
            self.measure()
        self._meters[direction].ask(grant)

    def _tell_short(self) -> None:
        self.shortages += 1
        front = self._front
        front.troubles.tell(f"{listener_prefix(front.name)}sessions wait for their share: bandwidth_total is "
                            f"{show_bytes(front.settings.bandwidth_total)}")

    def refused(self, address: str) -> str | None:
        """This address is refused for client_rate; what is to be told of that, if anything."""
        more = self._refusals.comes()
        rate = self._front.settings.client_rate
        return None if more is None else f"{address} comes too often: client_rate is {rate}{more}"
