"""The contract of gpen/wire/kernel: what it says in Python (kernel.py) it keeps in C (kernel.pyx)."""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import gc
import importlib.util
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpen.wire.kernel
from gpen.core import COMPILED, CORE
from gpen.model.address import UNIX, Endpoint
from tests.harness import ROOT, needs_root, wait_until
from tests.networks import Machine

Kernel = Any  # either module
Pair = Callable[[], tuple[socket.socket, socket.socket]]

LONG = 20.0  # seconds


def _pure() -> Kernel:
    """kernel.py, whichever of the two this process uses."""
    spec = importlib.util.spec_from_file_location("tests.pure_kernel", ROOT / "gpen" / "wire" / "kernel.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KERNELS: dict[str, Kernel] = {"pure": _pure()}
if CORE.flavour == COMPILED:
    KERNELS["compiled"] = gpen.wire.kernel


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return KERNELS[request.param]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two sockets that talk with each other; the first never waits."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            left, right = socket.socketpair()
            left.setblocking(False)
            right.settimeout(LONG)
            return stack.enter_context(left), stack.enter_context(right)

        yield make


# --- Epoll -----------------------------------------------------------------------------------------------------------


class Watch:
    """An Epoll of a kernel; ``told`` is who was told of what, ``faults`` what was raised."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.told: list[tuple[str, int]] = []
        self.faults: list[BaseException] = []
        self.epoll = kernel.Epoll(self.failed)

    def failed(self, handler: Any) -> None:
        try:
            handler.failed()
        except Exception as error:
            self.faults.append(error)

    def handler(self, name: str, act: Callable[[], object] = lambda: None,
                failed: Callable[[], object] | None = None) -> Any:
        told = self.told

        class Given(self.kernel.Handler):  # type: ignore[misc, name-defined]
            def ready(self, events: int) -> None:
                told.append((name, events))
                act()

            def failed(self) -> None:
                if failed is None:
                    super().failed()
                else:
                    failed()

        return Given()

    def add(self, sock: socket.socket | int, name: str, act: Callable[[], object] = lambda: None,
            failed: Callable[[], object] | None = None, mask: int | None = None) -> None:
        fd = sock if isinstance(sock, int) else sock.fileno()
        self.epoll.add(fd, self.kernel.EPOLLIN if mask is None else mask, self.handler(name, act, failed))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]


@pytest.fixture
def watch(kernel: Kernel) -> Iterator[Watch]:
    made = Watch(kernel)
    yield made
    made.epoll.close()


def test_events_are_told(watch: Watch, pair: Pair) -> None:
    kernel, (sock, far) = watch.kernel, pair()
    watch.add(sock, "a", mask=kernel.EPOLLIN | kernel.EPOLLOUT)
    assert watch.epoll.watched == 1
    assert watch.epoll.dispatch(0.0) == 1
    far.send(b"x")
    assert watch.epoll.dispatch(0.0) == 1
    assert watch.told == [("a", kernel.EPOLLOUT), ("a", kernel.EPOLLIN | kernel.EPOLLOUT)]
    watch.epoll.change(sock.fileno(), kernel.EPOLLIN)
    watch.epoll.dispatch(0.0)
    assert watch.told[2:] == [("a", kernel.EPOLLIN)]
    watch.epoll.remove(sock.fileno())
    assert watch.epoll.dispatch(0.0) == 0 == watch.epoll.watched


def test_what_is_told_but_once(watch: Watch, pair: Pair) -> None:
    """With EPOLLET, until more comes; all that is true then is told again, and what is watched as always is, too, when
    it is changed to that."""
    kernel, (sock, far) = watch.kernel, pair()
    watch.add(sock, "a", mask=kernel.EPOLLIN | kernel.EPOLLRDHUP | kernel.EPOLLPRI | kernel.EPOLLET)
    for _ in range(2):
        far.send(b"x")
        assert [watch.epoll.dispatch(0.0) for _ in range(3)] == [1, 0, 0]
    far.shutdown(socket.SHUT_WR)
    assert [watch.epoll.dispatch(0.0) for _ in range(3)] == [1, 0, 0]
    watch.epoll.change(sock.fileno(), kernel.EPOLLIN)
    assert [watch.epoll.dispatch(0.0) for _ in range(3)] == [1, 1, 1]
    assert watch.told == [("a", kernel.EPOLLIN)] * 2 + [("a", kernel.EPOLLIN | kernel.EPOLLRDHUP)] + [
        ("a", kernel.EPOLLIN)] * 3


def test_urgent_data_is_told(watch: Watch, connected: tuple[Any, socket.socket]) -> None:
    kernel, (sock, far) = watch.kernel, connected
    watch.add(sock.fileno(), "a", mask=kernel.EPOLLIN | kernel.EPOLLPRI | kernel.EPOLLET)
    far.send(b"x", socket.MSG_OOB)
    await_events(sock, select.POLLPRI)
    watch.epoll.dispatch(0.0)
    assert watch.told == [("a", kernel.EPOLLPRI)]


def test_its_time_is_that_of_its_answer(watch: Watch) -> None:
    before = time.monotonic()
    assert watch.epoll.dispatch(0.0) == 0
    assert before <= watch.epoll.now <= time.monotonic()
    assert before <= watch.kernel.monotonic() <= time.monotonic()


@pytest.mark.parametrize("seconds", [1e-6, 0.0101, 0.05])
def test_it_waits_no_shorter_and_not_for_ever(watch: Watch, seconds: float) -> None:
    before = time.monotonic()
    assert watch.epoll.dispatch(seconds) == 0
    assert seconds - 0.001 < time.monotonic() - before < LONG


def test_it_waits_for_the_first_event_only(watch: Watch, pair: Pair) -> None:
    sock, far = pair()
    watch.add(sock, "a")
    timer = threading.Timer(0.05, far.send, [b"x"])  # it lets other threads run
    timer.start()
    assert watch.epoll.dispatch(LONG) == 1
    timer.join()


def test_an_event_is_for_who_watched_when_epoll_was_asked(watch: Watch, pair: Pair) -> None:
    """The first of two closes the other, and opens one of its number, where something has come too."""
    ends = {"a": pair(), "b": pair()}
    third, far_third = pair()

    def replace(name: str) -> Callable[[], None]:
        def act() -> None:
            if len(watch.told) == 1:
                number = ends[name][0].fileno()
                watch.epoll.closed(number)
                os.dup2(third.fileno(), number)
                watch.add(number, "new")

        return act

    for name, other in ("ab", "ba"):
        watch.add(ends[name][0], name, replace(other))
        ends[name][1].send(b"x")
    far_third.send(b"x")
    assert watch.epoll.dispatch(0.0) == 2
    first = watch.names[0]
    assert watch.names == [first]
    watch.epoll.dispatch(0.0)
    assert sorted(watch.names[1:]) == sorted([first, "new"])


def test_who_is_removed_and_added_again_is_told_by_the_next_call(watch: Watch, pair: Pair) -> None:
    (a, far_a), (b, far_b) = pair(), pair()

    def again() -> None:
        if len(watch.told) == 1:
            for sock in (a, b):
                watch.epoll.remove(sock.fileno())
                watch.add(sock, "again")

    watch.add(a, "old", again)
    watch.add(b, "old", again)
    far_a.send(b"x")
    far_b.send(b"x")
    assert watch.epoll.dispatch(0.0) == 2
    assert watch.names == ["old"]
    watch.epoll.dispatch(0.0)
    assert watch.names == ["old", "again", "again"]


def test_without_any_events_a_hang_up_is_told_once(watch: Watch, pair: Pair) -> None:
    sock, far = pair()
    watch.add(sock, "a")
    watch.epoll.change(sock.fileno(), 0)
    far.send(b"x")
    assert watch.epoll.dispatch(0.0) == 0
    far.close()
    watch.epoll.dispatch(0.0)
    assert watch.epoll.dispatch(0.0) == 0
    assert len(watch.told) == 1
    assert watch.told[0][1] & watch.kernel.EPOLLHUP


def test_what_is_watched_no_more_is_forgotten_once(watch: Watch, pair: Pair) -> None:
    (a, _), (b, _) = pair(), pair()
    watch.add(a, "a")
    watch.add(b, "b")
    watch.epoll.dispatch(0.0)
    for _ in range(2):
        watch.epoll.remove(a.fileno())
        watch.epoll.closed(b.fileno())
        assert not watch.epoll.watched
    watch.add(a, "a")
    watch.epoll.remove(a.fileno())  # before epoll was asked
    for number in (-1, 0, 63, 64, 127, 128, 10_000, 2**31 - 1):
        watch.epoll.remove(number)
        watch.epoll.closed(number)
    assert not watch.epoll.watched


@pytest.mark.parametrize("is_known", [False, True])  # since epoll was asked
@pytest.mark.parametrize("end", ["remove", "closed", "close"])
def test_what_is_watched_no_more_is_kept_by_nobody(watch: Watch, pair: Pair, end: str, is_known: bool) -> None:
    sock, far = pair()
    handler = watch.handler("a")
    alone = sys.getrefcount(handler)
    watch.epoll.add(sock.fileno(), watch.kernel.EPOLLIN, handler)
    far.send(b"x")
    if is_known:
        watch.epoll.dispatch(0.0)
    assert sys.getrefcount(handler) > alone
    if end == "close":
        watch.epoll.close()
        del watch.epoll
    else:
        getattr(watch.epoll, end)(sock.fileno())
    assert sys.getrefcount(handler) == alone
    watch.epoll = watch.kernel.Epoll(print)


def high_number(sock: socket.socket, least: int) -> int:
    """Another descriptor of it, with a number so high or as high as this process may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, min(least, most - 1))


@pytest.mark.parametrize("least", [63, 64, 127, 128, 129, 1023, 1024, 5_000, 2**20])
def test_high_numbers(watch: Watch, pair: Pair, least: int) -> None:
    sock, far = pair()
    watch.add(sock, "low")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = high_number(sock, least)
    try:
        watch.add(number, "high")
        far.send(b"x")
        assert watch.epoll.dispatch(0.0) == 2
        assert sorted(watch.names) == ["high", "low"]
        watch.epoll.change(number, watch.kernel.EPOLLOUT)
        watch.epoll.dispatch(0.0)
        assert watch.told[-1][1] in (watch.kernel.EPOLLOUT, watch.kernel.EPOLLIN)
        watch.epoll.remove(number)
        assert watch.epoll.watched == 1
    finally:
        os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_can_not_be_watched(watch: Watch, pair: Pair, tmp_path: Path) -> None:
    """It is refused, whatever it is, and changes nothing."""
    sock, far = pair()
    watch.add(sock, "first")
    with pytest.raises(FileExistsError):
        watch.add(sock, "second")
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        watch.add(file.fileno(), "file")  # epoll_ctl(2)
    before = usage()
    for number in (4_000, 2**20, 2**30, 2**31 - 1):  # the memory for so many is not taken
        with pytest.raises(OSError, match="Bad file"):
            watch.add(number, "nobody")
        with pytest.raises((OSError, ValueError)):
            watch.epoll.change(number, watch.kernel.EPOLLIN)
    assert usage() < before + 64 * 2**20
    for number in (-1, -2**31):
        with pytest.raises(ValueError):
            watch.add(number, "negative")
        with pytest.raises(ValueError):
            watch.epoll.change(number, watch.kernel.EPOLLIN)
    for number in (2**31, -2**31 - 1, 2**70):
        with pytest.raises((OverflowError, ValueError)):
            watch.add(number, "no number")
    assert watch.epoll.watched == 1
    far.send(b"x")
    watch.epoll.dispatch(0.0)
    assert watch.names == ["first"]


def usage() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_more_events_than_at_once(watch: Watch) -> None:
    """Nobody waits behind those who are always ready."""
    readable, writable = os.pipe()
    os.write(writable, b"x")
    numbers = [os.dup(readable) for _ in range(3 * watch.kernel.BATCH)]
    for number in numbers:
        watch.add(number, str(number))
    assert [watch.epoll.dispatch(0.0) for _ in range(3)] == [watch.kernel.BATCH] * 3
    assert sorted(watch.names) == sorted(map(str, numbers))
    for number in (*numbers, readable, writable):
        watch.epoll.closed(number)
        os.close(number)


def test_one_that_raises_costs_no_other(watch: Watch, pair: Pair) -> None:
    seen: list[BaseException | None] = []

    def fail() -> None:
        raise RuntimeError(len(watch.told))

    def see() -> None:
        seen.append(sys.exc_info()[1])

    pairs = [pair() for _ in range(6)]
    for number, (sock, far) in enumerate(pairs):
        if number % 3 == 0:
            watch.add(sock, "good")
        else:
            watch.add(sock, "bad", fail, None if number % 3 == 1 else see)
        far.send(b"x")
    for _ in range(2):
        assert watch.epoll.dispatch(0.0) == 6
    assert watch.names.count("good") == 4 and watch.names.count("bad") == 8
    assert [type(fault) for fault in (*watch.faults, *seen)] == [RuntimeError] * 8, "a handler knows what it has raised"
    assert len({str(fault) for fault in (*watch.faults, *seen)}) == 8
    assert sys.exc_info() == (None, None, None)


def test_an_exception_has_its_traceback_and_no_other_as_its_cause(watch: Watch, pair: Pair) -> None:
    for name in "ab":
        sock, far = pair()
        watch.add(sock, name, lambda: os.close(-1))
        far.send(b"x")
    watch.epoll.dispatch(0.0)
    assert [fault.__context__ for fault in watch.faults] == [None, None]
    assert all(fault.__traceback__ is not None for fault in watch.faults)


@pytest.mark.parametrize("where", ["ready", "failed"])
def test_what_nobody_may_catch_leaves_and_all_goes_on(watch: Watch, pair: Pair, where: str) -> None:
    def fail(kind: type[BaseException]) -> Callable[[], None]:
        def act() -> None:
            if watch.names.count("bad") == 1:
                raise kind

        return act

    (bad, far_bad), (good, far_good) = pair(), pair()
    if where == "ready":
        watch.add(bad, "bad", fail(KeyboardInterrupt))
    else:
        watch.add(bad, "bad", fail(RuntimeError), fail(KeyboardInterrupt))
    watch.add(good, "good")
    far_bad.send(b"x")
    far_good.send(b"x")
    with pytest.raises(KeyboardInterrupt):
        watch.epoll.dispatch(0.0)
    assert watch.epoll.dispatch(0.0) == 2
    assert watch.names[-2:] in (["bad", "good"], ["good", "bad"])


def test_a_handler_that_nobody_has_written(watch: Watch, pair: Pair) -> None:
    sock, far = pair()
    watch.epoll.add(sock.fileno(), watch.kernel.EPOLLIN, watch.kernel.Handler())
    far.send(b"x")
    watch.epoll.dispatch(0.0)
    assert [type(fault) for fault in watch.faults] == [NotImplementedError]


@pytest.mark.parametrize("whole", [False, True])
def test_all_are_closed_within_a_handler(watch: Watch, pair: Pair, whole: bool) -> None:
    pairs = [pair() for _ in range(5)]

    def close() -> None:
        for sock, _ in pairs:
            watch.epoll.closed(sock.fileno())
            sock.close()
        if whole:
            watch.epoll.close()
        gc.collect()

    for sock, far in pairs:
        watch.add(sock, "a", close)
        far.send(b"x")
    assert watch.epoll.dispatch(0.0) == 5
    assert watch.names == ["a"]
    assert not watch.epoll.watched


def test_a_closed_one(watch: Watch, pair: Pair) -> None:
    sock, _ = pair()
    watch.add(sock, "a")
    number = watch.epoll.fileno()
    watch.epoll.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    os.dup2(sock.fileno(), number)
    watch.epoll.close()
    os.close(number)  # it was not closed twice
    assert watch.epoll.fileno() == -1
    for call in (lambda: watch.epoll.dispatch(0.0), lambda: watch.add(sock, "b"),
                 lambda: watch.epoll.change(sock.fileno(), 1)):
        with pytest.raises((OSError, ValueError)):
            call()
    watch.epoll.closed(sock.fileno())


def test_one_that_is_dropped_is_closed(kernel: Kernel) -> None:
    epoll = kernel.Epoll(print)
    number = epoll.fileno()
    assert not os.get_inheritable(number)
    del epoll
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)


def test_a_signal_while_it_waits(watch: Watch) -> None:
    """Its handler runs, and what that raises comes out."""
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        start = time.monotonic()
        while not came and time.monotonic() < start + LONG:
            assert watch.epoll.dispatch(0.3) == 0
        assert came

        def stop(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, stop)
        with pytest.raises(KeyboardInterrupt):
            while time.monotonic() < start + LONG:
                watch.epoll.dispatch(0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


Step = tuple[str, int, int]
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "close", "mute", "listen", "swap", "speak", "dispatch"]),
                           st.integers(0, 5), st.integers(0, 5)), max_size=25)


class Crowd:
    """Some seats, at each a socket, which may be watched, and may be given to another while epoll's answer is worked
    through. Raises AssertionError when somebody is told who may not be."""

    def __init__(self, kernel: Kernel) -> None:
        self.watch = Watch(kernel)
        self.seats = [socket.socketpair() for _ in range(6)]
        self.owners: dict[int, str] = {}
        self.since: dict[int, int] = {}  # in which turn a seat was watched anew
        self.muted: set[int] = set()
        self.turn = 0
        self.plans: dict[int, Sequence[Step]] = {}
        self.errors: list[str] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.epoll.close()
        for ends in self.seats:
            for sock in ends:
                sock.close()

    def act(self, step: Step) -> None:
        kind, seat, other = step
        epoll, fd = self.watch.epoll, self.seats[seat][0].fileno()
        if kind == "add" and seat not in self.owners:
            self._watch(seat)
        elif kind == "remove":
            epoll.remove(fd)
            self._left(seat)
        elif kind == "close" and seat in self.owners:
            epoll.closed(fd)
            self._left(seat)
            self._exchange(seat)
        elif kind in ("mute", "listen") and seat in self.owners:
            epoll.change(fd, 0 if kind == "mute" else self.watch.kernel.EPOLLIN)
            (self.muted.add if kind == "mute" else self.muted.discard)(seat)
        elif kind == "swap" and seat in self.owners:
            epoll.closed(fd)
            self._left(seat)
            self._exchange(seat)
            self._watch(seat)
        elif kind == "speak":
            self.seats[other][1].send(b"x")

    def _watch(self, seat: int) -> None:
        name = f"{seat}.{len(self.watch.told)}.{self.turn}.{id(object())}"
        self.owners[seat], self.since[seat] = name, self.turn
        self.watch.add(self.seats[seat][0], name, lambda: self._told(seat, name))

    def _left(self, seat: int) -> None:
        self.owners.pop(seat, None)
        self.muted.discard(seat)

    def _exchange(self, seat: int) -> None:
        """Another socket of the same number."""
        old, far = self.seats[seat]
        new, far_new = socket.socketpair()
        os.dup2(new.fileno(), old.fileno(), inheritable=False)
        new.close()
        far.close()
        self.seats[seat] = old, far_new

    def _told(self, seat: int, name: str) -> None:
        if self.owners.get(seat) != name:
            self.errors.append(f"{name} is not there any more")
        elif self.since[seat] == self.turn:
            self.errors.append(f"{name} came later")
        for step in self.plans.get(seat, ()):
            self.act(step)

    def dispatch(self) -> None:
        before = len(self.watch.told)
        self.turn += 1
        expected = {owner for seat, owner in self.owners.items()
                    if seat not in self.muted and has_news(self.seats[seat][0])}
        self.since = dict.fromkeys(self.since, 0)
        self.watch.epoll.dispatch(0.0)
        told = set(self.watch.names[before:])
        assert not self.errors
        assert told <= expected | {name for name in told if self.plans}
        if not self.plans:
            assert told == expected
        assert not self.watch.faults, self.watch.faults
        assert self.watch.epoll.watched == len(self.owners)


def has_news(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


@pytest.mark.parametrize("name", KERNELS)
@given(steps=STEPS, plans=st.dictionaries(st.integers(0, 5), STEPS, max_size=4))
def test_whatever_happens_events_are_for_their_owners(name: str, steps: Sequence[Step],
                                                      plans: dict[int, Sequence[Step]]) -> None:
    with Crowd(KERNELS[name]) as crowd:
        for number, step in enumerate((*steps, ("dispatch", 0, 0), *steps, ("dispatch", 0, 0))):
            crowd.plans = plans if number > len(steps) else {}
            if step[0] == "dispatch":
                crowd.dispatch()
            else:
                crowd.act(step)


# --- accept ----------------------------------------------------------------------------------------------------------


def await_events(sock: Any, events: int) -> None:
    """Until one of these has come; on a busy machine that is not at once, even on this machine."""
    poll = select.poll()
    poll.register(sock.fileno(), events)
    assert poll.poll(LONG * 1000)


@contextlib.contextmanager
def listening(family: int, where: Any, only_six: bool = True) -> Iterator[_socket.socket]:
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_six)
        sock.bind(where)
        sock.listen(10)
        yield sock
    finally:
        sock.close()


def accepted(kernel: Kernel, listener: Any) -> tuple[Any, str, int]:
    found: tuple[Any, str, int] = wait_until(lambda: kernel.accept(listener), what="a client")
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.10.100", "127.9.99.199", "127.255.255.254"])
def test_a_client_by_ipv4(kernel: Kernel, host: str) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener:
        assert kernel.accept(listener) is None
        with socket.create_connection(listener.getsockname(), LONG, (host, 0)) as client:
            sock, address, port = accepted(kernel, listener)
            assert (address, port) == client.getsockname()
            assert isinstance(sock, kernel.Socket) and sock.family == socket.AF_INET
            assert not os.get_inheritable(sock.fileno()) and not os.get_blocking(sock.fileno())
            sock.close()
            assert client.recv(1) == b""
        assert kernel.accept(listener) is None


@pytest.mark.parametrize(("where", "client", "shown"), [
    ("::1", "::1", "::1"), ("::", "::1", "::1"), ("::", "127.0.0.1", "127.0.0.1"), ("::", "127.0.0.99", "127.0.0.99")])
def test_a_client_by_ipv6(kernel: Kernel, where: str, client: str, shown: str) -> None:
    with listening(socket.AF_INET6, (where, 0), only_six=False) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((client, port), LONG, (client, 0)) as peer:
            sock, *name = accepted(kernel, listener)
            assert name == [shown, peer.getsockname()[1]]
            assert sock.family == socket.AF_INET6
            sock.close()


def is_reached(where: tuple[str, int, int, int]) -> bool:
    with socket.socket(socket.AF_INET6) as client:
        return client.connect_ex(where) == 0


@needs_root
def test_a_client_of_one_link(kernel: Kernel) -> None:
    """Who connects says by which interface."""
    with Machine() as machine, machine.entered():
        machine.run("ip -6 address add fe80::1/64 dev lo nodad")
        scope = socket.if_nametoindex("lo")
        with listening(socket.AF_INET6, ("fe80::1", 0, 0, scope)) as listener:
            port = listener.getsockname()[1]
            wait_until(lambda: is_reached(("fe80::1", port, 0, scope)), what="a route, which the kernel makes later")
            accepted(kernel, listener)[0].close()
            for where in (("fe80::1", port, 0, scope), ("fe80::1%lo", port, 0, scope)):
                client = kernel.stream(socket.AF_INET6)
                outcome = kernel.connect(client, Endpoint(socket.AF_INET6, where, "fe80::1", port))
                assert outcome in (0, errno.EINPROGRESS) and settled(kernel, client) == 0
                sock, address, _ = accepted(kernel, listener)
                assert address == "fe80::1"
                sock.close()
                client.close()
            client = kernel.stream(socket.AF_INET6)
            assert kernel.connect(client, Endpoint(socket.AF_INET6, ("fe80::1", port), "fe80::1", port)) == errno.EINVAL
            client.close()


def test_a_client_of_a_unix_socket(kernel: Kernel, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with listening(socket.AF_UNIX, path) as listener:
        for bound in ("", str(tmp_path / "client"), "\0gpen-test-client"):
            with socket.socket(socket.AF_UNIX) as client:
                if bound:
                    client.bind(bound)
                client.connect(path)
                sock, *name = accepted(kernel, listener)
                assert name == [UNIX, 0] and sock.family == socket.AF_UNIX
                sock.close()


def test_a_client_that_has_left_before(kernel: Kernel) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), LONG)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        try:
            sock, address, _ = accepted(kernel, listener)
        except ConnectionAbortedError:
            return
        assert address == "127.0.0.1"
        await_events(sock, select.POLLHUP)
        assert kernel.receive(sock, memoryview(bytearray(10))) == kernel.LOST
        sock.close()


def test_nobody_is_accepted_where_nothing_listens(kernel: Kernel) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener:
        pass
    with pytest.raises(OSError, match="Bad file"):
        kernel.accept(listener)
    with contextlib.closing(kernel.stream(socket.AF_INET)) as sock, pytest.raises(OSError, match="Invalid argument"):
        kernel.accept(sock)


def test_without_descriptors(kernel: Kernel) -> None:
    """Nothing is lost: the client waits."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener, \
            socket.create_connection(listener.getsockname(), LONG):
        with open("/dev/null") as lowest:
            number = lowest.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, limits[1]))
        try:
            for attempt in (lambda: kernel.accept(listener), lambda: kernel.stream(socket.AF_INET),
                            lambda: kernel.Epoll(print), lambda: kernel.Socket(socket.AF_INET)):
                with pytest.raises(OSError) as raised:
                    attempt()
                assert raised.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        accepted(kernel, listener)[0].close()


# --- connect and progress --------------------------------------------------------------------------------------------


def endpoint_of(sock: Any) -> Endpoint:
    name = sock.getsockname()
    return Endpoint(sock.family, name, name, 0) if isinstance(name, str) else Endpoint(sock.family, name, *name[:2])


def settled(kernel: Kernel, sock: Any) -> int:
    """What becomes of a connect."""
    outcome = errno.EINPROGRESS
    while outcome == errno.EINPROGRESS:
        outcome = kernel.progress(sock)
    return outcome


@contextlib.contextmanager
def connecting(kernel: Kernel, endpoint: Endpoint, *expected: int) -> Iterator[Any]:
    sock = kernel.stream(endpoint.family)
    try:
        assert kernel.connect(sock, endpoint) in (expected or (0, errno.EINPROGRESS))
        yield sock
    finally:
        sock.close()


@pytest.mark.parametrize(("family", "where"), [
    (socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0)),
    (socket.AF_INET6, ("::1", 0, 7, 0))])
def test_a_server_that_is_there(kernel: Kernel, family: int, where: Any) -> None:
    with listening(family, where[:2]) as listener:
        port = listener.getsockname()[1]
        with connecting(kernel, Endpoint(family, (where[0], port, *where[2:]), where[0], port)) as sock:
            assert settled(kernel, sock) == 0 == kernel.progress(sock)
            server, *name = accepted(kernel, listener)
            assert name == [where[0], sock.getsockname()[1]]
            assert not os.get_blocking(sock.fileno()) and not os.get_inheritable(sock.fileno())
            server.close()


def test_a_server_by_its_name(kernel: Kernel) -> None:
    """Python knows what that is."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with connecting(kernel, Endpoint(socket.AF_INET, ("localhost", port), "localhost", port)) as sock:
            assert settled(kernel, sock) == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_server_that_is_not_there(kernel: Kernel, family: int) -> None:
    with listening(family, ("127.0.0.1" if family == socket.AF_INET else "::1", 0)) as listener:
        endpoint = endpoint_of(listener)
    with connecting(kernel, endpoint, errno.EINPROGRESS, errno.ECONNREFUSED) as sock:
        assert settled(kernel, sock) in (errno.ECONNREFUSED, errno.ENOTCONN)


def test_a_server_that_does_not_answer_yet(kernel: Kernel) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.listen(0)
        endpoint = endpoint_of(listener)
        stack.enter_context(connecting(kernel, endpoint))
        stack.enter_context(connecting(kernel, endpoint))
        sock = stack.enter_context(connecting(kernel, endpoint, errno.EINPROGRESS))
        assert kernel.progress(sock) == errno.EINPROGRESS == kernel.progress(sock)


@pytest.mark.parametrize("words", [b"", b"too many connections"])
def test_a_server_that_resets_at_once(kernel: Kernel, words: bytes) -> None:
    """What it has said before can be read."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener, connecting(kernel, endpoint_of(listener)) as sock:
        server, *_ = accepted(kernel, listener)
        if words:
            assert kernel.transmit(server, memoryview(words), len(words), 0) == len(words)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        await_events(sock, select.POLLHUP)
        if words:
            assert kernel.progress(sock) == 0
            buffer = bytearray(100)
            assert kernel.receive(sock, memoryview(buffer)) == len(words) and buffer.startswith(words)
        else:
            assert kernel.progress(sock) == errno.ECONNRESET


def test_a_server_with_a_path(kernel: Kernel, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    endpoint = Endpoint(socket.AF_UNIX, path, path, 0)
    with connecting(kernel, endpoint, errno.ENOENT):
        pass
    with listening(socket.AF_UNIX, path) as listener:
        with connecting(kernel, endpoint, 0):
            accepted(kernel, listener)[0].close()
        listener.listen(0)
        with connecting(kernel, endpoint, 0), connecting(kernel, endpoint, errno.EAGAIN):
            pass
    with connecting(kernel, endpoint, errno.ECONNREFUSED):
        pass


def test_no_connect_with_a_closed_socket(kernel: Kernel) -> None:
    sock = kernel.stream(socket.AF_INET)
    sock.close()
    assert kernel.connect(sock, Endpoint(socket.AF_INET, ("127.0.0.1", 9), "127.0.0.1", 9)) == errno.EBADF
    assert kernel.progress(sock) == errno.EBADF


@pytest.mark.parametrize("endpoint", [
    None, (), [], 5, "127.0.0.1", (socket.AF_INET, ("127.0.0.1", 9)),
    Endpoint(socket.AF_INET, None, "", 0), Endpoint(socket.AF_INET, (), "", 0), Endpoint(socket.AF_INET, ("",), "", 0),
    Endpoint(socket.AF_INET, (None, 9), "", 9), Endpoint(socket.AF_INET, (b"127.0.0.1", None), "", 9),
    Endpoint(socket.AF_INET, ["127.0.0.1", 9], "", 9), Endpoint(socket.AF_INET, ("127.0.0.1", 65536), "", 9),
    Endpoint(socket.AF_INET, ("127.0.0.1", -1), "", 9), Endpoint(socket.AF_INET, ("127.0.0.1", 2**70), "", 9),
    Endpoint(socket.AF_INET, ("\udcff", 9), "", 9), Endpoint(socket.AF_INET6, ("::1", 9, -1, 0), "", 9),
    Endpoint(socket.AF_INET6, ("::1", 9, 0, 2**40), "", 9), Endpoint(socket.AF_INET6, "::1", "", 9),
    Endpoint(None, ("127.0.0.1", 9), "", 9), Endpoint(2**40, ("127.0.0.1", 9), "", 9),  # type: ignore[arg-type]
], ids=repr)
def test_what_is_no_endpoint(kernel: Kernel, endpoint: Any) -> None:
    """It is an exception, and not the end of the process."""
    with contextlib.closing(kernel.stream(socket.AF_INET)) as sock, \
            contextlib.suppress(TypeError, AttributeError, OverflowError, UnicodeError, OSError):
        assert kernel.connect(sock, endpoint), "it is connected"


# --- receive, transmit and forward -----------------------------------------------------------------------------------


@contextlib.contextmanager
def connection(kernel: Kernel) -> Iterator[tuple[Any, socket.socket]]:
    """A kernel's socket, and the other end, which waits."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener, \
            socket.create_connection(listener.getsockname(), LONG) as client:
        sock, *_ = accepted(kernel, listener)
        yield sock, client
        sock.close()


@pytest.fixture
def connected(kernel: Kernel) -> Iterator[tuple[Any, socket.socket]]:
    with connection(kernel) as both:
        yield both


def test_what_is_read(kernel: Kernel, connected: tuple[Any, socket.socket]) -> None:
    sock, far = connected
    buffer = bytearray(5)
    view = memoryview(buffer)
    assert kernel.receive(sock, view) == kernel.AGAIN
    far.sendall(b"abcdefg")
    await_events(sock, select.POLLIN)
    assert (kernel.receive(sock, view), bytes(buffer)) == (5, b"abcde")
    assert (kernel.receive(sock, view[1:4]), bytes(buffer)) == (2, b"afgde")
    far.shutdown(socket.SHUT_WR)
    await_events(sock, select.POLLRDHUP)
    assert kernel.receive(sock, view) == 0
    assert kernel.receive(sock, view) == 0
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    assert kernel.receive(sock, view) in (0, kernel.LOST)
    sock.close()
    assert kernel.receive(sock, view) == kernel.LOST


def test_a_reset(kernel: Kernel, connected: tuple[Any, socket.socket]) -> None:
    sock, far = connected
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    await_events(sock, select.POLLHUP)
    assert kernel.receive(sock, memoryview(bytearray(1))) == kernel.LOST
    assert kernel.transmit(sock, memoryview(b"x"), 1, 0) == kernel.LOST  # and no SIGPIPE


def test_what_is_sent(kernel: Kernel, connected: tuple[Any, socket.socket]) -> None:
    sock, far = connected
    view = memoryview(b"abcdefg")
    assert kernel.transmit(sock, view, 3, 0) == 3
    assert kernel.transmit(sock, view[3:], 2, 0) == 2
    assert kernel.transmit(sock, view, 0, 0) == 0 == kernel.transmit(sock, view[:0], 0, 0)
    assert kernel.transmit(sock, view[5:], 2, kernel.MORE) == 2
    sock.shutdown(socket.SHUT_WR)
    assert far.makefile("rb").read() == b"abcdefg"
    assert kernel.transmit(sock, view, 7, 0) == kernel.LOST
    sock.close()
    assert kernel.transmit(sock, view, 7, 0) == kernel.LOST


def segments_sent(sock: Any) -> int:
    """By TCP_INFO."""
    found: int = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 136)[0]
    return found


def test_the_end_goes_with_the_last_bytes(kernel: Kernel) -> None:
    taken = []
    for flags in (0, kernel.MORE):
        with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener, \
                socket.create_connection(listener.getsockname(), LONG) as far:
            sock, *_ = accepted(kernel, listener)
            before = segments_sent(sock)
            assert kernel.transmit(sock, memoryview(b"last words"), 10, flags) == 10
            sock.shutdown(socket.SHUT_WR)
            assert far.makefile("rb").read() == b"last words"
            taken.append(segments_sent(sock) - before)
            sock.close()
    assert taken == [2, 1]


def test_no_room(kernel: Kernel, connected: tuple[Any, socket.socket]) -> None:
    """Every byte that was taken arrives, once."""
    sock, far = connected
    data = os.urandom(1 << 20)
    view, sent = memoryview(data), 0
    while sent < len(view) and (count := kernel.transmit(sock, view[sent:], len(view) - sent, 0)) >= 0:
        assert count > 0
        sent += count
    more = 0
    while (count := kernel.transmit(sock, view, len(view), 0)) >= 0:
        more += count
    assert count == kernel.AGAIN == kernel.transmit(sock, view, 1, 0)
    received = bytearray()
    while len(received) < sent + more:
        received += far.recv(1 << 20)
    assert received[:sent] == data[:sent] and len(received) == sent + more
    assert wait_until(lambda: kernel.transmit(sock, view, 1, 0) == 1)


@pytest.fixture
def between(kernel: Kernel) -> Iterator[tuple[socket.socket, Any, Any, socket.socket]]:
    """A machine that speaks, a kernel's socket of its connection, one of another's, and the machine that hears it."""
    with connection(kernel) as (source, speaker), connection(kernel) as (target, hearer):
        yield speaker, source, target, hearer


Between = tuple[socket.socket, Any, Any, socket.socket]


def test_what_is_passed_on(kernel: Kernel, between: Between) -> None:
    """At most as much as there is memory, which is that of a slice, too; and the end is told, but not passed on."""
    speaker, source, target, hearer = between
    buffer = bytearray(5)
    view = memoryview(buffer)
    assert kernel.forward(source, target, view, 0) == (kernel.AGAIN, 0)
    assert kernel.forward(source, target, view, kernel.MORE) == (kernel.AGAIN, 0)
    speaker.sendall(b"abcdefghij")
    await_events(source, select.POLLIN)
    assert (kernel.forward(source, target, view, 0), bytes(buffer)) == ((5, 5), b"abcde")
    assert (kernel.forward(source, target, view[1:4], 0), bytes(buffer)) == ((3, 3), b"afghe")
    assert (kernel.forward(source, target, view, 0), bytes(buffer)) == ((2, 2), b"ijghe")
    assert kernel.forward(source, target, view, 0) == (kernel.AGAIN, 0)
    speaker.shutdown(socket.SHUT_WR)
    await_events(source, select.POLLRDHUP)
    assert kernel.forward(source, target, view, kernel.MORE) == (0, 0) == kernel.forward(source, target, view, 0)
    assert kernel.transmit(target, memoryview(b"."), 1, 0) == 1
    assert hearer.makefile("rb").read(11) == b"abcdefghij."


def test_the_end_goes_with_the_last_bytes_that_are_passed_on(kernel: Kernel) -> None:
    taken = []
    for flags in (0, kernel.MORE):
        with connection(kernel) as (source, speaker), connection(kernel) as (target, hearer):
            before = segments_sent(target)
            speaker.sendall(b"last words")
            await_events(source, select.POLLIN)
            assert kernel.forward(source, target, memoryview(bytearray(20)), flags) == (10, 10)
            target.shutdown(socket.SHUT_WR)
            assert hearer.makefile("rb").read() == b"last words"
            taken.append(segments_sent(target) - before)
    assert taken == [2, 1]


def test_a_reset_behind_what_is_passed_on(kernel: Kernel, between: Between) -> None:
    """The bytes are passed on before it is told, once; then it is an end."""
    speaker, source, target, hearer = between
    speaker.sendall(b"last words")
    await_events(source, select.POLLIN)
    speaker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    speaker.close()
    await_events(source, select.POLLHUP)
    view = memoryview(bytearray(20))
    assert kernel.forward(source, target, view, 0) == (10, 10)
    assert kernel.forward(source, target, view, 0) == (kernel.LOST, 0)
    assert kernel.forward(source, target, view, 0) == (0, 0)
    assert hearer.recv(20) == b"last words"


@pytest.mark.parametrize("flags", [0, socket.MSG_MORE])
def test_what_can_not_be_passed_on(kernel: Kernel, between: Between, flags: int) -> None:
    """It is read, and in the memory; and there is no SIGPIPE."""
    speaker, source, target, hearer = between
    hearer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hearer.close()
    await_events(target, select.POLLHUP)
    buffer = bytearray(3)
    for words in (b"abc", b"def"):  # ECONNRESET, then EPIPE
        speaker.sendall(words)
        await_events(source, select.POLLIN)
        assert (kernel.forward(source, target, memoryview(buffer), flags), buffer) == ((3, kernel.LOST), words)
    assert kernel.forward(source, target, memoryview(buffer), flags) == (kernel.AGAIN, 0)


def test_sockets_of_ours_that_are_closed_pass_nothing_on(kernel: Kernel, between: Between) -> None:
    speaker, source, target, _ = between
    speaker.sendall(b"abcd")
    await_events(source, select.POLLIN)
    buffer = bytearray(3)
    target.close()
    assert (kernel.forward(source, target, memoryview(buffer), 0), buffer) == ((3, kernel.LOST), b"abc")
    source.close()
    assert (kernel.forward(source, target, memoryview(buffer), 0), buffer) == ((kernel.LOST, 0), b"abc")


def test_no_room_for_what_is_passed_on(kernel: Kernel, between: Between) -> None:
    """At last a part of it is taken, then nothing; what was taken arrives, once, and the rest is in the memory."""
    speaker, source, target, hearer = between
    target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
    buffer, taken, shares = bytearray(16 << 10), bytearray(), set()
    while "nothing" not in shares:
        data = os.urandom(len(buffer))
        speaker.sendall(data)
        while data:
            await_events(source, select.POLLIN)
            count, sent = kernel.forward(source, target, memoryview(buffer), 0)
            assert buffer[:count] == data[:count] and (0 < sent <= count or sent == kernel.AGAIN)
            shares.add("nothing" if sent < 0 else "all" if sent == count else "a part")
            taken += data[:max(sent, 0)]
            data = data[count:]
    assert shares == {"all", "a part", "nothing"}
    target.shutdown(socket.SHUT_WR)
    assert hearer.makefile("rb").read() == taken


def test_memory_that_nothing_can_be_read_into(kernel: Kernel, between: Between) -> None:
    """It is an exception, and what has come stays."""
    speaker, source, target, hearer = between
    speaker.sendall(b"abc")
    await_events(source, select.POLLIN)
    no_memory = [view for view in no_views() if not isinstance(view, bytearray)]
    for view in [*no_memory, memoryview(b"constant"), memoryview(bytearray(10)).toreadonly()]:
        with pytest.raises((TypeError, ValueError, BufferError)):
            kernel.forward(source, target, view, 0)
    assert kernel.forward(source, target, memoryview(bytearray(10)), 0) == (3, 3)
    assert hearer.recv(10) == b"abc"


def no_views() -> list[Any]:
    released = memoryview(bytearray(10))
    released.release()
    return [None, 5, b"abc", bytearray(10), [b"a"], released, memoryview(bytearray(10))[::2],
            memoryview(bytearray(10))[::-1]]


def test_what_is_no_memory_for_c() -> None:
    """Python looks at each; C must too, before it gives an address to the kernel."""
    if "compiled" not in KERNELS:
        return
    kernel = KERNELS["compiled"]
    left, right = socket.socketpair()
    sock = kernel.Socket(left.family, left.type, 0, left.detach())
    with right, contextlib.closing(sock):
        right.send(b"abc")
        for view in no_views():
            with pytest.raises((TypeError, ValueError)):
                kernel.receive(sock, view)
            with pytest.raises((TypeError, ValueError)):
                kernel.forward(sock, sock, view, 0)
            with pytest.raises((TypeError, ValueError)):
                kernel.transmit(sock, view, 1, 0)
        for call in (kernel.receive, lambda sock, view: kernel.forward(sock, sock, view, 0)):
            with pytest.raises(TypeError):
                call(sock, memoryview(b"constant"))
        for count in (-1, -2**31, 4, 2**31, 2**62):
            with pytest.raises(ValueError):
                kernel.transmit(sock, memoryview(b"abc"), count, 0)
        with pytest.raises(OverflowError):
            kernel.transmit(sock, memoryview(b"abc"), 2**64, 0)
        with pytest.raises(BlockingIOError):
            right.recv(10, socket.MSG_DONTWAIT)
        for nobody in (None, left, right, 5):
            for call in (kernel.receive, lambda sock, view: kernel.transmit(sock, view, 1, 0), kernel.connect,
                         lambda nobody, view: kernel.forward(nobody, sock, view, 0),
                         lambda nobody, view: kernel.forward(sock, nobody, view, 0)):
                with pytest.raises((TypeError, AttributeError)):
                    call(nobody, memoryview(bytearray(10)))
            with pytest.raises((TypeError, AttributeError)):
                kernel.progress(nobody)


def test_what_was_never_begun() -> None:
    """What Python code can make of the types of C without their __init__, and what is no handler."""
    if "compiled" not in KERNELS:
        return
    kernel = KERNELS["compiled"]
    sock, epoll = kernel.Socket.__new__(kernel.Socket), kernel.Epoll.__new__(kernel.Epoll)
    assert sock.fileno() == -1 == sock.detach()
    sock.close()
    assert kernel.receive(sock, memoryview(bytearray(1))) == kernel.LOST
    for call in (lambda: sock.getsockname(), lambda: sock.shutdown(0), lambda: sock.setsockopt(1, 2, 3)):
        with pytest.raises(OSError, match="Bad file"):
            call()
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        epoll.add(left.fileno(), kernel.EPOLLIN, kernel.Handler())
        with pytest.raises(TypeError):
            epoll.dispatch(0.0)  # there is nobody to be told of what a handler has raised
        for nobody in (5, "x", print, kernel.Handler):
            with pytest.raises(TypeError):
                epoll.add(right.fileno(), kernel.EPOLLIN, nobody)
        epoll.remove(left.fileno())
    for number in (-1, -2**31):
        with pytest.raises(ValueError, match="negative"):
            kernel.Socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)


# --- Socket ----------------------------------------------------------------------------------------------------------


def test_what_a_socket_can_besides(kernel: Kernel, connected: tuple[Any, socket.socket]) -> None:
    """All that one of Python's can."""
    sock, far = connected
    far.sendall(b"abc")
    await_events(sock, select.POLLIN)
    assert sock.recv(2, socket.MSG_PEEK) == b"ab"
    assert sock.recv(10) == b"abc"
    with pytest.raises(BlockingIOError):
        sock.recv(10)
    assert sock.send(b"x") == 1 and sock.sendmsg([b"y", memoryview(b"z")]) == 2
    assert far.makefile("rb").read(3) == b"xyz"
    assert sock.getsockname() == far.getpeername() and sock.getpeername() == far.getsockname()
    assert (sock.family, sock.type & 0xF, sock.gettimeout()) == (socket.AF_INET, socket.SOCK_STREAM, 0.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    with pytest.raises(OSError, match="Protocol not available"):
        sock.setsockopt(socket.IPPROTO_TCP, 9999, 1)
    with pytest.raises((OverflowError, TypeError)):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 2**40)
    with pytest.raises(AttributeError):
        sock.what_none_can()
    sock.shutdown(socket.SHUT_RDWR)
    assert far.recv(1) == b""


def test_the_kind_of_a_socket(kernel: Kernel) -> None:
    for family, kind in ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_STREAM)):
        with contextlib.closing(kernel.Socket(family, kind)) as sock:
            assert (sock.family, sock.type) == (family, kind)
            assert sock.gettimeout() is None and not os.get_inheritable(sock.fileno())
    with pytest.raises(OSError):
        kernel.Socket(9999)
    with contextlib.closing(kernel.stream(socket.AF_INET6)) as sock:
        assert sock.gettimeout() == 0.0 and sock.family == socket.AF_INET6


def test_a_closed_socket(kernel: Kernel, connected: tuple[Any, socket.socket]) -> None:
    sock, far = connected
    sock.close()
    assert far.recv(1) == b""
    assert sock.fileno() == -1
    for call in (lambda: sock.recv(1), lambda: sock.getsockname(), lambda: sock.shutdown(socket.SHUT_WR),
                 lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), lambda: sock.send(b"x")):
        with pytest.raises(OSError, match="Bad file"):
            call()
    sock.close()
    assert sock.detach() == -1


USES: dict[str, Callable[[Any], object]] = {
    "number": lambda sock: sock.fileno(),
    "name": lambda sock: sock.getsockname(),  # of the one of Python's
    "option": lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "bytes": lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0)),
    "close": lambda sock: sock.close(),
    "detach": lambda sock: sock.detach(),
    "method": lambda sock: METHODS.append(sock.recv_into),
}
METHODS: list[object] = []  # that were taken from a socket, and outlive it


@pytest.mark.parametrize("name", KERNELS)
@given(uses=st.lists(st.sampled_from(sorted(USES)), max_size=8))
def test_a_number_is_closed_once(name: str, uses: Sequence[str]) -> None:
    """In whichever order it is used, closed, given away and dropped; who gets the number next keeps it."""
    gc.freeze()  # what there is already: each collection would look at all tests, 0.2 s long
    kernel = KERNELS[name]
    sock = kernel.stream(socket.AF_INET)
    number, is_ours = sock.fileno(), True
    other = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for use in uses:
            with contextlib.suppress(OSError):
                USES[use](sock)
            if is_ours and use in ("close", "detach"):
                is_ours = False
                assert is_open(number) == (use == "detach")
                os.dup2(other, number, inheritable=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del sock
            METHODS.clear()
            gc.collect()
        assert is_open(number) == (not is_ours)
    finally:
        gc.unfreeze()
        os.close(other)
        with contextlib.suppress(OSError):
            os.close(number)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_sockets_leave_nothing(kernel: Kernel) -> None:
    """Neither memory nor descriptors, however they end."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as listener:
        endpoint = endpoint_of(listener)
        numbers = len(os.listdir("/proc/self/fd"))

        def round() -> None:
            sock = kernel.stream(socket.AF_INET)
            kernel.connect(sock, endpoint)
            client, *_ = accepted(kernel, listener)
            with contextlib.suppress(BlockingIOError):
                kernel.receive(client, memoryview(bytearray(100)))
            client.getsockname()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            client.close()

        for _ in range(200):
            round()
        before = sys.getallocatedblocks()
        for _ in range(1000):
            round()
        assert sys.getallocatedblocks() - before < 200
        assert len(os.listdir("/proc/self/fd")) == numbers


def test_both_have_the_same_names() -> None:
    """Whatever Python may use of one is in the other."""
    pure = KERNELS["pure"]
    assert all(hasattr(gpen.wire.kernel, name) for name in pure.__all__)
    for name in ("AGAIN", "LOST", "MORE", "EPOLLET", "EPOLLPRI"):
        assert getattr(pure, name) == getattr(gpen.wire.kernel, name)
    for name in ("Epoll", "Handler"):
        public = {word for word in dir(getattr(pure, name)) if not word.startswith("_")}
        assert public <= set(dir(getattr(gpen.wire.kernel, name)))
