"""The control socket: a gevent StreamServer; a line comes in, a reply goes out.

What a line means is handed in as a function. A client may send several lines on one connection. It is closed at the
end of its input, or when after a reply no further line comes at once: pen's penctl sends one line and then waits for
the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import socket as gsocket
from gevent.server import StreamServer

log = logging.getLogger("gpen")

MAX_LINE = 8192
MAX_CLIENTS = 50
FIRST_LINE_SECONDS = 30.0
NEXT_LINE_SECONDS = 0.2
REPLY_SECONDS = 30.0

Execute = Callable[[str, str], str]


class ControlServer:
    """Serves control clients, each in its greenlet, so that a silent, slow or endless one delays nobody else."""

    def __init__(self, sock: Any, execute: Execute, welcome: Callable[[str], str | None]) -> None:
        """``execute`` takes a line and the client's address and returns the reply; ``welcome`` says why an address is
        refused, if it is. An address is empty for a client of a unix socket."""
        self._execute = execute
        self._welcome = welcome
        listener = gsocket.socket(sock.family, sock.type, fileno=sock.detach())
        self._server = StreamServer(listener, self._serve, spawn=MAX_CLIENTS)

    def start(self) -> None:
        """Begin to accept."""
        self._server.start()

    def close(self) -> None:
        """Stop accepting; clients that are being answered get the rest of their reply."""
        self._server.close()

    def _serve(self, sock: Any, peer: Any) -> None:
        address = peer[0] if isinstance(peer, tuple) else ""
        try:
            refusal = self._welcome(address)
            if refusal is not None:
                self._send(sock, refusal)
                return
            for line in self._lines(sock):
                reply = self._execute(line, address)
                if reply:
                    self._send(sock, reply)
        except OSError as error:
            log.debug("control client %s: %s", address or "on the unix socket", error)
        finally:
            sock.close()

    def _lines(self, sock: Any) -> Iterator[str]:
        """Complete lines, and what stands before the end of input. Switches greenlets."""
        buffered, patience = b"", FIRST_LINE_SECONDS
        while True:
            sock.settimeout(patience)
            try:
                piece = sock.recv(MAX_LINE)
            except TimeoutError:
                return
            buffered += piece
            *lines, buffered = buffered.split(b"\n")
            if not piece and buffered:
                lines, buffered = [*lines, buffered], b""
            for line in lines:
                yield line.decode("utf-8", "replace").rstrip("\r")
                gevent.sleep(0)
                patience = NEXT_LINE_SECONDS
            if not piece:
                return
            if len(buffered) > MAX_LINE:
                self._send(sock, f"error: the line is longer than {MAX_LINE} bytes\n")
                return

    @staticmethod
    def _send(sock: Any, reply: str) -> None:
        sock.settimeout(REPLY_SECONDS)
        sock.sendall(reply.encode("utf-8", "replace"))
