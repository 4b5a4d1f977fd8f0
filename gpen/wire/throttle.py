"""How often clients may come: to a listener, and from one address.

A listener that has had as many as connection_rate allows accepts nobody until one more may come: the others wait in the
kernel, which costs nothing, and one is let in at a time. It stands before what a listener begins sessions with, so that
one without a rate has nothing of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from gpen.model.rates import Arrivals, Rate, Window
from gpen.wire import kernel
from gpen.wire.alarm import Alarm
from gpen.wire.faults import Troubles

log = logging.getLogger("gpen")

STALE = 0.1  # seconds behind the moment when one of those that waited could have come: it would have by then

Ways = tuple[Callable[[Any, str, int], Any], Callable[[], bool]]  # begins a session; says that there is no room for one


class HeldBack:
    """How many clients of a listener came faster than its rates allowed: connections that had to wait (``delayed``),
    and flows of UDP that did not begin (``dropped``)."""

    def __init__(self) -> None:
        self.delayed = 0
        self.dropped = 0


class Throttle:
    """Lets clients of a listener in, no more than ``rate`` says; the others are counted."""

    def __init__(self, rate: Rate, whose: str, loop: Any, troubles: Troubles, counts: HeldBack) -> None:
        """``whose`` stands in front of what is told."""
        self.rate = rate
        self._window = Window(rate)
        self._whose = whose
        self._troubles = troubles
        self._counts = counts
        self._due = 0.0  # when the next of those that wait may come; 0 while none does
        self._listener: Any = None  # whose clients wait
        self._alarm = Alarm(loop, "to let clients in that connection_rate has held", self._go_on)

    def stands_before(self, ways: Ways, listener: Any) -> Ways:
        """The ways of a listener, as they are with this; from now on it is that listener's."""
        begin, no_room = ways
        self.end()
        self._listener = listener

        def begin_one(sock: Any, address: str, port: int) -> Any:
            self._comes(kernel.monotonic())
            return begin(sock, address, port)

        def has_no_room() -> bool:
            if no_room():
                return True
            wait = self._wait(kernel.monotonic())
            if wait:
                self._pause(wait)
            return wait > 0

        return begin_one, has_no_room

    def wait(self) -> float:
        """Seconds until the next client is let in; 0 when it is at once."""
        return self._wait(kernel.monotonic())

    @property
    def within(self) -> int:
        """How many have come in the time that the rate is about."""
        return self._window.within(kernel.monotonic())

    def admits_flow(self) -> bool:
        """Whether a flow of UDP may begin, which then has; else it is counted as dropped."""
        now = kernel.monotonic()
        if not self._window.wait(now):
            self._window.note(now)
            return True
        self._counts.dropped += 1
        self._troubles.tell(f"{self._whose}new flows are dropped: connection_rate is {self.rate}")
        return False

    def end(self) -> None:
        """It is not needed any more."""
        self._alarm.stop()

    def _wait(self, now: float) -> float:
        if self._due and now - self._due > STALE:
            self._due = 0.0
        return max(self._window.wait(now), self._due - now, 0.0)

    def _comes(self, now: float) -> None:
        """One is let in."""
        self._window.note(now)
        if self._due:
            self._counts.delayed += 1
            self._due += self.rate.spacing
            self._troubles.tell(f"{self._whose}connections wait in the kernel: connection_rate is {self.rate}")

    def _pause(self, wait: float) -> None:
        if not self._alarm.is_set:
            if not self._due:
                self._due = kernel.monotonic() + wait
            self._alarm.set(wait)

    def _go_on(self) -> None:
        listener = self._listener
        if not listener.is_open:
            return
        if not listener.has_waiting():
            self._due = 0.0
        listener.resume()


class Guard:
    """Lets each client address in, no more often than client_rate says."""

    def __init__(self, rate: Rate) -> None:
        self.arrivals = Arrivals(rate)

    @property
    def rate(self) -> Rate:
        """What that is."""
        return self.arrivals.rate

    def admits(self, address: str) -> bool:
        """Whether this client may come now, which then has."""
        now = kernel.monotonic()
        if self.arrivals.wait(address, now):
            return False
        self.arrivals.note(address, now)
        return True

    def wait(self, address: str) -> float:
        """Seconds until this client is let in; 0 when it is at once."""
        return self.arrivals.wait(address, kernel.monotonic())

    def within(self, address: str) -> int:
        """How often it has come in the time that the rate is about."""
        return self.arrivals.within(address, kernel.monotonic())

    def seconds_told(self, address: str) -> int:
        """For how long it is told to stay away."""
        return max(math.ceil(self.wait(address)), 1)
