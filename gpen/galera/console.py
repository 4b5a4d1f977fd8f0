"""The running watcher's socket: `gpen-galera status` and `move` ask there. A line in, a line of JSON out.

Each connection has a thread, which hands the line to the watcher's own thread and waits for the reply.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gpen.model.words import printable

REPLY_TIME = 60.0  # seconds that the watcher may take; a move ends before
LINE = 4096  # bytes at most

Answer = dict[str, Any]
Handle = Callable[[str, Callable[[Answer], None]], None]


class ConsoleError(Exception):
    """The socket can't be used; one line for the user."""


class Console:
    """Listens at a path for the owner only, and hands each line with a function for the reply to ``handle`` (from
    threads of its own)."""

    def __init__(self, path: str, handle: Handle) -> None:
        """Raises ConsoleError when the path can't be had, or another watcher has it."""
        self._path = path
        _clear(path)
        mask = os.umask(0o177)
        try:
            self._server = _Server(path, _Handler)
        except OSError as error:
            raise ConsoleError(f"{path}: {error.strerror or error}; give another --socket") from None
        finally:
            os.umask(mask)
        self._server.handle = handle
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="console", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        with suppress(OSError):
            os.unlink(self._path)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    handle: Handle


class _Handler(socketserver.StreamRequestHandler):
    timeout = 5.0
    server: _Server

    def handle(self) -> None:
        with suppress(OSError):  # who asks and goes away, or says nothing, needs no reply
            line = self.rfile.readline(LINE).decode(errors="replace").strip()
            replies: queue.SimpleQueue[Answer] = queue.SimpleQueue()
            self.server.handle(line, replies.put)
            try:
                answer = replies.get(timeout=REPLY_TIME)
            except queue.Empty:
                answer = {"error": f"the watcher did not answer within {REPLY_TIME:g} s"}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


def _clear(path: str) -> None:
    """Remove a socket that a watcher left when it was killed. Raises ConsoleError when one listens there."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            with suppress(OSError):
                os.unlink(path)
        return
    raise ConsoleError(f"{path}: another gpen-galera listens there; give this one another --socket")


def ask(path: str, line: str) -> Answer:
    """Send a line to the watcher that listens at ``path``, and return its answer. Raises ConsoleError."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(REPLY_TIME + 5.0)
            sock.connect(path)
            sock.sendall(line.encode() + b"\n")
            with sock.makefile() as replies:
                answer = json.loads(replies.readline())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConsoleError(f"{path}: {why}; does 'gpen-galera watch' run, with this --socket?") from None
    assert isinstance(answer, dict)
    return {name: _readable(value) for name, value in answer.items()}


def _readable(value: Any) -> Any:
    """What an answer holds, fit to be shown, whoever listens there."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_readable(each) for each in value]
    return {name: _readable(each) for name, each in value.items()} if isinstance(value, dict) else value
