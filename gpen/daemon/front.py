"""One listener: where clients come from, and how they are treated on their way to the servers.

What it shares with others (servers, poller, register of sessions) it gets; what is its own are its settings, its
socket, its TLS, its protocol, its waiting room and its log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from gpen.control.script import ScriptError
from gpen.daemon.chroot import Chroot
from gpen.daemon.line_file import STDOUT
from gpen.daemon.session_log import AnyLog, NetworkLog, SessionLog, dump_watch, request_watch, session_line
from gpen.daemon.sessions import Sessions
from gpen.daemon.socket_files import SocketFiles
from gpen.model.address import Address, network_address, parse_listen
from gpen.model.client import ClientTable
from gpen.model.pool import Pool
from gpen.model.settings import SETTINGS, Settings
from gpen.model.text import counted
from gpen.proto.protocols import protocol_of
from gpen.wire import sockets
from gpen.wire.conversation import Conversation, Some, Watch
from gpen.wire.datagram import DatagramListener
from gpen.wire.faults import Seldom, Troubles
from gpen.wire.greenlets import Greenlets
from gpen.wire.hold import Hold
from gpen.wire.listener import Listener
from gpen.wire.loops import Loops
from gpen.wire.pacing import Pacer
from gpen.wire.poller import Poller
from gpen.wire.resolver import Endpoints, ResolveError, Resolver
from gpen.wire.session import Session
from gpen.wire.tls import Terminator, TlsError

log = logging.getLogger("gpen")

DUMP_LEVEL = 2

AnyListener = Listener | DatagramListener


@dataclass
class Shared:
    """What all listeners of a gpen have in common. ``shed`` ends what no client needs, when descriptors are short;
    ``log_refused`` is called when nobody listens where a log's datagrams go."""

    pool: Pool
    clients: ClientTable
    sessions: Sessions
    poller: Poller
    greenlets: Greenlets
    troubles: Troubles
    resolver: Resolver
    chroot: Chroot
    files: SocketFiles
    shed: Callable[[], bool]
    log_refused: Callable[[], object]


@dataclass
class Prepared:
    """What was opened for other settings, beside what is in use: a listener, if it is another one; and what takes the
    place of TLS and of the log, where these change."""

    listener: AnyListener | None = None
    has_tls: bool = False
    tls: Terminator | None = None
    has_log: bool = False
    log: AnyLog | None = None


class Front:
    """What conversations know of gpen (wire/conversation.py). It is made, opened, and then started."""

    listener: AnyListener

    def __init__(self, settings: Settings, shared: Shared) -> None:
        self.settings = settings
        self.pool = shared.pool
        self.clients = shared.clients
        self.poller = shared.poller
        self.troubles = shared.troubles
        self.hold = Hold(self)
        self.loops = Loops(shared.pool, self._datagram_listeners)
        self.protocol = protocol_of(settings)
        self.tls: Terminator | None = None
        self.session_log: AnyLog | None = None
        self.dialing = 0
        self._shared = shared
        self._sessions = shared.sessions
        self._live = shared.sessions.live
        self._refusals = Seldom()
        self._leaving: list[DatagramListener] = []  # listeners of before that have flows yet

    # --- its socket -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind it, and read certificates; nobody is accepted yet. Switches greenlets. Raises ScriptError, ListenError
        or OSError."""
        settings = self.settings
        assert settings.listen is not None
        self.tls = make_terminator(settings, self._shared.chroot)
        self.listener = self._listener(settings.listen, settings)

    def open_log(self) -> None:
        """Open the log, if there is one; one elsewhere, whose name has no answer now, waits for it. Switches greenlets.
        Raises ScriptError or OSError."""
        if self.settings.log:
            self.session_log = self._open_log(self.settings.log, patient=True)

    def start(self) -> None:
        """Accept clients."""
        self.listener.start()

    def close(self) -> None:
        """Accept no more, if it was opened; sessions go on."""
        listener: AnyListener | None = getattr(self, "listener", None)
        if listener is not None:
            self._close_listener(listener)

    def close_log(self) -> None:
        """Nothing is logged any more."""
        if self.session_log is not None:
            self.session_log.close()
            self.session_log = None

    @property
    def address(self) -> str:
        """The address that clients connect to, as it was given; with the real port where 0 was given."""
        given = self.settings.listen or ""
        return self.listener.bound_to if parse_listen(given).port == 0 and "/" not in given else given

    def _listener(self, text: str, settings: Settings) -> AnyListener:
        """The listener for an address: the one that is there already, though it may be about to close, or a new one
        with these settings."""
        shared, files = self._shared, self._shared.files
        address = parse_listen(text)
        if address.path:
            address = Address(path=shared.chroot.path(address.path))
        endpoint = self._resolved("listen", address, settings.udp)[0]
        current: AnyListener | None = getattr(self, "listener", None)
        if current is not None and files.is_at(current.bound_to, current.endpoint, endpoint):
            return current
        for leaving in self._leaving:
            if leaving.is_open and files.is_at(leaving.bound_to, leaving.endpoint, endpoint):
                leaving.keep()
                return leaving
        if settings.udp:
            ours = [listener.socket for listener in (current, *self._leaving) if isinstance(listener, DatagramListener)
                    and listener.is_open]
            return DatagramListener(sockets.receive_datagrams(address, endpoint, ours), self)
        if address.path:
            sock = files.listen(address)
        else:
            sock = sockets.listen(address, endpoint, settings, current and current.socket)
            endpoint = sockets.endpoint_of(sock)
        return Listener(sock, endpoint, self.poller, settings.multi_accept, shared.greenlets, self._begin, self.no_room,
                        self.shed)

    def _datagram_listeners(self) -> Iterator[DatagramListener]:
        """Those that clients of UDP may reach."""
        return (listener for listener in (self.listener, *self._leaving) if isinstance(listener, DatagramListener))

    def _close_listener(self, listener: AnyListener) -> None:
        listener.close()
        self._shared.files.remove(listener.bound_to)
        known = [*self._leaving, listener] if isinstance(listener, DatagramListener) else self._leaving
        self._leaving = list(dict.fromkeys(leaving for leaving in known if leaving.is_open))

    def _resolved(self, name: str, address: Address, datagrams: bool = False, patient: bool = False) -> Endpoints:
        return resolved(self._shared.resolver, self.settings, name, address, datagrams, patient)

    # --- other settings -------------------------------------------------------------------------------------------

    def prepare(self, new: Settings, undo: ExitStack) -> Prepared:
        """Open what these settings need, beside what is in use; ``undo`` closes it again. Switches greenlets. Raises
        ScriptError, ListenError or OSError."""
        prepared = Prepared()
        if tls_settings(new) != tls_settings(self.settings):
            prepared.has_tls, prepared.tls = True, make_terminator(new, self._shared.chroot)
        if new.listen is not None and new.listen != self.settings.listen:
            listener = self._listener(new.listen, new)
            if listener is not self.listener:
                prepared.listener = listener
                undo.callback(self._close_listener, listener)
        return prepared

    def prepare_log(self, new: Settings, prepared: Prepared, undo: ExitStack) -> None:
        """The same for the log."""
        if new.log == self.settings.log:
            return
        try:
            prepared.has_log, prepared.log = True, self._open_log(new.log) if new.log else None
        except OSError as error:
            raise ScriptError(f"log: can't open '{new.log}': {error.strerror}") from None
        if prepared.log is not None:
            undo.callback(prepared.log.close)

    def adopt(self, prepared: Prepared) -> None:
        """Take up the settings as they are now, and put what was opened for them in the place of what was in use. Does
        not switch."""
        if prepared.has_tls:
            self.tls = prepared.tls
        if prepared.has_log:
            self.close_log()
            self.session_log = prepared.log
        if prepared.listener is not None:
            old, self.listener = self.listener, prepared.listener
            self._leaving = [leaving for leaving in self._leaving if leaving is not self.listener]
            old.empty()
            self._close_listener(old)
            self.loops.changed()
        self.protocol = protocol_of(self.settings)
        self.listener.tune(self.settings)
        self.listener.resume()

    def renew_certificates(self) -> None:
        """Read certificates and keys again. Raises ScriptError, and the old ones stay."""
        self.tls = make_terminator(self.settings, self._shared.chroot)

    def _open_log(self, target: str, patient: bool = False) -> AnyLog:
        """The log: a file, or where its datagrams go; when ``patient``, once its name is resolved.

        Raises ScriptError or OSError.
        """
        address = network_address(target)
        if address is None:
            return SessionLog(target if target == STDOUT else self._shared.chroot.path(target))
        endpoints = self._resolved("log", address, datagrams=True, patient=patient)
        return NetworkLog(target, address, endpoints, self._shared.log_refused, self.troubles.tell)

    # --- conversations --------------------------------------------------------------------------------------------

    def _begin(self, sock: Any, peer: Any) -> Any:
        return self.begin(lambda number: Session(number, self, sock, peer)).run

    def begin(self, make: Callable[[int], Some]) -> Some:
        """Make a conversation of a fresh number, and count it."""
        return self._sessions.begin(make)

    def no_room(self) -> bool:
        """Whether no conversation may begin now."""
        limit = self.settings.pending_max
        if limit and self.dialing >= limit:
            return True
        return len(self._live) >= min(self.settings.conn_max, self._sessions.most)

    def evict_excess(self) -> None:
        """Flows of UDP give way to a conn_max that was lowered; TCP sessions go on. Switches greenlets when they are
        many."""
        pacer = Pacer()
        for _ in range(len(self._live) - self.settings.conn_max):
            if not isinstance(self.listener, DatagramListener) or len(self._live) <= self.settings.conn_max:
                return
            self.listener.make_room()
            pacer.pause()

    def oldest(self) -> Conversation:
        """The one that began before all others; there is one."""
        return next(iter(self._live.values()))

    def watch(self, session: Conversation) -> Watch | None:
        """What shall see the bytes of a session: pen's request log, the dumps of debug 2, or nothing."""
        watch = None
        if isinstance(self.session_log, NetworkLog) or (self.session_log and self.settings.log_format == "pen"):
            watch = request_watch(session, lambda: self.session_log)
        return dump_watch(session, self.settings, watch) if self.settings.debug >= DUMP_LEVEL else watch

    def ended(self, session: Conversation) -> None:
        """A conversation is over: forget it, log it, and let the next client in."""
        self.forget(session)
        assert session.ending is not None
        self._sessions.endings[session.ending.value] += 1
        if self.session_log is not None and self.settings.log_format != "pen":
            self.session_log.write(session_line(session, self.settings))
        if self.settings.debug:
            log.debug("session %d: %s", session.id, session_line(session, self.settings))
        self.resume()

    def forget(self, session: Conversation) -> None:
        """It is no session any more, however it ended. A second call does nothing."""
        if self._sessions.forget(session) and session.client is not None:
            self.clients.leave(session.client)

    def refused_for_client_max(self, address: str, others: int) -> None:
        """This address has so many sessions already, which is the most."""
        more = self._refusals.comes()
        if more is not None:
            most = self.settings.client_max
            cause = f"{address} has {counted(others, 'session')} already, and client_max is {most}{more}"
            self.pool.events.note_own("refused", cause)
            log.warning("refused: %s", cause)

    def resume(self) -> None:
        """There may be room for another client."""
        self.listener.resume()
        self.hold.stir()

    def shed(self) -> bool:
        """Descriptors or memory are short: end what no client needs. Whether there was any."""
        return self._shared.shed()


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


def tls_settings(settings: Settings) -> list[object]:
    """The values of the settings that make a TLS context."""
    return [settings.get(name) for name in SETTINGS if name.startswith("ssl_") and name != "ssl_handshake"]


def make_terminator(settings: Settings, chroot: Chroot) -> Terminator | None:
    """What ends the clients' TLS with these settings, if they speak it. Raises ScriptError."""
    try:
        return Terminator(settings, chroot.path) if settings.ssl_certificate else None
    except TlsError as error:
        raise ScriptError(str(error)) from None
