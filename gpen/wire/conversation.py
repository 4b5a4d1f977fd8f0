"""What a TCP session and a UDP flow have in common: who talks with whom, since when, and what it comes to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from gpen.model.address import UNIX, Endpoint, bracketed
from gpen.model.client import Client, ClientTable
from gpen.model.ending import Ending
from gpen.model.lease import Lease
from gpen.model.selector import Selector
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.proto.protocol import Protocol
from gpen.wire import kernel, sockets
from gpen.wire.faults import Troubles
from gpen.wire.greenlets import Greenlets
from gpen.wire.poller import Poller

if TYPE_CHECKING:
    from gpen.wire.datagram import DatagramListener
    from gpen.wire.hold import Hold
    from gpen.wire.listener import Listener
    from gpen.wire.loops import Loops
    from gpen.wire.tls import Terminator

log = logging.getLogger("gpen")

FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between two attempts of a client that is held
Watch = Callable[[str, memoryview], None]  # whence (client, server), and the bytes


class Front:
    """What conversations need of the listener that they came to; the daemon has what it really is."""

    name: str  # empty for the one without
    settings: Settings
    selector: Selector
    clients: ClientTable
    poller: Poller
    greenlets: Greenlets
    listener: Listener | DatagramListener | None
    hold: Hold
    loops: Loops
    tls: Terminator | None  # where clients speak TLS
    protocol: Protocol  # what they and the servers say
    troubles: Troubles
    dialing: int  # sessions that are being connected to a server
    handshakes: int  # of TLS, that were completed

    def fresh_id(self) -> int:
        """A number for a conversation that is to begin."""
        raise NotImplementedError

    def begin(self, session: Conversation) -> None:
        """It begins: count it."""
        raise NotImplementedError

    def no_room(self) -> bool:
        """Whether none may begin now."""
        raise NotImplementedError

    def oldest_flow(self) -> Conversation | None:
        """Of the flows of sockets that it had before, one that was idle for long, if there are any."""
        raise NotImplementedError

    def watch(self, session: Conversation) -> Watch | None:
        """What shall see the bytes of this session, if anything."""
        raise NotImplementedError

    def resume(self) -> None:
        """There may be room for another client."""
        raise NotImplementedError

    def stir(self) -> None:
        """A place on a server may be free, for who waits for one."""
        raise NotImplementedError

    def shed(self) -> bool:
        """Descriptors or memory are short: end what no client needs. Whether there was any."""
        raise NotImplementedError

    def ended(self, session: Conversation) -> None:
        """It is over and its sockets are closed."""
        raise NotImplementedError

    def refused_for_client_max(self, address: str, others: int) -> None:
        """This address has so many sessions already, which is the most."""
        raise NotImplementedError

    def forget(self, session: Conversation) -> None:
        """It is no session any more, however it ended. A second call does nothing."""
        raise NotImplementedError


class Condemned(Exception):
    """Thrown into the greenlet of a session that is being connected to a server which shall get no clients."""


class Stop(Exception):
    """Thrown into a session's greenlet to end it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.value)
        self.ending = ending


class Secured(NamedTuple):
    """What a TLS handshake agreed on; ``sni`` is the name that the client asked for, or empty."""

    version: str
    cipher: str
    sni: str

    def __str__(self) -> str:
        return f"{self.version} {self.cipher} {self.sni or '-'}"


class Conversation:
    """One client with its server. ``id`` is never used again; ``started`` is wall clock time, in seconds."""

    _consequence = ""  # of a failure of this machine, where it is not plain

    __slots__ = ("_accepted", "_front", "_port", "address", "chosen", "client", "clients", "connected", "ending",
                 "endpoint", "finished", "id", "lease", "secured", "server", "started")

    def __init__(self, id: int, front: Front, address: str, port: int) -> None:
        self.id = id
        self._front = front
        self._accepted = kernel.monotonic()
        self.started = time.time()
        self.address, self._port = address, port
        self.clients = front.clients  # whom it counts among, to its end
        self.client: Client | None = None
        self.lease: Lease | None = None
        self.server: Server | None = None
        self.endpoint: Endpoint | None = None  # of its server, which may be elsewhere by now
        self.ending: Ending | None = None
        self.secured: Secured | None = None
        self.chosen = self.connected = 0.0
        self.finished = 0.0  # from then on its accounts are settled, though its last words may be on their way yet

    @property
    def front(self) -> Front:
        """The listener that it came to."""
        return self._front

    @property
    def listener(self) -> str | None:
        """The name of that listener, if it has one."""
        return self._front.name or None

    @property
    def peername(self) -> str:
        """The client's address and port."""
        return f"{bracketed(self.address)}:{self._port}" if self._port else self.address

    @property
    def server_address(self) -> str | None:
        """Where it found its server, or where that is as long as it has not; None without one."""
        if self.endpoint is not None:
            return str(self.endpoint)
        if self.lease is not None:
            return self.lease.target.shown
        return self.server.target.shown if self.server is not None else None

    @property
    def state(self) -> str:
        """A word for how far it is."""
        raise NotImplementedError

    @property
    def descriptors(self) -> tuple[int, int]:
        """Of the client's socket and the server's; -1 where there is none of its own."""
        raise NotImplementedError

    @property
    def to_server(self) -> int:
        """Bytes that were sent to the server."""
        return self.volumes()[0]

    @property
    def from_server(self) -> int:
        """Bytes that were received from the server."""
        return self.volumes()[1]

    @property
    def to_client(self) -> int:
        """Bytes that were sent to the client."""
        return self.volumes()[2]

    @property
    def from_client(self) -> int:
        """Bytes that were received from the client."""
        return self.volumes()[3]

    def volumes(self) -> tuple[int, int, int, int]:
        """Bytes that were sent to the server, received from the server, sent to the client, and received from it."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """Bytes that could not be passed on yet."""
        raise NotImplementedError

    @property
    def ended_sides(self) -> tuple[bool, bool]:
        """Whether the server, and whether the client, will send nothing more."""
        return False, False

    def age(self, now: float) -> float:
        """Seconds since the client came; ``now`` is monotonic time."""
        return (self.finished or now) - self._accepted

    def idle(self, now: float) -> float:
        """Seconds since a byte moved, or since the client came."""
        raise NotImplementedError

    def timings(self) -> tuple[float, float, float]:
        """Seconds to choose the server, to connect to it, and in all; 0 for a step that was not reached."""
        choose = (self.chosen or self.finished) - self._accepted
        connect = (self.connected or self.finished) - self.chosen if self.chosen else 0.0
        return choose, connect, self.finished - self._accepted

    def stop(self, ending: Ending) -> None:
        """End it, from anywhere. May return before it has ended; a second call does nothing."""
        raise NotImplementedError

    def failed(self) -> None:
        """gpen itself failed, and the exception is being handled: it costs this conversation, whatever else fails."""
        try:
            self._report()
        finally:
            try:
                self._give_up()
            except Exception:
                self._abandon()

    def _give_up(self) -> None:
        """End it because gpen failed."""
        self.stop(Ending.ERROR)

    def _abandon(self) -> None:
        """Even to end it fails, by the exception that is being handled: nobody shall try that again and again."""
        self._report()
        self._front.forget(self)

    def _report(self) -> None:
        log.exception("session %d of %s failed", self.id, self.peername)
        if self._front.settings.abort_on_error:
            os.abort()

    @property
    def is_connecting(self) -> bool:
        """Whether it has yet to find its server, and can still go to another."""
        return not self.connected

    @property
    def ending_of_condemned(self) -> Ending | None:
        """How it ends when a verdict takes its server down; None when it goes on."""
        return Ending.SERVER_DOWN if self._front.settings.on_down == "close" else None

    @property
    def is_where_its_server_is(self) -> bool:
        """Whether what is found about its server now is about the place where it is, or would get."""
        lease = self.lease  # its target may be one that nobody uses any more, whose endpoints are those of then
        return self.is_connecting or (lease is not None and not lease.is_elsewhere
                                      and self.endpoint in lease.target.endpoints)

    def leave(self, lease: Lease, ending: Ending | None = None) -> None:
        """If it is just being connected to the server where it has this place, it goes to another, and the client does
        not notice. If it is there, or by the time this takes effect, it has this ending, if any. Returns at once."""
        raise NotImplementedError

    def keep_alive(self) -> None:
        """Have the kernel notice machines that are gone, where it can."""

    def tend(self, now: float) -> None:
        """The janitor's visit."""
        raise NotImplementedError

    def _blame(self, lease: Lease, error: OSError) -> Ending:
        """Give a place back where the server could not be reached, and pass the verdict on that: it is the server's
        fault, or this machine's, which is told once."""
        reason = sockets.cause_of(error)
        whom = "servers can't be reached, by no fault of theirs"
        if error.errno in sockets.LOCAL_ERRORS:
            lease.release()
            if error.errno not in sockets.SHORTAGES:  # of ports, each server has its own
                whom = f"server {lease.target.name} {lease.target.shown} can't be reached, by no fault of its own"
        elif lease.fail(reason, error.errno in sockets.PROHIBITIONS):
            return Ending.CONNECT_FAILED
        self._front.troubles.tell(f"{whom}: {reason}{self._consequence}")
        return Ending.LOCAL

    def _admit(self) -> bool:
        """Look the client up; True when the access list denies it."""
        front = self._front
        settings = front.settings
        # counted from here until the front forgets this conversation
        self.client = self.clients.touch(self.address, self._accepted, settings.clients_max, settings.tracking)
        self.address = self.client.address  # the same text once for all sessions of a client
        return not front.selector.permits(settings.client_acl, self.client)

    def _exceeds_client_max(self) -> bool:
        """Whether its address has as many sessions already as client_max allows; then that is told."""
        others = self._others
        if others < self._front.settings.client_max or self.address == UNIX:
            return False
        self._front.refused_for_client_max(self.address, others)
        return True

    @property
    def _others(self) -> int:
        """How many sessions its address has beside this one."""
        return self.clients.sessions_of(self.address) - 1

    def _settle_accounts(self) -> None:
        """Give the place on the server back, and add up what was moved."""
        to_server, from_server, to_client, from_client = self.volumes()
        client = self.client
        if client is not None:
            client.sx += to_client
            client.rx += from_client
        lease, self.lease = self.lease, None
        if lease is None:
            return
        if lease.is_open:  # else the server has ended its side before
            lease.release()
        lease.moved(to_server, from_server)


class Seeker(Conversation):
    """A client of TCP that looks for a server, at once or, where clients are held, until there is one."""

    __slots__ = ("_greenlet", "_held", "_pause", "_problem")

    def __init__(self, id: int, front: Front, address: str, port: int) -> None:
        Conversation.__init__(self, id, front, address, port)
        self._greenlet: Any = None  # where it waits, if it does
        self._held = 0.0  # since when it waits for a server, or did
        self._pause = FIRST_PAUSE
        self._problem = ""  # why it did not get to a server last

    def _reserve(self, denied: bool, client: Client, tried: list[Server]) -> Lease | None:
        """A place on a server, at once or, where clients are held, when there is one. Switches greenlets then."""
        selector, hold = self._front.selector, self._front.hold
        if denied:
            return None if tried else selector.reserve_abuse()
        if not hold.is_stirred:  # else it would overtake
            lease = selector.reserve(client, self._port, tried)
            if lease is not None or not self._front.settings.hold or selector.has_decided(tried):
                return lease
        return self._wait(client, tried)

    def _wait(self, client: Client, tried: list[Server]) -> Lease | None:
        """Wait for a place; a client that leaves meanwhile ends the session. Those that failed may be tried again."""
        front = self._front
        is_guest = not (self._held or front.hold.has_room())
        self._held = self._held or kernel.monotonic()
        self.server = self.endpoint = None
        pause = 0.0
        if tried:
            self._pause = pause = next_pause(self._pause)
            tried.clear()
        front.dialing -= 1
        try:
            if front.settings.pending_max:
                front.resume()
            self._watch_client()
            return front.hold.wait(self.id, client, self._port, self._held, pause, is_guest)
        finally:
            front.dialing += 1
            self._ignore_client()

    def _unreached(self, lease: Lease, error: OSError | Condemned) -> Ending:
        """Pass the verdict on a failed connect: the server's fault, or this machine's, or known already."""
        self.lease = None
        if isinstance(error, Condemned):
            lease.release()
            return Ending.NO_SERVER
        target, self._problem = lease.target, sockets.cause_of(error)
        ending = self._blame(lease, error)
        if ending is Ending.CONNECT_FAILED:
            place = "where it was" if lease.is_outdated else target.shown
            log.warning("server %s %s: connect failed: %s", target.name, place, self._problem)
        return ending

    def _watch_client(self) -> None:
        """It waits from now on: notice when the client leaves."""
        raise NotImplementedError

    def _ignore_client(self) -> None:
        """It waits no more."""
        raise NotImplementedError


def next_pause(pause: float) -> float:
    """How many seconds a client that is held waits for its next attempt, when it waited so many for the last."""
    return min(2 * pause, _LONGEST_PAUSE)
