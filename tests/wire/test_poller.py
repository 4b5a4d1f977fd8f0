"""The poller: who is told of what, when descriptors are closed and their numbers used again within one pass."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from gpen.wire import subprocesses
from gpen.wire.kernel import Handler
from gpen.wire.poller import EPOLLIN, EPOLLOUT, Call, Poller
from gpen.wire.subprocesses import Children, Program

LONG = 20.0  # seconds


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    poller.loop.update_now()  # it knows the time of when it ran last, in a test before
    yield poller
    assert not poller.watched
    poller.close()


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Two sockets that talk with each other."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            left, right = socket.socketpair()
            left.setblocking(False)
            return stack.enter_context(left), stack.enter_context(right)

        yield make


def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until something is true."""
    with gevent.Timeout(LONG):
        while not condition():
            gevent.sleep(0.001)


class Seat:
    """A descriptor's number: whoever sits there is replaced, when it is told to, by another of the same number."""

    def __init__(self, poller: Poller, sock: socket.socket, name: str, told: list[tuple[str, int]]) -> None:
        self.poller, self.sock, self.name, self.told = poller, sock, name, told
        poller.add(sock.fileno(), EPOLLIN, Call(self.ready))

    def ready(self, events: int) -> None:
        self.told.append((self.name, events))
        with contextlib.suppress(BlockingIOError):
            self.sock.recv(100)

    def close(self) -> int:
        number = self.sock.fileno()
        self.poller.closed(number)
        self.sock.close()
        return number

    def leave(self) -> None:
        if self.sock.fileno() >= 0:
            self.close()


@pytest.mark.parametrize("news", [b"", b"x"])
def test_an_old_event_never_reaches_a_new_owner(poller: Poller, pair: Any, news: bytes) -> None:
    """Both are ready in one call of epoll; whose handler comes first closes the other and opens one of its number."""
    told: list[tuple[str, int]] = []
    seats: list[Seat] = []
    (third, far_third) = pair()

    def swap(closing: Seat) -> None:
        if len(seats) > 2:
            return
        number = closing.close()
        assert os.dup2(third.fileno(), number) == number
        newcomer = socket.socket(fileno=number)
        newcomer.setblocking(False)
        seats.append(Seat(poller, newcomer, "new", told))

    ends = [pair(), pair()]
    for name, (sock, _) in zip("ab", ends, strict=True):
        seats.append(Seat(poller, sock, name, told))
    a, b = seats
    for seat, other in ((a, b), (b, a)):
        ready = seat.ready
        poller.remove(seat.sock.fileno())
        poller.add(seat.sock.fileno(), EPOLLIN,
                   Call(lambda events, ready=ready, other=other: (ready(events), swap(other))))  # type: ignore[misc]
    for _, far in ends:
        far.send(b"old")
    until(lambda: len(seats) > 2)
    gevent.sleep(0.05)
    assert [name for name, _ in told] in (["a"], ["b"]), "of two that were told together one was replaced"
    far_third.send(b"news")
    until(lambda: len(told) > 1)
    assert told[1] == ("new", EPOLLIN)
    for seat in seats:
        seat.leave()


def test_who_comes_within_a_pass_is_told_by_the_next(poller: Poller, pair: Any) -> None:
    """What is true of a newcomer is told as soon as epoll is asked again, though it was true all the time."""
    first, far = pair()
    second, far_second = pair()
    told: list[str] = []

    def come(events: int) -> None:
        first.recv(100)
        told.append("first")
        poller.add(second.fileno(), EPOLLIN, Call(lambda events: told.append(second.recv(100).decode())))

    poller.add(first.fileno(), EPOLLIN, Call(come))
    far_second.send(b"second")
    far.send(b"x")
    until(lambda: len(told) == 2)
    assert told == ["first", "second"]
    for sock in (first, second):
        poller.remove(sock.fileno())


def test_a_greenlet_that_waits_anew_is_not_woken_by_what_is_past(poller: Poller, pair: Any) -> None:
    """One waits for its socket; another's handler ends that wait, and lets it wait for another of the same number."""
    waiting, far_waiting = pair()
    waker, far_waker = pair()
    third, far_third = pair()
    woken: list[str] = []
    number = waiting.fileno()

    class Moved(Exception):
        pass

    def wait() -> None:
        try:
            poller.wait(number, EPOLLIN, LONG)
            woken.append("old")  # its event came first: nothing is to be tested in this order
        except Moved:
            os.dup2(third.fileno(), number)  # closes the old one
            assert poller.wait(number, EPOLLIN, LONG)
            woken.append(os.read(number, 100).decode())

    greenlet = gevent.spawn(wait)

    def move(events: int) -> None:
        waker.recv(100)
        greenlet.throw(Moved)

    poller.add(waker.fileno(), EPOLLIN, Call(move))
    gevent.sleep(0)
    far_waker.send(b"x")  # first, so that its handler runs first
    far_waiting.send(b"old")
    gevent.sleep(0.05)
    assert woken == []
    far_third.send(b"new")
    greenlet.join(LONG)
    assert woken == ["new"]
    poller.remove(waker.fileno())


def test_a_handler_that_raises_ends_nothing(poller: Poller, pair: Any, caplog: pytest.LogCaptureFixture) -> None:
    bad, far_bad = pair()
    good, far_good = pair()
    told: list[int] = []

    def fail(events: int) -> None:
        told.append(events)
        raise RuntimeError("on purpose")

    poller.add(bad.fileno(), EPOLLIN, Call(fail))
    poller.add(good.fileno(), EPOLLIN, Call(lambda events: told.append(-len(good.recv(100)))))
    far_bad.send(b"x")
    far_good.send(b"xx")
    until(lambda: -2 in told and len(told) > 5)
    poller.remove(bad.fileno())
    far_good.send(b"xxx")
    until(lambda: -3 in told)
    assert caplog.text.count("Traceback") == 1
    poller.remove(good.fileno())


class Failing(Poller):
    """A poller whose epoll fails a few times, and can't watch more."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.times = error, times

    def dispatch(self, seconds: float) -> int:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return super().dispatch(seconds)


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "no memory"), OSError(errno.EINTR, "interrupted"),
                                   OSError(errno.EBADF, "bad"), MemoryError()])
def test_an_error_of_epoll_ends_nothing(pair: Any, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    sock, far = pair()
    poller = Failing(error, 3)
    poller.loop.update_now()  # it knows the time of when it ran last, in a test before
    far.send(b"x")
    for _ in range(2):
        assert poller.wait(sock.fileno(), EPOLLIN, LONG)
    assert caplog.text.count("Traceback") == 1
    poller.close()


def test_what_can_not_be_watched_leaves_nothing_behind(poller: Poller, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:  # the kernel watches none (epoll_ctl(2))
        with pytest.raises(PermissionError):
            poller.add(file.fileno(), EPOLLIN, Call(print))
        with pytest.raises(PermissionError):
            poller.wait(file.fileno(), EPOLLOUT, LONG)


class Full(Poller):
    """A poller that may watch no more."""

    def add(self, fd: int, mask: int, handler: Handler) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_program_that_can_not_be_watched_is_not_run() -> None:
    poller = Full()
    before, children = os.listdir("/proc/self/fd"), Children()
    with pytest.raises(OSError, match="No space left"):
        Program(["/bin/sleep", "60"], os.environ, poller, children)
    assert os.listdir("/proc/self/fd") == before
    children.reap()
    poller.close()


def test_a_pidfd_event_that_is_none_stops_nobody(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose pidfd seems ready goes on: whoever waits for it goes on waiting, and so does all else."""
    false_alarm, far = os.pipe()
    real = os.pidfd_open
    monkeypatch.setattr(subprocesses, "_pidfd", lambda pid: real(pid))
    running = Program(["/bin/sh", "-c", "echo begun; exec sleep 60"], os.environ, poller, Children())
    pidfd = os.dup(running._pidfd)
    os.dup2(false_alarm, running._pidfd)
    os.write(far, b"x")
    outcome = gevent.spawn(running.outcome)
    gevent.sleep(0.1)
    assert not outcome.dead
    while poller.watched > 1:  # its output; the pidfd must not be watched while it is exchanged
        gevent.sleep(0.001)
    os.dup2(pidfd, running._pidfd)
    os.kill(running._pid, signal.SIGTERM)
    assert outcome.get(timeout=LONG) == (-signal.SIGTERM, "begun")
    running.end()
    for fd in (false_alarm, far, pidfd):
        os.close(fd)


def test_the_output_of_a_program_is_read_to_its_end(poller: Poller) -> None:
    """An event of its output that is none ends nothing."""
    running = Program(["/bin/sh", "-c", "sleep 0.2; echo said; exit 3"], os.environ, poller, Children())
    running._drain(EPOLLIN)
    assert running.outcome() == (3, "said")
    running.end()


