"""Who is the writer: alone, and agreed among several watchers that share a table; no sockets, the clock is turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpen.galera.election import MOMENT, PATIENCE, Agreed, Alone, Scene
from gpen.galera.report import Choice
from gpen.galera.writer import CUT_OFF, STEADY, Reach, Writer, draining, withdrawn

A, B, C = NODES = "10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306"
INDEXES = {A: 2, B: 0, C: 1}
HANDOVER = 0.5


def scene(*candidates: str, **more: Any) -> Scene:
    return Scene(order=[*candidates, *(node for node in NODES if node not in candidates)], candidates=candidates,
                 **({"present": NODES} | more))


# --- alone -----------------------------------------------------------------------------------------------------------


def test_the_order_is_the_operators_then_by_local_index() -> None:
    assert Writer().order(INDEXES, NODES) == [B, C, A]
    assert Writer([A]).order(INDEXES, NODES) == [A, B, C]
    assert Writer([A]).order(INDEXES, [C]) == [C, A, B]  # who can't be used comes last


def test_the_writer_stays_as_long_as_it_can() -> None:
    alone = Alone(Writer([A]))
    alone.settle(scene(B, C), 100)
    assert alone.current == B
    alone.settle(scene(A, B, C), 200)
    assert alone.current == B
    alone.settle(scene(A, C), 300)
    assert alone.current == A
    alone.settle(scene(), 400)  # nobody is better than nothing
    assert alone.current == A
    assert alone.ranks(scene(C)) == [A, C, B]


def test_what_the_gpens_use_is_taken_over() -> None:
    alone = Alone(Writer())
    alone.take_over(C)
    alone.settle(scene(A, B, C), 100)
    assert alone.current == C


def test_failback_waits_until_the_preferred_is_steady() -> None:
    alone = Alone(Writer([A], failback=True))
    alone.settle(scene(B, C), 100)
    alone.settle(scene(A, B, C), 101)
    alone.settle(scene(B, C), 102)
    alone.settle(scene(A, B, C), 103)
    alone.settle(scene(A, B, C), 103 + STEADY - 0.1)
    assert alone.current == B
    alone.settle(scene(A, B, C), 103 + STEADY)
    assert alone.current == A


def test_a_move_of_the_operator_is_not_undone_by_failback() -> None:
    alone = Alone(Writer([A], failback=True))
    alone.settle(scene(A, B), 100)
    alone.move(B, scene(A, B), 100)
    for now in (101, 102 + STEADY, 200):
        alone.settle(scene(A, B), now)
    assert alone.current == B


def row(node: str, health: str = "up", verdict: str = "up", state: str = "ready") -> dict[str, Any]:
    host, _, port = node.rpartition(":")
    return {"number": NODES.index(node), "address": host, "port": int(port), "health": health, "verdict": verdict,
            "state": state}


def test_a_node_that_a_gpen_does_not_reach_is_noticed() -> None:
    reach = Reach()
    reach.saw("gpen", [row(A, "down"), row(B)], 100)
    assert reach.cut_off(100 + CUT_OFF - 0.1) == set()
    reach.saw("gpen", [row(A, "trial"), row(B)], 102)
    assert reach.cut_off(100 + CUT_OFF) == {A}
    reach.saw("gpen", [row(A), row(B)], 104)
    assert reach.cut_off(200) == set()


def test_a_gpen_that_reaches_nobody_says_nothing_of_a_node() -> None:
    reach = Reach()
    reach.saw("gpen", [row(A, "down"), row(B, "down")], 100)
    reach.saw("gpen", [row(A, "down", verdict="down"), row(B)], 101)
    assert reach.cut_off(200) == set()


def test_what_the_operator_took_away() -> None:
    rows = [row(A, state="drain"), row(B, state="maint"), row(C)]
    assert withdrawn(rows) == {A, B} and draining(rows) == {A}


# --- agreed ----------------------------------------------------------------------------------------------------------


def agreed(*preferred: str) -> Agreed:
    return Agreed(Writer(preferred), HANDOVER)


def test_the_first_choice_is_what_is_in_use() -> None:
    one = agreed(A)
    one.take_over(C)
    one.settle(scene(A, B, C, blank=True), 100)
    assert one.proposal == Choice(1, C, (C, A, B)) and one.current is None
    one.settle(scene(A, B, C, choices=[Choice(1, C)]), 101)
    assert one.current == C and one.proposal is None and one.opens_at <= 101


def test_nothing_is_proposed_before_the_table_was_read() -> None:
    one = agreed()
    one.settle(scene(A, B, C), 100)
    assert one.proposal is None


def test_who_does_not_hear_from_most_nodes_proposes_nothing() -> None:
    one = agreed()
    one.settle(scene(A, B, C, choices=[Choice(1, A)]), 100)
    one.settle(scene(B, choices=[Choice(1, A)], quorate=False), 101)
    assert one.proposal is None and one.current == A
    one.settle(scene(B, choices=[Choice(1, A)]), 102)
    assert one.proposal == Choice(2, B, (B, A, C))


def test_a_new_writer_is_used_when_all_have_seen_it() -> None:
    one = agreed()
    one.settle(scene(A, B, choices=[Choice(1, A)]), 100)
    one.settle(scene(A, B, choices=[Choice(1, A), Choice(2, B)]), 200)
    assert one.current == B and one.opens_at == 200 + HANDOVER


def test_a_new_writer_is_used_at_once_when_the_old_one_has_left_the_cluster() -> None:
    one = agreed()
    one.settle(scene(A, B, choices=[Choice(1, A)]), 100)
    one.settle(scene(B, choices=[Choice(2, B)], present=[B, C]), 200)
    assert one.opens_at <= 200
    one.settle(scene(A, B, C, choices=[Choice(3, C)]), 300)
    assert one.opens_at == 300 + HANDOVER
    one.settle(scene(A, C, choices=[Choice(3, C)], present=[A, C]), 300.1)
    assert one.opens_at == 300.1


def test_a_proposal_without_an_outcome_is_made_again() -> None:
    one = agreed()
    old = [Choice(1, A)]
    one.settle(scene(A, B, C, choices=old), 100)
    one.settle(scene(B, C, choices=old), 101)
    first = one.proposal
    one.settle(scene(B, C, choices=old), 101 + PATIENCE - 1)
    assert first is not None and one.proposal is first
    one.settle(scene(C, choices=old), 105)  # whom it was to be written through has gone
    assert one.proposal == Choice(2, C, (C, A, B))
    second = one.proposal
    assert second is not None
    one.outcome(second, 106)
    one.settle(scene(C, choices=old), 106 + MOMENT / 2)
    assert one.proposal is second
    one.settle(scene(C, choices=old), 106 + MOMENT)
    assert one.proposal == second and one.proposal is not second


def test_a_table_that_was_emptied_gets_the_writer_of_now() -> None:
    one = agreed(A)
    one.settle(scene(A, B, choices=[Choice(5, B)]), 100)
    one.settle(scene(A, B, blank=True), 101)
    assert one.proposal == Choice(1, B, (B, A, C))


class Table:
    """What Galera does for several watchers: of the proposals for a version, the first one counts."""

    def __init__(self) -> None:
        self.choice: Choice | None = None

    def write(self, proposal: Choice) -> None:
        if proposal.version == (self.choice.version if self.choice else 0) + 1:
            self.choice = proposal

    def seen(self) -> dict[str, Any]:
        return {"choices": [self.choice] if self.choice else [], "blank": self.choice is None}


def uses(one: Agreed, now: float) -> str | None:
    """The node that this watcher's gpens use."""
    return one.current if now >= one.opens_at else None


STEP = 0.25  # seconds: each watcher looks that often
SOME = st.sets(st.sampled_from(NODES))
EVENTS = st.lists(st.tuples(SOME, SOME, SOME, st.booleans(), st.booleans()), max_size=30)


@given(EVENTS)
def test_two_watchers_never_use_two_nodes(events: Sequence[tuple[set[str], set[str], set[str], bool, bool]]) -> None:
    """Whatever they think of the nodes, in whatever order they look and write, and whoever leaves the cluster (for two
    looks at least: to come back takes a node longer)."""
    table, watchers, now, left = Table(), [agreed(A), agreed(C)], 100.0, set[str]()
    for first, second, gone, swapped, hears in [*events, *[(set(NODES), set(NODES), set(), False, True)] * 8]:
        order = list(zip(watchers, (first, second), strict=True))
        present = set(NODES) - gone - left
        for position, (one, candidates) in enumerate(reversed(order) if swapped else order):
            moment = now + position * STEP / 2
            one.settle(scene(*sorted(candidates & present), quorate=hears or one is watchers[0], present=present,
                             **table.seen()), moment)
            assert len({uses(other, moment) for other in watchers} & present) <= 1
            if one.proposal is not None:
                table.write(one.proposal)
                one.outcome(one.proposal, moment)
        now, left = now + STEP, gone
    assert table.choice is not None
    assert {uses(one, now) for one in watchers} == {table.choice.writer}
