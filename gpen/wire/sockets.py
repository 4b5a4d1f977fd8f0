"""Sockets: every option that gpen sets, how it binds, and how it connects.

Plain ``_socket.socket`` objects throughout: gevent's and the standard library's wrappers cost a new connection more
than the system calls do.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import functools
import os
import select
import struct
import time
from collections.abc import Iterator, Sequence
from errno import EAGAIN, EINPROGRESS, EISCONN
from typing import Any

import gevent

from gpen.files import Account, Entry
from gpen.model.address import UNSPECIFIED, Address, Endpoint
from gpen.model.settings import Settings
from gpen.model.sources import Turns, sources_of
from gpen.wire import kernel
from gpen.wire.poller import EPOLLOUT, Poller

Socket = Any  # _socket.socket, or the kernel module's own; typeshed has no types for what gevent shares with it

# This machine is out of descriptors or memory, for whatever server, and for a moment: worth waiting for. ENOSPC: epoll
# may watch no more (epoll_ctl(2))
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
# These; no port that is free; a source address that is none of its own: never held against the server
LOCAL_ERRORS = SHORTAGES | {errno.EADDRNOTAVAIL, errno.EADDRINUSE}
# This machine keeps gpen from a server: a route of kind blackhole (EINVAL) or prohibit (EACCES), its firewall (EPERM),
# an interface that is down. What that means the Pool decides, by what becomes of the other servers. All else, as a
# route of kind unreachable or throw (EHOSTUNREACH, ENETUNREACH) or a family that is off, is a failure like any other.
PROHIBITIONS = frozenset({errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENETDOWN})
_RETRY_SECONDS = 0.05
_TURNS = Turns()  # of addresses that connections come from
IP_BIND_ADDRESS_NO_PORT = 24
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h; Python has no names for them before 3.15
_SO_RCVBUFFORCE = 33  # socket(7)
_RECEIVE_BUFFER = 4 << 20  # bytes: some 5,000 small datagrams
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class ListenError(Exception):
    """An address that can't be listened on: one line with the address and the reason."""


def listen(address: Address, endpoint: Endpoint, settings: Settings, ours: Sequence[Socket] = ()) -> Socket:
    """A listening, non-blocking socket at an internet address. ``ours`` are those that it will replace: they may stand
    in the way, as 0.0.0.0:80 does for 127.0.0.1:80, without being closed first. Raises ListenError."""
    try:
        try:
            return _bound(endpoint, settings, share_port=False)
        except OSError as error:
            old = [sock for sock in ours if sock.family != _socket.AF_UNIX]
            if error.errno != errno.EADDRINUSE or not old:
                raise
        return _bound_beside(old, endpoint, settings)
    except OSError as error:
        raise ListenError(f"can't listen on {address}: {error.strerror}{_remedy(error)}") from None


def listen_at_path(address: Address, backlog: int, mode: int | None = None, owner: Account | None = None) -> Socket:
    """A listening, non-blocking socket with a file; the last two as in ``Entry.bind``. A file that nobody answers on is
    replaced. Raises ListenError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    try:
        with Entry(address.path, follow=False) as entry:
            entry.bind(sock, mode, owner)
        sock.listen(backlog)
        return sock
    except OSError as error:
        sock.close()
        raise ListenError(f"can't listen on {address}: {error.strerror}{_remedy(error)}") from None


def another(sock: Socket) -> Socket:
    """The same socket once more, to be closed by itself."""
    return _socket.socket(fileno=_socket.dup(sock.fileno()))


def receive_datagrams(address: Address, endpoint: Endpoint, settings: Settings, ours: Sequence[Socket] = ()) -> Socket:
    """A non-blocking UDP socket bound to an address, for clients. ``ours`` are those that we have: they may stand in
    the way, as with ``listen``. Raises ListenError."""
    try:
        try:
            return _receiver(endpoint, settings, share_port=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not ours:
                raise
        with _sharing_port(ours):
            return _receiver(endpoint, settings, share_port=True)
    except OSError as error:
        raise ListenError(f"can't listen on {address}: {error.strerror}{_remedy(error)}") from None


def _receiver(endpoint: Endpoint, settings: Settings, share_port: bool) -> Socket:
    sock = _socket.socket(endpoint.family, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK)
    try:
        if endpoint.family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, int(endpoint.host != "::"))
        expect_clients(sock, endpoint.host)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, int(share_port))
        _bind(sock, endpoint, settings)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 0)
    except OSError:
        sock.close()
        raise
    return sock


def expect_clients(sock: Socket, host: str) -> None:
    """Let the kernel keep more datagrams for a socket that is, or will be, bound to this host than it would, beyond its
    limit if we may; and where that means all addresses, tell which of them each was sent to."""
    if host == "::":
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO, 1)
    elif host == "0.0.0.0":
        sock.setsockopt(_socket.IPPROTO_IP, kernel.IP_PKTINFO, 1)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BUFFER)


class NoPortError(OSError):
    """The kernel has no port for a socket."""


def send_datagrams(endpoint: Endpoint, source: str) -> tuple[Socket, tuple[str, int]]:
    """A non-blocking UDP socket that is connected to a server, from this address if one is given, and where it is.
    Raises OSError, NoPortError among them. Does not switch."""
    sock = kernel.datagram(endpoint.family)
    try:
        if source:
            _bind_without_port(sock, source)
        result = kernel.connect(sock, endpoint)
        if result == EAGAIN:
            raise NoPortError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        if result:
            raise _failure(result, endpoint)
        place = kernel.place(sock)
        if place[1] == endpoint.port and _is_own_end(sock, endpoint.port):
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        sock.close()
        raise
    return sock, place


def share_port(endpoint: Endpoint, source: str, port: int, others: Sequence[Socket],
               ) -> tuple[Socket, tuple[str, int]] | None:
    """As ``send_datagrams``, from a port that other sockets of ours have, which are connected elsewhere. None where
    one is not, or where the port is somebody else's as well. Raises OSError. Does not switch."""
    sock = kernel.datagram(endpoint.family)
    try:
        for each in (*others, sock):
            each.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        sock.bind((source or UNSPECIFIED[endpoint.family == _socket.AF_INET6], port))
        result = kernel.connect(sock, endpoint)
        if result:
            raise _failure(result, endpoint)
        if any(_names(other) == _names(sock) for other in others):
            sock.close()
            return None
        while kernel.take(sock) is not None:
            pass  # it came before there was a server, and is no reply
        return sock, kernel.place(sock)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise


def _names(sock: Socket) -> tuple[Any, Any]:
    return sock.getsockname(), sock.getpeername()


def expect_many(sock: Socket) -> None:
    """Let the kernel keep as many replies as it may, while we do something else: with net.core.rmem_max as it comes,
    277 small ones, and half as many without this."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BUFFER)


@contextlib.contextmanager
def _sharing_port(socks: Sequence[Socket]) -> Iterator[None]:
    """Let another socket be bound to the same port as one of these, this once."""
    for sock in socks:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for sock in socks:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 0)


def _bound_beside(old: Sequence[Socket], endpoint: Endpoint, settings: Settings) -> Socket:
    with _sharing_port(old):
        sock = _bound(endpoint, settings, share_port=True)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 0)
    return sock


def _bound(endpoint: Endpoint, settings: Settings, share_port: bool) -> Socket:
    sock = _socket.socket(endpoint.family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, int(share_port))
        if endpoint.family == _socket.AF_INET6:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, int(endpoint.host != "::"))
        _bind(sock, endpoint, settings)
        bequeath(sock, settings)
        sock.listen(settings.backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _bind(sock: Socket, endpoint: Endpoint, settings: Settings) -> None:
    if settings.freebind:
        is_ipv6 = endpoint.family == _socket.AF_INET6
        level, option = (_socket.IPPROTO_IPV6, _IPV6_FREEBIND) if is_ipv6 else (_socket.IPPROTO_IP, _IP_FREEBIND)
        sock.setsockopt(level, option, 1)
    sock.bind(endpoint.sockaddr)


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return ": another program listens there, or another listener of this gpen; 'ss -lntup' shows it"
    if error.errno == errno.EACCES:
        return ": ports below 1024 need root or CAP_NET_BIND_SERVICE, a path a directory that the user (-u) may write"
    if error.errno == errno.EADDRNOTAVAIL:
        return ": this machine does not have that address; if it will get it later (keepalived), set freebind"
    if error.errno == errno.ENOENT:
        return ": make its directory first"
    return ""


def cause_of(error: OSError) -> str:
    """Why a server could not be reached, in small letters; but what it has said itself as it is."""
    words = error.strerror or str(error)
    return words if error.errno == errno.EPROTO else words.lower()


def endpoint_of(sock: Socket) -> Endpoint:
    """The address that a listening socket really has; as text it may be written again."""
    name = sock.getsockname()
    if isinstance(name, str):
        return Endpoint(sock.family, name, name, 0)
    return Endpoint(sock.family, name, name[0], name[1])


def has_address(family: int, sockaddr: Any) -> bool:
    """Whether an address is one of this machine's, as the kernel knows it. Does not switch."""
    try:
        with contextlib.closing(_socket.socket(family, _socket.SOCK_DGRAM)) as probe:
            probe.bind((sockaddr[0], 0, *sockaddr[2:]))
            probe.connect(sockaddr)  # fails where the kernel lets any address be bound (net.ipv4.ip_nonlocal_bind)
    except OSError:
        return False
    return True


def has_ended(sock: Socket) -> bool:
    """Whether nothing more will come than what waits in the socket."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def abort(sock: Socket) -> None:
    """Close a connection with a reset: to a server that has yet to accept it there was none."""
    reset_at_close(sock)
    sock.close()


def reset_at_close(sock: Socket) -> None:
    """Let the other side hear of no end, but of a reset, when this is closed."""
    with contextlib.suppress(OSError):
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET_AT_CLOSE)


def drop(sock: Socket) -> bool:
    """Read what waits in a socket, for nobody; False at the end of input. Raises OSError."""
    try:
        return bool(sock.recv(65536))
    except BlockingIOError:
        return True  # it was woken for nothing


def bequeath(sock: Socket, settings: Settings) -> None:
    """Give a socket that listens, or will, the options that the settings ask for: what it accepts from now on inherits
    them, at no cost."""
    prepare(sock, settings)
    if sock.family != _socket.AF_UNIX:
        for is_on, level, option in ((settings.tcp_nodelay, _socket.IPPROTO_TCP, _socket.TCP_NODELAY),
                                     (settings.user_timeout, _socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT)):
            if not is_on:
                sock.setsockopt(level, option, 0)


def prepare(sock: Socket, settings: Settings) -> None:
    """Give a new socket the options that the settings ask for from its beginning."""
    if sock.family == _socket.AF_UNIX:
        return
    if settings.tcp_nodelay:
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    if settings.user_timeout:
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, max(round(settings.user_timeout * 1000), 1))


def keep_alive(sock: Socket, settings: Settings) -> None:
    """Have the kernel ask, when a connection is silent, whether the machine at its other end is there. What will last
    needs that: at its start it would cost a new connection 3 us of 118."""
    if sock.family == _socket.AF_UNIX or not settings.keepalive:
        return
    idle, interval, count = settings.keepalive
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, interval)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, count)


def connect(endpoint: Endpoint, settings: Settings, poller: Poller, seconds: float, unseen: bool = False) -> Socket:
    """A connected, non-blocking socket to a server within so many seconds. Switches greenlets unless it is at once.

    ``unseen``: the server's program shall not see it, if it is closed at once. Raises OSError; with ETIMEDOUT when time
    ran out.
    """
    family, _, _, port = endpoint
    sock = kernel.stream(family)
    try:
        prepare(sock, settings)
        if settings.source:
            _bind_source(sock, endpoint, settings)
        if unseen and family != _socket.AF_UNIX:
            _leave_half_open(sock)
        result = kernel.connect(sock, endpoint)
        if result == EINPROGRESS:
            # On this machine the handshake is done by now: asking at once (1 system call) spares the trip through the
            # loop that a server elsewhere needs anyway.
            result = kernel.progress(sock)
        if result == EINPROGRESS:
            result = outcome(sock, poller, seconds)
        elif result == EAGAIN:
            result = _insist(sock, endpoint, seconds)
        if result not in (0, EISCONN):
            _connect_from_others(sock, endpoint, settings, poller, seconds, result)
        if port >= ephemeral_ports()[0] and _is_own_end(sock, port):
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        sock.close()
        raise
    return sock


def _leave_half_open(sock: Socket) -> None:
    """Let the kernel delay the last packet of the handshake (200 ms on Linux), and close with a reset: that arrives in
    its place, and to the server's accept() there never was a connection."""
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 0)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET_AT_CLOSE)


def outcome(sock: Socket, poller: Poller, seconds: float) -> int:
    """Wait for a connect to end. A wake-up may have been meant for an earlier socket of the same number."""
    deadline = time.monotonic() + seconds
    result = EINPROGRESS
    while result == EINPROGRESS:
        if not poller.wait(sock.fileno(), EPOLLOUT, deadline - time.monotonic()):
            return errno.ETIMEDOUT
        result = kernel.progress(sock)
    return result


def _insist(sock: Socket, endpoint: Endpoint, seconds: float) -> int:
    """A unix socket whose backlog is full answers EAGAIN, and no event says when there is room (connect(2))."""
    result = EAGAIN
    while result == EAGAIN:
        if seconds <= 0:
            return errno.ETIMEDOUT
        gevent.sleep(_RETRY_SECONDS)
        seconds -= _RETRY_SECONDS
        result = kernel.connect(sock, endpoint)
    return result


def _failure(result: int, endpoint: Endpoint) -> OSError:
    """What a connect came to. Where IPv6 is off the kernel has no address to connect from, and says the same as when no
    port is free; of datagram sockets, which it tells otherwise that no port is, it is always that."""
    if result == errno.EADDRNOTAVAIL:
        with contextlib.closing(_socket.socket(endpoint.family, _socket.SOCK_DGRAM)) as probe:
            if probe.connect_ex(endpoint.sockaddr) == errno.EADDRNOTAVAIL:
                return OSError(errno.EAFNOSUPPORT, "this machine has no address of its family")
    return OSError(result, os.strerror(result))


@functools.cache
def ephemeral_ports() -> tuple[int, int]:
    """The lowest and the highest port that the kernel may pick for us (ip(7)), as it was when this was asked first."""
    try:
        # as bytes: a codec that is not loaded yet can't be, in a chroot or as another user
        with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:
            low, high = map(int, file.read().split())
            return low, high
    except OSError:
        return 1024, 65535


def _is_own_end(sock: Socket, port: int) -> bool:
    """Whether a socket is connected to itself: what the kernel makes of a connect to a port of this machine where
    nobody listens, when it picks that very port as our own (in TCP, RFC 9293 section 3.5 calls it simultaneous open).
    """
    name = sock.getsockname()
    return bool(name[1] == port and name == sock.getpeername())


def in_turn(endpoint: Endpoint, settings: Settings) -> Iterator[str]:
    """The addresses that connections to this server come from, if some are said: each time another one first."""
    version = {_socket.AF_INET: 4, _socket.AF_INET6: 6}.get(endpoint.family, 0)
    return _TURNS.of(sources_of(settings.source, version) if settings.source else (), kernel.monotonic())


def _bind_source(sock: Socket, endpoint: Endpoint, settings: Settings) -> None:
    """Bind it to the next of the addresses that is this machine's. Raises OSError when none is."""
    problem: OSError | None = None
    for source in in_turn(endpoint, settings):
        try:
            _bind_without_port(sock, source)
        except OSError as error:
            problem = error
        else:
            return
    if problem is not None:
        raise problem


def _bind_without_port(sock: Socket, source: str) -> None:
    # the port is chosen at connect; in TCP it need be unique for each server only (ip(7))
    sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind((source, 0))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            _TURNS.miss(source, kernel.monotonic())
            raise OSError(error.errno, f"{error.strerror}: source names one that this machine does not have") from None
        raise


def _connect_from_others(sock: Socket, endpoint: Endpoint, settings: Settings, poller: Poller, seconds: float,
                         result: int) -> None:
    """A connect came to this result: where the address that it is bound to has no port left for this server, connect
    from the next that has one. The kernel lets a socket be bound again as long as it has no port. Raises OSError."""
    for source in in_turn(endpoint, settings) if result == errno.EADDRNOTAVAIL else ():
        with contextlib.suppress(OSError):  # that is: it is none of this machine's
            _bind_without_port(sock, source)
            result = kernel.connect(sock, endpoint)
        if result == EINPROGRESS:
            result = outcome(sock, poller, seconds)
        if result != errno.EADDRNOTAVAIL:
            break
    if result:
        raise _failure(result, endpoint)
