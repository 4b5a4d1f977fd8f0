"""The front socket: accepts clients and starts their sessions.

A gevent StreamServer, with what a new connection costs cut down: plain sockets, one system call more than accept
itself, and the session's greenlet started at once instead of through a queue.
"""

from __future__ import annotations

import _socket
import errno
import logging
from collections.abc import Callable
from typing import Any

from gevent.server import StreamServer

from gpen.wire.sock import SHORTAGES, Socket, endpoint_of
from gpen.wire.workers import Workers

log = logging.getLogger("gpen")

_SHORTAGE_PAUSE = 0.5

Serve = Callable[[Any, Any], Callable[[], None]]


class Listener(StreamServer):
    """Accepts while there is room; the rest waits in the kernel's backlog.

    The socket and watcher attributes are gevent's (baseserver.py), which calls ``full``, ``do_read`` and
    ``do_handle`` in the hub. ``begin`` makes a session of a socket and its peer and returns what runs in its
    greenlet; ``no_room`` says that none may begin. Call ``resume`` when there is room again.
    """

    socket: Any
    _watcher: Any
    _timer: Any

    def __init__(self, sock: Socket, multi_accept: int, workers: Workers, begin: Serve,
                 no_room: Callable[[], bool]) -> None:
        self.max_accept = multi_accept
        self._begin = begin
        self._no_room = no_room
        self._short = False
        self._shortage_over: Any = None
        self._workers = workers
        self.bound_to = endpoint_of(sock)
        super().__init__(sock, handle=begin)

    def set_listener(self, listener: Socket) -> None:
        self.family = listener.family
        self.address = listener.getsockname()
        self.socket = listener

    def full(self) -> bool:
        return self._no_room()

    def resume(self) -> None:
        """Accept again, if there is room and the listener is open."""
        if self._watcher is None and self.started and not self._no_room():
            self.start_accepting()

    def empty(self) -> None:
        """Accept all that wait in the backlog now, room or not: closing the socket would reset them."""
        while (accepted := self.do_read()) is not None:
            self.do_handle(*accepted)

    def do_read(self) -> Any:
        try:
            fd, peer = self.socket._accept()
            self._short = False
            sock = _socket.socket(self.family, _socket.SOCK_STREAM, 0, fd)
            sock.setblocking(False)
        except BlockingIOError:
            return None
        except OSError as error:
            self._not_accepted(error)
            return None
        return sock, peer

    def do_handle(self, *args: Any) -> None:
        self._workers.start(self._begin(*args))

    def _not_accepted(self, error: OSError) -> None:
        """A client that left before it was accepted is no matter; out of descriptors, wait a little."""
        if error.errno not in SHORTAGES:
            if error.errno != errno.ECONNABORTED:
                log.warning("accept failed: %s", error.strerror)
            return
        if not self._short:
            log.warning("can't accept clients for now: %s; they wait in the kernel", error.strerror)
            self._short = True
        self.stop_accepting()
        self._timer = self.loop.timer(_SHORTAGE_PAUSE)
        self._timer.start(self.resume)
