"""Long work in turns, so that no session waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import gevent

TURN = 0.004  # seconds

Item = TypeVar("Item")


def gently(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; after every TURN of work others run. Switches greenlets."""
    leave = time.monotonic() + TURN
    for item in items:
        yield item
        if time.monotonic() > leave:
            gevent.sleep(0)
            leave = time.monotonic() + TURN
