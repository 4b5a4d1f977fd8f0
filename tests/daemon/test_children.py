"""The processes that gpen is the parent of: none stays a zombie, and no program's status is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import ctl
from tests.harness import COMMAND, Gpen, Server, hold, naming, needs_root, wait_until

pytestmark = pytest.mark.one_process

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def zombies_of(pid: int) -> list[int]:
    def state(child: int) -> str:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""

    return [child for child in children_of(pid) if state(child) == "Z"]


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """Write a check of these lines of shell that counts how often it has run."""

    def write(text: str) -> Path:
        path = tmp_path / "check"
        path.write_text(f"#!/bin/sh\necho >> {tmp_path}/runs\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def has_run(directory: Path, times: int) -> None:
    runs = directory / "runs"
    wait_until(lambda: runs.exists() and runs.read_text().count("\n") >= times, what=f"{times} checks")


def answer_of(control: Path) -> str:
    """What it answers to `pid`; nothing as long as there is nobody."""
    try:
        return ctl(control, "pid")
    except OSError:
        return ""


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start gpen as process 1 of a container without an init; returns its pid here."""
    with subprocess.Popen(["true"]) as process:
        pass

    def start(*arguments: str) -> int:
        nonlocal process
        process = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *COMMAND, "-f", "-C", "./gpen.ctl",
                                    *arguments], cwd=tmp_path, stdin=subprocess.DEVNULL)
        wait_until(lambda: answer_of(tmp_path / "gpen.ctl") == "1\n")
        return children_of(process.pid)[0]

    yield start
    process.kill()
    process.wait()


@needs_root
@pytest.mark.parametrize("text", ["sleep 30 | cat", "sleep 30 | cat & exit 0", "setsid sleep 0.3 & exit 1",
                                  "(sleep 0.01 & exec true) & (sleep 0.02 & exec true) & echo fine"])
def test_process_1(first: Callable[..., int], program: Callable[[str], Path], servers: Serve, tmp_path: Path, text: str,
                   ) -> None:
    """What a check's program leaves behind becomes gpen's child there."""
    pid = first("-O", f"check exec {program(text)}", "-O", "check_interval 0.2", "-O", "check_timeout 0.2",
                "127.0.0.1:0", servers(hold).address)
    has_run(tmp_path, 8)
    ctl(tmp_path / "gpen.ctl", "check off")
    wait_until(lambda: not children_of(pid), what="the end of all children")


@needs_root
def test_process_1_learns_how_its_programs_end(first: Callable[..., int], program: Callable[[str], Path],
                                               servers: Serve, tmp_path: Path) -> None:
    """Many at a time, while orphans are reaped: no status is taken for another, none is lost."""
    check = program('(sleep 0.01 & exec true) & echo "$GPEN_SERVER"; exit $((GPEN_SERVER % 2))')
    pid = first("-O", f"check exec {check}", "-O", "check_interval 0.2", "-O", "check_fall 1", "-O", "check_rise 1",
                "127.0.0.1:0", *[servers(hold).address] * 20)
    has_run(tmp_path, 400)
    rows = [line.split() for line in ctl(tmp_path / "gpen.ctl", "events 1000").splitlines()]
    assert {row[2] for row in rows if row[3] == "down:"} == {str(number) for number in range(1, 20, 2)}
    assert {row[2] for row in rows if row[3] == "up:"} <= {str(number) for number in range(0, 20, 2)}
    assert not [row for row in rows if "killed" in row]
    ctl(tmp_path / "gpen.ctl", "check off")
    wait_until(lambda: not children_of(pid))


def test_a_child_of_the_shell_that_became_gpen(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))], wrapper=("sh", "-c", 'sleep 0.1 & exec "$0" "$@"'))
    wait_until(lambda: not children_of(balancer.pid))


def test_programs_that_are_killed(gpen: Start, servers: Serve, program: Callable[[str], Path], tmp_path: Path) -> None:
    balancer = gpen("-O", f"check exec {program('sleep 30 | cat')}", "-O", "check_interval 0.2", "-O",
                    "check_timeout 0.2", servers=[servers(hold)])
    has_run(tmp_path, 5)
    balancer.ctl("check off")
    wait_until(lambda: not children_of(balancer.pid))
    assert not zombies_of(os.getpid())
