"""Says which sockets are ready: one epoll of our own, which is one watcher of gevent's loop.

gevent's own way (a watcher object for each direction of each socket) costs more than the bytes that it announces:
in the trials before gpen was written, this epoll brought 1.24 times its new connections and 1.1 times its requests.

Everything here runs in gevent's hub. A handler must not block; it may switch into a greenlet that waits for it, which
comes back to the hub when it waits again or ends.

One call of epoll tells of many descriptors, and what a handler does to one may outdate what was told of another: it is
closed, and its number given to a new one. So an event is for those only who watched the descriptor when epoll was
asked; who came later is told by the next call what is true then. And nothing ends all this: gevent would never call
back again what has raised once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.hub import get_hub
from greenlet import getcurrent

from gpen.wire.faults import Faults
from gpen.wire.kernel import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Epoll, Handler
from gpen.wire.pipes import Pipes

__all__ = ["EPOLLERR", "EPOLLHUP", "EPOLLIN", "EPOLLOUT", "EPOLLRDHUP", "FOR_EVER", "Call", "Poller"]

FOR_EVER = 1e9  # seconds that nobody waits to the end of
LINGER = 0.01  # seconds between two events that come soon after each other
TURN = 0.002  # seconds of such events, before timers and all that is not watched here get their turn
BUFFER_SIZE = 128 * 1024
_BREATH = 0.1  # seconds until epoll is asked again, when it has failed


class Call(Handler):
    """A handler that calls a function with the events."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[int], object]) -> None:
        self._function = function

    def ready(self, events: int) -> None:
        self._function(events)


class Poller(Epoll):
    """An epoll that gevent's loop looks at.

    ``view`` is of memory that all readers share: a handler reads into it, and is done with it before it returns.
    ``pipes`` are for what need not be read.
    """

    def __init__(self) -> None:
        super().__init__(self._handler_failed)
        self.hub: Any = get_hub()
        self.loop: Any = self.hub.loop
        self.view = memoryview(bytearray(BUFFER_SIZE))
        self.pipes = Pipes()
        self.unfinished: list[Handler] = []  # who is to be told, with no events, when all else was
        self.last_look: Handler | None = None  # who is told so before these
        self._is_in_turn = False
        self._at_end: list[Handler] = []  # who is told so behind all of them
        self._faults = Faults()
        self._pause: Any = None  # a timer, while epoll is not asked
        self._watcher: Any = self.loop.io(self.fileno(), 1)
        self._watcher.start(self._serve)

    def wait(self, fd: int, mask: int, seconds: float) -> bool:
        """Wait until a descriptor that is not watched is ready; False when time ran out. Switches greenlets. Raises
        OSError as ``add`` does."""
        switch = getcurrent().switch
        self.add(fd, mask, Call(switch))
        timer = self.loop.timer(max(seconds, 0))
        timer.start(switch, 0)
        try:
            return bool(self.hub.switch())
        finally:
            timer.stop()
            timer.close()
            self.remove(fd)

    def close(self) -> None:
        """Stop watching."""
        self._watcher.stop()
        self._watcher.close()
        if self._pause is not None:
            self._pause.stop()
            self._pause.close()
        self.pipes.shed()
        Epoll.close(self)  # super() is not for what C calls

    def _serve(self) -> None:
        """The callback of gevent's watcher."""
        try:
            self._pass()
        except Exception:  # of epoll itself: there is no memory, say
            if self.fileno() < 0:
                return  # closed, by whom a handler has woken
            self._faults.tell("epoll")
            self._watcher.stop()  # it would call back at once
            self._pause = self.loop.timer(_BREATH)
            self._pause.start(self._resume)

    def _resume(self) -> None:
        self._pause.close()
        self._pause = None
        self._watcher.start(self._serve)

    def _pass(self) -> None:
        """Call the handlers of what is ready. When one thing comes soon after another, wait here for the next, which
        spares the loop's own system calls and callbacks. With 8 MySQL clients a transaction of 20 queries took 492 us
        of CPU instead of 535, and there were 904 a second instead of 804 (haproxy: 434 us, 790 a second; quartile and
        median of 8 rounds). A shorter LINGER, 1 ms, arms a hardware timer each time, and gains a quarter of that.
        """
        before = self.now
        count = self._turn(0.0)
        leave = self.now + TURN if self.now - before < LINGER else 0.0
        while count and self.now <= leave:
            count = self._turn(LINGER)

    def _turn(self, seconds: float) -> int:
        self._is_in_turn = True
        try:
            count = self.dispatch(seconds)
        finally:
            self._is_in_turn = False
        if self.unfinished:
            look, self.last_look = self.last_look, None
            if look is not None:
                self._tell_end(look)
            self.finish()
        if self._at_end:
            self._end_turn()
        return count

    def finish(self) -> None:
        """Tell those that wait for it that there is nothing more to tell now."""
        while self.unfinished:
            self._tell_end(self.unfinished.pop(0))

    def at_end_of_turn(self, handler: Handler) -> None:
        """Tell it, with no events, when this turn is over, or soon, where none runs."""
        if not (self._at_end or self._is_in_turn):
            self.loop.run_callback(self._end_turn)
        self._at_end.append(handler)

    def _end_turn(self) -> None:
        while self._at_end:
            self._tell_end(self._at_end.pop(0))

    def _tell_end(self, handler: Handler) -> None:
        try:
            handler.ready(0)
        except Exception:
            self._handler_failed(handler)

    def _handler_failed(self, handler: Handler) -> None:
        try:
            handler.failed()
        except Exception:
            self._faults.tell("what watches a descriptor")
