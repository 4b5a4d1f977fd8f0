"""What gpens are told, and which servers are added and deleted; no sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpen.control.script import parse_line
from gpen.galera.access import read_access
from gpen.galera.discover import Discovery
from gpen.galera.plan import (
    LAST_RANK,
    OTHERS,
    WINDOW,
    Changes,
    Order,
    Plan,
    Rivalry,
    commands,
    front,
    is_amiss,
    misfit,
    new_limits,
    node_of,
    nodes_of,
    retries,
    strays,
)
from gpen.galera.watch import Options, Watcher
from gpen.gpenctl.link import parse_target

A, B, C = "10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306"
UP, LOST = Order(True, "Synced"), Order(False, "non-Primary", close=True)


def row(number: int | None, node: str, prio: int = 0, state: str = "ready", host: str = "") -> dict[str, Any]:
    address, _, port = node.rpartition(":")
    return {"number": number, "address": address.strip("[]"), "host": host or address.strip("[]"), "port": int(port),
            "prio": prio, "state": state}


ROWS = [row(0, A, 0), row(1, B, 1), row(2, C, 2)]


def test_the_nodes_of_servers() -> None:
    unresolved = row(3, C) | {"address": None}
    path = row(4, C) | {"address": "/run/m.sock", "port": 0}
    assert [node_of(each) for each in (row(0, A), row(1, "[::1]:3306"), unresolved, path, row(None, B))] == [
        A, "[::1]:3306", None, None, None]
    assert nodes_of([*ROWS, unresolved]) == {A, B, C}


def test_the_server_in_front_is_the_only_one_with_the_lowest_prio() -> None:
    assert front(ROWS) == A
    assert front([row(0, A, 1), row(1, B, 1), row(2, C, 2)]) is None
    assert front([row(0, A, 1), row(1, A, 1), row(2, C, 2)]) == A
    assert front([row(0, A, 1), row(1, C, 1) | {"address": None}, row(2, C, 2)]) is None
    assert front([]) is None


def test_verdicts_are_renewed_and_sessions_ended_as_long_as_there_are_any() -> None:
    plan: Plan = {A: UP, B: LOST}
    verdicts = ["server 1 health down because non-Primary", "server 0 health up because Synced"]
    was_up = [ROWS[0], ROWS[1] | {"verdict": "up"}]
    assert commands(plan, was_up) == [*verdicts, "close server 1"]  # some may have come since
    is_down = ROWS[1] | {"verdict": "down", "sessions": 0}
    assert commands(plan, [ROWS[0], is_down]) == verdicts and not is_amiss(plan, [ROWS[0], is_down])
    busy = is_down | {"sessions": 1}
    assert commands(plan, [ROWS[0], busy]) == [*verdicts, "close server 1"] and is_amiss(plan, [ROWS[0], busy])


def ranked(*nodes: str, close: bool = True) -> Plan:
    return {node: Order(True, "Synced", rank, close and rank > 0) for rank, node in enumerate(nodes)}


def test_the_writer_moves_before_the_old_ones_sessions_end() -> None:
    busy = [ROWS[0] | {"sessions": 3}, *ROWS[1:]]
    assert commands(ranked(B, C, A), busy) == [
        "server 0 prio 2", "server 2 prio 1", "server 1 prio 0",
        *(f"server {number} health up because Synced" for number in range(3)), "close server 0", "close server 2"]


def test_a_watcher_that_comes_ends_no_session_that_is_in_its_place() -> None:
    busy = [ROWS[0] | {"sessions": 3}, *ROWS[1:]]
    assert not is_amiss(ranked(A, B, C), busy)
    assert not [line for line in commands(ranked(A, B, C), busy) if line.startswith("close")]


def test_servers_that_the_plan_does_not_name() -> None:
    plan = {A: Order(True, "Synced", 0), OTHERS: Order(False, "standby", LAST_RANK, True)}
    path = row(4, C) | {"address": "/run/m.sock", "port": 0}
    rows = [ROWS[0], ROWS[1] | {"sessions": 2}, path, row(5, C) | {"health": "empty"}, row(None, B)]
    assert is_amiss(plan, rows)
    assert commands(plan, rows) == [
        "server 4 prio 99", "server 1 prio 99", "server 1 health down because standby",
        "server 4 health down because standby", "server 0 health up because Synced", "close server 1", "close server 4"]


def test_a_server_that_drains_is_not_closed() -> None:
    donor = {A: UP, B: Order(False, "Donor/Desynced", drains=True)}
    for word in ("up", "drain", "down"):
        assert commands(donor, [ROWS[0], ROWS[1] | {"verdict": word, "sessions": 2}]) == [
            "server 1 health drain because Donor/Desynced", "server 0 health up because Synced"]


def test_nothing_is_said_of_the_health_of_a_writer_that_is_not_known() -> None:
    assert commands({A: Order(None, "", 0)}, ROWS) == []


@pytest.mark.parametrize(("now", "before", "wanted"), [
    (0, None, 90), (90, None, None), (90, 90, None), (20, None, None), (200, None, 90), (20, 20, 90), (20, 30, None)])
def test_how_many_sessions_a_server_may_have(now: int, before: int | None, wanted: int | None) -> None:
    """A lower max is the operator's, unless it was set here."""
    limits = {} if before is None else {0: before}
    found = new_limits({A: Order(True, "Synced", limit=90)}, [ROWS[0] | {"max": now}], limits)
    assert found == ({} if wanted is None else {0: wanted})


def test_a_full_server_is_tried_again() -> None:
    full = ROWS[0] | {"health": "down", "verdict": "up", "reason": "greeted with error 1040: Too many connections"}
    assert retries({A: UP}, [full]) == ["server 0 blacklist 0"]
    assert retries({A: UP}, [full | {"reason": "greeted with error 1129: blocked"}]) == []
    assert retries({A: LOST}, [full]) == []


def test_somebody_else_who_goes_on_putting_another_node_in_front_is_noticed() -> None:
    rivalry, plan = Rivalry(), ranked(B, A, C)
    for now in (100.0, 101.0, 102.0):
        assert rivalry.trouble("/w.ctl", now) == ""
        rivalry.saw(plan, ROWS, now)
        rivalry.saw(ranked(A, B, C), ROWS, now)
    assert rivalry.trouble("/w.ctl", 102.0).startswith("/w.ctl: somebody else puts another node in front again")
    assert rivalry.trouble("/w.ctl", 102.0 + WINDOW) == ""


def test_any_reason_is_a_command() -> None:
    plan = {A: Order(False, 'Host "x" is # blocked;  see\nmanual')}
    (line,) = commands(plan, ROWS)
    assert parse_line(line, "test") is not None
    assert line == "server 0 health down because Host 'x' is no. blocked; see manual"


def test_who_goes_with_the_writer_has_one_server_in_front_for_all_clients() -> None:
    assert misfit("/w.ctl", {"prio": True, "roundrobin": True, "hash": True}) == ""
    assert misfit("/w.ctl", {"prio": False, "roundrobin": False}) == (
        "/w.ctl: runs without prio: writes go to several nodes: gpenctl /w.ctl prio")
    assert misfit("/w.ctl", {"prio": True, "roundrobin": False}) == (
        "/w.ctl: runs without roundrobin: clients that it remembers stay at the old writer: gpenctl /w.ctl roundrobin")


# --- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("readers", "writers", "more", "expected"), [
    (["/a"], ["/a"], {}, "--reader=/a --writer=/a: they are one gpen: give it once"),
    (["/a"], ["/b/../a"], {}, "--reader=/a --writer=/b/../a: they are one gpen: give it once"),
    ([], ["db:1", "localhost:2", "db:1"], {}, "--writer=db:1 --writer=db:1: they are one gpen: give it once"),
    (["/a"], [], {"agree": "gpen"}, "--agree: there is no writer without a gpen that gets the writes: add --writer="),
    (["/a"], [], {"prefer": [A]}, "--prefer: there is no writer without"),
    (["/a"], [], {"failback": True}, "--failback: there is no writer without"),
    (["/a"], [], {"keep_old_sessions": True}, "--keep-old-sessions: there is no writer without"),
    ([], ["/a"], {"prefer": [A, "node1:3306"]}, "--prefer: 'node1:3306' is not HOST:PORT with a numeric HOST, as "
                                                "gpen-galera status shows nodes"),
    ([], ["/a"], {"prefer": ["/run/mysqld.sock"]}, "--prefer: '/run/mysqld.sock' is not HOST:PORT"),
    ([], ["/a"], {"agree": "a b"}, "--agree: 'a b' is not the name of a schema"),
])
def test_options_that_contradict_each_other(
        readers: list[str], writers: list[str], more: dict[str, Any], expected: str) -> None:
    access = read_access(None, None, {"GPEN_GALERA_USER": "u", "GPEN_GALERA_PASSWORD": "p"})
    options = Options([*map(parse_target, readers)], [*map(parse_target, writers)], **more)
    with pytest.raises(ValueError) as error:
        Watcher(options, access)
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


def test_options_that_go_together() -> None:
    access = read_access(None, None, {"GPEN_GALERA_USER": "u", "GPEN_GALERA_PASSWORD": "p"})
    options = Options([parse_target("/a")], [parse_target("/b")], prefer=[A, "[::1]:3306"], failback=True, agree="gpen")
    assert [gpen.name for gpen in Watcher(options, access).gpens] == ["/a", "/b"]


# --- discovery -------------------------------------------------------------------------------------------------------


def found(*rows: Any, members: Any = (A, B, C), floor: int = 1) -> list[str]:
    return Discovery(floor, 60.0).changes(rows, members, 100.0).commands(rows)


def test_new_nodes_get_the_lowest_free_numbers() -> None:
    assert found(row(1, B)) == [
        "server 0 address 10.0.0.1 port 3306", "server 0 health down because new, not asked yet",
        "server 2 address 10.0.0.3 port 3306", "server 2 health down because new, not asked yet"]


def test_where_prio_counts_new_nodes_come_last() -> None:
    changes = Discovery(1, 60.0).changes([row(0, A)], [A, B], 100.0, 99)
    assert changes.commands([])[0] == "server 1 address 10.0.0.2 port 3306 prio 99"
    assert changes.commands([], by_address=True) == [
        "server 1 at 10.0.0.2:3306 address 10.0.0.2 port 3306 prio 99",
        "server 1 at 10.0.0.2:3306 health down because new, not asked yet"]


def test_members_without_an_address_are_skipped() -> None:
    assert found(row(0, A), members=[A, "AUTO", "AUTO:3306", "", A]) == []


def test_a_node_is_known_by_its_name_as_well() -> None:
    assert found(row(0, A, host="db1.example"), members=["db1.example:3306"]) == []


def test_new_nodes_are_found_by_address_family() -> None:
    assert found(row(0, A), members=["[fd00::2]:3307"])[0] == "server 1 address fd00::2 port 3307"


def gone(floor: int = 1, members: Any = (A,), answering: Any = (A,), rows: Any = ROWS) -> list[str]:
    """What is deleted of three servers after 60 s of this."""
    discovery = Discovery(floor, 60.0)
    discovery.saw([A, B, C], members, answering, 100.0)
    assert discovery.changes(rows, members, 159.9) == Changes((), ())
    discovery.saw([A, B, C], members, answering, 160.0)
    return discovery.changes(rows, members, 160.0).commands(rows)


def test_nodes_that_are_gone_are_deleted_after_a_while() -> None:
    assert gone() == ["no server 1", "no server 2"]


def test_a_floor_of_servers_is_kept() -> None:
    assert gone(floor=2) == ["no server 1"]
    assert gone(floor=3) == []


def test_a_node_that_answers_is_not_gone() -> None:
    assert gone(answering=(A, C)) == ["no server 1"]


def test_without_a_group_nothing_is_gone() -> None:
    assert gone(members=(), answering=()) == []


def test_what_the_operator_has_taken_out_stays() -> None:
    assert gone(rows=[row(0, A), row(1, B, state="maint"), row(2, C, state="drain")]) == []


def test_a_node_that_comes_back_in_between_is_not_gone() -> None:
    discovery = Discovery(1, 60.0)
    for now, members in ((100.0, (A,)), (130.0, (A, B)), (131.0, (A,)), (165.0, (A,))):
        discovery.saw([A, B], members, (A,), now)
    assert discovery.changes(ROWS[:2], (A,), 165.0) == Changes((), ())


def test_nothing_is_told_of_a_server_that_is_deleted_and_none_is_deleted_twice() -> None:
    changes = Changes([1, 2])
    assert changes.commands(ROWS) == ["no server 1", "no server 2"]
    assert changes.commands(ROWS[:2]) == ["no server 1"]
    assert commands({A: UP, B: UP, C: UP}, changes.kept(ROWS)) == ["server 0 health up because Synced"]


def test_sessions_that_no_row_tells_of() -> None:
    plan = {OTHERS: Order(False, "standby", LAST_RANK, True), "10.0.0.1:3306": Order(True, "Synced", 0),
            "10.0.0.2:3306": Order(False, "drained", 1)}
    rows = [row(0, "10.0.0.1:3306"), row(1, "10.0.0.3:3306")]
    sessions = [{"id": number, "server": server, "server_address": address} for number, (server, address) in enumerate([
        (0, "10.0.0.1:3306"), (5, "10.0.0.1:3306"), (1, "10.0.0.3:3306"), (2, "10.0.0.3:3306"), (0, "10.0.0.4:3306"),
        (0, "10.0.0.2:3306"), (None, "10.0.0.4:3306"), (0, None)])]
    assert strays(plan, rows, json.dumps(sessions)) == ["close 3", "close 4"]
    for nonsense in ("", "null", "[5, {}]", "[" * 100_000, '[{"id": "x", "server": 0, "server_address": "a"}]'):
        assert strays(plan, rows, nonsense) == []
