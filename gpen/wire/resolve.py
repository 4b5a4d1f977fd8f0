"""Names to addresses: with a time limit, beside the loop.

Numeric addresses are converted at once. Names of hosts go through gevent's resolver, which asks in a thread; names of
services come from /etc/services.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (getaddrinfo would load it when it is first asked, perhaps inside a chroot)
import socket

import gevent
from gevent.hub import get_hub

from gpen.model.address import Address, Endpoint, normalize


class ResolveError(Exception):
    """A name that is not known, or was not resolved in time: one line that names it.

    ``temporary``: the name service did not answer, so that the name may be right.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


def resolve(address: Address, seconds: float, datagrams: bool = False) -> tuple[Endpoint, ...]:
    """All endpoints of an address, IPv4 first, for TCP or UDP (``datagrams``). Switches greenlets unless the address is
    numeric.

    Raises ResolveError.
    """
    if address.path:
        return (Endpoint(socket.AF_UNIX, address.path, address.path, 0),)
    port = port_number(address, datagrams)
    numeric = _numeric(address.host, port)
    return (numeric,) if numeric else _named(address.host, port, seconds)


def prepare_lookups(seconds: float) -> None:
    """Load what lookups need, before a chroot hides it: modules, the system's libraries. Switches greenlets."""
    try:
        _named("localhost", 0, seconds)
    except ResolveError:
        pass  # nothing but the attempt is wanted


def port_number(address: Address, datagrams: bool = False) -> int:
    """The port as a number. Raises ResolveError for a service that is not known."""
    if isinstance(address.port, int):
        return address.port
    try:
        return socket.getservbyname(address.port, "udp" if datagrams else "tcp")
    except OSError:
        raise ResolveError(f"'{address.port}' is not a port, nor a service in /etc/services") from None


def _numeric(host: str, port: int) -> Endpoint | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        sockaddr = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
        return Endpoint(family, sockaddr, host, port)
    return None


def _named(host: str, port: int, seconds: float) -> tuple[Endpoint, ...]:
    try:
        with gevent.Timeout(seconds):
            found = get_hub().resolver.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except gevent.Timeout:
        raise ResolveError(f"can't resolve the name '{host}': no answer within {seconds:g} s", temporary=True) from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a host name"
        temporary = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        raise ResolveError(f"can't resolve the name '{host}': {reason}", temporary) from None
    endpoints = [Endpoint(family, sockaddr, normalize(str(sockaddr[0])), port)
                 for family, _, _, _, sockaddr in found if family in (socket.AF_INET, socket.AF_INET6)]
    if not endpoints:
        raise ResolveError(f"the name '{host}' has no IPv4 or IPv6 address")
    return tuple(sorted(endpoints, key=lambda endpoint: endpoint.family != socket.AF_INET))
