"""Slow start: which part of the clients a server gets that has come back, by each rule, and what is a return."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from gpen.model.address import Address
from gpen.model.scheduler import ROUND_ROBIN, RULES, Rule
from gpen.model.slowstart import LEAST, fraction
from tests.model.world import World, endpoint

SLOW = 100.0


def serving(count: int = 3, **settings: object) -> World:
    """A world that has begun to serve, with slow starts of 100 seconds."""
    world = World(count, **{"roundrobin": True, "slowstart": SLOW, **settings})
    world.pool.returns.is_serving = True
    return world


def restart(world: World, number: int) -> None:
    world.pool.set_state(world.server(number), "maint")
    world.pool.set_state(world.server(number), "ready")


def share(world: World, number: int, clients: int = 200, keep: bool = False) -> float:
    """Of so many clients at this moment, the part that a server gets."""
    return Counter(world.numbers(clients, keep))[number] / clients


def test_the_share_by_leastconn_is_that_of_the_grown_weight() -> None:
    """Sessions last, and the one that is back is empty: without a slow start it got 53 of the next 60."""
    shares = {}
    for slowstart in (0.0, SLOW):
        world = serving(leastconn=True, slowstart=slowstart)
        world.pool.set_state(world.server(2), "maint")
        world.numbers(100, keep=True)
        world.pool.set_state(world.server(2), "ready")
        shares[slowstart] = []
        for _ in range(10):
            shares[slowstart].append(share(world, 2, 6, keep=True))
            world.clock.now += SLOW / 10
    assert sum(shares[0.0]) * 6 == 53
    grown = [tenth / 10 / (2 + tenth / 10) for tenth in range(10)]
    assert sum(shares[SLOW]) * 6 == pytest.approx(6 * sum(grown), abs=2)


@pytest.mark.parametrize("rule", ["leastconn", "weight", "random", ""])
@pytest.mark.parametrize("passed", [5, 25, 50, 75])
def test_the_share_grows(rule: str, passed: float) -> None:
    world = serving(**{rule: True} if rule else {})
    world.configure(2, weight=2)
    restart(world, 2)
    world.clock.now += passed
    weight = (1 if rule == "" else 2) * passed / SLOW
    assert share(world, 2, 600, keep=True) == pytest.approx(weight / (2 + weight), abs=0.005)
    assert share(world, 2, 600) <= weight / (2 + weight) + 0.005


def test_prio_comes_home_slowly() -> None:
    world = serving(2, prio=True)
    world.configure(1, prio=1)
    restart(world, 0)
    shares = []
    for _ in range(4):
        world.clock.now += SLOW / 4
        shares.append(share(world, 0))
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.01)


@pytest.mark.parametrize("rule", ["leastconn", "weight", "random", "prio", ""])
def test_it_has_all_of_its_share_when_the_time_is_over(rule: str) -> None:
    shares = []
    for _ in range(2):
        world = serving(**{rule: True} if rule else {})
        world.selector.turns.random.seed(1)
        if shares:
            restart(world, 2)
            world.clock.now += SLOW
        shares.append(world.numbers(60, keep=True))
    assert shares[0] == shares[1]


def test_a_few_clients_reach_it_too() -> None:
    """One client in ten seconds, each of whom has left when the next comes."""
    world, numbers = serving(leastconn=True), []
    restart(world, 2)
    for _ in range(10):
        world.clock.now += SLOW / 10
        numbers += world.numbers(1)
    assert 1 <= numbers.count(2) <= 3


def test_who_is_back_takes_all_where_no_other_can() -> None:
    world = serving()
    restart(world, 2)
    world.pool.set_state(world.server(0), "maint")
    world.configure(1, max=1)
    assert Counter(world.numbers(20, keep=True)) == {1: 1, 2: 19}


def test_all_came_back_together() -> None:
    world = serving(leastconn=True)
    for number in range(3):
        restart(world, number)
    counts = Counter(world.numbers(30, keep=True))
    assert all(9 <= counts[number] <= 11 for number in range(3))


def test_those_who_came_back_one_after_the_other() -> None:
    world = serving(leastconn=True)
    restart(world, 1)
    world.clock.now += SLOW / 2
    restart(world, 2)
    world.clock.now += SLOW / 4
    counts = Counter(world.numbers(400, keep=True))
    assert counts[1] / 400 == pytest.approx(0.75 / 2, abs=0.01)
    assert counts[2] / 400 == pytest.approx(0.25 / 2, abs=0.01)


@pytest.mark.parametrize("rule", ["hash", "stateless"])
def test_a_client_keeps_its_own_server(rule: str) -> None:
    world = serving(**{rule: True})
    before = world.numbers(50)
    restart(world, 2)
    assert world.numbers(50) == before


def test_a_client_that_is_remembered_goes_back_at_once() -> None:
    world = serving(roundrobin=False)
    restart(world, 2)
    client = world.client("192.0.2.9")
    client.server = world.server(2)
    assert world.reserve(client).server.number == 2


def returned(world: World, number: int) -> bool:
    return world.server(number).target.returned == world.clock.now


def test_what_is_a_return() -> None:
    world = serving()
    pool, health, server, target = world.pool, world.pool.health, world.server(0), world.server(0).target
    assert not target.returned, "it was there when gpen began"

    def elapses() -> bool:
        world.clock.now += 10
        return True

    health.judge(server, "check", "down", "refused")
    assert elapses() and not target.returned
    health.judge(server, "check", "up", "it answers")
    assert returned(world, 0), "a check"
    assert elapses() and not returned(world, 0)
    health.judge(server, "command", "drain", "lags")
    health.judge(server, "command", "up", "caught up")
    assert returned(world, 0), "a verdict"
    assert elapses()
    health.blame(target, "connect failed")
    assert elapses() and not returned(world, 0)
    health.restore(target, "a connection succeeded")
    assert returned(world, 0), "the blacklist is over, and it was reached"
    assert elapses()
    health.withdraw(server, "check", "unchecked", "is off")
    health.judge(server, "command", "up", "still well")
    assert not returned(world, 0), "it was up, and is"
    for state in ("drain", "maint"):
        assert elapses()
        pool.set_state(server, state)
        assert not returned(world, 0)
        pool.set_state(server, "ready")
        assert returned(world, 0)
    assert elapses() and world.add(7).target.returned == world.clock.now, "a new one"
    assert elapses()
    pool.move(server, Address("10.0.0.99", 80))
    assert returned(world, 0), "another machine"
    assert elapses()
    pool.resolved(target, [endpoint("10.0.0.99")])
    assert not returned(world, 0)
    pool.resolved(target, [endpoint("10.0.0.100")])
    assert returned(world, 0), "its name means another machine"


def test_one_that_is_down_for_two_reasons_is_back_when_both_are_gone() -> None:
    world = serving()
    world.pool.set_state(world.server(0), "maint")
    world.pool.health.judge(world.server(0), "check", "down", "refused")
    world.pool.set_state(world.server(0), "ready")
    assert not world.server(0).target.returned
    world.pool.health.judge(world.server(0), "check", "up", "it answers")
    assert returned(world, 0)


def test_before_gpen_serves_nobody_comes_back() -> None:
    world = World(3, slowstart=SLOW)
    restart(world, 0)
    assert not world.server(0).target.returned


def test_what_a_gpen_before_has_seen_goes_on() -> None:
    world = serving(leastconn=True)
    world.pool.act(world.server(2), {"returned": 50.0})
    assert share(world, 2) == pytest.approx(0.5 / 2.5, abs=0.01)


@pytest.mark.parametrize("rule", [*RULES, ROUND_ROBIN], ids=lambda rule: rule.name)
def test_settings_with_it_pass_to_workers(rule: Rule) -> None:
    world = serving(**{rule.name: True} if rule is not ROUND_ROBIN else {})
    restart(world, 2)
    before = len(pickle.dumps(world.settings))
    world.numbers(5)
    assert len(pickle.dumps(world.settings)) == before, "and no servers do"
    passed = pickle.loads(pickle.dumps(world.settings))
    assert (passed.rule.name, passed.slowstart) == (rule.name, SLOW)
    assert (passed.rule.pick is rule.pick) == rule.is_personal


def test_a_server_that_came_back_while_an_answer_is_written() -> None:
    """What is told is as of the moment when the answer began, which is before it came back."""
    world = serving()
    before = world.clock()
    world.clock.now += 1
    restart(world, 1)
    target = world.server(1).target
    assert fraction(target, 0, before) == 1 and fraction(target, SLOW, before) == LEAST
