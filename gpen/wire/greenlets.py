"""Greenlets for sessions, kept for the next session when one is over.

A new greenlet costs 18 us, for the interpreter maps a fresh page of stack for it and unmaps it at the end; one that is
kept costs 1.2 us (CPython 3.11, this loop alone). A new connection takes about 100 us in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from gpen.wire.faults import Faults

KEPT = 128  # idle ones, in a process of gpen's
Work = Callable[[], None]
_switch: Any = greenlet.switch  # gevent's own for its hub asks first whether somebody wants to know of each switch


class Greenlets:
    """Runs each piece of work in a greenlet of its own, started at once. ``keep`` idle greenlets stay for reuse."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._hub: Any = get_hub()
        self._idle: list[Any] = []
        self._faults = Faults()

    def start(self, work: Work) -> None:
        """Run ``work`` until it waits for the first time. To be called in the hub. What it raises is told."""
        if self._idle:
            self._idle.pop().switch(work)
        else:
            greenlet(self._run, self._hub).switch(work)

    def dismiss(self) -> None:
        """End the greenlets that are idle."""
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.parent = getcurrent()  # whoever dismisses goes on, not the hub
            worker.switch(None)

    def _run(self, work: Work | None) -> None:
        worker = getcurrent()
        while work is not None:
            try:
                work()
            except Exception:
                self._faults.tell("a session")
                return  # whoever still means that work by this greenlet does not meet another one's in it
            work = None
            if len(self._idle) < self._keep:
                self._idle.append(worker)
                work = _switch(self._hub)
