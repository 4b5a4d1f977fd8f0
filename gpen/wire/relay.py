"""The bytes of a session: what one side sends, the other gets, to the last byte.

An End is one side, with its socket. A handler reads into the poller's shared buffer and sends at once; only what the
other side does not take is copied, and then reading stops until it is gone (back-pressure). An end of input is passed
on as a half-close behind the last byte. A reset is passed on as an end, behind the last byte too: what a socket still
holds is never thrown away because the other side is gone.

Two greenlets with recv and sendall on gevent's sockets reached a third of pen's requests/s in the trials before gpen
was written; this way reaches 0.94 of pen's (32 kept connections; the README has the table). So this is the one file
where speed outranks beauty: bound methods are kept, and the common case of ``_read`` is one straight line.

What an End speaks is put together of a Stream, which is on its wire, and a Filter, which is on the way, if any. Both
are chosen when it is made, and set its ``recv_into`` and ``send``: a plain End's are the socket's own, and its handler
asks for nothing that only others have. They were subclasses once, of which an End could be but one. What the change
costs is told by thousands of instructions outside of the kernel, before and after, for each (valgrind --tool=callgrind
bin/gpen -f -r [-H | -E FILE -L tls1.3], the difference of N and 3 N of them, N 150 to 400, or 6 of the 4 MB, which
comes out within 2%; connections: means of three; AMD EPYC, 2 cores, Python 3.11, 2026-11-26):

    plain connection with a message each way     227.2  229.6
    plain message each way (50 bytes, 100)        21.2   21.3
    plain 100 KB to the client                    21.6   21.9
    plain 4 MB to the client, with back-pressure 370.2  367.3
    HTTP request and response                     99.0   98.1
    HTTP connection with one request             330.4  329.7
    TLS message each way                          55.4   52.2
    TLS 100 KB to the client                     794.9  798.3

Two plain Ends alone, from making to closing, come to 40.4 where there were 38.1: 1% of a connection.
"""

from __future__ import annotations

import _socket
import fcntl
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from gpen.wire.poller import EPOLLIN, EPOLLOUT, EPOLLRDHUP, Poller

_SIOCOUTQ = 0x5411  # bytes that the other end has not acknowledged yet (tcp(7))
_INPUT = EPOLLIN | EPOLLRDHUP

Tap = Callable[["End", memoryview], None]
Move = Callable[[memoryview], int]  # bytes from or to a socket: as its recv_into and send, which never wait


class Relay(Protocol):
    """The session that an End belongs to."""

    def settle(self, end: End) -> None:
        """The End has ended, or the last byte that was meant for its peer is delivered."""

    def parted(self, end: End) -> None:
        """The other machine has ended this side, though what came from it may wait to be read."""

    def failed(self) -> None:
        """An exception that nobody expected is being handled."""


class Stream:
    """What is on the wire of an End. This one is the socket's bytes as they are: PLAIN, for all who have no other.

    Another one belongs to an End of its own. It sets that End's ``recv_into`` and ``send``, which return and raise what
    the socket's do, but may take more than the socket does: what that has left goes to ``End.keep``. All is called in
    the hub, none may switch, and what is the other machine's fault is no exception but OSError, where that is told.
    """

    __slots__ = ()

    says_goodbye = False  # it has a word for the end, so that a mere close is not enough
    counts_at_once = False  # what it took is counted as sent, though it may be kept
    has_ended = False  # it was told that no more will come, which no event will tell of either
    failure: OSError | None = None  # or that has come to nothing

    @property
    def has_more(self) -> bool:
        """Whether bytes have come that no event will tell of."""
        return False

    def join(self, end: End) -> None:
        """Be the stream of this End, whose socket's own methods are its ``recv_into`` and ``send``."""

    def has_spoken(self, end: End) -> bool:
        """Whether bytes have come that nobody has read; they stay. Raises OSError."""
        return bool(end.sock.recv(1, _socket.MSG_PEEK))

    def half_close(self, end: End) -> None:
        """Nothing more will be sent; it may be told already. Raises OSError."""
        end.sock.shutdown(_socket.SHUT_WR)


PLAIN = Stream()


class Filter(Protocol):
    """What is done to the bytes on the way between an End's stream and its peer; http.py has one.

    It sets the End's ``recv_into`` and ``send``, as a stream does, and calls what the stream has set there before. What
    can't be sent yet goes to ``End.keep``. It goes by the End's attributes and public methods, whatever the stream is.
    """

    def join(self, end: End) -> None:
        """Be the filter of this End, which has its stream."""

    def served(self) -> None:
        """Something has come from this End, perhaps, and was passed on."""

    def flushed(self) -> None:
        """The socket took all that waited for room. ``End.release`` lets the peer speak again."""

    def ended(self) -> None:
        """No more will come from this End, and its peer was told so."""

    def leave(self) -> None:
        """The socket is closed: drop what refers back to the End or its session."""


class End:
    """One side of a session: a socket, the stream on it, and a filter, if any.

    ``recv_into`` and ``send`` are those of what is outermost: filter, stream or socket. What they return is counted as
    ``received`` and ``sent``. ``pending`` waits, for room in the socket or for a filter's word, when, and only when,
    the peer is not read because of that: ``keep`` sets it, ``release`` clears it, and nothing is sent meanwhile.
    ``eof``: nothing more will come from it. ``deaf``: nothing can be sent to it any more. ``tap`` is shown what it
    sends.

    Its end is watched for (EPOLLRDHUP) also while it is not read, and until it has come.
    """

    __slots__ = ("_mask", "_relay", "active", "deaf", "eof", "fd", "filter", "peer", "pending", "poller", "received",
                 "recv_into", "reset", "send", "sent", "sock", "stream", "tap", "truncated")

    peer: End

    def __init__(self, sock: Any, poller: Poller, relay: Relay, stream: Stream = PLAIN,
                 filter: Filter | None = None) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.poller = poller
        self._relay = relay
        self.recv_into: Move = sock.recv_into
        self.send: Move = sock.send
        self._mask = 0
        self.pending: memoryview | None = None
        self.received = 0
        self.sent = 0
        self.active = time.monotonic()
        self.eof = False
        self.deaf = False
        self.reset = False
        self.truncated = False  # it ended without saying so, which TLS can tell
        self.tap: Tap | None = None
        self.stream = stream
        self.filter = filter
        if stream is not PLAIN:
            stream.join(self)
        if filter is not None:
            filter.join(self)

    def start(self, peer: End) -> None:
        """Relay what comes from here to ``peer``."""
        self.peer = peer
        self._mask = _INPUT
        is_plain = self.filter is None and self.stream is PLAIN
        self.poller.add(self.fd, _INPUT, self.ready if is_plain else self._ready_for_more)

    def ready(self, events: int) -> None:
        """The poller's handler. Does not switch, but for waking the session's greenlet when all is over."""
        try:
            if events & EPOLLOUT and self._mask & EPOLLOUT:
                self._flush()
            # an error or a hang-up shows itself in reading, behind the last byte
            if self._mask & EPOLLIN:
                if events & ~EPOLLOUT:
                    self._read()
                    if events & EPOLLRDHUP and self._mask & EPOLLIN:
                        self._read()  # its end, most likely, which need not wait for the next pass
            elif events & ~EPOLLOUT and self.fd >= 0:  # the flush may have ended the session
                self._hung_up()
        except Exception:
            self._relay.failed()

    def _ready_for_more(self, events: int) -> None:
        """The poller's handler where a stream or a filter may know of more than events tell."""
        self.ready(events)
        if self.fd >= 0:
            try:
                self._catch_up()
            except Exception:
                self._relay.failed()

    def _catch_up(self) -> None:
        """End where the stream has ended behind bytes that were read; and let the filter go on."""
        if not self.eof:
            if self.stream.failure is not None:
                self._lost()
            elif self.stream.has_ended:
                self._ended()
        if self.filter is not None and self.fd >= 0:
            self.filter.served()

    def close(self) -> None:
        """Close the socket; what it has taken is still delivered by the kernel. Who never had a peer is told that this
        was all, where the stream has a word for that. A second call does nothing."""
        if self.fd >= 0:
            if self.stream.says_goodbye and not self.has_peer:
                self.half_close()
            self.poller.closed(self.fd)
            self.sock.close()
            self.fd = -1
            self._mask = 0
            self._forget()

    def mute(self) -> None:
        """Send nothing to this side any more; it is read to its end, and what the other side sends is dropped."""
        self.deaf = True
        self.pending = None
        self._watch(self._mask & ~EPOLLOUT)
        if not self.peer.eof:
            self.peer._watch(self.peer._mask | EPOLLIN)

    @property
    def has_peer(self) -> bool:
        """Whether it was started, and not closed since."""
        return hasattr(self, "peer")

    @property
    def is_full(self) -> bool:
        """Whether the socket has yet to take what is pending."""
        return bool(self._mask & EPOLLOUT and self.pending)

    @property
    def has_parted(self) -> bool:
        """Whether its other machine has ended it: no more will come than what waits in its socket."""
        return self.reset or not self._mask & EPOLLRDHUP

    def _forget(self) -> None:
        """Drop what refers back to this End or its session, so that they are freed without the garbage collector."""
        if self.filter is not None:
            self.filter.leave()
            self.filter = None
        self.stream = PLAIN
        del self._relay, self.recv_into, self.send
        if hasattr(self, "peer"):
            del self.peer

    def unacknowledged(self) -> int:
        """Bytes that were sent into the socket and are not yet with the other machine."""
        if self.deaf:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(self.fd, _SIOCOUTQ, b"\0\0\0\0"))[0])

    def _read(self) -> None:
        view = self.poller.view
        try:
            count = self.recv_into(view)
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        if not count:
            self._ended()
            return
        self.received += count
        self.active = self.poller.now
        peer = self.peer
        if self.tap is not None:
            self.tap(self, view[:count])
        if peer.deaf:
            return
        try:
            sent = peer.send(view[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            peer.deafen()
            return
        peer.sent += sent
        if sent != count:
            peer.keep(memoryview(bytes(view[sent:count])))

    def keep(self, rest: memoryview, for_room: bool = True) -> None:
        """This has to wait, and the peer with it: for room in the socket, or until the filter takes it up."""
        self.pending = rest
        self._watch(self._mask | EPOLLOUT if for_room else self._mask & ~EPOLLOUT)
        self.peer.pause()

    def pause(self) -> None:
        """Read nothing from this side for now."""
        self._watch(self._mask & ~EPOLLIN)

    def _flush(self) -> None:
        assert self.pending is not None
        try:
            sent = self.sock.send(self.pending)
        except BlockingIOError:
            return
        except OSError:
            self.deafen()
            return
        if not self.stream.counts_at_once:
            self.sent += sent
        self.active = self.poller.now
        if sent < len(self.pending):
            self.pending = self.pending[sent:]
        elif self.filter is None:
            self.release()
        else:
            self.filter.flushed()

    def release(self) -> None:
        """Nothing waits for this side any more: let the other one speak again, or pass on that it has ended."""
        self.pending = None
        self._watch(self._mask & ~EPOLLOUT)
        if self.peer.eof:
            self.half_close()
            self._relay.settle(self.peer)
        else:
            self.peer._watch(self.peer._mask | EPOLLIN)

    def _ended(self) -> None:
        """This side will send nothing more."""
        self.eof = True
        self.active = self.poller.now  # the silence behind it begins
        self._watch(self._mask & ~_INPUT)
        peer = self.peer
        if peer.pending is None and (peer.stream.says_goodbye or not (peer.eof and self.pending is None)):
            peer.half_close()
        self._relay.settle(self)
        if self.filter is not None and self.fd >= 0:
            self.filter.ended()

    def _lost(self) -> None:
        """This side's connection is gone, both ways; what came from it before is delivered."""
        self.reset = True
        self.deaf = True
        self.pending = None
        self._watch(self._mask & ~EPOLLOUT)
        self._ended()

    def deafen(self) -> None:
        """Nothing can be sent to this side any more."""
        self.reset = True
        self.mute()
        if self.eof:
            self._relay.settle(self)
        else:
            self._relay.parted(self)

    def _hung_up(self) -> None:
        """An end while nothing is read from here, because the peer takes no more; or a reset, perhaps behind the end. A
        hang-up without an error is but the second half of a close."""
        if self._mask & EPOLLRDHUP:
            self.active = self.poller.now
            self._watch(self._mask & ~EPOLLRDHUP)  # or it would be told at every pass
        is_reset = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if is_reset and self.eof:
            self.deafen()
            return
        self.reset = self.reset or bool(is_reset)
        self._relay.parted(self)

    def say(self, words: bytes) -> None:
        """Send a few last words of our own, unless others wait; whoever is gone or takes nothing needs none. Does not
        switch."""
        if words and self.pending is None:
            try:
                self.sent += self.send(memoryview(words))
            except OSError:
                return

    def wake(self) -> None:
        """Take up what of this side is in memory already, where no event tells of it. Both sides have been started."""
        if self.stream is not PLAIN:
            if self._mask & EPOLLIN and self.stream.has_more:
                self.ready(EPOLLIN)
            self._catch_up()

    def has_spoken(self) -> bool:
        """Whether bytes have come that nobody has read."""
        try:
            return self.stream.has_spoken(self)
        except OSError:
            return False

    def half_close(self) -> None:
        """Nothing more will be sent to this side."""
        if self.deaf:
            return
        try:
            self.stream.half_close(self)
        except OSError:
            self.deaf = True

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self.poller.change(self.fd, mask)
            self._mask = mask
