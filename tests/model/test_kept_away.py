"""Servers that this machine keeps gpen from: one, some, or all of them."""

from __future__ import annotations

import pytest

from gpen.model.server import Server
from tests.model.world import World


def keep_away(world: World, number: int, cause: str = "permission denied") -> bool:
    """Let a connection to this server fail by this machine's doing; whether the server is to blame."""
    others = [server for server in world.pool.servers.values() if server.number != number]
    return world.reserve(tried=others).fail(cause, is_kept_away=True)


def health(world: World) -> list[str]:
    return [server.target.health(world.clock()) for server in world.pool.servers.values()]


def own_events(world: World) -> list[str]:
    return [event.event for event in world.pool.events if event.server is None]


def reach(world: World, server: Server) -> None:
    lease = world.reserve(tried=[other for other in world.pool.servers.values() if other is not server])
    lease.connected()
    lease.release()


def test_one_of_several_is_to_blame() -> None:
    world = World(3)
    assert keep_away(world, 1)
    assert health(world) == ["up", "down", "up"] and world.server(1).target.reason == "permission denied"
    assert not own_events(world)


def test_the_only_one_is_to_blame() -> None:
    world = World(1)
    assert keep_away(world, 0) and health(world) == ["down"]


def test_of_all_none_is_to_blame() -> None:
    world = World(3)
    assert [keep_away(world, number, cause) for number, cause in enumerate(("a", "b", "a"))] == [True, True, False]
    assert health(world) == ["up"] * 3 and own_events(world) == ["cut off"]
    assert not keep_away(world, 0) and health(world) == ["up"] * 3


def test_a_server_that_failed_otherwise_is_to_blame() -> None:
    world = World(3)
    world.reserve(tried=[world.server(0), world.server(2)]).fail("connection refused")
    assert keep_away(world, 0) and keep_away(world, 2)
    assert health(world) == ["down"] * 3 and not own_events(world)


def test_what_failed_otherwise_since_then_counts() -> None:
    world = World(2)
    keep_away(world, 0)
    world.clock.now += 31
    world.reserve(tried=[world.server(1)]).fail("connection refused")
    assert keep_away(world, 1) and health(world) == ["down", "down"]


def test_one_that_is_reached_ends_it() -> None:
    world = World(2)
    keep_away(world, 0), keep_away(world, 1)
    reach(world, world.server(1))
    assert own_events(world) == ["cut off", "connected"]
    assert keep_away(world, 0) and health(world) == ["down", "up"]


def test_one_that_was_reached_since_then() -> None:
    world = World(2)
    keep_away(world, 0)
    world.clock.now += 31
    reach(world, world.server(0))
    assert keep_away(world, 1) and health(world) == ["up", "down"]


def test_the_emergency_server_says_nothing_of_the_others() -> None:
    world = World(2)
    emergency = world.special("emergency")
    keep_away(world, 0), keep_away(world, 1)
    lease = world.reserve(tried=world.pool.servers.values())
    assert lease.server is emergency
    lease.connected()
    assert own_events(world) == ["cut off"] and not keep_away(world, 0)


@pytest.mark.parametrize("word", ["down", "drain"])
def test_servers_that_gpen_would_not_use_do_not_count(word: str) -> None:
    world = World(4)
    world.pool.set_state(world.server(2), "maint")
    world.pool.health.judge(world.server(3), "command", word, "donor")
    assert keep_away(world, 0) and not keep_away(world, 1)


def test_a_blacklist_by_command_stays() -> None:
    world = World(2)
    keep_away(world, 0)
    world.pool.health.blacklist(world.server(0), 100)
    keep_away(world, 1)
    assert health(world) == ["down", "up"]


def test_verdicts_of_checks_that_were_kept_away_are_dropped() -> None:
    world = World(2)
    for number, reason in enumerate(("permission denied", "donor")):
        world.pool.health.keeps_away(world.server(number), "permission denied")
        if number == 0:
            world.pool.health.judge(world.server(0), "check", "down", reason)
    assert world.server(0).verdict is None and health(world) == ["up", "up"]


def test_a_server_that_moves_begins_anew() -> None:
    world = World(2)
    keep_away(world, 0)
    world.pool.move(world.server(0), world.server(0).address.__class__("10.0.1.1", 80))
    assert world.server(0).kept_away == ""
