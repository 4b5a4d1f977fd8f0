"""A short chaos before the real cluster, and that its judge sees what it should; `make chaos-galera` is the long one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.galera.chaos import Chaos, Insert, Report
from tests.galera.cluster import Cluster

pytestmark = pytest.mark.long

SEED, SECONDS = 7, 18.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("by_listener", [False, True])
def test_no_insert_is_lost_and_none_made_at_two_nodes_at_once(
        cluster: Cluster, tmp_path: Path, by_listener: bool) -> None:
    report = Chaos(cluster, SEED, SECONDS, print, by_listener).run(tmp_path)
    assert (report.lost, report.at_once()) == ([], [])
    assert len(report.inserts) > 500 and report.events, report.rows()


def inserts(*rows: tuple[str, float, float]) -> Report:
    return Report(1, 1.0, inserts=[Insert(f"{number}", *row) for number, row in enumerate(rows)])


@pytest.mark.parametrize(("rows", "pairs"), [
    ([("a", 1.0, 1.2), ("a", 1.1, 1.3), ("b", 1.4, 1.5)], []),
    ([("a", 1.0, 1.2), ("b", 1.2, 1.3)], []),  # a handover
    ([("a", 1.0, 1.2), ("b", 1.1, 1.3)], [("0", "1")]),
    ([("b", 1.1, 1.3), ("a", 1.0, 1.2)], [("1", "0")]),  # written down in another order
    ([("a", 1.0, 9.0), ("a", 2.0, 2.1), ("b", 5.0, 5.1), ("a", 6.0, 6.1)], [("0", "2")]),
])
def test_two_nodes_at_once_are_seen(rows: list[tuple[str, float, float]], pairs: list[tuple[str, str]]) -> None:
    report = inserts(*rows)
    assert [(first.token, second.token) for first, second in report.at_once()] == pairs
    assert report.is_well == (not pairs)


def test_what_is_lost_and_when_nobody_writes() -> None:
    report = inserts(("a", 0.0, 0.1), ("a", 0.2, 0.4), ("b", 2.0, 2.4), ("b", 2.5, 2.9))
    assert [round(gap, 1) for gap in report.gaps()] == [2.0, 0.5]
    assert dict(report.rows())["the longest"] == "2.0 s"
    report.lost.append("0, on node1")
    assert not report.is_well
    assert not Report(1, 1.0).is_well  # nothing was written at all
