"""Donors, and other nodes that serve but are to get no new clients, before gpens with ``on_down close``: what becomes
of their sessions. With stubs."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.galera.cluster import WATCHER
from tests.galera.stub import XTRADB, Group, Stub
from tests.galera.test_watch_faults import ROW, answering
from tests.harness import Gpen, wait_until

Start = Callable[..., Any]
Connect = Callable[[Gpen], "pymysql.Connection[Any]"]
FRONT = ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10", "-O", "on_down close")
DONOR = {"wsrep_local_state": "2", "wsrep_local_state_comment": "Donor/Desynced"}
JOINED = {"wsrep_local_state": "3", "wsrep_local_state_comment": "Joined"}
SYNCED = {"wsrep_local_state": "4", "wsrep_local_state_comment": "Synced"}


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3, XTRADB) as group:
        yield group


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Log in through a gpen."""
    with ExitStack() as stack:
        yield lambda front: stack.enter_context(pymysql.connect(
            host=front.address[0], port=front.address[1], user="app", password=WATCHER[1], connect_timeout=15))


def health(front: Gpen) -> list[tuple[str, str]]:
    return [(row["health"], row["verdict_reason"]) for row in front.json("servers")]


def node_of(session: pymysql.Connection[Any]) -> str:
    with session.cursor() as cursor:
        cursor.execute("SELECT @@wsrep_node_name")
        row = cursor.fetchone()
        assert row is not None
        return str(row[0])


def is_closed(session: pymysql.Connection[Any]) -> bool:
    try:
        session.ping(reconnect=False)
        return False
    except pymysql.MySQLError:
        return True


def on(node: Stub, front: Gpen, connect: Connect) -> pymysql.Connection[Any]:
    """A session on this node."""
    return next(session for session in iter(lambda: connect(front), None) if node_of(session) == node.name)


def reading(group: Group, gpen: Start, watcher: Start, *options: str) -> Gpen:
    front: Gpen = gpen(*FRONT, servers=group.addresses)
    watcher("--reader", front.control, *options)
    wait_until(lambda: health(front) == [("up", "Synced")] * 3, what="all nodes being up")
    return front


def writing(group: Group, gpen: Start, watcher: Start, *options: str) -> tuple[Gpen, Any]:
    """A gpen whose writer is the first node, and its watcher."""
    front: Gpen = gpen(*FRONT, "-O", "prio", servers=group.addresses)
    judge = watcher("--writer", front.control, *options)
    wait_until(lambda: health(front)[0][0] == "up" and "up" not in dict(health(front)[1:]),
               what="the first node alone being up")
    return front, judge


# --- readers ---------------------------------------------------------------------------------------------------------


def test_the_sessions_of_a_donor_outlive_the_whole_transfer(
        group: Group, gpen: Start, watcher: Start, connect: Connect) -> None:
    node, front = group.nodes[1], reading(group, gpen, watcher)
    session = on(node, front, connect)
    for said, expected in ((DONOR, ("drain", "Donor/Desynced")), (JOINED, ("drain", "Joined")),
                           (SYNCED, ("up", "Synced"))):
        node.said.update(said)
        wait_until(lambda expected=expected: health(front)[1] == expected, what=f"{expected}")
        assert node_of(session) == "node1"
        if said is not SYNCED:
            assert {node_of(connect(front)) for _ in range(4)} == {"node0", "node2"}
    assert [row["event"] for row in front.json("events 100") if row["server"] == 1][-2:] == ["drained", "up"]


@pytest.mark.parametrize(("said", "reason"), [
    ({"pxc_maint_mode": "MAINTENANCE"}, "pxc_maint_mode is MAINTENANCE"),
    ({"wsrep_local_recv_queue": "50"}, "lags: its queue is longer than 10"),
    (DONOR | {"wsrep_desync": "ON", "wsrep_sst_donor_rejects_queries": "ON"}, "Donor/Desynced")])
def test_who_else_keeps_its_sessions(group: Group, gpen: Start, watcher: Start, connect: Connect,
                                     said: dict[str, str], reason: str) -> None:
    node, front = group.nodes[1], reading(group, gpen, watcher, "--max-queue", "10")
    session = on(node, front, connect)
    node.said.update(said)
    wait_until(lambda: health(front)[1] == ("drain", reason), what="it draining")
    assert not is_closed(session)


@pytest.mark.parametrize(("said", "reason"), [
    ({"wsrep_sst_donor_rejects_queries": "ON"}, "donor that rejects queries"),
    ({"wsrep_cluster_status": "non-Primary"}, "non-Primary"), ({"read_only": "ON"}, "read_only")])
def test_a_donor_that_is_of_no_use_any_more_loses_them(group: Group, gpen: Start, watcher: Start, connect: Connect,
                                                       said: dict[str, str], reason: str) -> None:
    node, front = group.nodes[1], reading(group, gpen, watcher)
    session = on(node, front, connect)
    node.said.update(DONOR)
    wait_until(lambda: health(front)[1] == ("drain", "Donor/Desynced"), what="it draining")
    assert not is_closed(session)
    node.said.update(said)
    wait_until(lambda: health(front)[1] == ("down", reason), what="it being down")
    wait_until(lambda: is_closed(session), what="the session's end")


def test_status_and_the_log_say_so(group: Group, gpen: Start, watcher: Start) -> None:
    front: Gpen = gpen(*FRONT, servers=group.addresses)
    judge = watcher("--reader", front.control)
    group.nodes[1].said.update(DONOR)
    wait_until(lambda: [word for word, _ in health(front)] == ["up", "drain", "up"], what="it draining")
    wait_until(lambda: "2 of 3, 1 drain" in judge.command("status").stdout, what="status telling it")
    (row,) = json.loads(judge.command("status", "--json").stdout)["gpens"]
    assert (row["up"], row["drain"]) == (2, 1)
    assert f"node {group.nodes[1].address} (node1): " in judge.stderr and "-> drain: Donor/Desynced" in judge.stderr


# --- the writer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--agree", "agreed")])
def test_a_writer_that_becomes_a_donor_is_left_with_all_its_sessions(
        group: Group, gpen: Start, watcher: Start, connect: Connect, options: tuple[str, ...]) -> None:
    front, _ = writing(group, gpen, watcher, *options)
    session = connect(front)
    assert node_of(session) == "node0"
    group.nodes[0].said.update(DONOR)
    wait_until(lambda: health(front)[:2] == [("down", "Donor/Desynced"), ("up", "Synced")], what="the writer moving")
    wait_until(lambda: is_closed(session), what="the session's end")
    assert node_of(connect(front)) == "node1"


def test_a_writer_that_nobody_can_follow_keeps_them(
        group: Group, gpen: Start, watcher: Start, connect: Connect) -> None:
    front, judge = writing(group, gpen, watcher, "--donor", "never")
    session = connect(front)
    for node in group.nodes[1:]:
        node.kill()
    group.form(group.nodes[0])
    wait_until(lambda: judge.stderr.count("up -> down: connection refused") == 2, what="the others being missed")
    group.nodes[0].said.update(DONOR)
    wait_until(lambda: health(front)[0] == ("drain", "Donor/Desynced"), what="the writer draining")
    assert node_of(session) == "node0"
    with socket.create_connection(front.address) as waiting:
        wait_until(lambda: front.server(0)["held"] == 1, what="a new client waiting")
        group.nodes[0].said.update(SYNCED)
        assert b"node0" in waiting.recv(100)


@pytest.mark.parametrize("options", [("--keep-old-sessions",), ()])
def test_sessions_that_the_operator_keeps_on_the_old_writer(
        group: Group, gpen: Start, watcher: Start, connect: Connect, options: tuple[str, ...]) -> None:
    """By an option, or by state drain; as long as they are served."""
    front, judge = writing(group, gpen, watcher, *options)
    session = connect(front)
    if not options:
        front.ctl("server 0 state drain")
    else:
        assert judge.command("move", "node1").returncode == 0
    wait_until(lambda: [word for word, _ in health(front)] == ["drain", "up", "drain" if options else "down"],
               what="the writer moving")
    assert node_of(session) == "node0" and node_of(connect(front)) == "node1"
    group.nodes[0].said["wsrep_cluster_status"] = "non-Primary"
    wait_until(lambda: is_closed(session), what="the session's end")


# --- a gpen of before ------------------------------------------------------------------------------------------------


def test_a_gpen_that_does_not_know_the_word_is_named(group: Group, watcher: Start, tmp_path: Path) -> None:
    row = ROW | {"port": group.nodes[0].port, "max": 141}

    def answer(sock: socket.socket) -> None:
        for line in sock.makefile():
            known = {"pid": "77", "proxy_protocol": "off", "servers json": json.dumps([row])}
            refusal = "error: server: health: 'drain' is not up, down or unknown" * ("health drain" in line)
            if reply := known.get(line.strip(), refusal):
                sock.sendall(f"{reply}\n".encode())
        sock.shutdown(socket.SHUT_WR)

    with answering(tmp_path / "old.ctl", answer) as old:
        judge = watcher("--reader", old, "--donor", "never")
        wait_until(lambda: "up: Synced" in judge.stderr, what="the node being up")
        group.nodes[0].said.update(DONOR)
        wait_until(lambda: f"gpen {old}: it is older than this watcher" in judge.stderr, what="it being told")
        status = judge.command("status")
        assert status.returncode == 1 and "does not know 'health drain'" in status.stdout
