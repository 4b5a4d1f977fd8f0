"""Datagrams that would go round for ever: from one of gpen's servers, or from gpen itself. No flow begins for them.

A reply to one goes to a server, which may take it for a request and reply to gpen, and so on; or to gpen. One forged
datagram came to 4,600 a second. If it is not forged, a server leads back to gpen (its address is gpen's by now, or
translated to that), and one datagram of a client would take all flows there are. So they are dropped, counted, and told
once.

That spares the hot path: it is asked when a flow begins; and of all flows when servers or listeners have changed, since
what was a client may be one of these from then on.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gpen.model.address import Endpoint, bracketed, normalize
from gpen.model.pool import Pool
from gpen.model.server import UDP, Server
from gpen.wire import kernel
from gpen.wire.flow_sockets import FlowSockets, Place

if TYPE_CHECKING:
    from gpen.wire.datagram import DatagramListener

log = logging.getLogger("gpen")

QUIET = 60.0  # seconds without any, after which they are told again


class Loops:
    """Whose datagrams are dropped. ``dropped`` is how many were; ``changes`` grows with each change of what is asked
    here; ``flow_sockets`` are those of flows towards servers."""

    def __init__(self, pool: Pool, listeners: Callable[[], Iterable[DatagramListener]]) -> None:
        self.dropped = 0
        self.changes = 0
        self.flow_sockets = FlowSockets()
        self._pool = pool
        self._listeners = listeners
        self._servers: dict[Place, Server] = {}
        self._seen = -1  # up to which change it is known who they are
        self._ours: dict[int, list[DatagramListener]] = {}  # by port
        self._last = 0.0  # when one was dropped

    def changed(self) -> None:
        """Servers or listeners are elsewhere now. Does not switch."""
        self.changes += 1

    def drops(self, sockaddr: Any, data: bytes | None = None) -> bool:
        """Whether what comes from there is dropped; then it is counted. From a flow's socket, ``data`` must be what the
        flow has sent: else a client had that port, and has closed it since."""
        if self._seen != self.changes:
            self._look()
        place = place_of(sockaddr)
        server, ours = self._servers.get(place), self._ours.get(place[1])
        if server is None and (data is None or not self.flow_sockets.has_sent(place, data)) and (
                ours is None or not _is_one_of(ours, sockaddr)):
            return False
        self.dropped += 1
        now, last = kernel.monotonic(), self._last
        self._last = now
        if not last or now - last > QUIET:
            self._tell(place, server)
        return True

    def _look(self) -> None:
        self._seen = self.changes
        self._ours = {}
        for listener in self._listeners():
            self._ours.setdefault(listener.port, []).append(listener)
        self._servers = {_place_of(endpoint): server for server in self._pool.all_servers()
                         for target in server.targets.values() if target.transport == UDP
                         for endpoint in target.endpoints}

    def _tell(self, place: Place, server: Server | None) -> None:
        if server is None:
            whose, means = "gpen itself", "a server leads back to gpen"
        else:
            whose, means = server.name if server.is_special else f"server {server.name}", "it is a client as well"
        cause = (f"from {bracketed(place[0])}:{place[1]}, {whose}: such datagrams would go round for ever; they are "
                 f"forged, or {means}")
        log.warning("dropped a datagram %s; that is told once", cause)
        self._pool.events.note_own("dropped", cause)


def _is_one_of(listeners: list[DatagramListener], sockaddr: Any) -> bool:
    return any(listener.is_at(sockaddr) for listener in listeners)


def place_of(sockaddr: Any) -> Place:
    """Where a socket is, by its address as the kernel tells it."""
    return sockaddr if len(sockaddr) == 2 else (normalize(sockaddr[0]), sockaddr[1])


def _place_of(endpoint: Endpoint) -> Place:
    """The same for what people or name servers have written."""
    host, family = endpoint.sockaddr[0].partition("%")[0], endpoint.family
    return normalize(_socket.inet_ntop(family, _socket.inet_pton(family, host))), endpoint.port
