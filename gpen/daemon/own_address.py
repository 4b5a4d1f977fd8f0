"""gpen as its own server: one client would take all sessions, each of them the client of the next.

Noticed where a server's address is the listener's own, in whatever notation or by whatever name. A loop through two
balancers is not.
"""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable, Iterable
from typing import Any

from gpen.control.script import Errors, ScriptError
from gpen.daemon.hostnames import Place, called
from gpen.model.address import Endpoint
from gpen.model.value_types import listener_prefix
from gpen.wire.sockets import has_address

_LOOPBACK = {4: _socket.inet_aton("127.0.0.1"), 16: _socket.inet_pton(_socket.AF_INET6, "::1")}  # by length
_MAPPED = bytes(10) + b"\xff\xff"  # of an IPv4 address in an IPv6 one (RFC 4291, section 2.5.5.2)


def is_own(endpoint: Endpoint, listening: Endpoint, locate: Callable[[str], str] = str) -> bool:
    """Whether who connects to ``endpoint`` comes to the listener. ``locate`` gives the name of the listener's file as
    it is seen from within the chroot. Does not switch."""
    families = (endpoint.family, listening.family)
    if _socket.AF_UNIX in families:
        return families == (_socket.AF_UNIX, _socket.AF_UNIX) and _is_same_file(endpoint.host, locate(listening.host))
    if not endpoint.port == listening.port != 0:
        return False
    host, own = _packed(endpoint), _packed(listening)
    if not any(own):
        return len(own) >= len(host) and has_address(endpoint.family, endpoint.sockaddr)
    if not any(host):
        host = _LOOPBACK[len(host)]  # where the kernel connects to then
    return host == own and _scope(endpoint) in (0, _scope(listening))


def refuse(places: Iterable[Place], listening: Callable[[Place], Iterable[tuple[str, Endpoint]]],
           origin_of: Callable[[int | str], str], locate: Callable[[str], str] = str) -> None:
    """Raises ScriptErrors for each server that is a listener which uses it, and nothing else. ``places`` are their
    numbers or special names, their addresses, and what these mean; ``listening`` gives the listeners who reach it so,
    their names and where they are, ``origin_of`` says where its address was given."""
    errors = Errors()
    told: set[int | str] = set()
    for place in places:
        if not place.endpoints or place.address.is_none or place.label in told:
            continue
        for listener, own in listening(place):
            if all(is_own(endpoint, own, locate) for endpoint in place.endpoints):
                address, first = place.address, place.endpoints[0]
                means = "" if str(first) == str(address) else f", which is {first},"
                scope = listener_prefix(listener) if place.way[1] is not None else ""  # by a port of its own there
                errors.add(ScriptError(f"{scope}{called(place.label)}: {address}{means} is where gpen itself listens: "
                                       "it would be its own client; give the address of a server",
                                       "" if scope else origin_of(place.label)))
                told.add(place.label)
                break
    errors.raise_all()


def _packed(endpoint: Endpoint) -> bytes:
    packed = _socket.inet_pton(endpoint.family, endpoint.sockaddr[0].partition("%")[0])
    return packed[12:] if packed[:12] == _MAPPED else packed


def _scope(endpoint: Endpoint) -> Any:
    return endpoint.sockaddr[3] if len(endpoint.sockaddr) > 3 else 0


def _is_same_file(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(path) == os.path.realpath(other)
