"""Gpen's worker processes, as tests see them from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.daemon.conftest import has_ended
from tests.harness import Gpen, wait_until

Row = dict[str, Any]


def workers(count: int | str) -> tuple[str, str]:
    """The option for so many."""
    return "-O", f"workers {count}"


def rows_of(balancer: Gpen) -> list[Row]:
    """What `workers` tells of each."""
    rows: list[Row] = balancer.json("workers")
    return rows


def field_of(balancer: Gpen, name: str) -> list[Any]:
    """One field of these rows."""
    return [row[name] for row in rows_of(balancer)]


def pids_of(balancer: Gpen) -> list[int]:
    """The workers' pids, once all are known."""
    return list(wait_until(lambda: (pids := field_of(balancer, "pid")) and all(pids) and pids, what="all pids"))


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: the state first, then the parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def family_of(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent = stat_of(int(entry.name))[:2]
                if state not in "ZX":
                    parents[int(entry.name)] = int(parent)
    family: set[int] = set()
    found = {pid} & parents.keys()
    while found - family:
        family |= found
        found = {child for child, parent in parents.items() if parent in family}
    return family


def fork_server_of(balancer: Gpen) -> int:
    """The pid of the process that forks the workers."""
    return int(stat_of(pids_of(balancer)[0])[1])


def stop_process(pid: int) -> None:
    """Have a process stand still, and see that it does."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: stat_of(pid)[0] == "T", what=f"{pid} stopped")


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    stop_process(pid)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def wait_gone(pids: set[int], seconds: float) -> None:
    """Wait until none of these processes is left."""
    wait_until(lambda: all(map(has_ended, pids)), seconds, f"the end of {sorted(pids)}")


@contextlib.contextmanager
def talking(balancer: Gpen, count: int, source: str = "") -> Iterator[list[socket.socket]]:
    """So many clients of an echo, each of which had an answer."""
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect(source)) for _ in range(count)]
        for sock in socks:
            assert is_echoed(sock)
        yield socks


def is_echoed(sock: Any, text: bytes = b"echo") -> bool:
    """Whether a client still gets back what it sends."""
    sock.sendall(text)
    got = b""
    while len(got) < len(text) and (piece := sock.recv(100)):
        got += piece
    return got == text


def owner_of(balancer: Gpen, connect: Callable[[], socket.socket]) -> tuple[socket.socket, Row]:
    """A new client, and the worker that has got it."""
    before = {row["pid"]: row["total"] for row in rows_of(balancer)}
    sock = connect()
    row = wait_until(lambda: next((row for row in rows_of(balancer) if row["total"] > before.get(row["pid"], 0)), None),
                     what="a worker with a session more")
    return sock, row


def sort_by_worker(socks: list[socket.socket], pid: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Whose sockets a worker has, and whose it has not: each client's connection is one of this machine's."""
    held = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    inodes = inodes_of_ports()
    own = [sock for sock in socks if f"socket:[{inodes[sock.getpeername()[1], sock.getsockname()[1]]}]" in held]
    return own, [sock for sock in socks if sock not in own]


def inodes_of_ports() -> dict[tuple[int, int], str]:
    """The inodes of this machine's connections of IPv4, by their two ports."""
    inodes = {}
    with open("/proc/net/tcp") as table:
        for line in list(table)[1:]:
            fields = line.split()
            ports = tuple(int(place.rpartition(":")[2], 16) for place in fields[1:3])
            inodes[ports[0], ports[1]] = fields[9]
    return inodes
