"""The rule that remembers nothing: whoever has the same servers chooses the same."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest

from gpen.model.address import Address, Endpoint
from gpen.model.client import Client
from tests.model.world import World, endpoint

CLIENTS = [f"10.{i // 250}.{i % 11}.{i % 250}" for i in range(10_000)]
FEW = CLIENTS[:1000]
IPV6, UNIX = 10, 1  # AF_INET6, AF_UNIX


def stateless(places: Iterable[Endpoint | Sequence[Endpoint]], weights: Sequence[int] = (), **settings: object,
              ) -> World:
    """Servers by number at these endpoints."""
    world = World(0, stateless=True, **settings)
    for number, where in enumerate(places):
        server = world.pool.add(number, Address(f"name{number}.test", 80))
        world.pool.resolved(server.target, [where] if isinstance(where, Endpoint) else where)
        if weights:
            world.configure(number, weight=weights[number])
    return world


def places(world: World, clients: Iterable[str] = FEW) -> list[str | None]:
    """The endpoints that these clients get."""
    chosen = []
    for name in clients:
        lease = world.selector.reserve(Client(name, 0))
        chosen.append(lease and str(lease.target.endpoints[0]))
        if lease is not None:
            lease.release()
    return chosen


THREE = [endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.2", 81)]


@pytest.mark.parametrize("seed", range(3))
def test_two_agree_in_whatever_order(seed: int) -> None:
    weights = dict(zip(THREE, (1, 2, 3), strict=True))
    others = random.Random(seed).sample(THREE, 3)
    assert places(stateless(THREE, [1, 2, 3])) == places(stateless(others, [weights[other] for other in others]))


def test_what_is_chosen_never_changes() -> None:
    """Two gpens of different versions agree as well: these are what the first version chose."""
    six = Endpoint(IPV6, ("2001:db8::1", 80, 0, 0), "2001:db8::1", 80)
    world = stateless([*THREE, six, Endpoint(UNIX, "/run/app.sock", "/run/app.sock", 0)], [1, 2, 3, 1, 2])
    clients = [f"192.0.2.{i}" for i in range(20)] + [f"2001:db8::{i:x}" for i in range(1, 20)]
    assert "".join(map(str, world.numbers(0, clients=clients))) == "040024410121300323211110210213120244224"


def test_every_way_to_write_an_address_is_the_same() -> None:
    plain = stateless(THREE)
    mapped = stateless([Endpoint(IPV6, ("::ffff:10.0.0.1", 80, 0, 0), "::ffff:10.0.0.1", 80), *THREE[1:]])
    assert [place and place.replace("[::ffff:10.0.0.1]", "10.0.0.1") for place in places(mapped)] == places(plain)
    here, there = (stateless([THREE[0], Endpoint(IPV6, ("fe80::1", 80, 0, scope), f"fe80::1%{scope}", 80)])
                   for scope in (2, 7))
    assert here.numbers(0, clients=FEW) == there.numbers(0, clients=FEW)


def test_of_several_addresses_the_least_stands_for_the_server() -> None:
    """Whichever is in use, and in whatever order the name servers tell them: also IPv4 before IPv6."""
    one, two = endpoint("10.0.1.1"), endpoint("10.0.1.2")
    six = Endpoint(IPV6, ("::1", 80, 0, 0), "::1", 80)
    expected = stateless([one, *THREE]).numbers(0, clients=FEW)
    for several in ([one, two], [two, one], [two, six, one]):
        world = stateless([several, *THREE])
        assert world.numbers(0, clients=FEW) == expected
        world.pool.prefer(world.server(0).target, several[-1])
        assert world.numbers(0, clients=FEW) == expected


def test_an_address_that_has_changed_counts_at_once() -> None:
    world = stateless(THREE)
    before = world.numbers(0, clients=FEW)
    world.pool.resolved(world.server(0).target, [endpoint("10.0.9.9")])
    assert world.numbers(0, clients=FEW) != before
    world.pool.resolved(world.server(0).target, [endpoint("10.0.0.1")])
    assert world.numbers(0, clients=FEW) == before


def test_a_server_that_goes_or_comes_moves_its_own_clients_only() -> None:
    world = stateless([endpoint(f"10.0.0.{i}") for i in range(5)])
    before = world.numbers(0, clients=CLIENTS)
    world.pool.delete(2)
    after = world.numbers(0, clients=CLIENTS)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(moved) == before.count(2)
    assert set(moved) == {0, 1, 3, 4} and max(Counter(moved).values()) < len(moved) * 0.3, "to all others alike"
    world.add(2)
    assert world.numbers(0, clients=CLIENTS) == before


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1, 1), (1, 2, 3, 4), (50, 100), (9, 1), (0, 1, 2)])
def test_clients_in_proportion_to_weight(weights: tuple[int, ...]) -> None:
    counts = Counter(stateless([endpoint(f"10.0.0.{i}") for i in range(len(weights))], weights)
                     .numbers(0, clients=CLIENTS))
    assert counts[0] > 0 or not weights[0]
    expected = [10_000 * weight / sum(weights) for weight in weights]
    chi_square = sum((counts[number] - mean) ** 2 / mean for number, mean in enumerate(expected) if mean)
    assert chi_square < 20, "beyond that lies 1 of 2,000 draws of at most 5 servers that are fair"
    assert all(counts[number] == 0 for number, weight in enumerate(weights) if not weight)


def test_more_weight_takes_only_what_it_is_due() -> None:
    world = stateless(THREE)
    before = world.numbers(0, clients=FEW)
    world.configure(1, weight=3)
    after = world.numbers(0, clients=FEW)
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {1}


@pytest.mark.parametrize("network", ["10.0.0.{}", "192.168.{}.1", "2001:db8::{:x}", "2001:db8:{:x}::1"])
def test_the_whole_address_counts(network: str) -> None:
    counts = Counter(stateless(THREE).numbers(0, clients=[network.format(i) for i in range(256)]))
    assert len(counts) == 3 and min(counts.values()) > 256 / 3 * 0.6


def test_nothing_is_remembered() -> None:
    """Neither what a client had before the rule was on, nor a server that took it while its own was full."""
    world = stateless(THREE)
    own = world.reserve("10.0.0.9")
    world.configure(own.server.number or 0, max=1, hard=5)
    client = Client("10.0.0.9", 0)
    client.server = other = world.selector.reserve(client).server  # type: ignore[union-attr]
    assert other is not own.server
    own.release()
    assert world.reserve(client).server is own.server
    world.settings.set("roundrobin", True)
    assert {world.reserve("10.0.0.10", port).server for port in range(30)} == {world.reserve("10.0.0.10").server}


def test_the_next_by_score_while_its_own_is_down_or_full() -> None:
    """On both alike, whatever each calls them; and it is the one that it would have if its own were not there."""
    here, there = stateless(THREE), stateless(THREE[::-1])
    there.pool.delete(2)
    here.pool.health.judge(here.server(0), "command", "down", "test")
    assert places(here) == places(there)
    here.pool.health.judge(here.server(0), "command", "up", "test")
    here.configure(0, max=1)
    here.server(0).sessions = 1
    assert places(here) == places(there)


def test_stubborn_closes_those_whose_own_can_not_take_them() -> None:
    world = stateless(THREE, stubborn=True)
    before = places(world)
    world.pool.set_state(world.server(0), "maint")
    assert places(world) == [None if place == "10.0.0.1:80" else place for place in before]


def test_a_server_without_an_address_is_passed_over() -> None:
    world = stateless([THREE[0], ()])
    assert set(world.numbers(20)) == {0}
    world.configure(0, weight=0)
    assert world.refused()
