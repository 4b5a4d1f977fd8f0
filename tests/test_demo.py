"""The demo, and each command that it shows, as somebody pastes it in the directory where he has run the demo."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import PATIENCE, ROOT, started, wait_until

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Demo:
    """It, as long as it waits for somebody who tries its commands."""

    def __init__(self, directory: Path, process: subprocess.Popen[str]) -> None:
        self.directory = directory
        self._process = process
        self.shown = ""
        while "    curl " not in self.shown:
            self.shown += self._line()
        self.curl = self.shown.splitlines()[-1].strip()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.shown
        return line

    def end(self) -> str:
        """Let it end; what it shows then."""
        rest, _ = self._process.communicate("\n", PATIENCE)
        return rest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(ROOT / "contrib" / "demo.py"), "--stay"]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=directory,
                 env=ENVIRONMENT) as process:
        try:
            yield Demo(directory, process)
        finally:
            if process.poll() is None:
                process.communicate("\n", PATIENCE)


def run(line: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], cwd=directory, env=ENVIRONMENT, stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=PATIENCE, check=False)


def serves(line: str, directory: Path) -> None:
    """The command serves in the foreground."""
    with started(["sh", "-c", f"exec {line}"], cwd=directory, env=ENVIRONMENT, stderr=subprocess.PIPE,
                 text=True) as process:
        assert process.stderr is not None
        wait_until(lambda: " listens on 127.0.0.1:" in process.stderr.readline())
        process.terminate()


def test_what_it_shows_can_be_pasted(demo: Demo) -> None:
    asked = re.findall(r"^\$ (.*)$", demo.shown, re.MULTILINE)
    assert [line.split()[2] for line in asked] == ["servers", "servers", "events", "explain"]
    watch, prompt = re.findall(r"^    (\S*gpenctl \S+(?: watch)?)$", demo.shown, re.MULTILINE)
    for line in (*asked, prompt):
        done = run(line, demo.directory)
        assert (done.returncode, done.stderr) == (0, ""), line
    assert "127.0.0.1" in run(asked[0], demo.directory).stdout
    assert run(f"timeout 1 {watch}", demo.directory).returncode == 124
    (balancer,) = re.findall(r"^    (\S*gpen -f .*)$", demo.shown, re.MULTILINE)
    serves(balancer, demo.directory)
    if shutil.which("curl"):
        assert "127.0.0.1" in run(demo.curl, demo.directory).stdout


def test_what_it_recommends(demo: Demo) -> None:
    """With a port and a server in the places of the words for them."""
    told = demo.end()
    start, ask = re.findall(r"^    (.*)$", told, re.MULTILINE)
    assert start.endswith(" -f -C ./gpen.ctl PORT SERVER:PORT ...")
    command = start.replace("PORT SERVER:PORT ...", "127.0.0.1:0 127.0.0.1:9")
    with started(["sh", "-c", f"exec {command}"], cwd=demo.directory, env=ENVIRONMENT) as process:
        wait_until((demo.directory / "gpen.ctl").exists)
        assert "127.0.0.1 port 9 " in run(ask, demo.directory).stdout
        assert run(ask.replace("./gpen.ctl", "gpen.ctl"), demo.directory).returncode == 0
        process.terminate()
