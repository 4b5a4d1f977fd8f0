# cython: nonecheck=False
"""The bytes of a session: what one side sends, the other gets, to the last byte.

An End is one side, with its socket. A handler reads into the poller's shared buffer and sends at once; only what the
other side does not take is copied, and then reading stops until it is gone (back-pressure). An end of input is passed
on as a half-close behind the last byte. A reset is passed on as an end, behind the last byte too: what a socket still
holds is never thrown away because the other side is gone. Bytes in bulk are not read, but go through a pipe (pipes.py),
and then it is the pipe that what is left waits in.

As long as there is but small talk over TCP, epoll tells an End once of what has come (EPOLLET, ``_mask`` is _ONCE).
Else it would look at each socket again the next time it is asked, and a side that has ended would have to be stilled by
a system call: a request takes 2% less CPU time so, and a connection 2% (medians of 5 and 10 rounds in turns with the
code before). It is safe because a read that is shorter than its buffer has left nothing (epoll(7)); so it is over, once
and for all, with what makes that untrue or lets something wait: a large read, urgent data, an error, back-pressure. On
a unix socket, where a read ends at descriptors that were sent along, it never begins.

Two greenlets with recv and sendall on gevent's sockets reached a third of pen's requests/s in the trials before gpen
was written. This is the one file where speed outranks beauty: the common case, in ``ready``, is one straight line, of
120 instructions with the kernel module's where it is compiled, and without the checks for None (nonecheck above) that
all other modules have. So no attribute here is None that is declared as one of gpen's own types: an End without a peer
has NOBODY.

What an End speaks is put together of a Stream, which is on its wire, and a Filter, which is on the way, if any. Both
are chosen when it is made, and set its ``recv_into`` and ``send``; a plain End has neither, and the kernel module is
asked.
"""

from __future__ import annotations

import _socket
import fcntl
import struct
from collections.abc import Callable
from typing import Protocol

from gpen.wire import kernel
from gpen.wire.kernel import (
    AGAIN,
    EPOLLERR,
    EPOLLET,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    LOST,
    MORE,
    Handler,
    Pipe,
    Socket,
)
from gpen.wire.pipes import PIECE
from gpen.wire.poller import BUFFER_SIZE, Poller

_SIOCOUTQ = 0x5411  # bytes that the other end has not acknowledged yet (tcp(7))
_INPUT = EPOLLIN | EPOLLRDHUP
_END = EPOLLRDHUP | EPOLLHUP | EPOLLERR
_RARE = EPOLLERR | EPOLLPRI  # with one of these, more has come than bytes and their end
_ONCE = _INPUT | EPOLLPRI  # what an End watches for that is told once
# Bytes of a read. Pieces that are asked for one by one cost less CPU time through a pipe (medians of 3 rounds on a busy
# machine): of 16 KiB 4%, 32 KiB 8% (pure Python 10%), 64 KiB 8% (21%), 96 KiB 15% (22%), 128 KiB 7% (25%).
_LARGE = BUFFER_SIZE // 4
_BULK = 2  # large reads in a row, behind which there are more of them
# Bytes that one event moves through a pipe, at the most, piece by piece as long as more comes: a millisecond. In MB for
# each second of CPU time, medians of 6 rounds, compiled and pure: 3,800 and 3,700; of a quarter of it 3,300 and 3,400;
# while pieces are of 32 KiB at least 3,300 and 2,800; of one piece 2,400 and 3,200 (3 rounds).
_MOST = 4 * PIECE

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

    __slots__ = ("counts_at_once", "failure", "has_ended", "says_goodbye")

    def __init__(self) -> None:
        self.says_goodbye = False  # it has a word for the end, so that a mere close is not enough
        self.counts_at_once = False  # what it took is counted as sent, though it may be kept
        self.has_ended = False  # it was told that no more will come, which no event will tell of either
        self.failure: OSError | None = None  # or that has come to nothing

    @property
    def has_more(self) -> bool:
        """Whether bytes have come that no event will tell of."""
        return False

    @property
    def protocol(self) -> str:
        """The one that was agreed on for what is on it (ALPN); empty where none was."""
        return ""

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
    ``reader`` is what it reads by: the stream, and what may be put before that.
    """

    reader: Move

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


class End(Handler):
    """One side of a session: a socket, the stream on it, and a filter, if any.

    ``recv_into`` and ``send`` are those of what is outermost: filter, stream or socket; the kernel is asked without
    them where they are the socket's own. What they return is counted as ``received`` and ``sent``. ``pending``, in
    memory or in a pipe, waits, for room in the socket or for a filter's word, when, and only when, the peer is not read
    because of that: ``keep`` sets it, ``release`` clears it, and nothing is sent meanwhile.
    ``eof``: nothing more will come from it. ``deaf``: nothing can be sent to it any more. ``tap`` is shown what it
    sends.

    Its end is watched for (EPOLLRDHUP) also while it is not read, and until it has come.
    """

    __slots__ = ("_is_plain", "_large", "_mask", "_recv_into", "_relay", "_send", "active", "deaf", "eof", "fd",
                 "filter", "flags", "peer", "pending", "poller", "received", "reset", "sent", "sock", "stream", "tap",
                 "truncated")

    peer: End  # NOBODY but from ``start`` to ``close``

    def __init__(self, sock: Socket, poller: Poller, relay: Relay, stream: Stream = PLAIN,
                 filter: Filter | None = None) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.poller = poller
        self._relay = relay
        self._recv_into: Move | None = None
        self._send: Move | None = None
        self.peer = NOBODY
        self._mask = 0
        self._large = 0  # reads in a row, up to _BULK
        self.flags = 0  # what is being passed on from here may be sent with them
        self.pending: memoryview | Pipe | None = None
        self.received = 0
        self.sent = 0
        self.active = kernel.monotonic()
        self.eof = False
        self.deaf = False
        self.reset = False
        self.truncated = False  # it ended without saying so, which TLS can tell
        self.tap: Tap | None = None
        self.stream = stream
        self.filter = filter
        self._is_plain = stream is PLAIN and filter is None
        if stream is not PLAIN:
            stream.join(self)
        if filter is not None:
            filter.join(self)

    @property
    def recv_into(self) -> Move:
        """Reads what comes from this side."""
        return self._recv_into or self.sock.recv_into

    @recv_into.setter
    def recv_into(self, move: Move) -> None:
        self._recv_into = move

    @property
    def send(self) -> Move:
        """Sends to this side."""
        return self._send or self.sock.send

    @send.setter
    def send(self, move: Move) -> None:
        self._send = move

    def speak(self, stream: Stream) -> None:
        """From now on this is on its wire, where it was plain and nothing has been relayed."""
        stream.join(self)
        self.stream = stream
        self._is_plain = False
        self.active = kernel.monotonic()

    def start(self, peer: End) -> None:
        """Relay what comes from here to ``peer``. Raises OSError, as the poller's ``add``."""
        self.peer = peer
        if self._is_plain and self.sock.family != _socket.AF_UNIX:
            self._mask = _ONCE
            self.poller.add(self.fd, _ONCE | EPOLLET, self)
        else:
            self._mask = _INPUT
            self.poller.add(self.fd, _INPUT, self)

    def ready(self, events: int) -> None:
        """What the poller tells. Does not switch."""
        peer = self.peer
        is_all = events == EPOLLIN  # most often; else its end is behind it
        if (self._mask == _ONCE and (is_all or not events & _RARE)
                and peer._send is None and self.tap is None and not peer.deaf):
            # with its end in one segment, a connection costs 111 us of CPU and not 124
            count, sent = kernel.forward(self.sock, peer.sock, self.poller.view, 0 if is_all else MORE)
            if sent == count and 0 < count < _LARGE:
                self.received += count
                peer.sent += count
                self.active = self.poller.now
                if not is_all:
                    self._ended()  # its end had come before the read, which then has left nothing
            else:
                self._account(count, sent)
            return
        self._see_to(events)
        if not self._is_plain and self.fd >= 0:
            self._catch_up()

    def _see_to(self, events: int) -> None:
        if events & EPOLLOUT and self._mask & EPOLLOUT:
            self._flush()
        # an error or a hang-up shows itself in reading, behind the last byte
        if self._mask & EPOLLIN:
            if events & EPOLLRDHUP:
                self._read(MORE)
                if self._mask & EPOLLIN and self._large < _BULK:
                    self._read(MORE)  # its end, most likely, which need not wait for the next pass
            elif events & ~EPOLLOUT:
                self._read(0)
            if self._mask == _ONCE and events & _RARE:  # a read ends at urgent data, say, though there is more
                self._watch(_INPUT)
        elif events & _END and self.fd >= 0:  # the flush may have ended the session
            self._hung_up()

    def failed(self) -> None:
        self.deaf = self.peer.deaf = True  # nothing may follow what is lost, even if no memory is left to end this
        self._relay.failed()

    def _catch_up(self) -> None:
        """Stream and filter may know of more than events tell. End where the stream has ended behind bytes that were
        read; and let the filter go on."""
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
            if self.pending is not None:
                self._drop_pending()
            # what refers back to this End or its session goes, so that they are freed without the garbage collector
            if self.filter is not None:
                self.filter.leave()
                self.filter = None
            self.stream = PLAIN
            self._recv_into = self._send = self.tap = None
            self._relay = None  # type: ignore[assignment]
            self.peer = NOBODY

    def mute(self) -> None:
        """Send nothing to this side any more; it is read to its end, and what the other side sends is dropped."""
        self.deaf = True
        self._drop_pending()
        self._watch(self._mask & ~EPOLLOUT)
        if not self.peer.eof:
            self.peer._watch(self.peer._mask | EPOLLIN)

    @property
    def has_peer(self) -> bool:
        """Whether it was started, and not closed since."""
        return self.peer is not NOBODY

    @property
    def is_full(self) -> bool:
        """Whether the socket has yet to take what is pending."""
        return bool(self._mask & EPOLLOUT and self.pending)

    @property
    def has_parted(self) -> bool:
        """Whether its other machine has ended it: no more will come than what waits in its socket."""
        return self.reset or not self._mask & EPOLLRDHUP

    def unacknowledged(self) -> int:
        """Bytes that were sent into the socket and are not yet with the other machine."""
        if self.deaf:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(self.fd, _SIOCOUTQ, b"\0\0\0\0"))[0])

    def _read(self, flags: int) -> None:
        """Read what there is, and pass it on; with MORE its end is behind it."""
        view, peer = self.poller.view, self.peer
        is_direct = self._recv_into is None and peer._send is None and self.tap is None and not peer.deaf
        if self._large == _BULK:
            if is_direct and self._splice(flags):
                return
            self._large = 0
        if is_direct:
            count, sent = kernel.forward(self.sock, peer.sock, view, flags)
        else:
            count, sent = self._transfer(view, flags)
        self._account(count, sent)

    def _account(self, count: int, sent: int) -> None:
        """So many bytes were read into the shared buffer, and sent from there, as ``kernel.forward`` tells it."""
        if count <= 0:
            if count == LOST or (not count and self.reset):  # which a pipe was told of
                self._lost()
            elif not count:
                self._ended()
            return
        if count < _LARGE:
            self._large = 0
        else:
            self._large += 1
            if self._mask == _ONCE:
                self._watch(_INPUT)
        self.received += count
        self.active = self.poller.now
        peer = self.peer
        if sent == count:
            peer.sent += count
        elif sent == LOST:
            if not peer.deaf:
                peer.deafen()
        else:
            sent = max(sent, 0)
            peer.sent += sent
            peer.keep(memoryview(bytes(self.poller.view[sent:count])))

    def _transfer(self, view: memoryview, flags: int) -> tuple[int, int]:
        """As ``kernel.forward``, where more is done with what is read than to send it."""
        peer = self.peer
        count = kernel.receive(self.sock, view) if self._recv_into is None else attempt(self._recv_into, view)
        if count <= 0:
            return count, 0
        if self.tap is not None:
            self.tap(self, view[:count])
        if peer.deaf:
            return count, LOST
        if peer._send is None:
            return count, kernel.transmit(peer.sock, view, count, flags)
        self.flags = flags
        sent = attempt(peer._send, view[:count])
        self.flags = 0
        return count, sent

    def _splice(self, flags: int) -> bool:
        """Pass on what there is through a pipe, and what has come by then; False when it must be read."""
        peer, pipes = self.peer, self.poller.pipes
        pipe = pipes.take()
        if pipe is None:
            return False
        moved = 0
        while True:
            count = pipe.fill(self.sock, PIECE)
            if count <= 0:
                break
            moved += count
            self.received += count
            sent = pipe.drain(peer.sock, flags)
            if sent > 0:
                peer.sent += sent
            if sent != count:
                self._not_drained(pipe, sent)
                return True
            if moved >= _MOST:
                break
        pipes.give(pipe)
        self.active = self.poller.now
        if moved < _LARGE:
            self._large = 0
        if count == LOST:
            self.reset = True  # which is not told again; but what is behind urgent data has yet to be read
        return moved > 0

    def _not_drained(self, pipe: Pipe, sent: int) -> None:
        """The peer has not taken all that is in the pipe."""
        self.active = self.poller.now
        if sent == LOST:
            self.poller.pipes.give(pipe)
            self.peer.deafen()
        else:
            self.peer.keep(pipe)

    def begin(self, view: memoryview) -> None:
        """Send what the peer has said before it was one, and keep what is not taken. Both sides have been started."""
        sent = attempt(self.send, view)
        if sent == LOST:
            self.deafen()
            return
        sent = max(sent, 0)
        self.sent += sent
        if sent < len(view):
            self.keep(view[sent:])

    def keep(self, rest: memoryview | Pipe, for_room: bool = True) -> None:
        """This has to wait, and the peer with it: for room in the socket, or until the filter takes it up."""
        self.pending = rest
        self._watch(self._mask | EPOLLOUT if for_room else self._mask & ~EPOLLOUT)
        self.peer.pause()

    def pause(self) -> None:
        """Read nothing from this side for now."""
        self._watch(self._mask & ~EPOLLIN)

    def go_on(self) -> None:
        """Read again what there is, where ``pause`` has stopped that; unless the peer has no room."""
        if self.fd >= 0 and not self.eof and self.peer.pending is None:
            self._watch(self._mask | EPOLLIN)
            self.ready(EPOLLIN)

    def read_by(self, move: Move | None) -> Move | None:
        """From now on this reads what comes from here, and may call ``pause``; None: as from a socket. How it was
        before."""
        before, self._recv_into = self._recv_into, move
        if self._mask == _ONCE:
            self._watch(_INPUT)
        return before

    def _flush(self) -> None:
        pending = self.pending
        assert pending is not None
        count = len(pending)
        if isinstance(pending, Pipe):
            sent = pending.drain(self.sock, 0)
        else:
            sent = kernel.transmit(self.sock, pending, count, 0)
        if sent < 0:
            if sent == LOST:
                self.deafen()
            return
        if not self.stream.counts_at_once:
            self.sent += sent
        self.peer.active = self.poller.now  # whose bytes they are
        if sent < count:
            if not isinstance(pending, Pipe):
                self.pending = pending[sent:]
        elif self.filter is None:
            self.release()
        else:
            self.filter.flushed()

    def release(self) -> None:
        """Nothing waits for this side any more: let the other one speak again, or pass on that it has ended."""
        self._drop_pending()
        self._watch(self._mask & ~EPOLLOUT)
        if self.peer.eof:
            self.half_close()
            self._relay.settle(self.peer)
        else:
            self.peer._watch(self.peer._mask | EPOLLIN)

    def _drop_pending(self) -> None:
        """Nothing waits any more, or what waits is not wanted."""
        pending, self.pending = self.pending, None
        if isinstance(pending, Pipe):
            self.poller.pipes.give(pending)

    def _ended(self) -> None:
        """This side will send nothing more."""
        self.eof = True
        self.active = self.poller.now  # the silence behind it begins
        peer = self.peer
        if peer.pending is None and (peer.stream.says_goodbye or not (peer.eof and self.pending is None)):
            peer.half_close()
        self._relay.settle(self)
        if self.fd < 0:  # that was all
            return
        if self._mask == _ONCE:
            self._mask = EPOLLPRI  # it was told, and is not told again
        else:
            self._watch(self._mask & ~_INPUT)
        if self.filter is not None:
            self.filter.ended()

    def _lost(self) -> None:
        """This side's connection is gone, both ways; what came from it before is delivered."""
        self.reset = True
        self.deaf = True
        self._drop_pending()
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
        """Take up what of this side is in memory already, where no event tells of it: nothing, where its stream is
        PLAIN. Both sides have been started."""
        if self._mask & EPOLLIN and self.stream.has_more:
            self.ready(EPOLLIN)
        else:
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
            if self._is_plain:
                self.sock.shutdown(_socket.SHUT_WR)
            else:
                self.stream.half_close(self)
        except OSError:
            self.deaf = True

    def _watch(self, mask: int) -> None:
        mask &= ~EPOLLPRI
        if mask != self._mask and self.fd >= 0:
            self.poller.change(self.fd, mask)
            self._mask = mask


NOBODY: End = End.__new__(End)  # the peer of one that has none: whatever is done to it, nothing comes of it
NOBODY.fd, NOBODY._mask, NOBODY.eof, NOBODY.deaf, NOBODY.peer = -1, 0, True, True, NOBODY
NOBODY.stream, NOBODY.flags = PLAIN, 0


def attempt(move: Move, view: memoryview) -> int:
    """What a stream or a filter has read or sent, as ``kernel.receive`` and ``kernel.transmit`` tell it."""
    try:
        return move(view)
    except BlockingIOError:
        return AGAIN
    except OSError:
        return LOST
