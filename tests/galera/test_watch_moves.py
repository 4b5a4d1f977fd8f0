"""The writer on a real cluster: moved, taken over, agreed."""

from __future__ import annotations

import json
import platform
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.galera.cluster import Cluster
from tests.galera.watcher import Watcher
from tests.harness import Gpen, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]

Start = Callable[..., Any]
WRITER = ("-r", "-O", "prio", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")


@pytest.fixture
def start_writer(cluster: Cluster, gpen: Start, watcher: Start) -> Callable[..., tuple[Gpen, Watcher]]:
    """Start a gpen for writes and its watcher, who has node 1 as the writer."""

    def start(*options: str) -> tuple[Gpen, Watcher]:
        if "--agree" in options:  # what tests of before have agreed counts for nothing
            cluster.nodes[0].sql("DROP TABLE IF EXISTS agreed.gpen_writer, agreed.gpen_watcher")
        front = gpen(*WRITER, servers=[node.address for node in cluster.nodes])
        judge = watcher("--writer", front.control, "--prefer", cluster.nodes[0].address, *options)
        wait_until(lambda: writer(judge) == cluster.nodes[0].address and front.server(0)["verdict"] == "up"
                   and front_of(front) == [0], what="the first node being the writer")
        return front, judge

    return start


def writer(watcher: Watcher) -> Any:
    done = watcher.command("status", "--json")
    return json.loads(done.stdout)["writer"] if done.stdout else None


def ranks(gpen: Gpen) -> list[int]:
    return [row["prio"] for row in gpen.json("servers")]


def front_of(gpen: Gpen) -> list[int]:
    """The servers with the lowest prio."""
    return [number for number, rank in enumerate(ranks(gpen)) if rank == min(ranks(gpen))]


def changes(watcher: Watcher) -> list[str]:
    """What the log says of the writer."""
    return [line.partition("writer: ")[2] for line in watcher.stderr.splitlines() if "writer: " in line]


def session(gpen: Gpen) -> pymysql.connections.Connection[Any]:
    assert isinstance(gpen.address, tuple)
    host, port = gpen.address
    return pymysql.connect(host=host, port=port, user="app", password="app", ssl_disabled=True, read_timeout=20)


def node_of(connection: pymysql.connections.Connection[Any]) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@wsrep_node_name")
        return str(cursor.fetchall()[0][0])


def test_a_move_ends_the_old_writers_sessions(start_writer: Start) -> None:
    front, judge = start_writer()
    with session(front) as old:
        assert node_of(old) == "node1"
        moved = judge.command("move", "node2")
        assert (moved.returncode, moved.stderr) == (0, "")
        assert "(node2) is the writer" in moved.stdout
        with pytest.raises(pymysql.err.OperationalError) as ended:
            node_of(old)
        assert ended.value.args[0] in (2006, 2013)
        old._force_close()  # type: ignore[attr-defined]
    with session(front) as new:
        assert node_of(new) == "node2"
    assert sorted(ranks(front)) == [0, 1, 2] and front_of(front) == [1]


def test_the_log_says_why_the_writer_changes(cluster: Cluster, start_writer: Start) -> None:
    front, judge = start_writer("--failback")
    first, second, third = (f"{node.address} ({node.name})" for node in cluster.nodes)
    assert changes(judge) == [f"{first}, the first choice"]
    assert judge.command("move", "node2").returncode == 0
    assert changes(judge)[1:] == [f"{first} -> {second}: moved by the operator"]
    assert judge.command("move", "node1").returncode == 0
    cluster.nodes[0].assign("read_only", 1)
    wait_until(lambda: len(changes(judge)) == 4, what="another writer")
    cluster.nodes[0].make_usual()
    wait_until(lambda: len(changes(judge)) == 5, what="the failback")
    other = changes(judge)[3].removeprefix(f"{first} -> ").removesuffix(": read_only")
    assert other in (second, third)
    assert changes(judge)[2:] == [f"{second} -> {first}: moved by the operator", f"{first} -> {other}: read_only",
                                  f"{other} -> {first}: failback"]
    wait_until(lambda: front_of(front) == [0], what="the failback at the gpen")


def test_a_gpen_that_does_not_go_with_the_writer_is_told_how(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    """It uses one node even so, and what the operator mends is seen."""
    front = gpen(servers=[node.address for node in cluster.nodes])
    judge = watcher("--writer", front.control)
    wait_until(lambda: front_of(front) != [0, 1, 2]
               and sorted(row["verdict"] or "" for row in front.json("servers")) == ["down", "down", "up"],
               what="ranks and verdicts")

    def problem() -> str:
        (row,) = json.loads(judge.command("status", "--json").stdout)["gpens"]
        return str(row["problem"])

    place = front.control
    for mode, effect in (("prio", "writes go to several nodes"),
                         ("roundrobin", "clients that it remembers stay at the old writer")):
        expected = f"{place}: runs without {mode}: {effect}: gpenctl {place} {mode}"
        wait_until(lambda expected=expected: problem() == expected, what="the problem")
        assert judge.command("status").returncode == 1
        assert judge.stderr.count(f"gpen {expected}\n") == 1
        front.ctl(mode)
    wait_until(lambda: problem() == "", what="no problem")
    assert f"gpen {place}: well again" in judge.stderr


def test_a_move_may_leave_the_old_writers_sessions(start_writer: Start) -> None:
    front, judge = start_writer("--keep-old-sessions")
    with session(front) as old:
        assert judge.command("move", "node3").returncode == 0
        assert node_of(old) == "node1"
        with session(front) as new:
            assert node_of(new) == "node3"


@pytest.mark.parametrize(("name", "expected"), [
    ("node", "'node' could be several nodes"), ("elsewhere", "'elsewhere' is no node"),
    ("node3", "(node3) can't be the writer: read_only")])
def test_moves_that_are_refused(cluster: Cluster, start_writer: Start, name: str, expected: str) -> None:
    front, judge = start_writer()
    cluster.nodes[2].assign("read_only", 1)
    wait_until(lambda: front.server(2)["verdict_reason"] == "read_only", what="the third node being found unfit")
    refused = judge.command("move", name)
    assert refused.returncode == 1 and refused.stdout == ""
    assert expected in refused.stderr and refused.stderr.count("\n") == 1
    assert front_of(front) == [0]


def test_a_watcher_that_is_restarted_takes_the_writer_as_it_is(
        cluster: Cluster, start_writer: Start, watcher: Start) -> None:
    """Even though another one is preferred; and no session ends."""
    front, judge = start_writer()
    assert judge.command("move", "node3").returncode == 0
    judge.process.send_signal(signal.SIGKILL)
    judge.process.wait()
    with session(front) as kept:
        second = watcher("--writer", front.control, "--prefer", cluster.nodes[0].address)
        wait_until(lambda: writer(second) is not None, what="the second watcher having a writer")
        assert writer(second) == cluster.nodes[2].address
        assert changes(second) == [f"{cluster.nodes[2].address} (node3), found in use"]
        assert node_of(kept) == "node3"
    assert front_of(front) == [2]


def test_without_a_watcher_a_dead_writer_fails_over(cluster: Cluster, start_writer: Start) -> None:
    front, judge = start_writer()
    ranked = ranks(front)
    judge.process.send_signal(signal.SIGKILL)
    judge.process.wait()
    cluster.nodes[0].kill()
    with session(front) as new:
        assert node_of(new) == f"node{ranked.index(1) + 1}"


def test_a_writer_that_is_drained_loses_the_role_and_keeps_its_sessions(start_writer: Start) -> None:
    front, judge = start_writer()
    with session(front) as old:
        assert node_of(old) == "node1"
        front.ctl("server 0 state drain")
        wait_until(lambda: writer(judge) not in (None, front.server(0)["address"] + ":3306"), what="another writer")
        assert node_of(old) == "node1"


def test_several_watchers_have_one_writer(cluster: Cluster, start_writer: Start, gpen: Start, watcher: Start) -> None:
    """A move through one is followed by the other; only the writer is used; verdicts don't outlive the watchers."""
    front, judge = start_writer("--agree", "agreed")
    other = gpen(*WRITER, servers=[node.address for node in reversed(cluster.nodes)])
    second = watcher("--writer", other.control, "--agree", "agreed")
    wait_until(lambda: writer(second) == cluster.nodes[0].address, what="the second agreeing")
    wait_until(lambda: [row["verdict"] for row in other.json("servers")] == ["down", "down", "up"],
               what="only the writer being up")
    assert other.ctl("health_ttl").strip() == "5"
    assert second.command("move", "node2").returncode == 0
    wait_until(lambda: writer(judge) == cluster.nodes[1].address and front_of(front) == [1], what="the first following")
    wait_until(lambda: [row["verdict"] for row in front.json("servers")] == ["down", "up", "down"],
               what="only the new writer being up")
    assert front.server(0)["verdict_reason"] == f"standby: {cluster.nodes[1].address} is the writer"
    for each in (judge, second):
        assert changes(each)[-1] == (f"{cluster.nodes[0].address} (node1) -> {cluster.nodes[1].address} (node2): "
                                     "moved by the operator")


def test_the_writer_stays_while_a_watcher_hangs(
        cluster: Cluster, start_writer: Start, gpen: Start, watcher: Start) -> None:
    """Its gpen can't be told, and would go on using the old one. So nobody leaves it, and the operator is told why."""
    front, judge = start_writer("--agree", "agreed")
    other = gpen(*WRITER, servers=[node.address for node in cluster.nodes])
    second = watcher("--writer", other.control, "--agree", "agreed")
    wait_until(lambda: writer(second) == cluster.nodes[0].address and other.server(0)["verdict"] == "up",
               what="the second agreeing")
    second.process.send_signal(signal.SIGSTOP)
    try:
        refused = judge.command("move", "node2")
    finally:
        second.process.send_signal(signal.SIGCONT)
    assert refused.returncode == 1
    assert f"not confirmed within 2 s by {platform.node()}:{second.socket} (if one is gone for good: UPDATE `agreed`." \
        in refused.stderr
    wait_until(lambda: front.server(0)["verdict"] == "up" == other.server(0)["verdict"], what="the old writer in use")
    assert front_of(front) == front_of(other) == [0]
    moved = judge.command("move", "node2")
    assert (moved.returncode, moved.stderr) == (0, "")
    wait_until(lambda: front_of(front) == front_of(other) == [1], what="both following")


def test_a_dead_writer_is_left_even_while_a_watcher_hangs(
        cluster: Cluster, start_writer: Start, gpen: Start, watcher: Start) -> None:
    front, judge = start_writer("--agree", "agreed")
    second = watcher("--writer", gpen(*WRITER, servers=[node.address for node in cluster.nodes]).control,
                     "--agree", "agreed")
    wait_until(lambda: writer(second) is not None, what="the second agreeing")
    second.process.send_signal(signal.SIGSTOP)
    try:
        cluster.nodes[0].kill()
        wait_until(lambda: writer(judge) not in (None, cluster.nodes[0].address), what="another writer")
        with session(front) as new:
            assert node_of(new) in ("node2", "node3")
    finally:
        second.process.send_signal(signal.SIGCONT)


def test_a_user_without_rights_is_told_which(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    front = gpen(*WRITER, servers=[node.address for node in cluster.nodes])
    judge = watcher("--writer", front.control, "--agree", "app")
    wait_until(lambda: "agreement: SELECT command denied to user 'watcher'" in judge.stderr,
               what="the log saying which right is missing")
    assert judge.stderr.count("agreement:") == 1
    assert [row["verdict"] for row in front.json("servers")] == [None] * 3


def test_no_credentials_are_seen_in_ps(start_writer: Start) -> None:
    _, judge = start_writer()
    assert b"watching" not in Path(f"/proc/{judge.process.pid}/cmdline").read_bytes()
