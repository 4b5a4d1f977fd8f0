"""From a server's address to a connection that can be given to a client.

Connected; told who the client is (PROXY protocol); and, where servers speak first, with the first byte waiting in it.
Until that byte has been passed on, a client can still be given to another server, and notices nothing. What the client
says meanwhile stays in the kernel, as much as a socket's buffer holds, and goes to the server that answers.
"""

from __future__ import annotations

import _socket
import errno
import os
import time

import gevent

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from gpen.proto.protocol import Protocol
from gpen.wire.introduction import Introduction
from gpen.wire.poller import EPOLLIN, EPOLLOUT, Poller
from gpen.wire.sockets import Socket, abort, connect, has_ended

_PIECE_PAUSE = 0.01


def dial(endpoint: Endpoint, settings: Settings, poller: Poller, seconds: float, protocol: Protocol,
         header: bytes | Introduction = b"") -> Socket:
    """A connection to a server within so many seconds, and its greeting, if by its protocol it speaks first, within
    those of the settings. ``header`` is what it gets first, or also whom it sees. Switches greenlets.

    Raises OSError, with EPROTO when the server was reached but did not greet as it should.
    """
    if header:
        sock = reach(endpoint, settings, poller, seconds, header)
    else:  # with one call less: 1,300 of a connection's 139,000 instructions in pure Python
        sock = connect(endpoint, settings, poller, seconds)
    try:
        if protocol.server_speaks_first:
            await_greeting(sock, protocol, poller, settings.greeting or settings.timeout)
    except BaseException:
        # A frozen MariaDB counts each of those who gave it up as a connection without a login when it goes on, and may
        # block our address; not who has left with a reset.
        abort(sock)
        raise
    return sock


def reach(endpoint: Endpoint, settings: Settings, poller: Poller, seconds: float, header: bytes | Introduction,
          ) -> Socket:
    """A connection to a server within so many seconds, that has got the header, and comes from the client where it is
    introduced so. Switches greenlets. Raises OSError."""
    if isinstance(header, bytes):
        sock = connect(endpoint, settings, poller, seconds)
    else:
        sock, header = header.connect(endpoint, settings, poller, seconds), header.header
    try:
        while header:  # the first bytes of a connection find room, but for 16 KB of TLVs perhaps
            try:
                header = header[sock.send(header) :]
            except BlockingIOError:
                if not poller.wait(sock.fileno(), EPOLLOUT, seconds):
                    raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def await_greeting(sock: Socket, protocol: Protocol, poller: Poller, seconds: float) -> None:
    """Wait until the server has spoken; what it said stays in the socket. Switches greenlets. Raises OSError."""
    deadline, ended = time.monotonic() + seconds, False
    while True:
        if not poller.wait(sock.fileno(), EPOLLIN, deadline - time.monotonic()):
            raise OSError(errno.EPROTO, f"no first byte within {seconds:g} s")
        try:
            greeting = sock.recv(protocol.first_bytes, _socket.MSG_PEEK)
        except BlockingIOError:
            continue  # it was woken by an event of an earlier socket with the same number
        except ConnectionError:
            raise OSError(errno.EPROTO, "reset before its first byte") from None
        if not greeting:
            raise OSError(errno.EPROTO, "closed before its first byte")
        if protocol.is_whole(greeting):
            break
        if ended or time.monotonic() >= deadline:
            raise OSError(errno.EPROTO, f"no whole greeting, but {len(greeting)} bytes")
        ended = has_ended(sock)  # then it is looked at once more: the rest may have come with the end
        if not ended:
            gevent.sleep(_PIECE_PAUSE)
    refusal = protocol.refusal(greeting)
    if refusal is not None:
        raise OSError(errno.EPROTO, refusal)
