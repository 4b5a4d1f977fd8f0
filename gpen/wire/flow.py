"""One UDP flow: what one client's address and port sends, and what comes back.

A flow can pass to another gpen that takes the place of this one: it is lent, and then taken back or let go.

Nothing here switches greenlets: all happens in handlers of the poller, and a flow is over as soon as it is stopped.

A datagram is never held up. What a full socket does not take is lost, as on any full queue, and clients of UDP know
that. But what a server refuses (an ICMP message says so) goes to the next one: for that, a flow keeps the last
datagrams that it had no answer to.
"""

from __future__ import annotations

import _socket
import base64
import errno
import logging
from typing import TYPE_CHECKING, Any

from gpen.model.address import Endpoint
from gpen.model.ending import Ending
from gpen.model.lease import Lease
from gpen.model.server import Server
from gpen.model.silence import Silence
from gpen.wire import kernel, sockets
from gpen.wire.conversation import Conversation, Front, Watch
from gpen.wire.flow_sockets import Place
from gpen.wire.kernel import Handler
from gpen.wire.loops import place_of
from gpen.wire.poller import EPOLLIN

if TYPE_CHECKING:
    from gpen.wire.datagram import DatagramListener

log = logging.getLogger("gpen")

MOST_REPLIES = 64  # at one wake-up
KEPT_DATAGRAMS, KEPT_BYTES = 8, 1 << 16
REFUSAL_SECONDS = 1.0  # a refusal that has not come by then does not come
FEW_REPLIES = 16  # that may wait in a socket as it comes

# what costs one datagram, and says nothing of the server: it is too large, or there is no room for it
_HARMLESS = sockets.LOCAL_ERRORS | {errno.EMSGSIZE, errno.EAGAIN}
_DATAGRAMS = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK
# to find a member of an Enum takes long
_NO_SERVER, _REPLIED, _REQUESTED = Ending.NO_SERVER, Ending.REPLIED, Ending.REQUESTED

Told = dict[str, Any]  # what is told of a flow that passes to another gpen


class Flow(Conversation):
    """One UDP client with its server. ``key`` is what its listener knows it by."""

    _consequence = "; datagrams are dropped"

    __slots__ = ("_active", "_asked", "_clients", "_denied", "_dialed", "_end", "_fd", "_flows", "_has_room",
                 "_is_done", "_kept", "_kept_bytes", "_listener", "_mark", "_oldest", "_proven", "_received",
                 "_replies", "_sent", "_silence", "_sock", "_told", "_tried", "_untried", "_wanted", "_watch",
                 "is_lent", "key", "requests")

    def __init__(self, id: int, front: Front, listener: DatagramListener, key: Any, peer: Any) -> None:
        Conversation.__init__(self, id, front, *place_of(peer))
        self.key = key
        self._listener = listener
        self._clients = listener.clients
        self._flows = listener.flows  # among which it is ...
        self._mark = key  # ... by this
        self.requests = 0  # datagrams that its client has sent, where these are counted
        self._active = self._accepted
        self._dialed = 0.0  # when this server was chosen
        self._oldest = 0.0  # when the first datagram since the last reply came; 0 when none has
        self._denied = False
        self._tried: list[Server] = []  # that could not be reached
        self._untried: list[Any] = []  # endpoints of its server
        self._sock: Any = None
        self._fd = -1
        self._end: Place | None = None  # where that socket is
        self._has_room = False  # whether the kernel keeps as many replies there as it may
        self._silence: Silence | None = None  # of the address that it asks
        self._asked = self._replies = 0  # datagrams to this server, and from it
        self._proven = False  # that this server is there
        self._is_done = False  # whether it has had all its replies
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._wanted = self._received = self._told = self._sent = 0  # bytes: from the client, ...
        self._watch: Watch | None = None
        self.is_lent = False  # another gpen is about to have it: it stands still

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return "open" if self.connected else "choosing"

    @property
    def descriptors(self) -> tuple[int, int]:
        return -1, self._fd

    @property
    def waiting(self) -> int:
        return 0

    def volumes(self) -> tuple[int, int, int, int]:
        return self._sent, self._received, self._told, self._wanted

    @property
    def _unanswered_since(self) -> float:
        """When the oldest datagram came that had no answer, where replies are due; 0 when there is none."""
        return self._oldest if self._front.settings.udp_replies else 0.0

    def idle(self, now: float) -> float:
        return max(now - self._active, 0.0)

    def is_needed(self, now: float) -> bool:
        """Whether a datagram still waits for its answer; as long as a connect may take, and then no more."""
        settings = self._front.settings
        replies = settings.udp_replies
        waits = self._replies < self._asked * replies if replies else bool(self._kept)
        return waits and now - (self._unanswered_since or self._active) < settings.timeout

    def stop(self, ending: Ending) -> None:
        if not (self.finished or self.is_lent):
            self.ending = ending
            try:
                self._close()
            except Exception:
                self._abandon()

    def is_quiet(self, now: float) -> bool:
        return not (self.is_lent or self.is_needed(now)) and self.idle(now) >= self._front.settings.quiet

    def part(self, ending: Ending) -> None:
        self.stop(ending)

    @property
    def is_connecting(self) -> bool:
        return not self._proven

    def leave(self, lease: Lease, ending: Ending | None = None) -> None:
        """As long as nothing proves that its server is there, a flow is just being connected: what has no answer goes
        to another, unless that only drains: it answers what it was asked. Else it stays with its server, as a TCP
        session does, or ends."""
        if self.finished or self.is_lent or self.lease is not lease:
            return
        if not self._proven and not lease.server.drained:
            self._go_elsewhere(lease)
        elif ending is not None:
            self.stop(ending)

    def _go_elsewhere(self, lease: Lease) -> None:
        waiting = self._unanswered()
        self._disconnect()
        ending = self._dial(self._turned_down(lease, None, self._tried, self._sent, self._received))
        if ending is not None:
            self.stop(ending)
            return
        problem = self._send_again(waiting)
        if problem is not None:
            self._fail_over(problem)

    def tend(self, now: float) -> None:
        """The janitor's visit: end the flow when it, or its server where replies are due, is silent for too long; take
        silence for consent, where servers need not reply: what was sent a while ago and not refused has arrived."""
        if self.finished or self.is_lent:
            return
        settings = self._front.settings
        if self._silent_for(now) >= settings.udp_timeout:
            self.read(now)  # gpen may have been stopped, or busy: a reply that waits in the socket has come
            self.end_if_done()
            if not self.finished and self._silent_for(now) >= settings.udp_timeout:
                self.stop(Ending.UNANSWERED if self._unanswered_since else Ending.SILENT)
        elif not settings.udp_replies and now - self._dialed >= REFUSAL_SECONDS:
            if not self._proven:
                self._prove()
            if self._silent_for(now) >= REFUSAL_SECONDS:
                self._forget_kept()

    def _silent_for(self, now: float) -> float:
        """For how many seconds it has had no datagram; or no reply, where one is due."""
        return now - (self._unanswered_since or self._active)

    # --- its life -------------------------------------------------------------------------------------------------

    def open(self, crowded: bool) -> bool:
        """Find a server; False when there is none, and the flow is over. When all is ``crowded``, another flow has to
        give way."""
        self._denied = self._admit()
        if self._front.settings.limits_clients and (limit := self._limit()) is not None:
            self.stop(limit)
            return False
        ending = Ending.DENIED if self._denied else _NO_SERVER
        problem = self._dial(ending, crowded)
        if problem is not None:
            self.stop(problem)
            return False
        self._watch = self._front.watch(self)
        return True

    def send(self, data: bytes) -> None:
        """Send a datagram of the client to the server."""
        self._active = now = self._front.poller.now
        if not self._oldest:
            self._oldest = now
        self._flows.move_to_end(self._mark)
        self._is_done = False
        self._asked += 1
        self._wanted += len(data)
        self._keep(data)
        if not self._has_room:
            self._make_room()
        if self._watch is not None:
            self._watch("client", memoryview(data))
        try:
            self._sent += kernel.post(self._sock, data)
        except OSError as error:
            if error.errno not in _HARMLESS:
                self._fail_over(error)

    def leave_off(self) -> None:
        """It takes no more of what its client sends: it ends with the replies that are due; or, where none are, now."""
        listener = self._listener
        if self._front.settings.udp_replies:
            listener.waiting[self] = self
            listener.forget(self._flows, self._mark)
            self._flows, self._mark = listener.waiting, self
            return
        sock = None
        while self._sock is not sock:  # a server that is near refuses at once: then the next one has it
            sock = self._sock
            self.read(self._front.poller.now)
        if self.finished or self.lease is None:
            return
        if not self._proven:
            self._prove()
        if self._end is not None:  # else its place is the client's own, which the next flow is to have
            self._front.poller.remove(self._fd)
            listener.remnants.add(sock, self.key, self.lease)
            self._front.loops.flow_sockets.remove(self._end, self)
            self._sock, self._fd = None, -1
        self.stop(_REQUESTED)

    def _make_room(self) -> None:
        """Have the kernel keep many replies where more than a few are due, or nobody knows how many. For a flow of one
        query that is 0.6 us of the 10 that its socket costs."""
        replies = self._front.settings.udp_replies
        if not replies or self._asked * replies > FEW_REPLIES:
            self._has_room = True
            sockets.expect_many(self._sock)

    def has_sent(self, data: bytes) -> bool:
        """Whether this is one of the last datagrams that went to the server."""
        return data in self._kept

    def _keep(self, data: bytes) -> None:
        kept = self._kept
        kept.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > KEPT_BYTES or len(kept) > KEPT_DATAGRAMS:
            self._kept_bytes -= len(kept.pop(0))

    def _forget_kept(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0

    def read(self, now: float) -> None:
        """Pass replies on, or see to a refusal. Where each datagram has had its reply it looks for no other: that is a
        system call in vain and, in pure Python, an exception; and if there is one, the poller tells."""
        replies = self._front.settings.udp_replies
        for _ in range(MOST_REPLIES):
            try:
                data = kernel.take(self._sock)
            except OSError as error:
                if error.errno not in _HARMLESS:
                    self._fail_over(error)
                return
            if data is None:
                return
            self._pass_on(data, now, replies)
            if replies and self._replies >= self._asked * replies:
                self._is_done = True
                return
            if self._replies == self._asked:
                return

    def end_if_done(self) -> None:
        """End it where it has had its replies, and its client has not asked more since."""
        if self._is_done:
            self.stop(_REPLIED)

    def _pass_on(self, data: bytes, now: float, replies: int) -> None:
        """A reply: to the client. ``replies`` is the setting."""
        lease, silence = self.lease, self._silence
        assert lease is not None and silence is not None
        self._active = silence.excused = now
        self._oldest = 0.0
        self._flows.move_to_end(self._mark)
        self._replies += 1
        self._received += len(data)
        if not self._proven or lease.target.is_silent:
            self._prove()
        if not replies:
            self._forget_kept()
        if self._watch is not None:
            self._watch("server", memoryview(data))
        try:
            self._told += self._clients.answer(data, self.key)
        except OSError:
            return

    def _prove(self) -> None:
        """The server is there, at this address."""
        self._proven = True
        self._tried.clear()
        lease = self.lease
        assert lease is not None
        lease.connected()
        endpoints = lease.target.endpoints
        if len(endpoints) > 1 and self.endpoint in endpoints[1:]:
            self._front.selector.pool.prefer(lease.target, self.endpoint)

    # --- its server -----------------------------------------------------------------------------------------------

    def _dial(self, ending: Ending, crowded: bool = False) -> Ending | None:
        """Connect to a server. None, or why there is none: ``ending``, or what was wrong with the last that was
        tried."""
        client = self.client
        assert client is not None
        while True:
            lease = self._reserve(crowded)
            if lease is None:
                return ending
            crowded = False
            self.lease = lease
            self.server = server = lease.server
            self._dialed = kernel.monotonic()
            self.chosen = self.chosen or self._dialed
            lease.moved(-self._sent, -self._received)  # all of them are added at each of its servers: _turned_down
            self._untried = list(lease.target.endpoints)
            error = self._connect()
            if error is None:
                self.connected = self.connected or self._dialed
                if server.number is not None and self._front.settings.rule.remembers:
                    self.clients.stick(client, server)
                return None
            ending = self._turned_down(lease, error, self._tried, self._sent, self._received)
            if error.errno in sockets.SHORTAGES:
                return ending

    def _reserve(self, crowded: bool) -> Lease | None:
        """A place on a server. Where gpen is crowded, another flow gives way for it: but not in vain."""
        lease = self._reserve_one()
        if crowded and (lease is not None or (not self._denied and self._front.selector.is_crowded())):
            self._listener.make_room()
            lease = lease or self._reserve_one()
        return lease

    def _reserve_one(self) -> Lease | None:
        selector = self._front.selector
        if self._denied:
            return None if self._tried else selector.reserve_abuse()
        assert self.client is not None
        return selector.reserve(self.client, self._port, self._tried)

    def _connect(self) -> OSError | None:
        """Connect to the next address of the server that there is a way to."""
        problem: OSError | None = None
        front, lease = self._front, self.lease
        assert lease is not None
        while self._untried:
            self.endpoint = endpoint = self._untried.pop(0)
            try:
                self._sock, self._end = front.loops.flow_sockets.open(endpoint, front.settings, self)
            except OSError as error:
                problem = error
                continue
            self._fd = self._sock.fileno()
            self._silence = lease.target.silence_at(endpoint)
            self._proven = self._has_room = False
            try:
                front.poller.add(self._fd, EPOLLIN, Replies(self))
            except OSError as error:
                self._disconnect()
                return error
            return None
        return problem or OSError(0, "its name is not resolved")

    def _disconnect(self) -> None:
        if self._sock is not None:
            self._front.poller.closed(self._fd)
            if self._end is not None:
                self._front.loops.flow_sockets.remove(self._end, self)
            self._sock.close()
            self._sock, self._fd = None, -1

    def _fail_over(self, problem: OSError | None) -> None:
        """The server refuses what it was sent: all that has no answer goes to its next address, or the next server."""
        while problem is not None:
            self._read_rest()
            waiting = self._unanswered()
            lease = self.lease
            assert lease is not None
            self._disconnect()
            if lease.is_outdated or self._connect() is not None:
                ending = self._dial(self._turned_down(lease, problem, self._tried, self._sent, self._received))
                if ending is not None:
                    self.stop(ending)
                    return
            problem = self._send_again(waiting)

    def _read_rest(self) -> None:
        """Replies that came before the refusal stand behind it in the socket."""
        replies = self._front.settings.udp_replies
        try:
            for _ in range(MOST_REPLIES):
                data = kernel.take(self._sock)
                if data is None:
                    return
                self._pass_on(data, self._front.poller.now, replies)
        except OSError:
            return

    def _unanswered(self) -> list[bytes]:
        """The datagrams that had no answer yet, as far as they are kept."""
        replies = self._front.settings.udp_replies
        if not replies:
            return list(self._kept)
        return list(self._kept)[max(len(self._kept) - max(self._asked - self._replies // replies, 0), 0):]

    def _send_again(self, datagrams: list[bytes]) -> OSError | None:
        """Send to a new server what the one before has refused; the error when this one refuses it as well."""
        self._asked, self._replies = len(datagrams), 0
        self._oldest = kernel.monotonic() if datagrams else 0.0
        if not self._has_room:
            self._make_room()
        for data in datagrams:
            try:
                self._sent += kernel.post(self._sock, data)
            except OSError as error:
                if error.errno not in _HARMLESS:
                    return error
        return None

    def _close(self) -> None:
        self.finished = kernel.monotonic()
        for step in (self._disconnect, self._judge, self._settle_accounts):
            try:
                step()
            except Exception:
                self._report()  # and the others are done
        self._listener.forget(self._flows, self._mark)
        self._front.ended(self)

    def _abandon(self) -> None:
        super()._abandon()
        self._listener.forget(self._flows, self._mark)

    # --- passing to another gpen ------------------------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """How many bytes of the client's datagrams are kept."""
        return int(self._kept_bytes)

    def lend(self) -> None:
        """Stand still, for another gpen is about to have it: what comes waits in its socket."""
        if not self.finished:
            self.is_lent = True
            self._front.poller.remove(self._fd)

    def take_back(self) -> None:
        """The other has not got it."""
        if self.is_lent:
            self.is_lent = False
            self._front.poller.add(self._fd, EPOLLIN, Replies(self))

    def let_go(self) -> None:
        """The other has it: it is no flow of ours any more, and its bytes are counted there."""
        if not self.is_lent:
            return
        self.finished = kernel.monotonic()
        self._disconnect()
        self._sent = self._received = self._told = self._wanted = 0
        self._settle_accounts()
        self._listener.forget(self._flows, self._mark)
        self._front.forget(self)

    def told(self) -> Told:
        """All that another gpen on this machine, whose clock is the same, needs to go on with it."""
        assert self.server is not None and self.endpoint is not None
        return {"peer": self._clients.peer(self.key), "asked": self._clients.asked(self.key).hex(),
                "server": self.server.label, "endpoint": self.endpoint,
                "times": (self._accepted, self.started, self.chosen, self.connected, self._active, self._dialed,
                          self._oldest),
                "counts": (self._asked, self._replies, self._wanted, self._received, self._told, self._sent),
                "marks": (self._proven, self._has_room),
                "kept": [base64.b64encode(data).decode() for data in self._kept]}

    def adopt(self, told: Told, fd: int) -> bool:
        """Be the flow that another gpen has told of, with its socket; False when its server is none of ours, and the
        flow is over. Raises OSError."""
        self._active = self._accepted = told["times"][4]
        self._denied = self._admit()
        self.endpoint = endpoint = Endpoint(told["endpoint"][0], tuple(told["endpoint"][1]), *told["endpoint"][2:])
        lease = self._front.selector.resume(told["server"])
        if lease is None:
            self._front.forget(self)
            return False
        self._sock = kernel.Socket(endpoint.family, _DATAGRAMS, 0, fd)
        self._fd = fd
        self.lease, self.server = lease, lease.server
        (self._accepted, self.started, self.chosen, self.connected, self._active, self._dialed,
         self._oldest) = told["times"]
        self._asked, self._replies, self._wanted, self._received, self._told, self._sent = told["counts"]
        self._proven, self._has_room = told["marks"]
        for data in told["kept"]:
            self._keep(base64.b64decode(data))
        self._silence = lease.target.silence_at(endpoint)
        place = kernel.place(self._sock)
        if not (self._front.settings.transparent and place[0] == self.address):  # else it is no place of ours
            self._end = place
            self._front.loops.flow_sockets.add(place, endpoint, self, self._sock)
        self._watch = self._front.watch(self)
        self._front.poller.add(fd, EPOLLIN, Replies(self))
        return True

    def _judge(self) -> None:
        """Tell the pool that there was no reply, where one was due."""
        lease, since, settings = self.lease, self._unanswered_since, self._front.settings
        silence = self._silence
        if lease is None or silence is None or not since or self.ending not in (Ending.UNANSWERED, Ending.EVICTED):
            return
        patience = min(settings.udp_timeout, settings.timeout) if self.ending is Ending.EVICTED else 0.0
        if lease.unanswered(silence, since, patience) and self.client is not None and not settings.stubborn:
            self.clients.release(self.client)


class Replies(Handler):
    """What the poller tells of a flow's socket: replies, or a refusal.

    A flow that has had its replies ends before another one begins, and at the end of the poller's turn; but first the
    listener looks once more, and if its client's next query waits there, it goes on. Where 20 ports had 100 queries
    under way, there was a flow for each 5 queries; since then for each 150 or more.
    """

    __slots__ = ("_flow",)

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def ready(self, events: int) -> None:
        flow, poller = self._flow, self._flow._front.poller
        if not events:
            flow.end_if_done()
            return
        flow.read(poller.now)
        if flow._is_done:
            poller.last_look = flow._listener
            poller.unfinished.append(self)

    def failed(self) -> None:
        self._flow.failed()
