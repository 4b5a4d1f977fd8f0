"""Flows that get no reply where one is due: what is held against a server (model/silence.py has the rule)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpen.model.address import Address, Endpoint
from gpen.model.client import Client
from gpen.model.lease import Lease
from gpen.model.server import Server
from gpen.model.silence import Silence
from tests.model.world import World, endpoint


def silence_of(server: Server, at: Endpoint | None = None) -> Silence:
    return server.target.silence_at(at or server.target.endpoints[0])


def returning(server: Server) -> Client:
    """A client that was served there last."""
    client = World.client("192.0.2.1")
    client.server = server
    return client


def begin(world: World, number: int = 0) -> Lease:
    """A flow to this server."""
    lease = world.reserve(returning(world.server(number)))
    assert lease.server.number == number
    return lease


def end(world: World, lease: Lease, asked: float, at: Endpoint | None = None, patience: float = 0) -> bool:
    """It ends a second later without a reply."""
    world.clock.now += 1
    free = lease.unanswered(silence_of(lease.server, at), asked, patience)
    lease.release()
    return free


def leave_unanswered(world: World, count: int = 1, number: int = 0) -> None:
    """So many flows, one after the other, that get no reply."""
    for _ in range(count):
        world.clock.now += 1
        end(world, begin(world, number), world.clock.now)


def reply(world: World, number: int = 0) -> None:
    """Somebody has a reply from there."""
    world.clock.now += 1
    silence_of(world.server(number)).excused = world.clock.now


def up(world: World) -> str:
    """The numbers of the servers that are."""
    return "".join(server.name for server in world.pool.servers.values() if not server.target.is_down)


def silent_events(world: World) -> list[str]:
    return [event.cause for event in world.pool.events if event.event == "silent"]


# --- what counts -----------------------------------------------------------------------------------------------------


def test_so_many_in_a_row() -> None:
    world = World(2, udp_unanswered=3, blacklist=30)
    leave_unanswered(world, 2)
    assert (up(world), world.server(0).target.unanswered) == ("01", 2)
    leave_unanswered(world)
    assert (up(world), world.server(0).target.reason) == ("1", "3 flows in a row unanswered")
    assert world.server(0).failures == 1


def test_never() -> None:
    world = World(2, udp_unanswered=0)
    leave_unanswered(world, 100)
    assert up(world) == "01"


def test_a_reply_to_anybody_excuses_all_that_asked_before() -> None:
    """Eight that nobody would answer, in one pass of the janitor."""
    world = World(2, udp_unanswered=3)
    asked, leases = world.clock.now, [begin(world) for _ in range(8)]
    reply(world)
    for lease in leases:
        end(world, lease, asked)
    assert (up(world), world.server(0).target.unanswered) == ("01", 0)
    leave_unanswered(world, 3)
    assert up(world) == "1"


def test_a_reply_begins_the_row_anew() -> None:
    world = World(2, udp_unanswered=3)
    for _ in range(5):
        leave_unanswered(world, 2)
        reply(world)
    assert (up(world), world.server(0).failures) == ("01", 0)


def test_flows_that_made_room_count_once_in_so_many_seconds() -> None:
    """Each had but a second; the server had many."""
    world = World(2, udp_unanswered=3)

    def evict(count: int) -> None:
        for _ in range(count):
            end(world, begin(world), world.clock.now, patience=5)

    evict(14)
    assert (up(world), world.server(0).target.unanswered) == ("01", 2)
    reply(world)
    evict(14)
    assert (up(world), world.server(0).target.unanswered) == ("01", 2)
    evict(2)
    assert up(world) == "1"


def test_one_that_has_waited_long_before_it_made_room() -> None:
    world = World(2, udp_unanswered=3)
    asked, leases = world.clock.now, [begin(world) for _ in range(3)]
    world.clock.now += 5
    for lease in leases:
        end(world, lease, asked, patience=5)
    assert up(world) == "1"


def test_those_that_were_there_before_say_no_more() -> None:
    """They would prolong the blacklist for as long as there are some."""
    world = World(2, udp_unanswered=1, blacklist=30)
    leases = [begin(world) for _ in range(3)]
    for lease in leases:
        end(world, lease, 1000.0)
    assert (world.server(0).failures, world.server(0).target.down_until) == (1, 1031)


def test_a_server_that_has_moved_is_not_to_blame() -> None:
    world = World(2, udp_unanswered=1)
    lease, silence = begin(world), silence_of(world.server(0))
    world.pool.move(world.server(0), Address("10.0.0.99", 80))
    world.pool.resolved(world.server(0).target, [endpoint("10.0.0.99")])
    assert not lease.unanswered(silence, 1000.0)
    assert (world.server(0).target.unanswered, world.server(0).failures) == (0, 0)


# --- on trial --------------------------------------------------------------------------------------------------------


def test_a_trial_decides_at_once() -> None:
    world = World(2, udp_unanswered=2, blacklist=30)
    leave_unanswered(world, 2)
    world.clock.now += 31
    lease = begin(world)
    assert world.reserve(returning(world.server(0))).server is world.server(1), "one at a time"
    end(world, lease, world.clock.now)
    assert world.server(0).failures == 2
    assert world.reserve(returning(world.server(0))).server is world.server(1)


def test_who_replies_is_not_silent() -> None:
    """A flow that was there before."""
    world = World(2, udp_unanswered=1)
    old = begin(world)
    leave_unanswered(world)
    assert up(world) == "1"
    old.connected()
    assert up(world) == "01"


def test_but_may_be_down_for_another_reason() -> None:
    world = World(2, udp_unanswered=1)
    old, other = begin(world), begin(world)
    other.fail("refused")
    old.connected()
    assert up(world) == "1"


# --- the last one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emergency", [False, True])
def test_the_only_one_stays(emergency: bool) -> None:
    world = World(1, udp_unanswered=3, blacklist=30)
    if emergency:
        world.special("emergency")
    leave_unanswered(world, 100)
    assert (up(world), world.server(0).failures) == ("0", 0)
    assert silent_events(world)[0] == (
        "3 flows in a row unanswered; it stays, for no other server that answers can take its clients")
    assert len(silent_events(world)) == 1 + 200 // 30


def occupy(world: World, server: Server) -> None:
    server.max = 1
    world.reserve(returning(server))


def keep_clients_away(world: World, server: Server) -> None:
    world.acl(3, "permit 198.51.100.0/24")
    server.acl = 3


def put_on_trial(world: World, server: Server) -> None:
    world.pool.health.blame(server.target, "refused")
    server.target.down_until = 1000.0


def give_no_weight(world: World, server: Server) -> None:
    world.settings.set("leastconn", True)
    world.pool.configure(server, {"weight": 0})


ABSENT: dict[str, Callable[[World, Server], object]] = {
    "verdict": lambda world, server: world.pool.health.judge(server, "check", "down", "tests"),
    "refused": lambda world, server: world.pool.health.blame(server.target, "refused"),
    "trial": put_on_trial,
    "command": lambda world, server: world.pool.health.blacklist(server, 600),
    "drain": lambda world, server: world.pool.set_state(server, "drain"),
    "maint": lambda world, server: world.pool.set_state(server, "maint"),
    "full": occupy, "acl": keep_clients_away, "weight": give_no_weight,
    "empty": lambda world, server: world.pool.move(server, Address("0.0.0.0", 0)),
    "unresolved": lambda world, server: world.pool.move(server, Address("web.test", 80)),
    "deleted": lambda world, server: world.pool.delete(1),
}


@pytest.mark.parametrize("why", ABSENT)
def test_the_last_that_can_serve_stays(why: str) -> None:
    world = World(2, udp_unanswered=3)
    ABSENT[why](world, world.server(1))
    leave_unanswered(world, 10)
    assert "0" in up(world)


@pytest.mark.parametrize("why", ABSENT)
def test_one_that_was_silent_serves_as_soon_as_it_is_the_last(why: str) -> None:
    """All clients, also while one has its trial: that one may be who sends garbage."""
    world = World(2, udp_unanswered=3)
    leave_unanswered(world, 3)
    assert up(world) == "1"
    ABSENT[why](world, world.server(1))
    given = [world.reserve(f"192.0.2.{n}").server.name for n in range(4)]
    assert given[why == "trial":] == ["0"] * (4 - (why == "trial"))


def test_but_behind_the_emergency_server() -> None:
    """One at a time, a second after it failed, as another that failed."""
    world = World(2, udp_unanswered=3)
    world.special("emergency", max=2)
    leave_unanswered(world, 3)
    world.pool.set_state(world.server(1), "drain")
    world.clock.now += 1
    assert [world.reserve(f"192.0.2.{n}").server.name for n in range(5)] == ["0", "emergency", "emergency", "0", "0"]


@pytest.mark.parametrize(("settings", "stays"), [
    ({}, True), ({"hash": True, "roundrobin": True}, True), ({"roundrobin": True}, False)])
def test_a_stubborn_pool_has_nobody_else(settings: dict[str, bool], stays: bool) -> None:
    """For clients that go nowhere else."""
    world = World(2, udp_unanswered=3, stubborn=True, **settings)
    leases = [Lease(world.selector, world.member(0)) for _ in range(3)]
    for lease in leases:
        end(world, lease, 1000.0)
    assert up(world) == ("01" if stays else "1")


def test_nobody_is_blacklisted_while_nobody_answers() -> None:
    """Garbage by turns, while nobody else asks."""
    world = World(2, udp_unanswered=3)
    for _ in range(50):
        leave_unanswered(world, 1, 0)
        leave_unanswered(world, 1, 1)
    assert up(world) == "01"


def test_the_one_that_hangs_is_found_as_soon_as_the_other_answers() -> None:
    world = World(2, udp_unanswered=3)
    for _ in range(5):
        leave_unanswered(world, 1, 0)
        leave_unanswered(world, 1, 1)
    for _ in range(3):
        leave_unanswered(world, 1, 0)
        reply(world, 1)
    assert up(world) == "1"


def test_the_wrong_one_was_blacklisted() -> None:
    """Nobody had asked the other, which hangs: then each has its turn, and the first answers."""
    world = World(2, udp_unanswered=3, blacklist=600)
    leave_unanswered(world, 3, 0)
    assert up(world) == "1"
    leave_unanswered(world, 3, 1)
    assert up(world) == "01"
    for _ in range(3):
        leave_unanswered(world, 1, 1)
        reply(world, 0)
    assert up(world) == "0"


def test_one_pass_of_the_janitor_turns_nobody_round_and_round() -> None:
    world = World(2, udp_unanswered=3)
    world.settings.set("roundrobin", True)
    leases = [world.reserve() for _ in range(400)]
    leases.sort(key=lambda lease: lease.server.number or 0)
    for _ in range(200):
        leases.append(leases.pop(0))
    before = len(world.pool.events)
    for lease in leases:
        end(world, lease, 1000.0)
    assert up(world) != ""
    assert len(world.pool.events) - before <= 3


def test_a_client_is_free_to_leave_one_that_stays() -> None:
    world = World(1, udp_unanswered=3)
    assert [end(world, begin(world), world.clock.now) for _ in range(3)] == [False, False, True]


def test_the_emergency_server_is_tried_always() -> None:
    world = World(0, udp_unanswered=3)
    emergency = world.special("emergency")
    for _ in range(9):
        world.clock.now += 1
        end(world, world.reserve(), world.clock.now)
    assert (emergency.failures, world.reserve().server) == (3, emergency)


# --- several addresses -----------------------------------------------------------------------------------------------

A, B, C = (endpoint(f"10.1.0.{number}") for number in (1, 2, 3))


def test_the_next_address_first() -> None:
    world = World(2, udp_unanswered=2)
    server = world.server(0)
    world.pool.resolved(server.target, [A, B, C])
    for used in (A, B, C):
        assert (server.target.endpoints[0], up(world)) == (used, "01")
        leave_unanswered(world, 2)
    assert (up(world), server.target.reason) == ("1", "6 flows in a row unanswered")
    assert server.target.endpoints[0] is not C


def test_the_only_server_goes_round_its_addresses() -> None:
    world = World(1, udp_unanswered=2)
    server = world.server(0)
    world.pool.resolved(server.target, [A, B])
    used = []
    for _ in range(4):
        used.append(server.target.endpoints[0])
        leave_unanswered(world, 2)
    assert (used, up(world)) == ([A, B, A, B], "0")


def test_flows_of_the_address_before_count_for_that() -> None:
    """All of them end in one pass."""
    world = World(2, udp_unanswered=2)
    server = world.server(0)
    world.pool.resolved(server.target, [A, B])
    leases = [begin(world) for _ in range(9)]
    for lease in leases:
        end(world, lease, 1000.0, A)
    assert (server.target.endpoints[0], server.target.unanswered, up(world)) == (B, 0, "01")
