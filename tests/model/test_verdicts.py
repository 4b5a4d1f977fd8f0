"""Verdicts from outside: what they change, how they end, and how they stand beside the blacklist."""

from __future__ import annotations

import pytest

from gpen.model.address import Address
from gpen.model.client import Client
from gpen.model.pool import Pool
from gpen.model.roster import Roster
from gpen.model.selector import Selector
from gpen.model.server import Member, Server
from gpen.model.settings import Settings
from tests.model.world import Clock, World, endpoint


def told(world: World, number: int = 0) -> list[tuple[str, str]]:
    """What happened to a server since it was added."""
    return [(event.event, event.cause) for event in world.pool.events if event.server == number][1:]


def blame(world: World, number: int = 0) -> None:
    """Let a connection to this server fail."""
    others = [server for server in world.pool.servers.values() if server.number != number]
    world.reserve(tried=others).fail("connection refused")


def refusal(world: World, server: Server) -> str | None:
    """Why it takes no client."""
    return world.selector.refusal(Member(server, server.target), world.client("192.0.2.1"), world.clock())


def test_down_and_up() -> None:
    world = World(2, roundrobin=True)
    server = world.server(0)
    assert server.verdict is None
    world.pool.health.judge(server, "command", "down", "Donor/Desynced")
    assert world.numbers(3) == [1, 1, 1]
    assert server.target.health(world.clock()) == "down"
    assert refusal(world, server) == "down for 0 s: Donor/Desynced"
    world.pool.health.judge(server, "command", "up", "Synced")
    assert sorted(world.numbers(2)) == [0, 1]
    assert told(world) == [("down", "Donor/Desynced"), ("up", "Synced")]


def test_a_renewal_is_no_event_and_takes_the_new_reason() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.health.judge(server, "command", "down", "Joined")
    since = world.clock.now
    world.clock.now += 5
    world.pool.health.judge(server, "command", "down", "Initialized")
    assert told(world) == [("down", "Joined")]
    assert server.condemned == "Initialized"
    source, verdict = server.verdict or ("", None)
    assert verdict is not None
    assert (source, verdict.since, verdict.renewed) == ("command", since, world.clock.now)


def test_the_worst_verdict_counts() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.health.judge(server, "check", "up", "listens")
    world.pool.health.judge(server, "command", "down", "read_only")
    assert (server.verdict or ("",))[0] == "command"
    world.pool.health.judge(server, "check", "down", "connection refused")
    world.pool.health.judge(server, "command", "up", "Synced")
    assert server.condemned == "connection refused"
    assert world.refused()
    world.pool.health.judge(server, "check", "up", "listens")
    assert not world.refused()
    assert told(world) == [("down", "read_only"), ("up", "listens")]


def test_a_server_that_drains_gets_no_clients() -> None:
    world = World(2, roundrobin=True)
    server = world.server(0)
    world.pool.health.judge(server, "command", "drain", "Donor/Desynced")
    assert world.numbers(3) == [1, 1, 1]
    assert server.target.health(world.clock()) == "drain"
    assert refusal(world, server) == "draining for 0 s: Donor/Desynced"
    assert not world.selector.has_substitute(world.member(1)), "nor those of another"
    world.pool.health.judge(world.server(1), "command", "drain", "Donor/Desynced")
    assert world.refused() and not world.selector.has_room()
    world.pool.health.judge(server, "command", "up", "Synced")
    assert world.numbers(2) == [0, 0]
    assert told(world) == [("drained", "Donor/Desynced"), ("up", "Synced")]


def test_a_client_who_is_remembered_goes_elsewhere_and_stays_there() -> None:
    world = World(2)
    client = world.client("192.0.2.1")
    client.server = world.server(0)
    world.pool.health.judge(world.server(0), "command", "drain", "Donor/Desynced")
    assert world.selector.choose(client, world.clock())[0] is world.member(1)


@pytest.mark.parametrize(("check", "command", "counts", "health"), [
    ("up", "drain", "command", "drain"), ("drain", "up", "check", "drain"), ("down", "drain", "check", "down"),
    ("drain", "down", "command", "down"), ("drain", "drain", "check", "drain")])
def test_down_is_worse_than_drain_and_that_than_up(check: str, command: str, counts: str, health: str) -> None:
    world = World(1)
    server = world.server(0)
    world.pool.health.judge(server, "check", check, "by a check")
    world.pool.health.judge(server, "command", command, "by a program")
    source, verdict = server.verdict or ("", None)
    assert verdict is not None and (source, server.target.health(world.clock())) == (counts, health)
    assert server.target.why(world.clock()) == verdict.reason
    world.pool.health.withdraw(server, counts, "withdrawn", "is withdrawn")
    assert server.target.health(world.clock()) == (command if counts == "check" else check)


def test_from_drain_to_down_and_back() -> None:
    world = World(1)
    asked: list[tuple[str, str]] = []
    world.pool.health.on_condemned = lambda server: asked.append((server.condemned, server.drained))
    for word in ("up", "drain", "drain", "down", "down", "drain", "up", "down"):
        world.pool.health.judge(world.server(0), "command", word, f"it is {word}")
    assert asked == [("", "it is drain"), ("it is down", ""), ("", "it is drain"), ("it is down", "")]
    assert [event for event, _ in told(world)] == ["drained", "down", "drained", "up", "down"]


def test_drain_grows_old() -> None:
    world = World(1, health_ttl=10)
    world.pool.health.judge(world.server(0), "command", "drain", "Donor/Desynced")
    world.clock.now += 10
    world.pool.health.expire()
    assert not world.refused()
    assert told(world)[1:] == [("expired", "the verdict drain (Donor/Desynced) was not renewed for 10 s"),
                               ("up", "no verdict says otherwise")]


def test_state_and_health_do_not_touch() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.set_state(server, "drain")
    world.pool.health.judge(server, "check", "up", "listens")
    assert (server.state, world.refused()) == ("drain", True)
    world.pool.health.judge(server, "check", "down", "silent")
    world.pool.set_state(server, "ready")
    assert (server.target.health(world.clock()), world.refused()) == ("down", True)


# --- beside the blacklist -------------------------------------------------------------------------------------------


def test_up_ends_a_blacklist() -> None:
    world = World(1)
    blame(world)
    assert world.refused()
    world.pool.health.judge(world.server(0), "check", "up", "listens")
    assert not world.refused()
    assert told(world)[-1] == ("up", "listens")


def test_renewed_up_leaves_a_blacklist() -> None:
    world = World(1)
    world.pool.health.judge(world.server(0), "check", "up", "listens")
    blame(world)
    world.pool.health.judge(world.server(0), "check", "up", "listens")
    assert world.refused()
    world.clock.now += world.settings.blacklist
    world.reserve().connected()
    assert told(world)[-1] == ("up", "a connection succeeded")


def test_down_outlives_a_blacklist() -> None:
    world = World(1)
    blame(world)
    world.pool.health.judge(world.server(0), "check", "down", "connection refused")
    world.clock.now += world.settings.blacklist
    assert world.refused()
    assert [event for event, _ in told(world)] == ["down"], "it was down all the time"


def test_a_server_that_drains_has_no_trial() -> None:
    world = World(1)
    server = world.server(0)
    blame(world)
    world.pool.health.judge(server, "command", "drain", "Donor/Desynced")
    assert (server.target.health(world.clock()), server.target.why(world.clock())) == ("down", "connection refused")
    world.clock.now += world.settings.blacklist
    assert (server.target.health(world.clock()), server.target.why(world.clock())) == ("drain", "Donor/Desynced")
    assert world.refused()
    world.pool.health.withdraw(server, "command", "withdrawn", "is withdrawn")
    assert server.target.health(world.clock()) == "trial" and not world.refused()
    assert told(world)[1:] == [
        ("judged", "drain: Donor/Desynced; stays blacklisted: connection refused"),
        ("withdrawn", "the verdict drain (Donor/Desynced) is withdrawn"),
        ("judged", "up: no verdict says otherwise; stays blacklisted: connection refused")]


def test_a_blacklist_that_ends_leaves_drain() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.health.judge(server, "command", "drain", "Donor/Desynced")
    world.pool.health.blacklist(server, 60)
    assert server.target.health(world.clock()) == "down"
    world.pool.health.blacklist(server, 0)
    assert (server.target.health(world.clock()), told(world)[-1]) == ("drain", ("drained", "Donor/Desynced"))


def test_a_late_connection_does_not_overrule_a_verdict() -> None:
    world = World(1)
    server = world.server(0)
    blame(world)
    world.clock.now += world.settings.blacklist
    trial = world.reserve()
    world.pool.health.judge(server, "check", "down", "silent")
    trial.connected()
    assert (server.target.health(world.clock()), world.refused()) == ("down", True)
    assert [event for event, _ in told(world)] == ["down"]


# --- how they end ---------------------------------------------------------------------------------------------------


def test_ttl() -> None:
    world = World(1, health_ttl=10)
    server = world.server(0)
    world.pool.health.judge(server, "command", "down", "Donor/Desynced")
    world.clock.now += 9.9
    world.pool.health.expire()
    assert world.refused()
    world.pool.health.judge(server, "command", "down", "Donor/Desynced")
    world.clock.now += 9.9
    world.pool.health.expire()
    assert world.refused(), "it was renewed"
    world.clock.now += 0.1
    world.pool.health.expire()
    assert not world.refused()
    assert told(world) == [
        ("down", "Donor/Desynced"),
        ("expired", "the verdict down (Donor/Desynced) was not renewed for 10 s"),
        ("up", "no verdict says otherwise")]


def test_no_ttl_is_for_ever_and_checks_have_none() -> None:
    world = World(2)
    world.pool.health.judge(world.server(0), "command", "down", "by a command")
    world.clock.now += 1e6
    world.pool.health.expire()
    world.settings.set("health_ttl", 1)
    world.pool.health.judge(world.server(1), "check", "down", "silent")
    world.clock.now += 1e6
    world.pool.health.expire()
    assert (world.server(0).condemned, world.server(1).condemned) == ("", "silent")


def test_withdrawn() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.health.withdraw(server, "check", "unchecked", "is dropped")
    assert told(world) == []
    world.pool.health.judge(server, "check", "down", "silent")
    world.pool.health.withdraw(server, "check", "unchecked", "is dropped")
    assert not world.refused()
    assert [event for event, _ in told(world)] == ["down", "unchecked", "up"]


def test_a_server_that_moves_leaves_its_verdicts_behind() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.health.judge(server, "check", "down", "silent")
    world.pool.health.judge(server, "command", "down", "Joined")
    world.pool.move(server, Address("10.0.0.9", 80))
    assert (server.verdict, server.condemned) == (None, "")


def test_who_is_told_that_a_server_is_down() -> None:
    world = World(2)
    condemned: list[Server] = []
    world.pool.health.on_condemned = condemned.append
    blame(world, 1)
    assert condemned == [], "a failed connect ends no sessions"
    for server in (world.server(0), world.server(1)):
        world.pool.health.judge(server, "command", "down", "Joined")
        world.pool.health.judge(server, "check", "down", "silent")
        world.pool.health.judge(server, "command", "down", "still Joined")
    assert condemned == [world.server(0), world.server(1)]


def test_durations_come_from_the_clock_that_never_jumps() -> None:
    clock, wall, settings = Clock(), Clock(), Settings()
    pool = Pool(settings, clock, wall)
    server = pool.add(0, Address("10.0.0.1", 80))
    pool.resolved(server.target, [endpoint("10.0.0.1")])
    selector, member = Selector(pool, settings, Roster(pool.transport)), Member(server, server.target)
    pool.health.judge(server, "check", "down", "silent")
    clock.now += 6
    wall.now -= 86400
    assert selector.refusal(member, Client("192.0.2.1", 0), clock()) == "down for 6 s: silent"
    pool.health.judge(server, "check", "down", "silent")
    assert (server.verdicts["check"].began, server.target.changed) == (1000.0, 1000.0)
