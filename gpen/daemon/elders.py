"""The gpens that this one has replaced: they serve their sessions to the end, and tell how many those are. What they
have counts for the limits of servers as our own sessions do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent

from gpen.control.configuration import Configuration
from gpen.model.lease import Former
from gpen.model.server import Server
from gpen.wire import passing
from gpen.wire.passing import Channel, PassingError

log = logging.getLogger("gpen")

Rows = list[tuple[str, int | str, str, int]]  # a listener, a server's label and address, and how many sessions
_Key = tuple[str, int | str]
_ROW_BYTES = 100


def send_rows(channel: Channel, kind: str, rows: Rows) -> None:
    """Tell them, in as many messages of this kind as it takes; the last has no ``more``. Raises PassingError."""
    parts = list(passing.pieces(rows, lambda row: _ROW_BYTES)) or [[]]
    for number, part in enumerate(parts, 1):
        channel.send(kind, rows=part, more=number < len(parts))


class Elder:
    """One of them, with this ``pid``; ``rows`` is what it has told last."""

    def __init__(self, channel: Channel, pid: int, configuration: Configuration, changed: Callable[[], object]) -> None:
        self.channel = channel
        self.pid = pid
        self.rows: Rows = []
        self._configuration = configuration
        self._changed = changed
        self._places: dict[_Key, Former] = {}
        self._names: set[str] = set()  # of the listeners that it has sessions of
        self._greenlet: Any = None
        self._coming: Rows = []

    def start(self, ended: Callable[[Elder], object]) -> None:
        """Listen to what it tells; ``ended`` is called when it has said its last."""
        self._greenlet = gevent.spawn(self._listen, ended)

    def stop(self) -> None:
        """Listen no more, for now."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _listen(self, ended: Callable[[Elder], object]) -> None:
        try:
            while True:
                message = self.channel.receive(None)
                if message.kind == "sessions":
                    self._coming += message["rows"]
                    if not message["more"]:
                        rows, self._coming = self._coming, []
                        self.take(rows)
        except PassingError:
            self.take([])
            self.channel.close()
            ended(self)

    def take(self, rows: Rows) -> None:
        """It has so many sessions now."""
        self.rows = rows
        told = {(listener, label): (address, count) for listener, label, address, count in rows}
        for key in self._places.keys() - told.keys():
            self._places.pop(key).become(0)
        for key, (address, count) in told.items():
            place = self._places.get(key) or self._place(key, address)
            if place is not None:
                place.become(count)
        self._changed()

    def _place(self, key: _Key, address: str) -> Former | None:
        """Where its sessions with a server count; None where there is no such server any more."""
        listener, label = key
        scope, server = self._configuration.scopes.get(listener), self._configuration.pool.server(label)
        if scope is None or server is None or str(server.address) != address:
            return None
        self._names.add(listener)
        place = self._places[key] = Former(scope.selector, server)
        return place

    def count(self, server: Server, listener: str | None) -> int:
        """How many sessions it has with a server: of all listeners (None), or of one."""
        places = (self._places.get((name, server.label)) for name in (self._names if listener is None else (listener,)))
        return sum(place.count for place in places if place is not None and place.server is server)


class Elders:
    """All of them."""

    def __init__(self, configuration: Configuration, changed: Callable[[], object]) -> None:
        """``changed`` is called when they have fewer sessions than before, or more."""
        self._configuration = configuration
        self._changed = changed
        self._elders: list[Elder] = []

    def __iter__(self) -> Iterator[Elder]:
        return iter(list(self._elders))

    def add(self, channel: Channel, pid: int, rows: Rows) -> None:
        """One more, with so many sessions."""
        elder = Elder(channel, pid, self._configuration, self._changed)
        elder.take(rows)
        self._elders.append(elder)

    def count(self, server: Server, listener: str | None = None) -> int:
        """How many sessions they have with a server: of all listeners, or of one."""
        return sum(elder.count(server, listener) for elder in self._elders)

    def go_on(self) -> None:
        """Listen to them."""
        for elder in self:
            elder.start(self._ended)

    def renew(self) -> None:
        """They shall open their logs anew: these are ours, too, and may have been rotated. Switches greenlets."""
        for elder in self:
            with suppress(PassingError):  # it has ended, or hears of nothing
                elder.channel.send("renew")

    def _ended(self, elder: Elder) -> None:
        if elder not in self._elders:
            return  # it was let go
        self._elders.remove(elder)
        log.info("the gpen before, with pid %d, has ended its sessions", elder.pid)

    def suspend(self) -> None:
        """Listen to none of them: what they say waits in the kernel, perhaps for another."""
        for elder in self:
            elder.stop()

    def let_go(self) -> None:
        """They tell another from now on."""
        for elder in self:
            elder.stop()
            elder.take([])
            elder.channel.close()
        self._elders.clear()
