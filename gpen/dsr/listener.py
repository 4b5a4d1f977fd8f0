"""The listener of direct server return: answers ARP for the address of the service, and sends the frames that come for
it on to servers, each flow to one, with nothing changed but the MAC addresses.

What comes for a connection that is over goes where that was, for its last segments, and those of one that was silent
for long, come when its place has been given back. One that was cut (by a command, or with its server) is told so by a
RST: gpen knows the numbers for that when its client speaks again.
"""

from __future__ import annotations

import _socket
import errno
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from gpen.dsr import frames
from gpen.dsr.flow import CLOSING, CONNECTING, CUT, NO_ANSWER, OPEN, DirectFlow, Told, endpoint_of, no_answer
from gpen.dsr.frames import ETHERNET, HEAD, LEAST
from gpen.dsr.interface import Interface
from gpen.dsr.neighbours import Neighbour, Neighbours
from gpen.dsr.programs import program
from gpen.dsr.tarpit import Tarpit
from gpen.model.address import Endpoint
from gpen.model.ending import Ending
from gpen.model.server import Server, Target
from gpen.model.settings import Settings
from gpen.wire import kernel
from gpen.wire.conversation import Front
from gpen.wire.faults import Faults, Seldom
from gpen.wire.kernel import Handler
from gpen.wire.poller import EPOLLIN
from gpen.wire.sockets import Socket, cause_of, has_address

log = logging.getLogger("gpen")

MOST_ENDED = 32_768  # connections that are over, and remembered
MOST_FRAGMENTED = 1024  # datagrams
LOOK = 64  # flows that may give way to another
ANNOUNCEMENTS = 3  # a second apart, as RFC 5227 has it
_MACS = slice(frames.TO, frames.FROM + 6)
_SIGNALS = frames.SYN | frames.FIN | frames.RST
_FLAGS = ETHERNET + 20 + 13  # where TCP has them, behind an IPv4 header without options
_WITHOUT_OPTIONS = 0x45
_HEADERS = range(_WITHOUT_OPTIONS, 0x50)  # what an IPv4 header may begin with: others are malformed
_UDP_HEADER = 8  # bytes; that of TCP is longer
_IN_PIECES = frames.MORE | frames.OFFSET
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOBUFS})  # for a frame, as on any full queue


class _Ended(NamedTuple):
    """Where a connection was that is over; ``is_cut`` if its client does not know that."""

    server: Server
    address: bytes
    is_cut: bool


class DirectListener(Handler):
    """``flows`` by their keys, the one that was idle for longest first. ``forwarded``, ``dropped`` and ``answered``
    (ARP) are counts of frames."""

    def __init__(self, interface: Interface, endpoint: Endpoint, settings: Settings, front: Front,
                 others: list[DirectListener]) -> None:
        """``settings`` are those that it will have; ``others`` are all that are at work: it adds itself."""
        self.interface = interface
        self.endpoint = endpoint
        self.bound_to = str(endpoint) if endpoint.port else f"{endpoint.host}:0"
        self.front = front
        self.address = _socket.inet_aton(endpoint.host)
        self.is_tcp = not settings.udp
        self.flows: OrderedDict[bytes, DirectFlow] = OrderedDict()
        self.forwarded = self.dropped = self.answered = 0
        self._protocol = frames.TCP if self.is_tcp else frames.UDP
        self._others = others
        self._most = settings.multi_accept
        self._view = memoryview(bytearray(frames.LARGEST))
        self._tarpit: Tarpit | None = None
        self._pit: int | str = "off"
        self._taken = b""  # the program in force
        self.neighbours = Neighbours(interface.mac, self._send)
        self._yielding: dict[bytes, DirectFlow] = {}  # that have no connection yet, or no more
        self._ended: OrderedDict[bytes, _Ended] = OrderedDict()
        self._fragments: OrderedDict[bytes, DirectFlow] = OrderedDict()
        self._real: set[bytes] = set()  # addresses of servers, and of this machine
        self.admits: Callable[[], bool] | None = None  # whether one more flow may begin, where they are limited
        self._announcements = 0
        self._started = self._suspended = False
        self._faults = Faults()
        self._claims = Seldom()  # of others, that the address is theirs

    @property
    def socket(self) -> Socket:
        return self.interface.socket

    @property
    def is_open(self) -> bool:
        """Whether the socket is."""
        return bool(self.socket.fileno() >= 0)

    def is_at(self, settings: Settings, endpoint: Endpoint) -> bool:
        """Whether it is what a listener with these settings needs, whose service is there."""
        return (self.interface.is_at(settings.dsr_if or "") and self.is_tcp is not settings.udp
                and self.endpoint.sockaddr == endpoint.sockaddr)

    # --- what its front asks of it ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer for the address, and send frames on, from now on."""
        if self._started:
            return
        self._started = True
        self._others.append(self)
        self.tune(self.front.settings)
        self.front.poller.add(self.socket.fileno(), EPOLLIN, self)
        self._announcements = ANNOUNCEMENTS
        self._warn()
        self.tend()

    def tune(self, settings: Settings) -> None:
        """Take up changed settings."""
        if not self._started:
            return
        self._most = settings.multi_accept
        if self._pit != settings.tarpit_acl:
            self._pit = settings.tarpit_acl
            self._tarpit = None if self._pit == "off" else Tarpit(self.front.selector.pool, int(self._pit),
                                                                  self._is_real)
        wanted = program(self.address, self._protocol, self.endpoint.port, self.is_tcp and self._tarpit is not None)
        if wanted != self._taken:
            self.interface.take_only(wanted)
            self._taken = wanted

    def resume(self) -> None:
        """Nothing waits here for room."""

    def suspend(self) -> None:
        """Read nothing until ``go_on``: what comes waits in the kernel. Flows stand still."""
        self._suspended = True
        if self._started:
            self.front.poller.remove(self.socket.fileno())
        for flow in self.flows.values():
            flow.is_lent = True

    def go_on(self) -> None:
        """Read again, if it was suspended."""
        if not self._suspended:
            return
        self._suspended = False
        for flow in self.flows.values():
            flow.is_lent = False
        if self._started:
            self.front.poller.add(self.socket.fileno(), EPOLLIN, self)

    def hand_over(self) -> None:
        """Another gpen has this socket and its flows: it is closed here, and they are none any more."""
        for flow in list(self.flows.values()):
            flow.let_go()
        self.flows.clear()
        self.close()

    def adopt(self, told: Told) -> bool:
        """Go on with a flow that another gpen had; False when nothing comes of it."""
        front, key = self.front, bytes.fromhex(told["key"])
        flow = DirectFlow(front.fresh_id(), front, self, key, told["phase"])
        front.begin(flow)
        try:
            if not flow.adopt(told):
                return False
            self._keep(flow)
        except Exception:
            flow.failed()
        return True

    def empty(self) -> None:
        """Nobody listens here any more: what goes on ends."""
        for flow in list(self.flows.values()):
            flow.stop(Ending.KILLED)

    def close(self) -> None:
        """Answer no more, and send nothing on."""
        if self in self._others:
            self._others.remove(self)
        if self.is_open:
            if self._started and not self._suspended:
                self.front.poller.remove(self.socket.fileno())
            self.socket.close()
        self._started = False

    def counts(self) -> dict[str, int]:
        """Frames: sent on, dropped by us and by the kernel for want of room, answers to ARP and of the tarpit."""
        return {"forwarded": self.forwarded, "dropped": self.dropped, "arp": self.answered,
                "overrun": self.interface.dropped() if self.is_open else 0,
                "tarpit": self._tarpit.connections if self._tarpit is not None else 0}

    def tend(self) -> None:
        """Each second: see who is there, and give the flows of who is not to others."""
        if not self._started or self._suspended:
            return
        try:
            mac = self.interface.mac
            self.interface.follow()
            if self.interface.mac != mac:
                self.neighbours.moved(self.interface.mac)
                self._announcements = ANNOUNCEMENTS
        except OSError as error:
            self.front.troubles.tell(f"dsr_if: '{self.interface.name}': {cause_of(error)}; frames are dropped")
            return
        if self._announcements:
            self._announcements -= 1
            for sender in (frames.NO_ADDRESS, self.address):  # is it anybody's? it is ours
                self._send(frames.arp(frames.REQUEST, self.interface.mac, sender, frames.BROADCAST, self.address))
        addresses = (self._address_of(member.target) for member in self.front.selector.all_members())
        needed = {address for address in addresses if address is not None}
        self._real = needed | self.interface.own_addresses()
        for neighbour in self.neighbours.tend(kernel.monotonic(), needed):
            self._is_gone(neighbour)

    def _warn(self) -> None:
        """Of what makes others answer in our place."""
        host, name = self.endpoint.host, self.interface.name
        if has_address(_socket.AF_INET, (host, 0)):
            log.warning("dsr_ip: %s is an address of this machine, whose kernel answers its clients itself: take it "
                        "away from here, it belongs to the servers' loopback", host)
        if self.interface.forwards:
            log.warning("dsr_if: this machine is a router on %s, and would refuse clients of %s: switch that off: "
                        "sysctl net.ipv4.conf.%s.forwarding=0", name, host, name)

    def _is_real(self, address: bytes) -> bool:
        """Whether somebody is at an address, as far as gpen knows: the tarpit leaves it alone. Of several listeners at
        an interface, the first has the tarpit."""
        mates = [other for other in self._others if other.interface.name == self.interface.name]
        first = next((other for other in mates if other._tarpit is not None), self)
        return address in self._real or first is not self or any(address == other.address for other in mates)

    # --- frames -------------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        receive, view, handle = self.interface.socket.recv_into, self._view, self._handle
        try:
            for _ in range(self._most):
                handle(receive(view))
        except BlockingIOError:
            return
        except OSError as error:
            self.front.troubles.tell(f"dsr_if: can't receive from '{self.interface.name}': {cause_of(error)}")

    def failed(self) -> None:
        self._faults.tell("to send a frame on")

    def _handle(self, size: int) -> None:
        """One frame, of so many bytes, which is in ``_view``."""
        view = self._view
        kind, length, number, fragment, protocol, client, address, ports = HEAD.unpack_from(view)
        if kind != frames.IPV4 or size < LEAST:
            if kind == frames.ARP and size >= LEAST:
                self._hear(view)
            return
        if address == self.address and length == _WITHOUT_OPTIONS and not fragment & _IN_PIECES:
            key = client + ports
            flow = self.flows.get(key)
            if flow is not None and protocol == self._protocol and not (
                    self.is_tcp and (flow.phase != OPEN or view[_FLAGS] & _SIGNALS)):
                self.flows.move_to_end(key)
                self._send_on(flow, size)
                return
        if length not in _HEADERS:
            return
        start = frames.payload_at(length)
        if address != self.address:
            self._sink(size, start, protocol, client, address)
        elif protocol == frames.ICMP:
            self._pass_error(size, start)
        elif protocol == self._protocol:
            self._find(size, start, client, number.to_bytes(2, "big"), fragment)

    def _find(self, size: int, start: int, client: bytes, number: bytes, fragment: int) -> None:
        """Send on what is not plain: a piece of a datagram, or something that begins or ends a flow."""
        if fragment & frames.OFFSET:
            whole = self._fragments.get(client + number)
            if whole is None or whole.finished:
                self.dropped += 1
            else:
                self._send_on(whole, size)
            return
        if size < start + _UDP_HEADER:
            return
        key = frames.key_of(self._view, start, client)
        flow = self._tcp_flow(size, start, key) if self.is_tcp else self._udp_flow(key)
        if flow is None:
            return
        if fragment & frames.MORE:
            self._fragments[client + number] = flow
            if len(self._fragments) > MOST_FRAGMENTED:
                self._fragments.popitem(last=False)
        self._send_on(flow, size)
        if self.is_tcp:
            self._follow(flow, self._view[start + 13])

    def _follow(self, flow: DirectFlow, flags: int) -> None:
        """A segment with these flags has gone to its server."""
        if flow.finished:
            return
        if flags & frames.RST:
            flow.stop(Ending.CLIENT_RESET)
        elif flags & frames.FIN:
            flow.phase = CLOSING
            self._yielding[flow.key] = flow
        elif flow.phase == CONNECTING and flags & frames.ACK:
            flow.answered()
            self._yielding.pop(flow.key, None)

    def _tcp_flow(self, size: int, start: int, key: bytes) -> DirectFlow | None:
        """The flow of a TCP segment; None where it goes nowhere, or has been seen to."""
        if size < start + 20:
            return None
        flags, flow = self._view[start + 13], self.flows.get(key)
        if flags & (frames.SYN | frames.ACK) == frames.SYN:
            if flow is not None and flow.phase == CLOSING:
                flow.stop(Ending.CLIENT_CLOSED)  # the client's port has another connection now
                flow = None
            if flow is None:
                return self._begin(key, CONNECTING)
            if flow.is_stuck(self.front.poller.now):
                flow.go_elsewhere()
            return None if flow.finished else flow
        if flow is not None:
            return flow
        return None if flags & frames.SYN else self._resumed(size, start, key, flags)

    def _udp_flow(self, key: bytes) -> DirectFlow | None:
        """The flow of a datagram, or None where it goes nowhere."""
        flow = self.flows.get(key)
        if flow is None:
            return self._begin(key, OPEN)
        self.flows.move_to_end(key)
        return flow

    def _resumed(self, size: int, start: int, key: bytes, flags: int) -> DirectFlow | None:
        """The flow of a segment of a connection that has none: it is over, or began before this gpen."""
        ended = self._ended.get(key)
        if ended is None:
            return None if flags & frames.RST else self._begin(key, OPEN)
        if ended.is_cut:
            self._cut(start, self.neighbours.at(ended.address, self.front.poller.now), flags)
            return None
        if frames.has_payload(self._view, start) and not flags & frames.RST:
            return self._begin(key, OPEN, ended.server)
        head = self.neighbours.at(ended.address, self.front.poller.now).head
        if head:
            self._view[_MACS] = head
            self._forward(size)
        return None

    def _cut(self, start: int, neighbour: Neighbour | None, flags: int) -> None:
        """Tell a client that its connection is no more, and the server that it had, if that is there."""
        if flags & frames.RST:
            return
        if neighbour is not None and neighbour.head:
            self._send(frames.forward_reset(self._view, start, neighbour.mac, self.interface.mac))
        self._send(frames.reset(self._view, start))

    def _begin(self, key: bytes, phase: str, server: Server | None = None) -> DirectFlow | None:
        """A new flow with a server; None when there is none, or no room."""
        front = self.front
        is_let_in = server is not None or self.admits is None or self.admits()  # else a client of TCP asks again
        if is_let_in and (not front.no_room() or self._make_room()):
            flow = DirectFlow(front.fresh_id(), front, self, key, phase)
            front.begin(flow)
            try:
                if flow.open(server):
                    self._keep(flow)
                    return flow
            except Exception:
                flow.failed()
        self.dropped += 1
        return None

    def _keep(self, flow: DirectFlow) -> None:
        self.flows[flow.key] = flow
        self._ended.pop(flow.key, None)
        if flow.is_tcp and flow.phase != OPEN:
            self._yielding[flow.key] = flow

    def _make_room(self) -> bool:
        """End a flow for another: of UDP the one that was idle for longest, of TCP one that has no connection yet, or
        no more. Where there is none, clients wait: TCP asks again."""
        candidates = self._yielding if self.is_tcp else self.flows
        for flow in list(islice(candidates.values(), LOOK)):
            flow.stop(Ending.CLIENT_CLOSED if flow.phase == CLOSING else Ending.EVICTED)
            if flow.finished:
                return not self.front.no_room()
        return False

    def forget(self, flow: DirectFlow) -> None:
        """It has ended."""
        key = flow.key
        if self.flows.get(key) is not flow:
            return
        del self.flows[key]
        self._yielding.pop(key, None)
        place = flow.endpoint
        if not flow.is_tcp or flow.server is None or place is None or flow.phase == CONNECTING:
            return
        self._ended[key] = _Ended(flow.server, _socket.inet_aton(place.host), flow.ending in CUT)
        self._ended.move_to_end(key)
        if len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send_on(self, flow: DirectFlow, size: int) -> None:
        """Send the frame in ``_view`` to the server of its flow."""
        neighbour = flow.neighbour
        flow.active = self.front.poller.now
        if neighbour is not None and neighbour.head:
            flow.sent += size - ETHERNET
            self._view[_MACS] = neighbour.head
            self._forward(size)
        elif neighbour is not None and not neighbour.is_gone:
            if not neighbour.keep(flow.key, bytes(self._view[:size])):
                self.dropped += 1
        else:
            self._lost(flow, bytes(self._view[:size]))

    def _forward(self, size: int) -> None:
        if self._send(self._view[:size]):
            self.forwarded += 1
        else:
            self.dropped += 1

    def _send(self, frame: memoryview | bytes) -> bool:
        """Whether the kernel has taken it."""
        try:
            self.interface.socket.send(frame)
            return True
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self.front.troubles.tell(f"dsr_if: can't send by '{self.interface.name}': {cause_of(error)}")
            return False

    def _lost(self, flow: DirectFlow, frame: bytes) -> None:
        """The server of a flow is gone, and this is a frame for it: for another, if that can take up what there is."""
        if not flow.is_connecting:
            flow.stop(Ending.SERVER_RESET)
            self._view[:len(frame)] = frame
            start = frames.payload_at(frame[ETHERNET])
            is_later_piece = HEAD.unpack_from(frame)[3] & frames.OFFSET  # has no header of TCP
            if not is_later_piece and len(frame) >= start + 20:
                self._cut(start, None, frame[start + 13])
            return
        flow.go_elsewhere(no_answer())
        if not flow.finished:
            self._view[:len(frame)] = frame
            self._send_on(flow, len(frame))

    # --- its neighbours -----------------------------------------------------------------------------------------------

    def endpoint_of(self, target: Target) -> Endpoint | None:
        """Where the server is that is reached so."""
        return endpoint_of(target.endpoints)

    def neighbour_of(self, target: Target, now: float) -> Neighbour | None:
        """Who is there; None where it has no IPv4 address."""
        address = self._address_of(target)
        return None if address is None else self.neighbours.at(address, now)

    def _hear(self, view: memoryview) -> None:
        """ARP: somebody asks, or says where he is."""
        told = frames.parse_arp(view)
        if told is None:
            return
        operation, mac, sender, asked = told
        if sender == self.address:
            if mac != self.interface.mac and (more := self._claims.comes()) is not None:
                log.warning("dsr_ip: %s is claimed by %s too: on servers, set net.ipv4.conf.all.arp_ignore=1 and "
                            "arp_announce=2%s", self.endpoint.host, mac.hex(":"), more)
            return
        if operation == frames.REQUEST and (asked == self.address or (
                self._tarpit is not None and sender not in (frames.NO_ADDRESS, asked) and self._tarpit.has(asked))):
            self.answered += 1
            self._send(frames.arp(frames.REPLY, self.interface.mac, asked, mac, sender))
        neighbour = self.neighbours.heard(sender, mac, self.front.poller.now)
        if neighbour is None:
            return
        for target in self._targets_at(neighbour):
            if target.down_until and target.reason == NO_ANSWER:
                self.front.selector.pool.health.restore(target, "it answers ARP")
        self._send_waiting(neighbour)

    def _is_gone(self, neighbour: Neighbour) -> None:
        """It has not answered: nobody shall be sent there, and what waits for it goes elsewhere."""
        for target in self._targets_at(neighbour):
            if not target.is_down:
                log.warning("server %s %s: %s", target.name, target.shown, NO_ANSWER)
                self.front.selector.pool.health.blame(target, NO_ANSWER)
        self._send_waiting(neighbour)

    def _targets_at(self, neighbour: Neighbour) -> list[Target]:
        """The servers that it is."""
        targets = (member.target for member in self.front.selector.all_members())
        return [target for target in targets if self._address_of(target) == neighbour.address]

    def _address_of(self, target: Target) -> bytes | None:
        endpoint = endpoint_of(target.endpoints)
        return None if endpoint is None else _socket.inet_aton(endpoint.host)

    def _send_waiting(self, neighbour: Neighbour) -> None:
        """What waits for an answer, now that there is one, or none to be expected."""
        waiting, neighbour.waiting = neighbour.waiting, []
        for key, frame in waiting:
            flow = self.flows.get(key)
            if flow is not None:
                self._view[:len(frame)] = frame
                self._send_on(flow, len(frame))

    # --- what belongs to no flow --------------------------------------------------------------------------------------

    def _sink(self, size: int, start: int, protocol: int, client: bytes, address: bytes) -> None:
        if self._tarpit is not None and protocol == frames.TCP:
            answer = self._tarpit.answer(self._view, size, start, client, address)
            if answer is not None:
                self._send(answer)

    def _pass_error(self, size: int, start: int) -> None:
        """An ICMP error about what a server has sent, as that a packet was too large on its way: for that server."""
        key = frames.inner_flow(self._view, size, start) if size > start + 8 else None
        if key is None:
            return
        flow, ended = self.flows.get(key), self._ended.get(key)
        address = flow.neighbour.address if flow is not None and flow.neighbour is not None else (
            ended.address if ended is not None else None)
        if address is None:
            return
        head = self.neighbours.at(address, self.front.poller.now).head
        if head:
            self._view[_MACS] = head
            self._forward(size)

    def own_flows(self) -> Iterator[DirectFlow]:
        """Those that stand still."""
        return (flow for flow in self.flows.values() if flow.is_lent)
