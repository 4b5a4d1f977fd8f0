"""`make demo-galera` as somebody runs it: it tells what clients noticed, and leaves nothing behind, nor does Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.cluster import NODES
from tests.galera.cluster import home
from tests.harness import ROOT, started, wait_until

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-W", "error", str(ROOT / "contrib" / "demo_galera.py")]
WHOLE = 100  # seconds, on a busy machine


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the demo has its temporary directory; nothing may be left in it, nor a process that works there."""
    with home() as place:
        yield place
        assert list(place.iterdir()) == []
        wait_until(lambda: not processes(place), what="the end of all that the demo has started")


def processes(directory: Path) -> list[str]:
    """The command lines of those that have something to do with a directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_text().replace("\0", " "))
    return [line for line in found if str(directory) in line]


def test_it_tells_what_clients_noticed(directory: Path) -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=WHOLE, check=False,
                          env={**os.environ, "TMPDIR": str(directory)})
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"^\$ .*gpenctl ", done.stdout, re.MULTILINE)) == 3
    assert len(re.findall(r"^\$ .*gpen-galera status ", done.stdout, re.MULTILINE)) == 2
    before, after = done.stdout.split("is killed (SIGKILL)")
    assert len(re.findall(r"  Synced  .* (writer|standby) ", before)) == NODES
    assert len(re.findall(r"  Synced  .* (writer|standby) ", after)) == NODES - 1
    counts = [int(count) for count in re.findall(r"(\d+) writes that began", after)]
    assert len(counts) == 2 and min(counts) > 0
    assert "; 0 of them are missing on the other nodes" in after


def test_an_interrupt_ends_all(directory: Path) -> None:
    with started(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                 env={**os.environ, "TMPDIR": str(directory)}) as demo:
        wait_until(lambda: any("mariadbd" in line for line in processes(directory)), WHOLE, "a node")
        demo.send_signal(signal.SIGINT)
        told, complaint = demo.communicate(timeout=WHOLE)
    assert (demo.returncode, complaint) == (130, "") and told.endswith("\nInterrupted: all is ended.\n")


def test_where_mariadb_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=30, check=False,
                          env={**os.environ, "PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("this needs MariaDB with Galera: mariadb-install-db, ")
    assert "apt-get install" in done.stderr
