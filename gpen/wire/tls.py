"""TLS: ended here, so that servers see plain bytes. After the handshake it is a stream like another (relay.py).

The library's TLS (ssl.SSLObject) reads and writes memory only; sockets are waited for in gevent's loop, by the poller,
as everywhere. gevent.ssl's SSLSocket is the other way to let greenlets cooperate: it needs two of them a session, and
its unwrap() waits for the client's goodbye, and loses what the client still says before it. Here no call of TLS ever
touches a socket: to say goodbye is to write a close_notify, and either side may go on behind the other's.

A close_notify is passed on as a half-close, and a half-close as a close_notify. A server that ends by a reset, or is
taken away by a command or a limit, gets none said in its name: its client can tell that the end is missing. A client
that ends without one is `truncated`; what it sent is delivered.

Sessions are resumed by ticket, or by number where ssl_option has no_ticket. All names lead to the same servers, so
there is no harm in resuming under one name what began under another.
"""

from __future__ import annotations

import _socket
import re
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from gpen.model.settings import Settings
from gpen.model.text import shortened
from gpen.proto.client_hello import protocols_in
from gpen.wire.conversation import Secured
from gpen.wire.poller import EPOLLIN, EPOLLOUT, Poller
from gpen.wire.relay import End, Stream
from gpen.wire.tls_contexts import TlsError, contexts_by_name, main_context, reason_of

__all__ = ["Channel", "HandshakeError", "Terminator", "TlsError", "TlsStream"]

_RECORD = 16384  # most plain bytes of a record
_PIECE = 32768  # most bytes read from a client at once, for they stay in OpenSSL's memory until the session ends
_TICKETS_BEHIND = "TLSv1.3"  # the version whose tickets come behind its handshake
_ODD = re.compile(r"[^A-Za-z0-9.:_*-]")  # what in a client's word could confuse a log
_NO_APPLICATION_PROTOCOL = 120  # the alert of RFC 7301, which Python's ssl does not name
_HINTS = {
    "http request": "it speaks HTTP, not TLS",
    "wrong version number": "it does not speak TLS",
    "callback failed": "the name that it asks for is not ASCII",
    "peer did not return a certificate": "it has no certificate, and ssl_require_peer wants one",
}


class HandshakeError(Exception):
    """A client's handshake that failed: says why."""


class _ClientTls(ssl.SSLObject):
    """The TLS of one client, which knows the name that the client asked for, what it has sent since its last hello, and
    what is wrong with that."""

    sni = ""
    sent: bytearray
    objection = ""


class Channel:
    """The TLS of one connection, in its handshake and after it, and the memory that it reads from and writes into."""

    __slots__ = ("incoming", "outgoing", "secured", "tls")

    def __init__(self, tls: Any, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self.tls = tls
        self.incoming = incoming
        self.outgoing = outgoing
        self.secured = Secured("", "", "")

    def step(self) -> None:
        """Go on with the handshake as far as what has come allows; ``secured`` has a version when it is done. Raises
        ssl.SSLError."""
        tls = self.tls
        hook, sys.unraisablehook = sys.unraisablehook, _not_raised
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        finally:
            sys.unraisablehook = hook
        self.secured = Secured(tls.version(), tls.cipher()[0], _ODD.sub("?", tls.sni))


def _not_raised(problem: Any) -> None:
    """A name that Python can't read fails the handshake, but has no traceback to show: clients could fill a log."""
    if not isinstance(problem.exc_value, UnicodeDecodeError):
        sys.__unraisablehook__(problem)


class Terminator:
    """What clients' handshakes are made with: certificates by name, keys, authorities, versions and ciphers."""

    def __init__(self, settings: Settings, path: Callable[[str], str]) -> None:
        """Read all files that the settings name; ``path`` tells where a file is found in a chroot. Switches greenlets.
        Raises TlsError."""
        self._context = main_context(settings, path)
        self._by_name = contexts_by_name(settings, path)
        self._protocols = [name.encode() for name in settings.ssl_alpn or ()]
        self._context.sslobject_class = _ClientTls
        self._context.sni_callback = self._look

    def accept(self, sock: Any, poller: Poller, seconds: float) -> Channel:
        """Do a client's handshake within so many seconds. Switches greenlets. Raises HandshakeError.

        The tickets of TLS 1.3, which come behind it, wait for the first bytes that go to the client: one that only
        sends, and closes with tickets unread, would thereby reset its connection and throw away what it has sent.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        channel = Channel(self._context.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing)
        channel.tls.sent = bytearray()
        deadline = time.monotonic() + seconds
        try:
            while not channel.secured.version:
                data = _receive(sock, poller, deadline)
                if self._protocols:
                    channel.tls.sent += data
                incoming.write(data)
                channel.step()
                if channel.secured.version != _TICKETS_BEHIND:
                    _send(sock, outgoing.read(), poller, deadline)
                elif not incoming.pending and sock.family != _socket.AF_UNIX:
                    _acknowledge(sock)
        except TimeoutError:
            raise HandshakeError(f"not done in {seconds:g} s") from None
        except ssl.SSLError as error:
            _reject(sock, outgoing.read())
            raise HandshakeError(channel.tls.objection or _told(error)) from None
        except OSError as error:
            raise HandshakeError((error.strerror or str(error)).lower()) from None
        channel.tls.sent.clear()
        return channel

    def _look(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        """OpenSSL's question, at each hello, which certificate this name shall see; the answer may be an alert."""
        assert isinstance(tls, _ClientTls)
        if name is not None:
            self._choose(tls, name)
        offered = protocols_in(bytes(tls.sent)) if self._protocols else None
        tls.sent.clear()
        if offered is None or any(protocol in self._protocols for protocol in offered):
            return None
        tls.objection = f"it speaks none of the protocols of ssl_alpn, but {shortened(b', '.join(offered))}"
        return _NO_APPLICATION_PROTOCOL

    def _choose(self, tls: _ClientTls, name: str) -> None:
        tls.sni = name
        if self._by_name:
            domain = name.lower()
            chosen = self._by_name.get(domain) or self._by_name.get(f"*.{domain.partition('.')[2]}")
            if chosen is not None:
                tls.context = chosen


def _receive(sock: Any, poller: Poller, deadline: float) -> bytes:
    """The next bytes of a client. Switches greenlets. Raises OSError, and TimeoutError behind the deadline."""
    while True:
        try:
            data: bytes = sock.recv(_PIECE)
        except BlockingIOError:
            _wait(sock, poller, EPOLLIN, deadline)
            continue
        if not data:
            raise ConnectionError("it closed the connection")
        return data


def _send(sock: Any, data: bytes, poller: Poller, deadline: float) -> None:
    """Send all of it. Switches greenlets. Raises OSError, and TimeoutError behind the deadline."""
    while data:
        try:
            data = data[sock.send(data):]
        except BlockingIOError:
            _wait(sock, poller, EPOLLOUT, deadline)


def _wait(sock: Any, poller: Poller, mask: int, deadline: float) -> None:
    if not poller.wait(sock.fileno(), mask, deadline - time.monotonic()):
        raise TimeoutError


def _acknowledge(sock: Any) -> None:
    """Acknowledge the handshake's last word at once: a client without TCP_NODELAY waits for that before it sends its
    request, 40 ms if nothing goes to it."""
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 1)


def _reject(sock: Any, alert: bytes) -> None:
    """Tell a client why, if it listens. What it still sends is read: to close with unread bytes is to reset, and that
    may overtake the alert."""
    try:
        if alert:
            sock.send(alert)
        sock.shutdown(_socket.SHUT_WR)
        sock.recv(_PIECE)
    except OSError:
        return


def _told(error: ssl.SSLError) -> str:
    """Why a handshake failed, for those who know the client and not OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    reason = reason_of(error)
    _, alert, said = reason.partition(" alert ")
    return f"it says: {said}" if alert else _HINTS.get(reason, reason)


class TlsStream(Stream):
    """TLS on the wire of one End.

    The End's ``received`` and ``sent`` count plain bytes; its ``pending`` is TLS's, for what is encrypted is sent.
    """

    __slots__ = ("_end", "_heard", "_incoming", "_notified", "_outgoing", "_sock", "_tickets", "_tls", "failure",
                 "has_ended")

    says_goodbye = True
    counts_at_once = True

    _end: End
    _sock: Any

    def __init__(self, channel: Channel) -> None:
        self._tls = channel.tls
        self._incoming = channel.incoming
        self._outgoing = channel.outgoing
        self._tickets = channel.outgoing.pending  # bytes that wait for data to go with
        self._heard = b""  # of the other machine, before anybody read it
        self._notified = False  # that was sent our close_notify
        self.has_ended = False  # it has sent its own
        self.failure: OSError | None = None  # of what it sent

    def join(self, end: End) -> None:
        self._end, self._sock = end, end.sock
        end.recv_into, end.send = self._decrypt_into, self._encrypt

    # --- from the other machine ---------------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        return bool(self._heard or self._incoming.pending)

    def _decrypt_into(self, view: memoryview) -> int:
        """As recv_into: the plain bytes of all whole records that have come; 0 at the end, whether or not it was
        said. Raises OSError."""
        if self._heard:
            heard, self._heard = self._heard, b""
            view[: len(heard)] = heard
            return len(heard)
        try:
            came = self._sock.recv_into(view, _PIECE)
        except BlockingIOError:
            came = -1
        if came > 0:
            self._incoming.write(view[:came])
        count = self._decrypt(view)
        if self._outgoing.pending > self._tickets:
            self._answer()
        if count or self.has_ended:
            return count
        if self.failure is not None:
            raise self.failure
        if came:
            raise BlockingIOError
        self._end.truncated = True
        return 0

    def _decrypt(self, view: memoryview) -> int:
        incoming, read = self._incoming, self._tls.read
        count = 0
        try:
            while incoming.pending:
                piece = read(_RECORD, view[count:])
                if not piece:
                    self.has_ended = True
                    break
                count += piece
        except ssl.SSLWantReadError:
            pass  # the rest of a record is to come
        except ssl.SSLZeroReturnError:
            self.has_ended = True
        except ssl.SSLError as error:
            self.failure = error
            self._alert()
        return count

    def _answer(self) -> None:
        """Send what TLS itself has to say: that there is no renegotiation, that keys were changed. Who keeps asking and
        does not read would have that pile up."""
        answers = self._outgoing.read()
        if self._notified:
            return
        try:
            if self._end.is_full:
                raise ConnectionError("it asks TLS for answers and reads none")
            self._put((answers,))
        except OSError as error:
            self.failure = error

    def _alert(self) -> None:
        """Tell the other machine what is wrong with what it sent."""
        if not self._end.is_full:
            try:
                self._sock.send(self._outgoing.read())
            except OSError:
                return

    def has_spoken(self, end: End) -> bool:
        """Whether it has sent a byte that nobody has read: its goodbye is none. Raises OSError."""
        if not self._heard:
            view = end.poller.view
            self._heard = bytes(view[: self._decrypt_into(view)])
        return bool(self._heard)

    # --- to the other machine -----------------------------------------------------------------------------------------

    def _encrypt(self, view: memoryview) -> int:
        """As send, but all of it is taken. Raises OSError."""
        write, take = self._tls.write, self._outgoing.read
        size = len(view)
        if size <= _RECORD:
            write(view)
            self._put((take(),))
            return size
        records = []
        for start in range(0, size, _RECORD):  # one by one: outgoing's memory keeps its largest size, 22 KB and not 175
            write(view[start : start + _RECORD])
            records.append(take())
        self._put(records)
        return size

    def _put(self, records: Sequence[bytes]) -> None:
        """Send records of TLS; what finds no room waits, and the other side with it. Raises OSError."""
        try:
            sent = self._sock.send(records[0]) if len(records) == 1 else self._sock.sendmsg(records)
        except BlockingIOError:
            sent = 0
        if sent != sum(map(len, records)) and self._end.has_peer:  # without one these are last words: nobody waits
            self._end.keep(memoryview(b"".join(records))[sent:])

    def half_close(self, end: End) -> None:
        """Nothing more will be sent: a close_notify, and behind that an end of input. Raises OSError."""
        if not self._notified:
            self._notified = True
            if not (end.has_peer and (end.peer.reset or end.peer.truncated)):
                self._say_goodbye()
        if end.pending is None:
            super().half_close(end)

    def _say_goodbye(self) -> None:
        held = self._incoming.read()  # or unwrap() would look there for the other side's close_notify
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it has not come
        self._incoming.write(held)
        self._put((self._outgoing.read(),))
