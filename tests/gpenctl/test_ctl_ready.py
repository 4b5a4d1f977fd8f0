"""gpenctl as scripts call it each second: `ready` and its exit status, and what a common call costs."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpen.gpenctl.main import join
from gpen.gpenctl.quick import ELSEWHERE, line_of
from tests.gpenctl.daemon import ROOT, Daemon, Run, Terminal
from tests.harness import Gpen, Server, hold

NOT_READY = "not ready: listener web: its only server can't be used: down\n"
HEAVY = ("argparse", "collections", "dataclasses", "docopt", "enum", "inspect", "ipaddress", "json", "re", "socket",
         "tabulate", "threading", "typing")
CPU = 0.012  # seconds of a call beyond Python's own start, at most; 0.0025 where nobody else works


@pytest.fixture
def balancer(gpen: Callable[..., Gpen], servers: Callable[..., Server]) -> Gpen:
    return gpen(servers=[servers(hold)])


@pytest.mark.parametrize("form", ["", "plain", "table", "json", "csv"])
def test_the_exit_status(gpenctl: Run, balancer: Gpen, form: str) -> None:
    """In each format, and what is said is no error: it goes to stdout."""
    words = [*(["-f", form] if form else []), balancer.control, "ready"]
    well = gpenctl(*words)
    assert (well.returncode, well.stderr) == (0, "")
    balancer.ctl("server 0 state maint")
    unwell = gpenctl(*words)
    assert (unwell.returncode, unwell.stderr) == (1, "")
    if form in ("json", "csv"):
        read = json.loads if form == "json" else (lambda text: next(csv.DictReader(io.StringIO(text))))
        assert [str(read(done.stdout)["ready"]).lower() for done in (well, unwell)] == ["true", "false"]
        assert "its only server can't be used: maint" in unwell.stdout
    else:
        assert (well.stdout, unwell.stdout) == ("ready\n", "not ready: its only server can't be used: maint\n")
    assert gpenctl(*words, "nowhere").returncode == 1
    asked = [gpenctl(*words, *more).returncode for more in (["json"], ["-", "json"])]
    balancer.ctl("server 0 state ready")
    assert [asked, gpenctl(*words, "json").returncode] == [[1, 1], 0]


def test_on_a_terminal(terminal: Callable[..., Terminal], balancer: Gpen) -> None:
    """In words there too."""
    shown = terminal(balancer.control, "ready")
    assert shown.finish() == (0, "ready\r\n")
    balancer.ctl("server 0 state maint")
    assert terminal(balancer.control, "ready").finish() == (
        1, "not ready: its only server can't be used: maint\r\n")


def test_one_that_stands_still(gpenctl: Run, balancer: Gpen) -> None:
    """No answer within --timeout is no answer."""
    balancer.signal(signal.SIGSTOP)
    done = gpenctl("-t", "0.3", balancer.control, "ready")
    balancer.signal(signal.SIGCONT)
    assert (done.returncode, done.stdout) == (3, "") and "no answer within 0.3 s" in done.stderr
    assert gpenctl(balancer.control, "ready").returncode == 0


@pytest.mark.parametrize("words", [
    ["servers"], ["server", "1", "max", "50"], ["server 1 max 50"], ["server", "1", "max", "many"], ["severs"], ["log"],
    ["ready"], ["ready", "web"], ["ready", "-"], ["ready web"], ["bytes"], ["nothing"], ["listener", "web", "servers"],
    ["log", "a b"], ["log", ""], ["log", 'a"b'], ["log", "#1"], ["log", "a#1"], ["log", "a\\b"], ["log", "\u20ac"],
    ["log", "-x"], ["log", "--", "-x"], ["log", "a\nb"], [" servers "], ["#"], [""], [], ["connection", "9"], ["exit"],
    ["drain"], ["watch", "x"], ["top", "x"], ["upgrade"],
])
def test_the_short_way_is_as_the_long_one(gpenctl: Run, daemon: Daemon, words: list[str]) -> None:
    """The same lines come to the daemon, and its replies out, whether options are read or not; -t is read in both."""
    daemon.replies |= {"ready": "ready\n", "ready web": NOT_READY, "ready -": "ready", "bytes": "\udcff\x1b[2J\u20ac",
                       "nothing": "", "connection 9": "Connection 9 out of range\n", "log \u20ac": "", "exit": (
                           "Exit is not enabled; restart with -X flag\n"), "listener web servers": "error: x\nmore\n"}
    told = []
    for options in (["--timeout=10"], [], ["-t", "10"]):
        done = gpenctl(*options, daemon.target, *words)
        told.append((done.returncode, done.stdout, done.stderr, list(daemon.lines)))
        daemon.lines.clear()
    assert told[0] == told[1] == told[2]
    if words[:1] == ["ready"]:
        assert told[0][0] == int(words == ["ready", "web"])


def test_without_a_daemon_too(gpenctl: Run, tmp_path: Path) -> None:
    """Or with one that cuts connections, or is none."""
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "none", tmp_path / "file", tmp_path, "/" * 200):
        short, long = (gpenctl(*options, str(target), "ready") for options in ([], ["--timeout", "10"]))
        assert (short.returncode, short.stdout, short.stderr) == (long.returncode, long.stdout, long.stderr)
        assert short.returncode == 3 and short.stderr.count("\n") == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e6", "x", ""])
def test_a_wrong_time(gpenctl: Run, daemon: Daemon, seconds: str) -> None:
    done = gpenctl("-t", seconds, daemon.target, "ready")
    assert (done.returncode, done.stdout) == (2, "") and "--timeout" in done.stderr


def test_what_is_left_to_the_long_way() -> None:
    """What has more to it than a line and a reply; all else is the line that the long way makes."""
    for name in ELSEWHERE:
        assert line_of([name]) == line_of([name, "1"]) == line_of([f"{name} 1"]) == ""
    for words in (["ready"], ["ready", "-"], ["server 1 max 5"], ["log", "/a,b:c"], ["a#b", "\\"]):
        assert line_of(words) == join(words) != ""
    for words in ([], [""], ["a", ""], ["a", "b c"], ["a", "it's"], ["#a"], ["-x"], ["a\tb"], ["a", "\udcff"]):
        assert line_of(words) == ""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which what Python has compiled once is kept, as it is where gpen is installed."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("compiled"))}


def test_a_common_call_loads_next_to_nothing(daemon: Daemon, compiled: dict[str, str]) -> None:
    """None of what takes longer to load than the call: without packages (-S, which is also without what these load)."""
    daemon.replies["ready"] = "ready\n"
    command = [sys.executable, "-S", "-X", "importtime", str(ROOT / "bin" / "gpenctl"), "-t", "5", daemon.target,
               "ready"]
    done = subprocess.run(command, env=compiled, capture_output=True, text=True, timeout=30, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout == "ready\n" and "gpen.gpenctl.quick" in loaded
    assert not loaded & {*HEAVY}
    assert {name for name in loaded if name.startswith("gpen")} == {
        "gpen", "gpen.core", "gpen.start", "gpen.gpenctl", "gpen.gpenctl.link", "gpen.gpenctl.quick"}


def spent(command: list[str], environment: dict[str, str], count: int) -> Iterator[float]:
    """The CPU time in seconds, user and system, of each of so many calls."""
    for _ in range(count):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=30, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        yield after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_processor_time_of_a_common_call(daemon: Daemon, compiled: dict[str, str]) -> None:
    """Beyond that of a Python that does nothing: the best of some calls, for others work on this machine."""
    daemon.replies["ready"] = "ready\n"
    python = [sys.executable, "-S"]
    nothing = min(spent([*python, "-c", "pass"], compiled, 15))
    call = min(spent([*python, str(ROOT / "bin" / "gpenctl"), daemon.target, "ready"], compiled, 15))
    assert call - nothing < CPU
