"""contrib/keepalived/check: what keepalived asks each second, of real gpens, with each program that it may find."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contrib.service import CONTRIB
from tests.harness import ROOT, Gpen, Server, hold, started, wait_until
from tests.listeners import own

CHECK = str(CONTRIB / "keepalived" / "check")
WAYS = ("nc.openbsd", "socat", "gpenctl")
CPU = 0.012  # seconds of a call, at most; 0.003 where nobody else works

StartGpen = Callable[..., Gpen]
StartServer = Callable[..., Server]
Check = Callable[..., "Told"]


class Told(NamedTuple):
    status: int
    text: str


@pytest.fixture(params=WAYS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH with one of the programs only, and with what the script needs besides."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("timeout", *([request.param] if request.param != "gpenctl" else [])):
        place = shutil.which(name)
        if place is None:
            pytest.skip(f"{name} is not installed")
        (directory / name).symlink_to(place)
    if request.param == "gpenctl":
        program = directory / "gpenctl"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "bin" / "gpenctl"} "$@"\n')
        program.chmod(0o755)
    return str(directory)


@pytest.fixture
def check(path: str) -> Check:
    """Run it: check("SOCKET", "LISTENER"). It says nothing on stderr."""

    def run(*words: str) -> Told:
        done = subprocess.run([CHECK, *words], env={**os.environ, "PATH": path}, capture_output=True, text=True,
                              timeout=30, check=False)
        assert done.stderr == ""
        return Told(done.returncode, done.stdout)

    return run


@pytest.fixture
def balancer(gpen: StartGpen, servers: StartServer) -> Gpen:
    return gpen(*own("web", "servers 1"), servers=[servers(hold), servers(hold)])


def test_ready_or_why_not(check: Check, balancer: Gpen) -> None:
    """In time, however busy the machine of the tests is."""
    control = ("-t", "10", balancer.control)
    assert check(*control) == check(*control, "web") == check(*control, "-") == (0, "ready\n")
    balancer.ctl("server 1 state maint")
    why = "not ready: listener web: its only server can't be used: maint\n"
    assert check(*control) == check(*control, "web") == (1, why)
    assert check(*control, "-") == (0, "ready\n")
    status, text = check(*control, "nowhere")
    assert status == 1 and text.startswith("not ready: ") and "there is no listener of this name" in text


def test_nobody_answers(check: Check, balancer: Gpen, tmp_path: Path) -> None:
    """One that stands still, one that was killed, and a socket that is not there; it is ready as soon as it goes on."""
    control = balancer.control
    balancer.signal(signal.SIGSTOP)
    told = check("-t", "0.3", control)
    assert told == (1, f"not ready: {control}: no answer within 0.3 s; does gpen stand still?\n")
    balancer.signal(signal.SIGCONT)
    assert check("-t", "10", control) == (0, "ready\n")
    for target in (tmp_path / "none.ctl", tmp_path, tmp_path / ("x" * 200)):
        status, text = check("-t", "10", str(target))
        assert status == 1 and text.startswith(f"not ready: {target}: ") and text.count("\n") == 1


def test_one_that_was_killed(check: Check, servers: StartServer, tmp_path: Path) -> None:
    balancer = Gpen(tmp_path, "127.0.0.1:0", servers(hold).address)
    balancer.process.kill()
    balancer.process.wait()
    status, text = check("-t", "10", balancer.control)
    assert status == 1 and text.startswith(f"not ready: {balancer.control}: ") and text.count("\n") == 1


@pytest.mark.parametrize("words", [
    [], ["a", "b", "c"], ["-t"], ["-t", "x", "/x"], ["-t", "0", "/x"], ["-t", "1"], ["/x", "a b"], ["/x", "a\nexit"],
    ["/x", "a;b"], [""], ["", "x"], ["-x"], ["-a", "--", "-x"],
])
def test_wrong_usage(words: Sequence[str]) -> None:
    done = subprocess.run([CHECK, *words], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("check: ") and "Usage: check [-a] [-t SECONDS] SOCKET [LISTENER]" in done.stderr


def test_its_help() -> None:
    done = subprocess.run([CHECK, "--help"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "Exit status: 0 ready" in done.stdout


def left_of(control: str) -> list[str]:
    """The processes that have this socket in their command lines, but for gpen itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(control in word for word in words) and "-C" not in words:
                found.append(" ".join(words))
    return found


@pytest.mark.parametrize("with_group", [True, False])
def test_what_is_left_when_it_is_killed(balancer: Gpen, with_group: bool) -> None:
    """Nothing: keepalived ends its group of processes; and what is left of the script alone ends in its time."""
    balancer.signal(signal.SIGSTOP)
    command = [CHECK, "-t", "60" if with_group else "0.5", balancer.control]
    with started(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until(lambda: len(left_of(balancer.control)) > 1)
        (os.killpg if with_group else os.kill)(process.pid, signal.SIGTERM)
        process.wait()
        wait_until(lambda: not left_of(balancer.control), what="the end of what it has started")
    balancer.signal(signal.SIGCONT)


@pytest.mark.parametrize("name", ["a 'b\" $HOME", "a,fork!!-"])
def test_a_socket_of_any_name(path: str, check: Check, gpen: StartGpen, servers: StartServer, tmp_path: Path,
                              name: str) -> None:
    """Also where it would mean more to the program that asks."""
    program = Path(path) / "gpenctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "bin" / "gpenctl"} "$@"\n')
    program.chmod(0o755)
    balancer = gpen(servers=[servers(hold)], control=str(tmp_path / name))
    assert check("-t", "10", balancer.control) == (0, "ready\n")


@pytest.mark.parametrize("said", [b"not ready: x", b"ready\n", b"\0"])
def test_one_that_never_stops_talking(check: Check, tmp_path: Path, said: bytes) -> None:
    """It is not ready, in time, and what it says is not kept."""
    control = tmp_path / "x.ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control))
        listener.listen()
        talker = threading.Thread(target=talk_to_next, args=(listener, said * 10_000))
        talker.start()
        status, text = check("-t", "0.3", str(control))
        talker.join()
    assert status == 1 and text.startswith("not ready: ") and len(text) < 10_000_000


def talk_to_next(listener: socket.socket, piece: bytes) -> None:
    """Say this until nobody hears it."""
    talk, _ = listener.accept()
    with talk, contextlib.suppress(ConnectionError):
        while True:
            talk.sendall(piece)


def test_its_processor_time(balancer: Gpen) -> None:
    """The best of some calls, for others work on this machine."""
    times = []
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([CHECK, "-t", "10", balancer.control], stdout=subprocess.DEVNULL, timeout=30, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < CPU


def test_alive_is_whoever_answers(gpen: StartGpen, check: Check, tmp_path: Path) -> None:
    """keepalived takes the address away from one that is not, whatever the servers are."""
    balancer = gpen(*own("w"), servers=["127.0.0.1:1"])
    balancer.ctl("server 0 health down because of rain")
    told = check("-a", balancer.control, "w")
    assert told.status == 0 and told.text.startswith("alive, but not ready: ")
    balancer.ctl("server 0 health up")
    assert check("-a", balancer.control) == (0, "ready\n")
    assert check("-a", balancer.control, "none").status == 1
    assert check("-a", str(tmp_path / "none")).status == 1
    balancer.signal(signal.SIGSTOP)
    assert check("-a", "-t", "0.2", balancer.control).status == 1
    balancer.signal(signal.SIGCONT)
