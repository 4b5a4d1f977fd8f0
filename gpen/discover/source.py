"""What a source of servers is: somebody outside who knows which servers there are, and tells of changes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Found(NamedTuple):
    """A server that a source tells of. ``host``: a numeric address or a name; what is None the source does not say."""

    host: str
    port: int
    weight: int | None = None
    prio: int | None = None
    max: int | None = None


Tell = Callable[[Sequence[Found]], None]


class SourceError(Exception):
    """Why a source can't be asked, or what it said that is not understood: one line, for people."""


class Source(ABC):
    """One source. ``name`` is what it is called in the log and in status: the words that it was asked for with."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def watch(self, tell: Tell, stopping: threading.Event) -> None:
        """Tell all the servers that there are, and again all of them whenever that may have changed, until
        ``stopping`` is set: in a thread of its own, where it may wait for at most a second at a time without a look at
        that, or for a peer that ``stop`` interrupts.

        Each wait for a peer has a time limit, so that one which falls silent is asked anew. Returns when a watch is
        over and is to be begun again at once. Raises SourceError when the source can't be asked or says what is not
        understood: what was told before holds, the error is told once, and it is tried again a little later.
        """

    def stop(self) -> None:  # noqa: B027
        """Interrupt whatever ``watch`` waits for; from another thread. A source that never waits long has nothing to
        do."""
