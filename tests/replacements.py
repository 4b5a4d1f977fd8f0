"""Replaces a gpen again and again under load, and counts what went wrong: `python -m tests.replacements --help`.

New connections and queries come at a rate; sessions are kept for some seconds each, and transfer data whose hash both
ends know, so that at any time several gpens that were replaced end theirs. Each kind of load is a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tests.bench.__main__ import number
from tests.harness import COMMAND, PATIENCE, ROOT, connect, read_all, wait_until

HOST = "127.0.0.1"
PIECE = 4096
KEPT_SECONDS = 3.0, 12.0
ANSWER_SECONDS = 5.0
BEAT = 0.05  # seconds between two pieces of a kept session
THREADS = 8
SHOWN = 10  # failures of a kind


@dataclass
class Count:
    """What a load has come to: how many of its kind, what failed, and the longest that one took, in seconds."""

    done: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def note(self, began: float, failure: str = "") -> None:
        self.done += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        if failure:
            self.failures.append(failure)


# --- load: each of these is a process ---------------------------------------------------------------------------------


def is_over() -> bool:
    """Whether who has started this process wants it to end: it has closed our input."""
    ready = selectors.DefaultSelector()
    ready.register(sys.stdin, selectors.EVENT_READ)
    return bool(ready.select(0))


def paced(rate: float, goes_on: Callable[[], bool]) -> Iterator[None]:
    """Yield so many times a second."""
    due = time.monotonic()
    while goes_on():
        due += 1 / rate
        if (ahead := due - time.monotonic()) > 0:
            time.sleep(ahead)
        elif ahead < -1:
            due -= ahead  # this machine can't: what was missed is not made up for
        yield


def in_threads(rate: float, act: Callable[[Count], None]) -> list[Count]:
    """Act at this rate, in several threads, until it is over."""
    counts = [Count() for _ in range(THREADS)]
    over = threading.Event()

    def run(count: Count) -> None:
        for _ in paced(rate / THREADS, lambda: not over.is_set()):
            act(count)

    threads = [threading.Thread(target=run, args=(count,)) for count in counts]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    return counts


def new_connections(port: int, rate: float) -> list[Count]:
    """Connect, say something, hear it, and go."""

    def act(count: Count) -> None:
        began, failure = time.monotonic(), ""
        try:
            with socket.create_connection((HOST, port), ANSWER_SECONDS) as sock:
                sock.sendall(b"hello")
                if sock.recv(100) != b"hello":
                    failure = "closed without an answer"
        except OSError as error:
            failure = str(error)
        count.note(began, failure)

    return in_threads(rate, act)


def queries(port: int, rate: float) -> list[Count]:
    """Ask, each time by another socket or, half of the time, by one that is kept."""
    kept = threading.local()

    def act(count: Count) -> None:
        began, failure = time.monotonic(), ""
        question = os.urandom(2) + b"\1\0 a question"
        is_kept = count.done % 2 == 0
        if not hasattr(kept, "sock"):
            kept.sock = _udp(port)
        sock = kept.sock if is_kept else _udp(port)
        try:
            sock.send(question)
            while sock.recv(600)[:2] != question[:2]:
                pass  # of one that was given up
        except OSError as error:
            failure = str(error)
        finally:
            if not is_kept:
                sock.close()
        count.note(began, failure)

    return in_threads(rate, act)


def _udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(ANSWER_SECONDS)
    sock.connect((HOST, port))
    return sock


class Kept:
    """One session that lasts; what it sends comes back, and both have one hash."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self.began = time.monotonic()
        self.ends = self.began + dice.uniform(*KEPT_SECONDS)
        self.sock = socket.create_connection((HOST, port), ANSWER_SECONDS)
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()

    def beat(self, dice: random.Random) -> None:
        piece = dice.randbytes(PIECE)
        self.sent.update(piece)
        self.sock.sendall(piece)
        left = PIECE
        while left:
            answer = self.sock.recv(left)
            if not answer:
                raise OSError("ended early")
            self.received.update(answer)
            left -= len(answer)

    def close(self) -> str:
        """End it; what was wrong with it."""
        self.sock.shutdown(socket.SHUT_WR)
        rest = self.sock.recv(1)
        self.sock.close()
        is_whole = not rest and self.sent.digest() == self.received.digest()
        return "" if is_whole else "damaged"


def kept_sessions(port: int, most: float) -> list[Count]:
    """So many sessions, each for some seconds; when one ends, another begins."""
    dice, count = random.Random(1), Count()
    sessions: list[Kept] = []
    while not is_over() or sessions:
        ends = is_over()
        began = time.monotonic()
        while len(sessions) < most and not ends:
            sessions.append(Kept(port, dice))
        for session in list(sessions):
            try:
                session.beat(dice)
                if ends or time.monotonic() >= session.ends:
                    sessions.remove(session)
                    count.note(time.monotonic(), session.close())
            except OSError as error:
                sessions.remove(session)
                count.note(time.monotonic(), str(error))
        time.sleep(max(BEAT - (time.monotonic() - began), 0))
    return [count]


def echo_servers(tcp: int, udp: float) -> list[Count]:
    """What all of them talk to."""
    from gevent.server import DatagramServer, StreamServer

    def echo(sock: Any, _: object) -> None:
        while piece := sock.recv(1 << 16):
            sock.sendall(piece)
        sock.close()

    datagrams = DatagramServer((HOST, int(udp)), lambda data, client: datagrams.sendto(data, client))
    datagrams.start()
    StreamServer((HOST, tcp), echo, backlog=1000).start()
    from gevent.fileobject import FileObject

    FileObject(sys.stdin.buffer).read()
    return []


LOADS: dict[str, Callable[[int, float], list[Count]]] = {
    "connections": new_connections, "queries": queries, "sessions": kept_sessions, "servers": echo_servers}


# --- the campaign -----------------------------------------------------------------------------------------------------


class Load:
    """One process of load, until ``end``."""

    def __init__(self, kind: str, port: int, amount: float) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.replacements", "--load", kind, str(port),
                                         str(amount)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def end(self) -> Count:
        """What it has come to."""
        out, _ = self.process.communicate(timeout=60)
        counts = [Count(**each) for each in json.loads(out)]
        return Count(sum(count.done for count in counts), [failure for count in counts for failure in count.failures],
                     max((count.slowest for count in counts), default=0.0))


@dataclass
class Report:
    """What has come of it."""

    replaced: list[float] = field(default_factory=list)
    counts: dict[str, Count] = field(default_factory=dict)
    most_gpens: int = 0
    leaks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        return not self.leaks and all(count.done and not count.failures for count in self.counts.values())

    def table(self, style: str) -> str:
        times = sorted(self.replaced)
        rows = [["replacements", len(times), ""],
                ["each took", f"{times[len(times) // 2] * 1000:.0f} ms", f"at most {times[-1] * 1000:.0f} ms"],
                ["gpens at one time", self.most_gpens, ""]]
        for kind, what in (("connections", "failed"), ("sessions", "damaged or ended"), ("queries", "lost")):
            count = self.counts[kind]
            slowest = f", slowest {count.slowest * 1000:.0f} ms" if kind != "sessions" else ""
            rows.append([kind, f"{count.done:,} ({count.done / self.seconds:.0f} a second)",
                         f"{len(count.failures)} {what}{slowest}"])
        rows.append(["leaked", len(self.leaks), ", ".join(self.leaks)])
        return tabulate(rows, tablefmt=style, disable_numparse=True)


class Campaign:
    """One gpen with a listener of TCP and one of UDP, which is replaced so many times."""

    def __init__(self, times: int, connections: float, sessions: int, rate: float,
                 say: Callable[[str], None] = lambda text: None) -> None:
        self._times = times
        self._amounts = {"connections": connections, "sessions": sessions, "queries": rate}
        self._say = say

    def run(self, directory: Path) -> Report:
        report = Report()
        control = str(directory / "gpen.ctl")
        tcp, udp = _free_port(), _free_port()
        with ExitStack() as stack:
            servers = stack.enter_context(_ending(Load("servers", tcp, udp)))
            wait_until(lambda: _listens(tcp), what="the servers")
            gpen = stack.enter_context(_gpen(directory, control, tcp, udp))
            before = _descriptors(gpen.pid)
            ports = {row["name"]: int(row["address"].rpartition(":")[2]) for row in json.loads(
                _ask(control, "listeners json"))}
            loads = {kind: stack.enter_context(_ending(Load(kind, ports["dns" if kind == "queries" else None], amount)))
                     for kind, amount in self._amounts.items()}
            began = time.monotonic()
            pids = self._replace(control, gpen.pid, report)
            report.seconds = time.monotonic() - began
            report.counts = {kind: load.end() for kind, load in loads.items()}
            self._look(control, directory, pids, before, report)
            servers.end()
            os.kill(pids[-1], signal.SIGTERM)
            wait_until(lambda: not _lives(pids[-1]), what="the end of the last")
        return report

    def _replace(self, control: str, pid: int, report: Report) -> list[int]:
        """Replace it again and again; the pids of all."""
        pids = [pid]
        for count in range(self._times):
            time.sleep(0.3)
            began = time.monotonic()
            reply = _ask(control, "upgrade")
            if not reply.startswith("replaced by pid "):
                raise AssertionError(f"replacement {count}: {reply}")
            report.replaced.append(time.monotonic() - began)
            pids.append(int(reply.split()[-1]))
            living = sum(map(_lives, pids))
            report.most_gpens = max(report.most_gpens, living)
            self._say(f"{count + 1} replacements, {living} gpens")
        return pids

    def _look(self, control: str, directory: Path, pids: list[int], before: int, report: Report) -> None:
        """What is left that should not be."""
        try:
            wait_until(lambda: not any(map(_lives, pids[:-1])))
        except AssertionError:
            report.leaks += [f"process {pid}" for pid in pids[:-1] if _lives(pid)]
        try:
            wait_until(lambda: _descriptors(pids[-1]) <= before)
        except AssertionError:
            report.leaks.append(f"{_descriptors(pids[-1]) - before} descriptors")
        report.leaks += [path.name for path in directory.iterdir() if ".old" in path.name]
        report.leaks += [f"{row[key]} {key}" for row in json.loads(_ask(control, "servers json"))
                         for key in ("sessions", "old") if row[key]]
        if "Traceback" in (told := (directory / "gpen.err").read_text()):
            report.leaks.append(told[told.index("Traceback"):][:2000])


@contextmanager
def _ending(load: Load) -> Iterator[Load]:
    try:
        yield load
    finally:
        load.process.kill()
        load.process.wait()


@contextmanager
def _gpen(directory: Path, control: str, tcp: int, udp: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [*COMMAND, "-f", "-r", "-x", "2000", "-C", control, "-p", str(directory / "gpen.pid"),
               "-l", str(directory / "gpen.log"), "-O", f"listener dns listen {HOST}:0", "-O", "listener dns udp",
               "-O", "listener dns udp_replies 1", "-O", f"listener dns server 0 port {udp}", f"{HOST}:0",
               f"{HOST}:{tcp}"]
    with (directory / "gpen.err").open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(control), what="an answer of gpen")
        yield process
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        for pid in pids_of(control):
            os.kill(pid, signal.SIGKILL)


def pids_of(control: str) -> list[int]:
    """The processes that were started with this control socket."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if control.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _answers(control: str) -> bool:
    try:
        return bool(_ask(control, "pid"))
    except OSError:  # it is not there yet, or does not listen yet
        return False


def _ask(control: str, line: str) -> str:
    with connect(control, seconds=60) as sock:
        sock.sendall(f"{line}\n".encode())
        return read_all(sock).decode()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) == 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def main() -> int:
    options = arguments()
    if options.load:
        kind, port, amount = options.load
        print(json.dumps([count.__dict__ for count in LOADS[kind](int(port), float(amount))]))
        return 0
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > 5:
            last = time.monotonic()
            print(text, flush=True)

    with tempfile.TemporaryDirectory(prefix="gpen-replace-") as directory:
        campaign = Campaign(options.times, options.connections, options.sessions, options.queries, say)
        report = campaign.run(Path(directory))
    print(report.table("github" if options.markdown else "simple"))
    for kind, count in report.counts.items():
        for failure in count.failures[:SHOWN]:
            print(f"{kind}: {failure}")
    return 0 if report.is_well else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.replacements", description="Replaces a gpen again and again, by the command upgrade, "
        "under new connections, sessions that are kept, and queries.",
        epilog="Exit status: 0; 1 when a connection failed, a transfer was damaged, a query lost, or something leaked.")
    add = parser.add_argument
    add("--times", type=number(1, 10_000), metavar="N", default=100, help="replacements (100)")
    add("--connections", type=number(1, 10_000), metavar="N", default=500, help="new connections a second (500)")
    add("--sessions", type=number(1, 1000), metavar="N", default=200, help="sessions that are kept (200)")
    add("--queries", type=number(1, 10_000), metavar="N", default=1000, help="queries a second (1000)")
    add("--markdown", action="store_true", help="the table as it stands in docs/TESTING.md")
    add("--load", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
