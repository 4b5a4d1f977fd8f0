"""Records and descriptors between gpen's processes: in order, also in pieces, and also where descriptors are short."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest

from gpen.wire.channel import Channel, Closed, Frames, framed, pair
from gpen.wire.poller import Poller


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a socket pair."""
    first, second = socket.socketpair()
    with first, second:
        yield first, second


def send(sock: socket.socket, records: list[tuple[object, ...]], descriptors: list[int]) -> None:
    socket.send_fds(sock, [framed(records, len(descriptors))], descriptors)


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


@contextmanager
def only(free: int) -> Iterator[None]:
    """This process can have so many descriptors more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.dup(0)]
    while fillers[-1] < highest:  # numbers between others
        fillers.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1 + free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in fillers:
            os.close(fd)


def test_records_and_descriptors_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames = Frames()
    sockets = [socket.socket() for _ in range(3)]
    for number, sock in enumerate(sockets):
        ours.sendall(framed([("without", number)]))
        send(ours, [("with", number), ("more", b"x" * 1000)], [sock.fileno()])
    records = []
    while len(records) < 9:
        records += frames.read(theirs)
    assert records == [record for number in range(3) for record in
                       (("without", number), ("with", number), ("more", b"x" * 1000))]
    assert [inode(fd) for fd in frames.descriptors] == [inode(sock.fileno()) for sock in sockets]
    frames.close()
    for sock in sockets:
        sock.close()


def test_a_frame_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames, data = Frames(), framed([("begin", number, b"y" * 10) for number in range(3)], 1)
    with socket.socket() as sock:
        socket.send_fds(ours, [data[:1]], [sock.fileno()])
        got = list(frames.read(theirs))
        for position in range(1, len(data)):
            assert got == [] and not frames.descriptors
            ours.sendall(data[position : position + 1])
            got += frames.read(theirs)
        assert [record[:2] for record in got] == [("begin", number) for number in range(3)]
        assert [inode(fd) for fd in frames.descriptors] == [inode(sock.fileno())]
    frames.close()


@pytest.mark.parametrize("free", [0, 2])
def test_descriptors_are_short(ends: tuple[socket.socket, socket.socket], free: int) -> None:
    """What can't be had is not taken from who comes next."""
    ours, theirs = ends
    frames = Frames()
    with socket.socket() as first, socket.socket() as second:
        send(ours, [("begin", number) for number in range(5)], [first.fileno()] * 5)
        send(ours, [("begin", 5)], [second.fileno()])
        with only(free):
            records = list(frames.read(theirs))
        records += frames.read(theirs)
        assert records == [("begin", number) for number in range(6)]
        assert list(frames.descriptors)[free:5] == [-1] * (5 - free)
        assert inode(frames.descriptors[5]) == inode(second.fileno())
        assert all(inode(fd) == inode(first.fileno()) for fd in list(frames.descriptors)[:free])
    frames.close()


def test_the_other_end_is_gone(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    frames = Frames()
    ours.sendall(framed([("last",)]) + b"x")
    ours.close()
    assert list(frames.read(theirs)) == [("last",)]
    with pytest.raises(Closed):
        frames.read(theirs)


def test_more_than_goes_at_once() -> None:
    """The other end reads later: what was sent waits, and comes whole and in order, with its descriptors."""
    poller = Poller()
    got: list[tuple[int, int]] = []
    ours, theirs = pair()
    count = 1000
    receiver: Channel

    def take(record: tuple[int, ...]) -> None:
        fd = receiver.descriptor()
        got.append((record[1], inode(fd)))
        os.close(fd)

    sender = Channel(ours, poller, lambda record: None, lambda: None)
    inodes = []
    for number in range(count):
        sock = socket.socket()
        inodes.append(inode(sock.fileno()))
        sender.send("begin", number, b"x" * 5000, passed=sock)
        if number % 100 == 99:
            sender.flush()
    assert sender.is_blocked
    receiver = Channel(theirs, poller, take, lambda: None)
    while len(got) < count:
        gevent.sleep(0.01)
    assert got == list(zip(range(count), inodes, strict=True))
    for channel in (sender, receiver):
        channel.close()
    poller.close()
