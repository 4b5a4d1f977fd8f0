"""Command line: `python -m tests.workers --help`. What only many connections show of worker processes: limits that are
exact under a burst, what it costs when one is killed each second, and that nothing is left of clients who leave when
they like while all kinds of things happen."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
import re
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate

from tests.bench.__main__ import number
from tests.daemon.crew import family_of, is_echoed, pids_of, sort_by_worker, standing_still, wait_gone, workers
from tests.harness import LOCAL, PATIENCE, Gpen, Server, connect, echo, reset, wait_until

SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
KEPT = 60  # sessions that last until their worker is killed
CROWDS = 4  # threads of clients
ANSWER = b"answer"
WORK_SECONDS = 0.005  # long enough for all places to be taken
VISITORS = 24  # threads of clients who leave when they like
COMMANDS = (
    ("server 0 health down", "server 0 health up"), ("server 1 state maint", "server 1 state ready"),
    ("server 0 max 1", "server 0 max 2"), ("idle_timeout 1", "idle_timeout 0"), ("close server 1",),
    ("drain 0 1 close", "server 0 state ready"))
ROOM = ("-x", "20000", "-O", "backlog 4096", "-O", "hold 300", "-O", "hold_max 20000")


class Counted:
    """A server that answers after a while and closes; it knows how many clients it had at one time at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.served = 0

    def __call__(self, sock: socket.socket) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            if sock.recv(1) == b"x":
                time.sleep(WORK_SECONDS)
                sock.sendall(ANSWER)
                self.served += 1
        finally:
            with self._lock:
                self._now -= 1  # before gpen sees that it ends


class Crowd:
    """Clients that come together, and read to the end: how many got which answer."""

    def __init__(self, address: tuple[str, int] | str, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._got: dict[socket.socket, bytearray] = {}
        self.answers = Counter[bytes]()
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            self._got[sock] = bytearray()
            self._selector.register(sock, selectors.EVENT_WRITE)

    def wait(self, seconds: float) -> Counter[bytes]:
        """Until all have what they get. Raises AssertionError when that takes longer."""
        deadline = time.monotonic() + seconds
        while self._got:
            assert time.monotonic() < deadline, f"{len(self._got)} clients are not served within {seconds:g} s"
            for key, _ in self._selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    self._go_on(sock, key.events)
                except OSError as error:
                    self._end(sock, type(error).__name__.encode())
        return self.answers

    def _go_on(self, sock: socket.socket, events: int) -> None:
        if events == selectors.EVENT_WRITE:
            sock.send(b"x")
            self._selector.modify(sock, selectors.EVENT_READ)
        elif piece := sock.recv(100):
            self._got[sock] += piece
        else:
            self._end(sock, bytes(self._got[sock]))

    def _end(self, sock: socket.socket, answer: bytes) -> None:
        self._selector.unregister(sock)
        del self._got[sock]
        sock.close()
        self.answers[answer] += 1


def burst(address: tuple[str, int] | str, count: int, seconds: float) -> Counter[bytes]:
    """What so many clients get that come at once, from a few threads."""
    with ThreadPoolExecutor(CROWDS) as threads:
        crowds = [threads.submit(lambda: Crowd(address, count // CROWDS).wait(seconds)) for _ in range(CROWDS)]
        return sum((crowd.result() for crowd in crowds), Counter[bytes]())


class Load:
    """Clients of an echo, one after the other in each thread, and some that stay; it knows whose session was cut."""

    def __init__(self, balancer: Gpen) -> None:
        self._balancer = balancer
        self._address = balancer.address
        self._is_over = threading.Event()
        self._kept = [self._keep() for _ in range(KEPT)]
        self._threads = [threading.Thread(target=self._come_and_go, daemon=True) for _ in range(CROWDS)]
        self.figures = Counter[str]()
        for thread in self._threads:
            thread.start()

    def _keep(self) -> socket.socket:
        sock = connect(self._address)
        assert is_echoed(sock)
        return sock

    def _come_and_go(self) -> None:
        while not self._is_over.is_set():
            try:
                with connect(self._address) as sock:
                    self.figures["served" if is_echoed(sock) else "cut"] += 1
            except ConnectionError:
                self.figures["cut"] += 1

    def kill(self, pid: int, number: int) -> None:
        """Kill a worker: of the clients that stay, its own are cut, and no other."""
        own, others = sort_by_worker(self._kept, pid)
        os.kill(pid, number)
        self.figures["killed"] += 1
        for sock in own:
            self.figures["kept, cut with their worker"] += _is_cut(sock)
            sock.close()
        self.figures["kept, cut without it"] += sum(not _goes_on(sock) for sock in others)
        self._kept = [*others, *(self._keep() for _ in own)]

    def end(self) -> None:
        """Let all clients go."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in self._kept:
            sock.close()


def _is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def _goes_on(sock: socket.socket) -> bool:
    try:
        return is_echoed(sock)
    except OSError:
        return False


Rows = list[tuple[str, object, bool]]  # what, how many, and whether that is as it shall be


def limits(directory: Path, connections: int, count: int) -> Rows:
    """Servers that take 5 and 7 clients, and a burst."""
    five, seven = Counted(), Counted()
    with Server(five) as a, Server(seven) as b, Gpen(
            directory, *ROOM, *workers(count), LOCAL, f"{a.address}:5", f"{b.address}:7") as balancer:
        start = time.monotonic()
        answers = burst(balancer.address, connections, 600)
        seconds = time.monotonic() - start
        balancer.wait_idle()
        total = sum(row["total"] for row in balancer.json("servers"))
    return [("connections", connections, True), ("served", answers[ANSWER], answers == {ANSWER: connections}),
            ("places that were given", total, total == connections),
            ("at one time at the server that takes 5", five.most, five.most == 5),
            ("at one time at the server that takes 7", seven.most, seven.most == 7),
            ("seconds", f"{seconds:.1f}", True)]


def kills(directory: Path, seconds: int, count: int, seed: int) -> Rows:
    """A worker is killed each second, while clients come and go, and others stay."""
    dice = random.Random(seed)
    with Server(echo) as a, Server(echo) as b, Gpen(directory, "-r", "-l", "gpen.log", *ROOM, *workers(count), LOCAL,
                                                    a.address, b.address) as balancer:
        wait_until(lambda: len(pids_of(balancer)) == count)
        processes, descriptors = family_of(balancer.pid), balancer.fds()
        load = Load(balancer)
        for second in range(seconds):
            wait_until(lambda: len(pids_of(balancer)) == count, what="a new worker")
            load.kill(dice.choice(pids_of(balancer)), dice.choice(SIGNALS))
            time.sleep(1)  # is the pace
            print(f"{second + 1} s", end="\r", file=sys.__stderr__)
        load.end()
        balancer.wait_idle()
        wait_until(lambda: len(pids_of(balancer)) == count)
        figures = load.figures
        left = sum(row["sessions"] for row in [*balancer.json("recent"), *balancer.json("servers")])
        now, left_open = family_of(balancer.pid), balancer.fds() - descriptors
        total = sum(row["total"] for row in balancer.json("servers"))
    lost = len(re.findall(r"\bworker-lost$", balancer.log, re.MULTILINE))
    told = sum(map(int, re.findall(r"ended by signal.*: (\d+) sessions? lost", balancer.stderr)))
    cut = figures["cut"] + figures["kept, cut with their worker"]
    wait_gone(processes | now, 5)
    return [("workers killed", figures["killed"], figures["killed"] == seconds),
            ("clients served meanwhile", figures["served"], figures["served"] > seconds),
            ("that were cut", figures["cut"], cut <= lost),
            ("clients that stayed, cut with their worker", figures["kept, cut with their worker"], True),
            ("clients that stayed, cut without it", figures["kept, cut without it"],
             not figures["kept, cut without it"]),
            ("sessions lost, by the log", lost, True), ("by what was told", told, told == lost),
            ("lines of the log", balancer.log.count("\n"), balancer.log.count("\n") >= total),
            ("places and sessions that are left", left, not left),
            ("processes more than before", len(now) - len(processes), len(now) == len(processes)),
            ("descriptors more than before", left_open, left_open <= 0)]


class Visitors:
    """Clients of an echo who leave when they like, in whatever way, with or without an answer."""

    def __init__(self, balancer: Gpen, seed: int) -> None:
        self._address = balancer.address
        self._is_over = threading.Event()
        self._came = itertools.count()
        self._threads = [threading.Thread(target=self._come_and_go, args=(random.Random(seed + number),), daemon=True)
                         for number in range(VISITORS)]
        for thread in self._threads:
            thread.start()

    def _come_and_go(self, dice: random.Random) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError), connect(self._address) as sock:
                next(self._came)
                sock.settimeout(dice.choice((0.005, 0.02, 0.1, 3)))
                if dice.random() < 0.8:
                    sock.sendall(b"x" * dice.choice((1, 1000)))
                    sock.recv(1000)
                if dice.random() < 0.3:
                    reset(sock)
                elif dice.random() < 0.3:
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1000)

    def end(self) -> int:
        """Let all go. How many have come."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        return next(self._came)


def disturb(balancer: Gpen, dice: random.Random) -> None:
    """One of the things that happen."""
    what = dice.randrange(len(COMMANDS) + 4)
    if what < len(COMMANDS):
        for command in COMMANDS[what]:
            balancer.ctl(command)
            time.sleep(0.1)
    elif what == len(COMMANDS):
        balancer.ctl(*(f"close {row['id']}" for row in balancer.json("sessions")[:3]))
    elif what == len(COMMANDS) + 1:
        with standing_still(balancer.pid):
            time.sleep(dice.random() / 5)
    else:
        pid = dice.choice(pids_of(balancer))
        if what == len(COMMANDS) + 2:
            os.kill(pid, signal.SIGKILL)
        else:
            with standing_still(pid):
                time.sleep(dice.random() / 2)


def turmoil(directory: Path, seconds: int, count: int, seed: int) -> Rows:
    """Two servers that take two clients each, and more who wait; nothing is left of any of them."""
    dice = random.Random(seed)
    with Server(echo) as a, Server(echo) as b, Gpen(
            directory, "-r", "-l", "gpen.log", "-O", "hold 0.5", "-O", "hold_max 5", "-O", "pending_max 4",
            *workers(count), LOCAL, f"{a.address}:2", f"{b.address}:2") as balancer:
        visitors, deadline = Visitors(balancer, seed), time.monotonic() + seconds
        while time.monotonic() < deadline:
            disturb(balancer, dice)
        came = visitors.end()
        wait_until(lambda: balancer.log.count("\n") >= came, what="a line for each client")  # some wait in the kernel
        balancer.wait_idle()
        left = sum(row["sessions"] for row in [*balancer.json("recent"), *balancer.json("workers")])
        held = balancer.server(0)["held"]
        balancer.ctl("pending_max 1")  # none that is dialing is left either
        served = 0
        for _ in range(5):
            with balancer.connect() as sock:
                served += is_echoed(sock)
        balancer.wait_idle()
    lines = balancer.log.count("\n")
    return [("clients", came, came > seconds), ("lines of the log", lines, lines == came + served),
            ("sessions that are left", left, not left), ("held clients that are left", held, not held),
            ("of five, served afterwards", served, served == 5)]


def main() -> int:
    options = arguments()
    parts: dict[str, Callable[[Path], Rows]] = {
        "limits": lambda directory: limits(directory, options.connections, options.workers),
        "kills": lambda directory: kills(directory, options.seconds, options.workers, options.seed),
        "turmoil": lambda directory: turmoil(directory, options.seconds, options.workers, options.seed)}
    is_well = True
    for name in options.parts or parts:
        with tempfile.TemporaryDirectory(prefix="gpen-workers-") as directory:
            told = io.StringIO()
            try:
                with contextlib.redirect_stdout(told):
                    rows = parts[name](Path(directory))
            except AssertionError as error:
                print(told.getvalue()[-5000:], f"{name}: {error}")
                return 1
        print(tabulate([(what, figure, "" if is_good else "WRONG") for what, figure, is_good in rows],
                       [name, f"{options.workers} workers", ""]), end="\n\n")
        is_well &= all(is_good for _, _, is_good in rows)
    return 0 if is_well else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.workers", description="Limits of servers under a burst of clients, a worker killed each "
        "second under load, and clients who leave when they like while all kinds of things happen.",
        epilog="Exit status: 0; 1 when something is not as it shall be.")
    add = parser.add_argument
    add("--limits", dest="parts", action="append_const", const="limits", help="this one only")
    add("--kills", dest="parts", action="append_const", const="kills", help="this one only")
    add("--turmoil", dest="parts", action="append_const", const="turmoil", help="this one only")
    add("--connections", type=number(CROWDS, 16_000), metavar="N", default=10_000, help="of the burst (10000)")
    add("--seconds", type=number(1), metavar="S", default=60, help="how long each of the others lasts (60)")
    add("--workers", type=number(1, 64), metavar="N", default=2, help="of each gpen (2)")
    add("--seed", type=int, metavar="N", default=int(time.time()), help="what happens, and to whom (the time)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
