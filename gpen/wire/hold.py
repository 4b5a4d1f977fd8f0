"""Clients that no server can take now: they wait, and are served in the order in which they came.

Whatever may have made room (a session's end, a command, a verdict) calls ``stir``. What only time brings, that a server
may be tried again or the end of their patience, is looked at every PERIOD seconds while somebody waits; while nobody
waits, it costs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import gevent
from gevent.hub import get_hub

from gpen.model.client import Client
from gpen.model.lease import Lease
from gpen.model.selector import Selector

if TYPE_CHECKING:
    from gpen.wire.conversation import Front

PERIOD = 0.1
MOST_REFUSED = 50  # of those who wait, at one stir; the others get their turn at the next look


class _Place(NamedTuple):
    greenlet: Any
    selector: Selector
    client: Client
    port: int
    since: float
    not_before: float
    is_guest: bool


class Hold:
    """The waiting room of a Front. It stands in ``busy`` as long as somebody waits there."""

    def __init__(self, front: Front, busy: dict[Hold, None]) -> None:
        self._front = front
        self._busy = busy
        self._places: dict[int, _Place] = {}
        self._loop: Any = get_hub().loop
        self._timer: Any = None
        self.is_stirred = False  # those who wait are about to be asked: who comes now stands behind them
        self._guests = 0
        self._looked = 0.0  # when all were asked last

    def __len__(self) -> int:
        return len(self._places) - self._guests

    def has_room(self) -> bool:
        """Whether another client may wait; not before those that stand at the door."""
        return len(self._places) < self._front.settings.hold_max

    def wait(self, order: int, selector: Selector, client: Client, port: int, since: float, pause: float,
             is_guest: bool) -> Lease | None:
        """The place on a server that this client gets by this selector within ``hold`` seconds of ``since`` (monotonic
        time), or None.

        ``order`` says who came first. It gets none before ``pause`` seconds are over. A guest, for whom the waiting
        room has no room, has no patience: but as everybody it is asked once more before it is turned away. Switches
        greenlets.
        """
        not_before = time.monotonic() + pause if pause else 0.0
        self._places[order] = _Place(gevent.getcurrent(), selector, client, port, since, not_before, is_guest)
        self._busy[self] = None
        if is_guest:
            self._guests += 1
        if self._timer is None:
            self._timer = self._loop.timer(PERIOD, PERIOD)
            self._timer.start(self._loop.run_callback, self._tick)  # behind the ends of sessions that it came with
        try:
            lease: Lease | None = get_hub().switch()
            return lease
        finally:
            self._forget(order)

    def stir(self) -> None:
        """Somebody may be taken now. Returns at once."""
        if self._places and not self.is_stirred:
            self.is_stirred = True
            self._loop.run_callback(self._answer)

    def _answer(self) -> None:
        self.is_stirred = False
        self._serve(MOST_REFUSED)

    def _tick(self) -> None:
        """Ask for all who wait; those whose patience was over at the last look already go. So whatever happened at the
        same moment, such as the end of a session, counts first."""
        now, last = time.monotonic(), self._looked
        if not self._places:
            self._stop()
        if not self._places or now - last < PERIOD / 2:  # the second is so when gpen was stopped, or late
            return
        self._looked = now
        self._serve(len(self._places))
        patience = self._front.settings.hold
        for order, place in sorted(self._places.items()):
            if order not in self._places:
                continue
            if place.is_guest and len(self) < self._front.settings.hold_max:
                self._guests -= 1
                self._places[order] = place = place._replace(is_guest=False)
            if place.since + (0.0 if place.is_guest else patience) <= last:
                self._release(order, None)

    def _stop(self) -> None:
        self._busy.pop(self, None)
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _serve(self, most_refused: int) -> None:
        """Give what there is to those who wait. Runs in the hub; each greenlet runs until it waits again.

        Not all are asked at each stir: 900 whom an access list keeps from the only free server took 7 ms each time.
        """
        now, full = time.monotonic(), set[Selector]()
        for order, place in sorted(self._places.items()):
            selector = place.selector
            if not most_refused:
                return
            if selector in full or not selector.has_room():
                full.add(selector)
                continue
            if order in self._places and place.not_before <= now:
                try:
                    lease = selector.reserve(place.client, place.port)
                except Exception as error:  # it is that client's, and keeps none behind it waiting
                    self._forget(order)
                    place.greenlet.throw(error)
                    continue
                if lease is not None or selector.has_decided():
                    self._release(order, lease)
                else:
                    most_refused -= 1

    def _release(self, order: int, lease: Lease | None) -> None:
        place = self._forget(order)
        if place is not None:
            place.greenlet.switch(lease)

    def _forget(self, order: int) -> _Place | None:
        place = self._places.pop(order, None)
        if place is not None:
            self._guests -= place.is_guest
        return place
