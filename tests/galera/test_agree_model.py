"""The protocol of several watchers as a model: whole worlds of watchers, nodes and a replicated table, by a seed each.

A world has two to four watchers with a gpen each, which look four times a second, and nodes that show what was written
up to LAG seconds ago. All that may go wrong does: nodes die, hang and are cut off from some watchers; writes come late
or not at all; tables are emptied, or brought back from a backup; watchers are killed and started again, hang, sleep for
an hour, and meet others of their own name. Then all is well again. What must hold:

- the gpens never use two nodes of the cluster at a time;
- when all has been well for CALM seconds, all use one node, the one that the table names.

What the protocol leaves open, by its own words, is left out here: a gpen whose watcher does not run, and whose writer
died, or whose row is another one's or was wiped out meanwhile, counts for nothing until its watcher runs again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace

import pytest

from gpen.galera.agree import Agreed
from gpen.galera.election import Situation
from gpen.galera.identity import Identity
from gpen.galera.report import Choice, Claim
from gpen.galera.writer import Writer

WORLDS = 240
NODES = ("10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306")
INTERVAL, HANDOVER, CLAIMED = 0.25, 0.5, 1.0  # seconds
TICK = 0.05
LAG = 0.15  # seconds until a write is seen at another node
AWAY = 3.0  # seconds that a node which has died needs to come back, at least
TROUBLED, CALM = 20.0, 25.0
HOUR = 3600.0
ERRAND = 2.0


@dataclass
class Tables:
    """What the cluster replicates."""

    choice: Choice | None = None
    watchers: dict[str, int] = field(default_factory=dict)
    retired: dict[str, int] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)

    def write(self, choice: Choice, before: int | None) -> None:
        if before == (self.choice.version if self.choice else None):
            self.choice = choice

    def join(self, name: str, instance: str) -> None:
        self.watchers[name] = -abs(self.watchers.get(name, self.retired.pop(name, 0)))
        self.claims[name] = Claim(self.claims.get(name, Claim()).number + 1, instance)

    @property
    def newest(self) -> int:
        return max(map(abs, [*self.watchers.values(), *self.retired.values()]), default=0)

    def forget_watchers(self) -> None:
        self.watchers, self.retired = {}, {}

    def confirm(self, name: str, version: int) -> None:
        if self.watchers.get(name, version) < version:
            self.watchers[name] = version

    def leave(self, name: str, instance: str) -> None:
        if name in self.watchers:
            self.retired[name] = self.watchers.pop(name)
        if self.claims.get(name, Claim()).instance == instance:
            self.claims[name] = Claim(self.claims[name].number + 1)


class Node:
    """One node; it applies what was written after a while, in order."""

    def __init__(self) -> None:
        self.state = "well"  # dead, hanging
        self.until = 0.0
        self.lag = 0.0
        self.position = 0


class Party:
    """A watcher with one gpen, which outlives it."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.phase = world.random.uniform(0, INTERVAL)
        self.using: str | None = None
        self.told = 0
        self.asleep_until = 0.0
        self.is_dead = False
        self.is_off = False  # nobody can know of it until it runs again
        self.blind: set[str] = set()
        self.start()

    def start(self) -> None:
        self.is_dead = False
        self.instance = f"{self.world.random.getrandbits(64):x}"
        self.one = Agreed(Writer([self.world.preferred], self.world.failback), self.name, HANDOVER,
                          Identity(self.instance, CLAIMED))
        self.told = 0
        self._joined_at = -ERRAND
        self._confirmed: tuple[int, float] = (0, -ERRAND)
        self._proposed: Choice | None = None
        self._looked_at: float | None = None

    def runs(self, now: float) -> bool:
        return not self.is_dead and now >= self.asleep_until

    def rules(self, now: float) -> bool:
        """Whether it runs, and has told its gpen something since it was started or slept."""
        has_looked = self._looked_at is not None and self._looked_at >= self.asleep_until
        return self.runs(now) and has_looked and self.one.current is not None

    def look(self, now: float) -> None:
        """What a watcher does in a pass."""
        world, one = self.world, self.one
        if self._looked_at is not None and now - self._looked_at > HANDOVER:
            one.woke(now - self._looked_at - INTERVAL, now)
        self._looked_at = now
        scene = world.scene(self, now)
        if one.current is None and self.using:
            one.take_over(self.using)
        one.settle(scene, now)
        if one.current is not None:
            self.told = one.version
            self.using = one.current if now >= one.opens_at and one.current in scene.candidates else None
        assert one.identity is not None
        if not scene.candidates:
            return
        claims = self.name not in scene.watchers or one.identity.wants_claim
        if claims and not one.identity.clash and now - self._joined_at >= ERRAND:
            self._joined_at = now
            world.send(lambda tables, me=(self.name, self.instance): tables.join(*me), now)
        version = one.confirmation(replace(scene, told=self.told))
        if version is not None and (self._confirmed[0] != version or now - self._confirmed[1] >= ERRAND):
            self._confirmed = version, now
            world.send(lambda tables: tables.confirm(self.name, version), now)
        proposal, before = one.proposal, one.before
        if proposal is not None and proposal is not self._proposed:
            self._proposed = proposal
            world.send(lambda tables: tables.write(proposal, before), now)
            one.outcome(proposal, now + 0.1)


class World:
    """Everything, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.log: list[tuple[float, Tables]] = [(0.0, Tables())]
        self.flying: list[tuple[float, Callable[[Tables], None]]] = []
        count = self.random.randint(2, 3)  # two nodes have an arbitrator
        self.nodes = {node: Node() for node in NODES[:count]}
        self.loses = 0.0  # of the writes
        self.story: list[str] = []
        self.preferred, self.failback = self.random.choice(list(self.nodes)), self.random.random() < 0.5
        self.parties = [Party(self, f"w{number}")
                        for number in range(self.random.randint(2, 4))]

    # --- what is seen and written -------------------------------------------------------------------------------------

    @property
    def tables(self) -> Tables:
        return self.log[-1][1]

    def change(self, what: Callable[[Tables], None], now: float) -> None:
        tables = deepcopy(self.tables)
        what(tables)
        if tables != self.tables:
            self.log.append((now, tables))

    def send(self, what: Callable[[Tables], None], now: float) -> None:
        """A write takes a moment, and may be lost; where no node takes it, it is."""
        if self.random.random() >= self.loses:
            self.flying.append((now + self.random.choice((0.01, 0.03, 0.3)), what))

    def scene(self, party: Party, now: float) -> Situation:
        """What a watcher reads; of a node that it does not hear it only knows that it is a member."""
        members = [node for node, each in self.nodes.items() if each.state != "dead"]
        heard = [node for node in members if self.nodes[node].state == "well" and node not in party.blind]
        pages = [self._page(self.nodes[node], now) for node in heard]
        watchers: dict[str, int] = {}
        for name, version in (pair for page in pages for pair in page.watchers.items()):
            watchers[name] = max(version, watchers.get(name, 0))
        known = [page.choice for page in pages if page.choice]
        return Situation(
            order=party.one.order({node: index for index, node in enumerate(self.nodes)}, heard), candidates=heard,
            present=members, writable=members, choices=known, watchers=watchers,
            blank=bool(pages) and not known, quorate=2 * len(heard) > len(members), told=party.told,
            newest=max((page.newest for page in pages), default=0),
            claim=max((page.claims.get(party.name, Claim()) for page in pages), default=None))

    def _page(self, node: Node, now: float) -> Tables:
        while node.position + 1 < len(self.log) and self.log[node.position + 1][0] <= now - node.lag:
            node.position += 1
        return self.log[node.position][1]

    # --- time ---------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, troubled: bool) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            self._land()
            if troubled and self.random.random() < TICK:  # about one a second
                self.random.choice(EVENTS)(self)
            for node, each in self.nodes.items():
                each.lag = self.random.uniform(0, LAG)
                if each.state == "dead" and self.now >= each.until:
                    self.tell(f"{node} is back")
                    each.state, each.position = "well", len(self.log) - 1
            for party in self.parties:  # one that nobody tells leaves a dead writer by itself
                if party.using and self.nodes[party.using].state == "dead" and not party.rules(self.now):
                    party.using = None
            for party in self.random.sample(self.parties, len(self.parties)):
                if party.runs(self.now) and (self.now + party.phase) % INTERVAL < TICK:
                    party.look(self.now)
                    self.check()
            self.check()

    def _land(self) -> None:
        due = [what for at, what in self.flying if at <= self.now]
        self.flying = [(at, what) for at, what in self.flying if at > self.now]
        for what in due:
            if any(node.state == "well" for node in self.nodes.values()):
                self.change(what, self.now)

    def tell(self, line: str) -> None:
        self.story.append(f"{self.now:.2f} {line}")

    def check(self) -> None:
        used = {party.using for party in self.parties if self._counts(party)} - {None}
        assert len({node for node in used if node and self.nodes[node].state != "dead"}) <= 1, self.tale()

    def _counts(self, party: Party) -> bool:
        claim = self.tables.claims.get(party.name, Claim())
        if party.rules(self.now):
            party.is_off = False
        elif party.name not in self.tables.watchers or claim.instance not in ("", party.instance):
            party.is_off = True
        return not party.is_off

    def tale(self) -> str:
        parties = [f"{party.name} {party.instance[:4]} {'runs' if party.runs(self.now) else 'hangs'} "
                   f"uses {party.using} by choice {party.one.version}, {party.one.trouble}" for party in self.parties]
        choices = [f"{at:.2f} {tables.choice and tables.choice._replace(succession=())} {tables.watchers}"
                   for at, tables in self.log[-12:]]
        return "\n".join([f"at {self.now:.2f}", *self.story[-12:], *choices, *parties])


def node_dies(world: World) -> None:
    alive = [node for node, each in world.nodes.items() if each.state != "dead"]
    if len(alive) > 1:
        node = world.random.choice(alive)
        world.tell(f"{node} dies")
        world.nodes[node].state, world.nodes[node].until = "dead", world.now + AWAY + world.random.uniform(0, 5)


def node_hangs(world: World) -> None:
    node, each = world.random.choice(list(world.nodes.items()))
    if each.state != "dead":
        each.state = "hanging" if each.state == "well" else "well"
        world.tell(f"{node} is {each.state}")


def node_is_not_heard(world: World) -> None:
    party = world.random.choice(world.parties)
    party.blind ^= {world.random.choice(list(world.nodes))}
    world.tell(f"{party.name} does not hear {party.blind}")


def watcher_sleeps(world: World) -> None:
    party = world.random.choice(world.parties)
    party.asleep_until = world.now + world.random.choice((0.6, 1.0, 3.0, 8.0))
    world.tell(f"{party.name} {party.instance[:4]} sleeps until {party.asleep_until:.2f}")


def all_sleep_for_an_hour(world: World) -> None:
    world.tell("an hour")
    world.now += HOUR


def watcher_dies(world: World) -> None:
    party = world.random.choice(world.parties)
    if not party.is_dead:
        party.is_dead = True
        world.tell(f"{party.name} {party.instance[:4]} is killed")


def watcher_starts(world: World) -> None:
    for party in world.parties:
        if party.is_dead:
            party.start()
            world.tell(f"{party.name} starts as {party.instance[:4]}")


def watcher_ends(world: World) -> None:
    """By a signal: it takes itself off the list, and its gpen ends after it (or goes by its own prios)."""
    party = world.random.choice(world.parties)
    if party.runs(world.now) and party.one.identity and party.one.identity.stands:
        party.is_dead, party.using = True, None
        world.change(lambda tables: tables.leave(party.name, party.instance), world.now)
        world.tell(f"{party.name} {party.instance[:4]} ends")


def machine_is_cloned(world: World) -> None:
    if len(world.parties) < 5:
        party = world.random.choice(world.parties)
        world.parties.append(Party(world, party.name))
        world.tell(f"another {party.name}, {world.parties[-1].instance[:4]}")


def operator_moves(world: World) -> None:
    party = world.random.choice(world.parties)
    node = world.random.choice(list(world.nodes))
    if party.runs(world.now) and party.one.current not in (None, node):
        party.one.move(node)
        world.tell(f"{party.name} is to move to {node}")


def choice_is_lost(world: World) -> None:
    world.tell("gpen_writer is emptied")
    world.change(lambda tables: setattr(tables, "choice", None), world.now)


def list_is_lost(world: World) -> None:
    world.tell("gpen_watcher is emptied")
    world.change(Tables.forget_watchers, world.now)


def all_is_lost(world: World) -> None:
    world.tell("all tables are dropped")
    world.log.append((world.now, Tables()))


def backup_is_played_back(world: World) -> None:
    world.tell("gpen_writer is as it was")
    old = world.random.choice(world.log)[1].choice
    world.change(lambda tables: setattr(tables, "choice", old), world.now)


EVENTS = (node_dies, node_hangs, node_is_not_heard, watcher_sleeps, all_sleep_for_an_hour, watcher_dies, watcher_starts,
          watcher_ends, machine_is_cloned, operator_moves, operator_moves, operator_moves, choice_is_lost, list_is_lost,
          all_is_lost, backup_is_played_back)


def all_is_well(world: World) -> None:
    world.tell("all is well")
    world.loses = 0.0
    for node in world.nodes.values():
        node.state = "well"
    for party in world.parties:
        party.blind, party.asleep_until = set(), min(party.asleep_until, world.now)
    watcher_starts(world)


@pytest.mark.parametrize("part", range(4))
def test_worlds(part: int) -> None:
    for seed in range(part, WORLDS, 4):
        try:
            live(seed)
        except AssertionError as error:
            raise AssertionError(f"world {seed}: {error}") from None


def live(seed: int) -> None:
    world = World(seed)
    world.run(8.0, troubled=False)
    assert len({party.using for party in world.parties}) == 1 and world.parties[0].using, world.tale()
    world.loses = 0.1
    world.run(TROUBLED, troubled=True)
    all_is_well(world)
    world.run(CALM, troubled=False)
    taking = [party for party in world.parties if party.one.identity and not party.one.identity.clash]
    assert {party.name for party in taking} == {party.name for party in world.parties}, world.tale()
    assert world.tables.choice is not None, world.tale()
    assert {party.using for party in taking} == {world.tables.choice.writer}, world.tale()
