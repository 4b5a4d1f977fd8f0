"""A server that many may ask at a time: each has a thread, there is a limit of them, and of the time for a request.

A client that says a byte now and then keeps nobody out: when all places are taken, the one that has been there for
longest gives way, for who asks in earnest has had its answer by then.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import socketserver
import threading
import time
from typing import Any

MOST = 64  # clients at a time
REQUEST_TIME = 5.0  # seconds for a whole request
PAUSE = 0.1  # seconds until the next attempt where no descriptor is free
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Clients(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The server, as ``socketserver`` has them."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    most = MOST

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._present: dict[socket.socket, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        super().__init__(*arguments, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next client. Raises OSError."""
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in SCARCE:
                time.sleep(PAUSE)  # it waits there still, and would be found again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._present) >= self.most:
                oldest = next(iter(self._present))
                del self._present[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._present[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._present.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or says what nobody understands, costs itself alone."""


class InTime(io.RawIOBase):
    """What the other side sends, within so many seconds from now. Its reads raise TimeoutError afterwards."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._socket = sock
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


class Handler(socketserver.StreamRequestHandler):
    """Talks with one client; ``rfile`` is read in time."""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(InTime(self.connection, REQUEST_TIME))
