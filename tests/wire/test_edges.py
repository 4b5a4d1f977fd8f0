"""What an End is told but once (EPOLLET) it takes whole: no byte stays in a socket, and no end, that no event tells of
again. Everything here ends in silence, which no later byte breaks.

The two machines and the relay between them share one thread: what a machine has done is in gpen's socket before epoll
is asked, and of one batch, unless a test lets the relay have its turn.
"""

from __future__ import annotations

import array
import fcntl
import os
import random
import re
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from gpen.wire.poller import EPOLLIN, Call
from gpen.wire.proxy import guard
from gpen.wire.relay import End
from tests.certificates import Certificates
from tests.harness import reset, wait_until
from tests.wire.test_endings import unacknowledged
from tests.wire.test_kernel import await_events
from tests.wire.test_relay import Relayed

KB = 1 << 10
URGENT = b"\xff"  # not in DATA
DATA = bytes(byte % 255 for byte in random.Random(4).randbytes(4 << 20))
SOON = 1.0  # seconds without any progress, which the machines wait for no longer
TURNS = 200  # of the relay, at least, in that time: else this machine was busy with something else

Buffers = dict[int, int]  # SO_SNDBUF and SO_RCVBUF
UNLIMITED: Buffers = {socket.SO_SNDBUF: 4 << 20, socket.SO_RCVBUF: 4 << 20}  # as far as the kernel lets us
SCARCE: Buffers = {socket.SO_SNDBUF: 16 * KB, socket.SO_RCVBUF: 16 * KB}


class Machine:
    """A client or a server: what it is to say it says as soon as there is room, and it reads what there is."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.said = bytearray()  # URGENT included
        self.heard = bytearray()
        self.end = ""  # of what it hears: "end" or "reset"
        self.reads = True
        self._rest = b""  # is to be said
        self._last: Callable[[], object] | None = None  # is to be done behind that
        self.is_open = True  # it may be told to say more

    def say(self, data: bytes) -> None:
        """Without waiting, as far as there is room."""
        self.said += data
        self._rest += data
        self.step()

    def urge(self, data: bytes = b"") -> None:
        """Say this, with urgent data in the last of its segments."""
        assert not self._rest
        assert self.sock.send(data + URGENT, socket.MSG_OOB) == len(data) + 1
        self.said += data + URGENT

    def half_close(self) -> None:
        """Behind all that it is to say."""
        self._finish(self._shut)

    def reset(self) -> None:
        """When all that it is to say has left."""
        self._finish(lambda: reset(self.sock))

    def _finish(self, act: Callable[[], object]) -> None:
        self.is_open = False
        self._last = act
        self.step()

    def _shut(self) -> None:
        with suppress(OSError):  # it was reset
            self.sock.shutdown(socket.SHUT_WR)

    @property
    def has_said_all(self) -> bool:
        return not self._rest and self._last is None

    def step(self) -> None:
        if self.sock.fileno() < 0:
            return
        try:
            while self._rest:
                self._rest = self._rest[self.sock.send(self._rest):]
        except BlockingIOError:
            pass
        except OSError:
            self._rest = b""  # nobody hears it
        if self._last is not None and not self._rest and not unacknowledged(self.sock):
            last, self._last = self._last, None
            last()
        if self.reads and not self.end and self.sock.fileno() >= 0:
            self._hear()

    def _hear(self) -> None:
        try:
            while piece := self.sock.recv(1 << 20):
                self.heard += piece
            self.end = "end"
        except BlockingIOError:
            return
        except ConnectionError:
            self.end = "reset"


class Edge(Relayed):
    """A client and a server, here, and what is between them."""

    client_: Machine
    server_: Machine

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        super().__init__(certificates, stack)
        self.family = socket.AF_INET
        self.ours = self.theirs = UNLIMITED  # gpen's buffers, and those of the machines
        self.departed: list[End] = []
        self.has_begun = False

    def begin(self, start: bool = True) -> tuple[Machine, Machine]:
        """The client and the server."""
        ours, theirs = self._pair()
        self.client_at(ours, "plain")
        self.client_ = Machine(theirs)
        ours, theirs = self._pair()
        self.server_at(ours, "plain")
        self.server_ = Machine(theirs)
        if start:
            self.start()
        return self.client_, self.server_

    def start(self) -> None:
        super().start()
        self.has_begun = True

    def turn(self, seconds: float = 0.0) -> int:
        """Tell the relay what there is, once; how many events there were."""
        count = self._poller.dispatch(seconds)
        assert not self.failures
        return count

    def until(self, condition: Callable[[], Any]) -> None:
        """Let all of them go on until something is true; no longer than SOON when nothing moves."""
        before, deadline, turns = self._progress, time.monotonic() + SOON, 0
        while not condition():
            self.turn(0.001)
            for machine in (self.client_, self.server_):
                machine.step()
            if self._progress != before:
                before, deadline, turns = self._progress, time.monotonic() + SOON, 0
            turns += 1
            assert turns < TURNS or time.monotonic() < deadline, "it does not come true: nothing moves"

    @property
    def _progress(self) -> tuple[int, ...]:
        return tuple(value for machine in (self.client_, self.server_)
                     for value in (len(machine._rest), len(machine.heard)))

    def until_silence(self) -> None:
        """Until each has heard what the other has said; not a byte too many comes, and no event comes in vain."""
        for one, other in self._ways():
            self.until(lambda one=one, other=other: one.has_said_all and is_heard(one.said, other.heard))
        self.until(lambda: not self.turn())
        for machine in (self.client_, self.server_):
            machine.step()
        for one, other in self._ways():
            assert is_heard(one.said, other.heard)

    def _ways(self) -> tuple[tuple[Machine, Machine], tuple[Machine, Machine]]:
        return (self.client_, self.server_), (self.server_, self.client_)

    def parted(self, end: End) -> None:
        self.departed.append(end)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        if self.family == socket.AF_UNIX:
            return super()._pair()
        with socket.socket(self.family) as listener:
            allot(listener, self.ours)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            theirs = self._stack.enter_context(socket.socket(self.family))
            allot(theirs, self.theirs)
            theirs.connect(listener.getsockname())
            return self._stack.enter_context(listener.accept()[0]), theirs


def allot(sock: socket.socket, buffers: Buffers) -> None:
    for option, size in buffers.items():
        sock.setsockopt(socket.SOL_SOCKET, option, size)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def is_heard(said: bytes, heard: bytes) -> bool:
    """Whether that is all but urgent bytes. The last one is never heard; one before may have become a common one when
    the next came (tcp(7))."""
    return heard.count(URGENT) <= max(said.count(URGENT) - 1, 0) and all_but_urgent(said) == all_but_urgent(heard)


def all_but_urgent(data: bytes) -> bytes:
    return bytes(data).replace(URGENT, b"")


def waiting(fd: int) -> int:
    """Bytes that have come into a socket, and were not read."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


@pytest.fixture
def edge(certificates: Certificates) -> Iterator[Edge]:
    with ExitStack() as stack:
        edge = Edge(certificates, stack)
        yield edge
        edge.close()


each_way = pytest.mark.parametrize("way", ["up", "down"])
each_finish = pytest.mark.parametrize("finish", ["silence", "end", "reset"])


def speaker(edge: Edge, way: str) -> tuple[Machine, Machine, End]:
    """Who speaks, who hears it, and gpen's side of the first."""
    client, server = edge.client_, edge.server_
    return (client, server, edge.down) if way == "up" else (server, client, edge.up)


def begun(edge: Edge, way: str, known: bool) -> tuple[Machine, Machine, End]:
    """The same, of a connection that begins now; ``known``: something has come from who speaks, and gone through."""
    edge.begin()
    one, other, end = speaker(edge, way)
    if known:
        one.say(b"hello")
        edge.until_silence()
    return one, other, end


def stuff(edge: Edge, one: Machine, end: End, piece: int) -> None:
    """Say so much at a time that something waits for the other machine, which takes nothing."""
    def waits() -> bool:
        if one.has_said_all:
            one.say(DATA[:piece])
        return bool(end.peer.pending)

    edge.until(waits)


def finish_with(edge: Edge, finish: str, one: Machine, other: Machine) -> None:
    """The other machine hears all, and how it ends; then it ends itself, and both are done."""
    if finish == "silence":
        edge.until_silence()
        assert not other.end
        one.half_close()
    edge.until(lambda: other.end)
    assert other.end == "end" and is_heard(one.said, other.heard)
    end = edge.down if one is edge.client_ else edge.up
    assert end.has_parted and end.reset == end.deaf == (finish == "reset")
    edge.until(lambda: not edge.turn())
    other.half_close()
    edge.until(lambda: edge.over)


def end_with(finish: str, one: Machine) -> None:
    if finish == "end":
        one.half_close()
    elif finish == "reset":
        one.reset()


# --- urgent data -----------------------------------------------------------------------------------------------------

# What is said, with an exclamation mark for urgent data.
URGENCIES = ["!", "!behind", "before!", "before!behind", "!!", "be!tw!een", "before!!", "!!behind", "a!b!c!d",
             f"!{'x' * 1000}", f"{'x' * 40_000}!{'y' * 40_000}!{'z' * 10}", f"{'x' * 200_000}!y"]


@each_way
@each_finish
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("words", URGENCIES, ids=[re.sub(r"(\w)\1{5,}", r"\1_", words) for words in URGENCIES])
def test_around_urgent_data(edge: Edge, words: str, known: bool, finish: str, way: str) -> None:
    """Whether the relay is told of it with its first event, or another one."""
    one, other, _ = begun(edge, way, known)
    for piece in re.split("(!)", words):
        if piece == "!":
            one.urge()
        else:
            one.say(piece.encode())
    end_with(finish, one)
    finish_with(edge, finish, one, other)


@each_way
@each_finish
def test_urgent_data_one_by_one(edge: Edge, finish: str, way: str) -> None:
    """The relay has its turn behind each piece."""
    edge.begin()
    one, other, _ = speaker(edge, way)
    for number in range(10):
        one.urge(DATA[number : 3 * number])
        edge.turn()
        one.say(DATA[number : 2 * number + 1])
        edge.turn()
    end_with(finish, one)
    finish_with(edge, finish, one, other)


@each_way
def test_urgent_data_that_comes_while_nothing_is_read(edge: Edge, way: str) -> None:
    """It is there when the other side has taken what waited, and nothing more comes."""
    edge.ours, edge.theirs = SCARCE, {**UNLIMITED, socket.SO_RCVBUF: 16 * KB}
    edge.begin()
    one, other, end = speaker(edge, way)
    other.reads = False
    stuff(edge, one, end, 20 * KB)
    one.urge(b"more")
    one.say(b"last")
    edge.turn()
    other.reads = True
    finish_with(edge, "silence", one, other)


# --- unix sockets ----------------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("finish", ["silence", "end"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_around_descriptors(edge: Edge, known: bool, finish: str, way: str) -> None:
    """A read of a unix socket ends where some were sent, though there is more; they are closed by the kernel."""
    edge.family = socket.AF_UNIX
    one, other, _ = begun(edge, way, known)
    outlet, inlet = os.pipe()
    for number in range(3):
        one.say(b"before")
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [inlet]))
        one.sock.sendmsg([b"with %d" % number], [rights])
        one.said += b"with %d" % number
        one.say(b"behind")
    os.close(inlet)
    end_with(finish, one)
    finish_with(edge, finish, one, other)
    assert os.read(outlet, 1) == b""
    os.close(outlet)


# --- sizes -----------------------------------------------------------------------------------------------------------


@each_way
@each_finish
@pytest.mark.parametrize("size", [1, 32 * KB - 1, 32 * KB, 128 * KB - 1, 128 * KB, 128 * KB + 1, 300_000])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_sizes(edge: Edge, known: bool, size: int, finish: str, way: str) -> None:
    """All of it is in gpen's socket when epoll is asked, as far as there is room."""
    one, other, end = begun(edge, way, known)
    one.say(DATA[:size])
    assert waiting(end.fd) == size or one._rest or unacknowledged(one.sock)
    end_with(finish, one)
    finish_with(edge, finish, one, other)


def test_small_and_large_messages(edge: Edge) -> None:
    """On one connection, each a question and its answer, behind which there is silence."""
    edge.begin()
    chance = random.Random(7)
    for _ in range(60):
        for one in (edge.client_, edge.server_):
            one.say(DATA[: chance.choice((1, 100, 32 * KB - 1, 32 * KB, 70_000, 128 * KB, 300_000))])
            edge.until_silence()
    finish_with(edge, "silence", edge.client_, edge.server_)


# --- ends ------------------------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
def test_an_end(edge: Edge, together: bool, known: bool, way: str) -> None:
    """In the segment of the last bytes, or in one of its own, which comes when these have been read."""
    one, other, end = begun(edge, way, known)
    if together:
        one.sock.send(b"last", socket.MSG_MORE)
        one.said += b"last"
        assert waiting(end.fd) == 0
    else:
        one.say(b"last")
        edge.until_silence()
    one.sock.shutdown(socket.SHUT_WR)
    finish_with(edge, "end", one, other)


@each_way
def test_an_end_alone(edge: Edge, way: str) -> None:
    edge.begin()
    one, other, _ = speaker(edge, way)
    one.half_close()
    finish_with(edge, "end", one, other)


@each_way
@pytest.mark.parametrize("size", [1, 50_000, 300_000])
@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
def test_the_other_speaks_on_behind_an_end(edge: Edge, together: bool, size: int, way: str) -> None:
    """More than once, and its own end is passed on."""
    edge.begin()
    one, other, end = speaker(edge, way)
    if not together:
        one.say(b"bye")
        edge.until_silence()
    one.say(b"last")
    one.half_close()
    edge.until(lambda: other.end)
    for _ in range(3):
        other.say(DATA[:size])
        edge.until_silence()
    assert not one.end and end.has_parted and not end.peer.has_parted
    other.half_close()
    edge.until(lambda: one.end == "end" and edge.over)
    assert is_heard(other.said, one.heard)


@each_way
@pytest.mark.parametrize("finish", ["end", "reset"])
@pytest.mark.parametrize("size", [1, 100_000, 1_000_000])
@pytest.mark.parametrize("piece", [30 * KB, 70 * KB], ids=["small", "large"])
def test_an_end_while_the_other_takes_nothing(edge: Edge, piece: int, size: int, finish: str, way: str) -> None:
    """It takes all, later, and then hears of the end."""
    edge.ours, edge.theirs = UNLIMITED, SCARCE
    edge.begin()
    one, other, end = speaker(edge, way)
    other.reads = False
    stuff(edge, one, end, piece)
    one.say(DATA[:size])
    end_with(finish, one)
    edge.until(lambda: not edge.turn())
    other.reads = True
    finish_with(edge, finish, one, other)


@each_way
@pytest.mark.parametrize("size", [0, 1, 50_000])
def test_a_peer_that_becomes_deaf(edge: Edge, size: int, way: str) -> None:
    """What is said to it is read all the same, and the end of that; so is what it said before it left."""
    edge.begin()
    one, other, end = speaker(edge, way)
    other.say(b"last words")
    one.say(DATA[:size])
    other.reset()
    edge.until(lambda: one.end)
    assert one.heard == b"last words"
    for _ in range(3):
        one.say(DATA[:size])
        edge.until(lambda: end.received == len(one.said))
    one.half_close()
    edge.until(lambda: edge.over)


@each_way
def test_a_peer_that_becomes_deaf_while_it_takes_nothing(edge: Edge, way: str) -> None:
    edge.ours, edge.theirs = UNLIMITED, SCARCE
    edge.begin()
    one, other, end = speaker(edge, way)
    other.reads = False
    stuff(edge, one, end, 30 * KB)
    one.say(DATA[: 100 * KB])
    other.reset()
    edge.until(lambda: end.received == len(one.said))
    one.half_close()
    edge.until(lambda: edge.over)


@each_way
def test_nothing_follows_what_is_lost(edge: Edge, way: str) -> None:
    one, other, end = begun(edge, way, known=True)
    end.failed()
    edge.failures.clear()
    one.say(b"more")
    edge.until(lambda: end.received == len(one.said))
    other.step()
    assert other.heard == b"hello"


# --- one batch of events ---------------------------------------------------------------------------------------------


class Before:
    """Something that epoll tells of before all that comes from now on."""

    def __init__(self, edge: Edge, act: Callable[[], object]) -> None:
        near, self._far = socket.socketpair()
        edge._stack.enter_context(near)
        edge._stack.enter_context(self._far)
        self._edge, self._fd, self._act = edge, near.fileno(), act
        edge._poller.add(self._fd, EPOLLIN, Call(self._run))
        edge.turn()
        self._far.send(b"x")

    def _run(self, events: int) -> None:
        self._edge._poller.remove(self._fd)
        self._act()


@each_way
@pytest.mark.parametrize("finish", ["silence", "end"])
def test_one_that_is_paused_earlier_in_the_batch(edge: Edge, finish: str, way: str) -> None:
    """It has not parted because of that; nor is anything of it lost."""
    one, other, end = begun(edge, way, known=True)
    Before(edge, lambda: end.peer.keep(memoryview(b"")))
    one.say(b"more")
    end_with(finish, one)
    wait_until(lambda: one.step() or one.has_said_all)
    await_events(end.sock, select.POLLRDHUP if finish == "end" else select.POLLIN)
    edge.turn()
    assert other.heard == b"hello" and end.has_parted == (finish == "end") == bool(edge.departed)
    edge.until_silence()
    finish_with(edge, finish, one, other)


@each_way
def test_one_that_is_closed_earlier_in_the_batch(edge: Edge, way: str) -> None:
    one, other, _ = begun(edge, way, known=True)
    Before(edge, edge.close)
    one.say(b"more")
    edge.turn()
    edge.until(lambda: other.end)
    assert (other.end, other.heard) == ("end", b"hello")


@each_way
@each_finish
def test_one_whose_peer_is_muted_earlier_in_the_batch(edge: Edge, finish: str, way: str) -> None:
    """What comes from it is dropped, and its end is noticed."""
    edge.begin()
    one, other, end = speaker(edge, way)
    Before(edge, lambda: end.peer.mute())
    one.say(b"more")
    end_with(finish, one)
    edge.until(lambda: end.received == len(one.said))
    if finish == "silence":
        one.half_close()
    edge.until(lambda: end.eof)
    other.half_close()
    edge.until(lambda: edge.over)
    assert not other.heard


# --- who looks at what comes -----------------------------------------------------------------------------------------


@each_finish
@pytest.mark.parametrize("words", ["PRO", "PROXIMITY", "GET /", "P!ROX!Y?", f"PROX{'Y' * 300_000}"],
                         ids=lambda words: words[:9])
def test_the_guard_lets_pass_what_is_no_header(edge: Edge, words: str, finish: str) -> None:
    """In pieces, of which the first are seen by it and the others are not."""
    client, server = edge.begin()
    guard(edge.down, pytest.fail)
    for piece in re.findall(r"!|[^!]{1,3}", words) if len(words) < 20 else [words]:
        if piece == "!":
            client.urge()
        else:
            client.say(piece.encode())
        edge.turn()
    end_with(finish, client)
    finish_with(edge, finish, client, server)


@each_way
@each_finish
@pytest.mark.parametrize("size", [1, 40_000, 300_000])
def test_a_tap_that_comes_and_goes(edge: Edge, size: int, finish: str, way: str) -> None:
    edge.begin()
    one, other, end = speaker(edge, way)
    seen = bytearray()
    expected = bytearray()
    for number in range(4):
        one.say(DATA[number : number + size])
        if number % 2:
            end.tap = lambda end, data: seen.extend(data)
            expected += DATA[number : number + size]
        if number < 3:
            edge.until_silence()
            end.tap = None
    end_with(finish, one)
    finish_with(edge, finish, one, other)
    assert seen == expected


# --- whatever comes --------------------------------------------------------------------------------------------------

STEPS = ["say"] * 8 + ["urge", "urge", "half_close", "stop", "go", "go", "reset", "turn", "turn", "turn"]
SIZES = [1, 100, 5000, 32 * KB - 1, 32 * KB, 70_000, 128 * KB, 300_000]
SCRIPTS = 400


@pytest.mark.parametrize("part", range(4))
def test_whatever_they_do(certificates: Certificates, part: int) -> None:
    """Each hears all that the other has said, and its end, unless it has reset the connection itself."""
    for seed in range(part, SCRIPTS, 4):
        with ExitStack() as stack:
            edge = Edge(certificates, stack)
            history: list[str] = []
            try:
                play(edge, random.Random(seed), history)
            except AssertionError as error:
                raise AssertionError(f"script {seed}: {' '.join(history)}") from error
            finally:
                edge.close()


def play(edge: Edge, chance: random.Random, history: list[str]) -> None:
    if chance.random() < 0.3:
        edge.ours = edge.theirs = SCARCE
    machines = edge.begin(start=chance.random() < 0.7)
    resetting: set[Machine] = set()
    for _ in range(chance.randrange(2, 15)):
        step, one = chance.choice(STEPS), chance.choice(machines)
        history.append(f"{'client' if one is machines[0] else 'server'}.{step}")
        act(edge, step, one, chance, resetting)
    if not edge.has_begun:
        edge.start()
    for machine in machines:
        machine.reads = True
        if machine.is_open:
            machine.half_close()
    client, server = machines
    edge.until(lambda: edge.over and all(machine.end or machine in resetting for machine in machines))
    for one, other in ((client, server), (server, client)):
        if other in resetting:
            assert all_but_urgent(one.said).startswith(all_but_urgent(other.heard))
        elif one in resetting or not resetting:
            assert is_heard(one.said, other.heard)


def act(edge: Edge, step: str, one: Machine, chance: random.Random, resetting: set[Machine]) -> None:
    if step == "turn":
        if edge.has_begun:
            edge.turn()
        elif chance.random() < 0.5:
            edge.start()
    elif step in ("stop", "go"):
        one.reads = step == "go"
    elif not one.is_open:
        return
    elif step == "say":
        one.say(DATA[: chance.choice(SIZES)])
    elif step == "urge" and one.has_said_all:
        with suppress(BlockingIOError, ConnectionError):  # it has no room, or was reset
            one.urge(DATA[: chance.choice((0, 0, 10))])
    elif step == "half_close":
        one.half_close()
    elif step == "reset" and not resetting:
        resetting.add(one)
        one.reset()
