"""The socket of a program that watches, where `gpen-galera status`, `move` and `adopt` ask, and `gpen-discover status`:
a line in, a line of JSON out.

Each connection has a thread, which hands the line to the watcher's own thread and waits for the reply.
"""

from __future__ import annotations

import errno
import io
import json
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gpen.clients import Clients, Handler, InTime
from gpen.files import Entry
from gpen.model.text import printable

REPLY_TIME = 60.0  # seconds that the watcher may take; a move ends before
LINE = 4096  # bytes at most
LONGEST = 1 << 24  # bytes of an answer

Answer = dict[str, Any]
Handle = Callable[[str, Callable[[Answer], None]], None]


class ConsoleError(Exception):
    """The socket can't be used; one line for the user."""


class Console:
    """Listens at a path for the owner only, and hands each line with a function for the reply to ``handle`` (from
    threads of its own)."""

    def __init__(self, path: str, handle: Handle, program: str) -> None:
        """``program`` is whose console it is. Raises ConsoleError when the path can't be had, or another watcher has
        it."""
        self._path = path
        self._server = _Server(path, _Handler, bind_and_activate=False)
        try:
            with Entry(path, follow=False) as entry:
                entry.bind(self._server.socket, 0o600)
                self._made = entry.status()
            self._server.server_activate()
        except OSError as error:
            self._server.server_close()
            why = f"{error.strerror}; give another --socket"
            if error.errno == errno.ENOENT:
                why = f"{error.strerror}; make the directory, or give another --socket"
            if error.errno == errno.EADDRINUSE:
                why = f"another {program} listens there; give this one another --socket"
            raise ConsoleError(f"{path}: {why}") from None
        self._server.handle = handle
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="console", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        with suppress(OSError), Entry(self._path, follow=False) as entry:
            if self._made is not None:
                entry.remove(self._made)


class _Server(Clients):
    address_family = socket.AF_UNIX
    handle: Handle


class _Handler(Handler):
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


def ask(path: str, line: str, command: str) -> Answer:
    """Send a line to the watcher that listens at ``path``, which runs by ``command``, and return its answer. Raises
    ConsoleError."""
    who = f"does '{command}' run, with this --socket?"
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(REPLY_TIME + 5.0)
            sock.connect(path)
            sock.sendall(line.encode() + b"\n")
            answer = json.loads(io.BufferedReader(InTime(sock, REPLY_TIME + 5.0)).readline(LONGEST))
    except OSError as error:
        if error.errno == errno.EACCES:
            who = f"run this as root, or as the user of '{command}'"
        raise ConsoleError(f"{path}: {error.strerror or error}; {who}") from None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ConsoleError(f"{path}: what answers there is no watcher; {who}")
    return {name: _readable(value) for name, value in answer.items()}


def _readable(value: Any) -> Any:
    """What an answer holds, fit to be shown, whoever listens there."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_readable(each) for each in value]
    return {name: _readable(each) for name, each in value.items()} if isinstance(value, dict) else value
