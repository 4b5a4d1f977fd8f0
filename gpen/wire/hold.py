"""Clients that no server can take now: they wait, and are served in the order in which they came.

Whatever may have made room (a session's end, a command, a verdict) calls ``stir``. What only time brings, the end of a
blacklist or of their patience, is looked at every PERIOD seconds while somebody waits; nobody waits, it costs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import gevent
from gevent.hub import get_hub

from gpen.model.client import Client
from gpen.model.pool import Lease

if TYPE_CHECKING:
    from gpen.wire.session import Front

PERIOD = 0.1


class _Place(NamedTuple):
    greenlet: Any
    client: Client
    port: int
    since: float


class Hold:
    """The waiting room of a Front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._places: dict[int, _Place] = {}
        self._loop: Any = get_hub().loop
        self._timer: Any = None
        self._stirred = False

    def __len__(self) -> int:
        return len(self._places)

    def has_room(self) -> bool:
        """Whether another client may wait."""
        return len(self._places) < self._front.settings.hold_max

    def wait(self, order: int, client: Client, port: int, since: float) -> Lease | None:
        """The place on a server that this client gets within ``hold`` seconds of ``since`` (monotonic time), or None.

        ``order`` says who came first. Switches greenlets.
        """
        self._places[order] = _Place(gevent.getcurrent(), client, port, since)
        if self._timer is None:
            self._timer = self._loop.timer(PERIOD, PERIOD)
            self._timer.start(self._tick)
        self.stir()
        try:
            lease: Lease | None = get_hub().switch()
            return lease
        finally:
            self._places.pop(order, None)

    def stir(self) -> None:
        """Somebody may be taken now. Returns at once."""
        if self._places and not self._stirred:
            self._stirred = True
            self._loop.run_callback(self._serve)

    def _tick(self) -> None:
        if not self._places:
            self._timer.stop()
            self._timer.close()
            self._timer = None
            return
        pool = self._front.pool
        if not pool.has_room():
            pool.hurry()
        self._serve()
        limit = time.monotonic() - self._front.settings.hold
        for order, place in sorted(self._places.items()):
            if place.since <= limit and order in self._places:
                self._release(order, None)

    def _serve(self) -> None:
        """Give what there is to those who wait. Runs in the hub; each greenlet runs until it waits again."""
        self._stirred = False
        pool = self._front.pool
        for order, place in sorted(self._places.items()):
            if not pool.has_room():
                return
            if order in self._places:
                lease = pool.reserve(place.client, place.port)
                if lease is not None:
                    self._release(order, lease)

    def _release(self, order: int, lease: Lease | None) -> None:
        self._places.pop(order).greenlet.switch(lease)
