"""What one client's address and port sends to a service whose servers answer by themselves: a TCP connection, or a flow
of UDP, of which gpen sees one direction.

So it is known that a server has accepted by the client's next segment, and that a connection is over by its silence
behind the client's FIN. Nothing here switches greenlets.
"""

from __future__ import annotations

import _socket
import errno
import logging
from typing import TYPE_CHECKING, Any

from gpen.dsr.neighbours import Neighbour
from gpen.model.address import Endpoint
from gpen.model.ending import Ending
from gpen.model.lease import Lease
from gpen.model.server import Server
from gpen.wire import kernel
from gpen.wire.conversation import Conversation, Front

if TYPE_CHECKING:
    from gpen.dsr.listener import DirectListener

log = logging.getLogger("gpen")

CONNECTING, OPEN, CLOSING = "connecting", "open", "closing"
HALF_OPEN_SECONDS = 10.0  # that a SYN which nothing follows keeps its place
CLOSED_SECONDS = 2.0  # of silence behind the client's FIN
IDLE_SECONDS = 900.0  # of silence of a connection, where idle_timeout says nothing
CUT = frozenset({Ending.KILLED, Ending.SERVER_DOWN, Ending.SERVER_RESET, Ending.EVICTED})  # while it went on

Told = dict[str, Any]  # what is told of a flow that passes to another gpen

NO_ANSWER = "no answer to ARP"
NO_PLACE = "it has no IPv4 address"  # of a server


def no_answer() -> OSError:
    """Why a server is not reached that says nothing."""
    return OSError(errno.EPROTO, NO_ANSWER)


class DirectFlow(Conversation):
    """``key`` is what its listener knows it by: the client's address and port, and ours. ``neighbour`` is where its
    frames go, ``active`` when the last came, ``sent`` their bytes without Ethernet's header."""

    _consequence = "; frames are dropped"

    __slots__ = ("_denied", "_listener", "_tried", "active", "dialed", "is_lent", "is_tcp", "key", "neighbour", "phase",
                 "sent")

    def __init__(self, id: int, front: Front, listener: DirectListener, key: bytes, phase: str) -> None:
        """``phase``: CONNECTING where it begins with a SYN."""
        Conversation.__init__(self, id, front, _socket.inet_ntoa(key[:4]), int.from_bytes(key[4:6], "big"))
        self.key = key
        self.is_tcp = listener.is_tcp
        self.phase = phase
        self.neighbour: Neighbour | None = None
        self.active = self._accepted
        self.dialed = 0.0  # when this server was chosen
        self.sent = 0
        self.is_lent = False  # another gpen is about to have it: it stands still
        self._listener = listener
        self._denied = False
        self._tried: list[Server] = []  # that could not be reached

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return self.phase if self.connected else "choosing"

    @property
    def descriptors(self) -> tuple[int, int]:
        return -1, -1

    @property
    def waiting(self) -> int:
        return 0

    @property
    def ended_sides(self) -> tuple[bool, bool]:
        return False, self.phase == CLOSING

    def volumes(self) -> tuple[int, int, int, int]:
        return self.sent, 0, 0, self.sent

    def idle(self, now: float) -> float:
        return max(now - self.active, 0.0)

    @property
    def is_connecting(self) -> bool:
        """A connection as long as nothing says that its server is there; a flow of UDP always: nothing ever does."""
        return not self.is_tcp or self.phase == CONNECTING

    def stop(self, ending: Ending) -> None:
        if self.finished or self.is_lent:
            return
        self.ending = ending
        self.finished = kernel.monotonic()
        try:
            self._leave_neighbour()
            self._settle_accounts()
        except Exception:
            self._report()
        self._listener.forget(self)
        self._front.ended(self)

    def _abandon(self) -> None:
        super()._abandon()
        self._listener.forget(self)

    def leave(self, lease: Lease, ending: Ending | None = None) -> None:
        """Where the server has not shown that it knows this client, the next frame goes to another; unless that only
        drains."""
        if self.finished or self.is_lent or self.lease is not lease:
            return
        if self.is_connecting and not lease.server.drained:
            self.go_elsewhere()
        elif ending is not None:
            self.stop(ending)

    def tend(self, now: float) -> None:
        """The janitor's visit: it ends with silence, how long depends on what came last."""
        if self.finished or self.is_lent:
            return
        settings, idle = self._front.settings, now - self.active
        if not self.is_tcp:
            if idle >= settings.udp_timeout:
                self.stop(Ending.SILENT)
        elif self.phase == CLOSING:
            if idle >= CLOSED_SECONDS:
                self.stop(Ending.CLIENT_CLOSED)
        elif self.phase == CONNECTING:
            if idle >= HALF_OPEN_SECONDS:
                self.stop(Ending.SILENT)
        elif idle >= (settings.idle_timeout or IDLE_SECONDS):
            self.stop(Ending.IDLE if settings.idle_timeout else Ending.SILENT)

    # --- its life -------------------------------------------------------------------------------------------------

    def open(self, server: Server | None = None) -> bool:
        """Find a server, or go on at this one; False when there is none, and the flow is over."""
        self._denied = self._admit()
        if self._front.settings.limits_clients and (limit := self._limit()) is not None:
            self.stop(limit)
            return False
        if server is not None and not self._denied:
            lease = self._front.selector.resume(server.label)
            if lease is not None and self._take(lease):
                return True
        problem = self._dial(Ending.DENIED if self._denied else Ending.NO_SERVER)
        if problem is not None:
            self.stop(problem)
        return problem is None

    def answered(self) -> None:
        """The client has gone on, so that its server has accepted."""
        self.phase = OPEN
        self._tried.clear()
        if self.lease is not None:
            self.lease.connected()

    def is_stuck(self, now: float) -> bool:
        """Whether the client asks once more for a connection that its server has not accepted for as long as a connect
        may take, and another could take it."""
        lease = self.lease
        return (self.phase == CONNECTING and lease is not None and now - self.dialed >= self._front.settings.timeout
                and self._front.selector.has_substitute(lease.member))

    def go_elsewhere(self, error: OSError | None = None) -> None:
        """To another server; with an ``error``, its own could not be reached by that. It ends where there is none."""
        lease = self.lease
        assert lease is not None
        self._leave_neighbour()
        ending = self._dial(self._turned_down(lease, error, self._tried, self.sent, 0))
        if ending is not None:
            self.stop(ending)

    def _leave_neighbour(self) -> None:
        if self.neighbour is not None:
            self.neighbour.users -= 1
            self.neighbour = None

    def _dial(self, ending: Ending) -> Ending | None:
        """Choose a server. None, or why there is none: ``ending``, or what was wrong with the last that was tried."""
        while True:
            lease = self._reserve()
            if lease is None:
                return ending
            if self._take(lease):
                return None
            has_place = endpoint_of(lease.target.endpoints) is not None
            ending = self._turned_down(lease, no_answer() if has_place else OSError(errno.EPROTO, NO_PLACE),
                                       self._tried, self.sent, 0)

    def _reserve(self) -> Lease | None:
        selector = self._front.selector
        if self._denied:
            return None if self._tried else selector.reserve_abuse()
        assert self.client is not None
        return selector.reserve(self.client, self._port, self._tried)

    def _take(self, lease: Lease) -> bool:
        """Have this place, unless nobody answers there."""
        self.lease = lease
        self.server = server = lease.server
        self.dialed = now = kernel.monotonic()
        self.chosen = self.chosen or now
        lease.moved(-self.sent, 0)  # all of them are added at each of its servers: _turned_down
        neighbour = self._listener.neighbour_of(lease.target, now)
        if neighbour is None or neighbour.is_gone:
            return False
        self.endpoint = self._listener.endpoint_of(lease.target)
        self.neighbour = neighbour
        neighbour.users += 1
        self.connected = self.connected or now
        client = self.client
        if client is not None and server.number is not None and self._front.settings.rule.remembers:
            self.clients.stick(client, server)
        if neighbour.head and not (self.is_tcp and self.phase == CONNECTING):
            lease.connected()
        return True

    # --- passing to another gpen ------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """The other has it: it is no flow of ours any more, and its bytes are counted there."""
        self.finished = kernel.monotonic()
        self._leave_neighbour()
        self.sent = 0
        self._settle_accounts()
        self._front.forget(self)

    def told(self) -> Told:
        """All that another gpen on this machine, whose clock is the same, needs to go on with it."""
        assert self.server is not None and self.endpoint is not None
        return {"key": self.key.hex(), "server": self.server.label, "phase": self.phase, "sent": self.sent,
                "times": (self._accepted, self.started, self.chosen, self.connected, self.active, self.dialed)}

    def adopt(self, told: Told) -> bool:
        """Be the flow that another gpen has told of; False when its server is none of ours, and the flow is over."""
        self._denied = self._admit()
        lease = self._front.selector.resume(told["server"])
        if lease is None:
            self._front.forget(self)
            return False
        self.sent = told["sent"]
        is_there = self._take(lease)
        self._accepted, self.started, self.chosen, self.connected, self.active, self.dialed = told["times"]
        if not is_there:
            self.stop(Ending.SERVER_RESET)
        return is_there


def endpoint_of(endpoints: tuple[Endpoint, ...]) -> Endpoint | None:
    """The first of IPv4, if there is one."""
    return next((endpoint for endpoint in endpoints if endpoint.family == _socket.AF_INET), None)
