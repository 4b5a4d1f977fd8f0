"""Verdicts from outside: what they change, how they end, and how they stand beside the blacklist."""

from __future__ import annotations

from gpen.model.address import Address
from gpen.model.client import Client
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.settings import Settings
from tests.model.world import Clock, World, endpoint


def told(world: World, number: int = 0) -> list[tuple[str, str]]:
    """What happened to a server since it was added."""
    return [(event.event, event.cause) for event in world.pool.events if event.server == number][1:]


def blame(world: World, number: int = 0) -> None:
    """Let a connection to this server fail."""
    others = [server for server in world.pool.servers.values() if server.number != number]
    world.reserve(tried=others).fail("connection refused")


def test_down_and_up() -> None:
    world = World(2, roundrobin=True)
    server = world.server(0)
    assert server.verdict is None
    world.pool.judge(server, "command", False, "Donor/Desynced")
    assert world.numbers(3) == [1, 1, 1]
    assert server.health(world.clock()) == "down"
    assert world.pool.refusal(server, world.client("192.0.2.1"), world.clock()) == "down for 0 s: Donor/Desynced"
    world.pool.judge(server, "command", True, "Synced")
    assert sorted(world.numbers(2)) == [0, 1]
    assert told(world) == [("down", "Donor/Desynced"), ("up", "Synced")]


def test_a_renewal_is_no_event_and_takes_the_new_reason() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.judge(server, "command", False, "Joined")
    since = world.clock.now
    world.clock.now += 5
    world.pool.judge(server, "command", False, "Initialized")
    assert told(world) == [("down", "Joined")]
    assert server.condemned == "Initialized"
    source, verdict = server.verdict or ("", None)
    assert verdict is not None
    assert (source, verdict.since, verdict.renewed) == ("command", since, world.clock.now)


def test_the_worst_verdict_counts() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.judge(server, "check", True, "listens")
    world.pool.judge(server, "command", False, "read_only")
    assert (server.verdict or ("",))[0] == "command"
    world.pool.judge(server, "check", False, "connection refused")
    world.pool.judge(server, "command", True, "Synced")
    assert server.condemned == "connection refused"
    assert world.refused()
    world.pool.judge(server, "check", True, "listens")
    assert not world.refused()
    assert told(world) == [("down", "read_only"), ("up", "listens")]


def test_state_and_health_do_not_touch() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.set_state(server, "drain")
    world.pool.judge(server, "check", True, "listens")
    assert (server.state, world.refused()) == ("drain", True)
    world.pool.judge(server, "check", False, "silent")
    world.pool.set_state(server, "ready")
    assert (server.health(world.clock()), world.refused()) == ("down", True)


# --- beside the blacklist -------------------------------------------------------------------------------------------


def test_up_ends_a_blacklist() -> None:
    world = World(1)
    blame(world)
    assert world.refused()
    world.pool.judge(world.server(0), "check", True, "listens")
    assert not world.refused()
    assert told(world)[-1] == ("up", "listens")


def test_renewed_up_leaves_a_blacklist() -> None:
    world = World(1)
    world.pool.judge(world.server(0), "check", True, "listens")
    blame(world)
    world.pool.judge(world.server(0), "check", True, "listens")
    assert world.refused()
    world.clock.now += world.settings.blacklist
    world.reserve().connected()
    assert told(world)[-1] == ("up", "a connection succeeded")


def test_down_outlives_a_blacklist() -> None:
    world = World(1)
    blame(world)
    world.pool.judge(world.server(0), "check", False, "connection refused")
    world.clock.now += world.settings.blacklist
    assert world.refused()
    assert [event for event, _ in told(world)] == ["down"], "it was down all the time"


def test_a_late_connection_does_not_overrule_a_verdict() -> None:
    world = World(1)
    server = world.server(0)
    blame(world)
    world.clock.now += world.settings.blacklist
    trial = world.reserve()
    world.pool.judge(server, "check", False, "silent")
    trial.connected()
    assert (server.health(world.clock()), world.refused()) == ("down", True)
    assert [event for event, _ in told(world)] == ["down"]


# --- how they end ---------------------------------------------------------------------------------------------------


def test_ttl() -> None:
    world = World(1, health_ttl=10)
    server = world.server(0)
    world.pool.judge(server, "command", False, "Donor/Desynced")
    world.clock.now += 9.9
    world.pool.expire()
    assert world.refused()
    world.pool.judge(server, "command", False, "Donor/Desynced")
    world.clock.now += 9.9
    world.pool.expire()
    assert world.refused(), "it was renewed"
    world.clock.now += 0.1
    world.pool.expire()
    assert not world.refused()
    assert told(world) == [
        ("down", "Donor/Desynced"),
        ("expired", "the verdict down (Donor/Desynced) was not renewed for 10 s"),
        ("up", "no verdict says otherwise")]


def test_no_ttl_is_for_ever_and_checks_have_none() -> None:
    world = World(2)
    world.pool.judge(world.server(0), "command", False, "by a command")
    world.clock.now += 1e6
    world.pool.expire()
    world.settings.set("health_ttl", 1)
    world.pool.judge(world.server(1), "check", False, "silent")
    world.clock.now += 1e6
    world.pool.expire()
    assert (world.server(0).condemned, world.server(1).condemned) == ("", "silent")


def test_withdrawn() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.withdraw(server, "check", "unchecked", "is dropped")
    assert told(world) == []
    world.pool.judge(server, "check", False, "silent")
    world.pool.withdraw(server, "check", "unchecked", "is dropped")
    assert not world.refused()
    assert [event for event, _ in told(world)] == ["down", "unchecked", "up"]


def test_a_server_that_moves_leaves_its_verdicts_behind() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.judge(server, "check", False, "silent")
    world.pool.judge(server, "command", False, "Joined")
    world.pool.move(server, Address("10.0.0.9", 80))
    assert (server.verdict, server.condemned) == (None, "")


def test_who_is_told_that_a_server_is_down() -> None:
    world = World(2)
    condemned: list[Server] = []
    world.pool.on_condemned = condemned.append
    blame(world, 1)
    assert condemned == [], "a failed connect ends no sessions"
    for server in (world.server(0), world.server(1)):
        world.pool.judge(server, "command", False, "Joined")
        world.pool.judge(server, "check", False, "silent")
        world.pool.judge(server, "command", False, "still Joined")
    assert condemned == [world.server(0), world.server(1)]


def test_durations_come_from_the_clock_that_never_jumps() -> None:
    clock, wall, settings = Clock(), Clock(), Settings()
    pool = Pool(settings, clock, wall)
    server = pool.add(0, Address("10.0.0.1", 80))
    pool.resolved(server, [endpoint("10.0.0.1")])
    pool.judge(server, "check", False, "silent")
    clock.now += 6
    wall.now -= 86400
    assert pool.refusal(server, Client("192.0.2.1", 0), clock()) == "down for 6 s: silent"
    pool.judge(server, "check", False, "silent")
    assert (server.verdicts["check"].began, server.changed) == (1000.0, 1000.0)
