"""What the watcher thinks of nodes, from what they say; no sockets, and a clock turned by hand."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pymysql
import pytest

from gpen.galera.blocking import ENOUGH, limit
from gpen.galera.cluster import Cluster, Verdict
from gpen.galera.group import FORGET, GRACE
from gpen.galera.node import explain
from gpen.galera.report import QUERY, Grade, Report, View, grade, read

A, B, C, D = "10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306", "10.0.0.4:3306"
MEMBERS = f"{A},,{B}, {C}"  # with an arbitrator
OLD, NEW = View("u1", 7, 4, MEMBERS), View("u1", 8, 4, MEMBERS)
SAID = {
    "wsrep_local_state": "4", "wsrep_local_state_comment": "Synced", "wsrep_ready": "ON",
    "wsrep_cluster_status": "Primary", "wsrep_cluster_state_uuid": "u1", "wsrep_cluster_conf_id": "7",
    "wsrep_cluster_size": "4", "wsrep_local_index": "1", "wsrep_incoming_addresses": MEMBERS,
    "wsrep_local_recv_queue": "0", "wsrep_node_name": "node2", "read_only": "0", "wsrep_reject_queries": "NONE",
    "wsrep_sst_donor_rejects_queries": "0", "wsrep_desync": "0",
}
WELL = read(SAID.items())
DONOR = replace(WELL, state=2, comment="Donor/Desynced")


def report(**said: str) -> Report:
    return read((SAID | {f"wsrep_{name}" if f"wsrep_{name}" in SAID else name: value
                         for name, value in said.items()}).items())


class Watched(Cluster):
    """Three nodes, all well at the time 100."""

    def __init__(self, donor: str = "avoid") -> None:
        super().__init__(donor)
        self.now = 100.0
        for node in (A, B, C):
            self.add(node)
            self.saw(node, WELL)
        self.after(0.0)

    def after(self, seconds: float, late: Collection[str] = ()) -> dict[str, str]:
        """Ask all nodes that answer, but for these, whose answers are of before, so much later, and judge; what is said
        of each node that is not simply well."""
        self.now += seconds
        for node in self.nodes:
            if (report := self.report(node)) and node not in late:
                self.saw(node, replace(report, asked=self.now))
        self.judge(self.now)
        return {node: reason(self.verdict(node)) for node in self.nodes if self.verdict(node) != well(self, node)}


def well(cluster: Cluster, node: str) -> Verdict | None:
    verdict = cluster.verdict(node)
    good = Verdict(True, "Synced")
    return replace(good, since=verdict.since) if verdict else good


def reason(verdict: Verdict | None) -> str:
    if verdict is None:
        return "unknown"
    return f"{'lost' if verdict.lost else verdict.word}: {verdict.reason}"


def test_the_queries_ask_for_all_that_is_read() -> None:
    status, variables = QUERY.split("; ")
    for name in SAID:
        of_status = name.startswith("wsrep_") and name not in (
            "wsrep_node_name", "wsrep_reject_queries", "wsrep_sst_donor_rejects_queries", "wsrep_desync")
        assert (f"'{name}'" in status, f"'{name}'" in variables) == (of_status, not of_status)


def test_a_report_is_read_whole() -> None:
    assert (WELL.state, WELL.view, WELL.index, WELL.name, WELL.ready) == (4, OLD, 1, "node2", True)
    assert WELL.members == (A, "", B, C)  # the arbitrator's entry is empty


def test_a_server_without_galera_is_named_so() -> None:
    with pytest.raises(ValueError, match="no Galera node: it does not tell wsrep_local_state"):
        read([("wsrep_ready", "OFF")])


PXC = {  # Percona XtraDB Cluster 8.0 by its documentation: names, spelling and values as SHOW gives them there
    "wsrep_local_state": "4", "wsrep_local_state_comment": "Synced", "wsrep_ready": "ON",
    "wsrep_cluster_status": "Primary", "wsrep_cluster_state_uuid": "c2883338-834d-11e2-0800-03c9c68e41ec",
    "wsrep_cluster_conf_id": "13", "wsrep_cluster_size": "3", "wsrep_local_index": "2",
    "wsrep_incoming_addresses": "10.0.0.3:3306,10.0.0.1:3306,10.0.0.2:3306", "wsrep_local_recv_queue": "0",
    "wsrep_flow_control_paused_ns": "327", "wsrep_node_name": "pxc2", "read_only": "OFF", "wsrep_desync": "OFF",
    "wsrep_sst_donor_rejects_queries": "OFF", "pxc_maint_mode": "DISABLED", "max_connect_errors": "100",
    "skip_name_resolve": "OFF", "host_cache_size": "279",
}


def test_percona_xtradb_cluster_tells_what_is_asked() -> None:
    found = read(PXC.items())
    assert (found.view, found.index, found.name) == (
        View(PXC["wsrep_cluster_state_uuid"], 13, 3, PXC["wsrep_incoming_addresses"]), 2, "pxc2")
    assert (found.rejects, found.paused_ns, found.max_connect_errors, found.blocks) == ("NONE", 327, 100, True)
    assert grade(found) == (Grade.GOOD, "Synced")
    assert grade(read((PXC | {"read_only": "ON"}).items())) == (Grade.UNFIT, "read_only")


@pytest.mark.parametrize("mode", ["MAINTENANCE", "SHUTDOWN"])
def test_a_node_in_maintenance_gets_nobody_new_and_keeps_whom_it_has(mode: str) -> None:
    assert grade(read((PXC | {"pxc_maint_mode": mode}).items())) == (
        Grade.MAINTENANCE, f"pxc_maint_mode is {mode}")


# without a group there is no number of its view, and MySQL 8 prints -1 without a sign
LOST = {"wsrep_cluster_status": "non-Primary", "wsrep_ready": "OFF", "wsrep_local_state": "0",
        "wsrep_local_state_comment": "Initialized", "wsrep_cluster_conf_id": "18446744073709551615"}


def test_one_that_lost_its_cluster_is_told_so_by_its_status() -> None:
    assert grade(read((PXC | LOST).items())) == (Grade.LOST, "non-Primary")


@pytest.mark.parametrize("name", ["wsrep_local_recv_queue", "wsrep_flow_control_paused_ns", "wsrep_node_name",
                                  "read_only", "wsrep_desync", "max_connect_errors", "host_cache_size"])
def test_what_a_server_does_not_have_is_missed(name: str) -> None:
    assert grade(read((key, value) for key, value in PXC.items() if key != name)) == (Grade.GOOD, "Synced")


LIMITS = {"max_connect_errors": "100", "skip_name_resolve": "0", "host_cache_size": "279"}


def test_a_node_tells_whether_it_blocks_and_when() -> None:
    assert all(f"'{name}'" in QUERY for name in LIMITS)
    assert (WELL.max_connect_errors, limit(WELL, True)) == (-1, None)  # not told


@pytest.mark.parametrize(("said", "low"), [
    ({}, 100), ({"skip_name_resolve": "1"}, None), ({"skip_name_resolve": "ON"}, None),
    ({"host_cache_size": "0"}, None),
    ({"max_connect_errors": str(ENOUGH - 1)}, ENOUGH - 1), ({"max_connect_errors": str(ENOUGH)}, None),
    ({"max_connect_errors": "18446744073709551615"}, None),  # MySQL 8 on 64 bits
])
def test_a_limit_is_low_where_it_counts(said: dict[str, str], low: int | None) -> None:
    found = read((SAID | LIMITS | said).items())
    assert (limit(found, True), limit(found, False), limit(None, True)) == (low, None, None)


@pytest.mark.parametrize(("error", "text", "pause"), [
    (pymysql.err.OperationalError(1129, "Host 'x' is blocked"), "Host 'x' is blocked (and raise max_connect_errors", 3),
    (pymysql.err.OperationalError(1045, "Access denied"), "access denied for user 'w': Access denied (CREATE USER", 3),
    (pymysql.err.OperationalError(2026, "SSL is required"), "the watcher can't log in: SSL is required", 60),
    (ssl.SSLError(1, "certificate verify failed"), "the watcher can't log in: certificate verify failed", 60),
    (RuntimeError("'pynacl' package is required"), "the watcher can't log in: 'pynacl' package is required "
     "(pip install 'PyMySQL[rsa,ed25519]'", 60),
    (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "connection refused", 0),
    (pymysql.err.OperationalError(2059, "Authentication plugin 'x' not configured"), "the watcher's account 'w': ", 60),
    *((pymysql.err.OperationalError(number, "no"), "the watcher's account 'w': no (", 3)
      for number in (1203, 1226, 1820, 1862, 3118, 3159, 3955, 4151)),
    (pymysql.err.OperationalError(1047, "WSREP has not yet prepared node"), "rejects queries", 0),
    (pymysql.err.OperationalError(1053, "Server shutdown in progress"), "Server shutdown in progress", 0),
])
def test_what_would_have_the_watcher_blocked_is_not_tried_often(error: Exception, text: str, pause: float) -> None:
    problem = explain(error, "w", 1.0)
    assert problem.text.startswith(text) and (problem.pause, problem.blind) == (pause, bool(pause))


@pytest.mark.parametrize(("said", "expected"), [
    ({}, (Grade.GOOD, "Synced")),
    ({"local_state": "2", "local_state_comment": "Donor/Desynced"}, (Grade.DONOR, "Donor/Desynced")),
    ({"cluster_status": "non-Primary", "ready": "OFF"}, (Grade.LOST, "non-Primary")),
    ({"cluster_status": "Disconnected"}, (Grade.LOST, "Disconnected")),
    ({"ready": "OFF", "local_state_comment": "Joined"}, (Grade.LOST, "not ready (Joined)")),
    ({"local_state": "3", "local_state_comment": "Joined"}, (Grade.DONOR, "Joined")),  # it was a donor until now
    ({"local_state": "1", "local_state_comment": "Joining"}, (Grade.UNFIT, "Joining")),
    ({"read_only": "1"}, (Grade.UNFIT, "read_only")),
    ({"read_only": "ON"}, (Grade.UNFIT, "read_only")),
    ({"reject_queries": "ALL"}, (Grade.LOST, "rejects queries (ALL)")),
    ({"reject_queries": "ALL_KILL"}, (Grade.LOST, "rejects queries (ALL_KILL)")),
    ({"local_state": "2", "sst_donor_rejects_queries": "1"}, (Grade.LOST, "donor that rejects queries")),
    ({"local_state": "2", "local_state_comment": "Donor/Desynced", "sst_donor_rejects_queries": "1", "desync": "1"},
     (Grade.DONOR, "Donor/Desynced")),
])
def test_a_node_by_its_own_account(said: dict[str, str], expected: tuple[Grade, str]) -> None:
    assert grade(report(**said)) == expected


def test_nothing_is_said_before_every_node_was_seen() -> None:
    cluster = Cluster()
    assert cluster.judge(99.0) == []  # there are none yet
    cluster.add(A)
    cluster.add(B)
    cluster.saw(A, WELL)
    assert cluster.judge(100.0) == [] and cluster.verdict(A) is None
    cluster.failed(B, "connection refused")
    assert {node: reason(new) for node, _, new in cluster.judge(100.1)} == {
        A: "up: Synced", B: "down: connection refused"}


def test_a_node_that_is_added_holds_up_no_verdict() -> None:
    cluster = Watched()
    cluster.add(D)
    cluster.saw(A, DONOR)
    assert cluster.after(0) == {A: "drain: Donor/Desynced", D: "unknown"}


@pytest.mark.parametrize(("donor", "expected"), [
    ("avoid", "drain: Donor/Desynced"), ("use", "up: Donor/Desynced"), ("never", "drain: Donor/Desynced")])
def test_a_donor_while_there_is_better(donor: str, expected: str) -> None:
    cluster = Watched(donor)
    cluster.saw(A, DONOR)
    assert cluster.after(0) == {A: expected}


@pytest.mark.parametrize(("donor", "up"), [("avoid", True), ("use", True), ("never", False)])
def test_a_donor_when_nothing_better_is_left(donor: str, up: bool) -> None:
    cluster = Watched(donor)
    cluster.saw(A, DONOR)
    cluster.failed(B, "connection refused")
    cluster.saw(C, replace(WELL, read_only=True))
    cluster.after(0)
    assert cluster.usable() == ([A] if up else [])


@pytest.mark.parametrize(("said", "expected"), [
    ({"state": 3, "comment": "Joined"}, "drain: Joined"), ({"maintenance": "MAINTENANCE"}, "drain: pxc_maint_mode is "
     "MAINTENANCE"), ({"maintenance": "SHUTDOWN"}, "drain: pxc_maint_mode is SHUTDOWN"),
    ({"read_only": True}, "down: read_only"), ({"state": 1, "comment": "Joining"}, "down: Joining"),
    ({"state": 2, "donor_rejects": True}, "lost: donor that rejects queries"), ({"status": "non-Primary"},
     "lost: non-Primary"), ({"state": 2, "ready": False, "comment": "Donor"}, "lost: not ready (Donor)"),
    ({"state": 2, "view": View("u1", 9, 1, A)}, "lost: another group than the majority"),
    ({"state": 2, "rejects": "ALL"}, "lost: rejects queries (ALL)")])
def test_whose_sessions_may_go_on(said: dict[str, Any], expected: str) -> None:
    cluster = Watched()
    cluster.saw(A, replace(WELL, **said))
    cluster.after(0)
    assert cluster.after(GRACE) == {A: expected}


def test_a_node_that_lags_keeps_its_sessions() -> None:
    cluster = Watched()
    cluster.lagging = {A: "lags"}
    assert cluster.after(0) == {A: "drain: lags"}


def test_a_donor_that_can_not_be_seen_keeps_its_verdict_and_one_that_hangs_does_not() -> None:
    cluster = Watched()
    cluster.saw(A, DONOR)
    cluster.after(0)
    cluster.failed(A, "access denied", blind=True)
    assert cluster.after(GRACE) == {A: "drain: Donor/Desynced"}
    cluster.hangs(A, "no answer for 1 s")
    assert cluster.after(0) == {A: "down: no answer for 1 s"}


@pytest.mark.parametrize(("said", "writes"), [
    ({"state": 2}, True), ({"state": 3}, True), ({"maintenance": "MAINTENANCE"}, True), ({"read_only": True}, False),
    ({"rejects": "ALL"}, False)])
def test_on_whom_somebody_may_be_writing(said: dict[str, Any], writes: bool) -> None:
    cluster = Watched()
    cluster.saw(A, replace(WELL, **said))
    assert (A in cluster.writable()) == writes


def test_a_node_of_a_minority_is_not_used() -> None:
    cluster = Cluster()
    for node, view in ((A, View("u1", 9, 1, A)), (B, OLD), (C, OLD)):
        cluster.add(node)
        cluster.saw(node, replace(WELL, view=view))
    cluster.judge(100.0)
    assert cluster.usable() == [B, C]
    assert reason(cluster.verdict(A)) == "lost: another group than the majority"


@pytest.mark.parametrize("first", [[A], [A, B]])
def test_a_change_of_membership_turns_no_node_down(first: list[str]) -> None:
    cluster = Watched()
    for node in first:
        cluster.saw(node, replace(WELL, view=NEW))
    assert cluster.after(0.1) == {}
    assert cluster.after(GRACE / 2) == {}
    for node in (A, B, C):
        cluster.saw(node, replace(WELL, view=NEW))
    assert cluster.after(5.0) == {}


def test_a_node_that_stays_behind_is_not_used() -> None:
    cluster = Watched()
    for node in (B, C):
        cluster.saw(node, replace(WELL, view=NEW))
    assert cluster.after(0) == {}
    assert cluster.after(GRACE) == {A: "lost: another group than the majority"}


def test_a_node_that_comes_back_must_be_of_the_group_at_once() -> None:
    cluster = Watched()
    cluster.failed(A, "connection refused")
    assert cluster.after(0.1) == {A: "down: connection refused"}
    cluster.saw(A, replace(WELL, view=View("u1", 6, 3, MEMBERS)))
    assert cluster.after(0.1) == {A: "lost: another group than the majority"}
    cluster.saw(A, WELL)
    assert cluster.after(0.1) == {}


def test_a_node_that_hung_is_believed_only_after_a_while() -> None:
    cluster = Watched()
    cluster.hangs(A, "no answer for 1 s")
    assert cluster.after(1) == {A: "down: no answer for 1 s"}
    for node in (B, C):
        cluster.saw(node, replace(WELL, view=NEW))
    cluster.after(2)
    cluster.saw(A, WELL)  # what it knew when it was stopped
    assert cluster.after(0.01) == {A: "lost: another group than the majority"}
    cluster.saw(A, replace(WELL, view=NEW))
    assert cluster.after(0.01) == {A: "down: answers again, not believed yet"}
    cluster.saw(A, replace(WELL, status="non-Primary", ready=False))
    assert cluster.after(GRACE / 2) == {A: "lost: non-Primary"}
    cluster.saw(A, replace(WELL, view=NEW))
    assert cluster.after(GRACE / 2) == {A: "down: answers again, not believed yet"}
    assert cluster.after(GRACE) == {}


def test_a_node_that_hung_briefly_comes_back() -> None:
    cluster = Watched()
    cluster.hangs(A, "no answer for 1 s")
    cluster.after(0)
    cluster.saw(A, WELL)
    cluster.after(0)
    assert cluster.after(GRACE) == {}


@pytest.mark.parametrize(("ours", "theirs", "used"), [
    (OLD, NEW, [B]),  # the newer of one cluster
    (OLD, View("u2", 9, 4, MEMBERS), [A]),  # of two clusters the one that was followed
])
def test_two_groups_of_a_size(ours: View, theirs: View, used: list[str]) -> None:
    cluster = Watched()
    cluster.remove(C)
    cluster.saw(A, replace(WELL, view=ours))
    cluster.saw(B, replace(WELL, view=theirs))
    cluster.after(0)
    cluster.after(GRACE)
    assert cluster.usable() == used


def test_a_watcher_that_may_not_log_in_says_nothing_of_the_node() -> None:
    """What was thought of it stays, but it is not made the writer; nor is it left, for somebody may write there."""
    cluster = Watched()
    cluster.failed(A, "access denied for user 'x'", blind=True)
    assert cluster.after(0) == {}
    assert cluster.problem(A) == "access denied for user 'x'" and cluster.blind_since(A) == cluster.now
    assert (cluster.usable(), cluster.blind(), cluster.writable()) == ([B, C], [A], [A, B, C])
    cluster.failed(A, "connection refused")
    assert cluster.after(1) == {A: "down: connection refused"} and cluster.writable() == [B, C]
    cluster.failed(A, "access denied for user 'x'", blind=True)
    assert cluster.after(1) == {A: "down: connection refused"}
    cluster.saw(A, WELL)
    assert cluster.after(1) == {} and cluster.blind_since(A) is None


def test_of_a_node_that_could_never_be_seen_nothing_is_known() -> None:
    cluster = Cluster()
    for node in (A, B):
        cluster.add(node)
    cluster.failed(A, "access denied", blind=True)
    cluster.saw(B, WELL)
    cluster.judge(100.0)
    assert cluster.verdict(A) is None and (cluster.usable(), cluster.blind()) == ([B], [A])


def test_the_others_tell_that_a_node_has_left_them() -> None:
    cluster = Watched()
    cluster.saw(A, replace(WELL, index=0))
    cluster.after(0)
    cluster.failed(A, "access denied", blind=True)
    cluster.after(0)
    for node in (B, C):
        cluster.saw(node, replace(WELL, members=(B, C), view=View("u1", 8, 2, f"{B},{C}")))
    assert cluster.after(0.1) == {} and cluster.writable() == [B, C]
    assert cluster.after(GRACE) == {A: "lost: the others' group is without it"}


@pytest.mark.parametrize("donor", ["avoid", "never"])
def test_a_node_that_cant_be_seen_is_better_than_a_donor(donor: str) -> None:
    cluster = Watched(donor)
    cluster.failed(A, "access denied", blind=True)
    for node in (B, C):
        cluster.saw(node, DONOR)
    assert cluster.after(0) == {B: "drain: Donor/Desynced", C: "drain: Donor/Desynced"}


def test_quorum_lost_and_back() -> None:
    cluster = Watched()
    for node in (A, B):
        cluster.failed(node, "connection refused")
    cluster.saw(C, replace(WELL, status="non-Primary", ready=False, view=View("u1", 0, 1), members=(C,)))
    assert cluster.after(0) == {A: "down: connection refused", B: "down: connection refused", C: "lost: non-Primary"}
    assert cluster.answering() == [] and cluster.members() == []
    cluster.saw(C, replace(WELL, view=View("u1", 9, 1), members=(C,)))
    cluster.after(0)
    assert cluster.usable() == [C] and cluster.members() == [C]


def test_changes_are_told_once() -> None:
    cluster = Watched()
    cluster.saw(A, DONOR)
    changes: list[Any] = cluster.judge(101.0)
    assert [(node, reason(old), reason(new)) for node, old, new in changes] == [
        (A, "up: Synced", "drain: Donor/Desynced")]
    assert cluster.judge(102.0) == []
    verdict = cluster.verdict(A)
    assert verdict is not None and verdict.since == 101.0


# --- the group that is followed --------------------------------------------------------------------------------------

STRANGER = replace(WELL, view=View("u2", 99, 1, C))
FOREIGN = "lost: of cluster u2, which is not followed: gpen-galera adopt UUID"


def test_a_stranger_is_not_taken_for_the_cluster_that_hangs() -> None:
    cluster = Watched()
    cluster.saw(C, STRANGER)
    assert cluster.after(0) == {C: FOREIGN}
    for node in (A, B):
        cluster.hangs(node, "no answer for 1 s")
    for _ in range(3):
        assert cluster.after((FORGET - 1) / 3)[C] == FOREIGN
    for node in (A, B):
        cluster.saw(node, WELL)
    cluster.after(0)
    assert cluster.after(GRACE) == {C: FOREIGN}


@pytest.mark.parametrize("state", [
    replace(WELL, status="non-Primary", ready=False, view=View("u1", 0, 1)), "access denied"])
def test_a_cluster_without_quorum_or_access_has_answered(state: Report | str) -> None:
    cluster = Watched()
    cluster.saw(C, STRANGER)
    cluster.after(0)
    for _ in range(3):
        for node in (A, B):
            if isinstance(state, str):
                cluster.failed(node, state, blind=True)
            else:
                cluster.saw(node, state)
        assert cluster.after(FORGET)[C] == FOREIGN


def test_another_cluster_is_followed_when_none_of_the_old_one_has_answered_for_long() -> None:
    cluster = Watched()
    for node in (A, B):
        cluster.hangs(node, "no answer for 1 s")
    cluster.saw(C, STRANGER)
    assert C in cluster.after(FORGET - 1)
    cluster.followed.woke(cluster.now)  # the watcher itself was paused: that counts for nobody
    assert C in cluster.after(FORGET - 1)
    assert C not in cluster.after(1)
    assert cluster.followed.uuid == "u2"


def test_the_operator_may_have_another_cluster_followed() -> None:
    cluster = Watched()
    cluster.saw(C, STRANGER)
    assert cluster.after(0) == {C: FOREIGN} and cluster.clusters() == {"u1": [A, B], "u2": [C]}
    cluster.followed.adopt("u2", cluster.now)
    assert cluster.after(0) == dict.fromkeys(
        (A, B), "lost: of cluster u1, which is not followed: gpen-galera adopt UUID")


@pytest.mark.parametrize("first", [{A}, {A, B}])
def test_slow_answers_of_before_a_change_are_held_against_nobody(first: set[str]) -> None:
    """Whoever tells the new view first, and however late the others' answers to the questions of before come."""
    cluster = Watched()
    late = {A, B, C} - first
    for node in first:
        cluster.saw(node, replace(WELL, view=NEW))
    for _ in range(5):
        assert cluster.after(GRACE, late) == {}
    for node in late:
        cluster.saw(node, replace(WELL, view=NEW))
    assert cluster.after(5.0) == {}


def test_two_halves_that_were_both_bootstrapped_are_no_group() -> None:
    cluster = Watched()
    cluster.add(D)
    for node in (A, B, C, D):
        cluster.saw(node, replace(WELL, view=View("u1", 8, 4, "all")))
    cluster.after(GRACE)
    for node, half in ((A, f"{A},{B}"), (B, f"{A},{B}"), (C, f"{C},{D}"), (D, f"{C},{D}")):
        cluster.saw(node, replace(WELL, view=View("u1", 9, 2, half)))
    cluster.after(0)
    cluster.after(GRACE)
    assert cluster.usable() in ([A, B], [C, D])
    used = cluster.usable()
    assert cluster.after(GRACE) and cluster.usable() == used


def test_more_nodes_than_a_group_has_are_none() -> None:
    """Members that do not tell their addresses can't be told apart; two addresses may be one node, though."""
    cluster = Watched()
    cluster.add(D)
    both = replace(WELL, view=View("u1", 9, 2, "AUTO,AUTO"))
    for node, index, name in ((A, 0, "a"), (B, 1, "b"), (C, 0, "a"), (D, 1, "b")):
        cluster.saw(node, replace(both, index=index, name=name))
    assert cluster.after(GRACE) == {}
    cluster.saw(C, replace(both, index=0, name="c"))
    assert cluster.after(0) == {}  # it may pass
    assert cluster.after(GRACE) == dict.fromkeys((A, B, C, D), "lost: its group of 2 is told by more nodes")
