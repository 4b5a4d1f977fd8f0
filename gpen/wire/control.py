"""The control socket: a gevent StreamServer; a line comes in, a reply goes out.

What a line means is handed in as a function. A client may send several lines on one connection. It is closed at the
end of its input, or with the reply to the last line that has come: pen's penctl sends one line and then waits for the
end. A client that will send more later asks for it to stay open.
"""

from __future__ import annotations

import _socket
import array
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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


class Offered(NamedTuple):
    """A reply, and a descriptor that goes with it and is closed here; -1: none."""

    reply: str
    descriptor: int


Offer = Callable[[str, Any], Offered | None]


class ControlServer:
    """Serves control clients, each in its greenlet, so that a silent, slow or endless one delays nobody else.

    When too many of them neither speak nor read, the one that we have waited for longest must go for the next one.
    """

    def __init__(self, sock: Any, execute: Execute, stays: Callable[[str], bool],
                 welcome: Callable[[str], str | None], offer: Offer) -> None:
        """``execute`` takes a line and the client's address and returns the reply in pieces; ``stays`` says whether by
        this line a client asks to stay; ``welcome`` says why an address is refused, if it is. An address is empty for a
        client of a unix socket. ``offer`` takes a line and the socket of a client of a unix socket, and says what that
        gets which is more than text; None for most."""
        self._execute = execute
        self._stays = stays
        self._welcome = welcome
        self._offer = offer
        listener = gsocket.socket(sock.family, sock.type, fileno=sock.detach())
        self._server = Acceptor(listener, self._serve)
        self.answering = 0  # clients whose line is carried out, or whose reply is on its way
        self._waiting: dict[Any, None] = {}
        self._listening: dict[Any, None] = {}  # those of them who wait for a line

    def start(self) -> None:
        """Begin to accept."""
        self._server.start()

    def suspend(self) -> None:
        """Accept nobody until ``go_on``."""
        self._server.suspend()

    def go_on(self) -> None:
        """Accept again."""
        self._server.go_on()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return int(self._server.socket.fileno())

    def dismiss(self) -> None:
        """End the connections of clients who say nothing now: they shall come again, and find another."""
        for greenlet in list(self._listening):
            greenlet.kill(block=False)

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
            self.answering += 1
            try:
                self._answer_line(sock, line, address, pacer)
            finally:
                self.answering -= 1

    def _answer_line(self, sock: Any, line: str, address: str, pacer: Pacer) -> None:
        offered = None if address else self._offer(line, sock)
        if offered is not None:
            self._pass(sock, offered)
            return
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
                with self._wait(self._listening):
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

    def _pass(self, sock: Any, offered: Offered) -> None:
        """A reply with a descriptor, in one piece."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [offered.descriptor]))]
        sock.settimeout(REPLY_SECONDS)
        try:
            with self._wait():
                sock.sendmsg([printable(offered.reply, keep="\n").encode()], rights if offered.descriptor >= 0 else [])
        finally:
            if offered.descriptor >= 0:
                os.close(offered.descriptor)

    @contextmanager
    def _wait(self, *also: dict[Any, None]) -> Iterator[None]:
        """While this lasts the greenlet waits for its client, and may be ended by `_make_room`; it stands in ``also``
        as well."""
        greenlet = gevent.getcurrent()
        lists = (self._waiting, *also)
        for waiting in lists:
            waiting[greenlet] = None
        try:
            yield
        finally:
            for waiting in lists:
                waiting.pop(greenlet, None)

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
