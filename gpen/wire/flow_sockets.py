"""The sockets of flows of UDP towards servers: whose they are, and which port each has.

The kernel gives each flow a port that no other socket has, whatever server it goes to: of the usual 28,000, all servers
together get 28,000 flows. (In TCP it looks at both ends of a connection.) Only when it has no port left, a flow shares
that of others, which go to other servers: all of their sockets are connected, so that the kernel knows by the server
whose a reply is.

Only a port that gpen has is shared, and never for the same server twice. With SO_REUSEPORT at all of its sockets the
kernel lets that be, for nobody but this user. From when a socket has its port until it is connected, it may get what is
meant for nobody; that is thrown away.
"""

from __future__ import annotations

import errno
import math
import os
import random
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from gpen.wire import kernel, sockets
from gpen.wire.sockets import Socket
from gpen.wire.transparent import send_as_client

if TYPE_CHECKING:
    from gpen.wire.flow import Flow

FULL_SECONDS = 1.0  # for so long a kernel that has had no port is not asked again: that takes it a millisecond and more
MOST_FREED = 1000  # ports of a server that are remembered

Place = tuple[str, int]  # a host in its one form, and a port


class FlowSocket(NamedTuple):
    """One of them: where it is, to which server it goes, and whose it is."""

    place: Place
    endpoint: Endpoint
    flow: Flow
    sock: Socket


class FlowSockets:
    """All of them: one of each place (``_by_place``) and, once ports have been short, all of each port
    (``_by_port``)."""

    def __init__(self) -> None:
        self._by_place: dict[Place, FlowSocket] = {}
        self._by_port: dict[int, list[FlowSocket]] = {}
        self._is_short = False
        self._full: dict[tuple[int, str], float] = {}  # until when the kernel has no port, by family and source
        self._taken: dict[tuple[Any, str], float] = {}  # until when there is none to share, by server and source
        self._freed: dict[Any, deque[int]] = {}  # ports that were shared, and may be again, by server

    def has_sent(self, place: Place, data: bytes) -> bool:
        """Whether this is one of the last datagrams that went to a server from there."""
        if self._is_short:
            return any(it.place == place and it.flow.has_sent(data) for it in self._by_port.get(place[1], ()))
        it = self._by_place.get(place)
        return it is not None and it.flow.has_sent(data)

    def open(self, endpoint: Endpoint, settings: Settings, flow: Flow) -> tuple[Socket, Place | None]:
        """A socket for a flow, which is connected to a server, and where it is; None where that is the client's own
        address, which is no place of ours. Raises OSError. Does not switch."""
        if settings.source or settings.introduces or self._is_short:
            as_client = send_as_client(flow, endpoint) if settings.transparent else None
            if as_client is not None:
                return as_client, None
            sock, place = self._open_in_turn(endpoint, settings)
        else:
            try:
                sock, place = sockets.send_datagrams(endpoint, "")
            except sockets.NoPortError:  # it is asked once more then, and that is remembered
                sock, place = self._open_in_turn(endpoint, settings)
        self.add(place, endpoint, flow, sock)
        return sock, place

    def add(self, place: Place, endpoint: Endpoint, flow: Flow, sock: Socket) -> None:
        """From now on a flow has this one."""
        if place in self._by_place:  # they shared it at the gpen that has passed them on
            self._look_at_ports()
        self._by_place[place] = it = FlowSocket(place, endpoint, flow, sock)
        if self._is_short:
            if place[1] not in self._by_port:
                self._by_port[place[1]] = []
                self._taken.clear()
            self._by_port[place[1]].append(it)

    def remove(self, place: Place, flow: Flow) -> None:
        """The flow has it no longer."""
        if not self._is_short:
            self._by_place.pop(place, None)
            return
        those = self._by_port.pop(place[1], [])
        rest = [it for it in those if it.flow is not flow]
        if rest:
            self._by_port[place[1]] = rest
            for it in those:
                if it.flow is flow:
                    self._freed.setdefault(it.endpoint.sockaddr, deque(maxlen=MOST_FREED)).append(place[1])
        else:
            self._full.clear()  # the kernel has a port again
        others = [it for it in rest if it.place == place]
        if others:
            self._by_place[place] = others[0]
        else:
            self._by_place.pop(place, None)
        self._taken.clear()
        if not self._by_port:
            self._is_short = False
            self._freed.clear()

    def _open_in_turn(self, endpoint: Endpoint, settings: Settings) -> tuple[Socket, Place]:
        """From the first of these addresses that has a port for it alone; else from one where it shares that of
        others."""
        problem = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        now = kernel.monotonic()
        for source in _sources(endpoint, settings):
            key = endpoint.family, source
            if self._full.get(key, 0.0) <= now:
                try:
                    return sockets.send_datagrams(endpoint, source)
                except sockets.NoPortError:
                    self._full[key] = now + FULL_SECONDS
                except OSError as error:
                    if error.errno != errno.EADDRNOTAVAIL:  # the address is none of this machine's
                        raise
                    problem = error
        if self._full:
            self._look_at_ports()
            for source in _sources(endpoint, settings):
                opened = self._share(endpoint, source)
                if opened is not None:
                    return opened
        raise problem

    def _look_at_ports(self) -> None:
        """From now on it is known who has which port."""
        if not self._is_short:
            self._is_short = True
            for place, it in self._by_place.items():
                self._by_port.setdefault(place[1], []).append(it)

    def _share(self, endpoint: Endpoint, source: str) -> tuple[Socket, Place] | None:
        """From a port that others have, and nobody who goes to this server; None when there is none. One that somebody
        has left who went there is tried first: to find the only one of 28,000 takes milliseconds."""
        left, key = self._freed.get(endpoint.sockaddr), (endpoint.sockaddr, source)
        while left:
            opened = self._share_port(left.pop(), endpoint, source)
            if opened is not None:
                return opened
        if self._taken.get(key, 0.0) > kernel.monotonic():
            return None
        for port in _all_ports():
            opened = self._share_port(port, endpoint, source)
            if opened is not None:
                return opened
        self._taken[key] = kernel.monotonic() + FULL_SECONDS
        return None

    def _share_port(self, port: int, endpoint: Endpoint, source: str) -> tuple[Socket, Place] | None:
        those = self._by_port.get(port)
        if those is None or port == endpoint.port:
            return None
        for it in those:
            if it.endpoint.family != endpoint.family:
                return None  # an IPv4 address can be written as one of IPv6
            if it.endpoint.sockaddr == endpoint.sockaddr and source in ("", it.place[0]):
                return None
        return sockets.share_port(endpoint, source, port, [it.sock for it in those])


def _sources(endpoint: Endpoint, settings: Settings) -> Iterator[str]:
    """The addresses that a flow to this server may come from; the empty one where any will do."""
    is_any = False
    for source in sockets.in_turn(endpoint, settings):
        is_any = True
        yield source
    if not is_any:
        yield ""


def _all_ports() -> Iterator[int]:
    """Each port once, beginning anywhere and by steps of any length: those that are taken stand together."""
    low, high = sockets.ephemeral_ports()
    count = high - low + 1
    start, step = random.randrange(count), random.randrange(count) or 1
    while math.gcd(step, count) != 1:
        step += 1
    return (low + (start + number * step) % count for number in range(count))
