"""TLS: ended here, so that servers see plain bytes. After the handshake it is a stream like another (relay.py).

The library's TLS reads and writes memory only; sockets are waited for in gevent's loop, by the poller,
as everywhere. gevent.ssl's SSLSocket is the other way to let greenlets cooperate: it needs two of them a session, and
its unwrap() waits for the client's goodbye, and loses what the client still says before it. Here no call of TLS ever
touches a socket: to say goodbye is to write a close_notify, and either side may go on behind the other's.

A close_notify is passed on as a half-close, and a half-close as a close_notify. A server that ends by a reset, or is
taken away by a command or a limit, gets none said in its name: its client can tell that the end is missing. A client
that ends without one is `truncated`; what it sent is delivered.

Sessions are resumed by ticket, or by number where ssl_option has no_ticket; also under one name what began under
another, but then the new one counts, for routes and where unknown ones are refused. But not where clients are asked for
certificates: each name may have an authority of its own, and who was let in by one would be let in everywhere
(CVE-2025-23419 was that, in nginx). There each name's context is used from the start, and not from when OpenSSL asks
for it: what it remembers of sessions, and the keys of tickets, are the context's.

What Python does for a handshake is little beside what OpenSSL does, but OpenSSL has each time driven it out of the
processor's caches: about 200,000 instructions of 2.9 million took 250 us of 700 (P-256). So this is compiled (tls.pxd),
handles _ssl's objects without those that ssl.py puts around them, and raises no exception where a number says it.
What is left, 110,000 instructions, no function with more than 6,000, is all that a handshake costs more than nginx's,
some 100 us with either kind of key: OpenSSL itself has 160,000 less to do here, since there is one ticket and not two.
"""

from __future__ import annotations

import _socket
import errno
import re
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any

from greenlet import getcurrent

from gpen.model.route import bare
from gpen.model.settings import Settings
from gpen.model.text import shortened
from gpen.proto.client_hello import HelloReader, name_in, protocols_in
from gpen.proto.subject import subject_in
from gpen.wire import kernel
from gpen.wire.conversation import Secured
from gpen.wire.kernel import AGAIN, EPOLLIN, EPOLLOUT, LOST, MORE, Handler, Socket
from gpen.wire.pacing import gently
from gpen.wire.poller import Poller
from gpen.wire.relay import End, Stream
from gpen.wire.tls_contexts import Pace, TlsError, contexts_by_name, main_context, names_of, reason_of

__all__ = ["Channel", "HandshakeError", "Terminator", "TlsError", "TlsStream", "shake_hands"]

_RECORD = 16384  # most plain bytes of a record
_PIECE = 32768  # most bytes read from a client at once, for they stay in OpenSSL's memory until the session ends
_UNIX = int(_socket.AF_UNIX)
_TICKETS_BEHIND = "TLSv1.3"  # the version whose tickets come behind its handshake
_ODD = re.compile(r"[^A-Za-z0-9.:_*-]")  # what in a client's word could confuse a log
_UNRECOGNIZED_NAME = 112  # the alert of RFC 6066
_NO_APPLICATION_PROTOCOL = 120  # the alert of RFC 7301, which Python's ssl does not name
_NOT_YET = Secured("", "", "")
_WIRE = memoryview(bytearray(_PIECE))  # what has just been received, before it is in OpenSSL's memory
_WANT_READ: type[Exception] = ssl.SSLWantReadError
_HINTS = {
    "http request": "it speaks HTTP, not TLS",
    "wrong version number": "it does not speak TLS",
    "callback failed": "the name that it asks for is not ASCII",
    "peer did not return a certificate": "it has no certificate, and ssl_require_peer wants one",
}


class HandshakeError(Exception):
    """A client's handshake that failed: says why."""


class Channel:
    """The TLS of one connection, in its handshake and after it, and the memory that it reads from and writes into.

    ``sni`` is the name that a client asked for, ``sent`` what it has sent since its last hello, and ``objection`` what
    is wrong with it.
    """

    __slots__ = ("__weakref__", "incoming", "objection", "outgoing", "secured", "sent", "sni", "tls")

    def __init__(self, context: Any, server: str | None = None) -> None:
        """To be a server, or a client of ``server``."""
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        # as ssl.SSLObject does, which this stands for
        self.tls = context._wrap_bio(self.incoming, self.outgoing, server is None, server, owner=self)
        self.secured = _NOT_YET
        self.sni = ""
        self.sent = b""
        self.objection = ""

    def begin_anew(self, context: Any) -> None:
        """Be a server with another context, of which nothing is known yet but what has come."""
        self.tls = context._wrap_bio(self.incoming, self.outgoing, True, None, owner=self)

    def step(self) -> bool:
        """Go on with the handshake as far as what has come allows; whether it is done. Raises ssl.SSLError."""
        hook, sys.unraisablehook = sys.unraisablehook, _not_raised
        try:
            self.tls.do_handshake()
        except _WANT_READ:
            return False
        finally:
            sys.unraisablehook = hook
        sni = _ODD.sub("?", self.sni) if self.sni else ""
        self.secured = Secured(self.tls.version(), self.tls.cipher()[0], sni)
        return True


def _not_raised(problem: Any) -> None:
    """A name that Python can't read fails the handshake, but has no traceback to show: clients could fill a log."""
    if not isinstance(problem.exc_value, UnicodeDecodeError):
        sys.__unraisablehook__(problem)


class Terminator:
    """What clients' handshakes are made with: certificates by name, keys, authorities, versions and ciphers.
    ``has_doors``: who is let in under one name need not be under another."""

    def __init__(self, settings: Settings, path: Callable[[str], str], pace: Pace = gently) -> None:
        """Read all files that the settings name; ``path`` tells where a file is found in a chroot. Switches greenlets,
        if ``pace`` does. Raises TlsError."""
        self._context: Any = main_context(settings, path)
        self._by_name = contexts_by_name(settings, path, pace)
        self._protocols = [name.encode() for name in settings.ssl_alpn or ()]
        self._asks = self._context.verify_mode != ssl.CERT_NONE
        # the names that are served with the certificate that all others get; None: all names are
        self._own_names = names_of(settings, path) if settings.ssl_strict_sni else None
        self._separates = self._asks and bool(self._by_name)
        self.has_doors = self._separates and any(
            context.authorities != self._context.authorities for context in self._by_name.values())
        for context in (self._context, *(self._by_name.values() if self._separates else ())):
            context.sni_callback = self._look

    def refuses(self, name: str) -> bool:
        """Whether ssl_strict_sni turns away who asks for this name."""
        return self._own_names is not None and self._context_of(name) is None and not self._has(name)

    def accept(self, sock: Socket, poller: Poller, seconds: float) -> Channel:
        """Do a client's handshake within so many seconds. Switches greenlets. Raises HandshakeError."""
        channel, pauses = Channel(self._context), _Pauses(sock, poller, seconds)
        try:
            if self._separates:
                self._read_hello(channel, sock, pauses)
            self._shake_hands(channel, sock, pauses)
        except TimeoutError:
            raise HandshakeError(f"not done in {seconds:g} s") from None
        except ssl.SSLError as error:
            _reject(sock, channel.outgoing.read())
            raise HandshakeError(channel.objection or _told(error)) from None
        except OSError as error:
            raise HandshakeError((error.strerror or str(error)).lower()) from None
        finally:
            pauses.end()
        channel.sent = b""
        if self._asks:
            channel.secured = channel.secured._replace(subject=subject_in(channel.tls.getpeercert(False)))
        return channel

    def _shake_hands(self, channel: Channel, sock: Socket, pauses: _Pauses) -> None:
        """The tickets of TLS 1.3, which come behind it, wait for the first bytes that go to the client: one that only
        sends, and closes with tickets unread, would thereby reset its connection and throw away what it has sent.
        Switches greenlets. Raises OSError, as which TimeoutError and ssl.SSLError are."""
        is_done = False
        while not is_done:
            if not channel.incoming.pending:
                data = _WIRE[:_received(sock, pauses)]
                channel.sent += data
                channel.incoming.write(data)
            is_done = channel.step()
            if not is_done or channel.secured.version != _TICKETS_BEHIND:
                _send(sock, channel.outgoing.read(), pauses)
            elif not channel.incoming.pending and sock.family != _UNIX:
                _acknowledge(sock)

    def _read_hello(self, channel: Channel, sock: Socket, pauses: _Pauses) -> None:
        """Begin with the context of the name that the client asks for. Switches greenlets. Raises OSError."""
        reader = HelloReader()
        while not reader.is_done:
            data = bytes(_WIRE[:_received(sock, pauses)])
            reader.take(data)
            channel.incoming.write(data)
            channel.sent += data
        chosen = None if reader.hello is None else self._context_of(reader.hello.name)
        if chosen is not None:
            channel.begin_anew(chosen)

    def _look(self, channel: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        """OpenSSL's question, at each hello, which certificate this name shall see; the answer may be an alert."""
        if self._separates and channel.tls.context is not (self._context_of(name or "") or self._context):
            channel.objection = "its hello is not to be read before its session is looked up"
            return _UNRECOGNIZED_NAME
        if channel.tls.session_reused:  # OpenSSL tells the name that a session of TLS 1.2 began under
            name = name_in(channel.sent) or None
        is_known = name is not None and self._choose(channel, name)
        if not is_known and self._own_names is not None and not self._has(name):
            asked = f"the name {shortened(name)}, which no certificate has" if name else "no name"
            channel.objection = f"it asks for {asked} (ssl_strict_sni)"
            return _UNRECOGNIZED_NAME
        sent, channel.sent = channel.sent, b""
        if not self._protocols:
            return None
        offered = protocols_in(sent)
        if offered is None or any(protocol in self._protocols for protocol in offered):
            return None
        channel.objection = f"it speaks none of the protocols of ssl_alpn, but {shortened(b', '.join(offered))}"
        return _NO_APPLICATION_PROTOCOL

    def _choose(self, channel: Channel, name: str) -> bool:
        """Show the certificate that ssl_sni_path has for this name, if it has one; whether it has."""
        channel.sni = name
        chosen = self._context_of(name) if self._by_name else None
        if chosen is not None:
            channel.tls.context = chosen
        return chosen is not None

    def _context_of(self, name: str) -> Any:
        """That of a name in ssl_sni_path, or None."""
        domain = bare(name)
        return self._by_name.get(domain) or self._by_name.get(f"*.{domain.partition('.')[2]}")

    def is_let_in(self, sni: str, name: str) -> bool:
        """Whether a client that was let in when it asked for ``sni`` is under this name too: by the same authorities.
        """
        asked, meant = self._context_of(sni) or self._context, self._context_of(name) or self._context
        return bool(asked.authorities == meant.authorities)

    def _has(self, name: str | None) -> bool:
        """Whether the certificate that all others get has this name."""
        domain = bare(name or "")
        return self._own_names is not None and bool(domain) and (
            domain in self._own_names or f"*.{domain.partition('.')[2]}" in self._own_names)


def shake_hands(channel: Channel, sock: Socket, poller: Poller, seconds: float) -> None:
    """Do the handshake with a server, as its client, within so many seconds; one that fails in it is told why. Switches
    greenlets. Raises OSError, as which TimeoutError and ssl.SSLError are."""
    pauses = _Pauses(sock, poller, seconds)
    try:
        while not channel.step():
            _send(sock, channel.outgoing.read(), pauses)
            channel.incoming.write(_WIRE[:_received(sock, pauses)])
        _send(sock, channel.outgoing.read(), pauses)
    except ssl.SSLError:
        _reject(sock, channel.outgoing.read())
        raise
    finally:
        pauses.end()


class _Pauses(Handler):
    """The pauses of a handshake, which share its time. From the first on its socket is watched: most have two, and each
    alone would take a timer and two more system calls."""

    __slots__ = ("_deadline", "_fd", "_mask", "_poller", "_switch", "_timer")

    def __init__(self, sock: Socket, poller: Poller, seconds: float) -> None:
        self._fd = sock.fileno()
        self._poller = poller
        self._deadline = kernel.monotonic() + seconds
        self._mask = 0
        self._switch: Any = None
        self._timer: Any = None

    def wait(self, mask: int) -> None:
        """Until the socket is ready. Switches greenlets. Raises TimeoutError, and OSError as the poller's ``add``."""
        poller = self._poller
        if self._timer is None:
            self._switch = getcurrent().switch
            poller.add(self._fd, mask, self)
            self._timer = poller.loop.timer(max(self._deadline - kernel.monotonic(), 0.0))
            self._timer.start(self._switch, 0)
        elif mask != self._mask:
            poller.change(self._fd, mask)
        self._mask = mask
        if not poller.hub.switch():
            raise TimeoutError

    def ready(self, events: int) -> None:
        self._switch(events)

    def end(self) -> None:
        """There are no more."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._poller.remove(self._fd)


def _received(sock: Socket, pauses: _Pauses) -> int:
    """How much the other side has sent into _WIRE. Switches greenlets. Raises OSError, and TimeoutError."""
    while (count := kernel.hear(sock, _WIRE)) == AGAIN:
        pauses.wait(EPOLLIN)
    if not count:
        raise ConnectionError("it closed the connection")
    return count


def _send(sock: Socket, data: bytes, pauses: _Pauses) -> None:
    """Send all of it. Switches greenlets. Raises OSError, and TimeoutError."""
    while data:
        sent = kernel.say(sock, data, 0)
        if sent == LOST:
            raise ConnectionError("it is gone")
        if sent == AGAIN:
            pauses.wait(EPOLLOUT)
        else:
            data = data[sent:]


def _acknowledge(sock: Socket) -> None:
    """Acknowledge the handshake's last word at once: a client without TCP_NODELAY waits for that before it sends its
    request, 40 ms if nothing goes to it."""
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 1)


def _reject(sock: Socket, alert: bytes) -> None:
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

    __slots__ = ("_end", "_heard", "_incoming", "_notified", "_outgoing", "_sock", "_tickets", "_tls")

    _end: End
    _sock: Socket

    def __init__(self, channel: Channel) -> None:
        Stream.__init__(self)
        self.says_goodbye = True
        self.counts_at_once = True
        self._heard = b""  # of the other machine, before anybody read it
        self._notified = False  # that was sent our close_notify
        self._go_on(channel)

    def _go_on(self, channel: Channel) -> None:
        self._tls = channel.tls
        self._incoming = channel.incoming
        self._outgoing = channel.outgoing
        self._tickets = channel.outgoing.pending  # bytes that wait for data to go with

    @property
    def protocol(self) -> str:
        """The one that was agreed on (ALPN); empty where none was."""
        return self._tls.selected_alpn_protocol() or ""

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
        came = kernel.hear(self._sock, _WIRE)
        if came > 0:
            self._incoming.write(_WIRE[:came])
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
                piece = read(_RECORD, view[count:] if count else view)
                if not piece:
                    self.has_ended = True
                    break
                count += piece
        except _WANT_READ:
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
            self._put(answers, 0)
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
            self._put(take(), self._end.peer.flags)
            return size
        records = []
        for start in range(0, size, _RECORD):  # one by one: outgoing's memory keeps its largest size, 22 KB and not 175
            write(view[start : start + _RECORD])
            records.append(take())
        self._put_all(records)
        return size

    def _put(self, record: bytes, flags: int) -> None:
        """Send what is one record, or a few small ones. Raises OSError."""
        sent = kernel.say(self._sock, record, flags)
        if sent != len(record):
            self._keep(record, sent)

    def _put_all(self, records: Sequence[bytes]) -> None:
        """Send records. Raises OSError."""
        try:
            sent = self._sock.sendmsg(records)
        except BlockingIOError:
            sent = AGAIN
        if sent != sum(map(len, records)):
            self._keep(b"".join(records), sent)

    def _keep(self, data: bytes, sent: int) -> None:
        """What found no room waits, and the other side with it. Raises OSError."""
        if sent == LOST:
            raise OSError(errno.EPIPE, "it is gone")
        if self._end.has_peer:  # without one these are last words: nobody waits
            self._end.keep(memoryview(data)[max(sent, 0):])

    def half_close(self, end: End) -> None:
        """Nothing more will be sent: a close_notify, and behind that an end of input. Raises OSError."""
        if not self._notified:
            self._notified = True
            if not (end.has_peer and (end.peer.reset or end.peer.truncated)):
                self._say_goodbye()
        if end.pending is None:
            Stream.half_close(self, end)  # super() is not for what C calls

    def _say_goodbye(self) -> None:
        held = self._incoming.read()  # or OpenSSL would look there for the other side's close_notify
        try:
            self._tls.shutdown()
        except ssl.SSLError:
            pass  # it has not come
        if held:
            self._incoming.write(held)
        self._put(self._outgoing.read(), MORE if self._end.pending is None else 0)
