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
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def note(self, server: Server, event: str, cause: str) -> None:
        """Remember a change of a server's state."""
        self.date(server)
        self.tell(server, event, cause)

    def tell(self, server: Server, event: str, cause: str) -> None:
        """Remember what does not change the server's state."""
        self._append(Event(self.wall(), server.label, event, printable(cause)))

    def note_target(self, target: Target, event: str, cause: str) -> None:
        """The same of one way to reach it."""
        self._date(target)
        way = target.name.removeprefix(target.server.name)
        self.tell(target.server, event, f"{cause}{way}")

    def note_own(self, event: str, cause: str, listener: str = "") -> None:
        """Remember what has happened to gpen itself, or to a listener that has a name."""
        self._append(Event(self.wall(), None, event, printable(cause), listener or None))

    def _append(self, event: Event) -> None:
        self._events.append(event)
        self.counts[event.event] = self.counts.get(event.event, 0) + 1

    def date(self, server: Server) -> None:
        """Something about the server is so from now on."""
        for target in server.targets.values():
            self._date(target)

    def _date(self, target: Target) -> None:
        target.since, target.changed = self.wall(), self._clock()
