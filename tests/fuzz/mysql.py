"""What a MySQL server says first: read by a gpen that leaves servers which refuse."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.kind import Balanced, Trial
from tests.fuzz.mutations import BYTES, cuts, pieces, spoiled
from tests.harness import Gpen, Server, read_all

WELL = b"\x0e\0\0\0\x0a10.11-well\0" + bytes(3)
REFUSALS = (1040, 1053, 1129, 1130)


def error(code: int, text: bytes, length: int | None = None) -> bytes:
    """An ERR packet in the place of a greeting."""
    body = b"\xff" + code.to_bytes(2, "little") + text
    return (len(body) if length is None else length).to_bytes(3, "little") + b"\0" + body


greetings = spoiled(st.one_of(
    st.builds(error, st.sampled_from((*REFUSALS, 1045, 0, 65535)), st.binary(max_size=60),
              st.none() | st.integers(0, 70) | st.just(0xFFFFFF)),
    st.builds(error, st.sampled_from(REFUSALS), st.sampled_from((b"Too many\nconnections", b"\x1b[31m", b"\xc2\x9b",
                                                                 b"a" * 2000, b"\xff\xfe", b"\r\n"))),
    st.binary(max_size=40), st.just(b"\x4a\0\0\0\x0a5.5.5-10.11.19-MariaDB\0" + bytes(50))), BYTES, 2)
conversations = st.tuples(greetings, cuts)


def refuses(greeting: bytes) -> bool:
    """Whether by the letter of the protocol nobody is served: there is no whole greeting, or an error of four."""
    if len(greeting) < 7:
        return True
    return greeting[4] == 0xFF and int.from_bytes(greeting[5:7], "little") in REFUSALS


class Greeter:
    """Says what it is given, in its pieces, and closes."""

    greeting: tuple[bytes, Sequence[int]] = (WELL, ())

    def __call__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces(*self.greeting)):
            if number < 9:
                time.sleep(0.0002)  # so that a piece comes by itself, as often as not
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1000):
            pass


class GreetingTrial(Balanced):
    """A server that greets in any way, and another behind it that is well."""

    def __init__(self, stack: ExitStack, greeter: Greeter, addresses: Sequence[str], directory: Path) -> None:
        self._greeter = greeter
        super().__init__(stack, lambda: Gpen(
            directory, "-r", "-b", "0", "-O", "prio", "-O", "mysql", "-O", "greeting 5", "-O",
            f"server 0 address {addresses[0]} prio 1", "-O", f"server 1 address {addresses[1]} prio 2", "127.0.0.1:0"),
            self._serves)

    def _serves(self, balancer: Gpen) -> None:
        self._greeter.greeting = WELL, ()
        assert balancer.ask() == WELL, "a healthy client is not served"

    def attempt(self, case: tuple[bytes, Sequence[int]]) -> None:
        self._greeter.greeting = case
        with self.balancer.connect() as sock:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            got = read_all(sock)
        assert got == (WELL if refuses(case[0]) else case[0]), f"the client got {got!r}"
        reason = self.balancer.server(0)["reason"] or ""
        assert len(reason) < 1000 and re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]*", reason), repr(reason)


@contextmanager
def greeting_trial(directory: Path) -> Iterator[Trial]:
    """A gpen that speaks as much of MySQL's protocol as it does."""
    greeter = Greeter()
    with ExitStack() as stack, Server(greeter) as first, Server(Greeter()) as second:
        yield GreetingTrial(stack, greeter, (first.address, second.address), directory)
