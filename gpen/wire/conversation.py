"""What a TCP session and a UDP flow have in common: who talks with whom, since when, and what it comes to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gpen.model.address import UNIX, Endpoint, bracketed
from gpen.model.client import Client, ClientTable
from gpen.model.ending import Ending
from gpen.model.lease import Lease
from gpen.model.route import Key, Table
from gpen.model.selector import Selector
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.proto.protocol import Protocol
from gpen.proto.proxy_tlvs import Tlv, Told
from gpen.wire import kernel, sockets
from gpen.wire.faults import Troubles
from gpen.wire.greenlets import Greenlets
from gpen.wire.poller import Poller

if TYPE_CHECKING:
    from gpen.wire.hold import Hold
    from gpen.wire.limits import Limits
    from gpen.wire.loops import Loops
    from gpen.wire.quiet import Quieter
    from gpen.wire.server_tls import ServerTls
    from gpen.wire.tls import Terminator

log = logging.getLogger("gpen")

_GPEN_ID = os.urandom(8).hex()  # of all processes of this gpen, which are forked, and of no other

FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between two attempts of a client that is held
Watch = Callable[[str, memoryview], None]  # whence (client, server), and the bytes


class Handshakes:
    """How many of TLS were completed, with clients and with servers; and of the latter, how many ``resumed`` a session
    of before."""

    def __init__(self) -> None:
        self.of_clients = self.of_servers = self.resumed = 0


class Front:
    """What conversations need of the listener that they came to; the daemon has what it really is."""

    # without slots Python finds more than 30 attributes more slowly: 2,300 instructions of a connection (callgrind)
    __slots__ = ("clients", "dialing", "greenlets", "handshakes", "hold", "limits", "listener", "loops", "name",
                 "poller", "protocol", "quieter", "routes", "selector", "server_tls",
                 "settings", "tls", "troubles")

    name: str  # empty for the one without
    settings: Settings
    selector: Selector
    clients: ClientTable
    poller: Poller
    greenlets: Greenlets
    listener: Any  # its socket, if it has one: of TCP, UDP, or an interface
    hold: Hold
    loops: Loops
    quieter: Quieter
    tls: Terminator | None  # where clients speak TLS
    server_tls: ServerTls | None  # where some server does
    protocol: Protocol  # what they and the servers say
    routes: Table | None  # where what clients ask for leads to servers
    troubles: Troubles
    dialing: int  # sessions that are being connected to a server
    handshakes: Handshakes
    limits: Limits

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

    def take_route(self, key: Key) -> Selector:
        """What chooses for a client that goes this way; it counts."""
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

    def refused_for_client_rate(self, address: str) -> None:
        """This address has begun as many sessions as it may for now."""
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
    """What a TLS handshake agreed on; ``sni`` is the name that the client asked for, ``subject`` that of its
    certificate; both may be empty. Of one with a server, ``sni`` is the name that this was asked for."""

    version: str
    cipher: str
    sni: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.version} {self.cipher} {self.sni or '-'}"


class Conversation:
    """One client with its server. ``id`` is never used again; ``started`` is wall clock time, in seconds."""

    _consequence = ""  # of a failure of this machine, where it is not plain

    __slots__ = ("_accepted", "_front", "_port", "_selector", "address", "chosen", "client", "clients", "connected",
                 "ending", "endpoint", "finished", "id", "lease", "secured", "secured_server", "server",
                 "started")

    def __init__(self, id: int, front: Front, address: str, port: int) -> None:
        self.id = id
        self._front = front
        self._selector = front.selector  # of the listener, or of the route that it goes
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
        self.secured_server: Secured | None = None
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
    def selector(self) -> Selector:
        """What chooses for it: of the listener, or of the route that it goes."""
        return self._selector

    @property
    def route(self) -> str | None:
        """The route of that listener that it goes, if that has routes, in words."""
        return self._selector.route or None

    @property
    def peername(self) -> str:
        """The client's address and port."""
        return f"{bracketed(self.address)}:{self._port}" if self._port else self.address

    @property
    def client_port(self) -> int:
        """0 for one of a unix socket."""
        return self._port

    @property
    def tlvs(self) -> Sequence[Tlv]:
        """What the proxy that it comes from has told of it besides the addresses."""
        return ()

    @property
    def introduced(self) -> Told | None:
        """The same, to be asked; None where that is nothing."""
        tlvs = self.tlvs
        return Told(tlvs) if tlvs else None

    @property
    def unique_id(self) -> str:
        """What it is called along its way: as the proxy that it comes from has called it, or by a name of ours."""
        told = self.introduced
        return (told.unique_id if told is not None else "") or f"{_GPEN_ID}-{self.id:x}"

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

    def is_quiet(self, now: float) -> bool:
        """Whether it is between two exchanges, for so long as the setting quiet says."""
        return False

    def part(self, ending: Ending) -> None:
        """End it, which is quiet, in this step: nothing may come in between. In the hub."""
        raise NotImplementedError

    def end_when_quiet(self, ending: Ending) -> None:
        """End it as soon as it is quiet, unless it leaves the server where it is now before. Returns at once."""
        self._front.quieter.take(self, ending)

    def move_when_quiet(self, ending: Ending) -> None:
        """The same, and forget where its client was, so that it gets a server anew when it comes again: from now on,
        for it may come before somebody is told that this session has ended."""
        if self.client is not None:
            self.clients.release(self.client)
            self._selector.forget(self.client.address)
        self.end_when_quiet(ending)

    def leave_quietly(self, ending: Ending) -> None:
        """The same; but if it is just being connected to that server, it goes to another. Returns at once."""
        lease = self.lease
        if lease is not None:
            self.end_when_quiet(ending)
            if self.is_connecting:
                self.leave(lease)

    def spare(self) -> None:
        """Let it go on, though it was to end when it is quiet."""
        self._front.quieter.drop(self)

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

    def _turned_down(self, lease: Lease, error: OSError | None, tried: list[Server], sent: int,
                     received: int) -> Ending:
        """Leave the place of a flow, of which so many bytes were moved there, and pass the verdict on the server that
        refused: its fault, or this machine's; none without an error. It is one of those that were ``tried`` then."""
        self.lease = None
        if not lease.is_outdated:  # else the client may have it where it is now
            tried.append(lease.server)
        lease.moved(sent, received)
        if error is None:
            lease.release()
            return Ending.NO_SERVER
        target = lease.target
        level = logging.DEBUG if target.is_down else logging.WARNING
        ending = self._blame(lease, error)
        if ending is Ending.CONNECT_FAILED:
            place = "where it was" if lease.is_outdated else target.shown
            log.log(level, "server %s %s: %s", target.name, place, sockets.cause_of(error))
        return ending

    def _admit(self) -> bool:
        """Look the client up; True when the access list denies it."""
        settings = self._front.settings
        # counted from here until the front forgets this conversation
        self.client = self.clients.touch(self.address, self._accepted, settings.clients_max, settings.tracking)
        self.address = self.client.address  # the same text once for all sessions of a client
        return not self._selector.permits(settings.client_acl, self.client)

    def _limit(self) -> Ending | None:
        """How it ends where its address has, or begins, as many sessions as it may; then that is told. Who is let in
        counts for client_rate from now on."""
        front, most = self._front, self._front.settings.client_max
        if self.address == UNIX:
            return None
        others = self._others
        if 0 < most <= others:
            front.refused_for_client_max(self.address, others)
            return Ending.CLIENT_MAX
        guard = front.limits.guard
        if guard is not None and not guard.admits(self.address):
            front.refused_for_client_rate(self.address)
            return Ending.CLIENT_RATE
        return None

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
        selector, hold = self._selector, self._front.hold
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
            return front.hold.wait(self.id, self._selector, client, self._port, self._held, pause, is_guest)
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
