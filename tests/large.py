"""A large configuration, and how long an open session waits while something is done to it.

    python -m tests.large [--markdown]

prints for each command the longest that a client waited for its echo, and how much of that gpen itself was at work.
"""

from __future__ import annotations

import argparse
import io
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import tabulate

from tests.door import DOOR, ask
from tests.harness import Gpen, Server, echo, wait_until

SERVERS, ENTRIES = 4000, 30_000

COMMANDS = (
    "server 5 max 3", "server 4001 address 127.77.0.1 port 80", "no server 4001", "server 3 state maint",
    "server 3 state ready", "server 9 health down because of rain", "server 9 health up", "acl 1 deny 10.0.0.1",
    "acl 1 permit 0.0.0.0/0", "acl 9 deny ::1", "no acl 9", "timeout 4", "hash", "no hash", "client_acl 9",
    "client_acl 1", "listen 127.0.0.1:0", "clients_max 100", "servers", "servers json", "sessions", "recent", "events",
    "explain 126.0.0.1", "status", "mode", "drain 6 1", "close server 9", "write written.cfg",
)
PATHS = ("/metrics", "/api/servers")  # that are asked for over HTTP
FILES = ("include two.cfg", "include entries.cfg", "reload")


def configuration(seed: int = 1, servers: int = SERVERS, entries: int = ENTRIES) -> str:
    """A file with so many servers that nobody asks and so many networks that nobody comes from."""
    dice = random.Random(seed)
    lines = ["client_acl 1", "prio"]
    lines += [f"server {n} address 127.{100 + n // 65536}.{n // 256 % 256}.{n % 256} port 9 prio 1"
              for n in range(1, servers + 1)]
    lines += [f"acl 1 deny {dice.randrange(1, 126)}.{dice.randrange(256)}.{dice.randrange(256)}."
              f"{dice.randrange(256)}/{dice.randrange(12, 33)}" for _ in range(entries)]
    return "\n".join(lines) + "\n"


class Waits:
    """An open session that asks for an echo all the time. ``longest`` is the longest wait in seconds since `begin`, and
    ``work`` the most that gpen itself worked during one."""

    def __init__(self, balancer: Gpen) -> None:
        self._schedstat = Path(f"/proc/{balancer.pid}/schedstat")
        self._balancer = balancer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._echoes = 0
        self.longest = self.work = 0.0

    def begin(self) -> None:
        """Forget what was, once what is under way has ended."""
        self.settle()
        self.longest = self.work = 0.0

    def settle(self) -> None:
        """Wait until an echo has come for which we have not begun to wait yet."""
        echoes = self._echoes
        wait_until(lambda: self._echoes >= echoes + 2, 60)

    def __enter__(self) -> Waits:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        with self._balancer.connect(seconds=60) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self._ended.wait(0.0003):
                before, began = self._worked(), time.perf_counter()
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                self.longest = max(self.longest, time.perf_counter() - began)
                self.work = max(self.work, self._worked() - before)
                self._echoes += 1

    def _worked(self) -> float:
        """Seconds that gpen's thread was on a processor: what else the machine does is not in it."""
        return int(self._schedstat.read_text().split()[0]) / 1e9


@contextmanager
def large(directory: Path, servers: int = SERVERS, entries: int = ENTRIES) -> Iterator[tuple[Gpen, Waits]]:
    """A gpen with so many servers and entries, and an open session."""
    file = directory / "large.cfg"
    file.write_text(configuration(servers=servers, entries=entries))
    (directory / "two.cfg").write_text("timeout 4\nserver 7 max 3\n")
    (directory / "entries.cfg").write_text("".join(f"acl 2 deny 10.{n // 256}.{n % 256}.0/24\n"
                                                   for n in range(entries)))
    with (Server(echo) as server, Gpen(directory, "-F", str(file), *DOOR, "127.0.0.1:0", server.address) as balancer,
          Waits(balancer) as waits):
        yield balancer, waits


def waits_during(balancer: Gpen, waits: Waits, line: str, times: int = 3) -> tuple[float, float]:
    """The longest wait, and the most work of gpen in one, in seconds, while a command is carried out, or a path asked
    for over HTTP: the best of some times, for the machine does other things as well."""
    results = []
    for _ in range(times):
        waits.begin()
        if line.startswith("/"):
            assert ask(balancer, line).status == 200
        else:
            reply = balancer.ctl(line)
            assert not reply.startswith("error"), reply
        waits.settle()
        results.append((waits.longest, waits.work))
    return min(results)


def _rows(directory: Path) -> Iterator[Sequence[str]]:
    with large(directory) as (balancer, waits):
        for line in COMMANDS + PATHS + FILES:
            times = 1 if line.startswith(("server", "no server", "listen")) and "json" not in line else 3
            yield line, *(f"{seconds * 1000:.1f}" for seconds in waits_during(balancer, waits, line, times))
        (directory / "large.cfg").write_text(configuration(2))
        yield "reload, all entries changed", *(f"{s * 1000:.1f}" for s in waits_during(balancer, waits, "reload", 1))
        (directory / "large.cfg").write_text("prio\n")
        yield "reload, all gone", *(f"{s * 1000:.1f}" for s in waits_during(balancer, waits, "reload", 1))
        (directory / "large.cfg").write_text(configuration())
        yield "reload, all back", *(f"{s * 1000:.1f}" for s in waits_during(balancer, waits, "reload", 1))


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.large", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--markdown", action="store_true", help="the table as it stands in docs/BENCHMARKS.md")
    style = "github" if options.parse_args().markdown else "simple"
    with tempfile.TemporaryDirectory(prefix="gpen-large-") as directory, redirect_stdout(io.StringIO()):
        rows = list(_rows(Path(directory)))
    print(tabulate.tabulate(rows, ["command", "longest wait, ms", "gpen at work, ms"], tablefmt=style,
                            disable_numparse=True, colalign=("left", "right", "right")))


if __name__ == "__main__":
    main()
