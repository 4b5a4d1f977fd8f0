"""A TCP session in a worker: the same as everywhere, but what is one for all workers is asked of the main process.

The records are told of in remote.py. What is local here (servers, clients, leases) are stand-ins that nobody counts by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gevent.hub import get_hub

from gpen.model.client import Client
from gpen.model.ending import BY_WORD, Ending
from gpen.model.lease import Lease
from gpen.model.route import Key
from gpen.model.selector import Selector
from gpen.model.server import Member, Server
from gpen.wire import kernel
from gpen.wire.conversation import Condemned, Front, Stop
from gpen.wire.relay import End
from gpen.wire.remote import Admission, Failure
from gpen.wire.server_tls import ServerStream
from gpen.wire.session import Session
from gpen.wire.sockets import cause_of
from gpen.wire.tls import Terminator

_DENIED = Ending.DENIED.value

Place = tuple[Any, ...]


class Main(Protocol):
    """The main process, as a session needs it."""

    def tell(self, *record: Any) -> None:
        """Send a record. Does not switch."""

    def mention(self, *record: Any) -> None:
        """Send it with the next, or soon. Does not switch."""

    def hurry(self) -> None:
        """Send all that was said by now, at once. Does not switch."""

    def member(self, name: str, number: int | None, endpoints: tuple[Any, ...]) -> Member:
        """What stands here for a server."""


class RemoteLease(Lease):
    """A place on a server that the main process counts. ``number`` is which one it is of this session's."""

    __slots__ = ("_connected", "number")

    def __init__(self, selector: Selector, member: Member, number: int, connected: Callable[[], object]) -> None:
        Lease.__init__(self, selector, member)
        self.number = number
        self._connected = connected

    def connected(self) -> None:
        Lease.connected(self)  # super() is not for what C calls
        self._connected()


class WorkerSession(Session):
    """One TCP client with its server, whose place the main process chooses."""

    __slots__ = ("_admission", "_introduces_itself", "_is_limited", "_is_news", "_is_watched", "_last_failure", "_main",
                 "_place", "_place_endpoints", "_place_name", "_servers_are_full")

    def __init__(self, id: int, front: Front, sock: Any, address: str, port: int, main: Main) -> None:
        Session.__init__(self, id, front, sock, address, port)
        self._main = main
        self._introduces_itself = False
        self._admission: Admission | None = None
        self._place: Place | None = None
        self._place_endpoints: tuple[Any, ...] = ()
        self._place_name: str | None = None
        self._last_failure: Failure | None = None
        self._is_limited = False  # whether somebody may wait for its place
        self._is_news = False  # when its server is reached
        self._is_watched = False  # its client, while it waits
        self._servers_are_full = False

    def prepare(self, accepted: float, introduces_itself: bool, admission: Admission | None, place: Place | None,
                ) -> None:
        """What the main process knows of it: since when it is, whether a proxy tells who the client is; whether that is
        let in; and its place."""
        self._accepted = accepted
        self._introduces_itself = introduces_itself
        self._admission = admission
        self._place = place

    def _ask_main(self, word: str, *about: Any) -> Any:
        """The answer of the main process. Switches greenlets."""
        self._main.tell(word, self.id, *about)
        return get_hub().switch()

    # --- what the main process says -------------------------------------------------------------------------------

    def answered(self, value: Any) -> None:
        """To what was asked."""
        if self._greenlet is not None and not self.finished:
            self._greenlet.switch(value)

    def held(self) -> None:
        """It takes a while until a place is free."""
        if self._greenlet is not None and not self.finished and not self._is_watched:
            self._held = self._held or kernel.monotonic()
            self._is_watched = True
            self._watch_client()

    def depart(self, place: int, ending: Ending | None) -> None:
        """Leave this place, if it has it still."""
        lease = self.lease
        if isinstance(lease, RemoteLease) and lease.number == place:
            self._main.hurry()  # with what was but mentioned: that it is connected
            self.leave(lease, ending)

    def part_from(self, place: int, ending: Ending) -> None:
        """End when it is quiet, if it has this place still, or is about to get it."""
        lease = self.lease
        coming = self._place[0] if self._place is not None else 0
        if place == (lease.number if isinstance(lease, RemoteLease) else coming):
            self.end_when_quiet(ending)

    # --- its life -------------------------------------------------------------------------------------------------

    def _announce(self) -> bool:
        return not self._introduces_itself or super()._announce()

    def _shake_hands(self, tls: Terminator) -> bool:
        is_secured = super()._shake_hands(tls)
        if self.secured is not None:
            self._main.tell("has_secured", self.id, *self.secured)
        return is_secured

    def _admit(self) -> bool:
        Session._admit(self)
        if self._admission is None:
            self._admission = self._ask_main("admit", self.address, self._port, tuple(self.tlvs))
        return bool(self._admission[0] == _DENIED)

    def _limit(self) -> Ending | None:
        word = self._admission[0] if self._admission is not None else ""
        return BY_WORD[word] if word and word != _DENIED else None

    def _seconds_away(self) -> int:
        return self._admission[2] if self._admission is not None else 0

    def _follow(self, key: Key) -> None:
        self._main.tell("routed", self.id, *key)

    @property
    def _others(self) -> int:
        return self._admission[1] if self._admission is not None else 0

    def _reserve(self, denied: bool, client: Client, tried: list[Server]) -> Lease | None:
        place, self._place = self._place, None
        failure, self._last_failure = self._last_failure, None
        if place is None:
            try:
                place = self._ask_main("reserve", failure)
            finally:
                if self._is_watched:
                    self._is_watched = False
                    self._ignore_client()
        assert place is not None
        if not place[0]:
            _, ending, self._servers_are_full = place
            raise Stop(BY_WORD[ending])
        number, self._is_limited, self._is_news, name, label, self._place_endpoints, self._place_name = place
        return RemoteLease(self._front.selector, self._main.member(name, label, self._place_endpoints), number,
                           self._has_connected)

    def _name_for(self, lease: Lease) -> str | None:
        return self._place_name

    def _count_handshake(self, stream: ServerStream) -> None:
        self._main.mention("server_secured", self.id, stream.is_resumed, *stream.secured)

    def _refused_by_server(self, cause: str) -> None:
        self._main.tell("refused", self.id, cause)

    def _has_connected(self) -> None:
        index = self._place_endpoints.index(tuple(self.endpoint or ()))
        tell = self._main.tell if self._is_news else self._main.mention
        tell("reached", self.id, self.connected, index)

    def _unreached(self, lease: Lease, error: OSError | Condemned) -> Ending:
        """The verdict is the main process's, when it is asked for another place."""
        self.lease = None
        lease.release()
        if isinstance(error, Condemned):
            self._last_failure = None, "", True
        else:
            self._problem = cause_of(error)
            self._last_failure = error.errno, error.strerror or str(error), False
        return Ending.NO_SERVER

    def parted(self, end: End) -> None:
        lease = self.lease
        is_last = end is self.up and lease is not None and lease.is_open
        Session.parted(self, end)
        if is_last:
            self._main.tell("parted", self.id)

    def _settle_accounts(self) -> None:
        super()._settle_accounts()
        if self._lingers or self._is_limited or self._front.settings.client_max:
            self._main.tell("settled", self.id, self.finished, *self.volumes())
            self._main.hurry()

    def _is_crowded(self) -> bool:
        return self._servers_are_full
