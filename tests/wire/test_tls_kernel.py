"""What says by a number what others raise, the same compiled and pure."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gpen.wire import kernel
from gpen.wire.kernel import AGAIN, LOST, Socket

VIEW = memoryview(bytearray(64))


@pytest.fixture
def pair() -> Iterator[tuple[Socket, socket.socket]]:
    """One of ours, which never waits, and who is at its other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    sock = Socket(ours.family, ours.type, 0, ours.detach())
    with theirs:
        yield sock, theirs
        sock.close()


def test_what_has_not_come_is_no_exception(pair: tuple[Socket, socket.socket]) -> None:
    sock, theirs = pair
    assert kernel.hear(sock, VIEW) == AGAIN
    theirs.sendall(b"word")
    assert kernel.hear(sock, VIEW) == 4
    assert VIEW[:4] == b"word"
    theirs.shutdown(socket.SHUT_WR)
    assert kernel.hear(sock, VIEW) == 0


def test_what_finds_no_room_is_told_from_what_nobody_will_take(pair: tuple[Socket, socket.socket]) -> None:
    sock, theirs = pair
    sent = 0
    while (count := kernel.say(sock, bytes(1 << 16), 0)) > 0:
        sent += count
    assert count == AGAIN
    assert sent
    theirs.close()
    assert kernel.say(sock, b"word", 0) == LOST
    with pytest.raises(ConnectionResetError):  # what it had not read
        kernel.hear(sock, VIEW)
