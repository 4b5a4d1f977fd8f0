"""The front socket: accepts clients and starts their sessions.

What a new connection costs is cut down: plain sockets, one system call more than accept itself, and the session's
greenlet started at once instead of through a queue.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from typing import Any

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from gpen.wire.acceptor import Acceptor
from gpen.wire.faults import Faults
from gpen.wire.greenlets import Greenlets
from gpen.wire.poller import EPOLLIN, Poller
from gpen.wire.sockets import Socket, bequeath

Begin = Callable[[Any, Any], Callable[[], None]]


class Listener(Acceptor):
    """Accepts while there is room; the rest waits in the kernel's backlog.

    ``endpoint`` is where ``sock`` listens; ``begin`` makes a session of a socket and its peer and returns what runs in
    its greenlet; ``no_room`` says that none may begin, ``shed`` ends what no client needs. Call ``resume`` when there
    is room again.
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
        super().__init__(sock, handle=begin)

    def set_listener(self, listener: Socket) -> None:
        self.family = listener.family
        self.address = listener.getsockname()
        self.socket = listener

    def start_accepting(self) -> None:
        """Watch the socket beside those of the sessions, so that it is seen while they keep the poller busy."""
        if self._watcher is None:
            fd = self.socket.fileno()
            try:
                self._poller.add(fd, EPOLLIN, lambda events: self._do_read())
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
        return self._no_room()

    def shed(self) -> bool:
        return self._shed()

    def tune(self, settings: Settings) -> None:
        """Take up changed settings."""
        self.socket.listen(settings.backlog)
        bequeath(self.socket, settings)
        self.max_accept = settings.multi_accept

    def empty(self) -> None:
        """Accept all that wait in the backlog now, room or not: closing the socket would reset them. Their sessions
        count at once, and run in the hub, which the caller is not."""
        while (accepted := self.do_read()) is not None:
            run = self._begun(*accepted)
            if run is not None:
                self.loop.run_callback(self._greenlets.start, run)

    def accept(self) -> tuple[Any, Any]:
        fd, peer = self.socket._accept()
        sock = _socket.socket(self.family, _socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
        return sock, peer

    def do_handle(self, *args: Any) -> None:
        try:
            self._greenlets.start(self._begin(*args))
        except Exception:
            self._not_begun(*args)

    def _begun(self, *args: Any) -> Callable[[], None] | None:
        """What runs a session that was made now; None when it could not be made."""
        try:
            return self._begin(*args)
        except Exception:
            self._not_begun(*args)
            return None

    def _not_begun(self, sock: Any, peer: Any) -> None:
        self._faults.tell("to begin a session")
        sock.close()
