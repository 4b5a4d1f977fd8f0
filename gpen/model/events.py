"""What has happened to servers and to gpen itself, for the command events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gpen.model.server import Server, Target
from gpen.model.text import printable

EVENTS_KEPT = 1000


class Event(NamedTuple):
    """One change of a server's state, or of gpen itself: wall clock time in seconds, the server, what happened, why,
    and the listener that it is about, if that is one alone."""

    time: float
    server: int | str | None
    event: str
    cause: str
    listener: str | None = None


class Events:
    """The last of them, from the oldest to the newest; ``counts`` is how many of each kind there ever were."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump, ``wall`` the time of day in seconds since 1970."""
        self._clock = clock
        self.wall = wall
        self.counts: dict[str, int] = {}
        # called with what has changed a server's state, as it is reached so; what comes of it may have yet to be done
        self.on_change: Callable[[Event, Target], object] = lambda event, target: None
        self.on_dated: Callable[[Target], object] = lambda target: None  # called when something about it has changed
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def note(self, server: Server, event: str, cause: str) -> None:
        """Remember a change of a server's state."""
        self.date(server)
        self.on_change(self.tell(server, event, cause), server.target)
        for target in server.targets.values():
            self.on_dated(target)

    def tell(self, server: Server, event: str, cause: str, listener: str = "") -> Event:
        """Remember what does not change the server's state, or concerns only a listener that has a name."""
        return self._append(Event(self.wall(), server.label, event, printable(cause), listener or None))

    def note_target(self, target: Target, event: str, cause: str) -> None:
        """The same of one way to reach it."""
        self._date(target)
        way = target.name.removeprefix(target.server.name)
        self.on_change(self.tell(target.server, event, f"{cause}{way}"), target)
        self.on_dated(target)

    def note_own(self, event: str, cause: str, listener: str = "") -> None:
        """Remember what has happened to gpen itself, or to a listener that has a name."""
        self._append(Event(self.wall(), None, event, printable(cause), listener or None))

    def _append(self, event: Event) -> Event:
        self._events.append(event)
        self.counts[event.event] = self.counts.get(event.event, 0) + 1
        return event

    def date(self, server: Server) -> None:
        """Something about the server is so from now on."""
        for target in server.targets.values():
            self._date(target)

    def _date(self, target: Target) -> None:
        target.since, target.changed = self.wall(), self._clock()
