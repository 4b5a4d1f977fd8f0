"""Sockets of flows that are over because they had their udp_requests: for a moment, what still comes there is heard.

A reply is passed on, though it is none of a flow's any more. A server's refusal (ICMP) comes from another machine when
its datagram is gone already: then that one is lost, but not all that follow.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from gpen.model.lease import Lease
from gpen.wire import kernel, sockets
from gpen.wire.alarm import Alarm
from gpen.wire.kernel import Datagrams, Handler
from gpen.wire.poller import EPOLLIN, Poller

log = logging.getLogger("gpen")

MOST = 64  # of a listener: with 10,000 datagrams a second, the last 6 ms of them
SECONDS = 1.0


class Remnants:
    """Those of one listener, the oldest first."""

    def __init__(self, poller: Poller, clients: Datagrams) -> None:
        self._poller = poller
        self._clients = clients
        self._all: OrderedDict[Remnant, float] = OrderedDict()  # until when each is kept
        self._alarm = Alarm(poller.loop, "to close sockets of flows that are over", self._tend)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, sock: Any, key: Any, lease: Lease) -> None:
        """Hear what comes to this socket, which nobody watches, for the client of this key: replies, or that the server
        of this place refuses."""
        remnant = Remnant(self, sock, key, lease)
        try:
            self._poller.add(remnant.fd, EPOLLIN, remnant)
        except OSError:
            sock.close()
            return
        self._all[remnant] = kernel.monotonic() + SECONDS
        if len(self._all) > MOST:
            self.drop(next(iter(self._all)))
        if not self._alarm.is_set:
            self._alarm.set(SECONDS)

    def pass_on(self, data: bytes, key: Any) -> None:
        """A reply, to the client of this key."""
        with suppress(OSError):
            self._clients.answer(data, key)

    def drop(self, remnant: Remnant) -> None:
        """Nobody hears what comes there any more."""
        if self._all.pop(remnant, None) is not None:
            self._poller.closed(remnant.fd)
            remnant.sock.close()

    def close(self) -> None:
        """Drop all."""
        for remnant in list(self._all):
            self.drop(remnant)
        self._alarm.stop()

    def _tend(self) -> None:
        now = kernel.monotonic()
        while self._all:
            remnant, end = next(iter(self._all.items()))
            if end > now:
                self._alarm.set(end - now)
                return
            self.drop(remnant)


class Remnant(Handler):
    """One of them."""

    __slots__ = ("_key", "_lease", "_remnants", "fd", "sock")

    def __init__(self, remnants: Remnants, sock: Any, key: Any, lease: Lease) -> None:
        self._remnants = remnants
        self.sock = sock
        self.fd = sock.fileno()
        self._key = key
        self._lease = lease

    def ready(self, events: int) -> None:
        try:
            data = kernel.take(self.sock)
        except OSError as error:
            self._remnants.drop(self)
            self._accuse(error)
            return
        if data is not None:
            self._remnants.pass_on(data, self._key)

    def _accuse(self, error: OSError) -> None:
        lease, target = self._lease, self._lease.target
        if error.errno in sockets.LOCAL_ERRORS or lease.is_outdated:
            return
        cause = sockets.cause_of(error)
        if not target.is_down:
            log.warning("server %s %s: %s", target.name, target.shown, cause)
        lease.accuse(cause, error.errno in sockets.PROHIBITIONS)
