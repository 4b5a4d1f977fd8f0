"""Two balancers and keepalived: what is meant to move the address, and what must not."""

from __future__ import annotations

import pytest

from tests.contrib.balancers import SERVERS, VIP, VIP6, Pair, failures
from tests.contrib.failovers import EVENTS, what_became
from tests.harness import needs_root, wait_until

pytestmark = needs_root

WELL = "two balancers that are well"


def test_a_planned_move_costs_no_connection(pair: Pair) -> None:
    """There, and again from the other; and what moved away stays away, even when it is told that it may come back."""
    for _ in range(2):
        left = pair.active
        assert failures(what_became(pair, EVENTS["planned move"]).attempts) == []
        done = left.move_away()
        assert done.returncode == 0 and done.stdout.startswith(f"not here: {VIP} {VIP6};")
        done = left.move_back()
        assert done.returncode == 0 and "stays where it is" in done.stdout
        assert pair.standby is left


def test_who_is_told_to_move_where_nobody_would_serve_stays(pair: Pair) -> None:
    active, standby = pair.active, pair.standby
    standby.pool("down")
    wait_until(lambda: "Changing effective priority from 250 to 230" in standby.log.read_text())
    done = active.move_away("-t", "2")
    assert done.returncode == 1 and "still here after 2 s, and stays" in done.stderr
    assert active.moved.read_text() == "0\n"
    assert active.has() and pair.ask() in SERVERS
    standby.pool("up")
    wait_until(pair.is_well, 20, WELL)


def test_sessions_of_clients_that_are_gone_leave_their_places(pair: Pair) -> None:
    """The address has moved: what an old client says goes to the other balancer, which knows nothing of it."""
    left = pair.active
    with pair.connect() as sock:
        wait_until(lambda: left.gpen.json("sessions"))
        done = left.move_away()
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"moved away: {VIP} {VIP6};")
        assert not left.has() and not left.has(VIP6)
        wait_until(lambda: not left.gpen.json("sessions"), what="the end of the session that is gone")
        wait_until(lambda: left.gpen.log.endswith(" killed\n"))
        sock.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            while sock.recv(100):
                pass
    assert pair.active.gpen.json("sessions") == []
    left.move_back()
    wait_until(pair.is_well, 20, WELL)


def test_it_follows_the_servers(pair: Pair) -> None:
    """None left at the active balancer: the other gets the address. None at both: it stays where it is, and clients are
    told at once. One again at the first: it goes there."""
    first, second = pair.active, pair.standby
    first.pool("down")
    wait_until(second.has)
    assert pair.active is second and pair.ask() in SERVERS
    states = [balancer.states for balancer in (first, second)]
    second.pool("down")
    wait_until(lambda: second.log.read_text().count("from 250 to 230") > 0 and pair.ask() == "END")
    with pair.probing() as results:
        wait_until(lambda: second.gpen.json("info")["endings"].get("no-server", 0) > 300)
        attempts = results()
    assert {attempt.outcome for attempt in attempts} == {"END"}
    assert max(attempt.seconds for attempt in attempts) < 1
    assert [balancer.states for balancer in (first, second)] == states
    first.pool("up")
    wait_until(first.has)
    assert pair.active is first and pair.ask() in SERVERS
    second.pool("up")
    wait_until(pair.is_well, 20, WELL)
    assert pair.active is first
