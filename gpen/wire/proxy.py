"""PROXY protocol headers on the wire: read from who may send one, and kept out from all others."""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable
from typing import Any

from gpen.proto.proxy_header import MOST, SIGNATURE, V1, HeaderError, HeaderReader, Route
from gpen.wire.poller import EPOLLIN, Poller
from gpen.wire.relay import End


def read_header(sock: Any, poller: Poller, seconds: float) -> Route | None:
    """Read the header in front of a client's first byte, and not a byte more. Switches greenlets.

    None when it says that the connection is the proxy's own (LOCAL, UNKNOWN). Raises HeaderError.
    """
    reader, deadline = HeaderReader(), time.monotonic() + seconds
    while not reader.is_whole:
        try:
            ahead = sock.recv(MOST, _socket.MSG_PEEK)
            if not ahead:
                raise HeaderError("missing: the connection ended before it was whole")
            sock.recv(reader.take(ahead))
        except BlockingIOError:
            if not poller.wait(sock.fileno(), EPOLLIN, deadline - time.monotonic()):
                raise HeaderError("late: it did not come in time") from None
        except OSError as error:
            raise HeaderError(f"missing: {error.strerror}") from None
    return reader.route


def guard(end: End, refuse: Callable[[], None]) -> None:
    """Keep a header out that comes from a client who may not send one: a server might believe it.

    What may be the beginning of a header is passed on, but not its end: then ``refuse`` is called, in the hub, and what
    comes from this End is dropped.
    """
    further, seen = end.tap, b""

    def tap(end: End, data: memoryview) -> None:
        nonlocal seen
        seen += bytes(data[: len(SIGNATURE) - len(seen)])
        if seen.startswith((V1, SIGNATURE)):
            end.peer.deaf = True
            refuse()
            return
        if end.tap is tap and not V1.startswith(seen) and not SIGNATURE.startswith(seen):
            end.tap = further  # else another is before it, which goes
        if further is not None:
            further(end, data)

    end.tap = tap
