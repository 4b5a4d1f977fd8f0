"""Bytes in bulk go through pipes, and nothing else does: that all arrives, is counted, and no pipe is left or lost."""

from __future__ import annotations

import json
import os
import queue
import random
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from gpen.wire.kernel import Pipe
from gpen.wire.pipes import MOST, PIECE, Pipes
from tests.certificates import Certificates
from tests.harness import PATIENCE, Gpen, Server, connect, read_all, reset, wait_until
from tests.wire.http_peers import read_exactly
from tests.wire.test_endings import leave_then_reset
from tests.wire.test_relay import Relayed, answer_all, say_all
from tests.wire.test_transfers import HEADER, ORDERS, digest, talk_and_leave

MB = 1 << 20
DATA = random.Random(2).randbytes(8 * MB)
SMALL = 1000

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Sock = socket.socket


class Counted(Pipes):
    """Pipes that know how often one was taken."""

    taken = 0

    def take(self) -> Pipe | None:
        pipe = super().take()
        self.taken += pipe is not None
        return pipe


class Bulk(Relayed):
    """Two sides over TCP."""

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        super().__init__(certificates, stack)
        self.pipes = self._poller.pipes = Counted()

    def _pair(self) -> tuple[Sock, Sock]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = self._stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
            return self._stack.enter_context(listener.accept()[0]), theirs

    @property
    def waits(self) -> bool:
        """Whether bytes for the client wait in a pipe."""
        return isinstance(self.down.pending, Pipe)


@pytest.fixture
def bulk(certificates: Certificates) -> Iterator[Bulk]:
    with ExitStack() as stack:
        bulk = Bulk(certificates, stack)
        yield bulk
        bulk.close()
        assert bulk.pipes.used == 0


def flood(data: bytes, end: Callable[[Sock], Any], sock: Sock) -> None:
    """Send all, as far as the other side lets us, and end so."""
    try:
        sock.sendall(data)
    except OSError:
        return
    end(sock)


class Stopping:
    """A client that reads so many bytes each time it is told to, and stops until it is; 0 is to do something else."""

    def __init__(self, then: Callable[[Sock], Any]) -> None:
        self._then = then
        self._steps: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done = threading.Event()

    def read(self, count: int) -> None:
        self._done.clear()
        self._steps.put(count)

    def go_on(self) -> None:
        self._steps.put(0)

    @property
    def waits(self) -> bool:
        return self._done.is_set()

    def __call__(self, sock: Sock) -> Any:
        """What was read in all, where something else is to read the rest."""
        received = []
        while count := self._steps.get(timeout=PATIENCE):
            received.append(read_exactly(sock, count))
            self._done.set()
        more = self._then(sock)
        return b"".join(received) + more if isinstance(more, bytes) else None


# --- the two sides alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up, down", [(DATA, b""), (b"", DATA)], ids=["up", "down"])
def test_bulk_goes_through_a_pipe(bulk: Bulk, up: bytes, down: bytes) -> None:
    """Each direction is ended behind its last byte."""
    asked = bulk.client("plain", partial(say_all, up))
    served = bulk.server("plain", partial(answer_all, down))
    bulk.start()
    assert (bulk.result(served), bulk.result(asked)) == (up, down)
    assert bulk.pipes.taken > 0
    bulk.until(lambda: bulk.over)
    assert (bulk.down.received, bulk.up.sent) == (len(up), len(up))
    assert (bulk.up.received, bulk.down.sent) == (len(down), len(down))
    assert not (bulk.up.reset or bulk.down.reset)


def exchange(pieces: int, size: int, sock: Sock) -> None:
    """Send pieces, each when the one before has been answered by a byte."""
    for number in range(pieces):
        sock.sendall(DATA[number : number + size])
        assert sock.recv(1) == b"."


def confirm(sizes: list[int], sock: Sock) -> bytes:
    """Read pieces of these sizes, and answer each by a byte; all that came."""
    received = []
    for size in sizes:
        received.append(read_exactly(sock, size))
        sock.sendall(b".")
    return b"".join(received)


def test_small_pieces_are_read(bulk: Bulk) -> None:
    sizes = [SMALL] * 100 + [30_000] * 20
    def talk(sock: Sock) -> None:
        exchange(100, SMALL, sock)
        exchange(20, 30_000, sock)

    bulk.client("plain", talk)
    served = bulk.server("plain", partial(confirm, sizes))
    bulk.start()
    assert len(bulk.result(served)) == sum(sizes)
    assert bulk.pipes.taken == 0


def test_to_and_fro(bulk: Bulk) -> None:
    """Small, large, small: pipes are used for what is large, and none is held while nothing moves."""
    taken: list[tuple[int, int]] = []

    def note() -> None:
        taken.append((bulk.pipes.taken, bulk.pipes.used))

    def talk(sock: Sock) -> None:
        for _ in range(4):
            exchange(20, SMALL, sock)
            note()
            exchange(1, 4 * MB, sock)
            note()

    asked = bulk.client("plain", talk)
    served = bulk.server("plain", partial(confirm, ([SMALL] * 20 + [4 * MB]) * 4))
    bulk.start()
    bulk.result(asked)
    assert digest(bulk.result(served)) == digest((b"".join(DATA[n : n + SMALL] for n in range(20)) + DATA[:4 * MB]) * 4)
    counts = [0, *(count for count, _ in taken)]
    grown = [after - before for before, after in pairwise(counts)]
    assert max(grown[::2]) <= 1  # for the first small piece behind the large ones
    assert min(grown[1::2]) > 0
    assert {used for _, used in taken} == {0}


def stopped(bulk: Bulk, data: bytes, then: Callable[[Sock], Any], end: Callable[[Sock], Any] = Sock.close,
            ) -> tuple[Any, Callable[[], None]]:
    """Have a client that is flooded read until it stops with bytes for it in a pipe; what comes of what it does then,
    and what lets it go on."""
    client = Stopping(then)
    asked = bulk.client("plain", client)
    bulk.server("plain", partial(flood, data, end))
    bulk.start()
    while not bulk.waits:
        client.read(MB)
        bulk.until(lambda: client.waits and bulk.down.is_full and not select.select((), (bulk.down.fd,), (), 0)[1])
    return asked, client.go_on


def test_what_finds_no_room_waits_in_the_pipe(bulk: Bulk) -> None:
    """And the other side with it; it is counted as received, and not as sent."""
    data = DATA * 8
    asked, go_on = stopped(bulk, data, read_all)
    pending = bulk.down.pending
    assert pending is not None and 0 < len(pending) <= PIECE
    assert bulk.up.received == bulk.down.sent + len(pending)
    assert bulk.down.is_full and bulk.pipes.used == 1
    received = bulk.up.received
    bulk.up.ready(0)
    assert bulk.up.received == received
    go_on()
    assert digest(bulk.result(asked)) == digest(data)
    assert (bulk.up.received, bulk.down.sent, bulk.pipes.used) == (len(data), len(data), 0)


def test_a_session_that_is_closed_takes_its_pipe_along(bulk: Bulk) -> None:
    before = set(os.listdir("/proc/self/fd"))
    _, go_on = stopped(bulk, DATA * 8, read_all)
    assert bulk.pipes.free == 0
    bulk.close()
    assert (bulk.down.pending, bulk.pipes.used, bulk.pipes.free) == (None, 0, 0)
    go_on()
    assert not [fd for fd in os.listdir("/proc/self/fd") if fd not in before and "pipe" in target_of(fd)]


def target_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_who_resets_and_leaves_a_full_pipe(bulk: Bulk) -> None:
    """What was for that side is dropped, and the other is read on, to its end."""
    _, go_on = stopped(bulk, DATA * 4, reset)
    go_on()
    bulk.until(lambda: bulk.down.deaf)
    assert (bulk.down.pending, bulk.pipes.used, bulk.pipes.free) == (None, 0, 0)
    assert bulk.down.reset
    bulk.until(lambda: bulk.up.eof)
    assert bulk.up.received == len(DATA) * 4


def test_what_left_one_that_resets_arrives_from_the_pipe(bulk: Bulk) -> None:
    """All of it, though the end that shows itself is none."""
    gone = threading.Event()

    def end(sock: Sock) -> None:
        leave_then_reset(sock)
        gone.set()

    asked, go_on = stopped(bulk, DATA * 8, read_all, end)
    go_on()
    assert digest(bulk.result(asked)) == digest(DATA * 8)
    bulk.until(gone.is_set)
    bulk.until(lambda: bulk.up.reset)


def test_an_urgent_byte_in_the_midst(bulk: Bulk) -> None:
    """It goes no further, as with bytes that are read, and neither hides what is behind it nor makes the loop spin."""

    def talk(sock: Sock) -> None:
        sock.sendall(DATA)
        sock.send(b"!", socket.MSG_OOB)
        say_all(DATA, sock)

    bulk.client("plain", talk)
    served = bulk.server("plain", read_all)
    bulk.start()
    assert digest(bulk.result(served)) == digest(DATA * 2)
    assert bulk.pipes.taken > 0
    assert bulk.down.received == bulk.up.sent == 2 * len(DATA)


def test_without_pipes_all_is_read(bulk: Bulk) -> None:
    """And what comes when there are some again is not."""
    bulk.pipes.tend(0)
    bulk.client("plain", partial(flood, DATA * 8, Sock.close))
    served = bulk.server("plain", read_all)
    bulk.start()
    bulk.until(lambda: bulk.up.sent > 4 * len(DATA))
    assert bulk.pipes.taken == 0
    bulk.pipes.tend(MOST)
    bulk.until(lambda: bulk.pipes.taken > 0)
    assert digest(bulk.result(served)) == digest(DATA * 8)


def test_unix_sockets(certificates: Certificates) -> None:
    with ExitStack() as stack:
        relayed = Relayed(certificates, stack)
        asked = relayed.client("plain", partial(say_all, DATA))
        served = relayed.server("plain", partial(answer_all, DATA[::-1]))
        relayed.start()
        assert (relayed.result(served), relayed.result(asked)) == (DATA, DATA[::-1])
        relayed.until(lambda: relayed.over)
        assert relayed._poller.pipes.used == 0


@pytest.mark.parametrize("client, server", [("tls", "plain"), ("plain", "tls"), ("tls", "tls")])
def test_tls_is_read(bulk: Bulk, client: str, server: str) -> None:
    asked = bulk.client(client, partial(say_all, DATA))
    served = bulk.server(server, partial(answer_all, DATA))
    bulk.start()
    assert (bulk.result(served), bulk.result(asked), bulk.pipes.taken) == (DATA, DATA, 0)


def test_http_is_read(bulk: Bulk) -> None:
    request = b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: %d\r\n\r\n" % (4 * MB)
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * MB) + DATA[: 4 * MB]

    def serve(sock: Sock) -> bytes:
        received = b""
        while not received.endswith(DATA[4 * MB - 100 : 4 * MB]):
            received += sock.recv(1 << 20)
        sock.sendall(response)
        return received

    asked = bulk.client("plain", lambda sock: (sock.sendall(DATA[: 4 * MB]), read_exactly(sock, len(response)))[1])
    served = bulk.server("plain", serve, request)
    bulk.start()
    assert bulk.result(served).endswith(DATA[: 4 * MB])
    assert (bulk.result(asked), bulk.pipes.taken) == (response, 0)


def test_what_a_tap_shall_see_is_read(bulk: Bulk) -> None:
    seen: list[bytes] = []
    asked = bulk.client("plain", partial(say_all, DATA))
    served = bulk.server("plain", partial(answer_all, b""))
    bulk.down.tap = lambda end, view: seen.append(bytes(view))
    bulk.start()
    assert bulk.result(served) == b"".join(seen) == DATA
    assert (bulk.result(asked), bulk.pipes.taken) == (b"", 0)


# --- gpen ------------------------------------------------------------------------------------------------------------


def pipes_of(balancer: Gpen) -> int:
    """How many descriptors of pipes it has open."""
    directory = Path(f"/proc/{balancer.pid}/fd")
    targets = []
    for name in os.listdir(directory):
        try:
            targets.append(os.readlink(directory / name))
        except FileNotFoundError:
            continue
    return sum(target.startswith("pipe:") for target in targets)


class Mixed:
    """A socket that sends in pieces of all sizes, reads in small ones if it is slow, and perhaps ends by a reset."""

    def __init__(self, sock: Sock, seed: int, slow: bool, resets: bool) -> None:
        self._sock, self._dice, self._slow, self._resets = sock, random.Random(seed), slow, resets
        self.shutdown = sock.shutdown

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            size = self._dice.choice((1, SMALL, 60_000, 700_000, 3_000_000))
            self._sock.sendall(view[:size])
            view = view[size:]

    def recv(self, most: int) -> bytes:
        return self._sock.recv(self._dice.choice((SMALL, 20_000)) if self._slow else most)

    def close(self) -> None:
        (leave_then_reset if self._resets else Sock.close)(self._sock)


TRANSFERS, AT_ONCE = 240, 24
SIZES = (0, SMALL, 200_000, 1_500_000, 4_000_000)


def sizes_of(number: int) -> tuple[int, int]:
    """Bytes to the server and to the client of a transfer."""
    dice = random.Random(number)
    _, _, goes_up, goes_down = ORDERS[number % len(ORDERS)]
    return dice.choice(SIZES) * goes_up, dice.choice(SIZES) * goes_down


def side(number: int, who: int, sock: Sock) -> str:
    """Do what the client (0) or the server (1) does in a transfer; the digest of what came."""
    order = ORDERS[number % len(ORDERS)][:2][who]
    resets = order is talk_and_leave and number // len(ORDERS) % 2 == 1
    mixed: Any = Mixed(sock, number, number // 12 % 4 == 1 + who, resets)
    size = sizes_of(number)[who]
    return digest(order(mixed, DATA[number : number + size]))


@pytest.mark.one_process
def test_transfers_in_all_orders(gpen: Start, servers: Serve) -> None:
    """240 of them: whoever ends first, by an end or a reset, with slow readers, in pieces of all sizes; each arrives
    whole, and nothing is left behind."""
    came: dict[int, str] = {}

    def serve(sock: Sock) -> None:
        number = HEADER.unpack(sock.recv(HEADER.size, socket.MSG_WAITALL))[0]
        came[number] = side(number, 1, sock)

    balancer = gpen("-r", "-l", "gpen.log", "-O", "log_format json", servers=[servers(serve), servers(serve, at="::1")])
    address, descriptors, most = balancer.address, balancer.fds(), [0]

    def transfer(number: int) -> tuple[str, str]:
        with connect(address, seconds=60) as sock:
            sock.sendall(HEADER.pack(number, 0, 0, 0))
            received = side(number, 0, sock)
        most[0] = max(most[0], pipes_of(balancer))
        wait_until(lambda: number in came, what=f"the end of transfer {number} at the server")
        return came[number], received

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(transfer, range(TRANSFERS)))
    wrong = [number for number, digests in enumerate(outcomes)
             if digests != tuple(digest(DATA[number : number + size]) for size in sizes_of(number))]
    assert wrong == []
    assert most[0] > 0
    balancer.wait_idle()
    wait_until(lambda: balancer.fds() == descriptors)
    lines = [line for line in balancer.log.splitlines() if '"up"' in line]
    assert len(lines) == TRANSFERS


def flooding(sock: Sock) -> None:
    """Answer a line by more than finds room anywhere, as long as the client takes it."""
    while sock.recv(100):
        flood(DATA * 8, lambda sock: None, sock)


def only_row(balancer: Gpen) -> dict[str, Any]:
    """The row of the one session that there is, with what waits in gpen as ``pend``."""
    row: dict[str, Any] = balancer.json("sessions")[0]
    return row | {"pend": balancer.json(f"connection {row['id']}")["pend"]}


def is_stuck(balancer: Gpen, server: Server) -> bool:
    """Whether nothing moves any more, because the client does not read."""
    before = only_row(balancer)
    return before["pend"] > 0 and not writable(server) and only_row(balancer)["down"] == before["down"]


def writable(server: Server) -> bool:
    return any(select.select((), (sock,), (), 0)[1] for sock in server._open)


def read_until_a_pipe_is_full(balancer: Gpen, server: Server, sock: Sock) -> bytes:
    """Read a MB after the other, until what waits then waits in a pipe: unused ones are closed within two seconds."""
    received = b""
    while True:
        received += read_exactly(sock, MB)
        wait_until(lambda: is_stuck(balancer, server), what="a standstill")
        for _ in range(30):
            if (left := pipes_of(balancer)) == 0:
                break
            select.select((), (), (), 0.1)
        if left == 2:
            return received


@pytest.mark.one_process
def test_what_waits_in_a_pipe_is_counted_and_goes_on(gpen: Start, servers: Serve) -> None:
    server = servers(flooding)
    balancer = gpen("-l", "gpen.log", "-O", "log_format json", servers=[server])
    with balancer.connect() as sock:
        sock.sendall(b"go")
        received = read_until_a_pipe_is_full(balancer, server, sock)
        row = only_row(balancer)
        assert 0 < row["pend"] <= PIECE
        assert row["idle"] > 0
        received += read_exactly(sock, 64 * MB - len(received))
        assert digest(received) == digest(DATA * 8)
        wait_until(lambda: pipes_of(balancer) == 0, what="the end of pipes that nobody needs")
        row = only_row(balancer)
        assert (row["up"], row["down"], row["pend"]) == (2, 64 * MB, 0)
    balancer.wait_idle()
    assert json.loads(balancer.log)["down"] == balancer.server(0)["rx"] == 64 * MB


@pytest.mark.one_process
@pytest.mark.parametrize("command", ["close {id}", "close server 0"])
def test_a_command_ends_a_session_with_a_full_pipe(gpen: Start, servers: Serve, command: str) -> None:
    """What has left gpen arrives, and nothing else is left of it."""
    server = servers(flooding)
    balancer = gpen("-l", "gpen.log", "-O", "log_format json", servers=[server])
    descriptors = balancer.fds()
    with balancer.connect() as sock:
        sock.sendall(b"go")
        received = read_until_a_pipe_is_full(balancer, server, sock)
        balancer.ctl(command.format(id=only_row(balancer)["id"]))
        balancer.wait_idle()
        assert balancer.fds() == descriptors
        received += read_all(sock)
    assert received == (DATA * 8)[: len(received)]
    assert json.loads(balancer.log)["down"] == len(received)


def limit(balancer: Gpen, soft: int) -> None:
    """Let the running gpen have no descriptors but those below this one."""
    resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (soft, 10_000))


def leave(balancer: Gpen, free: int) -> None:
    """Let it have so many descriptors more than it has."""
    used = {int(name) for name in os.listdir(f"/proc/{balancer.pid}/fd")}
    unused = (fd for fd in count() if fd not in used)
    limit(balancer, next(islice(unused, free, None)))


def test_without_descriptors_bytes_are_read(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(flooding)])
    with balancer.connect() as sock:
        wait_until(lambda: only_row(balancer)["state"] == "open")
        leave(balancer, 0)
        sock.sendall(b"go")
        assert digest(read_exactly(sock, 64 * MB)) == digest(DATA * 8)
        assert pipes_of(balancer) == 0
        limit(balancer, 1000)
    balancer.wait_idle()


@pytest.mark.one_process
def test_a_client_gets_the_descriptors_of_pipes_that_nobody_needs(gpen: Start, servers: Serve) -> None:
    """At once: without them its session would wait, a tenth of a second each time, until the janitor closes them."""
    balancer = gpen("-l", "gpen.log", "-O", "log_format json", servers=[servers(flooding)])
    address = balancer.address
    with balancer.connect() as sock:
        sock.sendall(b"go")
        read_exactly(sock, 64 * MB)
        assert pipes_of(balancer) == 2
        leave(balancer, 1)
        with connect(address) as other:
            other.sendall(b"go")
            assert read_exactly(other, MB) == DATA[:MB]
            limit(balancer, 1000)
        wait_until(lambda: balancer.log.endswith("\n"))
        assert json.loads(balancer.log)["connect"] < 0.1


@pytest.mark.parametrize("options", [("-O", "debug 2"), ("-l", "gpen.log", "-O", "log_format pen")])
def test_what_is_shown_or_logged_is_read(gpen: Start, servers: Serve, options: tuple[str, ...]) -> None:
    balancer = gpen(*options, servers=[servers(flooding)])
    with balancer.connect() as sock:
        sock.sendall(b"go")
        assert digest(read_exactly(sock, 64 * MB)) == digest(DATA * 8)
        assert pipes_of(balancer) == 0
