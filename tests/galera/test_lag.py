"""Nodes that are behind, and flow control: with a clock turned by hand, and a watcher before stubs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gpen.galera.lag import CALM, STEADY, Lag
from gpen.galera.report import NO_INDEX, Report, View
from tests.galera.stub import Group
from tests.harness import Gpen, wait_until

A, B = "10.0.0.1:3306", "10.0.0.2:3306"
WELL = Report(4, "Synced", True, "Primary", View("u", 1, 2), NO_INDEX, (), 0, "a", False, "NONE", False, False,
              paused_ns=0)
Start = Callable[..., Any]


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


def lagging(lag: Lag, *looks: tuple[float, int]) -> list[str]:
    """Whom a node's queue makes lag, after looks at these times."""
    for now, queue in looks:
        lag.saw(A, replace(WELL, queue=queue), now)
    return list(lag.lagging)


def test_a_queue_counts_when_it_lasts() -> None:
    lag = Lag(10)
    assert lagging(lag, (0.0, 11), (STEADY - 0.1, 11)) == []
    assert lagging(lag, (STEADY, 10), (STEADY + 0.1, 11), (2 * STEADY, 12)) == []
    assert lagging(lag, (2 * STEADY + 0.1, 11)) == [A]
    assert lag.lagging[A] == "lags: its queue is longer than 10"
    assert lagging(lag, (3.0, 0), (3.5, 11), (3.75, 0), (4.5, 0)) == [A]
    assert lagging(lag, (3.75 + STEADY, 10)) == []


def test_without_a_limit_nobody_lags_and_who_is_gone_is_forgotten() -> None:
    assert lagging(Lag(None), (0.0, 999), (9.0, 999)) == []
    lag = Lag(0)
    assert lagging(lag, (0.0, 1), (STEADY, 1)) == [A]
    lag.forget(A)
    assert (list(lag.lagging), lag.paused(A)) == ([], None)


def paused(*looks: tuple[float, float]) -> float | None:
    """The share of the time, by looks at which so many seconds in all had been spent."""
    lag = Lag(None)
    for now, seconds in looks:
        lag.saw(A, replace(WELL, paused_ns=int(seconds * 1e9)), now)
    share = lag.paused(A)
    return None if share is None else round(share, 3)


@pytest.mark.parametrize(("looks", "share"), [
    ([(0.0, 5.0)], None),  # it began before anybody looked
    ([(0.0, 5.0), (0.5, 5.25)], 0.5),
    ([(0.0, 0.0), (0.5, 0.5), (1.0, 0.5), (1.5, 0.5)], 0.0),  # the last second alone
    ([(0.0, 0.0), (4.0, 1.0)], 0.25),
    ([(0.0, 9.0), (1.0, 0.1)], None), ([(0.0, 9.0), (1.0, 0.1), (2.0, 0.2)], 0.1),  # started anew
    ([(0.0, 0.0), (1.0, 1.01)], 1.0),
    ([(1.0, 0.0), (1.0, 0.5)], None),
])
def test_the_share_of_the_time(looks: list[tuple[float, float]], share: float | None) -> None:
    assert paused(*looks) == share


def test_a_node_that_does_not_tell_is_none_that_waits() -> None:
    lag = Lag(None)
    for now in (0.0, 1.0):
        lag.saw(A, replace(WELL, paused_ns=-1), now)
    assert lag.paused(A) is None and lag.news(A, str, 1.0) == ""


def test_flow_control_is_told_when_it_begins_and_when_it_is_over() -> None:
    lag, told = Lag(None), []
    for quarter in range(80):
        now = quarter / 4
        for node, queue in ((A, 0), (B, 30)):  # held up from 2 to 6 s, and for a moment again at 8 s
            seconds = min(max(0.0, now - 2.0), 4.0) / 2 + (0.2 if now >= 8.0 else 0.0)
            lag.saw(node, replace(WELL, queue=queue, paused_ns=int(seconds * 1e9)), now)
            told += [(now, line)] if (line := lag.news(node, str.upper, now)) else []
    (begun, first), (over, last) = told
    assert first == f"flow control: writes wait, 12% of the last second; the longest queue is that of {B}: 30"
    assert last == "flow control: over after 8 s" and begun == 2.25 and over == 8.75 + CALM


def test_a_lagging_node_is_used_when_nothing_better_is_left(group: Group, gpen: Start, watcher: Start) -> None:
    front: Gpen = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control, "--max-queue=20")

    def verdicts() -> list[Any]:
        return [row["verdict"] for row in front.json("servers")]

    wait_until(lambda: verdicts() == ["up"] * 3, what="all nodes being up")
    group.nodes[1].said["wsrep_local_recv_queue"] = "21"
    wait_until(lambda: verdicts() == ["up", "drain", "up"], what="the node that lags being left")
    assert front.server(1)["verdict_reason"] == "lags: its queue is longer than 20"
    for node in group.nodes:
        node.said["wsrep_local_recv_queue"] = "500"
    wait_until(lambda: verdicts() == ["up"] * 3, what="all being used, since all lag")
    group.nodes[0].said["wsrep_local_recv_queue"] = "20"
    wait_until(lambda: verdicts() == ["up", "drain", "drain"], what="the one that is well being used alone")
    assert judge.running


def test_status_and_the_log_tell_of_flow_control(group: Group, gpen: Start, watcher: Start) -> None:
    front: Gpen = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control)
    wait_until(lambda: judge.command("status").returncode == 0, what="all being well")
    group.nodes[2].said["wsrep_local_recv_queue"] = "30"
    wait_until(lambda: " 30 " in judge.command("status").stdout, what="status telling the queue")
    for node in group.nodes:
        node.said["wsrep_flow_control_paused_ns"] = str(10 ** 9)  # a whole second at once
    wait_until(lambda: "flow control: writes wait, " in judge.stderr, what="the log telling of it")
    assert f"the longest queue is that of {group.addresses[2]} (node2): 30" in judge.stderr
    wait_until(lambda: " 0% " in judge.command("status").stdout, what="status telling that nobody waits any more")
    wait_until(lambda: "flow control: over after " in judge.stderr, what="the log telling that it is over")
