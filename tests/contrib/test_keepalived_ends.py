"""Two balancers and keepalived: what becomes of the address when one of the keepalived ends, or does not hear of the
other; and that nothing does where gpen alone is another."""

from __future__ import annotations

from tests.contrib.balancers import SERVERS, Balancer, Pair, failures, longest_gap
from tests.contrib.failovers import EVENTS, sessions, what_became
from tests.harness import needs_root, wait_until

pytestmark = needs_root

QUICKLY = 1.2  # seconds in which new connections are served again


def test_its_keepalived_ends(pair: Pair) -> None:
    """It says that it goes, as at a reboot: who comes when it has gone is served."""
    outcome = what_became(pair, EVENTS["keepalived ended"])
    assert longest_gap(outcome.attempts) <= QUICKLY and outcome.failed_later == []


def test_its_gpen_is_replaced(pair: Pair) -> None:
    """By a new version, say: nobody is the wiser, and the address stays."""
    active = pair.active
    states = [balancer.states for balancer in pair.balancers]
    with pair.probing() as results:
        begun = sessions(active)
        active.replace_gpen()
        wait_until(lambda: sessions(active) > begun + 150, what="clients at the new gpen")
        assert failures(results()) == []
    assert [balancer.states for balancer in pair.balancers] == states


def test_its_keepalived_is_killed(pair: Pair) -> None:
    """Nobody takes the address away: it is at both, and clients are served by the one that has told the network last.
    A keepalived that is started again clears that up."""
    killed, other = pair.active, pair.standby
    with pair.probing() as results:
        before = sessions(other)
        killed.kill_keepalived()
        wait_until(lambda: sessions(other) > before + 50, what="clients at the other balancer")
        assert killed.has() and other.has()
        killed.start_keepalived()
        wait_until(lambda: not killed.has())
        attempts = results()
    assert longest_gap(attempts) <= QUICKLY
    wait_until(pair.is_well, 20, "two balancers that are well")
    assert pair.active is other


def test_they_do_not_hear_of_each_other(pair: Pair) -> None:
    """Each takes the other for dead, and both have the address; then one of them gives it up."""
    machines = [balancer.machine for balancer in pair.balancers]
    pair.switch.part(*machines)
    wait_until(lambda: all(balancer.has() for balancer in pair.balancers))
    assert pair.ask() in SERVERS
    pair.switch.join(*machines)
    wait_until(pair.is_well, 20, "two balancers that are well")
    assert pair.active is pair.balancers[1], "the one with the lower address has not given it up"


def is_served_by(pair: Pair, balancer: Balancer) -> bool:
    """Whether the network takes a new client there."""
    before = sessions(balancer)
    return pair.ask() in SERVERS and sessions(balancer) > before


def test_the_one_that_keeps_it_tells_the_network_again(pair: Pair) -> None:
    """When both had it, and the one that took it last gives it up: clients must not go on to send there."""
    gives_up, keeps = pair.balancers
    if pair.active is gives_up:
        assert gives_up.move_away().returncode == gives_up.move_back().returncode == 0
    machines = [balancer.machine for balancer in pair.balancers]
    for _ in range(3):  # it is by chance who hears of the other first
        pair.switch.part(*machines)
        wait_until(lambda: is_served_by(pair, gives_up))
        pair.switch.join(*machines)
        wait_until(lambda: not gives_up.has())
        with pair.connect(seconds=QUICKLY + 1) as sock:  # the kernel sends the next SYN after a second
            assert sock.recv(100).decode() in SERVERS
        wait_until(pair.is_well, 20, "two balancers that are well")
    assert pair.active is keeps
