"""An HTTP server for a few clients: gevent's, with limits.

A client that takes too long, or has to go, finds its connection shut: gevent's handler takes an exception that is
thrown into it for a fault of the application, tells a traceback and goes on.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException
from socket import IPPROTO_TCP, SHUT_RD, SHUT_RDWR, TCP_NODELAY
from typing import Any

from gevent import socket as gsocket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from gpen.model.address import normalize
from gpen.wire.acceptor import Acceptor
from gpen.wire.pacing import Pacer

log = logging.getLogger("gpen")

MOST_CLIENTS = 64
MOST_REQUEST = 65_536  # bytes of a request, with its body
PATIENCE = 60.0  # seconds for a request from when it is awaited, and for its answer
# when there are so many clients that others wait in the kernel
REQUEST_SECONDS = 1.0
ANSWER_SECONDS = 5.0
LOOK_SECONDS = 0.25

Application = Callable[..., Iterable[bytes]]


class _Bounded:
    """What a client sends, at most MOST_REQUEST bytes a request: more raises OSError."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = 0

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def begin(self) -> None:
        """Another request is awaited."""
        self._left = MOST_REQUEST

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(size))

    def readline(self, size: int = MOST_REQUEST) -> bytes:
        return self._counted(self._file.readline(size))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.EMSGSIZE, f"the request is longer than {MOST_REQUEST} bytes")
        return data


class _Handler(WSGIHandler):
    """One client. Ends of connections, and times out: no fault of ours, so nobody needs to know."""

    ignored_socket_errors = (*WSGIHandler.ignored_socket_errors, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

    rfile: Any
    server: Any

    def __init__(self, sock: Any, address: Any, server: WebServer) -> None:
        super().__init__(sock, address, server)
        self._connection = sock._sock  # who waits for gevent's own is told of a closed descriptor when it is shut
        self.rfile = _Bounded(self.rfile)
        self.since = time.monotonic()  # when the request was awaited, or its answer began
        self._is_asked = False  # a request has come, or begun to
        self._is_new = True  # none has come yet
        self._is_answering = False
        self._is_last = False

    def handle(self) -> None:
        try:
            super().handle()
        except OSError as error:  # of an answer that tells that the request was none
            self.log_error(str(error))

    def handle_one_request(self) -> Any:
        self.since, self._is_asked, self._is_answering = time.monotonic(), False, False
        self.server.pacer.pause()
        self.rfile.begin()
        return super().handle_one_request()

    def read_requestline(self) -> str:
        line: str = super().read_requestline()
        self._is_asked, self._is_new = True, False
        return line

    def read_request(self, raw_requestline: str) -> Any:
        """Raises ValueError for what is no request."""
        try:
            is_read = super().read_request(raw_requestline)
        except (HTTPException, IndexError, OSError) as error:
            raise ValueError(str(error)) from None
        self.since, self._is_answering = time.monotonic(), True
        if self._is_last or "transfer-encoding" in self.headers or (self.content_length or 0) > MOST_REQUEST:
            self.close_connection = True  # what follows such a body can't be found
        return is_read

    def log_error(self, msg: str, *args: object) -> None:
        """Whoever can connect can send nonsense: nobody needs to know."""
        log.debug("HTTP client %s: %s", self.client_address, msg % args if args else msg)

    def is_late(self, now: float, others_wait: bool) -> bool:
        """Whether it has had its time."""
        patience = (ANSWER_SECONDS if self._is_answering else REQUEST_SECONDS) if others_wait else PATIENCE
        return now - self.since >= patience

    def awaits_answer(self, now: float) -> bool:
        """Whether the client has asked, or has just come to."""
        return self._is_asked or (self._is_new and now - self.since < REQUEST_SECONDS)

    def cut(self) -> None:
        """End the connection. Does not switch."""
        with suppress(OSError):
            self._connection.shutdown(SHUT_RDWR)

    def part(self) -> None:
        """End the connection as soon as what the client has asked by now, or came for, is answered. Does not switch."""
        self._is_last = self.close_connection = True
        if not (self._is_asked or self._is_new):
            with suppress(OSError):
                self._connection.shutdown(SHUT_RD)  # what has come can still be read


class WebServer(Acceptor, WSGIServer):
    """Serves a WSGI application, each client in its greenlet; more than MOST_CLIENTS wait in the kernel, and not for
    long for those that say or read nothing."""

    def __init__(self, sock: Any, application: Application, is_welcome: Callable[[str], bool]) -> None:
        """``is_welcome`` says whether a client of this address is answered; it is empty for one of a unix socket."""
        listener = gsocket.socket(sock.family, sock.type, fileno=sock.detach())
        self._clients = Pool(MOST_CLIENTS)
        self._handlers: dict[_Handler, None] = {}
        self._is_welcome = is_welcome
        self.pacer = Pacer()  # one for all: many clients together make sessions wait no longer than one does
        super().__init__(listener, application, spawn=self._clients, log=None, error_log=log, handler_class=_Handler,
                         environ={"SERVER_NAME": "gpen"})  # else gevent asks name servers, and waits for them
        self._clock = self.loop.timer(LOOK_SECONDS, LOOK_SECONDS)

    def handle(self, sock: Any, address: Any) -> None:
        """A client has come."""
        if isinstance(address, tuple):
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # else a piece of an answer waits for the client's word on one
            address = normalize(address[0]), address[1]
        if not self._is_welcome(address[0] if isinstance(address, tuple) else ""):
            return
        handler = _Handler(sock, address, self)
        if not self._handlers:
            self._clock.start(self._look)
        self._handlers[handler] = None
        try:
            handler.handle()
        finally:
            del self._handlers[handler]
            if not self._handlers:
                self._clock.stop()

    def _look(self) -> None:
        """End those that take too long."""
        now, others_wait = time.monotonic(), self._clients.full()
        for handler in self._handlers:
            if handler.is_late(now, others_wait):
                handler.cut()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return int(self.socket.fileno())

    @property
    def is_answering(self) -> bool:
        """Whether a client waits for an answer, or the rest of one."""
        now = time.monotonic()
        return any(handler.awaits_answer(now) for handler in self._handlers)

    def dismiss(self) -> None:
        """End the connections of all clients, once they are answered: they shall come again, and may find another
        server. Does not switch."""
        for handler in self._handlers:
            handler.part()
