"""Random sequences through a pen and a gpen at once: the same happens to the clients, and ``servers`` tells the same.

But for what the table in docs/FROM-PEN.md lists. So each sequence keeps to what both mean alike: the first turn is
given away; weights and prios are set, the prios in the order of the numbers, since pen fails over to the next number;
there is one server more that has no limit, since pen miscounts what it refuses; a server that is blacklisted is not
moved. Where round robin has to pass over a server that is full, dead or denies the client, whose neighbour gets double
in pen, and where a client can't have the server that it is remembered at, after which pen takes the next number, it is
compared only whether the client is served; then the turns are brought together again.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.harness import Server, naming, wait_until
from tests.pen.balancers import GPEN, PEN, Balancer, needs_pen

pytestmark = [pytest.mark.long, needs_pen, pytest.mark.turmoil]

STEPS = 25
SEQUENCES = int(os.environ.get("TURMOIL", "1250")) // STEPS  # `make campaign` takes more
CLIENTS = [f"127.0.1.{i}" for i in range(1, 9)]
PRIO, WEIGHT, TURN = "prio", "weight", ""


class Sequence:
    """One pair of balancers before A, B and C, with E for emergencies and abuse; and D, which comes and goes."""

    def __init__(self, seed: int, directory: Path, stack: ExitStack) -> None:
        self.dice = random.Random(seed)
        self.told: list[str] = []
        self.stack = stack
        self.farm = {name: stack.enter_context(Server(naming(name))) for name in "ABCDE"}
        self.rule = self.dice.choice((TURN, TURN, PRIO, WEIGHT))
        self.turns = self.dice.random() < 0.5
        self.in_slot: dict[int, str] = dict(enumerate("ABC"))
        self.is_dead: set[str] = set()
        self.denies: set[int] = set()
        self.limits: dict[int, int] = {}
        self.blacklisted: set[int] = set()
        self.memory: dict[str, int] = {}  # the slot of the server that a client used last
        self.empty: set[int] = set()
        self.miscounted = False  # by pen: it gives back a place that a client did not get
        self.client_acl = False
        self.kept: list[tuple[str, dict[str, socket.socket]]] = []
        self.clients = list(CLIENTS)
        self.fresh = 0
        self.aligned = False
        options = ["-O", "poll", *(["-r"] if self.turns else [])]
        for flag in self.dice.choice(((), ("-B",), ("-e", "-B"))):
            options += [flag, self.farm["E"].address]
        options += ["-O", self.rule] if self.rule else []
        places = [f"{self.farm[name].address}:0:0:{weight}:{prio}"
                  for prio, (name, weight) in enumerate(zip("ABC", (2, 1, 3), strict=True), 1)]
        self.tell(f"{' '.join(options)} {' '.join(places)}")
        with ThreadPoolExecutor(2) as starters:
            kinds = {kind: starters.submit(Balancer, kind, directory, *options, servers=places) for kind in (PEN, GPEN)}
        self.balancers = {kind: stack.enter_context(started.result()) for kind, started in kinds.items()}

    def tell(self, what: str) -> None:
        self.told.append(what)

    def run(self) -> None:
        steps: list[Callable[[], None]] = [
            *[self.connect] * 8, *[self.leave] * 2, self.blacklist, self.blacklist, self.empty_or_fill, self.join,
            self.look, self.deny_clients, self.switch,
            *([self.weigh] if self.rule == WEIGHT else [self.limit, self.deny, self.die]),
        ]
        for _ in range(STEPS):
            self.dice.choice(steps)()
            if self.miscounted:
                return
        self.look()

    # --- clients ----------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A client, new or one that returns; it stays, or leaves at once."""
        if self.rule == TURN and not (self.aligned or self.unable - self.blacklisted):
            self.align()
        source = self.dice.choice(self.clients)
        names, socks = self.open(source)
        self.tell(f"client {source}: {names}")
        remembered = None if self.turns else self.memory.get(source)
        if remembered in self.unable | self.blacklisted or (
                self.rule == TURN and remembered is None and self.unable - self.blacklisted):
            self.aligned = False
            assert bool(names[PEN]) == bool(names[GPEN]), self
        else:
            assert names[PEN] == names[GPEN], self
        if names[PEN] != names[GPEN]:
            self.clients[self.clients.index(source)] = self.stranger()
        elif not names[PEN]:
            self.miscounted = bool(self.unable)
        elif names[PEN] in self.slots:
            self.memory[source] = self.slots[names[PEN]]
        if self.dice.random() < 0.4 and names[PEN] == names[GPEN] != "":
            self.kept.append((names[PEN], socks))
        else:
            self.close(socks)

    def stranger(self) -> str:
        self.fresh += 1
        return f"127.0.2.{self.fresh}"

    def open(self, source: str) -> tuple[dict[str, str], dict[str, socket.socket]]:
        opened = {kind: balancer.open(source) for kind, balancer in self.balancers.items()}
        return {kind: name for kind, (_, name) in opened.items()}, {kind: sock for kind, (sock, _) in opened.items()}

    def close(self, socks: dict[str, socket.socket]) -> None:
        for sock in socks.values():
            sock.close()
        self.settle()

    def settle(self) -> None:
        """Until both have noticed who has left."""
        wait_until(lambda: max(map(self.sessions, self.balancers)) <= len(self.kept), what="the end of sessions")
        # pen's count may be too low by one: what the servers see of it is right
        wait_until(lambda: sum(server.live for server in self.farm.values()) <= len(self.balancers) * len(self.kept),
                   what="the end of connections to servers")

    def sessions(self, kind: str) -> int:
        return sum(self.balancers[kind].sessions())

    def leave(self) -> None:
        if self.kept:
            name, socks = self.kept.pop(self.dice.randrange(len(self.kept)))
            self.tell(f"a client of {name} leaves")
            self.close(socks)

    @property
    def slots(self) -> dict[str, int]:
        return {name: slot for slot, name in self.in_slot.items()}

    @property
    def unable(self) -> set[int]:
        """The slots of servers that are there, but do not take everybody."""
        full = {slot for slot, limit in self.limits.items()
                if sum(name == self.in_slot[slot] for name, _ in self.kept) >= limit > 0}
        dead = {slot for slot, name in self.in_slot.items() if name in self.is_dead}
        return full | dead | self.denies | self.empty

    def align(self) -> None:
        """Bring the turns together."""
        source = self.stranger()
        name = self.balancers[PEN].name(source)
        for _ in range(len(self.in_slot) + 1):
            if self.balancers[GPEN].name(self.stranger()) == name:
                break
        else:
            assert not name or self.client_acl, self
        self.settle()
        self.aligned = True

    # --- commands ---------------------------------------------------------------------------------------------------

    def ask(self, line: str) -> None:
        replies = [balancer.plain(balancer.ask(line)) for balancer in self.balancers.values()]
        self.tell(line)
        assert replies[0] == replies[1], self

    def slot(self) -> int:
        return self.dice.choice(sorted(self.in_slot))

    def blacklist(self) -> None:
        slot = self.slot()
        self.ask(f"server {slot} blacklist {0 if slot in self.blacklisted else 600}")
        self.blacklisted ^= {slot}

    def limit(self) -> None:
        """Never of the last one, so that nobody is refused."""
        slot, limit = self.dice.choice((0, 1)), self.dice.choice((0, 1, 2))
        if slot in self.in_slot:
            self.ask(f"server {slot} max {limit} hard {limit}")
            self.limits[slot] = limit

    def weigh(self) -> None:
        self.ask(f"server {self.slot()} weight {self.dice.choice((1, 2, 5))}")

    def deny(self) -> None:
        slot = self.dice.choice((0, 1))
        if slot in self.in_slot:
            self.ask("no acl 3")
            self.ask("acl 3 deny 127.0.0.0 255.0.0.0")
            self.ask(f"server {slot} acl {0 if slot in self.denies else 3}")
            self.denies ^= {slot}

    def deny_clients(self) -> None:
        self.ask("no acl 5")
        self.ask("acl 5 deny 127.0.1.3")
        self.client_acl = not self.client_acl
        self.ask(f"client_acl {5 if self.client_acl else 0}")

    def empty_or_fill(self) -> None:
        slot = self.dice.choice((1, 2))
        if slot in self.blacklisted or any(name == self.in_slot[slot] for name, _ in self.kept):
            return
        place = self.farm[self.in_slot[slot]].address.replace(":", " port ")
        self.ask(f"server {slot} address 0.0.0.0 port 0")
        self.empty.add(slot)
        self.look()
        self.connect()
        self.empty.remove(slot)
        self.ask(f"server {slot} address {place}")
        self.aligned = False

    def join(self) -> None:
        if 3 not in self.in_slot:
            self.ask(f"server 3 address 127.0.0.1 port {self.farm['D'].port} max 0 hard 0 weight 1 prio 4")
            self.in_slot[3] = "D"
            self.aligned = False

    def switch(self) -> None:
        self.turns = not self.turns
        self.ask("roundrobin" if self.turns else "no roundrobin")

    def die(self) -> None:
        """A server that nobody uses ends; it is found by a client, and comes back."""
        slot = self.dice.choice((0, 1))
        name = self.in_slot.get(slot)
        if name is None or slot in self.blacklisted | self.denies or any(used == name for used, _ in self.kept):
            return
        server = self.farm[name]
        self.tell(f"{name} ends")
        server.close()
        self.is_dead.add(name)
        for _ in range(3):
            self.connect()
        self.farm[name] = self.stack.enter_context(Server(naming(name), port=server.port))
        self.is_dead.remove(name)
        self.ask(f"server {slot} blacklist 0")
        self.aligned = False

    def look(self) -> None:
        """What both tell of the servers and of themselves; bytes apart, since turns were brought together."""
        def told(balancer: Balancer) -> list[str]:
            return [line.partition(" sx ")[0] for line in balancer.ask("servers").splitlines()]

        with contextlib.suppress(AssertionError):  # who has left is noticed by each in its time
            wait_until(lambda: told(self.balancers[PEN]) == told(self.balancers[GPEN]))
        assert told(self.balancers[PEN]) == told(self.balancers[GPEN]), self
        self.ask("mode")
        self.ask("client_acl")

    def __repr__(self) -> str:
        return "\n".join(self.told)


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_a_random_sequence(seed: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        sequence = Sequence(seed, tmp_path, stack)
        try:
            sequence.run()
        finally:
            print(sequence)
            for _, socks in sequence.kept:
                for sock in socks.values():
                    with suppress(OSError):
                        sock.close()
