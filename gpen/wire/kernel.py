"""What is asked of the kernel for each connection and each byte. This file is pure Python's way; kernel.pyx is the same
in C, and is what runs where gpen was compiled (gpen/core.py). Both keep to one contract, which is explained here,
and tests/wire/test_kernel.py tries both.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import Any

from gpen.model.address import UNIX, Endpoint, normalize

AGAIN = -1  # there is no room: an event will tell when there is
LOST = -2  # the connection is gone
MORE = _socket.MSG_MORE  # send(2)
BATCH = 64  # events at once; no more, so that the memory for them is at hand (glibc's tcache)

Socket = _socket.socket  # of a connection; compiled, it is one of our own, which makes such a one when asked for more
_ESTABLISHED = 1  # TCP_ESTABLISHED in netinet/tcp.h
_STREAM = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_UNTOLD = (errno.EAGAIN, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENOMEM)  # of splice: the connection may be well
_DATAGRAMS = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK
IP_PKTINFO = 8  # the socket module of Python 3.10 does not name it (ip(7))
_LARGEST = 1 << 16  # bytes: more than a datagram can have
_ANCILLARY = 64  # bytes: more than the kernel's word on one address needs


__all__ = ["AGAIN", "BATCH", "EPOLLERR", "EPOLLET", "EPOLLHUP", "EPOLLIN", "EPOLLOUT", "EPOLLPRI", "EPOLLRDHUP",
           "IP_PKTINFO", "LOST", "MORE", "Datagrams", "Epoll", "Handler", "Pipe", "Socket", "accept", "connect",
           "datagram", "forward", "hear", "monotonic", "place", "post", "progress", "receive", "say", "stream", "take",
           "transmit"]


class Handler:
    """What is told of the events of a descriptor that is watched."""

    __slots__ = ()

    def ready(self, events: int) -> None:
        """These events have come (EPOLLIN and others). Must not switch but into a greenlet that waits for it, nor
        block."""
        raise NotImplementedError

    def failed(self) -> None:
        """``ready`` has raised an exception, which is being handled: see to it, or raise it again, and it is told."""
        raise


class Epoll:
    """An epoll with a handler for each descriptor. Level-triggered, so that nothing is missed and all may be partial,
    where the mask has no EPOLLET: what that tells of is not told again unless more comes, or the mask is changed.

    ``now`` is the monotonic time at which epoll answered last. An event is for those only who watched the descriptor
    when epoll was asked.
    """

    def __init__(self, failed: Callable[[Handler], None]) -> None:
        """``failed`` is called with a handler that has raised an exception, which is being handled."""
        self.now = monotonic()
        self._failed = failed
        self._handlers: list[Handler | None] = [None] * 64  # by descriptor
        self._added: dict[int, Handler] = {}  # since epoll was asked last
        self._epoll = select.epoll()

    @property
    def watched(self) -> int:
        """How many descriptors are watched."""
        return sum(handler is not None for handler in self._handlers) + len(self._added)

    def fileno(self) -> int:
        """Its own descriptor; -1 when it is closed."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def add(self, fd: int, mask: int, handler: Handler) -> None:
        """Tell ``handler`` of the events of this descriptor from now on. Raises OSError, with ENOSPC where the user
        may watch no more (fs.epoll.max_user_watches)."""
        self._epoll.register(fd, mask)
        self._added[fd] = handler

    def change(self, fd: int, mask: int) -> None:
        """Watch for other events. Without any, errors and hang-ups are told once; they can't be left out, and would
        come at every pass."""
        self._epoll.modify(fd, mask or select.EPOLLET)

    def remove(self, fd: int) -> None:
        """Watch it no more; it stays open."""
        handlers = self._handlers
        is_watched = fd in self._added or (0 <= fd < len(handlers) and handlers[fd] is not None)
        self.closed(fd)
        if is_watched:
            self._epoll.unregister(fd)

    def closed(self, fd: int) -> None:
        """The descriptor is about to be closed; the kernel takes it out of the epoll by itself (epoll(7))."""
        if self._added:
            self._added.pop(fd, None)
        if fd >= 0:
            try:
                self._handlers[fd] = None
            except IndexError:
                return  # nothing ever watched it

    def dispatch(self, seconds: float) -> int:
        """Ask epoll, which waits so long for the first event, and tell the handlers; how many events there were. Raises
        OSError when epoll itself fails."""
        if self._added:
            self._take_up()
        ready = self._epoll.poll(seconds, BATCH)
        self.now = monotonic()
        handlers = self._handlers
        for fd, events in ready:
            handler = handlers[fd]
            # a handler earlier in this batch may have closed this one's session
            if handler is not None:
                try:
                    handler.ready(events)
                except Exception:
                    self._failed(handler)
        return len(ready)

    def _take_up(self) -> None:
        """From now on events may be for those who came since epoll was asked last. To keep them apart until then costs
        nothing for each event: 0.03 us of a pass with two (1.25 us), and 0.3 us of a new connection's 110."""
        handlers = self._handlers
        for fd, handler in self._added.items():
            try:
                handlers[fd] = handler
            except IndexError:
                handlers += [None] * (2 * fd - len(handlers))
                handlers[fd] = handler
        self._added.clear()

    def close(self) -> None:
        """Stop watching."""
        self._epoll.close()


def accept(sock: Any) -> tuple[Socket, str, int] | None:
    """The next client that waits at a listening socket, with its address (UNIX for that of a unix socket) and port;
    None when none waits. Raises OSError."""
    try:
        fd, peer = sock._accept()
    except BlockingIOError:
        return None
    client = Socket(sock.family, _socket.SOCK_STREAM, 0, fd)
    client.setblocking(False)
    if not isinstance(peer, tuple):
        return client, UNIX, 0
    host = peer[0]
    return client, normalize(host) if ":" in host else host, peer[1]


def stream(family: int) -> Socket:
    """A socket for a connection, which never waits. Raises OSError."""
    return Socket(family, _STREAM)


def connect(sock: Socket, endpoint: Endpoint) -> int:
    """Begin to connect: 0 when it is done, or the errno; EINPROGRESS when ``progress`` will tell."""
    return sock.connect_ex(endpoint.sockaddr)


def progress(sock: Socket) -> int:
    """How far a connect over the internet is: 0, EINPROGRESS, or why it failed.

    Its state is the first byte of tcp_info; to ask who is at its other end takes 2,100 instructions more, for that is
    made an address.

    To connect again would say so as well, but when the server has reset the connection by now, that throws away what
    it had sent before.
    """
    try:
        if sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 1)[0] != _ESTABLISHED:
            sock.recv(1, _socket.MSG_PEEK)
    except BlockingIOError:
        return errno.EINPROGRESS
    except OSError as error:
        return error.errno or errno.ECONNABORTED
    return 0


monotonic = time.monotonic  # seconds of a clock that never jumps


def forward(source: Socket, target: Socket, view: memoryview, flags: int) -> tuple[int, int]:
    """Read what there is into ``view``, as ``receive`` does, and send it at once, as ``transmit`` does: what each of
    them returns, which is 0 where there was nothing to send. In one, for that is what a relay does most often."""
    try:
        count = source.recv_into(view)
    except BlockingIOError:
        return AGAIN, 0
    except OSError:
        return LOST, 0
    if not count:
        return 0, 0
    try:
        return count, target.send(view[:count], flags) if flags else target.send(view[:count])
    except BlockingIOError:
        return count, AGAIN
    except OSError:
        return count, LOST


def receive(sock: Socket, view: memoryview) -> int:
    """Read what there is into a memory view: how many bytes, 0 at the end of input, AGAIN when nothing has come, or
    LOST."""
    try:
        return sock.recv_into(view)
    except BlockingIOError:
        return AGAIN
    except OSError:
        return LOST


def hear(sock: Socket, view: memoryview) -> int:
    """As ``receive``, but raises OSError in the place of LOST."""
    try:
        return sock.recv_into(view)
    except BlockingIOError:
        return AGAIN


def say(sock: Socket, data: bytes, flags: int) -> int:
    """As ``transmit``, for all of some bytes, which need no view then."""
    try:
        return sock.send(data, flags)
    except BlockingIOError:
        return AGAIN
    except OSError:
        return LOST


def transmit(sock: Socket, view: memoryview, count: int, flags: int) -> int:
    """Send the first ``count`` bytes of ``view``: how many were taken, AGAIN or LOST. With MORE the end follows
    (SHUT_WR, or a close), and what was sent goes with it, in one segment."""
    try:
        return sock.send(view[:count], flags) if flags else sock.send(view[:count])
    except BlockingIOError:
        return AGAIN
    except OSError:
        return LOST


class Pipe:
    """A pipe through which bytes go from one socket to another, by splice(2), and not through our memory. Its length is
    how many are in it; it is closed when it is dropped."""

    __slots__ = ("_count", "_inlet", "_outlet")

    def __init__(self, size: int) -> None:
        """Raises OSError: there are no descriptors, or this user may not have so large a one, or not so many (EPERM;
        pipe(7))."""
        self._count = 0
        self._outlet = self._inlet = -1
        self._outlet, self._inlet = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(self._inlet, fcntl.F_SETPIPE_SZ, size)

    def __len__(self) -> int:
        return self._count

    def __del__(self) -> None:
        self.close()

    def fill(self, sock: Socket, most: int) -> int:
        """Take at most so many bytes from a socket, while the pipe is empty: how many, or LOST. 0 when only reading the
        socket will tell: nothing has come, or the end, or urgent data is in the way, which looks like either; or the
        kernel can't splice from this one."""
        try:
            self._count = os.splice(sock.fileno(), self._inlet, most, flags=_SPLICE)
        except OSError as error:
            return 0 if error.errno in _UNTOLD else LOST
        return self._count

    def drain(self, sock: Socket, flags: int) -> int:
        """Send what is in the pipe, as ``transmit`` does."""
        try:
            sent = os.splice(self._outlet, sock.fileno(), self._count,
                             flags=_SPLICE | os.SPLICE_F_MORE if flags & MORE else _SPLICE)
        except BlockingIOError:
            return AGAIN
        except OSError:
            return LOST
        self._count -= sent
        return sent

    def close(self) -> None:
        """With what is in it. A second call does nothing."""
        if self._inlet >= 0:
            os.close(self._outlet)
            os.close(self._inlet)
            self._outlet = self._inlet = -1


def datagram(family: int) -> Socket:
    """A socket for datagrams to one server, which never waits. Raises OSError."""
    return Socket(family, _DATAGRAMS)


def place(sock: Socket) -> tuple[str, int]:
    """Where a socket is: an address in its one form, and a port. Raises OSError."""
    name = sock.getsockname()
    return normalize(name[0]), name[1]


def take(sock: Socket) -> bytes | None:
    """The next datagram, None when none has come. Raises OSError, with what became of one that was sent."""
    try:
        return sock.recv(_LARGEST)
    except BlockingIOError:
        return None


# post(sock, data): send a datagram, or nothing of it; how many bytes. Raises OSError.
post = Socket.send


class Datagrams:
    """What clients send to a bound UDP socket, and how they are answered. Each is known by a ``key``, which tells
    others only that it is the same client. Where the socket is bound to all addresses (``everywhere``), and has
    the option by which the kernel tells which of them was asked, that is part of the key, and answers come from
    there."""

    __slots__ = ("_everywhere", "_ours", "_sock")

    def __init__(self, sock: Any, everywhere: bool) -> None:
        self._sock = sock
        self._everywhere = everywhere
        # ipi_spec_dst, which is ours also where the datagram was a broadcast; ipi6_addr
        self._ours = slice(4, 8) if sock.family == _socket.AF_INET else slice(16)

    def receive(self) -> tuple[bytes, Any] | None:
        """The next datagram, and its client's key; None when none has come. Raises OSError."""
        try:
            if not self._everywhere:
                return self._sock.recvfrom(_LARGEST)  # type: ignore[no-any-return]
            data, ancillary, _, peer = self._sock.recvmsg(_LARGEST, _ANCILLARY)
        except BlockingIOError:
            return None
        return data, (peer, ancillary[0][2][self._ours])

    def answer(self, data: bytes, key: Any) -> int:
        """Send a datagram to the client of this key: how many bytes. Raises OSError."""
        if not self._everywhere:
            return self._sock.sendto(data, key)  # type: ignore[no-any-return]
        peer, ours = key
        if len(ours) == 4:
            ancillary = (_socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4x", 0, ours))
        else:
            ancillary = (_socket.IPPROTO_IPV6, _socket.IPV6_PKTINFO, struct.pack("=16sI", ours, 0))
        return self._sock.sendmsg((data,), (ancillary,), 0, peer)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the socket; who tries to receive or to answer gets an OSError from now on."""
        self._sock.close()

    def peer(self, key: Any) -> Any:
        """The address of the client of this key, as the socket module tells addresses."""
        return key[0] if self._everywhere else key

    def asked(self, key: Any) -> bytes:
        """Which of our addresses the client of this key has asked, in bytes; empty where that is known anyway."""
        return key[1] if self._everywhere else b""

    def key_of(self, peer: Any, asked: bytes) -> Any:
        """The key of a client whose ``peer`` and ``asked`` are these, in another process perhaps."""
        return (peer, asked) if self._everywhere else peer
