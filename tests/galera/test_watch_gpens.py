"""The gpens that go with the writer, before nodes that are stubs: none of their servers is used but the writer."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.galera.cluster import WATCHER
from tests.galera.stub import Error, Group
from tests.galera.watcher import Watcher
from tests.harness import Gpen, free_port, wait_until

Start = Callable[..., Any]
WRITER = ("-r", "-O", "prio", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")
TOO_MANY = b"\xff" + struct.pack("<H", 1040) + b"Too many connections"
FULL = struct.pack("<I", len(TOO_MANY)) + TOO_MANY


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


@pytest.fixture
def front(group: Group, gpen: Start) -> Gpen:
    return gpen(*WRITER, servers=group.addresses)


def told(judge: Watcher) -> dict[str, Any]:
    done = judge.command("status", "--json")
    return json.loads(done.stdout) if done.stdout else {"writer": None}


def full(judge: Watcher) -> dict[str, Any]:
    """The nodes that have no room, with what is said of that."""
    return {row["name"]: row["full"] for row in told(judge)["nodes"] if row["full"]}


def used(front: Gpen) -> list[int]:
    """The servers that may get connections."""
    return [row["number"] for row in front.json("servers") if row["health"] == "up" and row["state"] == "ready"]


def watching(watcher: Start, *options: str, first: str, fronts: Sequence[Gpen]) -> Watcher:
    """A watcher that has this node as the writer."""
    judge: Watcher = watcher(*(word for front in fronts for word in ("--writer", front.control)), *options)
    wait_until(lambda: told(judge)["writer"] == first and all(len(used(front)) == 1 for front in fronts),
               what="the writer")
    return judge


@contextlib.contextmanager
def session(front: Gpen) -> Iterator[pymysql.connections.Connection]:
    assert isinstance(front.address, tuple)
    connection = pymysql.connect(host=front.address[0], port=front.address[1], user="app", password="app",
                                 ssl_disabled=True, read_timeout=20)
    try:
        yield connection
    finally:
        with contextlib.suppress(pymysql.err.Error):
            connection.close()


def node_of(connection: pymysql.connections.Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@wsrep_node_name")
        return str(cursor.fetchall()[0][0])


def is_cut(connection: pymysql.connections.Connection) -> bool:
    try:
        connection.ping(reconnect=False)
    except pymysql.err.Error:
        return True
    return False


def test_the_others_are_held_down_until_the_watcher_has_gone(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    assert used(front) == [0]
    assert front.server(1)["verdict_reason"] == f"standby: {group.addresses[0]} is the writer"
    assert front.ctl("health_ttl").strip() == "5"
    judge.stop()
    group.nodes[0].kill()
    with session(front) as new:  # waits until the verdicts have expired
        assert node_of(new) != "node0"


def test_a_server_that_comes_gets_nothing(group: Group, front: Gpen, watcher: Start) -> None:
    """It refuses the watcher, and is not of the cluster, but has the lowest prio."""
    watching(watcher, first=group.addresses[0], fronts=[front])
    with Group(1) as strangers:
        strange = strangers.nodes[0]
        strange.refusal = Error(1045, "Access denied")
        front.ctl(f"server 3 address {strange.address} prio 0")
        wait_until(lambda: used(front) == [0] and front.server(3)["prio"] > 0, what="the stranger being held down")
        front.ctl(f"server 0 address {strange.address} prio 0", f"server 3 address {group.addresses[0]} prio 0",
                  "server 3 health unknown")
        wait_until(lambda: used(front) == [3] and front.server(0)["prio"] > 0, what="the one that moved held down")
        with session(front) as new:
            assert node_of(new) == "node0"


def strays_and_is_cut(front: Gpen) -> bool:
    """Have a session on the second node, unless the watcher puts the gpen right before it is there; see it end."""
    front.ctl("server 1 prio 0 health up", "server 0 prio 9 health down")
    with session(front) as wrong:
        try:
            if node_of(wrong) != "node1":
                return False
        except pymysql.err.OperationalError:
            return True  # it was quick
        wait_until(lambda: is_cut(wrong), what="its end")
        return True


def test_a_session_on_another_server_ends(group: Group, front: Gpen, watcher: Start) -> None:
    watching(watcher, first=group.addresses[0], fronts=[front])
    with session(front) as right:
        wait_until(lambda: strays_and_is_cut(front), what="the end of a session on the second node")
        wait_until(lambda: used(front) == [0], what="the writer being used again")
        assert node_of(right) == "node0"


def test_sessions_of_a_server_that_is_gone_end_with_its_role(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    with session(front) as old:
        front.ctl(f"server 7 address 127.0.0.1 port {group.nodes[0].port}", "no server 0")
        wait_until(lambda: used(front) == [7], what="the writer having another number")
        assert not is_cut(old)
        assert judge.command("move", group.addresses[1]).returncode == 0
        wait_until(lambda: is_cut(old), what="the session at the old writer ending")


def test_a_node_may_be_listed_twice(group: Group, gpen: Start, watcher: Start) -> None:
    twice = [*group.addresses, group.addresses[1]]
    front = gpen(*WRITER, servers=twice)
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    moved = judge.command("move", group.addresses[1])
    assert (moved.returncode, moved.stderr) == (0, "")
    assert used(front) == [1, 3]
    judge.stop()
    watching_again = watcher("--writer", front.control)
    wait_until(lambda: told(watching_again)["writer"] == group.addresses[1], what="the writer as it was")


def test_the_writer_is_one_that_all_have(group: Group, front: Gpen, gpen: Start, watcher: Start) -> None:
    other = gpen(*WRITER, servers=group.addresses[:2])
    judge = watching(watcher, first=group.addresses[0], fronts=[front, other])
    refused = judge.command("move", group.addresses[2])
    assert refused.returncode == 1
    assert f"it is no server of {other.control}" in refused.stderr
    missing = f"{other.control}: has no server {group.addresses[2]}, which so can't be the writer"
    wait_until(lambda: [row["problem"] for row in told(judge)["gpens"]] == ["", missing], what="it being told")
    assert not told(judge)["well"]
    other.ctl("no server 0")
    wait_until(lambda: told(judge)["writer"] == group.addresses[1] and used(front) == [1] == used(other),
               what="the only one that both have")


def test_a_gpen_that_begins_anew_is_put_right(group: Group, tmp_path: Path, watcher: Start) -> None:
    """What came to the node that its command line has in front is ended."""
    port = free_port()
    arguments = [*WRITER, f"127.0.0.1:{port}", *group.addresses]
    with Gpen(tmp_path, *arguments, name="first") as front:
        judge = watching(watcher, first=group.addresses[0], fronts=[front])
        assert judge.command("move", group.addresses[2]).returncode == 0
    with Gpen(tmp_path, *arguments, name="second", control=front.control) as front:
        wait_until(lambda: used(front) == [2], what="the writer being used")
        wait_until(lambda: all(node.sessions("app") == 0 for node in group.nodes[:2]), what="no session elsewhere")
        with session(front) as new:
            assert node_of(new) == "node2"
        assert f"gpen {front.control}: began anew" in judge.stderr


def test_a_writer_that_is_full_is_waited_for(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    group.nodes[0].greeting = FULL
    clients: list[str] = []
    waiting = in_background(lambda: clients.append(first_answer(front)))
    wait_until(lambda: full(judge) == {"node0": {front.control: "too many connections (1040)"}}, what="it being told")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 4 or told(judge)["writer"] != group.addresses[0], what="4 s")
    assert told(judge)["writer"] == group.addresses[0]
    assert clients == [] and group.nodes[1].sessions("app") == group.nodes[2].sessions("app") == 0
    group.nodes[0].greeting = None
    waiting.join(5)
    assert clients == ["node0"]


def test_a_writer_that_lets_in_but_super_users_is_full(
        group: Group, front: Gpen, gpen: Start, watcher: Start) -> None:
    """It greets a client even so, and refuses it after the login."""
    node, reader = group.nodes[0], gpen("-r", "-O", "on_down close", servers=group.addresses)
    judge = watching(watcher, "--reader", reader.control, first=group.addresses[0], fronts=[front])
    with session(front) as kept:
        front.ctl("on_down close")
        node.said["Threads_connected"] = node.said["max_connections"]
        wait_until(lambda: used(front) == [] and used(reader) == [1, 2], what="no new clients for it")
        wait_until(lambda: set(full(judge)["node0"].values()) == {"all 151 connections in use"})
        clients: list[str] = []
        waiting = in_background(lambda: clients.append(first_answer(front)))
        asked = node.questions
        wait_until(lambda: node.questions > asked + 4, what="some polls")
        assert clients == [] and not is_cut(kept) and told(judge)["writer"] == group.addresses[0]
        node.said["Threads_connected"] = "150"
        waiting.join(5)
    assert clients == ["node0"]
    assert used(reader) == [0, 1, 2]


def first_answer(front: Gpen) -> str:
    with session(front) as new:
        return node_of(new)


def in_background(work: Callable[[], None]) -> Any:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def limits(front: Gpen) -> list[int]:
    return [row["max"] for row in front.json("servers")]


def test_room_is_left_at_the_nodes(group: Group, front: Gpen, watcher: Start) -> None:
    """But a lower max is the operator's."""
    front.ctl("server 1 max 20", "server 2 max 1000")
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    wait_until(lambda: limits(front) == [141, 20, 141], what="max_connections less ten")
    for node in group.nodes:
        node.said["max_connections"] = "500"
    wait_until(lambda: limits(front) == [490, 20, 490], what="the new max_connections less ten")
    group.nodes[0].said["max_connections"] = "11"
    wait_until(lambda: limits(front) == [1, 20, 490], what="room for one")
    with session(front) as only:
        assert node_of(only) == "node0"
        wait_until(lambda: full(judge) == {"node0": {front.control: "1 of 1 sessions"}}, what="it being told")
        assert f"{group.addresses[0]}: full for gpen {front.control}: 1 of 1 sessions" in judge.command("status").stdout


def test_a_max_of_before_is_told(group: Group, front: Gpen, watcher: Start) -> None:
    """A watcher that comes later can't tell it from an operator's."""
    watching(watcher, first=group.addresses[0], fronts=[front]).stop()
    wait_until(lambda: limits(front) == [141] * 3, what="max_connections less ten")
    for node in group.nodes:
        node.said["max_connections"] = "500"
    front.ctl("server 1 max 0")
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    wait_until(lambda: limits(front) == [141, 490, 141], what="the one that nobody has set being set")
    told_of = [(cap["server"], cap["max"], cap["room"]) for cap in told(judge)["gpens"][0]["capped"]]
    assert told_of == [(0, 141, 490), (2, 141, 490)] and told(judge)["well"]
    remedy = f"gpenctl {front.control} server 0 max 0 has the watcher set it"
    assert f"server 0 has max 141, and its node room for 490: {remedy}" in judge.command("status").stdout
    front.ctl("server 0 max 0", "server 2 max 0")
    wait_until(lambda: limits(front) == [490] * 3, what="the remedy helping")
    assert told(judge)["gpens"][0]["capped"] == []


def test_what_a_dead_gpen_said_grows_old(group: Group, front: Gpen, gpen: Start, watcher: Start) -> None:
    other = gpen(*WRITER, servers=group.addresses)
    judge = watching(watcher, first=group.addresses[0], fronts=[front, other])
    other.ctl("server 1 state drain")
    wait_until(lambda: judge.command("move", group.addresses[1]).returncode == 1, what="the drain being seen")
    other.process.kill()
    other.process.wait()
    other.process.returncode = 0
    wait_until(lambda: judge.command("move", group.addresses[1]).returncode == 0, 10, "the move")
    assert used(front) == [1]


def test_two_watchers_that_fight_are_told(group: Group, front: Gpen, watcher: Start) -> None:
    one = watching(watcher, first=group.addresses[0], fronts=[front])
    two = watching(watcher, first=group.addresses[0], fronts=[front])
    assert told(one)["well"] and told(two)["well"]
    one.command("move", group.addresses[1])
    for judge in (one, two):
        wait_until(lambda judge=judge: "somebody else puts another node in front" in told(judge)["gpens"][0]["problem"],
                   what="the other watcher being noticed")
        assert not told(judge)["well"]


def test_a_writer_that_has_no_room_for_the_watcher_stays(group: Group, front: Gpen, watcher: Start) -> None:
    judge = watching(watcher, first=group.addresses[0], fronts=[front])
    with session(front) as kept:
        group.nodes[0].refusal = Error(1040, "Too many connections")
        group.nodes[0].end_sessions(WATCHER[0])
        wait_until(lambda: "full: Too many connections" in str(told(judge)["nodes"]), what="it being told")
        wait_until(lambda: used(front) == [], what="no new clients for it")
        assert told(judge)["writer"] == group.addresses[0] and node_of(kept) == "node0"
        group.nodes[0].refusal = None
        assert first_answer(front) == "node0"  # has waited
