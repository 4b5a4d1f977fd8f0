"""The control socket: a gevent StreamServer; a line comes in, a reply goes out.

What a line means is handed in as a function. A client may send several lines on one connection. It is closed at the
end of its input, or with the reply to the last line that has come: pen's penctl sends one line and then waits for the
end. A client that will send more later asks for it to stay open.
"""

from __future__ import annotations

import _socket
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket as gsocket

from gpen.model.address import normalize
from gpen.model.text import printable
from gpen.wire.acceptor import Acceptor
from gpen.wire.pacing import Pacer

log = logging.getLogger("gpen")

MAX_LINE = 8192
MAX_WAITING = 50
LINE_SECONDS = 30.0  # for a line, from when it is awaited or has begun
STAY_SECONDS = 600.0
LATE_SECONDS = 0.005  # what was sent before our reply may come after it: by a client that was not scheduled, or so far
REPLY_SECONDS = 30.0
PARTING_SECONDS = 1.0

Execute = Callable[[str, str], Iterable[str]]


class ControlServer:
    """Serves control clients, each in its greenlet, so that a silent, slow or endless one delays nobody else.

    When too many of them neither speak nor read, the one that we have waited for longest must go for the next one.
    """

    def __init__(self, sock: Any, execute: Execute, stays: Callable[[str], bool],
                 welcome: Callable[[str], str | None]) -> None:
        """``execute`` takes a line and the client's address and returns the reply in pieces; ``stays`` says whether by
        this line a client asks to stay; ``welcome`` says why an address is refused, if it is. An address is empty for a
        client of a unix socket."""
        self._execute = execute
        self._stays = stays
        self._welcome = welcome
        listener = gsocket.socket(sock.family, sock.type, fileno=sock.detach())
        self._server = Acceptor(listener, self._serve)
        self._waiting: dict[Any, None] = {}

    def start(self) -> None:
        """Begin to accept."""
        self._server.start()

    def close(self) -> None:
        """Stop accepting; clients that are being answered get the rest of their reply."""
        self._server.close()

    def _serve(self, sock: Any, peer: Any) -> None:
        address = normalize(peer[0]) if isinstance(peer, tuple) else ""
        try:
            self._make_room()
            refusal = self._welcome(address)
            if refusal is not None:
                self._send(sock, refusal)
            else:
                self._answer(sock, address)
            self._part(sock)
        except OSError as error:
            log.debug("control client %s: %s", address or "on the unix socket", error)
        finally:
            sock.close()

    def _answer(self, sock: Any, address: str) -> None:
        pacer = Pacer()
        for line in self._lines(sock):
            for piece in self._execute(line, address):
                self._send(sock, piece)
                pacer.pause()
            pacer.pause()

    def _lines(self, sock: Any) -> Iterator[str]:
        """Complete lines, and what stands before the end of input. Switches greenlets."""
        buffered, between = b"", LINE_SECONDS
        while True:
            sock.settimeout(LINE_SECONDS if buffered else between)
            try:
                with self._wait():
                    piece = sock.recv(MAX_LINE)
            except TimeoutError:
                return
            buffered += piece
            *lines, buffered = buffered.split(b"\n")
            if not piece and buffered:
                lines, buffered = [*lines, buffered], b""
            for line in (raw.decode("utf-8", "replace").rstrip("\r") for raw in lines):
                if self._stays(line):
                    between = STAY_SECONDS
                elif between != STAY_SECONDS:
                    between = LATE_SECONDS
                yield line
            if not piece:
                return
            if len(buffered) > MAX_LINE:
                self._send(sock, f"error: the line is longer than {MAX_LINE} bytes\n")
                return

    def _part(self, sock: Any) -> None:
        """End so that the reply arrives: to close a socket in which something waits to be read resets the connection,
        and the client loses what it has not read yet. What still comes is for nobody. Switches greenlets."""
        if _has_ended(sock):
            return
        sock.shutdown(_socket.SHUT_WR)
        pacer = Pacer()
        deadline = time.monotonic() + PARTING_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            with self._wait():
                if not sock.recv(MAX_LINE):
                    return
            pacer.pause()

    def _send(self, sock: Any, reply: str) -> None:
        sock.settimeout(REPLY_SECONDS)
        with self._wait():
            sock.sendall(printable(reply, keep="\n").encode())

    @contextmanager
    def _wait(self) -> Iterator[None]:
        """While this lasts the greenlet waits for its client, and may be ended by `_make_room`."""
        greenlet = gevent.getcurrent()
        self._waiting[greenlet] = None
        try:
            yield
        finally:
            self._waiting.pop(greenlet, None)

    def _make_room(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            longest = next(iter(self._waiting))
            del self._waiting[longest]
            longest.kill(block=False)


def _has_ended(sock: Any) -> bool:
    """Whether the client has ended its input, and all of it was read."""
    sock.settimeout(0)
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False
