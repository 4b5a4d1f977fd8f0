"""What a balancer does for a connection and for a request, counted: user instructions by valgrind's callgrind, system
calls by strace.

Both are nearly exact on a busy machine, where times are not. What makes a difference is how much a balancer finds
each time it looks, so here that is always the same: it stands still while 16 clients, or 16 servers, say what they have
to say, and they go on when it has nothing left to do. (Without that gpen took up to a fifth more for a request while
other programs kept the load from its core.) What gpen does each second is left out (`undisturbed.py`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import family, thread_states
from tests.bench.process import BenchError
from tests.bench.proxies import not_installed

AT_ONCE = 16
WARMING = 20  # batches before anything is counted: then caches are full, and Python has specialized its bytecode
CONNECTIONS, REQUESTS = 40, 160  # batches that are counted
TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.0005
ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # what is kept by name lies in the same order at each start
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"

Address = tuple[str, int]


@dataclass(frozen=True)
class Instructions:
    """Of a new connection with one request, and of a request on a kept connection."""

    connection: float
    request: float


def missing() -> str | None:
    """What has to be installed to count, if anything."""
    return not_installed("valgrind") or not_installed("strace")


# --- the load --------------------------------------------------------------------------------------------------------


class Crowd:
    """The clients and the servers of one balancer, 16 at a time."""

    def __init__(self, pid: int, front: Address, listener: socket.socket) -> None:
        """``listener`` is where the balancer, the process ``pid``, finds its server."""
        self.pid = pid
        self._front = front
        self._listener = listener
        self.rest()
        self._forget()

    def _forget(self) -> None:
        """Close what has come so far: who has tried whether the balancer listens had a server as well."""
        with contextlib.suppress(BlockingIOError):
            self._listener.setblocking(False)
            while True:
                self._listener.accept()[0].close()
        self._listener.settimeout(TIMEOUT_SECONDS)

    def connections(self, batches: int) -> int:
        """New connections, a request on each; the server closes. How many in all."""
        for _ in range(batches):
            with self.sessions() as (clients, servers):
                with self._standing_still():
                    say(servers, REPLY)
                    close(servers)
                for client in clients:
                    hear(client, REPLY)
                    hear(client, b"")
                with self._standing_still():
                    close(clients)
            self.rest()
        return batches * AT_ONCE

    @contextmanager
    def sessions(self) -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
        """Clients that have sent a request, and the servers that have got it."""
        with ExitStack() as stack:
            with self._standing_still():
                clients = [stack.enter_context(socket.create_connection(self._front, TIMEOUT_SECONDS))
                           for _ in range(AT_ONCE)]
                say(clients, REQUEST)
            servers = [stack.enter_context(self._accepted()) for _ in range(AT_ONCE)]
            for server in servers:
                hear(server, REQUEST)
            yield clients, servers

    def _accepted(self) -> socket.socket:
        sock, _ = self._listener.accept()
        sock.settimeout(TIMEOUT_SECONDS)
        return sock

    def requests(self, clients: Sequence[socket.socket], servers: Sequence[socket.socket], batches: int) -> int:
        """A reply and the next request at once on each of these connections, and so on. How many in all."""
        for _ in range(batches):
            with self._standing_still():
                say(servers, REPLY)
                say(clients, REQUEST)
            for client, server in zip(clients, servers, strict=True):
                hear(client, REPLY)
                hear(server, REQUEST)
            self.rest()
        return batches * AT_ONCE

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Let what is said meanwhile be there at once when the balancer looks."""
        self.rest()
        members = family(self.pid)
        for member in members:
            os.kill(member, signal.SIGSTOP)
        wait_for(self.pid, "Tt")
        try:
            yield
        finally:
            for member in members:
                os.kill(member, signal.SIGCONT)

    def rest(self) -> None:
        """Return when the balancer waits: it does so only if nothing is left to do."""
        wait_for(self.pid, "S")


def say(socks: Sequence[socket.socket], what: bytes) -> None:
    for sock in socks:
        sock.sendall(what)


def hear(sock: socket.socket, expected: bytes) -> None:
    if (heard := sock.recv(4096)) != expected:
        raise BenchError(f"through the balancer came {heard[:60]!r} instead of {expected!r}")


def close(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def wait_for(pid: int, states: str) -> None:
    """Return when all threads of the process and of its descendants are in one of these states (see proc(5))."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not set(thread_states(pid)) <= set(states):
        if time.monotonic() > deadline:
            raise BenchError(f"process {pid}: its threads are {''.join(thread_states(pid))}, not {states}")
        time.sleep(POLL_SECONDS)


# --- instructions ----------------------------------------------------------------------------------------------------


def under_callgrind(directory: Path) -> list[str]:
    """The words before a command whose instructions shall be counted; callgrind's files go into the directory."""
    return ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={directory}/callgrind.%p"]


def instructions(crowd: Crowd, directory: Path) -> Instructions:
    """Of a balancer that was started `under_callgrind`, and listens."""
    crowd.connections(WARMING)
    connection = instructions_each(crowd.pid, directory, lambda: crowd.connections(CONNECTIONS))
    with crowd.sessions() as pairs:
        crowd.requests(*pairs, WARMING)
        return Instructions(connection, instructions_each(
            crowd.pid, directory, lambda: crowd.requests(*pairs, REQUESTS)))


def instructions_each(pid: int, directory: Path, work: Callable[[], int]) -> float:
    """Instructions of the process and its descendants, for each of what ``work`` says it has done."""
    members = family(pid)
    for member in members:
        callgrind(member, "--instr=on")
    done = work()
    for member in members:
        callgrind(member, "--instr=off")
    return sum(dumped(member, directory) for member in members) / done


def dumped(pid: int, directory: Path) -> int:
    """All instructions of a process since the dump before."""
    before = set(directory.iterdir())
    callgrind(pid, "--dump")
    new = set(directory.glob(f"callgrind.{pid}.*")) - before
    if len(new) != 1:
        raise BenchError(f"callgrind: {len(new)} new files of process {pid}, not one")
    return total_of(new.pop().read_text())


def callgrind(pid: int, word: str) -> None:
    """Have callgrind do something. It complains on stderr, with exit status 0."""
    told = subprocess.run(["callgrind_control", word, str(pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if told.returncode or "Error" in told.stdout:
        raise BenchError(f"callgrind_control {word} {pid}: {told.stdout.strip()}")


def total_of(dump: str) -> int:
    """The sum at the end of a dump. (`summary:` at its head is 0 where counting was off when it was written.)"""
    if found := re.search(r"^totals: (\d+)$", dump, re.MULTILINE):
        return int(found[1])
    raise BenchError(f"callgrind: a dump without totals: {dump[-60:]!r}")


# --- system calls ----------------------------------------------------------------------------------------------------


def under_strace(log: Path) -> list[str]:
    """The words before a command whose system calls shall be counted. The process that is started is the command's."""
    return ["strace", "-D", "-f", "-qq", "-e", "signal=none", "-e", "raw=all", "-o", str(log)]


def system_calls(crowd: Crowd, log: Path) -> dict[str, float]:
    """By name, those for a new connection with one request, of a balancer that was started `under_strace`."""
    crowd.connections(WARMING)
    before = log.stat().st_size
    done = crowd.connections(CONNECTIONS)
    with log.open() as file:
        file.seek(before)
        return {name: count / done for name, count in calls_in(file).most_common()}


def calls_in(lines: Iterator[str]) -> Tally[str]:
    """The calls that begin in these lines: the rest of one that another thread's interrupted is no other call."""
    return Tally(found[1] for line in lines if (found := re.match(r"\d+ +(\w+)\(", line)))
