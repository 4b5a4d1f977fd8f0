"""Who is the writer: alone, and agreed among several watchers that share a table; no sockets, the clock is turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.galera.agree import FOUNDING, LEAP, MOMENT, PATIENCE, REST, YIELD, Agreed
from gpen.galera.election import SingleWatcher, Situation
from gpen.galera.identity import Identity
from gpen.galera.report import Choice, Claim
from gpen.galera.writer import CUT_OFF, NEWS, STEADY, Reachability, Writer, common, draining, withdrawn

A, B, C = NODES = "10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306"
INDEXES = {A: 2, B: 0, C: 1}
HANDOVER = 0.5


def scene(*candidates: str, **more: Any) -> Situation:
    order = [*candidates, *(node for node in NODES if node not in candidates)]
    return Situation(**({"order": order, "candidates": candidates, "present": NODES} | more))


# --- alone -----------------------------------------------------------------------------------------------------------


def test_the_order_is_the_operators_then_by_local_index() -> None:
    assert Writer().order(INDEXES, NODES) == [B, C, A]
    assert Writer([A]).order(INDEXES, NODES) == [A, B, C]
    assert Writer([A]).order(INDEXES, [C]) == [C, A, B]  # who can't be used comes last


def test_the_writer_stays_as_long_as_it_can() -> None:
    alone = SingleWatcher(Writer([A]))
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
    alone = SingleWatcher(Writer())
    alone.take_over(C)
    alone.settle(scene(A, B, C), 100)
    assert alone.current == C


def test_failback_waits_until_the_preferred_is_steady() -> None:
    alone = SingleWatcher(Writer([A], failback=True))
    alone.settle(scene(B, C), 100)
    alone.settle(scene(A, B, C), 101)
    alone.settle(scene(B, C), 102)
    alone.settle(scene(A, B, C), 103)
    alone.settle(scene(A, B, C), 103 + STEADY - 0.1)
    assert alone.current == B
    alone.settle(scene(A, B, C), 103 + STEADY)
    assert alone.current == A


def test_a_move_of_the_operator_is_not_undone_by_failback() -> None:
    alone = SingleWatcher(Writer([A], failback=True))
    alone.settle(scene(A, B), 100)
    alone.move(B)
    for now in (101, 102 + STEADY, 200):
        alone.settle(scene(A, B), now)
    assert alone.current == B


def test_a_writer_that_cant_be_seen_is_left_by_the_operator_alone() -> None:
    alone = SingleWatcher(Writer([A], failback=True))
    alone.take_over(B)
    for now in (100, 101 + STEADY, 200):
        alone.settle(scene(A, C, blind=[B]), now)
    assert alone.current == B
    alone.move(C)
    alone.settle(scene(A, C, blind=[B]), 201)
    assert alone.current == C
    alone.settle(scene(blind=[B]), 202)
    alone.settle(scene(A, blind=[B]), 203)  # C has failed: who can't be seen is not chosen
    assert alone.current == A


def row(node: str, health: str = "up", verdict: str = "up", state: str = "ready") -> dict[str, Any]:
    host, _, port = node.rpartition(":")
    return {"number": NODES.index(node), "address": host, "port": int(port), "health": health, "verdict": verdict,
            "state": state}


def test_a_node_that_a_gpen_does_not_reach_is_noticed() -> None:
    reach = Reachability()
    reach.saw("gpen", [row(A, "down"), row(B)], 100)
    assert reach.cut_off(100 + CUT_OFF - 0.1) == set()
    reach.saw("gpen", [row(A, "trial"), row(B)], 100 + CUT_OFF)
    assert reach.cut_off(100 + CUT_OFF) == {A}
    reach.saw("gpen", [row(A), row(B)], 104)
    assert reach.cut_off(104) == set()


def test_what_a_gpen_said_before_it_died_grows_old() -> None:
    """And it did not fail for longer than it said so."""
    reach = Reachability()
    reach.saw("gpen", [row(A, "down"), row(B)], 100)
    assert reach.cut_off(100 + CUT_OFF) == set()
    reach.saw("gpen", [row(A, "down"), row(B)], 110)
    assert reach.cut_off(110 + NEWS - 0.1) == {A}
    assert reach.cut_off(110 + NEWS) == set()


def test_a_gpen_that_reaches_no_other_either_is_cut_off_itself() -> None:
    reach = Reachability()

    def fails_at(node: str, now: float, received: int) -> set[str]:
        """What is found when a gpen has not reached the writer of now for as long as it takes."""
        for moment in (now, now + CUT_OFF):
            rows = [row(each, "down", "up" if each == node else "down") | {"rx": received} for each in NODES]
            reach.saw("gpen", rows, moment)
        return reach.cut_off(now + CUT_OFF)

    assert fails_at(A, 100, 10) == {A}
    assert fails_at(B, 110, 10) == set()
    assert fails_at(A, 120, 10) == {A}  # should anything else have it the writer again
    assert fails_at(B, 130, 11) == {B}


def test_a_node_that_is_full_is_reached() -> None:
    reach = Reachability()
    for now in (100, 100 + CUT_OFF):
        full = row(A, "down") | {"reason": "greeted with error 1040: Too many connections"}
        reach.saw("gpen", [full, row(B, "down", verdict="down")], now)
    assert reach.cut_off(100 + CUT_OFF) == set()


def test_the_writer_is_one_that_all_gpens_have() -> None:
    assert common([[row(A), row(B)], [row(B), row(C)]]) == {B}
    assert common([]) == set()


def test_a_gpen_that_reaches_nobody_says_nothing_of_a_node() -> None:
    reach = Reachability()
    reach.saw("gpen", [row(A, "down"), row(B, "down")], 100)
    reach.saw("gpen", [row(A, "down", verdict="down"), row(B)], 101)
    assert reach.cut_off(200) == set()


def test_the_agreed_writer_may_be_out_of_a_gpens_reach() -> None:
    """There the others have no good verdict, and can't be compared."""
    reach = Reachability()
    for now in (100, 100 + CUT_OFF):
        reach.saw("gpen", [row(A, "down"), row(B, "down", verdict="down")], now)
    assert reach.cut_off(100 + CUT_OFF) == {A}


def test_what_the_operator_took_away() -> None:
    rows = [row(A, state="drain"), row(B, state="maint"), row(C)]
    assert withdrawn(rows) == {A, B} and draining(rows) == {A}


# --- agreed ----------------------------------------------------------------------------------------------------------


def agreed(*preferred: str, me: str = "w1") -> Agreed:
    return Agreed(Writer(preferred), me, HANDOVER)


def page(*candidates: str, choice: Choice | None = None, **more: Any) -> Situation:
    """A scene that this watcher and another take part in, who have both carried out everything up to version 1."""
    choices = {"choices": [choice]} if choice else {"blank": True}
    return scene(*candidates, **({"writable": NODES, "watchers": {"w1": 1, "w2": 1}, "told": 1} | choices | more))


def following(choice: Choice, *candidates: str) -> Agreed:
    """A watcher whose gpens use the writer of a choice since the time 100."""
    one = agreed()
    one.take_over(choice.writer)
    one.settle(page(*candidates, choice=choice), 100)
    assert one.current == choice.writer and one.opens_at <= 100
    return one


def test_the_first_choice_is_what_is_in_use() -> None:
    one = agreed(A)
    one.take_over(C)
    nothing = page(A, B, C, watchers={"w1": 0, "w2": 0})
    one.settle(nothing, 100 - FOUNDING)
    assert one.proposal is None  # somebody may know what was in the table
    one.settle(nothing, 100)
    assert one.proposal == Choice(1, C, (C, A, B)) and one.before is None and one.current is None
    one.settle(page(A, B, C, choice=Choice(1, C)), 101)
    assert one.current == C and one.proposal is None and one.opens_at <= 101


@pytest.mark.parametrize("scene", [
    scene(A, B, C, watchers={"w1": 0}),  # the table was not read
    page(A, B, C, watchers={"w2": 0}),  # it does not take part yet
    page(A, B, C, quorate=False),  # it does not hear from most of the nodes
])
def test_when_nothing_is_proposed(scene: Situation) -> None:
    one = agreed()
    one.settle(scene, 100)
    assert one.proposal is None and one.current is None


def test_a_writer_that_works_is_left_when_all_have_confirmed() -> None:
    one = following(Choice(1, A), A, B)
    one.move(B)
    one.settle(page(A, B, choice=Choice(1, A)), 200)
    assert one.proposal == Choice(2, A, (A, B, C), B, pinned=True) and one.bearer == B
    handing = Choice(2, A, (), B, pinned=True)
    one.settle(page(A, B, choice=handing), 201)
    assert one.proposal is None and one.opens_at == math.inf
    assert one.confirmation(page(choice=handing)) is None  # its gpens have not been told yet
    assert one.confirmation(page(choice=handing, told=2)) == 2
    one.settle(page(A, B, choice=handing, watchers={"w1": 2, "w2": 1}), 201.1)
    assert one.proposal is None
    one.settle(page(A, B, choice=handing, watchers={"w1": 2, "w2": 2}), 201.2)
    assert one.proposal == Choice(3, B, (B, A, C), pinned=True)
    one.settle(page(A, B, choice=Choice(3, B)), 201.3)
    assert one.current == B and one.opens_at <= 201.3 and one.refusal == ""


def test_a_writer_that_works_stays_when_somebody_does_not_confirm() -> None:
    one = following(Choice(1, A), A, B)
    one.move(B)
    handing = Choice(2, A, (), B)
    for now in (200, 200 + YIELD - 0.1):
        one.settle(page(A, B, choice=handing, watchers={"w1": 2, "w2": 1}), now)
        assert one.proposal is None
    one.settle(page(A, B, choice=handing, watchers={"w1": 2, "w2": 1}), 200 + YIELD)
    assert one.proposal == Choice(3, A, (A, B, C))
    one.settle(page(A, B, choice=Choice(3, A)), 203)
    assert one.current == A and one.opens_at <= 203
    assert one.refusal == "not confirmed within 2 s by w2"
    one.settle(page(B, choice=Choice(3, A)), 203 + REST - 1)  # by itself it does not try again for a while
    assert one.proposal is None
    one.settle(page(B, choice=Choice(3, A)), 203 + REST)
    assert one.proposal == Choice(4, A, (A, B, C), B)


def test_a_handover_is_called_off_when_the_heir_fails() -> None:
    one = following(Choice(1, A), A, B)
    one.settle(page(A, choice=Choice(2, A, (), B), watchers={"w1": 2, "w2": 2}), 200)
    assert one.proposal == Choice(3, A, (A, B, C)) and "can't be the writer" in one.refusal


def test_a_handover_is_concluded_when_the_writer_dies() -> None:
    one = following(Choice(1, A), A, B)
    one.settle(page(B, choice=Choice(2, A, (), B), writable=[B, C]), 200)
    assert one.proposal == Choice(3, B, (B, A, C))


def test_a_dead_writer_is_left_at_once() -> None:
    one = following(Choice(1, A), A, B)
    one.settle(page(B, choice=Choice(1, A), writable=[B, C]), 200)
    assert one.proposal == Choice(2, B, (B, A, C)) and one.bearer == B


def test_a_dead_writer_is_followed_by_whom_the_gpens_were_told() -> None:
    """Whatever order the nodes have by now: a gpen whose watcher is dead goes there by itself."""
    one = following(Choice(1, A, (A, C, B)), A, B, C)
    seen = page(B, C, choice=Choice(1, A, (A, C, B)), writable=[B, C])
    assert one.ranks(seen) == [A, C, B]
    one.move(B)
    one.settle(seen, 200)
    assert one.proposal == Choice(2, C, (C, B, A))


def test_a_writer_that_dies_before_all_have_confirmed_has_no_heir() -> None:
    one = following(Choice(1, A, (A, C, B)), A, B, C)
    one.move(B)
    one.settle(page(A, B, C, choice=Choice(1, A, (A, C, B))), 200)
    assert one.proposal == Choice(2, A, (A, C, B), B, pinned=True)
    handing = page(B, C, choice=one.proposal, writable=[B, C])
    one.settle(handing, 201)
    assert one.proposal == Choice(3, C, (C, B, A))


def test_the_order_is_the_operators_then_as_agreed_then_by_local_index() -> None:
    assert agreed().order(INDEXES, NODES) == [B, C, A]
    one = following(Choice(1, A, (A, C)), A, B, C)
    assert one.order(INDEXES, [B]) == [A, C, B]
    one = agreed(B)
    one.settle(page(A, B, C, choice=Choice(1, A, (A, C, B))), 100)
    assert one.order(INDEXES, [A, C]) == [B, A, C]


def test_who_does_not_hear_from_most_nodes_leaves_it() -> None:
    one = following(Choice(1, A), A, B)
    one.settle(page(B, choice=Choice(1, A), writable=[B], quorate=False), 200)
    assert one.proposal is None and one.current == A


def test_who_cant_see_a_node_neither_proposes_it_nor_to_leave_it() -> None:
    one = agreed()
    one.take_over(A)
    for now in (100, 100 + FOUNDING):
        one.settle(page(B, C, blind=[A], watchers={"w1": 0, "w2": 0}), now)
    assert one.proposal == Choice(1, A, (A, B, C)) and one.bearer == B  # the first choice is what is in use
    one = following(Choice(1, A), A, B)
    one.settle(page(B, C, choice=Choice(1, A), blind=[A]), 200)
    assert one.proposal is None and one.current == A
    one.settle(page(C, choice=Choice(1, A), blind=[B], writable=[B, C]), 201)
    assert one.proposal == Choice(2, C, (C, A, B))


def test_a_handover_goes_on_when_a_watcher_cant_see_the_heir() -> None:
    handing = Choice(2, A, (A, B, C), B)
    one = following(Choice(1, A), A, B)
    one.settle(page(A, C, choice=handing, blind=[B]), 200)
    assert one.proposal is None
    one.settle(page(A, C, choice=handing, blind=[B], watchers={"w1": 2, "w2": 2}), 201)
    assert one.proposal == Choice(3, B, (B, A, C)) and one.bearer in (A, C)


def test_the_operator_may_leave_a_writer_that_a_watcher_cant_see() -> None:
    one = following(Choice(1, A), A, B)
    one.move(B)
    one.settle(page(B, C, choice=Choice(1, A), blind=[A]), 200)
    assert one.proposal is not None and (one.proposal.writer, one.proposal.heir) == (A, B)


def test_a_writer_is_used_when_all_have_read_of_it() -> None:
    one = following(Choice(1, A), A, B)
    one.settle(page(A, B, choice=Choice(2, B)), 200)
    assert one.current == B and one.opens_at == 200 + HANDOVER


def test_a_writer_is_used_at_once_when_the_old_one_has_left_the_cluster() -> None:
    one = following(Choice(1, A), A, B)
    one.settle(page(B, choice=Choice(2, B), present=[B, C]), 200)
    assert one.opens_at <= 200
    one.settle(page(A, B, C, choice=Choice(3, C)), 300)
    assert one.opens_at == 300 + HANDOVER
    one.settle(page(A, C, choice=Choice(3, C), present=[A, C]), 300.1)
    assert one.opens_at == 300.1


def test_a_proposal_without_an_outcome_is_made_again() -> None:
    one = following(Choice(1, A), A, B, C)
    lost = {"choice": Choice(1, A), "writable": [B, C]}
    one.settle(page(B, C, **lost), 101)
    first = one.proposal
    one.settle(page(B, C, **lost), 101 + PATIENCE - 1)
    assert first is not None and one.proposal is first
    one.settle(page(C, **lost), 105)  # through whom it was to be written has gone
    assert one.proposal == Choice(2, C, (C, A, B))
    second = one.proposal
    assert second is not None
    one.outcome(second, 106)
    one.settle(page(C, **lost), 106 + MOMENT / 2)
    assert one.proposal is second
    one.settle(page(C, **lost), 106 + MOMENT)
    assert one.proposal == second and one.proposal is not second


def test_a_table_that_was_emptied_gets_the_writer_of_now() -> None:
    """With a version above all that there were, and with everybody's word, for it may not be everybody's writer."""
    one = following(Choice(57, B), A, B)
    seen = page(A, B, watchers={"w1": 5, "w2": 57}, newest=57)
    one.settle(seen, 101)
    assert one.proposal is None and one.current == B and one.opens_at <= 101  # it may be a node that lags
    one.settle(seen, 101 + MOMENT)
    assert one.proposal == Choice(57 + LEAP, B, (B, A, C), B) and one.before is None
    restored = Choice(57 + LEAP, B, (B, A, C), B)
    one.settle(page(A, B, choice=restored, watchers={"w1": 57 + LEAP, "w2": 57}, newest=57 + LEAP), 103)
    assert one.proposal is None and one.opens_at == math.inf
    one.settle(page(A, B, choice=restored, watchers={"w1": 57 + LEAP, "w2": 57}, newest=57 + LEAP), 103 + YIELD)
    assert one.proposal == restored._replace(version=58 + LEAP, heir="")
    one.settle(page(A, B, choice=one.proposal), 106)
    assert one.current == B and one.opens_at <= 106 and one.refusal == ""


def test_an_emptied_table_is_filled_by_who_knows_the_newest_choice() -> None:
    one = following(Choice(5, B), A, B)
    for now in (101, 110, 3600):
        one.settle(page(A, B, watchers={"w1": 5, "w2": 6}, newest=6), now)
        assert one.proposal is None and one.opens_at == math.inf  # the newest may name another writer
    assert "known to w2" in one.trouble
    newcomer = agreed()
    for now in (101, 110, 3600):
        newcomer.settle(page(A, B, watchers={"w1": 8, "w2": 6}, newest=8), now)
        assert newcomer.proposal is None
    newcomer.settle(page(A, B, watchers={"w1": 8}, newest=8), 3601)  # an operator took the other off the list
    assert newcomer.proposal == Choice(8 + LEAP, A, (A, B, C), A)


@pytest.mark.parametrize("older", [Choice(4, A), Choice(5, A), Choice(1, C, (), A)])
def test_an_older_choice_is_not_followed(older: Choice) -> None:
    """A table from a backup, or filled by a watcher that knew nothing: it is made good."""
    one = following(Choice(5, B), A, B)
    for now in (101, 101 + MOMENT):
        one.settle(page(A, B, choice=older, watchers={"w1": 5, "w2": 5}, newest=5), now)
        assert one.current == B and one.opens_at <= now
    assert one.proposal == Choice(5 + LEAP, B, (B, A, C), B) and one.before == older.version


def test_a_newcomer_does_not_follow_what_others_have_left() -> None:
    one = agreed()
    one.settle(page(A, B, choice=Choice(4, A), watchers={"w1": 0, "w2": 7}, newest=7), 100)
    assert one.current is None


def test_a_handover_ends_without_half_of_the_nodes() -> None:
    """Two nodes and an arbitrator: the heir hangs, so this watcher hears from one node of two."""
    one = following(Choice(1, A), A, B)
    one.settle(page(A, choice=Choice(2, A, (), B), quorate=False), 200)
    assert one.proposal == Choice(3, A, (A, B, C)) and "can't be the writer" in one.refusal
    one.settle(page(B, choice=Choice(3, A), writable=[B], quorate=False), 300)
    assert one.proposal is None and "hears from half of the nodes or less" in one.trouble


def test_a_handover_that_nothing_ends_is_told() -> None:
    one = following(Choice(1, A), A, B)
    for now in (200.0, 200.1, 201 + YIELD):
        one.settle(page(A, choice=Choice(2, A, (), B)), now)
    assert one.trouble == f"the handover to {B} can't be ended: {A} has not taken the choice yet"


def test_a_move_is_not_undone_by_another_watchers_failback() -> None:
    one = Agreed(Writer([A], failback=True), "w1", HANDOVER)
    for now in (100, 101 + STEADY, 200):
        one.settle(page(A, B, C, choice=Choice(3, B, (B, A, C), pinned=True)), now)
        assert one.proposal is None
    one.settle(page(A, C, choice=Choice(3, B, (B, A, C), pinned=True), writable=[A, C]), 201)
    assert one.proposal == Choice(4, A, (A, C, B))


def test_a_pin_outlives_a_handover_that_is_called_off() -> None:
    one = following(Choice(1, A, pinned=True), A, B)
    one.settle(page(A, choice=Choice(2, A, (), B)), 200)
    assert one.proposal == Choice(3, A, (A, B, C), pinned=True)


def test_after_a_pause_nothing_is_used_that_was_not_read_again() -> None:
    one = following(Choice(1, A), A, B)
    one.woke(YIELD, 3600)
    assert one.opens_at == 3600 + HANDOVER
    one.settle(page(A, B, choice=Choice(8, B)), 3600.1)
    assert one.current == B and one.opens_at == 3600.1 + HANDOVER


# --- whose row -------------------------------------------------------------------------------------------------------


def test_a_row_is_its_own_when_it_has_been_for_a_while() -> None:
    one = Identity("a", 1)
    one.saw(Claim(), 100)
    assert one.wants_claim and not one.stands
    one.saw(Claim(4, "killed"), 100)
    assert one.wants_claim and not one.clash
    one.saw(Claim(5, "a"), 101)
    assert not one.wants_claim and not one.stands
    one.saw(Claim(4, "killed"), 101.5)  # read from a node that lags
    assert not one.clash
    one.saw(Claim(5, "a"), 101.6)
    one.saw(Claim(5, "a"), 102.6)
    assert one.stands


def test_who_was_there_first_keeps_the_row() -> None:
    first, second = Identity("a", 1), Identity("b", 1)
    first.saw(Claim(1, "a"), 100)
    first.saw(Claim(1, "a"), 101)
    assert first.stands
    first.saw(Claim(2, "b"), 102)
    assert first.stands and first.wants_claim
    second.saw(Claim(2, "b"), 102)
    second.saw(Claim(3, "a"), 102.5)
    assert second.clash and not second.stands and not second.wants_claim
    second.saw(Claim(4), 110)  # the first has ended
    assert second.wants_claim and not second.clash


def test_who_slept_gives_way() -> None:
    one = Identity("a", 1)
    one.saw(Claim(1, "a"), 100)
    one.saw(Claim(1, "a"), 101)
    one.woke()
    one.saw(Claim(1, "a"), 3600)
    assert one.stands
    one.woke()
    one.saw(Claim(2, "b"), 7200)
    assert one.clash and not one.stands


def test_two_that_both_think_that_they_were_first_do_not_fight_for_ever() -> None:
    pair = {name: Identity(name, 1) for name in "ab"}
    for name, one in pair.items():
        one.saw(Claim(1, name), 100)
        one.saw(Claim(1, name), 101)
    number, row = 2, "b"
    for step in range(20):
        number, row = number + 1, "a" if row == "b" else "b"
        for one in pair.values():
            if not one.clash:
                one.saw(Claim(number, row), 102 + step / 10)
    assert [pair["a"].clash, pair["b"].clash] == [True, False]


class Table:
    """What Galera does for several watchers: of the proposals for a version, the first one counts."""

    def __init__(self) -> None:
        self.choice: Choice | None = None
        self.watchers = {"w1": 0, "w2": 0}

    def write(self, proposal: Choice, before: int | None) -> None:
        if before == (self.choice.version if self.choice else None):
            self.choice = proposal

    def seen(self) -> dict[str, Any]:
        return {"choices": [self.choice] if self.choice else [], "blank": self.choice is None,
                "watchers": dict(self.watchers), "newest": max(self.watchers.values())}


class Party:
    """A watcher with one gpen, which carries out at once what it is told."""

    def __init__(self, table: Table, me: str, preferred: str) -> None:
        self.one = agreed(preferred, me=me)
        self._table, self._me = table, me
        self._well: set[str] = set()
        self._told = 0
        self._using: str | None = None

    def look(self, candidates: set[str], now: float, **more: Any) -> None:
        """What a watcher does in a pass."""
        self._well = candidates
        seen = scene(*sorted(candidates), told=self._told, **self._table.seen(), **more)
        self.one.settle(seen, now)
        self._using, self._told = self.uses(now), self.one.version
        version = self.one.confirmation(replace(seen, told=self._told))
        if version is not None:
            self._table.watchers[self._me] = version
        if self.one.proposal is not None:
            self._table.write(self.one.proposal, self.one.before)
            self.one.outcome(self.one.proposal, now)

    def told(self) -> list[str]:
        """How the gpen's servers are ranked."""
        return self.one.ranks(scene(*NODES))

    def uses(self, now: float, hangs: bool = False) -> str | None:
        """The node that the gpen uses; of a watcher that hangs: what it was told last."""
        if hangs:
            return self._using
        return self.one.current if now >= self.one.opens_at and self.one.current in self._well else None


STEP = 0.25  # seconds: each watcher looks that often
EASY = 24  # steps at the end, in which nothing is wrong
SOME = st.sets(st.sampled_from(NODES))
EVENTS = st.lists(st.tuples(SOME, SOME, SOME, st.booleans()), max_size=30)


@given(EVENTS, st.booleans())
def test_two_watchers_never_use_two_nodes(events: Sequence[tuple[set[str], set[str], set[str], bool]], hears: bool,
                                          ) -> None:
    """Whatever each thinks usable (and takes for dead, if it does not), whoever leaves the cluster, in whatever order
    they look and write, and whether or not the second hears from most nodes."""
    table = Table()
    parties = [Party(table, "w1", A), Party(table, "w2", C)]
    now = 100.0
    for first, second, gone, swapped in [*events, *[(set(NODES), set(NODES), set(), False)] * EASY]:
        looks, present = list(zip(parties, (first, second), strict=True)), set(NODES) - gone
        for position, (party, candidates) in enumerate(reversed(looks) if swapped else looks):
            moment, well = now + position * STEP / 2, candidates & present
            assert len({other.uses(moment) for other in parties} & present) <= 1
            party.look(well, moment, quorate=hears or party is parties[0], present=present, writable=well)
            assert len({other.uses(moment) for other in parties} & present) <= 1
        now += STEP
    assert table.choice is not None
    assert [party.uses(now) for party in parties] == [table.choice.writer] * 2


@given(st.lists(st.tuples(SOME, SOME), min_size=10, max_size=30), st.integers(0, 10), st.integers(0, 20))
def test_a_watcher_that_hangs_never_leaves_its_gpen_on_another_node(
        events: Sequence[tuple[set[str], set[str]]], begins: int, ends: int) -> None:
    """As long as somebody could write on the old writer, it is not left without everybody."""
    table = Table()
    parties = hanging, _ = Party(table, "w1", A), Party(table, "w2", C)
    for step, usable in enumerate([*events, *[(set(NODES), set(NODES))] * EASY]):
        hangs = begins <= step < ends
        for position, (party, candidates) in enumerate(zip(parties, usable, strict=True)):
            moment = 100.0 + STEP * step + position * STEP / 2
            if not (hangs and party is hanging):
                party.look(candidates, moment, present=NODES, writable=NODES)
            used = {other.uses(moment, hangs and other is hanging) for other in parties}
            assert len(used - {None}) <= 1
    assert table.choice is not None
    assert [party.uses(moment) for party in parties] == [table.choice.writer] * 2


ORDERS = st.permutations(range(len(NODES)))  # each node's wsrep_local_index


@given(st.sampled_from(NODES), st.sampled_from(NODES), ORDERS,
       st.lists(st.tuples(ORDERS, st.sampled_from([None, *NODES]), SOME), max_size=10))
def test_a_gpen_without_a_watcher_meets_the_others(
        mine: str, theirs: str, began: Sequence[int],
        events: Sequence[tuple[Sequence[int], str | None, set[str]]]) -> None:
    """A watcher is killed, and its gpen goes by the ranks it was told; then nodes die for good, whatever local index
    the others get, and whatever the operator wants."""
    table = Table()
    parties = killed, other = Party(table, "w1", mine), Party(table, "w2", theirs)
    now, alive = 100.0, set(NODES)

    def look(party: Party, indexes: Sequence[int]) -> None:
        order = party.one.order(dict(zip(NODES, indexes, strict=True)), alive)
        party.look(alive, now, order=order, present=NODES, writable=alive)

    for _ in range(EASY):
        now += STEP
        for party in parties:
            look(party, began)
    for indexes, target, dying in events:
        alive = alive - dying or alive
        if target in alive:
            other.one.move(target)
        for _ in range(EASY):
            now += STEP
            look(other, indexes)
        assert other.uses(now) == next(node for node in killed.told() if node in alive)
