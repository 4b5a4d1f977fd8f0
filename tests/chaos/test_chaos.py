"""A short storm, and that the judge sees what it should; `make chaos` is the long one."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.faults import Act, Faults
from tests.chaos.storm import Storm
from tests.chaos.transfers import Outcome, plan_of
from tests.harness import ROOT
from tests.wire.test_transfers import digest, download, upload

SEED = 1


@pytest.mark.parametrize("way", ["plain", "tls"])
def test_none_is_damaged_but_those_cut_on_purpose(way: str, tmp_path: Path) -> None:
    report = Storm(way, 200, 30, SEED).run(tmp_path)
    assert report.damaged == []
    assert report.is_well, report.rows()
    assert report.whole > 150 and report.cut.total() > 2
    assert report.done["reload"] == 30 and report.done["wrong file"] > 0 and report.done["stop"] == 6


def test_what_was_cut_by_somebody_else_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: Faults, name: str, *lines: str, server: int | None = None, client: str = "") -> None:
        self._balancer.ctl(*lines)  # and nobody is told

    monkeypatch.setattr(Faults, "_cut", cut)
    report = Storm("plain", 100, 50, SEED).run(tmp_path)
    assert report.damaged and not report.is_well
    assert any("killed" in text or "server-down" in text for text in report.damaged)


# --- the judge -------------------------------------------------------------------------------------------------------

PLAN = plan_of(SEED, 5)
CLIENT = Outcome(digest(download(5, PLAN.down)), PLAN.down)
SERVER = Outcome(digest(upload(5, PLAN.up)), PLAN.up)
SHORT = Outcome("0" * 64, 3)
NOW = time.time()


def logged(ending: str, ago: float = 0.0) -> list[dict[str, Any]]:
    """gpen's line of the session, which ended so many seconds ago."""
    started = datetime.fromtimestamp(NOW - ago - 2, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return [{"client": f"{PLAN.source}:5", "server": 2, "started": started, "total": 2.0, "ending": ending}]


CLOSED_SERVER = Act("close server", NOW - 1, NOW, 2)
CLOSED_SESSION = Act("close session", NOW - 1, NOW, None, PLAN.source)


@pytest.mark.parametrize(("client", "server", "lines", "cuts", "verdict"), [
    (CLIENT, SERVER, logged("client-closed"), [], "whole"),
    (CLIENT, SHORT, logged("client-closed"), [], "damaged"),
    (SHORT, SERVER, logged("server-closed"), [], "damaged"),
    (CLIENT, None, logged("server-closed"), [], "damaged"),
    (CLIENT, SERVER, [], [], "damaged"),
    (CLIENT, SERVER, logged("client-closed") * 2, [], "damaged"),
    (SHORT, SERVER, logged("killed"), [], "damaged"),
    (SHORT, SERVER, logged("killed"), [CLOSED_SERVER], "close server"),
    (SHORT, SERVER, logged("killed"), [CLOSED_SESSION], "close session"),
    (SHORT, SERVER, logged("killed", 5), [CLOSED_SERVER], "damaged"),
    (SHORT, SERVER, logged("killed"), [Act("close server", NOW - 1, NOW, 3)], "damaged"),
    (SHORT, SERVER, logged("killed"), [Act("close session", NOW - 1, NOW, None, "127.0.0.9")], "damaged"),
    (SHORT, SERVER, logged("server-down"), [CLOSED_SERVER], "damaged"),
    (SHORT, SERVER, logged("server-down"), [Act("verdict that closes", NOW - 1, NOW, 2)], "verdict that closes"),
    (SHORT, SERVER, logged("client-reset"), [CLOSED_SERVER], "damaged"),
    (Outcome(cut=True), SHORT, logged("client-reset"), [], "a reset by its client"),
    (SHORT, Outcome(cut=True), logged("server-reset"), [], "a reset by its server"),
    (SHORT, Outcome(cut=True), logged("client-reset"), [], "damaged"),
    (SHORT, None, logged("no-server"), [CLOSED_SERVER], "turned away"),
    (SHORT, None, logged("error"), [CLOSED_SERVER], "damaged"),
])
def test_judgement(client: Outcome, server: Outcome | None, lines: list[dict[str, Any]], cuts: list[Act], verdict: str,
                   ) -> None:
    storm = Storm("plain", 1, 1, SEED)
    storm._judge_one(PLAN, client, server, lines, cuts)
    report = storm.report
    assert {"whole": report.whole, "damaged": len(report.damaged), "turned away": report.refused,
            **report.cut}[verdict] == 1
    assert report.whole + len(report.damaged) + report.refused + report.cut.total() == 1
    assert report.is_well == (verdict not in ("damaged", "turned away"))


def test_the_command() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--transfers", "30", "--plain", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("chaos: seed 3\n") and "\ndamaged " in done.stdout
