"""The campaign of `make replace`, in small: three replacements under load, and nobody notices."""

from __future__ import annotations

from pathlib import Path

from tests.replacements import Campaign


def test_three_replacements(tmp_path: Path) -> None:
    report = Campaign(times=3, connections=100, sessions=20, rate=100).run(tmp_path)
    assert {kind: count.failures for kind, count in report.counts.items()} == {
        "connections": [], "sessions": [], "queries": []}
    assert not report.leaks
    assert report.is_well and len(report.replaced) == 3
