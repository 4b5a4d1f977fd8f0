"""What clients and servers say to each other, as far as a balancer has to know it.

A session asks its Protocol who speaks first, whether a server's first bytes are a welcome, what a client says before it
gets a server, and what one is told that gets none. Everything else is bytes that pass. A further protocol is a file
beside this one and a row in protocols.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gpen.model.ending import Ending
from gpen.model.route import Asked
from gpen.model.settings import Settings


class Farewell(NamedTuple):
    """Why a client gets no server, or no answer to what it asked for."""

    ending: Ending
    address: str  # the client's
    others: int  # sessions that this address has beside this one
    waited: float  # seconds for a server
    problem: str  # why the last server that was tried could not be reached; empty when none was
    is_crowded: Callable[[], bool]  # whether all servers that could serve are full
    status: int  # what the protocol itself has refused the client with; 0 when it has not
    away: int  # seconds that its address has to wait, where it begins sessions too often


class Refused(Exception):
    """What a client says shall reach no server, or not to its end; ``status`` is its protocol's number for why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Opening:
    """What a client says before it gets a server. ``heard`` is all of it as it came."""

    __slots__ = ("heard",)

    state = "request"  # of a session until it is whole

    def __init__(self) -> None:
        self.heard = bytearray()

    @property
    def is_whole(self) -> bool:
        """Whether a server can be asked for."""
        raise NotImplementedError

    @property
    def asked(self) -> Asked:
        """What the client asks for by it."""
        raise NotImplementedError

    @property
    def misdirected(self) -> int:
        """The protocol's number for that nobody here has that."""
        raise NotImplementedError

    def seconds(self, settings: Settings) -> float:
        """How long it may take; 0: for ever."""
        raise NotImplementedError

    def late(self, seconds: float) -> Refused:
        """The refusal of one that takes longer."""
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        """This came next. Raises Refused."""
        raise NotImplementedError


class Protocol:
    """Bytes of which nothing is known: the client may speak first."""

    server_speaks_first = False
    client_asks = False  # and no server is chosen before
    is_followed = False  # whether more of it is known (wire/follower.py)
    first_bytes = 1  # so many of a server's first bytes are looked at, at most

    def is_whole(self, first: bytes) -> bool:
        """Whether so much of the server's first bytes is here that ``refusal`` can say what they are."""
        return bool(first)

    def refusal(self, first: bytes) -> str | None:
        """Why the server takes nobody, if its first bytes say so; None when they are a welcome."""
        return None

    def opening(self, address: str, scheme: str) -> Opening | None:
        """What reads what a client says before a server is asked for; None when no server has to wait for it.
        ``address`` is the client's, ``scheme`` http or https, as its connection is plain or TLS."""
        return None

    def ending_of(self, status: int) -> Ending:
        """How a session ends whose client was refused with this number."""
        return Ending.TLS

    def farewell(self, why: Farewell) -> bytes:
        """What a client is told that is turned away."""
        return b""


class ServerFirst(Protocol):
    """Bytes of which nothing is known but that the server speaks first (the setting greeting)."""

    server_speaks_first = True
