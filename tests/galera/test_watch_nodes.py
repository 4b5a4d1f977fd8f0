"""The watcher and real nodes: what it sees at once, what it must not misunderstand, and that it is not noticed."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pymysql
import pytest

from gpen.galera.gpen_client import GpenClient
from gpen.galera.plan import Addition, Changes, Order, Plans
from gpen.gpenctl.link import parse_target
from gpen.model.address import Address
from tests.galera.cluster import WATCHER, Cluster, Node
from tests.galera.watcher import COMMAND, Watcher
from tests.harness import Gpen, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]

Start = Callable[..., Any]
SLOW = ("--interval", "20")


def verdicts(gpen: Gpen) -> list[Any]:
    return [row["verdict"] for row in gpen.json("servers")]


def reasons(gpen: Gpen) -> list[Any]:
    return [row["verdict_reason"] for row in gpen.json("servers")]


def addresses(cluster: Cluster) -> list[str]:
    return [node.address for node in cluster.nodes]


def wait_up(gpen: Gpen, count: int = 3) -> None:
    wait_until(lambda: verdicts(gpen) == ["up"] * count, what="all verdicts being up")


def status(watcher: Watcher) -> Any:
    return json.loads(watcher.command("status", "--json").stdout)


def questions(node: Node) -> int:
    """How many a node has answered of those that a watcher asks."""
    return int(node.sql("SHOW GLOBAL STATUS LIKE 'Com_show_variables'")[0][1])


def test_no_trace_of_a_watcher(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    """It comes, stays, and goes: no aborted connection, no line in the log."""
    node = cluster.nodes[0]

    def aborted() -> Sequence[Any]:
        return node.sql("SHOW GLOBAL STATUS LIKE 'Aborted%'")

    front = gpen("-r", servers=addresses(cluster))
    before, size = aborted(), node.log_size
    for _ in range(3):
        began = front.server(0)["verdict_since"]
        with watcher("--reader", front.control):
            wait_until(lambda began=began: front.server(0)["verdict_since"] != began or verdicts(front)[0] == "up")
            asked = questions(node)
            wait_until(lambda asked=asked: questions(node) > asked + 4, what="some polls")
    assert aborted() == before
    assert node.logged(size) == ""


def test_a_watcher_whose_session_is_killed_only_logs_in_again(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    node = cluster.nodes[0]
    front = gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    wait_up(front)

    def sessions() -> set[int]:
        return {row[0] for row in node.sql("SELECT id FROM information_schema.PROCESSLIST WHERE user = 'watcher'")}

    for _ in range(3):
        old = sessions()
        node.sql(f"KILL {max(old)}")
        wait_until(lambda old=old: sessions() - old, what="a new session")
        asked = questions(node)
        wait_until(lambda asked=asked: questions(node) > asked, what="an answer there: one lost before is a failure")
    assert f"{node.address} ({node.name}): up" not in judge.stderr
    assert verdicts(front) == ["up"] * 3


@pytest.mark.parametrize(("limit", "none"), [
    ("ALTER USER watcher@'%' WITH MAX_STATEMENT_TIME 0.00001", "ALTER USER watcher@'%' WITH MAX_STATEMENT_TIME 0"),
    ("SET GLOBAL sql_select_limit = 1", "SET GLOBAL sql_select_limit = DEFAULT"),
])
def test_a_limit_of_statements_is_none_of_the_watchers(
        cluster: Cluster, gpen: Start, watcher: Start, limit: str, none: str) -> None:
    node = cluster.nodes[0]
    node.sql(limit)
    try:
        front = gpen("-r", servers=addresses(cluster))
        judge = watcher("--reader", front.control)
        wait_up(front)
        asked = questions(node)
        wait_until(lambda: questions(node) > asked + 8, what="some polls")
    finally:
        node.sql(none)
    assert "down" not in judge.stderr and "blind" not in judge.stderr


def test_a_notify_is_heard_at_once(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    """A watcher that asks every 20 s sees what a notify tells it to see."""
    node, place = cluster.nodes[1], f"{cluster.net}1:4571"
    front = gpen("-r", servers=addresses(cluster))
    watcher("--reader", front.control, "--listen", place, *SLOW)
    wait_up(front)
    with node.desynced():
        assert command("notify", "--to", place, "--status", "donor", "--index", "1").returncode == 0
        wait_until(lambda: verdicts(front) == ["up", "drain", "up"], 10, "the donor being left")
        assert reasons(front)[1] == "Donor/Desynced"


def test_a_session_outlives_the_donor_s_work(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    """A real state transfer, with all the states that a donor goes through, before a gpen with on_down close."""
    donor, joiner = cluster.nodes[1:]
    front = gpen("-r", "-O", "on_down close", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    wait_up(front)
    joiner.stop()
    joiner.wipe()
    joiner.wait_forgotten()
    front.ctl("server 0 state drain")
    session = pymysql.connect(host=front.address[0], port=front.address[1], user=WATCHER[0], password=WATCHER[1])
    with session, session.cursor() as cursor:
        joiner.launch(f"--wsrep-sst-donor={donor.name}")
        wait_until(lambda: front.server(1)["health"] == "drain", what="the donor draining")
        joiner.wait_synced()
        wait_up(front)
        cursor.execute("SELECT @@wsrep_node_name")
        assert cursor.fetchone() == (donor.name,)
    assert f"{donor.address} ({donor.name}): up -> drain: Donor/Desynced" in judge.stderr
    assert f"{donor.address} ({donor.name}): drain -> down" not in judge.stderr


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=20, check=False)


def test_a_watcher_that_did_not_run_blames_nobody(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    wait_up(front)
    since = [row["verdict_since"] for row in front.json("servers")]
    for _ in range(2):
        judge.process.send_signal(signal.SIGSTOP)
        time.sleep(1.6)  # longer than --timeout
        judge.process.send_signal(signal.SIGCONT)
        asked = questions(cluster.nodes[0])
        wait_until(lambda asked=asked: questions(cluster.nodes[0]) > asked + 3, what="the next polls")
    assert [row["verdict_since"] for row in front.json("servers")] == since
    assert "down" not in judge.stderr


def test_a_gpen_that_hangs_delays_no_other(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    hanging, front = gpen("-r", servers=addresses(cluster)), gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", hanging.control, "--reader", front.control)
    wait_up(hanging)
    wait_up(front)
    hanging.signal(signal.SIGSTOP)
    try:
        time.sleep(0.3)
        cluster.nodes[0].assign("read_only", 1)
        wait_until(lambda: verdicts(front)[0] == "down", what="the node being left by the other gpen")
        wait_until(lambda: "no answer within" in judge.stderr, what="the hanging gpen being named")
        assert judge.command("status").returncode == 1
    finally:
        hanging.signal(signal.SIGCONT)
    wait_until(lambda: verdicts(hanging)[0] == "down", what="the first being told as well")
    assert reasons(hanging)[0] == "read_only"
    wait_until(lambda: f"{hanging.control}: answers again" in judge.stderr, what="the log saying so")


def test_a_gpen_that_is_restarted_is_told_again(cluster: Cluster, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    control = str(tmp_path / "same.ctl")
    first = gpen("-r", servers=addresses(cluster), control=control)
    judge = watcher("--reader", control)
    cluster.nodes[2].assign("read_only", 1)
    wait_until(lambda: verdicts(first) == ["up", "up", "down"], what="the first gpen being told")
    assert first.stop() == 0
    wait_until(lambda: f"gpen {control}" in judge.stderr, what="the watcher missing it")
    second = gpen("-r", servers=addresses(cluster), control=control)
    wait_until(lambda: verdicts(second) == ["up", "up", "down"], what="the second gpen being told")


def test_a_watcher_that_ends_takes_nothing_back(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    cluster.nodes[2].assign("read_only", 1)
    wait_until(lambda: verdicts(front) == ["up", "up", "down"], what="the gpen being told")
    began = time.monotonic()
    assert judge.stop() == 0 and time.monotonic() - began < 4
    assert verdicts(front) == ["up", "up", "down"]
    assert not judge.socket.exists()


def test_a_wrong_password_is_said_and_says_nothing_of_the_nodes(
        cluster: Cluster, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    (tmp_path / "watcher.cnf").write_text("[client]\nuser = watcher\npassword = 'nonsense'\n")
    front = gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    wait_until(lambda: judge.stderr.count("access denied for user 'watcher'") == 3, what="the log saying it")
    assert all(row["reason"].startswith("access denied for user 'watcher'") for row in status(judge)["nodes"])
    assert verdicts(front) == [None] * 3
    assert judge.command("status").returncode == 1


def test_the_nodes_show_in_the_table(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    wait_up(front)
    well = judge.command("status")
    assert well.returncode == 0, well.stdout + well.stderr
    for node in cluster.nodes:
        assert f"{node.address}  {node.name}   Synced" in well.stdout
    cluster.nodes[0].assign("wsrep_reject_queries", "ALL")
    wait_until(lambda: verdicts(front)[0] == "down", what="the node being left")
    ill = judge.command("status")
    assert ill.returncode == 1 and "rejects queries (ALL)" in ill.stdout
    (row,) = [row for row in status(judge)["nodes"] if row["name"] == "node1"]
    assert (row["usable"], row["reason"], row["role"]) == (False, "rejects queries (ALL)", "reader")
    assert time.time() - row["since"] < 20 and row["latency"] < 1


def test_two_watchers_do_not_share_a_socket(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=addresses(cluster))
    judge = watcher("--reader", front.control)
    wait_up(front)
    other = command("watch", "--reader", front.control, "--socket", str(judge.socket), "--defaults-file",
                    str(judge.socket.parent / "watcher.cnf"))
    assert other.returncode == 2
    assert other.stderr == (f"gpen-galera: {judge.socket}: another gpen-galera listens there; give this one another "
                            "--socket\n")


def test_the_socket_of_a_killed_watcher_is_taken_over(
        cluster: Cluster, gpen: Start, watcher: Start, tmp_path: Path) -> None:
    front = gpen("-r", servers=addresses(cluster))
    first = watcher("--reader", front.control)
    wait_up(front)
    first.process.kill()
    first.process.wait()
    assert first.socket.exists()
    with subprocess.Popen([*COMMAND, "watch", "--reader", front.control, "--socket", str(first.socket),
                           "--defaults-file", str(tmp_path / "watcher.cnf")]) as second:
        wait_until(lambda: first.command("status").returncode == 0, what="the second answering there")
        second.terminate()
    assert second.returncode == 0


def test_servers_follow_the_cluster(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    """From one server to all; a node that is gone is deleted after a while, and comes back by itself."""
    front = gpen("-r", servers=[cluster.nodes[0].address])
    writer = gpen("-r", "-O", "prio", servers=[cluster.nodes[0].address])
    judge = watcher("--reader", front.control, "--writer", writer.control, "--discover", "--forget", "2",
                    "--floor", "2")
    wait_up(front)
    wait_until(lambda: sorted(verdicts(writer)) == ["down", "down", "up"], what="the writer being used alone")

    def servers(gpen: Gpen) -> set[str]:
        return {f"{row['address']}:{row['port']}" for row in gpen.json("servers")}

    assert servers(front) == servers(writer) == set(addresses(cluster))
    cluster.nodes[2].stop()
    for each in (front, writer):
        wait_until(lambda each=each: servers(each) == set(addresses(cluster)[:2]), what="the node being deleted")
    wait_until(lambda: len(status(judge)["nodes"]) == 2, what="the node being forgotten")
    assert [(row["problem"], row["servers"], row["up"]) for row in status(judge)["gpens"]] == [("", 2, 2), ("", 2, 1)]
    assert judge.command("status").returncode == 0
    cluster.nodes[2].start()
    wait_up(front)
    for each in (front, writer):
        wait_until(lambda each=each: servers(each) == set(addresses(cluster)), what="the node's return")
    assert "error" not in judge.stderr


def test_what_a_gpen_refuses_hides_nothing_else(gpen: Start) -> None:
    """It is told; the servers are seen, and the plan is carried out unless the refusal is of that."""
    front = gpen(servers=["127.0.0.1:1"])
    news: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
    balancer = GpenClient(parse_target(front.control), False, lambda _, rows, problem: news.put((rows, problem)))
    balancer.start()
    try:
        assert [row["number"] for row in news.get(timeout=10)[0]] == [0]
        plan, place = {"127.0.0.1:1": Order(True, "Synced")}, Address("127.0.0.1", 2)
        balancer.want(Plans(plan), Changes((), (Addition(-1, place), Addition(1, place, 3))), 1)
        rows, problem = news.get(timeout=10)
        assert [(row["number"], row["verdict"]) for row in rows] == [(0, "up"), (1, "down")]
        assert problem.startswith(f"{front.control}: error: server: '-1' ") and balancer.told == 1
        balancer.want(Plans(plan), Changes((1,)), 2)
        rows, problem = news.get(timeout=10)
        assert ([row["number"] for row in rows], problem, balancer.told) == ([0], "", 2)
        front.ctl("no server 0")
        balancer.want(Plans({"127.0.0.1:1": Order(False, "Donor")}), Changes(), 3)
        rows, problem = news.get(timeout=10)
        assert (rows, problem, balancer.told) == ([], "", 2), "what is no more is seen, and no fault"
    finally:
        balancer.stop()
