"""The peers: where they connect, who may, and who is connected (wire/peers.py is one connection)."""

from __future__ import annotations

import logging
import os
import random
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, NamedTuple

import gevent
from gevent import socket as gsocket
from gevent.event import Event

from gpen.control.configuration import Configuration
from gpen.control.script import ScriptError
from gpen.daemon.chroot import Chroot
from gpen.daemon.front import resolved
from gpen.model.address import Address, Endpoint, normalize, parse_listen
from gpen.model.settings import Settings
from gpen.model.shared import Exchange
from gpen.proto import peers as protocol
from gpen.proto.peers import Hello, PeersError
from gpen.wire import sockets
from gpen.wire.acceptor import Acceptor
from gpen.wire.faults import Seldom
from gpen.wire.given import GivenSockets
from gpen.wire.mutual_tls import Mutual
from gpen.wire.peers import HELLO_SECONDS, Figures, LostError, PeerConnection, await_hello, greet
from gpen.wire.resolver import ResolveError, Resolver, numeric
from gpen.wire.tls_contexts import TlsError, reason_of

log = logging.getLogger("gpen")

RETRY_SECONDS = 5.0  # between two attempts to reach a peer
SEND_BUFFER = 131_072  # bytes
LEARNING_SECONDS = 5.0  # behind which a gpen that nobody has told anything takes what it knows for all
MOST_STRANGERS = 16  # that have not said yet who they are
_NAMES = ("peers", "peer", "peers_certificate", "peers_ca")  # settings


class Opened(NamedTuple):
    """What a change has opened: the socket where peers connect, if it is another, and what TLS takes."""

    sock: sockets.Socket | None
    tls: Mutual | None


class Peer:
    """One of the others. ``connection`` is that with it, ``error`` why there is none."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self.address = address
        self.figures = Figures()
        self.connection: PeerConnection | None = None
        self.error = ""
        self.changed = time.time()
        self.alone = Event()  # set while there is no connection
        self.alone.set()
        self.dialer: Any = None
        self.has_answered = False  # when it was asked for all that it knows
        self.hosts = {endpoint.host for endpoint in numeric(address.host)}  # from which it may connect

    def has(self, connection: PeerConnection | None, error: str = "") -> None:
        """This is its connection from now on; None: there is none, for this reason."""
        if (connection is None) != (self.connection is None) or error != self.error:
            self.changed = time.time()
        self.connection, self.error = connection, error
        if connection is None:
            self.alone.set()
        else:
            self.alone.clear()

    def row(self, exchanges: Sequence[Exchange]) -> dict[str, Any]:
        figures = self.figures
        return {
            "name": self.name, "address": str(self.address),
            "state": "connected" if self.connection is not None else "unreachable" if self.error else "connecting",
            "since": round(self.changed, 3), "for": round(time.time() - self.changed, 1),
            "sent": figures.sent, "received": figures.received, "unknown": figures.unknown,
            "pending": figures.pending(exchanges), "error": self.error,
        }


class _Server(Acceptor):
    """Where peers connect."""

    def __init__(self, sock: sockets.Socket, visited: Any) -> None:
        listener = gsocket.socket(sock.family, sock.type, fileno=sock.detach())
        super().__init__(listener, visited)

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return int(self.socket.fileno())


class Peers:
    """All of them. Off as long as the setting peers says nothing."""

    def __init__(self, configuration: Configuration, resolver: Resolver, chroot: Chroot, is_complete: bool) -> None:
        """``is_complete``: what peers know need not be asked for, since the gpen before has told it."""
        self._configuration = configuration
        self._settings = configuration.settings
        self._resolver = resolver
        self._chroot = chroot
        self._is_told = is_complete
        self._began = time.monotonic()
        self._strangers = 0
        self._peers: dict[str, Peer] = {}
        self._exchanges: list[Exchange] = []
        self._server: _Server | None = None
        self._tls: Mutual | None = None
        self._used: tuple[object, ...] = ()  # the settings as they were when it was arranged last
        self._is_running = False
        self._refused = Seldom()  # who can connect can do so without end

    @property
    def address(self) -> str:
        """Where peers connect; empty while that is nowhere."""
        if self._server is None:
            return ""
        return str(sockets.endpoint_of(self._server.socket))

    def rows(self) -> list[dict[str, Any]]:
        """Ourselves, and the others."""
        settings = self._settings
        if settings.peers is None:
            return []
        own = {"name": settings.peers[0], "address": self.address, "state": "here"}
        return [dict.fromkeys(Peer("", Address()).row([])) | own, *self.others()]

    def others(self) -> list[dict[str, Any]]:
        """How each of them fares."""
        return [peer.row(self._exchanges) for peer in self._peers.values()]

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self, given: GivenSockets | None = None) -> None:
        """Open what the settings ask for, unless its socket is ``given``. Switches greenlets. Raises ScriptError,
        ListenError or OSError."""
        with ExitStack() as undo:
            opened = self.prepare(self._settings, undo, given)
            self._adopt(opened)
            undo.pop_all()

    def differs(self, settings: Settings) -> bool:
        """Whether these settings want something else of peers."""
        return any(settings.get(name) != self._settings.get(name) for name in _NAMES)

    def prepare(self, settings: Settings, undo: ExitStack, given: GivenSockets | None = None) -> Opened:
        """What these settings want, beside what there is; ``undo`` closes it again. Switches greenlets. Raises
        ScriptError, ListenError or OSError."""
        if settings.peers is None:
            return Opened(None, None)
        tls = make_tls(settings, self._chroot)
        sock = None
        if self._server is None or settings.peers[1] != (self._settings.peers or ("", ""))[1]:
            sock = self._socket(settings, given)
            undo.callback(sock.close)
        return Opened(sock, tls)

    def _socket(self, settings: Settings, given: GivenSockets | None) -> sockets.Socket:
        assert settings.peers is not None
        address = parse_listen(settings.peers[1])
        endpoint = resolved(self._resolver, settings, "peers", address)[0]
        sock = given.take("", address, endpoint, False) if given is not None else None
        ours = [] if self._server is None else [self._server.socket]
        return sock or sockets.listen(address, endpoint, settings, ours)

    def adopt(self, opened: Opened) -> None:
        """The settings in force are those that this was opened for. Does not switch."""
        self._adopt(opened)
        if self._is_running:
            self._run()

    def _adopt(self, opened: Opened) -> None:
        if self._settings.peers is None or opened.sock is not None:
            self._close_server()
        if opened.sock is not None:
            self._server = _Server(opened.sock, self._visited)
        self._tls = opened.tls

    def start(self) -> None:
        """Let peers in, and reach them."""
        self._is_running = True
        self._run()

    def _run(self) -> None:
        if self._server is not None and not self._server.started:
            self._server.start()
        self.arrange()

    def arrange(self) -> None:
        """Listeners, servers or settings have changed, or may have. Does not switch."""
        self._arrange_tables()
        settings = self._settings
        used = (settings.peers and settings.peers[0], settings.peers_certificate, settings.peers_ca)
        is_another = used != self._used
        self._used = used
        own = settings.peers[0] if settings.peers is not None else None
        wanted = {name: parse_listen(where) for name, where in settings.peer if own not in (None, name)}
        for name, peer in list(self._peers.items()):
            if is_another or wanted.get(name) != peer.address:
                self._dismiss(peer, "the settings have changed")
                del self._peers[name]
        for name, address in wanted.items():
            if name not in self._peers and self._is_running:
                peer = self._peers[name] = Peer(name, address)
                peer.dialer = gevent.spawn(self._keep_in_touch, peer)

    def _arrange_tables(self) -> None:
        before = {exchange.clients: exchange for exchange in self._exchanges}
        exchanges = []
        for scope in self._configuration.scopes.values():
            clients = scope.shared
            if clients is not None and (scope.name or scope.settings.listen):
                exchange = before.get(clients) or Exchange(
                    scope, clients, self._settings, self._configuration.pool.now)
                clients.journal.on_news = self._tell_news
                exchanges.append(exchange)
        if set(before) != {exchange.clients for exchange in exchanges}:
            for peer in self._peers.values():
                peer.figures.keep(exchanges)
        self._exchanges = exchanges
        if any(exchange.clients not in before for exchange in exchanges):
            self._begin_anew()
        self.servers_changed()
        self._tell_news()

    def _begin_anew(self) -> None:
        """There is another table: what peers have told of it was passed over, and is told again over the next
        connection, for nobody has acknowledged it."""
        for peer in self._peers.values():
            if peer.connection is not None:
                peer.connection.stop("there is another listener")

    def servers_changed(self) -> None:
        """Servers have come, gone or moved: whose clients were told of too early is told again. Does not switch."""
        have_missed = [exchange.servers_changed() for exchange in self._exchanges]
        for peer in self._peers.values():
            if any(have_missed) and peer.connection is not None:
                peer.connection.ask()

    def _tell_news(self) -> None:
        for peer in self._peers.values():
            if peer.connection is not None:
                peer.connection.has_news()

    def tend(self) -> None:
        """Forget what no peer shall be told any more one by one: one that lags behind so far is told all again."""
        for exchange in self._exchanges:
            exchange.clients.journal.trim(self._settings.clients_max)

    def renew(self) -> None:
        """Read the certificates again. Raises ScriptError, and then the old ones stay in force."""
        if self._settings.peers is not None:
            self._tls = make_tls(self._settings, self._chroot)

    def close(self) -> None:
        """Let nobody in, and end all connections. Does not switch."""
        self._is_running = False
        self._close_server()
        for peer in self._peers.values():
            self._dismiss(peer, "gpen ends")
        self._peers.clear()

    def _close_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _dismiss(self, peer: Peer, why: str) -> None:
        if peer.dialer is not None:
            peer.dialer.kill(block=False)
        if peer.connection is not None:
            peer.connection.stop(why)

    # --- another gpen ---------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor of its socket; -1 while there is none."""
        return self._server.fileno() if self._server is not None else -1

    def suspend(self) -> None:
        """Another is told what we know: nothing is learnt that it would not get, until ``go_on``, or ``hand_over``.
        Does not switch."""
        self._is_running = False
        if self._server is not None:
            self._server.suspend()
        for peer in self._peers.values():
            self._dismiss(peer, "another gpen takes over")
        self._peers.clear()

    def go_on(self) -> None:
        """Reach them again."""
        if self._server is not None:
            self._server.go_on()
        self.start()

    # --- connections ----------------------------------------------------------------------------------------------

    def _keep_in_touch(self, peer: Peer) -> None:
        """Have a connection with a peer, unless it has one with us. Switches greenlets."""
        while True:
            started = time.monotonic()
            try:
                self._dial(peer)
            except (LostError, PeersError, ResolveError, OSError) as error:
                self._failed(peer, error)
            gevent.sleep(max(RETRY_SECONDS + started - time.monotonic(), 0) + _at_random())
            while not peer.alone.is_set():
                peer.alone.wait()
                gevent.sleep(_at_random())  # it may be about to connect itself: not both at one time

    def _failed(self, peer: Peer, error: Exception) -> None:
        if peer.connection is not None:
            return  # it has connected meanwhile
        why = _reason(error)
        if why != peer.error:
            log.warning("peer %s: can't reach %s: %s", peer.name, peer.address, why)
        peer.has(None, why)

    def _dial(self, peer: Peer) -> None:
        """Connect, and talk until the end. Raises LostError, PeersError, ResolveError or OSError."""
        settings = self._settings
        assert settings.peers is not None
        endpoints = self._resolver.resolve(peer.address, settings.timeout)
        peer.hosts = {endpoint.host for endpoint in endpoints}
        own = settings.peers[0]
        with closing(self._connected_to_one(endpoints)) as sock:
            rest = greet(sock, Hello(peer.name, own, os.getpid()))
            # where both have connected at one time, both keep this one of the two
            if peer.connection is None or own < peer.name:
                self._talk(peer, sock, rest)

    def _connected_to_one(self, endpoints: Iterable[Endpoint]) -> Any:
        """A socket that is connected to the first of these that answers. Raises LostError or OSError."""
        problem: Exception = LostError("its name has no address")
        for endpoint in endpoints:
            try:
                return self._connected(endpoint)
            except OSError as error:
                problem = error
        raise problem

    def _connected(self, endpoint: Endpoint) -> Any:
        """A socket that is connected there. Raises OSError."""
        sock = gsocket.socket(endpoint.family, gsocket.SOCK_STREAM)
        try:
            _prepare(sock)
            own = sockets.endpoint_of(self._server.socket) if self._server is not None else None
            if own is not None and own.family == endpoint.family and own.host not in ("0.0.0.0", "::"):
                sock.bind((own.host, 0))  # the address that peers know us by
            sock.connect(endpoint.sockaddr)
            return sock if self._tls is None else self._tls.towards(sock)
        except BaseException:
            sock.close()
            raise

    def _visited(self, sock: Any, sockaddr: Any) -> None:
        """Somebody has connected: talk until the end, if it is a peer. Switches greenlets."""
        host = normalize(sockaddr[0])
        try:
            peer, sock, rest = self._identified(sock, host)
            sock.sendall(protocol.status_line(protocol.ACCEPTED))
        except PeersError as error:
            with suppress(OSError):
                sock.sendall(protocol.status_line(error.status))
            self._refuse(host, error)
        except (LostError, OSError) as error:
            self._refuse(host, error)
        else:
            try:
                self._talk(peer, sock, rest)
            except (LostError, PeersError, OSError) as error:
                log.debug("peer %s: %s", peer.name, _reason(error))
        finally:
            sock.close()

    def _identified(self, sock: Any, host: str) -> tuple[Peer, Any, bytes]:
        """The peer that has connected, its socket, with TLS if peers speak that, and what it has said behind its hello.
        Raises LostError, PeersError or OSError."""
        if not any(host in peer.hosts for peer in self._peers.values()):
            if self._tls is None:
                raise PeersError("it is the address of no peer", protocol.UNKNOWN)
            if self._strangers >= MOST_STRANGERS:
                raise LostError("too many have connected that do not say who they are")
        self._strangers += 1
        try:
            _prepare(sock)
            with gevent.Timeout(HELLO_SECONDS, LostError("it took too long to say who it is")):
                if self._tls is not None:
                    sock = self._tls.of(sock)
                words, rest = await_hello(sock)
            return self._peer_of(words, host), sock, rest
        finally:
            self._strangers -= 1

    def _talk(self, peer: Peer, sock: Any, rest: bytes) -> None:
        """This is the connection with the peer from now on, if there was another. Raises LostError, PeersError or
        OSError when it is over."""
        def completed(is_sure: bool) -> None:
            peer.has_answered = True
            self._is_told |= is_sure

        former = peer.connection
        connection = PeerConnection(sock, peer.name, peer.figures, lambda: self._exchanges, self._is_complete,
                                    completed)
        if peer.error:
            log.info("peer %s: connected", peer.name)
        peer.has(connection)
        if former is not None:
            former.end("there is another connection")
        try:
            connection.run(rest, asks=not (self._is_told or peer.has_answered))
        except (LostError, PeersError, OSError) as error:
            if peer.connection is connection:
                log.info("peer %s: the connection has ended: %s", peer.name, _reason(error))
                peer.has(None, _reason(error))
            raise
        finally:
            if peer.connection is connection:
                peer.has(None, peer.error)

    def _is_complete(self) -> bool:
        """Whether we know what the others do: they have told, or nobody has come for long enough who could have."""
        return self._is_told or time.monotonic() - self._began >= LEARNING_SECONDS

    # --- who may come in ------------------------------------------------------------------------------------------

    def _peer_of(self, words: Hello, host: str) -> Peer:
        """The peer that says so, from this address. Raises PeersError."""
        own = self._settings.peers
        if own is None or words.remote != own[0]:
            raise PeersError(f"it looks for the peer '{words.remote}', and this is {own[0] if own else 'none'}",
                             protocol.NOT_ME)
        peer = self._peers.get(words.local)
        if peer is None:
            raise PeersError(f"there is no peer '{words.local}' here", protocol.UNKNOWN)
        if self._tls is None and host not in peer.hosts:
            raise PeersError(f"peer {peer.name} is at {peer.address.host}, and does not connect from there",
                             protocol.UNKNOWN)
        return peer

    def _refuse(self, host: str, error: Exception) -> None:
        more = self._refused.comes()
        if more is not None:
            log.warning("peers: %s: refused: %s%s", host, _reason(error), more)


def _prepare(sock: Any) -> None:
    """Small pieces go at once, and what a peer does not take does not pile up in the kernel."""
    sock.settimeout(HELLO_SECONDS)
    sock.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
    sock.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_SNDBUF, SEND_BUFFER)


def make_tls(settings: Settings, chroot: Chroot) -> Mutual | None:
    """What peers speak TLS with, if they do. Raises ScriptError."""
    if settings.peers_certificate is None or settings.peers_ca is None:  # validation has refused one alone
        return None
    try:
        return Mutual(settings.peers_certificate, settings.peers_ca, chroot.path)
    except TlsError as error:
        raise ScriptError(str(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ssl.SSLError):
        is_plain = error.reason == "WRONG_VERSION_NUMBER"
        return "it speaks no TLS: give it peers_certificate and peers_ca, too" if is_plain else reason_of(error)
    return sockets.cause_of(error) if isinstance(error, OSError) else str(error)


def _at_random() -> float:
    """Seconds."""
    return random.uniform(0.05, 2.05)


def check_peers(settings: Settings, chroot: Chroot, resolver: Resolver) -> None:
    """Raises ScriptError where they can't be had. Switches greenlets."""
    if settings.peers is not None:
        resolved(resolver, settings, "peers", parse_listen(settings.peers[1]))
        make_tls(settings, chroot)
