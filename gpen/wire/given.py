"""Sockets that somebody else has bound for the listeners: what starts services, or the gpen that was there before."""

from __future__ import annotations

import _socket
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from gpen.model.address import UNSPECIFIED, Address, Endpoint
from gpen.wire.sockets import ListenError, Socket, endpoint_of, expect_clients

log = logging.getLogger("gpen")

_KINDS = {_socket.SOCK_STREAM: "tcp", _socket.SOCK_DGRAM: "udp"}


class Given(NamedTuple):
    """A socket, and what who gave it calls it; ``path`` is where a unix socket is, if that is not its name;
    ``is_wider``: it is at [::], and was taken for 0.0.0.0 before."""

    name: str
    sock: Socket
    path: str = ""
    is_wider: bool = False

    def __str__(self) -> str:
        return f"'{self.name}' at {_where(self.sock)}"


class GivenSockets:
    """What listeners take instead of binding: ``named`` those for the listener of that name, which have to fit;
    ``others`` whoever wants their places. ``exact``: nothing but the very place fits; else [::] does for 0.0.0.0 too,
    for that is where systemd binds a port without a host, what nobody wants is told, and what is for one listener is
    for no other. ``taken`` is what those are called that were."""

    def __init__(self, named: Iterable[Given] = (), others: Iterable[Given] = (), exact: bool = False) -> None:
        self._named: dict[str, list[Given]] = {}
        for given in named:
            self._named.setdefault(given.name, []).append(given)
        self._others = list(others)
        self._exact = exact
        self.taken: list[str] = []

    def give_to(self, listener: str, given: Sequence[Given]) -> None:
        """These are for that listener, whatever they are called."""
        self._named.setdefault(listener, []).extend(given)

    def take(self, listener: str, address: Address, endpoint: Endpoint, datagrams: bool) -> Socket | None:
        """The socket of a listener that is wanted there, as one that gpen has bound itself; None when there is none.
        Raises ListenError when those that are for this listener don't fit."""
        own = self._named.get(listener, [])
        is_told = endpoint.port or endpoint.family == _socket.AF_UNIX  # any port is another's only by its name
        for candidates in (own, self._others, *(self._named.values() if self._exact and is_told else ())):
            for given in candidates:
                if _fits(given, endpoint, datagrams, self._exact):
                    candidates.remove(given)
                    self.taken.append(given.name)
                    return _prepared(given.sock, datagrams and not self._exact)
        if own and not self._exact:
            kind = _KINDS[_socket.SOCK_DGRAM if datagrams else _socket.SOCK_STREAM]
            raise ListenError(f"can't listen on {address}: what was given for it is {own[0]}, and wanted is one at "
                              f"{_shown(kind, endpoint)}")
        return None

    def take_frames(self, listener: str, interface: str) -> Socket | None:
        """The socket of a gpen before that gives the frames of an interface to the listener of this name; None when
        there is none."""
        own = self._named.get(listener, [])
        for given in own:
            if given.sock.family == _socket.AF_PACKET and given.sock.getsockname()[0] == interface:
                own.remove(given)
                self.taken.append(given.name)
                return _prepared(given.sock, is_raw=False)
        return None

    def dismiss(self) -> None:
        """All listeners have theirs: tell what nobody has taken, and close it."""
        for given in self._left():
            if not self._exact:
                log.warning("%s was given, and no listener is there: closed", given)
        self.close()

    def close(self) -> None:
        """Close what nobody has taken."""
        for given in self._left():
            given.sock.close()
        self._named.clear()
        self._others.clear()

    def _left(self) -> Iterator[Given]:
        return chain(*self._named.values(), self._others)


def _fits(given: Given, endpoint: Endpoint, datagrams: bool, exact: bool) -> bool:
    """Whether a socket is what a listener there needs."""
    sock = given.sock
    if sock.type != (_socket.SOCK_DGRAM if datagrams else _socket.SOCK_STREAM) or not (datagrams or _listens(sock)):
        return False
    if _socket.AF_UNIX in (sock.family, endpoint.family):
        return bool(sock.family == endpoint.family and _is_same_path(given.path or sock.getsockname(), endpoint.host))
    if sock.family not in (_socket.AF_INET, _socket.AF_INET6):
        return False
    there = endpoint_of(sock)
    if endpoint.port not in (0, there.port):
        return False
    if sock.family == endpoint.family:
        return bool(there.sockaddr[:1] + there.sockaddr[2:] == endpoint.sockaddr[:1] + endpoint.sockaddr[2:])
    return (given.is_wider or not exact) and (endpoint.host, there.host) == UNSPECIFIED and not sock.getsockopt(
        _socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY)


def _listens(sock: Socket) -> bool:
    return bool(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))


def _is_same_path(name: object, path: str) -> bool:
    """Whether a unix socket's name, which need be none in the file system, is a path."""
    try:
        return isinstance(name, str) and (name == path or os.path.samefile(name, path))
    except OSError:
        return False


def _prepared(sock: Socket, is_raw: bool) -> Socket:
    """A socket with all that binding it would have set; the backlog and what the settings ask for are tuned later. One
    for datagrams that is ``raw`` lacks more; what a gpen has bound as root may have more room than we could give it."""
    sock.setblocking(False)
    os.set_inheritable(sock.fileno(), False)
    if is_raw:
        expect_clients(sock, endpoint_of(sock).host)
    return sock


def _where(sock: Socket) -> str:
    """What a socket is, and where."""
    if sock.family not in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX):
        return f"no internet address (family {int(sock.family)})"
    kind = _KINDS.get(sock.type, "a socket of another type")
    if sock.type == _socket.SOCK_STREAM and not _listens(sock):
        kind = "tcp, but not listening"
    name = sock.getsockname()
    if isinstance(name, bytes):  # of the abstract kind
        return _shown(kind, "@" + os.fsdecode(name[1:]))
    return _shown(kind, endpoint_of(sock))


def _shown(kind: str, place: object) -> str:
    return f"{place} ({kind})"
