"""The benchmark's command line: what can be named, and what is left out of a run, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import installed, measurable
from tests.bench.process import ROOT, BenchError
from tests.bench.proxies import GPEN_PURE


def bench(*words: str, module: str = "tests.bench") -> subprocess.CompletedProcess[str]:
    """What it says, on a terminal that is so wide that no name is parted at its hyphen."""
    return subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "COLUMNS": "1000"})


def test_both_gpens_and_what_is_counted_have_names() -> None:
    told = " ".join(bench("--help").stdout.split())
    assert "of pen, haproxy, haproxy-splice, nginx, gpen, gpen-pure " in told
    assert "idle, connection-instructions, request-instructions, system-calls, clients, sessions " in told


@pytest.mark.parametrize(("words", "why"), [
    (("--only", "pen,gpen-mixed"), "'gpen-mixed' is none of pen,"),
    (("--measure", "requests,instructions"), "'instructions' is none of requests,"),
])
def test_a_name_that_is_none_is_told(words: tuple[str, ...], why: str) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert why in done.stderr


def test_what_can_be_counted_by_name_is_told() -> None:
    done = bench("nginx", module="tests.bench.instructions")
    assert done.returncode == 2
    assert "'nginx' is none of pen, haproxy, gpen, gpen-pure" in done.stderr


def test_without_valgrind_all_else_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert measurable(["requests", "system-calls", "clients"]) == ["requests", "clients"]
    assert capsys.readouterr().err == "system-calls is left out: valgrind is not installed\n"


def test_who_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("wrk", "nginx", "taskset"):
        (tmp_path / program).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed(["pen", "gpen-pure"]) == [GPEN_PURE]
    assert capsys.readouterr().err == "pen is left out: pen is not installed\n"
    with pytest.raises(BenchError, match="no balancer is left"):
        installed(["haproxy-splice"])
