"""Flows that get no reply where one is due: what is held against a server."""

from __future__ import annotations

from gpen.model.address import Address
from tests.model.world import World


def leave_unanswered(world: World, count: int = 1) -> None:
    """So many flows that get no reply."""
    for _ in range(count):
        lease = world.reserve()
        lease.unanswered()
        lease.release()


def test_so_many_in_a_row() -> None:
    world = World(1, udp_unanswered=3, blacklist=30)
    leave_unanswered(world, 2)
    assert not world.server(0).is_down
    leave_unanswered(world)
    assert (world.server(0).is_down, world.server(0).reason) == (True, "3 flows in a row unanswered")
    assert world.server(0).failures == 1


def test_never() -> None:
    world = World(1, udp_unanswered=0)
    leave_unanswered(world, 100)
    assert not world.server(0).is_down


def test_a_trial_decides_at_once() -> None:
    world = World(1, udp_unanswered=2, blacklist=30)
    leave_unanswered(world, 2)
    world.clock.now += 31
    lease = world.reserve()
    assert world.pool.reserve(world.client("192.0.2.2")) is None  # one at a time
    lease.unanswered()
    lease.release()
    assert world.server(0).failures == 2
    assert world.pool.reserve(world.client("192.0.2.1")) is None


def test_those_that_were_there_before_say_no_more() -> None:
    """They would prolong the blacklist for as long as there are some."""
    world = World(1, udp_unanswered=1, blacklist=30)
    leases = [world.reserve() for _ in range(3)]
    for lease in leases:
        lease.unanswered()
        lease.release()
        world.clock.now += 1
    assert world.server(0).failures == 1
    assert world.server(0).down_until == 1030


def test_a_server_that_has_moved_is_not_to_blame() -> None:
    world = World(1, udp_unanswered=1)
    lease = world.reserve()
    world.pool.move(world.server(0), Address("10.0.0.99", 80))
    lease.unanswered()
    assert (world.server(0).unanswered, world.server(0).failures) == (0, 0)
