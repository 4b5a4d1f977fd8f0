"""A run of tests side by side comes to its end, and tells what failed, also if a test takes its process with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CONFTEST = """
import pytest

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from tests.scheduling import Scheduling
    return Scheduling(config, log)
"""
ALONE = """
import os, signal, pytest

@pytest.mark.parametrize("number", range(60))
def test_one(number):
    if number in (20, 21, 22, 59):
        os.kill(os.getpid(), signal.SIGKILL)
"""
TOGETHER = """
import os, signal, pytest

@pytest.mark.parametrize("number", range(10))
def test_cluster(number):
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_is_one_failure_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_alone.py").write_text(ALONE)
    (tmp_path / "test_events.py").write_text(TOGETHER)  # by its name one that shares a cluster
    run = subprocess.run([sys.executable, "-m", "pytest", "-n", "3", "-p", "no:cacheprovider", str(tmp_path)],
                         cwd=ROOT, capture_output=True, text=True, timeout=100,
                         env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    assert "5 failed, 65 passed" in run.stdout, run.stdout + run.stderr
    assert set(re.findall(r"FAILED \S*::(\S+)", run.stdout)) == {
        "test_one[20]", "test_one[21]", "test_one[22]", "test_one[59]", "test_cluster[4]"}
