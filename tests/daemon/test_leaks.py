"""Nothing is left of a connection, however it ended, nor of a request: no memory, no descriptor, no object.

LEAKS is how many connections are tried, and twenty times as many requests; `make campaign` takes 100,000.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from tests.harness import LOCAL, PATIENCE, ROOT, Gpen, address_of, connect, refusing, reset, wait_until
from tests.wire.http_peers import OK, get, read_exactly

pytestmark = [pytest.mark.long, pytest.mark.turmoil]

LEAKS = int(os.environ.get("LEAKS", "1500"))
REQUESTS = 20 * LEAKS

# The command pid writes what there is in the process. Types of C have no weak references, so objects are counted; and
# what the garbage collector does not know, as plain sockets, shows itself in the blocks of memory.
COUNTING = """
import collections, gc, json, sys
from gpen.daemon.queries import Queries

real = Queries.pid

def pid(self, call):
    for _ in range(3):
        gc.collect()
    kinds = collections.Counter(f"{{type(each).__module__}}.{{type(each).__name__}}" for each in gc.get_objects())
    with open({file!r}, "w") as file:
        json.dump({{"blocks": sys.getallocatedblocks(), "kinds": kinds}}, file)
    return real(self, call)

Queries.pid = pid
"""


class Counted:
    """A gpen that tells what it holds."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._file = directory / "counted.json"
        (directory / "sitecustomize.py").write_text(COUNTING.format(file=str(self._file)))
        self.gpen = Gpen(directory, *arguments, wrapper=("env", f"PYTHONPATH={directory}:{ROOT}"))
        self.address = self.gpen.address

    def held(self) -> dict[str, Any]:
        """What it holds while it has no session."""
        self.gpen.wait_idle()
        self.gpen.ctl("pid")
        counted: dict[str, Any] = json.loads(self._file.read_text())
        ours = {kind: number for kind, number in counted["kinds"].items()
                if kind.startswith("gpen.") or kind in ("greenlet.greenlet", "builtins.memoryview")}
        return {"blocks": counted["blocks"], "fds": self.gpen.fds(), "rss": self.gpen.rss, "ours": ours}

    @contextmanager
    def holding_no_more(self, count: int) -> Iterator[None]:
        """``count`` is how many of something come meanwhile; less than a hundredth of them may leave a block."""
        before = self.held()
        yield
        after = self.held()
        ours = {kind: (before["ours"].get(kind, 0), number) for kind, number in after["ours"].items()
                if number != before["ours"].get(kind, 0)}
        print({name: (before[name], after[name]) for name in ("blocks", "fds", "rss")}, ours)
        assert not ours
        assert after["fds"] == before["fds"]
        assert after["blocks"] - before["blocks"] < 200 + count // 100
        assert after["rss"] - before["rss"] < (1 << 20) + 10 * count


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Callable[..., Counted]]:
    with ExitStack() as stack:

        def start(*arguments: str) -> Counted:
            made = Counted(tmp_path, *arguments)
            stack.enter_context(made.gpen)
            return made

        yield start


Play = Callable[[socket.socket, socket.socket], object]  # of a client and its server


def finish(first: socket.socket, second: socket.socket, ends: Callable[[socket.socket], object]) -> None:
    """One ends the connection, and the other sees that."""
    ends(first)
    with suppress(ConnectionError):
        while second.recv(1 << 16):
            pass
    second.close()


def speak(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert read_exactly(server, 8) == b"question"
    server.sendall(b"answer")
    assert read_exactly(client, 6) == b"answer"


def half_close(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_exactly(server, 9) == b"question"
    server.sendall(b"answer")
    finish(server, client, socket.socket.close)


def stuff(client: socket.socket, server: socket.socket) -> None:
    """The server takes nothing, and the client goes when no more finds room."""
    client.settimeout(0.05)
    with suppress(TimeoutError):
        while True:
            client.sendall(bytes(1 << 20))
    finish(client, server, reset)


def spoken(play: Play) -> Play:
    return lambda client, server: (speak(client, server), play(client, server))


PLAYS: tuple[Play, ...] = (
    spoken(lambda client, server: finish(client, server, socket.socket.close)),
    spoken(lambda client, server: finish(client, server, reset)),
    spoken(lambda client, server: finish(server, client, socket.socket.close)),
    spoken(lambda client, server: finish(server, client, reset)),
    lambda client, server: finish(client, server, socket.socket.close),
    lambda client, server: finish(client, server, reset),
    half_close,
    spoken(half_close))


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def accepted(listener: socket.socket) -> socket.socket:
    server = listener.accept()[0]
    server.settimeout(PATIENCE)
    return server


@pytest.mark.parametrize("options", [(), ("-l", "/dev/null"), ("-O", "greeting 5")], ids=["plain", "log", "greeting"])
def test_connections(counted: Callable[..., Counted], options: tuple[str, ...]) -> None:
    with listening() as listener:
        balancer = counted(*options, LOCAL, address_of(listener))

        def round(count: int) -> None:
            for number, play in enumerate(islice(cycle(PLAYS), count)):
                with connect(balancer.address) as client, accepted(listener) as server:
                    if options == ("-O", "greeting 5"):
                        server.sendall(b"A")
                        assert client.recv(1) == b"A"
                    (stuff if number % 500 == 499 else play)(client, server)

        round(1000)
        with balancer.holding_no_more(LEAKS):
            round(LEAKS)


def test_connections_without_a_server(counted: Callable[..., Counted]) -> None:
    with refusing() as address:
        balancer = counted("-b", "0", LOCAL, address)

        def round(count: int) -> None:
            for _ in range(count):
                with connect(balancer.address) as client, suppress(ConnectionError):
                    client.sendall(b"question")
                    assert client.recv(1) == b""

        round(300)
        with balancer.holding_no_more(LEAKS):
            round(LEAKS)


@pytest.mark.parametrize("options", [(), ("-H",)], ids=["plain", "http"])
def test_requests(counted: Callable[..., Counted], options: tuple[str, ...]) -> None:
    """On some connections, so many at a time as find room in a socket."""
    question = get("/") if options else b"question"
    at_once, count = (1, REQUESTS // 5) if options else (1, REQUESTS)
    with listening() as listener:
        balancer = counted(*options, LOCAL, address_of(listener))

        def round(count: int) -> None:
            with ExitStack() as stack:
                client = stack.enter_context(connect(balancer.address))
                client.sendall(question * at_once)
                server = stack.enter_context(accepted(listener))
                for number in range(count // at_once):
                    got = b""
                    while got.count(b"\r\n\r\n" if options else b"question") < at_once:
                        got += server.recv(1 << 16)
                    server.sendall(OK * at_once)
                    assert read_exactly(client, len(OK) * at_once) == OK * at_once
                    if number < count // at_once - 1:
                        client.sendall(question * at_once)

        round(1000)
        with balancer.holding_no_more(count):
            round(count)
        wait_until(lambda: not balancer.gpen.json("sessions"))
