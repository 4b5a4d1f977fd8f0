"""Messages between two gpens, with descriptors in them."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from gpen.wire.passing import MOST_DESCRIPTORS, PIECE, Channel, PassingError, SilenceError, pair, peer_of, pieces, plain


@pytest.fixture
def line() -> Iterator[tuple[Channel, Channel]]:
    """Both ends."""
    ours, theirs = pair()
    other = plain(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_a_message(line: tuple[Channel, Channel]) -> None:
    """With as many descriptors as one may have: they are of the same files, and no program inherits them."""
    one, other = line
    reading, writing = os.pipe()
    one.send("pipes", [writing] * MOST_DESCRIPTORS, name="it", numbers=[1, 2])
    os.close(writing)
    message = other.receive(5)
    assert (message.kind, message["name"], message["numbers"]) == ("pipes", "it", [1, 2])
    assert len(message.descriptors) == MOST_DESCRIPTORS
    assert not any(map(os.get_inheritable, message.descriptors))
    os.write(message.descriptors[-1], b"x")
    message.close()
    assert os.read(reading, 10) == b"x" and os.read(reading, 10) == b""
    os.close(reading)


def test_many_lines_come_whole_and_in_order(line: tuple[Channel, Channel]) -> None:
    one, other = line
    lines = [f"server {number} address 10.0.0.1" for number in range(2000)] + ["x" * 3 * PIECE, "end"]
    one.send_lines("lines", lines)
    one.send("end")
    heard = [text for message in other.all_until("end", 5) if message.kind == "lines" for text in message["lines"]]
    assert heard == lines


def test_what_goes_wrong(line: tuple[Channel, Channel]) -> None:
    one, other = line
    with pytest.raises(SilenceError, match=r"it says nothing for 0\.05 s"):
        other.receive(0.05)
    with pytest.raises(PassingError, match="message too long"):
        other.send("long", text="x" * (8 << 20))
    for nonsense in (b"{", b"[]", b"{}", b'"x"', b"\xff"):
        os.write(one.fileno(), nonsense)
        with pytest.raises(PassingError, match="it does not speak our language"):
            other.receive(5)
    one.close()
    with pytest.raises(PassingError, match="it has ended"):
        other.receive(5)
    with pytest.raises(PassingError, match="it has ended"):
        other.send("x")


def test_descriptors_that_find_no_room(line: tuple[Channel, Channel]) -> None:
    """The limit of the receiver: those that came are closed again."""
    one, other = line
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.send("many", [0] * 50)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
    try:
        with pytest.raises(PassingError, match="descriptors were lost: the limit is too low"):
            other.receive(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) == before


def test_pieces() -> None:
    assert list(pieces([], len)) == []
    assert list(pieces("abcde", len, 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert [len(part) for part in pieces(["x" * PIECE] * 3, len)] == [1, 1, 1]


def test_a_peer() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == (os.getpid(), os.geteuid())
    with socket.socket() as sock:
        try:
            assert peer_of(sock).pid == 0  # nobody of this machine
        except OSError as error:
            assert error.errno == errno.ENOPROTOOPT
