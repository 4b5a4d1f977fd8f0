"""HTTP mode: every request of a client gets X-Forwarded-For and X-Forwarded-Proto, and what is ambiguous is refused.

Only the server's side of a session differs from that of a plain one, so the client's may speak TLS. What is sent to
it is written anew (proto/http_requests.py); what comes from it passes as it is, watched (proto/http_responses.py).

One request at a time goes to the server: the next one waits for the end of the response. So only the response to a
WebSocket's request can make of what follows it a plain stream of bytes, and until then nothing that follows is taken
for a request, or for anything else.

With 32 kept connections and a tiny page (wrk; the proxy has one core, nginx and the load the other; medians of four
rounds on a busy machine) it passes 30,000 requests/s for 29 us of CPU each; without HTTP mode 39,000 for 18 us; haproxy
in mode http, with forwardfor, 29,000 for 20 us. An idle session takes 0.9 KB more than a plain one. That a server is
dialled behind the first head only makes a connection with one request 20 us dearer (of 150): one more wait in epoll.
"""

from __future__ import annotations

import _socket
import time
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, Protocol

from gpen.proto.http import HttpOpening, late
from gpen.proto.http_requests import Bytes
from gpen.proto.protocol import Opening, Refused
from gpen.wire.poller import EPOLLIN, EPOLLOUT, FOR_EVER, Poller
from gpen.wire.relay import End, Relay

_PIECE = 65536  # most bytes of a client that are read at once while it has no server: what it sends with its first head


class HttpRelay(Relay, Protocol):
    """The session of an HttpEnd."""

    def refuse(self, status: int, reason: str) -> None:
        """The client's request can't be passed on, and all that came before is answered: it gets this status, or, with
        0, nothing, because its answer has begun. May return before that is done."""


def read_opening(opening: Opening, client: End, poller: Poller, seconds: float) -> bool:
    """Read what a client says before it gets a server, within so many seconds (0: for ever); False when it ends before
    that. Switches greenlets.

    Raises Refused, with TIMEOUT when time is over, and OSError when the client is gone.
    """
    deadline = time.monotonic() + (seconds or FOR_EVER)
    view = poller.view[:_PIECE]
    while (left := deadline - time.monotonic()) > 0:
        try:
            count = client.receive(view)
        except BlockingIOError:
            poller.wait(client.fd, EPOLLIN, left)
            continue
        if not count:
            return False
        client.received += count
        client.active = poller.now
        opening.take(bytes(view[:count]))
        if opening.is_whole:
            return True
        poller.wait(client.fd, EPOLLIN, 0)  # no longer: what TLS holds already is told by no event
    raise late(seconds)


class HttpEnd(End):
    """The server's side of a session whose client speaks HTTP/1.

    ``pending`` is, as with every End, what the socket did not take; or, when there is none of that, what came from the
    client and has to wait for its turn. Either way the client is not read meanwhile.
    """

    __slots__ = ("_head_begun", "_requests", "_responses", "_rest", "_waits")

    _relay: HttpRelay

    def __init__(self, sock: Any, poller: Poller, relay: HttpRelay, opening: HttpOpening) -> None:
        super().__init__(sock, poller, relay)
        self._responses = opening.responses
        self._requests = opening.requests
        self._head_begun = 0.0  # when the head began that is being read
        self._rest = b""  # came from the client, and was not looked at yet
        self._waits = False  # it waits for its turn
        self._send = self._take
        self._recv_into = self._watched

    def begin(self, opening: HttpOpening) -> None:
        """Ask the server what the client has asked. Both sides have been started."""
        try:
            self._put(opening.out)
            self._pass_on(opening.rest)
        except OSError:
            self._deafen()

    def tend(self, now: float, seconds: float) -> None:
        """Refuse a request whose head began so many seconds ago (0: never)."""
        if self._head_begun and 0 < seconds <= now - self._head_begun:
            self._refuse(late(seconds))

    # --- toward the server ----------------------------------------------------------------------------------------

    def _take(self, view: memoryview) -> int:
        """Take all that the client sent. Raises OSError."""
        self.sent -= len(view)  # what the socket gets is counted when it does
        self._pass_on(view)
        return len(view)

    def _pass_on(self, data: Bytes) -> None:
        """Send what may go now, and keep the rest. Raises OSError."""
        requests, responses = self._requests, self._responses
        while data:
            if self.pending is not None:
                self._keep(data)
                return
            if responses.switched:
                self._put(data)
                return
            if requests.whole and responses.lost:
                self._hang_up()
                return
            if requests.whole and not responses.whole:
                self._keep(data)
                return
            try:
                out, data = requests.read(data)
            except Refused as refused:
                self._refuse(refused)
                return
            self._head_begun = (self._head_begun or self._poller.now) if requests.in_head else 0.0
            if out:
                self._put(out)
            if data and not requests.whole:
                self._pause(data)
                return

    def _put(self, out: Bytes) -> None:
        """Send, and keep what the socket does not take. Raises OSError."""
        try:
            sent = self.sock.send(out)
        except BlockingIOError:
            sent = 0
        self.sent += sent
        if sent < len(out):
            self.pending = memoryview(bytes(out[sent:]))
            self._watch(self._mask | EPOLLOUT)
            self.peer._watch(self.peer._mask & ~EPOLLIN)

    def _keep(self, data: Bytes) -> None:
        """Look at it later: when the socket took what is pending, or, without that, when its turn has come."""
        self._rest += data
        if self.pending is None or self._waits:
            self._waits = True
            self.pending = memoryview(self._rest)
            self._watch(self._mask & ~EPOLLOUT)
        self.peer._watch(self.peer._mask & ~EPOLLIN)

    def _pause(self, data: Bytes) -> None:
        """Go on in a turn to come: there is much to do, and other sessions wait."""
        if self.pending is None:
            self.pending = memoryview(b"")
            self._watch(self._mask | EPOLLOUT)
        self._keep(data)

    def _flush(self) -> None:
        assert self.pending is not None
        if self._waits:  # not for room: nobody but _pass_on may send it
            return
        out, self.pending = self.pending, None
        self.active = self._poller.now
        try:
            self._put(out)
        except OSError:
            self._deafen()
            return
        if self.pending is None:
            self._go_on()

    def _go_on(self) -> None:
        """Nothing is in the way of what waits, or no longer the same."""
        if self.deaf:
            return
        rest, self._rest, self.pending, self._waits = self._rest, b"", None, False
        try:
            self._pass_on(rest)
        except OSError:
            self._deafen()
            return
        if self.pending is None:
            self._flushed()

    def _hang_up(self) -> None:
        """No more requests: the server is to close, and need not be waited for when the client has all that came."""
        self.half_close()
        self.mute()

    def _discard(self, view: memoryview) -> int:
        """Take what nobody shall see."""
        self.sent -= len(view)
        return len(view)

    # --- from the server ------------------------------------------------------------------------------------------

    def _watched(self, view: memoryview) -> int:
        """Read what the server sends, and see what it means. Raises OSError."""
        count: int = self.sock.recv_into(view)
        responses = self._responses
        if count:
            responses.watch(view[:count])
        if responses.switched:
            self._send = self.sock.send
        if responses.switched or responses.lost:
            self._recv_into = self.sock.recv_into
        return count

    def _read(self) -> None:
        super()._read()
        if self._waits and self.fd >= 0:
            self._go_on()

    def _ended(self) -> None:
        """What has to wait now will never be answered."""
        self._responses.lost = True
        super()._ended()
        if self._waits and self.fd >= 0:
            self._go_on()

    # --- refusing -------------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        """Neither side has anything to say any more. The client is told when it has got all that came before: for only
        then is this side read again, which the end of its socket brings about."""
        self._head_begun = 0.0
        if self.eof:
            self._hang_up()
            return
        self._send = self._discard
        answered = self._requests.in_body and self._responses.begun
        self._recv_into = partial(self._turn_away, 0 if answered else refused.status, str(refused))
        with suppress(OSError):
            self.sock.shutdown(_socket.SHUT_RDWR)

    def _turn_away(self, status: int, reason: str, view: memoryview) -> NoReturn:
        self._watch(self._mask & ~EPOLLIN)
        self._relay.refuse(status, reason)
        raise BlockingIOError

    def _forget(self) -> None:
        super()._forget()
        self._responses.close()
