"""Several listeners over one pool: what each has of its own, and what is all of theirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gpen.model.address import Address, Endpoint, ServerSpec
from gpen.model.client import Client
from gpen.model.lease import Lease
from gpen.model.listener import Scope, memory_of
from gpen.model.roster import Roster
from gpen.model.selector import Selector, special_name
from gpen.model.server import TCP, UDP, Member, Target
from gpen.model.settings import Settings
from tests.model.world import World, endpoint

RULES = ["", "leastconn", "random"]  # those that have turns


def place(selector: Selector, client: Client | str = "192.0.2.1") -> Lease:
    """A place that this listener gives; the test fails where there is none."""
    lease = selector.reserve(World.client(client))
    assert lease is not None, "no server could take the client"
    return lease


def refuses(selector: Selector) -> bool:
    return selector.reserve(World.client("192.0.2.1")) is None


def numbers(selector: Selector, count: int, keep: bool = False) -> list[int | None]:
    """The numbers of the servers that so many clients get; unless ``keep``, each has left when the next comes."""
    chosen = []
    for i in range(count):
        lease = place(selector, f"192.0.2.{i}")
        chosen.append(lease.server.number)
        if not keep:
            lease.release()
    return chosen


def different(world: World, differences: Mapping[int, Mapping[str, Any]], **settings: object) -> Selector:
    """Another listener, for which this is different of some servers."""
    return world.another(Roster(TCP, None, differences), **settings)


def change(world: World, selector: Selector, differences: Mapping[int, Mapping[str, Any]],
           used: tuple[int, ...] | None = None, transport: str = TCP) -> None:
    """Something else is different for this listener from now on."""
    selector.roster.change(transport, used, differences)
    world.pool.use(selector.roster)
    world.resolve()


def member(selector: Selector, number: int) -> Member:
    return selector.roster.members[[member.number for member in selector.roster.members].index(number)]


def refusal(world: World, selector: Selector, number: int) -> str | None:
    return selector.refusal(member(selector, number), World.client("192.0.2.1"), world.clock())


# --- turns ------------------------------------------------------------------------------------------------------------


def test_the_turn_is_each_ones_own() -> None:
    world = World(3)
    other = world.another(world.selector.roster)
    assert numbers(world.selector, 2) == [0, 1]
    assert numbers(other, 4) == [0, 1, 2, 0]
    assert numbers(world.selector, 2) == [2, 0]


def test_shares_are_each_ones_own() -> None:
    world = World(3, leastconn=True)
    other = world.another(world.selector.roster, leastconn=True)
    assert numbers(world.selector, 2) == [0, 1]
    assert numbers(other, 4) == [0, 1, 2, 0]
    assert numbers(world.selector, 2) == [2, 0]


def test_leastconn_looks_at_all_sessions_of_a_server() -> None:
    """Where it has few, be they whose they may, a client is served best."""
    world = World(3, leastconn=True)
    other = world.another(world.selector.roster, leastconn=True)
    assert numbers(other, 2, keep=True) == [0, 1]
    assert numbers(world.selector, 1, keep=True) == [2]


def test_the_rule_is_each_ones_own() -> None:
    world = World(2, prio=True)
    other = world.another(world.selector.roster)
    world.configure(0, prio=1)
    assert numbers(world.selector, 2) == [1, 1]
    assert (numbers(other, 2), other.rule.name) == ([0, 1], "round robin")


@pytest.mark.parametrize("rule", ["", "leastconn"])
def test_listeners_that_share_a_memory_share_the_turn(rule: str) -> None:
    world = World(3, **({rule: True} if rule else {}))
    first = Scope("", world.settings, world.selector)
    second = Scope("other", world.settings, world.another(world.selector.roster))
    second.selector.settings = world.settings
    own = second.clients
    assert first.clients is not own
    second.share_memory(first)
    assert first.clients is second.clients
    assert [numbers(scope.selector, 1)[0] for scope in (first, second) * 3] == [0, 1, 2, 0, 1, 2]
    second.share_memory(second)
    assert second.clients is own
    assert numbers(second.selector, 2) == [0, 1], "its own turn goes on where it was"
    assert numbers(first.selector, 1) == [0]


def test_who_follows_a_listener_follows_whom_that_follows() -> None:
    settings = {name: Settings() for name in ("", "a", "b")}
    settings["a"].replace("tracking_with", "-")
    settings["b"].replace("tracking_with", "a")
    assert [memory_of(name, settings) for name in settings] == ["", "", ""]
    settings[""].replace("tracking_with", "b")
    with pytest.raises(ValueError, match="leads in a circle, a to - to b to a: one of them needs"):
        memory_of("a", settings)
    settings[""].replace("tracking_with", "c")
    with pytest.raises(ValueError, match="there is no listener 'c'"):
        memory_of("b", settings)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_its_own_max_counts_its_own_sessions() -> None:
    world = World(1)
    other = different(world, {0: {"max": 2}})
    numbers(world.selector, 5, keep=True)
    assert numbers(other, 2, keep=True) == [0, 0]
    assert refuses(other)
    assert refusal(world, other, 0) == "full for this listener: 2 sessions, max 2"
    assert numbers(world.selector, 1, keep=True) == [0], "nobody else is concerned"
    assert (other.load_of(member(other, 0)), world.server(0).sessions) == (2, 8)


def test_a_place_that_is_given_back_can_be_had_again() -> None:
    world = World(1)
    other = different(world, {0: {"max": 1}})
    theirs = place(world.selector)
    lease = place(other)
    theirs.release()
    assert refuses(other), "that was not one of its own"
    lease.release()
    place(other).fail("connection refused")
    world.pool.health.blacklist(world.server(0), 0)
    place(other)
    assert refuses(other)


def test_a_max_of_its_own_counts_those_that_were_there_before_it() -> None:
    world = World(1)
    other = different(world, {})
    leases = [place(other) for _ in range(3)]
    change(world, other, {0: {"max": 3}})
    assert refuses(other)
    change(world, other, {0: {"max": 4}})
    place(other)
    assert refuses(other)
    leases[0].release()
    change(world, other, {0: {"max": 3}})
    assert refuses(other)
    change(world, other, {})
    assert not refuses(other), "none is no limit"


def test_its_own_max_counts_those_where_the_server_is_now() -> None:
    world = World(1)
    other, server = different(world, {0: {"max": 2}}), world.server(0)
    old = server.address
    leases = numbers(other, 2, keep=True)
    world.pool.move(server, Address("10.0.0.9", 80))
    world.resolve()
    new = [place(other), place(other)]
    assert refuses(other) and leases == [0, 0]
    new[0].release()
    world.pool.move(server, old)
    world.resolve()
    assert refuses(other), "those that stayed there count again"
    assert other.load_of(member(other, 0)) == 2
    new[1].release()
    assert refuses(other), "one elsewhere is none of them"


def test_max_counts_over_all() -> None:
    world = World(1)
    world.configure(0, max=3)
    other = different(world, {0: {"max": 2}})
    assert numbers(world.selector, 2, keep=True) == [0, 0]
    lease = place(other)
    assert refuses(other) and refuses(world.selector)
    assert refusal(world, other, 0) == "full: 3 sessions, max 3"
    lease.release()
    place(world.selector)
    assert refuses(other), "the place is gone"


def test_hard_is_beyond_the_servers_max_and_not_beyond_its_own() -> None:
    world = World(1)
    world.configure(0, max=1, hard=5)
    other = different(world, {0: {"max": 2}})
    client = World.client("192.0.2.1")
    client.server = world.server(0)
    assert [other.reserve(client) is not None for _ in range(3)] == [True, True, False]
    third = different(world, {0: {"prio": 1}})
    assert [third.reserve(client) is not None for _ in range(4)] == [True, True, True, False], "without one of its own"


@pytest.mark.parametrize("rule", RULES)
def test_who_is_full_here_is_passed_over_here(rule: str) -> None:
    world = World(3, **({rule: True} if rule else {}))
    other = different(world, {1: {"max": 1}}, **({rule: True} if rule else {}))
    assert Counter(numbers(other, 9, keep=True))[1] == 1
    assert Counter(numbers(world.selector, 30, keep=True))[1] > 1


def test_room_and_crowds_are_each_ones_own() -> None:
    world = World(1)
    other = different(world, {0: {"max": 1}})
    place(other)
    assert (other.has_room(), other.is_crowded()) == (False, True)
    assert (world.selector.has_room(), world.selector.is_crowded()) == (True, False)


# --- weight, prio, port -----------------------------------------------------------------------------------------------


def test_a_weight_of_its_own() -> None:
    world = World(2, leastconn=True)
    other = different(world, {0: {"weight": 3}}, leastconn=True)
    assert Counter(numbers(other, 40)) == {0: 30, 1: 10}
    assert Counter(numbers(world.selector, 40)) == {0: 20, 1: 20}
    world.configure(0, weight=0)
    assert Counter(numbers(other, 40)) == {0: 30, 1: 10}
    assert set(numbers(world.selector, 4)) == {1}
    change(world, other, {0: {"weight": 0}})
    world.configure(0, weight=1)
    assert set(numbers(other, 4)) == {1}
    change(world, other, {})
    assert abs(Counter(numbers(other, 40))[0] - 20) <= 1, "the server's own again; a turn was begun"
    world.configure(1, weight=3)
    assert abs(Counter(numbers(other, 40))[0] - 10) <= 1, "as it is changed"


def test_a_prio_of_its_own() -> None:
    world = World(2, prio=True)
    other = different(world, {0: {"prio": 5}}, prio=True)
    assert (numbers(other, 1), numbers(world.selector, 1)) == ([1], [0])
    world.configure(1, prio=7)
    assert numbers(other, 1) == [0]
    change(world, other, {1: {"prio": 0}})
    assert (numbers(other, 1), member(other, 1).prio) == ([0], 0), "of equals the first"
    world.configure(0, prio=8)
    assert (numbers(other, 1), numbers(world.selector, 1)) == ([1], [1])
    change(world, other, {})
    assert [member(other, number).prio for number in (0, 1)] == [8, 7]


def test_a_port_of_its_own() -> None:
    world = World(1)
    other, server = different(world, {0: {"port": 443}}), world.server(0)
    assert place(other).target.endpoints == (endpoint("10.0.0.0", 443),)
    assert place(world.selector).target.endpoints == (endpoint("10.0.0.0", 80),)
    assert (member(other, 0).target.name, server.target.name) == ("0 (tcp port 443)", "0")
    world.pool.move(server, Address("10.0.0.0", 443))
    assert member(other, 0).target is server.target, "the server's own"
    change(world, other, {})
    world.pool.move(server, Address("10.0.0.0", 80))
    world.resolve()
    assert member(other, 0).target is server.target
    assert list(server.targets) == [(TCP, None)], "nobody reaches it otherwise"


def test_a_unix_socket_has_no_port() -> None:
    world = World(0)
    other = different(world, {0: {"port": 443}})
    server = world.pool.add(0, Address(path="/run/server"))
    assert member(other, 0).target is server.target


# --- some servers only ------------------------------------------------------------------------------------------------


def test_some_servers_only() -> None:
    world = World(4)
    other = world.another(Roster(TCP, [1, 3, 5]))
    assert numbers(other, 4) == [1, 3, 1, 3]
    assert world.refused(tried=list(world.pool.servers.values())), "and none beside"
    world.add(4)
    world.add(5)
    assert numbers(other, 3) == [5, 1, 3]
    world.pool.delete(3)
    assert numbers(other, 3) == [5, 1, 5]
    world.add(3)
    assert numbers(other, 3) == [1, 3, 5]
    world.pool.move(world.server(5), Address("0.0.0.0", 0))
    assert numbers(other, 3) == [1, 3, 1]
    change(world, other, {}, used=(0, 5))
    assert numbers(other, 2) == [0, 0]
    change(world, other, {}, used=())
    assert refuses(other) and not other.has_room()
    assert set(numbers(world.selector, 5)) == {0, 1, 2, 3, 4}


def test_a_client_who_is_remembered_at_a_server_of_others() -> None:
    world = World(3)
    client = World.client("192.0.2.1")
    client.server = world.server(2)
    for settings in ({}, {"stubborn": True}):
        other = world.another(Roster(TCP, [0, 1]), **settings)
        assert place(other, client).server.number == 0
    assert place(world.selector, client).server.number == 2


def test_a_server_that_comes_again_is_no_substitute_for_itself() -> None:
    world = World(2)
    other = world.another(Roster(TCP, [1]), udp_unanswered=1)
    lease = place(other)
    change(world, other, {}, used=(0,))
    change(world, other, {}, used=(1,))
    assert lease.member is not member(other, 1) and not other.has_substitute(lease.member)
    change(world, other, {}, used=(0, 1))
    assert other.has_substitute(lease.member)


def test_a_roster_that_nobody_uses_has_no_servers() -> None:
    world = World(2)
    roster = Roster(TCP)
    other = world.another(roster)
    world.pool.dismiss(roster)
    world.pool.delete(1)
    world.configure(0, weight=5)
    assert refuses(other)
    world.pool.use(roster)
    assert [(its.number, its.weight) for its in roster.members] == [(0, 5)]


# --- what is found, and what is said ----------------------------------------------------------------------------------

ELSEWHERE: dict[str, tuple[str, dict[int, dict[str, int]]]] = {
    "transport": (UDP, {}), "port": (TCP, {0: {"port": 81}}), "both": (UDP, {0: {"port": 81}})}


def reaching(world: World, way: str) -> Selector:
    """Another listener, that reaches the servers otherwise."""
    transport, differences = ELSEWHERE[way]
    return world.another(Roster(transport, None, differences))


@pytest.mark.parametrize("way", ELSEWHERE)
def test_a_failed_connect_says_something_of_one_way_only(way: str) -> None:
    world = World(1, blacklist=30)
    other = reaching(world, way)
    place(world.selector).fail("connection refused")
    assert refuses(world.selector) and not refuses(other)
    assert [target.is_down for target in world.server(0).targets.values()] == [True, False]
    place(other).fail("connection refused")
    assert refuses(other)
    world.clock.now += 31
    place(other).connected()
    assert [target.is_down for target in world.server(0).targets.values()] == [True, False], "nor does a trial there"
    assert world.server(0).failures == 2, "but failures are the server's"


def test_a_failed_connect_is_of_all_that_go_the_same_way() -> None:
    world = World(1)
    other = different(world, {0: {"max": 5}})
    place(other).fail("connection refused")
    assert refuses(other) and refuses(world.selector)


@pytest.mark.parametrize("way", ELSEWHERE)
@pytest.mark.parametrize("word", ["down", "drain"])
def test_a_verdict_is_of_the_server(way: str, word: str) -> None:
    world = World(1)
    other = reaching(world, way)
    world.pool.health.judge(world.server(0), "check", word, "silent")
    assert refuses(world.selector) and refuses(other)
    world.pool.health.judge(world.server(0), "check", "up", "answers")
    assert not refuses(world.selector) and not refuses(other)


@pytest.mark.parametrize("way", ELSEWHERE)
def test_a_check_that_turns_to_up_says_nothing_of_other_ways(way: str) -> None:
    """What answers TCP may refuse UDP."""
    world = World(1)
    other = reaching(world, way)
    place(world.selector).fail("connection refused")
    place(other).fail("connection refused")
    world.pool.health.judge(world.server(0), "check", "up", "answers")
    assert not refuses(world.selector) and refuses(other)
    world.pool.health.judge(world.server(0), "command", "up", "Synced")
    assert not refuses(other), "a command means the server"


@pytest.mark.parametrize("way", ELSEWHERE)
def test_an_operators_word_is_of_the_server(way: str) -> None:
    world = World(1)
    other = reaching(world, way)
    world.pool.set_state(world.server(0), "drain")
    assert refuses(world.selector) and refuses(other)
    world.pool.set_state(world.server(0), "ready")
    world.pool.health.blacklist(world.server(0), 60)
    assert refuses(world.selector) and refuses(other)
    world.clock.now += 59
    assert refuses(world.selector) and refuses(other)
    world.pool.health.blacklist(world.server(0), 0)
    assert not refuses(world.selector) and not refuses(other)


@pytest.mark.parametrize("way", ELSEWHERE)
def test_a_listener_that_comes_later_heeds_what_was_said_before(way: str) -> None:
    world = World(1)
    world.pool.health.blacklist(world.server(0), 60)
    other = reaching(world, way)
    assert refuses(other)
    assert refusal(world, other, 0) == "blacklisted for 60 s more: blacklisted by a command"
    world.clock.now += 60
    place(other).connected()
    assert not member(other, 0).target.is_down
    assert world.server(0).target.blamed == math.inf, "each way has a trial of its own"


def test_what_connects_found_is_not_told_to_a_listener_that_comes_later() -> None:
    world = World(1)
    place(world.selector).fail("connection refused")
    assert not refuses(reaching(world, "transport"))


def test_silence_is_held_against_one_way_only() -> None:
    world = World(2, udp_unanswered=1)
    other = reaching(world, "both")
    lease = place(world.selector)
    world.clock.now += 1
    lease.unanswered(lease.target.silence_at(lease.target.endpoints[0]), world.clock.now)
    assert (lease.target.is_silent, member(other, 0).target.is_silent) == (True, False)
    assert not refusal(world, other, 0)


def test_each_way_is_told() -> None:
    world = World(1, blacklist=30)
    other = reaching(world, "both")
    place(world.selector).fail("connection refused")
    place(other).fail("connection refused")
    told = [event.cause for event in world.pool.events][1:]
    assert told == ["connection refused; blacklisted for 30 s",
                    "connection refused; blacklisted for 30 s (udp port 81)"]


def itself(port: int) -> Callable[[Target, Endpoint], bool]:
    """gpen listens at this port."""
    return lambda target, found: found.port == port


def test_where_gpen_itself_listens_is_no_place_for_one_way() -> None:
    world = World(1)
    other = reaching(world, "port")
    world.pool.is_ourselves = itself(81)
    world.pool.resolved(member(other, 0).target, [endpoint("10.0.0.0", 81)])
    assert refuses(other) and not refuses(world.selector)
    assert "is not resolved" in str(refusal(world, other, 0))


def test_a_name_that_means_gpen_itself_takes_the_server_down_however_it_is_reached() -> None:
    """Whichever way is looked at first."""
    for order in (1, -1):
        world = World(1)
        other = reaching(world, "port")
        world.pool.is_ourselves = itself(80)
        for target in list(world.server(0).targets.values())[::order]:
            world.pool.resolved(target, [endpoint("10.0.0.9", 80 if target.port is None else 81)])
        assert world.server(0).condemned == "its name means gpen itself, 10.0.0.9:80"
        assert refuses(world.selector) and refuses(other)


# --- emergency and abuse ----------------------------------------------------------------------------------------------


def set_special(world: World, selector: Selector, name: str, host: str | None) -> None:
    """As ``listener NAME emergency HOST`` does."""
    spec = None if host is None else ServerSpec(Address(host, 80), {"max": 1})
    selector.settings.replace(name, spec)
    world.pool.set_special(special_name(selector.listener, name), spec)
    selector.arrange_special()
    world.resolve()


def test_an_emergency_server_of_its_own() -> None:
    world = World(0)
    other = world.another(Roster(TCP))
    set_special(world, world.selector, "emergency", "10.9.0.1")
    assert refuses(other)
    set_special(world, other, "emergency", "10.9.0.2")
    assert place(other).server is world.pool.special["other/emergency"]
    assert refuses(other) and place(world.selector).server is world.pool.special["emergency"]
    assert [server.name for server in world.pool.all_servers()] == ["emergency", "other/emergency"]
    set_special(world, other, "emergency", None)
    assert refuses(other) and list(world.pool.special) == ["emergency"]


def test_an_emergency_server_that_is_shared() -> None:
    world = World(0)
    other = world.another(Roster(UDP))
    set_special(world, world.selector, "emergency", "10.9.0.1")
    other.settings.replace("emergency", world.settings.emergency)
    other.arrange_special()
    world.resolve()
    lease = place(other)
    assert lease.server is world.pool.special["emergency"] and lease.target.transport == UDP
    assert refuses(other) and refuses(world.selector), "its max counts over all"


def test_an_abuse_server_of_its_own() -> None:
    world = World(1)
    other = world.another(Roster(TCP))
    set_special(world, other, "abuse", "10.9.0.2")
    assert world.selector.reserve_abuse() is None
    lease = other.reserve_abuse()
    assert lease is not None and lease.server.name == "other/abuse"
    assert other.reserve_abuse() is None
    lease.release()
    assert other.reserve_abuse() is not None


def test_emergency_only_for_whom_nobody_else_is_left() -> None:
    world = World(2)
    other = world.another(Roster(TCP, [1]))
    for selector in (world.selector, other):
        set_special(world, selector, "emergency", "10.9.0.1")
    world.pool.set_state(world.server(1), "drain")
    assert place(other).server.is_special
    assert place(world.selector).server.number == 0


# --- what nobody uses -------------------------------------------------------------------------------------------------


def test_ways_that_nobody_goes_are_forgotten() -> None:
    world = World(2)
    other, another = (world.another(Roster(UDP, None, {0: {"port": 53}})) for _ in range(2))
    ways = [list(world.server(number).targets) for number in (0, 1)]
    assert ways == [[(TCP, None), (UDP, 53)], [(TCP, None), (UDP, None)]]
    place(other).fail("connection refused")
    change(world, other, {}, transport=TCP)
    world.pool.forget_unused()
    assert [list(world.server(number).targets) for number in (0, 1)] == ways, "there is yet one who goes there"
    world.pool.dismiss(another.roster)
    world.pool.forget_unused()
    assert [list(world.server(number).targets) for number in (0, 1)] == [[(TCP, None)]] * 2
    change(world, other, {0: {"port": 53}}, transport=UDP)
    assert not refusal(world, other, 0), "nothing is known of a way that is new"


def test_a_session_may_end_where_nobody_goes_any_more() -> None:
    world = World(1)
    other = reaching(world, "both")
    leases = [place(other), place(other)]
    change(world, other, {})
    world.pool.forget_unused()
    leases[0].release()
    leases[1].fail("connection reset")
    assert (world.server(0).sessions, world.server(0).failures, other.taken) == (0, 1, {})
    assert not refuses(other)


def test_where_the_first_listener_is_of_udp() -> None:
    """The transport by which servers are told where no listener is named."""
    world = World(1)
    world.pool.reach_over(UDP)
    world.resolve()
    assert world.server(0).target.transport == UDP
    assert place(world.selector).target.transport == TCP, "a listener of TCP reaches it as before"
    assert world.server(0).target.name == "0" and member(world.selector, 0).target.name == "0 (tcp)"


def test_servers_that_come_later_are_reached_in_all_ways() -> None:
    world = World(0, blacklist=30)
    others = [reaching(world, way) for way in ELSEWHERE]
    world.add(0)
    world.resolve()
    assert [str(place(selector).target.address) for selector in others] == [
        "10.0.0.0:80", "10.0.0.0:81", "10.0.0.0:81"]
    assert len(world.server(0).targets) == 4


def test_own_settings_decide_for_each_listener() -> None:
    world = World(2, stubborn=True)
    other = world.another(world.selector.roster)
    lease = world.reserve()
    assert world.refused(tried=[lease.server])
    assert other.reserve(World.client("192.0.2.1"), 0, [lease.server]) is not None
    assert isinstance(other.settings, Settings) and other.settings is not world.settings
