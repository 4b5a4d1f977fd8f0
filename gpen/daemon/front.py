"""One listener: where clients come from, and how they are treated on their way to the servers.

What it shares with others (servers, poller, register of sessions, logs) it gets, and knows by what it needs of them
only; what is its own are its settings, its socket, its TLS, its protocol, its waiting room and its count of sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from gpen.control.script import ScriptError
from gpen.daemon.session_log import dump_watch, request_watch, session_line
from gpen.dsr.flow import DirectFlow
from gpen.dsr.flow import Told as DirectlyTold
from gpen.dsr.listener import DirectListener
from gpen.dsr.opening import open_listener
from gpen.model.address import Address, Endpoint, parse_listen
from gpen.model.ending import BY_WORD
from gpen.model.listener import Scope
from gpen.model.route import Key, table_of
from gpen.model.selector import Selector
from gpen.model.server import Target
from gpen.model.settings import SETTINGS, Settings
from gpen.model.text import counted
from gpen.model.value_types import listener_prefix
from gpen.proto.protocols import protocol_of
from gpen.wire import sockets
from gpen.wire.conversation import Conversation, Handshakes, Watch
from gpen.wire.conversation import Front as Base
from gpen.wire.datagram import DatagramListener
from gpen.wire.faults import Seldom, Troubles
from gpen.wire.flow import Flow, Told
from gpen.wire.given import GivenSockets
from gpen.wire.greenlets import Greenlets
from gpen.wire.hold import Hold
from gpen.wire.limits import Limits
from gpen.wire.listener import Listener
from gpen.wire.loops import Loops
from gpen.wire.pacing import Pacer, gently
from gpen.wire.poller import Poller
from gpen.wire.quiet import Quieter
from gpen.wire.resolver import Endpoints, ResolveError, Resolver
from gpen.wire.server_tls import ServerTls, server_tls_settings
from gpen.wire.session import Session
from gpen.wire.throttle import Ways
from gpen.wire.tls import Terminator, TlsError
from gpen.wire.tls_contexts import Pace
from gpen.wire.transparent import is_allowed

log = logging.getLogger("gpen")

DUMP_LEVEL = 2

AnyListener = Listener | DatagramListener | DirectListener
Locate = Callable[[str], str]


class Register(Protocol):
    """Where all sessions are registered."""

    def fresh_id(self) -> int:
        """A number that no session ever had."""

    def begin(self, session: Conversation) -> None:
        """It begins: count it."""

    def forget(self, session: Conversation) -> bool:
        """It is no session any more; whether it was one."""

    def is_full(self) -> bool:
        """Whether there are as many as all listeners together may have."""

    @property
    def timed(self) -> Callable[[Conversation], object] | None:
        """Who wants to know of each that is over how long it took."""

    def __iter__(self) -> Iterator[Conversation]: ...


class Workers(Protocol):
    """The processes that serve sessions, if others than this one do."""

    @property
    def is_ready(self) -> bool:
        """Whether there is one that takes a session now."""

    def begin(self, front: Front, sock: Any, address: str, port: int) -> None:
        """Have one serve this client, who counts from now on."""


class Files(Protocol):
    """What makes and removes the files of unix sockets."""

    def listen(self, address: Address, mode: int | None, leaving: Mapping[str, sockets.Socket],
               owner: str) -> sockets.Socket: ...

    def change_mode(self, name: str, mode: int, owner: str, setting: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def has_made(self, name: str) -> bool: ...

    def own(self, name: str) -> None: ...

    def disown(self, name: str) -> None: ...

    def is_at(self, name: str, bound: Endpoint, endpoint: Endpoint) -> bool: ...


class Log(Protocol):
    """Where a line for each session, or a record of each request, goes."""

    @property
    def takes_requests(self) -> bool:
        """Whether it is for requests alone, as pen's log over the network."""

    def write(self, line: str) -> None: ...

    def write_request(self, client: str, server: str, request: bytes) -> None: ...


@dataclass
class Shared:
    """What all listeners of a gpen have in common. ``locate`` gives the name of a file as it is seen from within the
    chroot; ``shed`` ends what no client needs, when descriptors are short; ``quieter`` ends sessions between two
    exchanges. ``holds`` are the waiting rooms where somebody waits, ``short`` the listeners that wait for others'
    sessions to end; ``workers`` serve the sessions of TCP, or None; ``direct`` are the listeners of direct server
    return."""

    register: Register
    poller: Poller
    greenlets: Greenlets
    troubles: Troubles
    resolver: Resolver
    loops: Loops
    files: Files
    locate: Locate
    shed: Callable[[], bool]
    quieter: Quieter
    holds: dict[Hold, None]
    short: dict[Front, None]
    workers: Workers | None
    direct: list[DirectListener] = field(default_factory=list)


@dataclass
class Prepared:
    """What was opened for other settings, beside what is in use: a listener, if it is another one, and what takes the
    place of TLS, with clients and with servers, and of the log, where these change; ``has_mode``: the mode of its file
    changes."""

    listener: AnyListener | None = None
    has_tls: bool = False
    tls: Terminator | None = None
    has_mode: bool = False
    has_server_tls: bool = False
    server_tls: ServerTls | None = None
    has_log: bool = False
    log: Log | None = None


class Front(Base):
    """What conversations know of gpen (wire/conversation.py). It is made, given what was prepared for its settings, and
    then started."""

    __slots__ = ("_holds", "_leaving", "_refusals", "_register", "_shared", "_short", "_workers", "count", "endings",
                 "scope", "session_log", "total")

    def __init__(self, scope: Scope, shared: Shared) -> None:
        self.name = scope.name
        self.scope = scope
        self.settings = scope.settings
        self.selector = scope.selector
        self.clients = scope.clients
        self.poller = shared.poller
        self.greenlets = shared.greenlets
        self.troubles = shared.troubles
        self.loops = shared.loops
        self.quieter = shared.quieter
        self.hold = Hold(self, shared.holds)
        self.protocol = protocol_of(scope.settings)
        self.routes = table_of(scope.settings)
        self.listener: AnyListener | None = None  # none as long as it has no address
        self.tls: Terminator | None = None
        self.server_tls: ServerTls | None = None
        self.session_log: Log | None = None
        self.dialing = 0
        self.count = 0  # of its sessions
        self.total = 0  # of those that it ever had
        self.endings = dict.fromkeys(BY_WORD, 0)  # how often each was
        self.handshakes = Handshakes()
        self.limits = Limits(self)
        self._shared = shared
        self._register = shared.register
        self._holds = shared.holds
        self._short = shared.short
        self._workers = shared.workers
        self._refusals = Seldom()
        self._leaving: list[DatagramListener] = []  # listeners of before that have flows yet

    def reaches(self, target: Target) -> bool:
        """Whether its clients may be given to a server in this way."""
        return any(member.target is target for member in self.scope.members_of(target.server))

    # --- its socket -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Accept clients, if it has an address."""
        if self.listener is not None:
            self.listener.start()

    def close(self) -> None:
        """Accept no more, if it was opened; sessions go on."""
        if self.listener is not None:
            self._close_listener(self.listener)

    def end(self) -> None:
        """It was deleted: take those who wait in the kernel's backlog, and close."""
        listener, self.listener = self.listener, None
        if listener is not None:
            self._give_up(listener)
            self.loops.changed()

    def suspend(self, with_flows: bool) -> None:
        """Take no client until ``go_on``, or ``hand_over``: who comes waits in the kernel. ``with_flows``: flows of UDP
        stand still as well."""
        if isinstance(self.listener, DatagramListener):
            self.listener.suspend(with_flows)
        elif self.listener is not None:
            self.listener.suspend()

    def go_on(self) -> None:
        """It was suspended, and another has perhaps tuned its socket meanwhile."""
        if self.listener is not None:
            self.listener.tune(self.settings)
            self.listener.go_on()

    def lent_flows(self) -> Iterator[Flow]:
        """Those of its socket that stand still."""
        if isinstance(self.listener, DatagramListener):
            yield from (flow for flow in self.listener.flows.values() if flow.is_lent)

    def lent_direct_flows(self) -> Iterator[DirectFlow]:
        """The same of direct server return."""
        if isinstance(self.listener, DirectListener):
            yield from self.listener.own_flows()

    def adopt_direct_flow(self, told: DirectlyTold) -> bool:
        """Go on with a flow of direct server return that another gpen had; False when nothing comes of it."""
        return isinstance(self.listener, DirectListener) and self.listener.adopt(told)

    def direct_row(self) -> dict[str, Any] | None:
        """The interface, and how many frames there were; None where gpen itself serves."""
        if not isinstance(self.listener, DirectListener):
            return None
        return {"interface": self.listener.interface.name, "frames": self.listener.counts()}

    def tend_direct(self) -> None:
        """See to the interface and the servers there, where servers answer clients themselves: each second."""
        if isinstance(self.listener, DirectListener):
            self.listener.tend()

    def hand_over(self, is_taken: bool) -> None:
        """Another gpen has this socket, and its flows; or has no use for it, and nobody listens there any more.
        Sessions go on."""
        listener = self.listener
        if listener is None:
            return
        if not is_taken:
            listener.go_on()
            self.end()
            return
        self.listener = None
        self._shared.files.disown(listener.bound_to)
        if isinstance(listener, (DatagramListener, DirectListener)):
            listener.hand_over()
        else:
            listener.close()

    def adopt_flow(self, told: Told, fd: int) -> bool:
        """Go on with a flow of UDP that another gpen had, and with its socket; False when nothing comes of it."""
        return isinstance(self.listener, DatagramListener) and self.listener.adopt(told, fd)

    @property
    def is_wider(self) -> bool:
        """Whether its socket is at [::] where 0.0.0.0 was asked for, as systemd binds a port without a host."""
        return (self.listener is not None and self.listener.endpoint.host == "::"
                and parse_listen(self.settings.listen or "").host == "0.0.0.0")

    @property
    def has_file(self) -> bool:
        """Whether its socket has a file that gpen has made, and not who has passed it on to gpen."""
        return self.listener is not None and self._shared.files.has_made(self.listener.bound_to)

    def own_file(self) -> None:
        """The file of a unix socket that another gpen has made is ours from now on."""
        if self.listener is not None and "/" in self.listener.bound_to:
            self._shared.files.own(self.listener.bound_to)
            self._give_mode()

    def _give_mode(self) -> None:
        """The file of a unix socket gets the mode and owner of the settings, if it is gpen's."""
        if self.listener is not None and self.settings.listen_mode:
            mode, owner = self.settings.listen_mode
            self._shared.files.change_mode(self.listener.bound_to, mode, owner, "listen_mode")

    @property
    def address(self) -> str:
        """The address that clients connect to, as it was given; with the real port where 0 was given, and that of the
        service where servers answer clients themselves."""
        given = self.settings.listen or ""
        if self.listener is None or not given:
            return given
        if isinstance(self.listener, DirectListener):
            return self.listener.bound_to
        return self.listener.bound_to if parse_listen(given).port == 0 and "/" not in given else given

    def _new_listener(self, address: Address, endpoint: Endpoint, settings: Settings, leaving: Sequence[AnyListener],
                      ) -> AnyListener:
        """One at an address, with these settings. Those that are ``leaving`` theirs may stand in its way."""
        files, kind = self._shared.files, DatagramListener if settings.udp else Listener
        ours = {listener.bound_to: listener.socket for listener in (self.listener, *self._left, *leaving)
                if isinstance(listener, kind) and listener.is_open}
        if settings.udp:
            sock = sockets.receive_datagrams(address, endpoint, settings, list(ours.values()))
        elif address.path:
            mode, owner = settings.listen_mode or (None, "")
            sock = files.listen(address, mode, ours, owner)
        else:
            sock = sockets.listen(address, endpoint, settings, list(ours.values()))
        return self._listener_on(sock, endpoint, settings)

    def _listener_on(self, sock: sockets.Socket, endpoint: Endpoint, settings: Settings) -> AnyListener:
        """One on a socket that was wanted there."""
        if settings.udp:
            return DatagramListener(sock, self)
        place = endpoint if "/" in endpoint.host else sockets.endpoint_of(sock)
        return Listener(sock, place, self.poller, settings.multi_accept, self.greenlets, *self._ways(),
                        self._shared.shed)

    def _ways(self) -> Ways:
        """What begins sessions, and what says that there is no room for one."""
        if self._workers is not None:
            return partial(self._workers.begin, self), self._has_no_worker
        return self._begin, self.no_room

    def _own_sessions(self) -> Iterator[Session]:
        return (session for session in self._register if session.front is self and isinstance(session, Session))

    def _has_no_worker(self) -> bool:
        """Whether no session may begin now, for there is none to serve it, or for what ``no_room`` knows."""
        assert self._workers is not None
        return not self._workers.is_ready or self.no_room()

    def datagram_listeners(self) -> Iterator[DatagramListener]:
        """Those that clients of UDP may reach."""
        return (listener for listener in (self.listener, *self._left) if isinstance(listener, DatagramListener))

    @property
    def _left(self) -> list[DatagramListener]:
        """Those of before that have flows yet, and that no other has taken over."""
        return [listener for listener in self._leaving if listener.is_open and listener.front is self]

    def covers(self, listener: DatagramListener) -> bool:
        """Whether what comes for the address of this one is for this front, once that is closed."""
        return isinstance(self.listener, DatagramListener) and self.listener.covers(listener)

    def inherit(self, listener: DatagramListener) -> None:
        """It closes, and what comes there meanwhile is for this front."""
        listener.front = self
        self._leaving.append(listener)

    def _give_up(self, listener: AnyListener) -> None:
        """Take those who wait in the kernel, and close it, unless another has taken it over."""
        if isinstance(listener, DatagramListener) and listener.front is not self:
            return
        listener.empty()
        self._close_listener(listener)

    def _close_listener(self, listener: AnyListener) -> None:
        listener.close()
        self._shared.files.remove(listener.bound_to)
        if isinstance(listener, DatagramListener):
            self._leaving.append(listener)
        self._leaving = list(dict.fromkeys(self._left))

    # --- other settings -------------------------------------------------------------------------------------------

    def prepare_listener(self, new: Settings, prepared: Prepared, undo: ExitStack,
                         leaving: Sequence[AnyListener] = (), given: GivenSockets | None = None) -> None:
        """Open the socket that these settings need, beside what is in use; ``undo`` closes it again. Those that are
        ``leaving`` their places may be there: one of UDP is taken over, for it stays as long as it has flows, and two
        at one place would share what comes. One that is ``given`` is taken as it is, and the file of a unix socket is
        then not gpen's to remove. Switches greenlets. Raises ScriptError, ListenError or OSError."""
        if new.listen is None:
            return
        shared, files = self._shared, self._shared.files
        address = parse_listen(new.listen)
        if address.path:
            address = Address(path=shared.locate(address.path))
        if new.dsr_if and new.dsr_ip:
            address = Address(new.dsr_ip, address.port)
        endpoint = resolved(shared.resolver, new, "listen", address, new.udp)[0]
        if new.dsr_if:
            if not (isinstance(self.listener, DirectListener) and self.listener.is_at(new, endpoint)):
                prepared.listener = direct = open_listener(new, endpoint, self, shared.direct, given)
                undo.callback(direct.close)
            return

        def is_there(listener: AnyListener | None) -> bool:
            return (isinstance(listener, DatagramListener if new.udp else Listener) and listener.is_open
                    and files.is_at(listener.bound_to, listener.endpoint, endpoint))

        if is_there(self.listener):
            return
        for old in (*self._left, *leaving):
            if isinstance(old, DatagramListener) and is_there(old) and not old.is_kept:
                old.keep()
                undo.callback(old.let_go)
                prepared.listener = old
                return
        sock = given.take(self.name, address, endpoint, new.udp) if given is not None else None
        prepared.listener = listener = (self._new_listener(address, endpoint, new, leaving) if sock is None else
                                        self._listener_on(sock, endpoint, new))
        undo.callback(self._close_listener, listener)

    def adopt(self, prepared: Prepared) -> None:
        """Take up the settings as they are now, and put what was opened for them in the place of what was in use. Does
        not switch."""
        if prepared.has_tls:
            self.tls = prepared.tls
        if prepared.has_server_tls:
            self.server_tls = prepared.server_tls
        if prepared.has_log:
            self.session_log = prepared.log
        if prepared.listener is not None:
            old, self.listener = self.listener, prepared.listener
            self._leaving = [leaving for leaving in self._left if leaving is not self.listener]
            if old is not None:
                self._give_up(old)
            self.loops.changed()
        elif self.settings.listen is None:
            self.end()
        self.protocol = protocol_of(self.settings)
        self.routes = table_of(self.settings)
        if prepared.has_mode and prepared.listener is None:
            self._give_mode()
        self.limits.adopt(self._ways())
        if self._workers is None:
            self.limits.shape(self._own_sessions)
        else:
            self.limits.measure()
        if self.listener is not None:
            self.listener.tune(self.settings)
            self.listener.resume()

    # --- conversations --------------------------------------------------------------------------------------------

    def _begin(self, sock: Any, address: str, port: int) -> Any:
        session = Session(self._register.fresh_id(), self, sock, address, port)
        self.begin(session)
        return session.run

    def fresh_id(self) -> int:
        return self._register.fresh_id()

    def begin(self, session: Conversation) -> None:
        self._register.begin(session)
        self.count += 1
        self.total += 1

    def no_room(self) -> bool:
        """Whether no conversation may begin now."""
        if self.poller.unfinished:
            self.poller.finish()  # who has got all makes room
        settings = self.settings
        limit = settings.pending_max
        if self.count >= settings.conn_max or (limit and self.dialing >= limit):
            return True
        if self._register.is_full():
            self._short[self] = None
            return True
        return False

    def evict_excess(self) -> None:
        """Flows of UDP give way to a conn_max that was lowered; TCP sessions go on. Switches greenlets when they are
        many."""
        pacer = Pacer()
        for _ in range(self.count - self.settings.conn_max):
            if not isinstance(self.listener, DatagramListener) or self.count <= self.settings.conn_max:
                return
            self.listener.make_room()
            pacer.pause()

    def oldest_flow(self) -> Conversation | None:
        """Of the flows of sockets that it had before, one that was idle for long, if there are any."""
        return next((flow for leaving in self._left for flow in leaving.own_flows()), None)

    def take_route(self, key: Key) -> Selector:
        """What chooses for a client that goes this way; it counts."""
        route = self.scope.routes.get(key)
        route.total += 1
        return route

    def watch(self, session: Conversation) -> Watch | None:
        """What shall see the bytes of a session: pen's request log, the dumps of debug 2, or nothing."""
        watch, log = None, self.session_log
        if log is not None and (log.takes_requests or self.settings.log_format == "pen"):
            watch = request_watch(session, self._log_in_use)
        return dump_watch(session, self.settings, watch) if self.settings.debug >= DUMP_LEVEL else watch

    def _log_in_use(self) -> Log | None:
        return self.session_log

    def shed(self) -> bool:
        return self._shared.shed()

    def ended(self, session: Conversation) -> None:
        """A conversation is over: forget it, log it, and let the next client in."""
        self.forget(session)
        assert session.ending is not None
        self.endings[session.ending.word] += 1
        if self._register.timed is not None:
            self._register.timed(session)
        if self.session_log is not None and self.settings.log_format != "pen":
            self.session_log.write(session_line(session, self.settings))
        if self.settings.debug:
            log.debug("session %d: %s", session.id, session_line(session, self.settings))
        self.resume()

    def forget(self, session: Conversation) -> None:
        """It is no session any more, however it ended. A second call does nothing."""
        if not self._register.forget(session):
            return
        self.count -= 1
        if session.client is not None:
            session.clients.leave(session.client)

    def refused_for_client_max(self, address: str, others: int) -> None:
        """This address has so many sessions already, which is the most."""
        more = self._refusals.comes()
        if more is not None:
            most = self.settings.client_max
            self._tell_refused(f"{address} has {counted(others, 'session')} already, and client_max is {most}{more}")

    def refused_for_client_rate(self, address: str) -> None:
        """This address has begun as many sessions as it may for now."""
        cause = self.limits.refused(address)
        if cause is not None:
            self._tell_refused(cause)

    def _tell_refused(self, cause: str) -> None:
        self.selector.pool.events.note_own("refused", cause, self.name)
        log.warning("%srefused: %s", listener_prefix(self.name), cause)

    def resume(self) -> None:
        """There may be room for another client: of this listener, and of those that wait for sessions of others."""
        if self.listener is not None:
            self.listener.resume()
        if self._holds:
            self.stir()
        if self._short:
            fronts = list(self._short)
            self._short.clear()
            for front in fronts:
                if front.listener is not None:
                    front.listener.resume()

    def stir(self) -> None:
        """A place on a server may be free: for those who wait, at whichever listener."""
        for hold in self._holds:
            hold.stir()


def resolved(resolver: Resolver, settings: Settings, name: str, address: Address, datagrams: bool = False,
             patient: bool = False) -> Endpoints:
    """What an address of this setting means; nothing, when ``patient`` and there is no answer now. Switches greenlets.
    Raises ScriptError."""
    try:
        return resolver.resolve(address, settings.timeout, datagrams)
    except ResolveError as error:
        if patient and error.temporary:
            return ()
        raise ScriptError(f"{name}: {error}") from None


def tls_settings(settings: Settings) -> tuple[object, ...]:
    """The values of the settings that make a TLS context; empty where there is none."""
    if not settings.ssl_certificate or settings.udp:
        return ()
    return tuple(settings.get(name) for name in SETTINGS if name.startswith("ssl_") and name != "ssl_handshake")


def make_server_tls(settings: Settings, locate: Locate, is_wanted: bool) -> ServerTls | None:
    """What speaks TLS to servers with these settings, if that is spoken to any; see server_tls_settings. Raises
    ScriptError."""
    try:
        return ServerTls(settings, locate) if server_tls_settings(settings, is_wanted) else None
    except TlsError as error:
        raise ScriptError(str(error)) from None


def make_terminator(settings: Settings, locate: Locate, pace: Pace = gently) -> Terminator | None:
    """What ends the clients' TLS with these settings, if they speak it. Switches greenlets, if ``pace`` does. Raises
    ScriptError."""
    try:
        return Terminator(settings, locate, pace) if tls_settings(settings) else None
    except TlsError as error:
        raise ScriptError(str(error)) from None


def check_transparent(settings: Settings) -> None:
    """Raises ScriptError when this process may not have the addresses of clients, as these settings want."""
    if settings.transparent and settings.listen and not is_allowed():
        raise ScriptError("transparent: needs the capability CAP_NET_RAW or CAP_NET_ADMIN, which gpen keeps only if "
                          "this is set when it starts: start it as root (with -u USER), or with "
                          "AmbientCapabilities=CAP_NET_RAW in its unit")
