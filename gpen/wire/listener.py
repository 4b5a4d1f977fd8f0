"""The front socket: accepts clients and starts their sessions.

What a new connection costs is cut down: plain sockets, a loop of our own in the place of gevent's over those who wait,
and the session's greenlet started at once instead of through a queue.
"""

from __future__ import annotations

import _socket
import select
import sys
from collections.abc import Callable
from typing import Any

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from gpen.wire import kernel
from gpen.wire.acceptor import Acceptor
from gpen.wire.faults import Faults
from gpen.wire.greenlets import Greenlets
from gpen.wire.kernel import Handler
from gpen.wire.poller import EPOLLIN, Poller
from gpen.wire.sockets import Socket, bequeath

Accepted = tuple[Any, str, int]  # a socket, and the address and port at its other end
Begin = Callable[[Any, str, int], Callable[[], None] | None]
_WAITING = 24  # where tcp_info of a socket that listens has how many wait to be accepted: tcpi_unacked of linux/tcp.h


class Listener(Acceptor):
    """Accepts while there is room; the rest waits in the kernel's backlog.

    ``endpoint`` is where ``sock`` listens; ``begin`` makes a session of what was accepted and returns what runs in its
    greenlet, if anything does here; ``no_room`` says that none may begin, ``shed`` ends what no client needs. Call
    ``resume`` when there is room again.
    """

    def __init__(self, sock: Socket, endpoint: Endpoint, poller: Poller, multi_accept: int, greenlets: Greenlets,
                 begin: Begin, no_room: Callable[[], bool], shed: Callable[[], bool]) -> None:
        self.max_accept = multi_accept
        self._poller = poller
        self._begin = begin
        self._no_room = no_room
        self._shed = shed
        self._greenlets = greenlets
        self._faults = Faults()
        self.endpoint = endpoint
        self.bound_to = str(self.endpoint)
        super().__init__(sock, handle=lambda *accepted: None)  # gevent wants one; see Incoming

    def set_listener(self, listener: Socket) -> None:
        self.family = listener.family
        self.address = listener.getsockname()
        self.socket = listener

    def start_accepting(self) -> None:
        """Watch the socket beside those of the sessions, so that it is seen while they keep the poller busy."""
        if self._watcher is None:
            fd = self.socket.fileno()
            try:
                self._poller.add(fd, EPOLLIN, Incoming(self, self._begin, self._greenlets, self._no_room))
            except OSError as error:
                self._accept_later(error)
            else:
                self._watcher = fd

    def stop_accepting(self) -> None:
        if self._watcher is not None:
            self._poller.remove(self._watcher)
            self._watcher = None
        super().stop_accepting()

    @property
    def is_open(self) -> bool:
        """Whether the socket is."""
        return bool(self.socket.fileno() >= 0)

    def full(self) -> bool:
        return self.is_suspended or self._no_room()

    def shed(self) -> bool:
        return self._shed()

    def tune(self, settings: Settings) -> None:
        """Take up changed settings."""
        self.socket.listen(settings.backlog)
        bequeath(self.socket, settings)
        self.max_accept = settings.multi_accept

    def serve_by(self, begin: Begin, no_room: Callable[[], bool]) -> None:
        """From now on these begin sessions, and say that there is no room for one."""
        self._begin, self._no_room = begin, no_room
        if self._watcher is not None:
            self.stop_accepting()
            self.start_accepting()

    @property
    def waiting(self) -> int | None:
        """How many clients wait in the kernel to be accepted; None where it does not tell, as for a unix socket."""
        if self.family == _socket.AF_UNIX:
            return None
        told = self.socket.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _WAITING + 4)
        return int.from_bytes(told[_WAITING:], sys.byteorder)

    def has_waiting(self) -> bool:
        """Whether a client waits to be accepted."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def empty(self) -> None:
        """Accept all that wait in the backlog now, room or not: closing the socket would reset them. Their sessions
        count at once, and run in the hub, which the caller is not."""
        while (accepted := self.do_read()) is not None:
            run = self._begun(*accepted)
            if run is not None:
                self.loop.run_callback(self._greenlets.start, run)

    def accept(self) -> Accepted | None:
        return kernel.accept(self.socket)

    def _begun(self, sock: Any, address: str, port: int) -> Callable[[], None] | None:
        """What runs a session that was made now; None when it could not be made."""
        try:
            return self._begin(sock, address, port)
        except Exception:
            self._not_begun(sock)
            return None

    def _not_begun(self, sock: Any) -> None:
        self._faults.tell("to begin a session")
        sock.close()


class Incoming(Handler):
    """What the poller tells of a listening socket: clients are accepted, as many as come and may at once. As by
    ``Acceptor.do_read``, which is not compiled, and would take 1,000 of a connection's 53,000 instructions more."""

    __slots__ = ("_begin", "_greenlets", "_listener", "_no_room", "_sock")

    def __init__(self, listener: Listener, begin: Begin, greenlets: Greenlets, no_room: Callable[[], bool]) -> None:
        self._listener = listener
        self._sock = listener.socket
        self._begin = begin
        self._greenlets = greenlets
        self._no_room = no_room

    def ready(self, events: int) -> None:
        listener = self._listener
        for _ in range(listener.max_accept):
            if self._no_room():
                listener.stop_accepting()
                return
            try:
                accepted = kernel.accept(self._sock)
            except OSError as error:
                listener.not_accepted(error)
                return
            if accepted is None:
                return
            listener.is_short = False
            sock, address, port = accepted
            try:
                run = self._begin(sock, address, port)
                if run is not None:
                    self._greenlets.start(run)
            except Exception:
                listener._not_begun(sock)
