"""HTTP mode: every request of a client gets X-Forwarded-For and X-Forwarded-Proto, and what is ambiguous is refused.

This is a filter of the server's side, so that the client's has none, and either may speak TLS. What is sent to the
server is written anew (proto/http_requests.py); what comes from it passes as it is, watched (proto/http_responses.py).

One request at a time goes to the server: the next one waits for the end of the response. So only the response to a
WebSocket's request can make of what follows it a plain stream of bytes, and until then nothing that follows is taken
for a request, or for anything else.

With 32 kept connections and a tiny page (wrk; the proxy has one core, nginx and the load the other; medians of four
rounds on a busy machine) it passes 30,000 requests/s for 29 us of CPU each; without HTTP mode 39,000 for 18 us; haproxy
in mode http, with forwardfor, 29,000 for 20 us. An idle session takes 1.2 KB more than a plain one. That a server is
dialled behind the first head only makes a connection with one request 20 us dearer (of 150): one more wait in epoll.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from gpen.proto.http import HttpOpening, late
from gpen.proto.http_requests import Bytes
from gpen.proto.protocol import Opening, Refused
from gpen.wire.poller import EPOLLIN, FOR_EVER, Poller
from gpen.wire.relay import End, Move

_PIECE = 65536  # most bytes of a client that are read at once while it has no server: what it sends with its first head


def read_opening(opening: Opening, client: End, poller: Poller, seconds: float) -> bool:
    """Read what a client says before it gets a server, within so many seconds (0: for ever); False when it ends before
    that. Switches greenlets.

    Raises Refused, with TIMEOUT when time is over, and OSError when the client is gone.
    """
    deadline = time.monotonic() + (seconds or FOR_EVER)
    view = poller.view[:_PIECE]
    while (left := deadline - time.monotonic()) > 0:
        try:
            count = client.recv_into(view)
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
    raise opening.late(seconds)


class HttpFilter:
    """What a server's End does for a client that speaks HTTP/1.

    The End's ``pending`` is, as with every End, what the socket did not take; or, when there is none of that, what came
    from the client and has to wait for its turn. Either way the client is not read meanwhile.
    """

    __slots__ = ("_end", "_head_begun", "_recv_into", "_refuse_client", "_requests", "_responses", "_rest", "_send",
                 "_waits")

    _end: End
    _recv_into: Move  # of the stream
    _send: Move

    def __init__(self, opening: HttpOpening, refuse: Callable[[int, str], None]) -> None:
        """``refuse`` is called in the hub when the client's request can't be passed on, and all that came before is
        answered, with the status that the client gets and why; or, with status 0, when it gets nothing, because its
        answer has begun. It may return before that is done."""
        self._responses = opening.responses
        self._requests = opening.requests
        self._refuse_client = refuse
        self._head_begun = 0.0  # when the head began that is being read
        self._rest = b""  # came from the client, and was not looked at yet
        self._waits = False  # it waits for its turn

    def join(self, end: End) -> None:
        self._end = end
        self._recv_into, self._send = end.recv_into, end.send
        end.recv_into, end.send = self._watched, self._take

    @property
    def reader(self) -> Move:
        """What reads what comes from the server, as it is on its wire."""
        return self._recv_into

    @reader.setter
    def reader(self, move: Move) -> None:
        if self._end.recv_into == self._recv_into:  # a plain stream of bytes by now
            self._end.recv_into = move
        self._recv_into = move

    def leave(self) -> None:
        self._responses.close()
        del self._end, self._recv_into, self._send, self._refuse_client

    def begin(self, opening: HttpOpening) -> None:
        """Ask the server what the client has asked. Both sides have been started."""
        try:
            self._put(opening.out)
            self._pass_on(opening.rest)
        except OSError:
            self._end.deafen()

    def tend(self, now: float, seconds: float) -> None:
        """Refuse a request whose head began so many seconds ago (0: never)."""
        if self._head_begun and 0 < seconds <= now - self._head_begun:
            self._refuse(late(seconds))

    @property
    def is_at_rest(self) -> bool:
        """Whether all that was asked is answered, and nothing further is being asked. What became of a WebSocket's
        request is not known."""
        responses = self._responses
        return responses.switched or (responses.whole and not (self._rest or self._requests.in_head
                                                               or self._requests.in_body))

    # --- toward the server ----------------------------------------------------------------------------------------

    def _take(self, view: memoryview) -> int:
        """Take all that the client sent. Raises OSError."""
        self._end.sent -= len(view)  # what the stream gets is counted when it does
        self._pass_on(view)
        return len(view)

    def _pass_on(self, data: Bytes) -> None:
        """Send what may go now, and keep the rest. Raises OSError."""
        end, requests, responses = self._end, self._requests, self._responses
        while data:
            if end.pending is not None:
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
            self._head_begun = (self._head_begun or end.poller.now) if requests.in_head else 0.0
            if out:
                self._put(out)
            if data and not requests.whole:
                self._pause(data)
                return

    def _put(self, out: Bytes) -> None:
        """Send, and keep what is not taken. Raises OSError."""
        end = self._end
        try:
            sent = self._send(memoryview(out))
        except BlockingIOError:
            sent = 0
        end.sent += sent
        if sent < len(out):
            end.keep(memoryview(bytes(out[sent:])))

    def _keep(self, data: Bytes) -> None:
        """Look at it later: when the socket took what is pending, or, without that, when its turn has come."""
        self._rest += data
        if self._end.pending is None or self._waits:
            self._waits = True
            self._end.keep(memoryview(self._rest), for_room=False)

    def _pause(self, data: Bytes) -> None:
        """Go on in a turn to come: there is much to do, and other sessions wait."""
        if self._end.pending is None:
            self._end.keep(memoryview(b""))
        self._keep(data)

    def flushed(self) -> None:
        """What waited for room is gone: nothing is in the way of what waits, or no longer the same."""
        end = self._end
        if end.deaf:
            return
        rest, self._rest, end.pending, self._waits = self._rest, b"", None, False
        try:
            self._pass_on(rest)
        except OSError:
            end.deafen()
            return
        if end.pending is None:
            end.release()

    def _hang_up(self) -> None:
        """No more requests: the server is to close, and need not be waited for when the client has all that came."""
        self._end.half_close()
        self._end.mute()

    def _discard(self, view: memoryview) -> int:
        """Take what nobody shall see."""
        self._end.sent -= len(view)
        return len(view)

    # --- from the server ------------------------------------------------------------------------------------------

    def _watched(self, view: memoryview) -> int:
        """Read what the server sends, and see what it means. Raises OSError."""
        count = self._recv_into(view)
        responses = self._responses
        if count:
            responses.watch(view[:count])
        if responses.switched:
            self._end.send = self._send
        if responses.switched or responses.lost:
            self._end.recv_into = self._recv_into
        return count

    def served(self) -> None:
        if self._waits and not self._end.is_full:
            self.flushed()

    def ended(self) -> None:
        """What has to wait now will never be answered."""
        self._responses.lost = True
        self.served()

    # --- refusing -------------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        """Neither side has anything to say any more. The client is told when it has got all that came before: for only
        then is this side read again, which the end of its socket brings about."""
        end = self._end
        self._head_begun = 0.0
        if end.eof:
            self._hang_up()
            return
        answered = self._requests.in_body and self._responses.begun
        end.send = self._discard
        end.recv_into = partial(self._turn_away, 0 if answered else refused.status, str(refused))
        with suppress(OSError):
            end.sock.shutdown(_socket.SHUT_RDWR)

    def _turn_away(self, status: int, reason: str, view: memoryview) -> NoReturn:
        self._end.pause()
        self._refuse_client(status, reason)
        raise BlockingIOError
