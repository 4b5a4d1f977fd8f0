"""The pool: who gets a place, who is tried next, and how a server comes back."""

from __future__ import annotations

import pytest

from gpen.model.address import Address
from gpen.model.client import Client
from gpen.model.server import Server
from tests.model.world import World, endpoint

CLIENTS = [f"192.0.2.{i}" for i in range(20)]


def down(world: World, *numbers: int) -> None:
    """Let a connection to each of these servers fail."""
    for number in numbers:
        others = [server for server in world.pool.servers.values() if server.number != number]
        world.reserve(tried=others).fail("connection refused")


def fill(world: World) -> None:
    """Let the last server have as many sessions as it may."""
    server = list(world.pool.servers.values())[-1]
    server.max = server.sessions = 1


def returning(server: Server, address: str = "192.0.2.1") -> Client:
    client = Client(address, 0)
    client.server = server
    return client


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_burst_gets_exactly_the_places() -> None:
    world = World(2)
    world.server(0).max, world.server(1).max = 5, 7
    leases = [world.selector.reserve(Client(f"192.0.2.{i}", i)) for i in range(40)]
    assert sum(lease is not None for lease in leases) == 12
    assert [server.sessions for server in world.pool.servers.values()] == [5, 7]


def test_hard_is_for_a_client_that_returns() -> None:
    world = World(1)
    server = world.server(0)
    server.max, server.hard = 1, 3
    world.reserve()
    assert world.refused("192.0.2.2"), "a new one"
    client = returning(server)
    world.reserve(client)
    world.reserve(client)
    assert world.refused(client), "hard is reached"
    assert server.sessions == 3


def test_hard_below_max_takes_nothing_away() -> None:
    world = World(1)
    world.server(0).max, world.server(0).hard = 2, 1
    client = returning(world.server(0))
    world.reserve(client)
    world.reserve(client)
    assert world.refused(client)


def test_0_is_no_limit() -> None:
    world = World(1)
    world.server(0).hard = 2
    world.numbers(100, keep=True)
    assert world.server(0).sessions == 100


def test_a_limit_below_what_runs_takes_no_more() -> None:
    world = World(1)
    leases = [world.reserve() for _ in range(3)]
    world.server(0).max = 2
    leases.pop().release()
    assert world.refused()
    leases.pop().release()
    world.reserve()


@pytest.mark.parametrize("name", ["emergency", "abuse"])
def test_the_special_servers_keep_their_limits(name: str) -> None:
    world = World(0)
    world.special(name, max=2)
    selector = world.selector
    reserve = selector.reserve_abuse if name == "abuse" else lambda: selector.reserve(Client("192.0.2.1", 0))
    assert [reserve() is not None for _ in range(4)] == [True, True, False, False]


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_is_given_back_once() -> None:
    world = World(1)
    lease = world.reserve()
    lease.release()
    with pytest.raises(RuntimeError):
        lease.release()
    with pytest.raises(RuntimeError):
        lease.fail("again")
    assert world.server(0).sessions == 0 and world.server(0).failures == 0


def test_counters() -> None:
    world = World(1)
    world.reserve().release()
    world.reserve().fail("connection refused")
    server = world.server(0)
    assert (server.sessions, server.total, server.failures) == (0, 2, 1)


# --- tracking -------------------------------------------------------------------------------------------------------


def test_a_client_goes_where_it_was() -> None:
    world = World(3)
    client = returning(world.server(2))
    assert [world.reserve(client).server.number for _ in range(3)] == [2, 2, 2]


def test_roundrobin_does_not_look() -> None:
    world = World(3, roundrobin=True)
    assert world.reserve(returning(world.server(2))).server.number == 0


def test_its_server_is_gone() -> None:
    for make_gone in (lambda world: world.pool.delete(2),
                      lambda world: world.pool.set_state(world.server(2), "drain"),
                      fill,
                      lambda world: world.pool.health.blacklist(world.server(2), 60)):
        world = World(3)
        client = returning(world.server(2))
        make_gone(world)
        assert world.reserve(client).server.number == 0


def test_prio_does_not_move_a_client_that_is_remembered() -> None:
    world = World(2, prio=True)
    world.configure(1, prio=5)
    assert world.reserve(returning(world.server(1))).server.number == 1


# --- failover ---------------------------------------------------------------------------------------------------------


def test_the_next_one_is_tried_and_each_once() -> None:
    world = World(3)
    tried: list[Server] = []
    while (lease := world.selector.reserve(Client("192.0.2.1", 0), 0, tried)) is not None:
        lease.fail("connection refused")
        tried.append(lease.server)
    assert [server.number for server in tried] == [0, 1, 2]


def test_a_failed_server_is_left_alone_for_the_blacklist_time() -> None:
    world = World(2, blacklist=30)
    down(world, 0)
    assert world.server(0).target.health(world.clock()) == "down"
    world.clock.now += 29.9
    assert world.numbers(2) == [1, 1]
    world.clock.now += 0.2
    assert world.server(0).target.health(world.clock()) == "trial"
    assert world.numbers(1) == [0]


def test_blacklist_0_tries_again_at_once() -> None:
    world = World(1, blacklist=0)
    down(world, 0)
    world.reserve().connected()
    assert world.server(0).target.health(world.clock()) == "up"


def test_the_emergency_server_is_the_last() -> None:
    world = World(2)
    emergency = world.special("emergency")
    assert world.numbers(2) == [0, 1]
    down(world, 0, 1)
    lease = world.reserve()
    assert lease.server is emergency
    assert world.refused(tried=[emergency]), "it is tried once"
    lease.fail("connection refused")
    assert world.reserve().server is emergency, "but never blacklisted"
    world.pool.health.blacklist(world.server(1), 0)
    assert world.reserve().server.number == 1


def test_the_abuse_server() -> None:
    world = World(1)
    assert world.selector.reserve_abuse() is None
    abuse = world.special("abuse")
    lease = world.selector.reserve_abuse()
    assert lease is not None and lease.server is abuse and abuse.sessions == 1
    lease.release()
    assert world.numbers(2) == [0, 0], "nobody else gets it"


def test_unset_special_servers() -> None:
    world = World(0)
    world.special("emergency")
    world.no_special("emergency")
    world.no_special("emergency")
    assert world.refused() and not world.pool.all_servers()


def test_a_special_server_that_is_set_again_goes_on() -> None:
    world = World(0)
    emergency = world.special("emergency", max=2)
    lease = world.reserve()
    assert world.special("emergency", weight=3) is emergency, "as when its line is read again at HUP"
    assert (emergency.sessions, emergency.max, emergency.weight) == (1, 0, 3)
    world.special("emergency", "10.9.9.8")
    assert world.pool.special["emergency"].sessions == 0
    lease.release()
    assert emergency.sessions == 0


def test_stubborn_does_not_fail_over() -> None:
    world = World(3, stubborn=True)
    world.special("emergency")
    lease = world.reserve()
    lease.fail("connection refused")
    assert world.refused(tried=[lease.server]), "neither to the next one nor to the emergency server"
    assert world.reserve().server.number == 1, "a new client is not concerned"
    assert world.refused(returning(world.server(0))), "the server that it used is down"


def test_a_full_server_has_its_turn_in_a_stubborn_pool() -> None:
    world = World(2, stubborn=True, roundrobin=True)
    world.server(0).max = 1
    assert turns_of(world, 8) == "01-1-1-1"
    world = World(3, stubborn=True, roundrobin=True)
    world.acl(3, "deny 192.0.2.0/24")
    world.server(1).acl = 3
    assert turns_of(world, 7) == "0-20-20", "so has one that denies the client"
    world.pool.health.blacklist(world.server(1), 60)
    assert turns_of(world, 4) == "2020", "but not one that is not there"


def turns_of(world: World, count: int) -> str:
    """Whom so many new clients get, who all stay; - where one is turned away."""
    leases = [world.selector.reserve(Client(f"192.0.2.{i}", i)) for i in range(count)]
    return "".join("-" if lease is None else lease.server.name for lease in leases)


@pytest.mark.parametrize("rule", ["prio", "weight"])
def test_a_stubborn_pool_does_not_pass_the_best_server_over(rule: str) -> None:
    world = World(3, stubborn=True, **{rule: True})
    world.special("emergency")
    world.configure(0, max=1, weight=5)
    world.configure(1, prio=1)
    world.configure(2, prio=1)
    expected = {"prio": "0----", "weight": "012--"}[rule]
    assert turns_of(world, 5) == expected, "as pen, if it did not miscount"


def test_stubborn_ties_go_round() -> None:
    world = World(3, stubborn=True, leastconn=True)
    world.acl(3, "deny 192.0.2.0/24")
    world.server(0).acl = 3
    assert turns_of(world, 3) == "-12"


def test_stubborn_with_hash() -> None:
    world = World(4, stubborn=True, hash=True)
    server = world.reserve("192.0.2.1").server
    world.pool.set_state(server, "drain")
    assert world.refused("192.0.2.1")


def test_access_lists_of_servers() -> None:
    world = World(2)
    world.acl(3, "permit 10.0.0.0/8")
    world.server(0).acl = 3
    assert world.numbers(0, clients=["192.0.2.1", "192.0.2.2"]) == [1, 1]
    assert set(world.numbers(0, clients=["10.0.0.1", "10.0.0.2"])) == {0, 1}


def test_a_server_without_an_address_is_not_chosen() -> None:
    world = World(2)
    world.pool.resolved(world.server(0).target, [])
    assert world.numbers(2) == [1, 1]


# --- when nobody else can serve ---------------------------------------------------------------------------------------


def test_what_failed_is_tried_again_before_a_client_is_turned_away() -> None:
    world = World(1, blacklist=30)
    down(world, 0)
    world.clock.now += 0.9
    assert world.refused()
    world.clock.now += 0.2
    trial = world.reserve()
    assert world.refused(), "one at a time"
    trial.fail("connection refused")
    assert world.refused(), "not at once again"
    world.clock.now += 1.1
    world.reserve().connected()
    assert world.server(0).target.health(world.clock()) == "up"
    assert len(world.numbers(3, keep=True)) == 3


def test_nobody_is_sent_to_a_blacklisted_server_while_another_can_serve() -> None:
    world = World(2, blacklist=30)
    down(world, 0)
    world.clock.now += 10
    assert world.numbers(3, keep=True) == [1, 1, 1]
    world.server(1).max = 3
    assert world.numbers(1, keep=True) == [0], "the other one is full"


def test_it_is_chosen_by_the_rule_and_before_the_emergency_server() -> None:
    world = World(3, prio=True)
    emergency = world.special("emergency")
    world.configure(0, prio=7)
    down(world, 0, 1, 2)
    assert world.reserve().server is emergency, "at once"
    world.clock.now += 1.1
    leases = [world.reserve() for _ in range(4)]
    assert [lease.server.number for lease in leases] == [1, 2, 0, None]
    leases[0].fail("timed out")
    assert world.reserve(tried=[leases[0].server]).server is emergency


def test_what_a_command_blacklisted_is_left_alone() -> None:
    world = World(1)
    early = world.reserve()
    world.pool.health.blacklist(world.server(0), 600)
    world.clock.now += 100
    assert world.refused()
    early.fail("connection refused")
    until = world.server(0).target.down_until
    assert until == world.clock.now + 500, "nor does a failure from before shorten its time"
    world.clock.now += 40
    assert world.refused()
    world.clock.now += 470
    world.reserve().fail("connection refused")
    assert world.refused()
    world.clock.now += 1.1
    world.reserve()


def test_other_refusals_hold() -> None:
    for forbid in (lambda world: world.pool.set_state(world.server(0), "drain"), fill,
                   lambda world: world.acl(0, "deny 192.0.2.1"),
                   lambda world: world.pool.health.judge(world.server(0), "check", "down", "silent"),
                   lambda world: world.settings.set("stubborn", True)):
        world = World(1)
        down(world, 0)
        world.clock.now += 10
        forbid(world)
        assert world.refused()


# --- slots that are empty ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("none", [Address("0.0.0.0", 80), Address("0.0.0.0", 0), Address("::", 80), Address("www", 0)])
@pytest.mark.parametrize("rule", ["", "prio", "weight", "leastconn", "random", "hash", "stubborn"])
def test_nobody_is_sent_to_an_empty_slot(rule: str, none: Address) -> None:
    world = World(3, **({rule: True} if rule else {}))
    client, lease = returning(world.server(1)), world.reserve(returning(world.server(1)))
    member = world.member(1)
    world.pool.health.judge(world.server(1), "check", "down", "silent")
    world.pool.move(world.server(1), none)
    world.pool.resolved(world.server(1).target, [endpoint("127.0.0.1")])
    assert 1 not in [*world.numbers(0, clients=CLIENTS), world.reserve(client).server.number]
    assert world.selector.refusal(member, client, world.clock()) == "its slot is empty"
    assert world.server(1).target.health(world.clock()) == "empty" and not world.server(1).target.is_down
    lease.release()
    world.pool.move(world.server(1), Address("10.0.0.9", 80))
    world.pool.resolved(world.server(1).target, [endpoint("10.0.0.9")])
    world.configure(0, prio=1)
    assert 1 in world.numbers(0, clients=CLIENTS)
    assert [event.event for event in world.pool.events][-2:] == ["emptied", "filled"]


def test_special_servers_without_a_place_take_nobody() -> None:
    world = World(0)
    for name in ("emergency", "abuse"):
        world.special(name, "0.0.0.0")
    assert world.refused() and world.selector.reserve_abuse() is None and not world.selector.has_room()


# --- trials -----------------------------------------------------------------------------------------------------------


def on_trial() -> World:
    """A world whose server 0 has just come off the blacklist."""
    world = World(2, blacklist=30)
    down(world, 0)
    assert world.numbers(1) == [1]
    world.clock.now += 31
    return world


def test_one_connection_decides_and_the_others_do_not_wait() -> None:
    world = on_trial()
    trial = world.reserve()
    assert trial.server.number == 0
    assert world.numbers(3, keep=True) == [1, 1, 1]
    trial.connected()
    assert world.server(0).target.health(world.clock()) == "up"
    assert 0 in world.numbers(2)


def test_a_lost_trial() -> None:
    world = on_trial()
    world.reserve().fail("timed out")
    assert world.numbers(2) == [1, 1]
    world.clock.now += 31
    assert world.reserve().server.number == 0
    assert [event.event for event in world.pool.events] == ["added", "added", "down"], "it has been down all along"


def test_a_trial_without_a_verdict() -> None:
    world = on_trial()
    world.reserve().release()
    assert world.server(0).target.trial is None
    assert world.reserve().server.number == 1, "round robin goes on"
    assert world.reserve().server.number == 0, "the next trial"


def test_a_long_session_does_not_stay_a_trial() -> None:
    world = on_trial()
    lease = world.reserve()
    lease.connected()
    down(world, 0)
    assert world.server(0).target.health(world.clock()) == "down"
    lease.release()
    assert world.server(0).sessions == 0


def test_only_the_trial_ends_a_blacklist() -> None:
    world = World(1)
    early = world.reserve()
    world.pool.health.blacklist(world.server(0), 60)
    early.connected()
    assert world.server(0).target.health(world.clock()) == "down", "a connection from before says nothing of it"


def test_the_operators_word_counts_more_than_a_trial() -> None:
    world = on_trial()
    trial = world.reserve()
    world.pool.health.blacklist(world.server(0), 60)
    trial.connected()
    assert world.server(0).target.health(world.clock()) == "down"
    world.pool.health.blacklist(world.server(0), 0)
    assert world.server(0).target.health(world.clock()) == "up"
    trial.release()


def test_a_check_never_undoes_what_the_operator_said() -> None:
    world = on_trial()
    trial = world.reserve()
    world.pool.set_state(world.server(0), "drain")
    trial.connected()
    assert world.server(0).state == "drain" and world.numbers(2) == [1, 1]


# --- looking and telling ---------------------------------------------------------------------------------------------


def test_choose_changes_nothing() -> None:
    for rule in ("", "prio", "weight", "leastconn", "hash", "roundrobin", "stubborn"):
        world = on_trial()
        world.special("emergency")
        if rule:
            world.settings.set(rule, True)
        client = Client("192.0.2.1", 0)
        before = world.state()
        chosen = [world.selector.choose(client, world.clock())[0] for _ in range(3)]
        assert before == world.state()
        assert [world.reserve(client).member] * 3 == chosen, "and it tells the truth"


@pytest.mark.parametrize(("change", "words"), [
    (lambda world: world.pool.set_state(world.server(0), "drain"), "drain"),
    (lambda world: down(world, 0), "blacklisted for 30 s more: connection refused"),
    (fill, "full: 1 sessions, max 1"),
    (lambda world: world.acl(0, "deny 192.0.2.1"), "access list 0 denies"),
    (lambda world: world.pool.resolved(world.server(0).target, []), "10.0.0.0:80 is not resolved"),
])
def test_a_refusal_says_why(change: object, words: str) -> None:
    world = World(1)
    client, member = Client("192.0.2.1", 0), world.member(0)
    assert world.selector.refusal(member, client, world.clock()) is None
    assert callable(change)
    change(world)
    assert words in str(world.selector.refusal(member, client, world.clock()))


def test_events() -> None:
    world = World(1)
    server = world.server(0)
    world.clock.now = 2000.0
    world.reserve().fail("connection refused")
    world.clock.now = 2031.0
    world.reserve().connected()
    world.pool.set_state(server, "drain")
    world.pool.set_state(server, "drain")
    world.pool.delete(0)
    told = [(event.time, event.server, event.event) for event in world.pool.events]
    assert told == [(1000.0, 0, "added"), (2000.0, 0, "down"), (2031.0, 0, "up"), (2031.0, 0, "drain"),
                    (2031.0, 0, "deleted")]
    assert list(world.pool.events)[1].cause == "connection refused; blacklisted for 30 s"


def test_a_deleted_server_ends_its_sessions_in_peace() -> None:
    world = World(2)
    lease = world.reserve()
    server = world.pool.delete(0)
    assert world.numbers(2) == [1, 1] and list(world.pool.servers) == [1]
    lease.fail("reset")
    assert server.sessions == 0
    again = world.add(0)
    assert again is not server and again.sessions == 0


def test_deleting_what_is_not_there() -> None:
    with pytest.raises(KeyError):
        World(1).pool.delete(5)
