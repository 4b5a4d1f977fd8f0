"""The bytes of a session: what one side sends, the other gets, to the last byte.

An End is one side, with its socket. A handler reads into the poller's shared buffer and sends at once; only what the
other side does not take is copied, and then reading stops until it is gone (back-pressure). An end of input is passed
on as a half-close behind the last byte. A reset is passed on as an end, behind the last byte too: what a socket still
holds is never thrown away because the other side is gone.

Two greenlets with recv and sendall on gevent's sockets reached a third of pen's requests/s in the trials before gpen
was written; this way reaches 0.94 of pen's (32 kept connections; the README has the table). So this is the one file
where speed outranks beauty: bound methods are kept, and the common case of ``_read`` is one straight line.
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


class Relay(Protocol):
    """The session that an End belongs to."""

    def settle(self, end: End) -> None:
        """The End has ended, or the last byte that was meant for its peer is delivered."""

    def parted(self, end: End) -> None:
        """The other machine has ended this side, though what came from it may wait to be read."""

    def failed(self) -> None:
        """An exception that nobody expected is being handled."""


class End:
    """One side of a session.

    ``received`` bytes were read from its socket and ``sent`` went into it; ``pending`` wait for room in it. ``eof``:
    nothing more will come from it. ``deaf``: nothing can be sent to it any more. ``tap`` is shown what it sends.

    Its end is watched for (EPOLLRDHUP) also while it is not read, and until it has come.

    What a subclass (tls.py, http.py) may rely on, and has to keep:

    - ``_recv_into`` and ``_send`` are the socket's, and may be set to others that return, and raise, as those do. What
      they return is counted as received and sent.
    - ``pending`` is set when, and only when, the other side is not read because of what waits here: whoever sets it
      takes EPOLLIN from the peer's mask, and whoever has sent the last of it calls ``_flushed``.
    - ``_read`` and ``_flush`` are called in the hub, for what epoll has told; ``_ended`` once, when no more will come;
      ``half_close`` when no more will be sent, perhaps while ``pending`` waits; ``_forget`` when the socket is closed,
      and drops what refers back. Each may be extended. None may switch, and none raises what is the peer's fault.
    """

    __slots__ = ("_mask", "_poller", "_recv_into", "_relay", "_send", "active", "deaf", "eof", "fd", "peer", "pending",
                 "received", "reset", "sent", "sock", "tap", "truncated")

    must_say_goodbye = False  # whether its protocol has a word for the end, so that a mere close is not enough

    peer: End

    def __init__(self, sock: Any, poller: Poller, relay: Relay) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self._poller = poller
        self._relay = relay
        self._recv_into = sock.recv_into
        self._send = sock.send
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

    def start(self, peer: End) -> None:
        """Relay what comes from here to ``peer``."""
        self.peer = peer
        self._mask = _INPUT
        self._poller.add(self.fd, _INPUT, self.ready)

    def ready(self, events: int) -> None:
        """The poller's handler. Does not switch, but for waking the session's greenlet when all is over."""
        try:
            if events & EPOLLOUT and self.pending is not None:
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

    def close(self) -> None:
        """Close the socket; what it has taken is still delivered by the kernel. A second call does nothing."""
        if self.fd >= 0:
            self._poller.closed(self.fd)
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
    def has_parted(self) -> bool:
        """Whether its other machine has ended it: no more will come than what waits in its socket."""
        return self.reset or not self._mask & EPOLLRDHUP

    def _forget(self) -> None:
        """Drop what refers back to this End or its session, so that they are freed without the garbage collector."""
        del self._relay, self._recv_into, self._send
        if hasattr(self, "peer"):
            del self.peer

    def unacknowledged(self) -> int:
        """Bytes that were sent into the socket and are not yet with the other machine."""
        if self.deaf:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(self.fd, _SIOCOUTQ, b"\0\0\0\0"))[0])

    def _read(self) -> None:
        view = self._poller.view
        try:
            count = self._recv_into(view)
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        if not count:
            self._ended()
            return
        self.received += count
        self.active = self._poller.now
        peer = self.peer
        if self.tap is not None:
            self.tap(self, view[:count])
        if peer.deaf:
            return
        try:
            sent = peer._send(view[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            peer._deafen()
            return
        peer.sent += sent
        if sent != count:
            peer.pending = memoryview(bytes(view[sent:count]))
            peer._watch(peer._mask | EPOLLOUT)
            self._watch(self._mask & ~EPOLLIN)

    def _flush(self) -> None:
        assert self.pending is not None
        try:
            sent = self._send(self.pending)
        except BlockingIOError:
            return
        except OSError:
            self._deafen()
            return
        self.sent += sent
        self.active = self._poller.now
        if sent < len(self.pending):
            self.pending = self.pending[sent:]
        else:
            self._flushed()

    def _flushed(self) -> None:
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
        self.active = self._poller.now  # the silence behind it begins
        self._watch(self._mask & ~_INPUT)
        peer = self.peer
        if peer.pending is None and (peer.must_say_goodbye or not (peer.eof and self.pending is None)):
            peer.half_close()
        self._relay.settle(self)

    def _lost(self) -> None:
        """This side's connection is gone, both ways; what came from it before is delivered."""
        self.reset = True
        self.deaf = True
        self.pending = None
        self._watch(self._mask & ~EPOLLOUT)
        self._ended()

    def _deafen(self) -> None:
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
            self.active = self._poller.now
            self._watch(self._mask & ~EPOLLRDHUP)  # or it would be told at every pass
        is_reset = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if is_reset and self.eof:
            self._deafen()
            return
        self.reset = self.reset or bool(is_reset)
        self._relay.parted(self)

    def say(self, words: bytes) -> None:
        """Send a few last words of our own; whoever is gone or takes nothing needs none. Does not switch."""
        try:
            self.sent += self.sock.send(words) if words else 0
        except OSError:
            return

    def receive(self, view: memoryview) -> int:
        """Read outside of the relay, as recv_into does. Raises OSError. Does not switch."""
        return int(self._recv_into(view))

    def wake(self) -> None:
        """Take up what of this side is in memory already, where no event tells of it. Both sides have been started."""

    def has_spoken(self) -> bool:
        """Whether bytes wait in the socket, unread."""
        try:
            return bool(self.sock.recv(1, _socket.MSG_PEEK))
        except OSError:
            return False

    def half_close(self) -> None:
        """Nothing more will be sent to this side."""
        if self.deaf:
            return
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.deaf = True

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self._poller.change(self.fd, mask)
            self._mask = mask
