"""What a peer says, spoiled: read, and to a gpen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hypothesis import strategies as st

from gpen.proto.peers import (
    IPV4,
    IPV6,
    KEY_BYTES,
    MOST_KEY,
    MOST_MESSAGE,
    Decoder,
    Definition,
    Encoder,
    Hello,
    Message,
    PeersError,
    Updates,
    acknowledgement,
    control,
    definition,
    hello,
)
from tests.fuzz.kind import Balanced, Trial
from tests.fuzz.lines import serves
from tests.fuzz.mutations import BYTES, cuts, pieces, spoiled
from tests.harness import Gpen, Server, echo, read_all
from tests.peers import Circle, visitor

NAMES = ("gpen", "web", "", "x" * 300)
KINDS = (IPV4, IPV6, 2, 6, 0)


def messages(what: Sequence[tuple[int, int, int]]) -> bytes:
    """Messages as a peer may send them, of a kind and two numbers each."""
    encoder, kind, said = Encoder(), IPV4, []
    for number, first, second in what:
        if number == 0:
            kind = KINDS[second % 2]
            said.append(definition(Definition(first % 300, NAMES[first % 2], kind, KEY_BYTES[kind], 1 << 19, second)))
        elif number == 1:
            said.append(definition(Definition(
                first, NAMES[first % 4], KINDS[second % 5], second % 20, 1 << 19 | first, second)))
        elif number == 2:
            said.append(control(first % 8))
        elif number == 3:
            said.append(acknowledgement(first, second % (1 << 32)))
        else:
            key = first.to_bytes(8, "big")[-4:] * (KEY_BYTES[kind] // 4)
            said.append(encoder.update(kind, first % (1 << 32), second % (1 << 32), key, f"127.0.0.1:{second}"))
    return b"".join(said)


numbers = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
said = st.lists(st.tuples(st.integers(0, 9), numbers, numbers), max_size=40).map(messages)
streams = st.tuples(spoiled(said, (
    *BYTES, b"\x0a\x85", b"\x0a\x82", b"\x0a\x80\xff\xff\xff\xff\x7f", b"\x0a\x83\x01\x01", b"\x0a\x84",
    b"\x00\x00", b"\x01\x00", b"\xf0", b"\xff" * 11, bytes(MOST_MESSAGE + 9)), 4), cuts)


def check_reading(case: tuple[bytes, Sequence[int]]) -> None:
    """It is read or refused; whole or in pieces makes no difference; and what comes of it is within the limits."""
    outcomes = [outcome([case[0]]), outcome(list(pieces(*case)))]
    assert outcomes[0] == outcomes[1]
    for message in outcomes[0]:
        for key, server, left, update in message.entries if isinstance(message, Updates) else ():
            assert len(key) in (4, 16) and (server is None or len(server.encode()) <= MOST_KEY)
            assert 0 <= update < 1 << 32 and (left is None or 0 <= left < 1 << 32)


def outcome(stream: Sequence[bytes]) -> list[Message]:
    """All that is read, entry by entry, unless it is refused."""
    decoder, found = Decoder(lambda table: table.name in NAMES[:2]), list[Message]()
    try:
        for piece in stream:
            for message in decoder.read(piece):
                found += one_by_one(message)
    except PeersError:
        return []
    return found


def one_by_one(message: Message) -> list[Message]:
    """Entries that come together depend on how the stream was cut; these do not."""
    if not isinstance(message, Updates):
        return [message]
    return [Updates(message.table, [entry], entry[-1]) for entry in message.entries]


class PeersTrial(Balanced):
    """Somebody who says that he is a peer; or not even that."""

    circle: Circle

    def attempt(self, case: tuple[bytes, Sequence[int]]) -> None:
        for greeting in (hello(Hello("a", "b", 1)), b""):
            with visitor(self.circle, "a", "127.0.0.2") as sock:
                with suppress(OSError):  # it may be refused already
                    for piece in pieces(greeting + case[0], case[1]):
                        sock.sendall(piece)
                    sock.shutdown(1)
                read_all(sock)


@contextmanager
def peers_trial(directory: Path) -> Iterator[Trial]:
    """A gpen with a peer."""
    circle = Circle("a", "b")
    with ExitStack() as stack, Server(echo) as server:
        trial = PeersTrial(stack, lambda: Gpen(directory, *circle.options("a"), "127.0.0.1:0", server.address), serves)
        trial.circle = circle
        yield trial
