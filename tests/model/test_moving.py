"""A server whose name means other addresses: what was known of the old ones, and what stays."""

from __future__ import annotations

from gpen.model.address import Address, Endpoint
from gpen.model.pool import Pool
from gpen.model.server import Server
from tests.model.world import World, endpoint

A, B, C = (endpoint(f"10.1.0.{number}") for number in (1, 2, 3))


def named(*endpoints: Endpoint, **settings: object) -> tuple[World, Server]:
    """A world with one server at a name that means these endpoints."""
    world = World(0, blacklist=30, **settings)
    server = world.pool.add(0, Address("web.test", 80))
    world.pool.resolved(server.target, endpoints)
    return world, server


def events(pool: Pool) -> list[tuple[str, str]]:
    """What happened since the servers were added."""
    return [(event.event, event.cause) for event in pool.events if event.event != "added"]


def test_an_order_is_no_change() -> None:
    world, server = named(A, B)
    world.reserve().fail("refused")
    before, told = server.target.endpoints, events(world.pool)
    world.pool.resolved(server.target, [B, A])
    assert server.target.endpoints is before
    assert server.target.is_down
    assert events(world.pool) == told


def test_a_refusal_stays_with_the_old_address() -> None:
    world, server = named(A)
    world.reserve().fail("refused")
    world.pool.resolved(server.target, [B])
    assert (server.target.is_down, server.target.reason, server.failures) == (False, "", 1)
    assert events(world.pool)[-1] == ("moved", "from 10.1.0.1:80 to 10.1.0.2:80: 'web.test' was looked up again")
    assert world.reserve().server is server


def test_a_trial_at_the_old_address_decides_nothing() -> None:
    world, server = named(A)
    world.reserve().fail("refused")
    world.clock.now += 31
    trial = world.reserve()
    world.pool.resolved(server.target, [B])
    other = world.reserve("192.0.2.2")  # nothing is known of the new one, so nobody waits for the trial
    trial.fail("refused")
    assert not server.target.is_down
    other.fail("refused")
    assert server.target.is_down


def test_a_connect_that_was_under_way_is_not_held_against_the_new_address() -> None:
    world, server = named(A)
    lease = world.reserve()
    world.pool.resolved(server.target, [B])
    lease.fail("timed out")
    assert (server.target.is_down, server.failures) == (False, 0)


def test_nor_against_an_address_that_was_added() -> None:
    world, server = named(A)
    lease = world.reserve()
    world.pool.resolved(server.target, [A, B])
    lease.fail("timed out")
    assert not server.target.is_down


def test_but_against_one_that_was_tried_as_well() -> None:
    world, server = named(A, B)
    lease = world.reserve()
    world.pool.resolved(server.target, [B])
    lease.fail("timed out")
    assert server.target.is_down


def test_flows_of_the_old_address_count_no_more() -> None:
    world, server = named(A, udp_unanswered=2)
    old = [world.reserve() for _ in range(3)]
    silence = server.target.silence_at(A)
    old[0].unanswered(silence, 1000.0)
    assert server.target.unanswered == 1
    world.pool.resolved(server.target, [B])
    assert server.target.unanswered == 0
    for lease in old[1:]:
        lease.unanswered(silence, 1000.0)
    assert (server.target.unanswered, server.target.is_down) == (0, False)


def test_the_verdict_of_a_check_goes_and_that_of_a_command_stays() -> None:
    world, server = named(A)
    world.pool.health.judge(server, "check", "down", "refused")
    world.pool.health.judge(server, "command", "down", "Donor/Desynced")
    world.pool.resolved(server.target, [B])
    assert (list(server.verdicts), server.condemned) == (["command"], "Donor/Desynced")
    world.pool.health.judge(server, "command", "up", "Synced")
    assert not server.target.is_down


def test_what_the_operator_said_stays() -> None:
    world, server = named(A)
    world.pool.set_state(server, "drain")
    world.pool.health.blacklist(server, 100)
    world.pool.resolved(server.target, [B])
    assert (server.state, server.target.down_until, server.target.reason) == ("drain", 1100, "blacklisted by a command")


def test_the_address_in_use_is_preferred_as_long_as_it_is_there() -> None:
    world, server = named(A, B)
    world.pool.health.judge(server, "check", "up", "listens")
    world.pool.resolved(server.target, [C, A])
    assert server.target.endpoints == (A, C)
    assert list(server.verdicts) == ["check"], "it was passed on this address"
    assert events(world.pool)[-1] == (
        "resolved", "from 10.1.0.1:80, 10.1.0.2:80 to 10.1.0.1:80, 10.1.0.3:80: 'web.test' was looked up again")


def test_a_server_that_is_down_gets_an_address_more() -> None:
    """All it had have failed; the new one has not been tried."""
    world, server = named(A)
    world.reserve().fail("refused")
    world.pool.resolved(server.target, [A, B])
    assert not server.target.is_down


def test_a_server_that_is_down_gets_an_address_less() -> None:
    """Both have failed, and the one that is left is no better for it."""
    world, server = named(A, B)
    world.reserve().fail("refused")
    world.pool.resolved(server.target, [A])
    assert server.target.is_down


def test_sessions_go_on() -> None:
    world, server = named(A)
    lease = world.reserve()
    lease.connected()
    world.pool.resolved(server.target, [B])
    assert server.sessions == 1
    lease.release()
    assert server.sessions == 0


def test_a_move_by_command_leaves_nothing_behind() -> None:
    world, server = named(A, udp_unanswered=5)
    world.reserve().unanswered(server.target.silence_at(A), 1000.0)
    assert server.target.unanswered == 1
    world.pool.move(server, Address("other.test", 80))
    assert server.target.unanswered == 0


def test_who_is_told_that_a_server_is_not_well() -> None:
    world, server = named(A)
    told: list[Server] = []
    world.pool.health.on_unwell = told.append
    world.reserve().fail("refused")
    world.pool.health.judge(server, "command", "down", "Joined")
    world.pool.health.judge(server, "command", "down", "Joined")  # still
    world.pool.health.blacklist(server, 10)
    assert told == [server] * 4
    world.pool.health.judge(server, "command", "up", "Synced")
    world.pool.health.blacklist(server, 0)
    assert len(told) == 4
    emergency = world.special("emergency")
    world.pool.health.blame(emergency.target, "refused")
    assert told[4:] == [emergency]


def judged(ttl: float) -> World:
    world = World(2, health_ttl=ttl)
    for number in range(2):
        world.pool.health.judge(world.server(number), "command", "up", "synced")
    return world


def test_who_is_judged_from_outside_gets_nobody_at_a_new_address_before_that() -> None:
    """gpen-galera looks once an interval: until then a new place at the writer's number would take writes."""
    world = judged(5)
    server = world.server(0)
    world.pool.move(server, Address("10.0.0.9", 80))
    world.pool.resolved(server.target, [endpoint("10.0.0.9")])
    assert (server.target.health(world.clock.now), server.condemned) == (
        "down", "nobody has said yet how it is here")
    assert world.reserve().server is world.server(1)
    world.pool.health.judge(server, "command", "up", "synced")
    assert server.target.health(world.clock.now) == "up"


def test_a_judge_that_is_gone_keeps_nobody_waiting() -> None:
    world = judged(5)
    world.pool.move(world.server(0), Address("10.0.0.9", 80))
    world.clock.now += 5
    world.pool.health.expire()
    assert world.server(0).target.health(world.clock.now) == "up"


def test_a_verdict_for_good_is_of_the_old_address() -> None:
    """Without health_ttl nobody need ever say more: a server that moves is up."""
    world = judged(0)
    world.pool.move(world.server(0), Address("10.0.0.9", 80))
    assert world.server(0).target.health(world.clock.now) == "up"


def test_a_new_server_among_those_that_are_judged_waits_for_its_verdict() -> None:
    world = judged(5)
    new = world.pool.add(2, Address("10.0.0.2", 80), world.pool.is_judged())
    assert (new.target.health(world.clock.now), new.condemned) == ("down", "nobody has said yet how it is here")
    world.clock.now += 5
    for number in range(2):
        world.pool.health.judge(world.server(number), "command", "up", "synced")
    world.pool.health.expire()
    assert new.target.health(world.clock.now) == "up", "its judge has had the time"


def test_a_slot_that_is_filled_again_is_a_new_server() -> None:
    world = judged(5)
    world.pool.move(world.server(0), Address("0.0.0.0", 0))
    assert world.server(0).target.health(world.clock.now) == "empty"
    world.pool.move(world.server(0), Address("10.0.0.9", 80))
    assert world.server(0).target.health(world.clock.now) == "down"


def test_where_not_all_are_judged_a_new_server_is_used_at_once() -> None:
    world = World(2, health_ttl=5)
    world.pool.health.judge(world.server(0), "command", "up", "by a script that knows one")
    assert not world.pool.is_judged()
    assert not judged(0).pool.is_judged(), "verdicts are for good, and nobody need come again"
    assert not World(0, health_ttl=5).pool.is_judged()
