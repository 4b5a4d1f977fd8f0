"""A TCP session that a worker serves, as the main process knows it.

Here it is admitted, and gets and gives back its places on servers, for pool, limits and the memory of clients are one;
there the bytes flow (worker_session.py). What a worker is told, and tells, are records (channel.py): first its word,
then the number of the session.

    begin     to the worker, with the socket: who the client is, whether it is turned away, its place
    admit     the client's address, where a proxy has told it;            answered by admitted
    routed    the route that it goes
    reserve   a place, and why the last one was no good;                  answered by place, or by held and then place
    server_secured   the server is reached, and TLS spoken to it
    reached   the server is connected
    refused   the server takes nobody, and says so where only TLS 1.3 can: behind the handshake
    parted    the server has ended its side
    settled   the session is over, and its last words are on their way
    ended     it is over, and closed
    leave, stop   to the worker: go to another server; end
    quiet, spare  to the worker: end when it is quiet; or go on after all

A place is told as (its number in this session, whether limits are in play, whether it is news that the server is
reached, the server's name and number, endpoints, and the name that it is asked for in TLS, or None); or as (0, the
ending, whether all servers are full) where the session is refused. That a server is reached which was well, and was the
client's before, is no news: it is told with what follows, or some milliseconds later, for to be woken costs the main
process more than what it is told. The end of a session is told at once: so lines of the log are in the order in which
sessions end.

Where limits are in play, a worker says that a session has ended before its client can know: who comes again finds the
place free. There may be more to hear before somebody is refused, so the main process hears it first (``listen``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from gevent.hub import get_hub
from greenlet import getcurrent

from gpen.model.client import Client
from gpen.model.ending import BY_WORD, Ending
from gpen.model.lease import Lease
from gpen.model.server import Server
from gpen.proto.proxy_tlvs import Tlv
from gpen.wire import kernel
from gpen.wire.conversation import Condemned, Front, Secured, Seeker, Stop
from gpen.wire.server_tls import tls_name

log = logging.getLogger("gpen")

Volumes = tuple[int, int, int, int]
Failure = tuple[int | None, str, bool]  # errno and words of the error; whether it was but told to leave
# the word of the ending with which the client is turned away, or empty; its other sessions; the seconds that it has to
# stay away
Admission = tuple[str, int, int]

_ADMITTED: Admission = ("", 0, 0)


class Figures:
    """What a worker has told last of a session."""

    __slots__ = ("active", "descriptors", "ended_sides", "state", "volumes", "waiting")

    def __init__(self, state: str = "", volumes: Volumes = (0, 0, 0, 0), active: float = 0.0, waiting: int = 0,
                 descriptors: tuple[int, int] = (-1, -1), ended_sides: tuple[bool, bool] = (False, False)) -> None:
        self.state = state
        self.volumes = volumes
        self.active = active
        self.waiting = waiting
        self.descriptors = descriptors
        self.ended_sides = ended_sides


_NONE = Figures()


class Link(Protocol):
    """The worker, as its sessions need it."""

    @property
    def tell(self) -> Callable[..., None]:
        """What sends it a record, and a socket with it (``passed``). Does not switch."""

    def forget(self, session: RemoteSession) -> None:
        """It is over."""

    def listen(self) -> None:
        """Take what all workers have said by now."""


class RemoteSession(Seeker):
    """One TCP client with its server, at a worker."""

    __slots__ = ("_endpoints", "_failure", "_is_denied", "_is_dialing", "_is_to_wait", "_leaving", "_places", "_tell",
                 "_tlvs", "_tried", "_worker", "figures")

    def __init__(self, id: int, front: Front, address: str, port: int, worker: Link) -> None:
        Seeker.__init__(self, id, front, address, port)
        self._worker = worker
        self._tell = worker.tell
        self._is_denied = False  # and gets the abuse server, if that is there
        self._is_dialing = False
        self._places = 0  # that it has had
        self._endpoints: tuple[Any, ...] = ()  # of the last, as the worker knows them
        self._tried: list[Server] = []
        self._leaving: Ending | None = None  # how it ends if it was connected when it was to leave
        self._is_to_wait = False  # for there was no place when it came
        self._failure: Ending | None = None  # what the last attempt came to
        self.figures = _NONE
        self._tlvs: Sequence[Tlv] = ()

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def tlvs(self) -> Sequence[Tlv]:
        return self._tlvs

    @property
    def state(self) -> str:
        if self.finished:
            return "ending"
        if self.connected:
            return self.figures.state or "open"
        if self.lease is not None:
            return "connecting"
        if self._held and self._greenlet is not None:
            return "held"
        return self.figures.state or "choosing"

    @property
    def descriptors(self) -> tuple[int, int]:
        return self.figures.descriptors

    def volumes(self) -> Volumes:
        return self.figures.volumes

    @property
    def waiting(self) -> int:
        return self.figures.waiting

    @property
    def ended_sides(self) -> tuple[bool, bool]:
        return self.figures.ended_sides

    def idle(self, now: float) -> float:
        return max(now - (self.figures.active or self._accepted), 0.0)

    def stop(self, ending: Ending) -> None:
        self._tell("stop", self.id, ending.value)

    def leave(self, lease: Lease, ending: Ending | None = None) -> None:
        """Where it may be connected by now, what is so then is known when its worker has said so (``reached``)."""
        if self.lease is not lease or self.finished:
            return
        if not self.connected:
            self._leaving = ending
        self._tell("leave", self.id, self._places, ending.value if ending and self.connected else "")

    def end_when_quiet(self, ending: Ending) -> None:
        """Its worker sees when it is."""
        self._tell("quiet", self.id, self._places, ending.value)

    def spare(self) -> None:
        self._tell("spare", self.id)

    def tend(self, now: float) -> None:
        """Its worker does."""

    # --- its life -------------------------------------------------------------------------------------------------

    def not_begun(self, sock: Any) -> None:
        """It could not be begun, by the exception that is being handled: that costs this session."""
        self._report()
        sock.close()
        self._end(Ending.ERROR, kernel.monotonic(), (0, 0, 0, 0))

    def begin(self, sock: Any) -> None:
        """Give the client's socket to the worker; with a place, where nothing has to be known before one is chosen.
        Does not switch."""
        front = self._front
        settings = front.settings
        introduces_itself = settings.accept_proxy != "off" and front.selector.permits(
            int(settings.accept_proxy), Client(self.address, -1))
        admission = None if introduces_itself else self._admission()
        place = None
        if admission is _ADMITTED and front.tls is None and not (
                front.protocol.client_asks or settings.dummy or self._is_denied or self.finished):
            place = self._place_at_once()
        self._tell("begin", self.id, front.name, sock.family, self.address, self._port, self._accepted,
                   introduces_itself, admission, place, passed=sock)

    def _admission(self) -> Admission:
        """Whether the client is let in; it counts from now on."""
        front = self._front
        denied = self._is_denied = self._admit()
        if denied and front.selector.abuse is None:
            return Ending.DENIED.value, 0, 0
        if front.settings.limits_clients and (limit := self._heard_limit()) is not None:
            guard = front.limits.guard if limit is Ending.CLIENT_RATE else None
            return limit.value, self._others, guard.seconds_told(self.address) if guard is not None else 0
        return _ADMITTED

    def _heard_limit(self) -> Ending | None:
        """As ``_limit``; but first all is heard that its sessions may have come to."""
        if 0 < self._front.settings.client_max <= self._others:
            self._worker.listen()
        return self._limit()

    def _place_at_once(self) -> tuple[Any, ...] | None:
        """A place, or why there is none; None where it has to wait, and asks for one again."""
        self._dials(True)
        front, client = self._front, self.client
        assert client is not None
        selector, hold, is_stubborn = self._selector, front.hold, front.settings.stubborn
        if (client.server is not None and client.server.is_full) or (is_stubborn and not selector.has_room()):
            self._worker.listen()
        if self.finished or hold.is_stirred:  # its worker, as was heard, is gone; or it would overtake
            return None
        lease = selector.reserve(client, self._port)
        if lease is None and not is_stubborn:  # which has chosen
            self._worker.listen()
            if self.finished or hold.is_stirred:
                return None
            lease = selector.reserve(client, self._port)
        if lease is not None:
            return self._place(lease)
        if front.settings.hold and not selector.has_decided():
            self._is_to_wait = True
            return None
        return self._no_place(Ending.NO_SERVER)

    def _no_place(self, ending: Ending) -> tuple[Any, ...]:
        """That it is refused, and why, in the place of a place."""
        return 0, ending.value, self._selector.is_crowded()

    def _place(self, lease: Lease) -> tuple[Any, ...]:
        server, target = lease.server, lease.target
        self.lease, self.server = lease, server
        self.chosen = kernel.monotonic()
        self._places += 1
        self._leaving = None
        self._endpoints = target.endpoints
        settings = self._front.settings
        is_limited = bool(server.max or lease.member.max or settings.client_max or settings.hold
                          or settings.leastconn or settings.random)
        return (self._places, is_limited, self._is_news(lease), server.name, server.number,
                tuple(map(tuple, self._endpoints)),
                None if self._front.server_tls is None else tls_name(server, settings))

    def _is_news(self, lease: Lease) -> bool:
        """Whether something follows from it when the server is reached."""
        server, target, settings, client = lease.server, lease.target, self._front.settings, self.client
        return bool(target.down_until or target.is_silent or server.kept_away or settings.pending_max
                    or self._front.selector.pool.health.is_cut_off
                    or (settings.returns and (client is None or client.server is not server)))

    def _dials(self, is_dialing: bool) -> None:
        """Whether it counts among those that are being connected to a server."""
        if is_dialing is not self._is_dialing and not (is_dialing and self.finished):
            self._is_dialing = is_dialing
            front = self._front
            front.dialing += 1 if is_dialing else -1
            if not is_dialing and front.settings.pending_max:
                front.resume()

    # --- what its worker says -------------------------------------------------------------------------------------

    def admit(self, address: str, port: int, tlvs: Sequence[Tlv]) -> None:
        """A proxy has told who the client is, and this besides."""
        self.address, self._port, self._tlvs = address, port, tlvs
        self._tell("admitted", self.id, self._admission())

    def routed(self, kind: str, pattern: str) -> None:
        """What the client asks for leads this way."""
        if self._front.routes is not None:
            self._selector = self._front.take_route((kind, pattern))

    def reserve(self, failure: Failure | None) -> None:
        """A server is wanted; the one before, if any, could not be reached. Only who may have to wait gets a greenlet:
        that takes 20,000 instructions."""
        if failure is None and not (self._is_to_wait or self._is_denied or self._tried):
            place = self._place_at_once()
            if place is not None:
                self._tell("place", self.id, place)
                return
        if not self._selector.has_room():
            self._worker.listen()
        self._front.greenlets.start(partial(self._seek, failure))

    def _seek(self, failure: Failure | None) -> None:
        """Find a place, and tell the worker. Switches greenlets."""
        self._greenlet = getcurrent()
        try:
            self._dials(True)
            if failure is not None and self.lease is not None:
                self._note_failure(self.lease, failure)
            assert self.client is not None
            if self._is_to_wait:
                self._is_to_wait = False
                lease = self._wait(self.client, self._tried)
            else:
                lease = self._reserve(self._is_denied, self.client, self._tried)
            if self.finished:
                self._give_back(lease)
            elif lease is not None:
                self._tell("place", self.id, self._place(lease))
            else:
                ending = self._failure or (Ending.DENIED if self._is_denied else Ending.NO_SERVER)
                self._tell("place", self.id, self._no_place(ending))
        except Stop:
            return  # it has ended meanwhile
        except Exception:
            self.failed()
        finally:
            self._greenlet = None

    def _stop_seeking(self, ending: Ending) -> None:
        if self._greenlet is not None:
            self._greenlet.throw(Stop(ending))

    def _give_back(self, lease: Lease | None) -> None:
        """It has ended while it was given a place."""
        if lease is not None:
            lease.release()

    def _note_failure(self, lease: Lease, failure: Failure) -> None:
        number, words, is_condemned = failure
        self._failure = self._unreached(lease, Condemned() if is_condemned else OSError(number, words))
        if not lease.is_outdated:  # else the client may have it where it is now
            self._tried.append(lease.server)

    def _watch_client(self) -> None:
        self._tell("held", self.id)

    def _ignore_client(self) -> None:
        """The worker does, as soon as it has an answer."""

    def reached(self, connected: float, index: int) -> None:
        """It is connected since then to this one of the server's endpoints."""
        self._dials(False)
        lease, client = self.lease, self.client
        if lease is None or client is None:
            return
        self.connected = connected
        self.figures = _NONE  # they are of before
        self.endpoint = endpoint = self._endpoints[index]
        if index and endpoint in lease.target.endpoints:
            self._front.selector.pool.prefer(lease.target, endpoint)
        lease.connected()
        if lease.server.number is not None and self._front.settings.rule.remembers:
            self.clients.stick(client, lease.server)
        leaving, self._leaving = self._leaving, None
        if leaving is not None and (leaving is not Ending.SERVER_DOWN or self.is_where_its_server_is):
            self.leave(lease, leaving)

    def parted(self) -> None:
        """The server has ended its side: its place there is free."""
        lease = self.lease
        if lease is not None and lease.is_open:
            lease.release()
            self._front.stir()

    def has_secured(self, *agreed: str) -> None:
        """TLS speaks so with the client."""
        self.secured = Secured(*agreed)
        self._front.handshakes.of_clients += 1

    def server_secured(self, is_resumed: bool, *agreed: str) -> None:
        """TLS speaks so with the server."""
        self.secured_server = Secured(*agreed)
        handshakes = self._front.handshakes
        handshakes.of_servers += 1
        handshakes.resumed += is_resumed

    def refused(self, cause: str) -> None:
        """The server takes nobody."""
        if self.lease is not None:
            self.lease.refused(cause)

    def settled(self, finished: float, *volumes: int) -> None:
        """It is over, but for its last words."""
        self._settle(finished, volumes)
        self._front.stir()

    def ended(self, ending: str, finished: float, *volumes: int) -> None:
        """It is over."""
        self._end(BY_WORD[ending], finished, volumes)

    def lost(self, ending: Ending = Ending.WORKER) -> None:
        """Its worker is gone, or does not tell what becomes of it."""
        self._end(ending, kernel.monotonic(), self.figures.volumes)

    def _settle(self, finished: float, volumes: Any) -> None:
        """Give its place back, once, and add up what was moved."""
        if not self.finished:
            self.finished = finished
            self.figures = Figures("ending", volumes)
            self._settle_accounts()

    def _end(self, ending: Ending, finished: float, volumes: Any) -> None:
        """The only exit."""
        self.ending = ending
        self._worker.forget(self)
        try:
            if self._greenlet is not None:  # it waits for a place
                get_hub().loop.run_callback(self._stop_seeking, ending)
            self._settle(finished, volumes)
            self._dials(False)
        except Exception:
            self._report()
        try:
            self._front.ended(self)
        except Exception:
            self._abandon()
