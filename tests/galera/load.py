"""Clients that must not notice: they connect, query and close all the time, and write down how each attempt went.

They run in a process of their own (`python -m tests.galera.load`), so that a busy test does not look like a slow
server. Times are of time.monotonic(), which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pymysql
from pymysql.connections import Connection

from tests.harness import PATIENCE, ROOT, wait_until

if TYPE_CHECKING:
    from sqlalchemy import Engine

USER = PASSWORD = "app"
READ = "SELECT word FROM app.word WHERE id = 1"
WRITE = "INSERT INTO app.written (node) VALUES (@@wsrep_node_name)"
HANGING = 20.0  # seconds; more than gpen holds a client that waits for a server
LEAVING = 1.0
SLOW, SHOWN = 0.5, 20  # what is told of a load whose test fails
CONNECT, QUERY = "connect", "query"


@dataclass(frozen=True)
class Attempt:
    """What became of one client: of a kept connection, of one query on it.

    began, asked, ended: when it began to connect, sent its query (0: never did) and was through. node: who greeted it,
    if anybody. phase: what it was at when it ended. code, text: its error, 0 and empty where all went well.
    """

    began: float
    asked: float
    ended: float
    node: str
    phase: str
    code: int
    text: str

    @property
    def failed(self) -> bool:
        return bool(self.text)

    @property
    def took(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Usual:
    """How clients fare while all is well: seconds that the slowest took, and how many were served a second.

    On a busy machine what a test waits for comes later as well: a client's way and a verdict's are as long.
    """

    lag: float
    rate: float


# --- what a test asks ------------------------------------------------------------------------------------------------


class Load:
    """Clients of the balancer at host and port, started and ended by a ``with``; then ask for their attempts.

    ``kind`` is one of KINDS. ``rate`` is of all together, in connections a second (of kept connections: queries).
    """

    def __init__(self, directory: Path, address: tuple[str, int], kind: str = "readers", threads: int = 20,
                 rate: float = 190) -> None:
        self.kind, self.threads, self.rate = kind, threads, rate
        self._file = directory / f"{kind}.{time.monotonic_ns()}.json"
        self._errors = self._file.with_suffix(".err")
        host, port = address
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.galera.load", kind, host, str(port), str(threads), str(rate),
                 str(self._file)], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=stderr)

    def __enter__(self) -> Load:
        try:
            wait_until(lambda: len(self.attempts) > self.threads, PATIENCE, f"the first {self.kind}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the clients; one that hangs is written down as such."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        if told := self._errors.read_text():
            print(f"--- what the {self.kind} told on stderr\n{told}")

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts so far, in the order of their end."""
        if not self._file.exists():
            return []
        lines = self._file.read_text().splitlines(keepends=True)
        return [Attempt(**json.loads(line)) for line in lines if line.endswith("\n")]

    def usual(self, count: int = 300) -> Usual:
        """How so many clients fare, asked while all is well."""
        wait_until(lambda: len(self.attempts) >= count, PATIENCE, f"{count} {self.kind}")
        attempts = self.attempts
        seconds = max(attempt.ended for attempt in attempts) - min(attempt.began for attempt in attempts)
        return Usual(max(attempt.took for attempt in attempts), len(attempts) / seconds)

    def since(self, event: float) -> Outcome:
        """How the attempts went that an event could touch."""
        return Outcome(event, [attempt for attempt in self.attempts if attempt.ended >= event])


@dataclass(frozen=True)
class Outcome:
    """The attempts that ended after an event at time.monotonic() ``event``."""

    event: float
    attempts: Sequence[Attempt]

    @property
    def open(self) -> list[Attempt]:
        """Failed ones that were on their way at the time of the event."""
        return [attempt for attempt in self.attempts if attempt.failed and attempt.began < self.event]

    @property
    def later(self) -> list[Attempt]:
        """Failed ones that began after it."""
        return [attempt for attempt in self.attempts if attempt.failed and attempt.began >= self.event]

    @property
    def failed(self) -> list[Attempt]:
        return self.open + self.later

    @property
    def longest(self) -> float:
        """The longest time that a connection took which began after the event, in seconds."""
        return max((attempt.took for attempt in self.attempts if attempt.began >= self.event), default=0.0)

    def left(self, node: str) -> float:
        """When the last client began that came to this node, in seconds after the event."""
        return max((attempt.began - self.event for attempt in self.attempts if attempt.node == node), default=0.0)

    def reached(self, node: str, since: float = 0.0) -> int:
        """How many clients came to this node that began so many seconds after the event or later."""
        return sum(attempt.node == node and attempt.began - self.event >= since for attempt in self.attempts)

    @property
    def rate(self) -> float:
        """Clients served a second."""
        served = [attempt.ended for attempt in self.attempts if not attempt.failed]
        return len(served) / (max(served) - self.event) if served else 0.0

    def __str__(self) -> str:
        counts: dict[str, list[float]] = {}
        for attempt in self.failed:
            name = f"{attempt.phase} on {attempt.node or 'nobody'}: {attempt.code} {attempt.text}"
            counts.setdefault(name, []).append(attempt.began - self.event)
        lines = [f"{len(times)} x {name}; began {min(times):+.3f} to {max(times):+.3f} s"
                 for name, times in counts.items()]
        lines += [f"{attempt.took:.3f} s on {attempt.node or 'nobody'}, began {attempt.began - self.event:+.3f} s"
                  for attempt in self.attempts if attempt.took > SLOW and not attempt.failed][:SHOWN]
        nodes = {attempt.node for attempt in self.attempts if attempt.node}
        return "\n".join([
            f"{len(self.attempts)} attempts, {self.rate:.0f}/s, {len(self.open)} + {len(self.later)} errors, "
            f"longest {self.longest:.3f} s, last on {', '.join(f'{n} {self.left(n):+.3f}' for n in sorted(nodes))}",
            *lines])


# --- the process -----------------------------------------------------------------------------------------------------


class Client:
    """One of the clients, in a thread: writes a line for each attempt."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._lock = threading.Lock()
        self._under_way: Attempt | None = None
        self.connection: Connection[Any] | None = None

    def visit(self, query: str) -> None:
        """Connect, query, close."""
        with self.attempt():
            self.connect()
            self.ask(query)
            self.close()

    def stay(self, query: str) -> None:
        """Query on the connection that it has, or on a new one."""
        with self.attempt():
            if self.connection is None:
                self.connect()
            self.ask(query)

    def transact(self, pings: bool, writes: bool = True) -> None:
        """A transaction on a connection of the pool, which tries it before (``pings``), or believes in it."""
        with self.attempt():
            from sqlalchemy.exc import DBAPIError  # which takes a second to load, and only pools need

            self._note(phase=QUERY, asked=time.monotonic())
            try:
                with self._clients.pool(pings).begin() as connection:
                    (node,) = connection.exec_driver_sql("SELECT @@wsrep_node_name").one()
                    self._note(node=node)
                    if writes:
                        connection.exec_driver_sql(WRITE)
                    connection.exec_driver_sql(READ)
            except DBAPIError as error:
                raise error.orig or error from error

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        self._note(Attempt(time.monotonic(), 0.0, 0.0, self._node, CONNECT, 0, ""))
        try:
            yield
        except pymysql.MySQLError as error:
            code, text = (*error.args, "", "")[:2]
            self.write(int(code or 0), str(text) or type(error).__name__)
            self.close()
        else:
            self.write()

    def connect(self) -> None:
        self.connection = Connection(
            host=self._clients.host, port=self._clients.port, user=USER, password=PASSWORD, ssl_disabled=True,
            connect_timeout=HANGING, read_timeout=HANGING, autocommit=True, defer_connect=True)
        try:
            self.connection.connect()
        finally:
            self._note(node=self._node)

    @property
    def _node(self) -> str:
        """The name that stands at the end of the version in a greeting."""
        return getattr(self.connection, "server_version", "").rpartition("-")[2]

    def ask(self, query: str) -> None:
        assert self.connection is not None
        self._note(phase=QUERY, asked=time.monotonic())
        with self.connection.cursor() as cursor:
            cursor.execute(query)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None and connection.open:
            with contextlib.suppress(pymysql.MySQLError):
                connection.close()

    def _note(self, attempt: Attempt | None = None, **changes: Any) -> None:
        with self._lock:
            if attempt := attempt or self._under_way:
                self._under_way = Attempt(**{**asdict(attempt), **changes})

    def write(self, code: int = 0, text: str = "") -> None:
        """Write down the attempt that is under way, once."""
        with self._lock:
            attempt, self._under_way = self._under_way, None
            if attempt:
                self._clients.write({**asdict(attempt), "ended": time.monotonic(), "code": code, "text": text})


KINDS: dict[str, Callable[[Client], None]] = {
    "readers": lambda client: client.visit(READ),
    "writers": lambda client: client.visit(WRITE),
    "kept": lambda client: client.stay(READ),
    "pooled": lambda client: client.transact(True),
    "pooled readers": lambda client: client.transact(True, writes=False),
    "pooled blindly": lambda client: client.transact(False),
}


class Clients:
    """All clients of the process."""

    def __init__(self, options: argparse.Namespace, out: TextIO) -> None:
        self.host, self.port = options.host, options.port
        self._out = out
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._act = KINDS[options.kind]
        self._period = options.threads / options.rate
        self._clients = [Client(self) for _ in range(options.threads)]
        self._pool: Engine | None = None

    def run(self) -> None:
        """Until SIGTERM."""
        threads = [threading.Thread(target=self._repeat, args=(client, number), daemon=True)
                   for number, client in enumerate(self._clients)]
        for thread in threads:
            thread.start()
        self._over.wait()
        self._join(threads)
        for client in self._clients:
            client.write(text="hangs")

    def pool(self, pings: bool) -> Engine:
        """The pool of all, with a connection for each."""
        with self._lock:
            if self._pool is None:
                from sqlalchemy import create_engine

                self._pool = create_engine(
                    f"mysql+pymysql://{USER}:{PASSWORD}@{self.host}:{self.port}/", pool_size=len(self._clients),
                    max_overflow=0, pool_pre_ping=pings, connect_args={
                        "ssl_disabled": True, "connect_timeout": HANGING, "read_timeout": HANGING})
            return self._pool

    def _repeat(self, client: Client, number: int) -> None:
        """Act at even intervals; one that took longer than the interval does not catch up."""
        due = time.monotonic() + self._period * number / len(self._clients)
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self._act(client)
            due = max(due + self._period, time.monotonic())
        client.close()

    def end(self, *_: object) -> None:
        self._over.set()

    @staticmethod
    def _join(threads: Iterable[threading.Thread]) -> None:
        deadline = time.monotonic() + LEAVING
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def write(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._out.write(json.dumps(record) + "\n")
            self._out.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.galera.load")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    with options.file.open("w") as out:
        clients = Clients(options, out)
        signal.signal(signal.SIGTERM, clients.end)
        clients.run()


if __name__ == "__main__":
    main()
