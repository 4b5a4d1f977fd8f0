"""How fast the bytes of sessions may move: bandwidth of each, and bandwidth_total of all of a listener.

A side of a session that is limited is read by a Lane: no more than may pass, and then not again until more may. So what
is too much stays where it is, in the sockets' buffers and with whoever sends it, as with any slow network. The
directions are apart. Where nothing is limited there is no Lane, and the relay knows nothing of all this.

What all sessions of a listener may move is given out in pieces, by a Meter of the main process, to each process that
has sessions of it; there those take turns that wait.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from gpen.model.rates import Bucket
from gpen.wire import kernel
from gpen.wire.alarm import Alarm
from gpen.wire.kernel import AGAIN
from gpen.wire.poller import Poller
from gpen.wire.relay import End

FROM_CLIENT, FROM_SERVER = 0, 1  # the directions
PIECE_SECONDS = 0.05  # for so long a piece lasts, at the rate that is allowed
LEAST_PART = 0.25  # of a piece, that is worth a read: to read each byte as soon as it may pass keeps a processor busy
SOON = 0.002  # seconds between two looks at who may go on
SEGMENT = 1448  # bytes that are worth a turn
NO_LIMIT = 1 << 40  # bytes

Grant = Callable[[int], object]  # so many bytes may pass
Ask = Callable[[int, Grant], object]  # has them granted in this direction, later


def piece_of(rate: int) -> int:
    """How many bytes pass at once at this rate."""
    return max(int(rate * PIECE_SECONDS), 1)


def least_of(rate: int) -> int:
    """How many bytes are worth a read at this rate."""
    return max(int(piece_of(rate) * LEAST_PART), 1)


class Meter:
    """The bytes of one direction of all sessions of a listener: who asks gets a piece, in turn. ``short`` is called
    when there is none at once."""

    def __init__(self, loop: Any, short: Callable[[], object]) -> None:
        self._short = short
        self._bucket = Bucket(0, kernel.monotonic())
        self._waiting: deque[Grant] = deque()
        self._alarm = Alarm(loop, "to share out bandwidth_total", self._give)

    def change(self, rate: int) -> None:
        """So many bytes a second from now on; 0 for no limit."""
        if rate != self._bucket.rate:
            self._bucket = Bucket(rate, kernel.monotonic())
            self._alarm.set(0.0)

    def ask(self, grant: Grant) -> None:
        """Have a piece granted; never before this has returned."""
        self._waiting.append(grant)
        if not self._alarm.is_set:
            self._alarm.set(0.0)

    def _give(self) -> None:
        bucket = self._bucket
        piece = piece_of(bucket.rate) if bucket.rate else NO_LIMIT
        while self._waiting:
            wait = bucket.wait(piece, kernel.monotonic()) if bucket.rate else 0.0
            if wait:
                self._short()
                self._alarm.set(wait)
                return
            bucket.take(piece)
            self._waiting.popleft()(piece)


class Shaper:
    """The Lanes of a listener's sessions in this process."""

    def __init__(self, poller: Poller, ask: Ask) -> None:
        self.rate = self.total = 0  # bytes a second, of each session and of all together; 0 for no limit
        self.poller = poller
        self.waiting: set[End] = set()  # sides that are not read for now, because of that
        self._turns = tuple(_Turn(partial(ask, direction)) for direction in (FROM_CLIENT, FROM_SERVER))
        self._due: list[tuple[float, int, Lane]] = []  # a heap of those that wait for time to pass
        self._numbers = count()
        self._alarm = Alarm(poller.loop, "to let sessions go on that bandwidth has held", self._go_on)

    def change(self, rate: int, total: int) -> None:
        """The limits are these from now on, for those that wait as well."""
        if (rate, total) == (self.rate, self.total):
            return
        self.rate, self.total = rate, total
        waiting = [lane for _, _, lane in self._due]
        self._due.clear()
        for turn in self._turns:
            waiting += turn.dismiss()
        for lane in waiting:
            self.wait(lane, 0.0)

    def attach(self, down: End, up: End) -> None:
        """Limit a session, whose sides have been started, unless it is."""
        for end, turn in zip((down, up), self._turns, strict=True):
            reader = end.recv_into if end.filter is None else end.filter.reader
            if not isinstance(getattr(reader, "__self__", None), Lane):
                Lane(self, turn, end)

    def delays(self, *ends: End) -> bool:
        """Whether more is to come from one of these, for somebody who can take it, and is not read for now."""
        return any(end in self.waiting and not end.peer.deaf for end in ends)

    def wait(self, lane: Lane, seconds: float) -> None:
        """This one may go on in so many seconds."""
        heapq.heappush(self._due, (kernel.monotonic() + seconds, next(self._numbers), lane))
        if not self._alarm.is_set or self._due[0][2] is lane:
            self._look_again()

    def _look_again(self) -> None:
        """When the first may go on."""
        self._alarm.set(max(self._due[0][0] - kernel.monotonic(), SOON))

    def _go_on(self) -> None:
        now, due = kernel.monotonic(), self._due
        while due and due[0][0] <= now:
            heapq.heappop(due)[2].go_on(0)
        if due and not self._alarm.is_set:
            self._look_again()


class _Turn:
    """One direction of all sessions: who waits for a piece of what they may move together."""

    def __init__(self, ask: Callable[[Grant], object]) -> None:
        self.left = 0  # bytes of what was granted; less than 0 where more has passed
        self._queue: deque[Lane] = deque()
        self._ask = ask
        self._has_asked = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    def wait(self, lane: Lane) -> None:
        """Its turn comes behind those of the others."""
        self._queue.append(lane)
        self._want()

    def dismiss(self) -> list[Lane]:
        """Nobody waits any more; who did."""
        waiting = list(self._queue)
        self._queue.clear()
        self.left = 0
        return waiting

    def _want(self) -> None:
        if not self._has_asked:
            self._has_asked = True
            self._ask(self._granted)

    def _granted(self, piece: int) -> None:
        self._has_asked = False
        if self._queue:
            self.left += piece
            share = max(self.left // len(self._queue), SEGMENT)
            for _ in range(len(self._queue)):
                if self.left < 1:
                    break
                self._queue.popleft().go_on(min(share, self.left))
        if self._queue:
            self._want()


class Lane:
    """What reads one side of a session, no faster than it may. It stands before the side's stream, if there is one: of
    that whole records come at once, and if they are more than may pass, the next ones come so much later."""

    __slots__ = ("_bucket", "_end", "_reader", "_shaper", "_share", "_turn", "_waits")

    def __init__(self, shaper: Shaper, turn: _Turn, end: End) -> None:
        self._shaper = shaper
        self._turn = turn
        self._end = end
        self._bucket = Bucket(shaper.rate, kernel.monotonic())
        self._share = 0  # what it may have of this turn, while it has one
        self._waits = False
        self._reader: Callable[[memoryview], int] | None = None  # who read before; None: the socket
        if end.filter is not None:
            self._reader = end.filter.reader
            end.filter.reader = self.read
        else:
            self._reader = end.read_by(self.read)

    def read(self, view: memoryview) -> int:
        """As recv_into. Raises OSError."""
        end = self._end
        if end.peer.deaf:  # what nobody gets has no rate
            return self._fetch(view)
        allowed = self._allowed()
        if not allowed:
            end.pause()
            raise BlockingIOError
        count = self._fetch(view[:allowed] if self._reader is None else view)
        if self._shaper.rate:
            self._bucket.take(count)
        if self._shaper.total:
            self._turn.left -= count
            self._share -= count
        if count and not self._allowed():
            end.pause()
        return count

    def _fetch(self, view: memoryview) -> int:
        if self._reader is not None:
            return self._reader(view)
        count = kernel.hear(self._end.sock, view)
        if count == AGAIN:
            raise BlockingIOError
        return count

    def _allowed(self) -> int:
        """How many bytes may pass now; where that is none, it waits until some may."""
        shaper = self._shaper
        if self._waits:
            return 0
        allowed = NO_LIMIT
        if shaper.rate:
            bucket, now = self._bucket, kernel.monotonic()
            if bucket.rate != shaper.rate:
                bucket = self._bucket = Bucket(shaper.rate, now)
            allowed = int(bucket.left(now))
            if allowed < least_of(shaper.rate):
                self._wait()
                shaper.wait(self, bucket.wait(piece_of(shaper.rate), now))
                return 0
        if shaper.total:
            turn = self._turn
            allowed = min(allowed, self._share if turn.is_wanted else turn.left)
            if allowed < 1:
                self._wait()
                turn.wait(self)
                return 0
        return allowed

    def _wait(self) -> None:
        self._waits = True
        self._shaper.waiting.add(self._end)

    def go_on(self, share: int) -> None:
        """It may read again; so much of what all may move, as long as others wait for that."""
        end, shaper = self._end, self._shaper
        self._waits = False
        self._share = share
        shaper.waiting.discard(end)
        shaper.poller.now = kernel.monotonic()  # epoll may have told of nothing for long
        try:
            end.go_on()
        except Exception:
            end.failed()
        self._share = 0
