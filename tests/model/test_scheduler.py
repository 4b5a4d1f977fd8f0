"""The rules that choose a server for a new client."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from gpen.model.client import Client
from tests.model.world import World

CLIENTS = [f"10.{i % 7}.{i % 11}.{i % 251}" for i in range(1000)]


def test_round_robin_starts_at_server_0() -> None:
    assert World(3).numbers(7) == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_is_fair_when_a_server_is_full() -> None:
    world = World(4)
    world.server(1).max = 1
    world.server(1).sessions = 1
    assert Counter(world.numbers(300)) == {0: 100, 2: 100, 3: 100}


def test_round_robin_goes_on_where_a_server_was_deleted() -> None:
    world = World(4)
    assert world.numbers(2) == [0, 1]
    world.pool.delete(1)
    assert world.numbers(3) == [2, 3, 0]


def test_round_robin_with_gaps_in_the_numbers() -> None:
    world = World(0)
    for number in (7, 3, 12):
        world.add(number)
    assert world.numbers(4) == [3, 7, 12, 3]


def test_round_robin_when_none_can() -> None:
    world = World(2)
    for server in world.pool.servers.values():
        world.pool.set_state(server, "maint")
    assert world.refused()
    assert World(0).refused()


def returning(world: World, number: int) -> Client:
    client = Client("198.51.100.1", 0)
    client.server = world.server(number)
    return client


def test_only_a_choice_by_round_robin_moves_its_turn() -> None:
    world, counts = World(3), Counter[int | None]()
    for i in range(30):
        world.reserve(returning(world, 0)).release()
        counts.update(world.numbers(0, clients=[f"192.0.2.{i}"]))
    assert counts == {0: 10, 1: 10, 2: 10}
    assert world.numbers(1) == [0]
    for other in ("prio", "weight", "leastconn", "random", "stateless", "hash"):
        world.settings.set(other, True)
        world.numbers(7)
        world.settings.set(other, None)
    assert world.numbers(1) == [1], "and no other rule does"
    world.special("emergency")
    for server in world.pool.servers.values():
        world.pool.set_state(server, "drain")
    assert world.numbers(1) == [None], "nor does the emergency server"
    for server in world.pool.servers.values():
        world.pool.set_state(server, "ready")
    assert world.numbers(1) == [2]


def test_prio_takes_the_lowest_then_the_lowest_number() -> None:
    world = World(4, prio=True)
    for number, prio in enumerate((3, 1, 1, 2)):
        world.configure(number, prio=prio)
    assert world.numbers(2) == [1, 1]
    world.server(1).max = 1
    assert world.numbers(3, keep=True) == [1, 2, 2]
    world.pool.set_state(world.server(2), "drain")
    assert world.numbers(1) == [3]


def test_weight_is_kept_in_proportion() -> None:
    world = World(3, weight=True)
    for number, weight in enumerate((1, 2, 5)):
        world.configure(number, weight=weight)
    assert Counter(world.numbers(80, keep=True)) == {0: 10, 1: 20, 2: 50}


@pytest.mark.parametrize("rule", ["weight", "leastconn", "random"])
def test_weight_0_is_never_chosen(rule: str) -> None:
    world = World(2, **{rule: True})
    world.configure(0, weight=0)
    assert set(world.numbers(20, keep=True)) == {1}
    world.configure(1, weight=0)
    assert world.refused()


def test_weight_ties_go_to_the_lowest_number() -> None:
    assert World(3, weight=True).numbers(3) == [0, 0, 0]


def test_leastconn_has_weight_1_by_default_and_ties_go_round() -> None:
    world = World(3, leastconn=True)
    assert world.numbers(6, keep=True) == [0, 1, 2, 0, 1, 2]
    world.server(1).sessions -= 1
    assert world.numbers(1) == [1]
    assert World(3, leastconn=True).numbers(4) == [0, 1, 2, 0], "the idle ones by turns as well"


def test_leastconn_by_weight() -> None:
    world = World(2, leastconn=True)
    world.configure(1, weight=3)
    assert Counter(world.numbers(40, keep=True)) == {0: 10, 1: 30}


WEIGHTS = [(3, 1), (1, 3), (5, 1, 1), (1, 1, 1, 1), (2, 3, 5), (9, 1, 1, 1, 1, 1, 1, 1, 1, 1), (0, 2, 1)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("rule", ["leastconn", "random"])
def test_idle_servers_get_their_share_in_turn(rule: str, weights: tuple[int, ...]) -> None:
    world = weighted(rule, weights)
    counts = Counter(world.numbers(40 * sum(weights)))
    for number, weight in enumerate(weights):
        error = 0 if rule == "leastconn" else 16 * weight
        assert abs(counts[number] - 40 * weight) <= error


def weighted(rule: str, weights: Iterable[int]) -> World:
    world = World(0, **{rule: True})
    world.selector.turns.random = random.Random(7)
    for number, weight in enumerate(weights):
        world.add(number)
        world.configure(number, weight=weight)
    return world


def test_forty_short_connections_at_3_to_1() -> None:
    assert Counter(weighted("leastconn", (3, 1)).numbers(40)) == {0: 30, 1: 10}
    assert Counter(weighted("random", (3, 1)).numbers(40)) == {0: 30, 1: 10}


@pytest.mark.parametrize("rule", ["leastconn", "random"])
def test_nobody_saves_up_a_share(rule: str) -> None:
    """Neither a server that was away, nor one that is new, nor one that is new under an old number."""
    world = weighted(rule, (1, 1, 1))
    world.pool.set_state(world.server(2), "drain")
    world.numbers(100)
    world.pool.set_state(world.server(2), "ready")
    world.add(3)
    world.pool.delete(0)
    world.add(0)
    assert max(Counter(world.numbers(40)).values()) <= 14
    counts = Counter(world.numbers(8))
    assert rule == "random" or set(counts.values()) == {2}


def test_a_choice_that_is_busy_counts_too() -> None:
    world = weighted("leastconn", (1, 1))
    first = world.reserve()
    assert first.server.number == 0
    assert world.numbers(3) == [1, 1, 1], "the one with fewer sessions"
    first.release()
    assert Counter(world.numbers(10)) == {0: 6, 1: 4}, "it is not made up for, as nothing is saved up"


def test_random_takes_the_better_of_two() -> None:
    world = World(3, random=True)
    world.selector.turns.random = random.Random(7)
    world.server(2).sessions = 1000
    assert Counter(world.numbers(200))[2] == 0, "whoever it is compared with has fewer"
    world = World(10, random=True)
    world.selector.turns.random = random.Random(7)
    counts = Counter(world.numbers(1000, keep=True))
    assert min(counts.values()) > 90 and max(counts.values()) < 110, "near the best choice"


@pytest.mark.parametrize("rule", ["weight", "leastconn", "random"])
def test_shares_of_weights_are_no_whole_numbers(rule: str) -> None:
    """What agents leave of weights of 1: each has its part, however small they all are."""
    world = World(4, **{rule: True})
    world.selector.turns.random = random.Random(7)
    for number, says in enumerate(("30%", "30%", "15%", "0%")):
        world.pool.heed(world.server(number), says)
    kept = Counter(world.reserve().server.number for _ in range(100))
    assert kept[3] == 0 and all(abs(kept[number] - part) <= 3 for number, part in enumerate((40, 40, 20)))


def test_random_with_one_server() -> None:
    assert World(1, random=True).numbers(2) == [0, 0]


def test_hash_is_the_clients_own_and_spreads() -> None:
    world = World(4, hash=True)
    first, second = world.numbers(0, clients=CLIENTS), world.numbers(0, clients=CLIENTS)
    assert first == second
    assert min(Counter(first).values()) > len(set(CLIENTS)) / 4 * 0.7


@pytest.mark.parametrize("network", ["10.0.0.{}", "192.168.{}.1", "2001:db8::{:x}", "2001:db8:{:x}::1"])
def test_hash_looks_at_the_whole_address(network: str) -> None:
    clients = [network.format(i) for i in range(256)]
    for servers in (2, 4):
        counts = Counter(World(servers, hash=True).numbers(0, clients=clients))
        assert len(counts) == servers and min(counts.values()) > 256 / servers * 0.6


def test_hash_moves_only_the_clients_of_the_server_that_goes() -> None:
    world = World(5, hash=True)
    before = dict(zip(CLIENTS, world.numbers(0, clients=CLIENTS), strict=True))
    world.pool.delete(2)
    after = dict(zip(CLIENTS, world.numbers(0, clients=CLIENTS), strict=True))
    moved = {client for client in CLIENTS if before[client] != after[client]}
    assert moved == {client for client in CLIENTS if before[client] == 2}
    assert len({after[client] for client in moved}) == 4, "and those go to all others"
    world.add(2)
    assert dict(zip(CLIENTS, world.numbers(0, clients=CLIENTS), strict=True)) == before


def test_hash_moves_only_to_a_server_that_comes() -> None:
    world = World(4, hash=True)
    before = world.numbers(0, clients=CLIENTS)
    world.add(4)
    after = world.numbers(0, clients=CLIENTS)
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {4}


def test_hash_uses_the_port_with_roundrobin() -> None:
    world = World(4, hash=True)
    assert len({world.reserve("10.0.0.1", port).server for port in range(100)}) == 1
    world.settings.set("roundrobin", True)
    chosen = [world.reserve("10.0.0.1", port).server for port in range(100)]
    assert len(set(chosen)) == 4
    assert chosen == [world.reserve("10.0.0.1", port).server for port in range(100)]


def test_the_rules_in_pens_order() -> None:
    world = World(2)
    for name in ("hash", "stateless", "random", "leastconn", "weight", "prio"):
        world.settings.set(name, True)
        assert world.selector.rule.name == name, "each goes before those that were set until now"
    assert World(1).selector.rule.name == "round robin"
