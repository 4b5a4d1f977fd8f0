"""What the listeners of one gpen are told, of which some get the writes; no sockets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gpen.galera.access import read_access
from gpen.galera.listeners import Desk, Listener, Roles, lack, listeners_in
from gpen.galera.plan import LAST_RANK, OTHERS, Order, Plan, Row, front, strays
from gpen.galera.watch import Options, Watcher
from gpen.gpenctl.link import parse_target

A, B, C = "10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306"
MODES = json.dumps({"prio": True, "roundrobin": True})


def row(number: int, node: str, prio: int = 0, sessions: int = 0) -> Row:
    host, _, port = node.rpartition(":")
    return {"number": number, "address": host, "host": host, "port": int(port), "prio": prio, "sessions": sessions,
            "state": "ready", "health": "up", "verdict": "up"}


ROWS = [row(0, A), row(1, B), row(2, C)]


def desk(uses: Sequence[int] | None, prios: Sequence[int] = (0, 1, 2), sessions: Sequence[int] = (0, 0, 0),
         modes: str = MODES, lists_all: bool = True) -> Desk:
    """A listener for writes that was seen so."""
    one = Desk("rw")
    there = [row(number, node, prio, count) for number, (node, prio, count) in enumerate(
        zip((A, B, C), prios, sessions, strict=True)) if lists_all or uses is None or number in uses]
    found = {"rw": Listener(sum(sessions), None if uses is None else frozenset(uses))}
    one.look("/g.ctl", found, modes, json.dumps(there))
    return one


def choice(*ranks: str, used: str | None = None, staying: Sequence[str] = ()) -> Plan:
    return {OTHERS: Order(False, "", LAST_RANK, True),
            **{node: Order(node == used, "", rank, node not in staying) for rank, node in enumerate(ranks)}}


def test_the_writer_is_used_alone_before_anything_else_is_said() -> None:
    assert desk(None).commands(choice(A, B, C, used=A, staying=[A]), ROWS) == [
        "listener rw servers 0", "listener rw close server 1", "listener rw close server 2"]
    assert desk([0]).commands(choice(A, B, C, used=A, staying=[A]), ROWS) == []


def test_a_move_ends_what_the_old_writer_has_there() -> None:
    moved = choice(B, A, C, used=B, staying=[B])
    assert desk([0], sessions=(0, 0, 0)).commands(moved, ROWS) == [  # some may have come since
        "listener rw servers 1", "listener rw server 0 prio 1", "listener rw server 1 prio 0",
        "listener rw close server 0"]
    assert desk([1], (1, 0, 2), (2, 5, 0)).commands(moved, ROWS) == ["listener rw close server 0"]
    kept = {node: Order(order.up, "", order.prio) for node, order in moved.items()}
    assert desk([1], (1, 0, 2), (2, 5, 0)).commands(kept, ROWS) == []


def test_while_it_hands_over_nobody_is_used() -> None:
    nobody = choice(A, B, C)
    assert desk([0]).commands(nobody, ROWS) == ["listener rw servers 3", "listener rw close server 0"]
    assert desk([3]).commands(nobody, ROWS) == []
    assert desk([3]).commands(nobody, [*ROWS, row(3, "10.0.0.4:3306")])[0] == "listener rw servers 4"
    assert not desk([9]).is_amiss(nobody, ROWS)


def test_a_server_that_comes_is_not_used() -> None:
    """Also where its number was one of those that count, before there was one."""
    alone = choice(A, B, C, used=A, staying=[A])
    assert desk([0]).commands(alone, [*ROWS, row(3, "10.0.0.4:3306")]) == [
        "listener rw server 3 prio 99", "listener rw close server 3"]
    assert desk([0, 3]).is_amiss(alone, ROWS) and desk([0, 3]).commands(alone, ROWS) == ["listener rw servers 0"]


def test_a_node_may_be_listed_twice() -> None:
    twice = [*ROWS, row(3, B, 0)]
    assert desk([1]).commands(choice(B, A, C, used=B, staying=[B]), twice)[0] == "listener rw servers 1,3"


def test_what_is_amiss() -> None:
    plan = choice(A, B, C, used=A, staying=[A])
    assert not desk([0], sessions=(3, 0, 0)).is_amiss(plan, ROWS)
    for other in (desk(None), desk([1]), desk([0], (0, 2, 1)), desk([0], sessions=(3, 1, 0))):
        assert other.is_amiss(plan, ROWS)
    assert not desk(None).is_amiss({}, ROWS) and desk(None).commands({}, ROWS) == []


def test_what_is_not_listed_is_known_by_what_is() -> None:
    """The listener tells of the servers that it uses, and how many sessions it has in all."""
    plan = choice(B, A, C, used=B, staying=[B])
    one = desk([0], (7, 8, 9), lists_all=False)
    assert one.commands(plan, ROWS) == [
        "listener rw servers 1", "listener rw server 2 prio 2", "listener rw server 0 prio 1",
        "listener rw server 1 prio 0", "listener rw close server 0", "listener rw close server 2"]
    there = json.dumps([row(1, B, 0, 4)])
    for sessions, closing in ((4, []), (5, [f"listener rw close server {number}" for number in (0, 2)])):
        one.look("/g.ctl", {"rw": Listener(sessions, frozenset({1}))}, MODES, there)
        assert one.commands(plan, ROWS) == closing and one.is_amiss(plan, ROWS) == bool(closing)
    one.forget()
    assert one.is_amiss(plan, ROWS)


def test_what_others_have_at_a_server_is_left_alone() -> None:
    busy = [row(0, A, sessions=7), row(1, B, sessions=9), row(2, C)]
    assert desk([0]).commands(choice(A, B, C, used=A, staying=[A]), busy) == []


def test_who_is_in_front_is_one_that_is_used() -> None:
    rows = [row(0, A, 5), row(1, B, 5), row(2, C, 5)]
    assert front(desk(None, (2, 1, 3)).ranked(rows)) == B
    assert front(desk([2], (2, 1, 3)).ranked(rows)) == C
    assert front(desk([7], (2, 1, 3)).ranked(rows)) == B  # nobody is, for a moment
    assert front(desk([0], (0, 0, 0)).ranked(rows)) == A  # as a file may have it


def test_a_listener_that_is_missing_is_told_nothing() -> None:
    missing = Desk("rw")
    missing.look("/g.ctl", {"-": Listener(0, None)}, "error: there is no listener rw", "error: there is no listener rw")
    assert missing.trouble == "/g.ctl: has no listener rw: gpenctl /g.ctl listener rw listen [HOST:]PORT"
    assert missing.commands(choice(A, B, C, used=A), ROWS) == [] and not missing.is_amiss(choice(A, used=A), ROWS)
    assert missing.ranked(ROWS) == ROWS
    assert lack("/g.ctl", ["-"], {}) == "/g.ctl: has no listener -: gpenctl /g.ctl listen [HOST:]PORT"


def test_its_modes_have_to_fit() -> None:
    assert desk(None).trouble == desk(None, modes="nonsense").trouble == ""
    assert desk(None, modes='{"prio": false}').trouble == (
        "/g.ctl: listener rw runs without prio: writes go to several nodes: gpenctl /g.ctl listener rw prio")


def test_the_listeners_that_a_gpen_tells() -> None:
    told = [{"name": None, "sessions": 3, "servers": None}, {"name": "rw", "sessions": 0, "servers": [0, 2], "more": 5}]
    assert listeners_in(json.dumps(told)) == {"-": Listener(3, None), "rw": Listener(0, frozenset({0, 2}))}
    one = '[{"name": "x", "sessions": 1, "servers": null}]'
    assert listeners_in(one)
    for nonsense in ("", "error: no such command", "5", "null", '[{"name": "x"}]', "[5]", "[" * 100_000,
                     one.replace('"x"', '["x"]'), one.replace("1", '"1"'), one.replace("null", "5")):
        with pytest.raises(ValueError, match="no list of listeners"):
            listeners_in(nonsense)


def test_sessions_of_this_listener_that_no_row_tells_of() -> None:
    sessions = json.dumps([{"id": number, "server": 0, "server_address": B, "listener": name}
                           for number, name in enumerate(["rw", None, "admin"])])
    assert strays(choice(A, B, C, used=A, staying=[A]), ROWS, sessions, ["rw"]) == ["close 0"]


@pytest.mark.parametrize(("readers", "writers", "more", "expected"), [
    ([], ["-"], {}, "--writer=-: the listener without a name uses all servers: give the one for writes a name"),
    ([], ["/run/w.ctl"], {}, "--writer=/run/w.ctl: with --gpen this is the name of a listener of it"),
    (["localhost:1"], [], {}, "--reader=localhost:1: with --gpen this is the name of a listener of it"),
    (["a"], ["a"], {}, "--reader=a: this listener is given twice"),
    (["a"], [], {"agree": "gpen"}, "--agree: there is no writer without a listener that gets the writes: add"),
])
def test_names_that_make_no_sense(
        readers: list[str], writers: list[str], more: dict[str, Any], expected: str) -> None:
    access = read_access(None, None, {"GPEN_GALERA_USER": "u", "GPEN_GALERA_PASSWORD": "p"})
    with pytest.raises(ValueError) as error:
        Watcher(Options([], [], gpens=[parse_target("/g.ctl")], roles=Roles(readers, writers), **more), access)
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)
