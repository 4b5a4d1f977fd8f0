"""The front socket of UDP: knows the flow of each datagram, begins flows, and makes room for them.

Replies leave through the same socket. One that is bound to all addresses is told by the kernel which of them a client
has asked (IP_PKTINFO of ip(7), RFC 3542 section 6), and answers with that one.
"""

from __future__ import annotations

import _socket
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from gpen.model.ending import Ending
from gpen.model.settings import Settings
from gpen.wire.conversation import Front
from gpen.wire.flow import Flow, Told
from gpen.wire.kernel import Datagrams, Handler
from gpen.wire.loops import place_of
from gpen.wire.poller import EPOLLIN
from gpen.wire.remnants import Remnants
from gpen.wire.sockets import Socket, cause_of, endpoint_of, has_address

log = logging.getLogger("gpen")

LOOK = 64  # flows that are asked whether they wait for an answer, before one gives way
FULL = 20_000  # datagrams: more than the kernel keeps for us


class DatagramListener(Handler):
    """``flows`` by the keys of their ``clients``, which say who asks, and where, if we have several addresses; the one
    that was idle for longest first. Those that had their udp_requests, and wait for replies, are ``waiting``; what
    comes for those that are over by that is heard by ``remnants``."""

    def __init__(self, sock: Socket, front: Front) -> None:
        self.socket = sock
        self.endpoint = endpoint_of(sock)
        self.bound_to = str(self.endpoint)
        self.flows: OrderedDict[Any, Flow] = OrderedDict()
        self.waiting: OrderedDict[Any, Flow] = OrderedDict()
        self.front = front  # whose new flows are; those of a front that had it before go on
        self._most = front.settings.multi_accept
        self._requests = front.settings.udp_requests
        self._loops = front.loops
        self._changes = self._loops.changes  # up to which no flow is one that loops
        self._host, self.port = sock.getsockname()[:2]
        self._own = _socket.inet_pton(sock.family, self._host.partition("%")[0])
        self._everywhere = not any(self._own)
        self.clients = Datagrams(sock, self._everywhere)
        self.remnants = Remnants(front.poller, self.clients)
        self.admits: Callable[[], bool] | None = None  # whether one more flow may begin, where they are limited
        self._started = False
        self._closing = False
        self._suspended = False
        self.is_kept = False

    def start(self) -> None:
        """Read datagrams, and begin flows, from now on."""
        self._closing = self.is_kept = False
        if not self._started:
            self._started = True
            self.front.poller.add(self.socket.fileno(), EPOLLIN, self)

    def suspend(self, with_flows: bool) -> None:
        """Read nothing until ``go_on``: what comes waits in the kernel. ``with_flows``: their replies as well."""
        self._suspended = True
        self.front.poller.finish()  # who has got all is none that passes on
        if self._started:
            self.front.poller.remove(self.socket.fileno())
        if with_flows:
            self.remnants.close()
        for flow in list(self.flows.values()) if with_flows else ():
            flow.lend()

    def go_on(self) -> None:
        """Read again, if it was suspended."""
        if not self._suspended:
            return
        self._suspended = False
        if self._started:
            self.front.poller.add(self.socket.fileno(), EPOLLIN, self)
        for flow in list(self.flows.values()):
            try:
                flow.take_back()
            except Exception:
                flow.failed()

    def hand_over(self) -> None:
        """Another gpen has this socket and its flows: it is closed here, and they are none any more."""
        self._closing, self._started = True, False
        for flow in list(self.flows.values()):
            flow.let_go()
        self._close_if_unused()

    def adopt(self, told: Told, fd: int) -> bool:
        """Go on with a flow that another gpen had, and with its socket; False, and both are as they were, when its
        server is none of ours."""
        front = self.front
        peer = tuple(told["peer"])
        key = self.clients.key_of(peer, bytes.fromhex(told["asked"]))
        flow = Flow(front.fresh_id(), front, self, key, peer)
        front.begin(flow)
        try:
            if not flow.adopt(told, fd):
                return False
            self.flows[key] = flow
        except Exception:
            flow.failed()
        return True

    def ready(self, events: int) -> None:
        if not self._suspended:
            self._read(self._most)

    def keep(self) -> None:
        """Somebody will take it over: the socket is open until ``start``, ``close`` or ``let_go``, though its last flow
        may end before."""
        self.is_kept = True

    def let_go(self) -> None:
        """Nobody takes it over."""
        self.is_kept = False
        self._close_if_unused()

    @property
    def is_open(self) -> bool:
        """Whether the socket is: one that is closing has flows yet."""
        return bool(self.socket.fileno() >= 0)

    @property
    def is_closing(self) -> bool:
        """Whether no more flows begin here, and the socket is only open for those that there are."""
        return self._closing and self.is_open

    def resume(self) -> None:
        """There is always room: see make_room."""

    def tune(self, settings: Settings) -> None:
        """Take up changed settings."""
        self._most = settings.multi_accept
        self._requests = settings.udp_requests

    def empty(self) -> None:
        """Read all that waits in the socket now: closing it would lose them."""
        self._read(FULL)

    def close(self) -> None:
        """Begin no more flows. Those that are there go on, and the socket is closed when the last has ended."""
        self._closing, self.is_kept = True, False
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closing and not (self.is_kept or self.flows or self.waiting) and self.is_open:
            self.remnants.close()
            if self._started:
                self.front.poller.remove(self.socket.fileno())
            self.clients.close()

    def forget(self, flows: OrderedDict[Any, Flow], mark: Any) -> None:
        """A flow is none of these any more."""
        flows.pop(mark, None)
        self._close_if_unused()

    def own_flows(self) -> Iterator[Flow]:
        """Those of the front that has it now."""
        return (flow for flow in chain(self.waiting.values(), self.flows.values()) if flow.front is self.front)

    def make_room(self) -> None:
        """End the flow that was idle for longest; rather one that waits for no answer."""
        now = self.front.poller.now
        longest = [flow for flow in islice(self.own_flows(), LOOK) if not flow.finished]
        idle = [flow for flow in longest if not flow.is_needed(now)] or longest
        victim = idle[0] if idle else self.front.oldest_flow()
        if victim is None:
            return
        try:
            victim.stop(Ending.EVICTED)
        except Exception:
            victim.failed()

    def _read(self, most: int) -> None:
        """Pass so many datagrams on."""
        if self._changes != self._loops.changes:
            self._end_loops()
        flows, clients = self.flows, self.clients
        for _ in range(most):
            try:
                received = clients.receive()
            except OSError as error:
                if self.is_open:  # else it was closed just now, with its last flow
                    self.front.troubles.tell(f"can't receive from clients: {cause_of(error)}")
                return
            if received is None:
                return
            data, key = received
            flow = flows.get(key)
            if flow is None:
                flow = self._begin(key, data)
            if flow is not None:
                try:
                    flow.send(data)
                    if self._requests:
                        self._count(flow)
                except Exception:
                    flow.failed()

    def _count(self, flow: Flow) -> None:
        """It has had one more datagram of its client; and no more, if these are all that it may have."""
        flow.requests += 1
        if flow.requests >= self._requests and not flow.finished:
            flow.leave_off()

    def _begin(self, key: Any, data: bytes) -> Flow | None:
        """A new flow with a server, for this datagram; None when there is none."""
        front = self.front
        crowded = front.no_room()
        if self._closing and not (self.is_open and self._is_covered()):
            return None
        peer = self.clients.peer(key)
        if self._loops.drops(peer, data):
            return None
        if crowded and next(self.own_flows(), None) is None and front.oldest_flow() is None:
            return None  # nothing of this listener can give way: others have all places, or TCP sessions of before
        if self.admits is not None and not self.admits():
            return None
        flow = Flow(front.fresh_id(), front, self, key, peer)
        front.begin(flow)
        try:
            if flow.open(crowded):
                self.flows[key] = flow
                return flow
        except Exception:
            flow.failed()
        return None

    def _end_loops(self) -> None:
        """Servers or listeners have changed: end the flows of clients that are some of these now."""
        self._changes = self._loops.changes
        for key, flow in list(self.flows.items()):
            if self._loops.drops(self.clients.peer(key)):
                flow.stop(Ending.LOOP)

    def is_at(self, sockaddr: Any) -> bool:
        """Whether an address with our port means this socket: at every address of this machine, or at its own."""
        host = place_of(sockaddr)[0]
        if not self.is_open or not self._everywhere:
            return self.is_open and host == self._host
        if ":" not in host:
            return has_address(_socket.AF_INET, (host, self.port))
        return self.socket.family == _socket.AF_INET6 and has_address(_socket.AF_INET6, sockaddr)

    def _is_covered(self) -> bool:
        """Whether the listener in our place takes what comes for our address, once we are closed: until then it comes
        here."""
        other = self.front.listener
        return isinstance(other, DatagramListener) and other.covers(self)

    def covers(self, other: DatagramListener) -> bool:
        """Whether what comes for another's address would come here, if that were not there."""
        return (self is not other and self._everywhere and self.port == other.port
                and len(self._own) >= len(other._own))  # [::] takes IPv4 as well
