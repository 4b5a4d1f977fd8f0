"""The places of sessions that a replaced gpen ends count as our own do, wherever their server goes meanwhile."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpen.model.address import Address
from gpen.model.lease import Former, Lease, carry_on
from tests.model.world import World, endpoint


def test_they_count_for_max_and_for_the_listener() -> None:
    world = World(1)
    server = world.server(0)
    world.pool.configure(server, {"max": 3})
    former = Former(world.selector, server)
    former.become(2)
    assert (server.load, world.selector.load_of(world.member(0))) == (2, 2)
    lease = world.reserve()
    assert server.is_full
    former.become(1)
    assert not server.is_full
    former.become(0)
    lease.release()
    assert (server.sessions, world.selector.taken) == (0, {})


def test_counters_are_carried_on() -> None:
    server = World(1).server(0)
    carry_on(server, 5, 1, 100, 200)
    carry_on(server, 1, 0, 10, 20)
    assert (server.total, server.failures, server.sx, server.rx) == (6, 1, 110, 220)


steps = st.lists(st.one_of(st.tuples(st.just("move"), st.integers(0, 2)), st.tuples(st.just("empty"), st.just(0)),
                           st.tuples(st.just("count"), st.integers(0, 4))), max_size=12)


@given(steps)
def test_they_are_counted_as_leases_are(steps: list[tuple[str, int]]) -> None:
    """Beside a world where the same sessions are our own: all that a server and a listener count is the same there,
    as the server moves, is emptied and comes back, and sessions end. They never become more once it has moved."""
    ours, theirs = World(1), World(1)
    former = Former(theirs.selector, theirs.server(0))
    leases: list[Lease] = []
    has_moved = False
    for what, number in steps:
        if what == "count":
            wanted = min(number, len(leases)) if has_moved else number
            while len(leases) < wanted:
                leases.append(Lease(ours.selector, ours.member(0)))
            while len(leases) > wanted:
                leases.pop().release()
            former.become(wanted)
        else:
            has_moved = True
            address = Address("0.0.0.0", 0) if what == "empty" else Address(f"10.0.0.{number}", 80)
            for world in (ours, theirs):
                world.pool.move(world.server(0), address)
                if what == "move":
                    world.pool.resolved(world.server(0).target, [endpoint(f"10.0.0.{number}")])
        assert state(ours) == state(theirs)


def state(world: World) -> tuple[object, ...]:
    server = world.server(0)
    elsewhere = {str(address): stay.left for address, stay in server.elsewhere.items()}
    return server.sessions, server.load, server.beside, elsewhere, sorted(world.selector.taken.values())
