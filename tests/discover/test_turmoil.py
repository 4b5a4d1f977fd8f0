"""gpen-discover in turmoil: while anything may happen to the file, to gpens and to itself, no client fails, and in the
end each gpen has what the file says, once."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.discover.running import Discoverer, numbered, wait_servers, write
from tests.harness import Gpen, Server, naming, wait_until
from tests.visitors import Visitors

pytest.importorskip("watchdog", reason="inotify by the package watchdog")

STEPS = int(os.environ.get("TURMOIL", "40"))
HAND = "127.0.0.9:4009"
PLACES = [f"127.0.0.{host}:{port}" for host in (1, 2, 3) for port in (80, 81)]


def test_no_client_fails_while_all_servers_are_replaced(
        gpen: Callable[..., Gpen], servers: Callable[..., Server], tmp_path: Path, file: Path) -> None:
    """Again and again, each time by others."""
    alive = [servers(naming("hello")).address for _ in range(6)]
    balancer = gpen("-r")

    def visit() -> str:
        answer = balancer.ask()
        return "" if answer == b"hello" else repr(answer)

    write(file, *alive[:2])
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)):
        wait_servers(balancer, *alive[:2])
        with Visitors(visit, threads=3) as clients:
            for turn in range(1, 16):
                some = [alive[(2 * turn + each) % 6] for each in range(2)]
                write(file, *some)
                wait_servers(balancer, *some)
            wait_until(lambda: clients.count > 100)
        assert clients.failures == []


class Turmoil:
    """What may happen. The source is written by ``say`` alone, so that ``wanted`` is what the file said last that
    counts."""

    def __init__(self, dice: random.Random, file: Path, gpens: list[Gpen]) -> None:
        self._dice = dice
        self._file = file
        self._gpens = gpens
        self._stopped: set[int] = set()
        self.wanted = PLACES[:1]
        write(file, *self.wanted)

    def say(self) -> None:
        self.wanted = self._dice.sample(PLACES, self._dice.randint(1, len(PLACES)))
        if self._dice.random() < 0.5:
            write(self._file, *self.wanted)
        else:
            self._file.write_text("".join(f"{server}\n" for server in self.wanted))

    def spoil(self) -> None:
        self._file.write_text(self._dice.choice([
            "", "[]", '["127.0.0.1:', "127.0.0.7:80\n127.0.0.8", "\0\n", "127.0.0.7:80 wieght 3\n"]))

    def lose(self) -> None:
        self._file.unlink(missing_ok=True)

    def meddle(self) -> None:
        """Somebody does something by hand to a server that is not his own."""
        change = self._dice.choice(["weight 9", "address 127.0.0.8 port 80", "health down because x", "state maint"])
        for gpen in self._gpens:
            servers = {} if gpen.pid in self._stopped else numbered(gpen)
            if servers:
                number = self._dice.choice(list(servers))
                which = f"{number} at {servers[number].split()[0]}"
                gpen.ctl(self._dice.choice([f"server {which} {change}", f"no server {which}"]))

    def stop(self) -> None:
        gpen = self._dice.choice(self._gpens)
        gpen.signal(signal.SIGSTOP)
        self._stopped.add(gpen.pid)

    def go_on(self) -> None:
        for gpen in self._gpens:
            gpen.signal(signal.SIGCONT)
        self._stopped.clear()

    def step(self) -> str:
        action = self._dice.choice([self.say, self.say, self.spoil, self.lose, self.meddle, self.stop, self.go_on])
        action()
        return action.__name__


@contextmanager
def in_turmoil(gpens: list[Gpen]) -> Iterator[None]:
    """Stopped gpens go on at the end, whatever comes of it."""
    try:
        yield
    finally:
        for gpen in gpens:
            gpen.signal(signal.SIGCONT)


def test_whatever_happens_in_the_end_it_is_as_the_file_says(gpen: Callable[..., Gpen], tmp_path: Path, file: Path,
                                                             ) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    gpens = [gpen(servers=[HAND]) for _ in range(2)]
    turmoil, steps = Turmoil(random.Random(seed), file, gpens), 0
    with in_turmoil(gpens):
        while steps < STEPS:
            with Discoverer(tmp_path, "file", str(file), gpens=tuple(gpens)) as discoverer:
                discoverer.status()
                for _ in range(STEPS // 3 + 1):
                    print(turmoil.step())
                    steps += 1
                    threading.Event().wait(0.05)  # sometimes it has seen that, and sometimes not yet
        turmoil.go_on()
        turmoil.say()
        with Discoverer(tmp_path, "file", str(file), gpens=tuple(gpens)) as discoverer:
            for each in gpens:
                wait_until(lambda each=each: sorted(places(each)) == sorted(turmoil.wanted))
                assert numbered(each, None) == {0: HAND}
            wait_until(lambda: discoverer.status()["well"])


def places(gpen: Gpen) -> list[str]:
    """Where an owner's servers are, whatever is said of them."""
    return [said.split()[0] for said in numbered(gpen).values()]
