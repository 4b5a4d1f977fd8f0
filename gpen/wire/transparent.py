"""Connections to servers from the address of a client, so that they see who that is (IP_TRANSPARENT, ip(7)).

What a server answers goes to the client's address: the routes must lead it through this machine, and a rule of the
firewall to gpen's socket (gpen(1), TRANSPARENT). Where that is not so for one client, say of the servers' own network,
no server shall seem down for it: one that does not answer is asked again from our own address before it is blamed.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import ipaddress
import os
import time
from errno import EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EINPROGRESS, EISCONN, ETIMEDOUT

from gpen.model.address import UNIX, Endpoint
from gpen.model.settings import Settings
from gpen.wire import kernel, sockets
from gpen.wire.conversation import Conversation
from gpen.wire.faults import Troubles
from gpen.wire.poller import Poller

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
_TAKEN = (EADDRINUSE, EADDRNOTAVAIL)  # the client's port is, here or towards this server
_SECOND_LOOK = 1.0  # seconds
_ASTRAY = ("it answers gpen, but not its clients (transparent): what it sends to them must come back through this "
           "machine, see TRANSPARENT in gpen(1)")


def is_allowed() -> bool:
    """Whether this process may have the addresses of others."""
    with contextlib.closing(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)) as sock:
        try:
            _let_be_others(sock)
        except PermissionError:
            return False
    return True


def objection(address: str, endpoint: Endpoint) -> str:
    """Why a connection to a server can't come from this client's address; empty where it can."""
    if address == UNIX or endpoint.family == _socket.AF_UNIX:
        return "no address"
    client, server = (ipaddress.ip_address(host) for host in (address, endpoint.sockaddr[0]))
    server = getattr(server, "ipv4_mapped", None) or server
    if client.version != server.version:
        return f"of IPv{client.version}"
    if client.is_loopback and not server.is_loopback:
        return "of a loopback"
    if client == server and not client.is_loopback:
        return "the server's own"
    if client.is_unspecified or client.is_multicast or client.is_link_local or int(client) == (1 << 32) - 1:
        return "no address to connect from"
    return ""


def connect_as(address: str, port: int, endpoint: Endpoint, settings: Settings, poller: Poller, seconds: float,
               troubles: Troubles) -> sockets.Socket:
    """As ``sockets.connect``, from this client's address, and its port if that is free; from our own where that can't
    be, which is told. Switches greenlets. Raises OSError."""
    if why := objection(address, endpoint):
        tell_own(troubles, address, endpoint, why)
        return sockets.connect(endpoint, settings, poller, seconds)
    deadline, result = time.monotonic() + seconds, EADDRNOTAVAIL
    for place in ((address, port), (address, 0)):
        sock = kernel.stream(endpoint.family)
        try:
            result = _connected(sock, place, endpoint, settings, poller, deadline - time.monotonic())
        except BaseException:
            sock.close()
            raise
        if result in (0, EISCONN):
            return sock
        sock.close()
        if result not in _TAKEN:
            break
    if result == ETIMEDOUT:
        _look_again(endpoint, settings, poller)
    raise OSError(result, os.strerror(result))


def tell_own(troubles: Troubles, address: str, endpoint: Endpoint, why: str) -> None:
    """Clients come to a server from our own address, since theirs is so."""
    if address != UNIX and endpoint.family != _socket.AF_UNIX:
        troubles.tell(f"transparent: clients come to {endpoint} from gpen's own address, for theirs is {why}")


def _connected(sock: sockets.Socket, place: tuple[str, int], endpoint: Endpoint, settings: Settings, poller: Poller,
               seconds: float) -> int:
    """Connect from there: 0, or why not. Switches greenlets. Raises OSError."""
    sockets.prepare(sock, settings)
    if error := _bind(sock, place):
        return error
    result = kernel.connect(sock, endpoint)
    if result == EINPROGRESS:
        result = sockets.outcome(sock, poller, seconds)
    return result


def _bind(sock: sockets.Socket, place: tuple[str, int]) -> int:
    """Have the address and port of another; 0, or why not. Raises OSError."""
    _let_be_others(sock)
    if place[1]:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)  # the same port, towards another server
    else:
        sock.setsockopt(_socket.IPPROTO_IP, sockets.IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind(place)
    except OSError as error:
        if error.errno not in (*_TAKEN, errno.EACCES):  # the last: of a port below 1024
            raise
        return EADDRINUSE
    return 0


def _let_be_others(sock: sockets.Socket) -> None:
    """Let a socket have addresses that are not this machine's. Raises OSError."""
    if sock.family == _socket.AF_INET6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(_socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _look_again(endpoint: Endpoint, settings: Settings, poller: Poller) -> None:
    """A server has not answered a client: does it answer us? Switches greenlets. Raises OSError if it does."""
    try:
        sock = sockets.connect(endpoint, settings, poller, _SECOND_LOOK, unseen=True)
    except OSError:
        return
    sock.close()
    raise OSError(EADDRNOTAVAIL, _ASTRAY)


def send_as_client(flow: Conversation, endpoint: Endpoint) -> sockets.Socket | None:
    """A non-blocking UDP socket that is connected to a server, from the client's address, and its port if that is free;
    None where that can't be, which is told. Raises OSError. Does not switch."""
    if why := objection(flow.address, endpoint):
        tell_own(flow.front.troubles, flow.address, endpoint, why)
        return None
    result = EAGAIN
    for port in (flow.client_port, 0):
        sock = kernel.datagram(endpoint.family)
        try:
            _let_be_others(sock)
            sock.bind((flow.address, port))
            result = kernel.connect(sock, endpoint)
        except OSError as error:
            result = error.errno or EADDRINUSE
        if not result:
            return sock
        sock.close()
    if result == EAGAIN:
        raise sockets.NoPortError(EADDRNOTAVAIL, os.strerror(EADDRNOTAVAIL))
    raise OSError(result, os.strerror(result))
