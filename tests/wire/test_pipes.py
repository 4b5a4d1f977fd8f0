"""Pipes: what goes through one from socket to socket, and how many there are."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest

from gpen.wire.kernel import AGAIN, LOST, MORE, Pipe, Socket
from gpen.wire.pipes import MOST, PIECE, SIZES, Pipes
from tests.harness import PATIENCE, ROOT, needs_root, reset, wait_until

SOME = b"some bytes"


class Line(NamedTuple):
    """A connection: our side of it, as ends have it, and the other one's."""

    near: Socket
    far: socket.socket


@pytest.fixture
def line() -> Iterator[Callable[..., Line]]:
    """Make a connection: line(), or line(socket.AF_UNIX)."""
    with ExitStack() as stack:

        def make(family: int = socket.AF_INET) -> Line:
            if family == socket.AF_UNIX:
                near, far = socket.socketpair()
            else:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    far = socket.create_connection(listener.getsockname())
                    near, _ = listener.accept()
            far.settimeout(PATIENCE)
            near.setblocking(False)
            ours = Socket(near.family, near.type, 0, near.detach())
            stack.callback(ours.close)
            return Line(ours, stack.enter_context(far))

        yield make


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe(PIECE)) as pipe:
        yield pipe


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.shed()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def filled(pipe: Pipe, line: Line, data: bytes = SOME) -> Pipe:
    """A pipe that has taken these bytes, or as much as has come of them."""
    line.far.sendall(data)
    wait_until(lambda: pipe.fill(line.near, PIECE))
    return pipe


@pytest.fixture(params=["ipv4", "unix"])
def family(request: pytest.FixtureRequest) -> int:
    return {"ipv4": socket.AF_INET, "unix": socket.AF_UNIX}[request.param]


# --- a pipe ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, MORE])
def test_bytes_go_through(pipe: Pipe, line: Callable[..., Line], family: int, flags: int) -> None:
    ours, theirs = line(family), line(family)
    assert len(pipe) == 0
    filled(pipe, ours, b"one two")
    assert len(pipe) == 7
    assert (pipe.drain(theirs.near, flags), len(pipe)) == (7, 0)
    theirs.near.shutdown(socket.SHUT_WR)
    assert theirs.far.recv(100) == b"one two"


def test_no_more_are_taken_than_shall_be(pipe: Pipe, line: Callable[..., Line]) -> None:
    ours, theirs = line(), line()
    ours.far.sendall(b"abcdef")
    wait_until(lambda: len(ours.near.recv(10, socket.MSG_PEEK)) == 6)
    assert (pipe.fill(ours.near, 4), pipe.drain(theirs.near, 0)) == (4, 4)
    assert (pipe.fill(ours.near, 4), pipe.drain(theirs.near, 0)) == (2, 2)
    theirs.near.shutdown(socket.SHUT_WR)
    assert theirs.far.recv(10, socket.MSG_WAITALL) == b"abcdef"


def test_nothing_comes_and_the_end(pipe: Pipe, line: Callable[..., Line], family: int) -> None:
    """Which of them it is only reading tells."""
    ours = line(family)
    assert pipe.fill(ours.near, PIECE) == 0
    with pytest.raises(BlockingIOError):
        ours.near.recv(1)
    ours.far.shutdown(socket.SHUT_WR)
    assert (pipe.fill(ours.near, PIECE), ours.near.recv(1), len(pipe)) == (0, b"", 0)


def test_an_urgent_byte_hides_nothing(pipe: Pipe, line: Callable[..., Line]) -> None:
    """It is in the way of splice(2), which then tells of an end, though there is more behind it."""
    ours, theirs = line(), line()
    filled(pipe, ours)
    pipe.drain(theirs.near, 0)
    ours.far.send(b"!", socket.MSG_OOB)
    ours.far.sendall(SOME)
    ours.far.shutdown(socket.SHUT_WR)
    wait_until(lambda: ours.near.recv(20, socket.MSG_PEEK) == SOME)
    assert pipe.fill(ours.near, PIECE) == 0
    assert ours.near.recv(20) == SOME
    assert ours.near.recv(20) == b""


def test_a_reset_behind_bytes(pipe: Pipe, line: Callable[..., Line]) -> None:
    ours, theirs = line(), line()
    filled(pipe, ours)
    ours.far.sendall(b" and more")
    reset(ours.far)
    assert pipe.drain(theirs.near, 0) == len(SOME)
    wait_until(lambda: pipe.fill(ours.near, PIECE) == len(b" and more"))
    assert pipe.drain(theirs.near, 0) == len(b" and more")
    assert theirs.far.recv(100, socket.MSG_PEEK) == b"some bytes and more"
    wait_until(lambda: pipe.fill(ours.near, PIECE) == LOST)


def test_who_takes_nothing(pipe: Pipe, line: Callable[..., Line], family: int) -> None:
    """And all of it when there is room again."""
    ours, theirs = line(family), line(family)
    sent = 0
    while True:
        filled(pipe, ours, bytes(100_000))
        while (count := pipe.drain(theirs.near, 0)) > 0 and len(pipe):
            sent += count
        if count == AGAIN:
            break
        sent += count
    rest = len(pipe)
    assert pipe.drain(theirs.near, 0) == AGAIN and len(pipe) == rest > 0
    received = 0
    while len(pipe):
        received += len(theirs.far.recv(1 << 16))
        sent += max(pipe.drain(theirs.near, 0), 0)
    theirs.near.shutdown(socket.SHUT_WR)
    while piece := theirs.far.recv(1 << 16):
        received += len(piece)
    assert received == sent


def test_who_is_gone(pipe: Pipe, line: Callable[..., Line], family: int) -> None:
    ours, theirs = line(family), line(family)
    filled(pipe, ours)
    theirs.far.close()
    wait_until(lambda: (filled(pipe, ours) if not len(pipe) else pipe).drain(theirs.near, 0) == LOST)


def test_a_closed_socket_is_no_connection(pipe: Pipe, line: Callable[..., Line]) -> None:
    ours = line()
    ours.near.close()
    assert pipe.fill(ours.near, PIECE) == LOST


def test_one_that_is_dropped_is_closed(line: Callable[..., Line]) -> None:
    ours, before = line(), descriptors()
    filled(Pipe(PIECE), ours)
    assert descriptors() == before
    pipe = Pipe(PIECE)
    pipe.close()
    pipe.close()
    assert descriptors() == before


def test_one_that_can_not_be_so_large_leaves_nothing() -> None:
    before = descriptors()
    with pytest.raises(OSError):
        Pipe(-1)
    assert descriptors() == before


# --- all of them -----------------------------------------------------------------------------------------------------


def test_those_that_are_empty_are_used_again(pipes: Pipes) -> None:
    first = pipes.take()
    assert first is not None and (pipes.used, pipes.free) == (1, 0)
    pipes.give(first)
    assert (pipes.used, pipes.free) == (0, 1)
    assert pipes.take() is first
    pipes.give(first)


def test_one_with_bytes_in_it_is_used_by_nobody_else(pipes: Pipes, line: Callable[..., Line]) -> None:
    before = descriptors()
    pipe = pipes.take()
    assert pipe is not None
    ours = line()
    filled(pipe, ours)
    pipes.give(pipe)
    assert (pipes.used, pipes.free, descriptors()) == (0, 0, before + 2)


def test_there_are_not_more_than_that(pipes: Pipes) -> None:
    taken = [pipe for pipe in (pipes.take() for _ in range(MOST)) if pipe is not None]
    assert len(taken) == MOST and pipes.take() is None
    pipes.give(taken[0])
    assert pipes.take() is taken[0]
    for pipe in taken:
        pipes.give(pipe)


def test_fewer_where_descriptors_are_few(pipes: Pipes) -> None:
    taken = [pipe for pipe in (pipes.take() for _ in range(4)) if pipe is not None]
    pipes.give(taken.pop())
    pipes.tend(2)
    assert (pipes.used, pipes.free) == (3, 0) and pipes.take() is None
    for pipe in taken:
        pipes.give(pipe)
    pipes.tend(2)
    assert pipes.free == 2
    pipes.tend(-5)
    assert pipes.free == 0 and pipes.take() is None


def test_what_nobody_has_needed_of_late_is_closed(pipes: Pipes) -> None:
    before = descriptors()
    taken = [pipe for pipe in (pipes.take() for _ in range(3)) if pipe is not None]
    for pipe in taken:
        pipes.give(pipe)
    pipes.tend(MOST)
    assert pipes.free == 3  # they have been needed since the last time
    again = pipes.take()
    assert again is not None
    pipes.give(again)
    pipes.tend(MOST)
    assert pipes.free == 1
    pipes.tend(MOST)
    assert pipes.free == 0 and descriptors() == before


def test_what_nobody_needs_now_can_be_shed(pipes: Pipes) -> None:
    before = descriptors()
    assert not pipes.shed()
    first, second = pipes.take(), pipes.take()
    assert first is not None and second is not None
    pipes.give(first)
    assert pipes.shed() and not pipes.shed()
    assert (pipes.used, descriptors()) == (1, before + 2)
    pipes.give(second)


def test_without_descriptors_there_is_none(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked again after a while only, not for each event."""
    now = [100.0]
    monkeypatch.setattr("gpen.wire.pipes.monotonic", lambda: now[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, lowest = descriptors(), os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        assert pipes.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pipes.take() is None
    assert (pipes.used, descriptors()) == (0, before)
    now[0] += 2
    pipe = pipes.take()
    assert pipe is not None
    pipes.give(pipe)


TAKE_ALL = """\
import fcntl, os, sys
from gpen.wire.pipes import Pipes
os.setgroups([])
os.setuid(int(sys.argv[1]))  # and its capabilities are gone; not before: nobody else may be able to read this Python
hogs = [os.pipe2(0) for _ in range(int(sys.argv[2]))]
for _, inlet in hogs:
    fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, 1 << 18)
before, pipes, taken = set(os.listdir("/proc/self/fd")), Pipes(), []
while (pipe := pipes.take()) is not None:
    taken.append(pipe)
ends = sorted(int(name) for name in set(os.listdir("/proc/self/fd")) - before)
assert len(ends) == 2 * len(taken)
print(*[fcntl.fcntl(end, fcntl.F_GETPIPE_SZ) for end in ends[::2]])
"""


@needs_root
@pytest.mark.parametrize("hogs, sizes", [(0, [PIECE] * MOST), (250, [PIECE, SIZES[1], SIZES[1]]), (256, [])])
def test_a_user_has_no_more_than_the_kernel_allows(hogs: int, sizes: list[int]) -> None:
    """pipe-user-pages-soft in pipe(7): 64 MiB together, with those of the user's other processes."""
    user = str(60_000 + os.getpid() % 5000)
    command = [sys.executable, "-c", TAKE_ALL, user, str(hogs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stderr == ""
    assert [int(word) for word in done.stdout.split()] == sizes
