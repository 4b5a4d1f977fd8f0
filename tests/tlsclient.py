"""A client that speaks TLS over a plain socket, and whose two directions end apart, as TLS has it."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.harness import connect

PIECE = 1 << 16


class Truncated(Exception):
    """The stream ended without a close_notify."""


class TlsClient:
    """As much of a socket as tests need; sending and receiving may be done by two threads. With the context of a
    server, and without a name, it is one."""

    def __init__(self, address: tuple[str, int] | str, context: ssl.SSLContext, name: str | None = "localhost", *,
                 sock: socket.socket | None = None, seconds: float = 20.0, fin: bool = True) -> None:
        """Connect, unless there is a socket, and shake hands. ``fin``: behind our close_notify TCP's stream ends."""
        self.begin(sock or connect(address, seconds=seconds), context, name, fin)
        try:
            while not self.step():
                pass
        except BaseException:
            self.sock.close()
            raise

    def begin(self, sock: socket.socket, context: ssl.SSLContext, name: str | None = "localhost", fin: bool = True,
              ) -> None:
        """Be the client on this socket; the handshake is taken in steps by whoever calls."""
        self.sock = sock
        self.fin = fin
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, context.protocol is ssl.PROTOCOL_TLS_SERVER, name)
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._said_goodbye = self._begun = False

    def step(self, flushed: bool = True) -> bool:
        """Go on with the handshake; whether it is done. ``flushed``: its last bytes are sent."""
        if self._begun:
            self._fill()
        self._begun = True
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        except ssl.SSLError:
            self.flush()
            raise
        if flushed:
            self.flush()
        return True

    def __enter__(self) -> TlsClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.close()

    def flush(self) -> None:
        """Send what TLS has written."""
        with suppress(ConnectionError):
            if data := self._outgoing.read():
                self.sock.sendall(data)

    def _fill(self) -> None:
        data = self.sock.recv(PIECE)
        if not data:
            raise Truncated
        with self._lock:
            self._incoming.write(data)

    def encrypted(self, data: bytes) -> bytes:
        """These bytes as records of TLS, to be sent by hand."""
        with self._lock:
            sent = 0
            while sent < len(data):
                sent += self.tls.write(data[sent : sent + PIECE])
            return self._outgoing.read()

    def sendall(self, data: bytes) -> None:
        with self._sending:
            for start in range(0, len(data), PIECE):
                self.sock.sendall(self.encrypted(data[start : start + PIECE]))

    def recv(self, most: int) -> bytes:
        """The next bytes, or none behind the other side's close_notify. Raises Truncated, or OSError."""
        while True:
            with self._lock:
                try:
                    return self.tls.read(most)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
            self._fill()

    def read_all(self) -> bytes:
        """All that comes until the other side's close_notify."""
        received = bytearray()
        while piece := self.recv(PIECE):
            received += piece
        return bytes(received)

    def goodbye(self) -> bytes:
        """The record that is our close_notify; what the other side has sent meanwhile is left alone."""
        with self._lock:
            held = self._incoming.read()
            with suppress(ssl.SSLError):
                self.tls.unwrap()
            self._incoming.write(held)
            return self._outgoing.read()

    def shutdown(self, how: int) -> None:
        """End our direction, by a close_notify."""
        with self._sending:
            if not self._said_goodbye:
                self._said_goodbye = True
                self.sock.sendall(self.goodbye())
            if self.fin:
                self.sock.shutdown(how)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            with suppress(OSError):
                self.shutdown(socket.SHUT_WR)
            self.sock.close()


def trusting(authority: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """The context of a client who trusts this authority, and speaks this version only, if any is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context
