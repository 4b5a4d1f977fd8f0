"""A watcher that can't see nodes, sees strangers among them, or sees them late: made with stubs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.galera.cluster import WATCHER
from tests.galera.stub import Answer, Error, Group, Stub
from tests.galera.watcher import Watcher
from tests.harness import Gpen, wait_until

pytestmark = pytest.mark.timeout(60)

Start = Callable[..., Any]
WRITER = ("-r", "-O", "prio")
DENIED = Error(1045, "Access denied for user 'watcher'@'localhost'")


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


def ranked(group: Group) -> list[str]:
    return [f"{address}::::{rank}" for rank, address in enumerate(group.addresses)]


def verdicts(gpen: Gpen) -> list[Any]:
    return [row["verdict"] for row in gpen.json("servers")]


def prios(gpen: Gpen) -> list[int]:
    return [row["prio"] for row in gpen.json("servers")]


def writes_to(gpen: Gpen) -> Any:
    """The number of the server that gets the connections of a writer's gpen."""
    first = min(row["prio"] for row in gpen.json("servers"))
    (row,) = [row for row in gpen.json("servers") if row["prio"] == first]
    return row["number"] if row["health"] == "up" else None


def wait_for(gpen: Gpen, *expected: str | None) -> None:
    wait_until(lambda: verdicts(gpen) == list(expected), what=f"the verdicts {expected}")


def status(watcher: Watcher) -> Any:
    return json.loads(watcher.command("status", "--json").stdout)


def shut_out(node: Stub, error: Error = DENIED) -> None:
    """End the watcher's session, and refuse its next login."""
    node.refusal = error
    node.end_sessions(WATCHER[0])


def let_pass(nodes: list[Stub], count: int = 3) -> None:
    """Wait until each of these nodes has been asked some more."""
    before = [node.questions for node in nodes]
    wait_until(lambda: all(node.questions >= number + count for node, number in zip(nodes, before, strict=True)),
               what="some more questions")


def test_a_writer_that_cant_be_seen_stays_the_writer(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen(*WRITER, servers=ranked(group))
    judge = watcher("--writer", front.control)
    wait_until(lambda: judge.command("status").returncode == 0, what="all being well")
    shut_out(group.nodes[0])
    name = f"{group.addresses[0]} (node0)"
    line = f"node {name}: this watcher is blind to it, up (Synced) is kept: access denied for user 'watcher'"
    wait_until(lambda: line in judge.stderr, what="the log saying it")
    let_pass(group.nodes[1:])
    assert (verdicts(front)[0], prios(front)) == ("up", [0, 1, 2])
    told = status(judge)
    nodes = {row["name"]: row for row in told["nodes"]}
    assert (told["writer"], told["well"], nodes["node0"]["usable"]) == (group.addresses[0], False, True)
    assert nodes["node0"]["blind"].startswith("access denied") and not nodes["node1"]["blind"]
    table = judge.command("status")
    assert table.returncode == 1 and f"{group.addresses[0]}: this watcher is blind to it since 20" in table.stdout
    assert judge.command("move", "node1").returncode == 0  # the operator may
    refused = judge.command("move", "node0")
    assert refused.returncode == 1 and f"{name} can't be the writer: this watcher is blind to it" in refused.stderr
    group.nodes[0].kill()
    wait_until(lambda: verdicts(front)[:2] == ["down", "up"], what="its end being told")
    group.nodes[0].refusal = None
    group.nodes[0].start()
    wait_until(lambda: judge.command("status").returncode == 0, what="all being well")


def test_the_login_that_works_again_is_told(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_for(front, "up", "up", "up")
    shut_out(group.nodes[2])
    wait_until(lambda: "is blind to it" in judge.stderr, what="the log saying it")
    group.nodes[2].refusal = None
    wait_until(lambda: f"node {group.addresses[2]} (node2): this watcher sees it again" in judge.stderr, what="the end")


def test_a_writer_that_could_never_be_seen_is_left_alone(group: Group, gpen: Start, watcher: Start) -> None:
    """It is in front, so somebody may be writing there: nothing is said of it, and nobody ranks level with it."""
    group.nodes[0].refusal = DENIED
    front = gpen(*WRITER, servers=[f"{address}::::{rank}" for address, rank in
                                   zip(group.addresses, (5, 7, 7), strict=True)])
    judge = watcher("--writer", front.control)
    wait_until(lambda: prios(front) == [0, 1, 2], what="the ranks")
    assert verdicts(front)[0] is None and writes_to(front) == 0
    assert status(judge)["writer"] == group.addresses[0]


def test_a_node_that_cant_be_seen_is_ranked_behind_the_writer(group: Group, gpen: Start, watcher: Start) -> None:
    group.nodes[2].refusal = DENIED
    front = gpen(*WRITER, servers=[f"{address}::::{rank}" for address, rank in
                                   zip(group.addresses, (0, 1, 0), strict=True)])
    watcher("--writer", front.control, f"--prefer={group.addresses[1]}")
    wait_until(lambda: prios(front) == [1, 0, 2] and writes_to(front) == 1, what="the ranks")


def test_a_blind_watcher_proposes_nobody_else(group: Group, gpen: Start, watcher: Start) -> None:
    """Another one sees the writer still; the blind one follows it, and uses it."""
    first, second = (gpen(*WRITER, servers=ranked(group)) for _ in range(2))
    watcher("--writer", first.control, "--agree=agreed")
    wait_for(first, "up", "down", "down")
    group.nodes[0].refusal = DENIED
    judge = watcher("--writer", second.control, "--agree=agreed")
    wait_until(lambda: status(judge)["writer"] == group.addresses[0], what="the choice being read")
    let_pass(group.nodes[1:], 12)
    wait_for(second, None, "down", "down")
    told = group.tables.execute("SELECT version, writer, heir FROM agreed.gpen_writer")
    assert isinstance(told, Answer) and list(told.rows) == [(1, group.addresses[0], "")]
    assert verdicts(first) == ["up", "down", "down"]


@pytest.mark.parametrize("number", [1820, 1862, 4150, 4151, 1226, 1203, 1969])
def test_an_account_that_fails_takes_no_cluster_down(
        group: Group, gpen: Start, watcher: Start, number: int) -> None:
    front, writer = gpen("-r", servers=group.addresses), gpen(*WRITER, servers=ranked(group))
    judge = watcher("--reader", front.control, "--writer", writer.control)
    wait_for(front, "up", "up", "up")
    for node in group.nodes:
        if number == 1820:  # it may log in, and ask nothing
            node.error = Error(number, "You must SET PASSWORD")
        else:
            shut_out(node, Error(number, "no"))
    line = "is blind to it, up (Synced) is kept: the watcher's account 'watcher': "
    wait_until(lambda: judge.stderr.count(line) == 3, what="all three being told")
    assert verdicts(front) == ["up"] * 3 and verdicts(writer)[0] == "up" and writes_to(writer) == 0
    assert judge.command("status").returncode == 1
    group.nodes[2].kill()  # what can be seen counts
    wait_for(front, "up", "up", "down")


def test_a_stranger_is_not_adopted_while_the_cluster_hangs(gpen: Start, watcher: Start) -> None:
    with Group(2) as group, Group(1) as other:
        front = gpen("-r", servers=[*group.addresses, *other.addresses])
        judge = watcher("--reader", front.control)
        wait_for(front, "up", "up", "down")
        for node in group.nodes:
            node.is_stopped = True
        wait_for(front, "down", "down", "down")
        let_pass(other.nodes, 8)
        assert verdicts(front) == ["down"] * 3
        for node in group.nodes:
            node.is_stopped = False
        wait_for(front, "up", "up", "down")
        assert f"of cluster {other.uuid}, which is not followed: gpen-galera adopt UUID" in judge.stderr
        assert f"cluster {group.uuid} is followed" in judge.command("status").stdout
        both = ", ".join(sorted([group.uuid, other.uuid]))
        refused = judge.command("adopt", "nonsense")
        assert refused.returncode == 1 and f"expected one of {both}" in refused.stderr
        adopted = judge.command("adopt", other.uuid)
        assert adopted.stdout == f"cluster {other.uuid} is followed: {other.addresses[0]} (node0)\n"
        wait_for(front, "down", "down", "up")
        assert status(judge)["cluster"] == other.uuid


@pytest.mark.parametrize("options", [(), ("--agree=agreed",)])
def test_without_quorum_the_writers_gpen_is_told_as_well(
        group: Group, gpen: Start, watcher: Start, options: tuple[str, ...]) -> None:
    for node in group.nodes:
        group.isolate(node)
    front = gpen(*WRITER, servers=group.addresses)  # nobody is in front
    watcher("--writer", front.control, *options)
    wait_for(front, "down", "down", "down")
    group.form(*group.nodes)
    wait_until(lambda: "up" in verdicts(front), what="a writer")


def test_slow_nodes_pass_a_change_of_the_view(group: Group, gpen: Start, watcher: Start) -> None:
    front = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_for(front, "up", "up", "up")
    for node in group.nodes[1:]:
        node.delay = 0.8
    let_pass(group.nodes[1:], 1)
    for _ in range(2):
        group.form(*group.nodes)
        let_pass(group.nodes[1:], 3)
    assert "-> down" not in judge.stderr


def test_two_halves_that_were_both_bootstrapped(gpen: Start, watcher: Start) -> None:
    with Group(4) as group:
        front = gpen("-r", servers=group.addresses)
        watcher("--reader", front.control)
        wait_for(front, *["up"] * 4)
        for half in (group.nodes[:2], group.nodes[2:]):
            group.form(*half)
            for node in half:
                node.said["wsrep_cluster_conf_id"] = "9"
        wait_until(lambda: verdicts(front) in (["up", "up", "down", "down"], ["down", "down", "up", "up"]),
                   what="one half being left")
        used = verdicts(front)
        let_pass(group.nodes, 8)
        assert verdicts(front) == used
