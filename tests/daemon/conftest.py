"""Fixtures for gpen in the background, and for names that nobody knows."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faulty import Faulty
from tests.harness import connect, read_all, run_gpen, wait_until


@pytest.fixture
def daemonize(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start gpen in the background with pid file and control socket; returns its pid once the command has ended."""

    def start(*arguments: str, **options: Any) -> int:
        done = run_gpen("-p", str(pid_file), "-C", str(tmp_path / "gpen.ctl"), *arguments, directory=tmp_path,
                        **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pids.append(int(pid_file.read_text()))
        return pids[-1]

    pid_file, pids = tmp_path / "gpen.pid", list[int]()
    yield start
    for pid in pids:
        if not has_ended(pid):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: all(map(has_ended, pids)), what=f"the end of {pids}")


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Callable[..., Faulty]]:
    """A gpen of which a function fails when it shall: faulty("wire.hold:Hold.wait", LOCAL, server.address)."""
    started: list[Faulty] = []

    def start(place: str, *arguments: str, error: str = 'RuntimeError("on purpose")') -> Faulty:
        started.append(Faulty(tmp_path, place, error, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.trigger.unlink(missing_ok=True)
        assert each.gpen.stop() == 0
        print(each.gpen.stderr)


def ctl(path: Path, line: str) -> str:
    """The reply of the gpen with this control socket to a command line."""
    with connect(str(path)) as sock:
        sock.sendall(f"{line}\n".encode())
        return read_all(sock).decode()


def has_ended(pid: int) -> bool:
    """Whether a process is over, whether or not its parent has asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """What gpen must see in the places of others (`seeing`) so that its name server never answers."""
    address = "127.78.{}.{}".format(*divmod(os.getpid() % 65536, 256))
    (tmp_path / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:15 attempts:2\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:
        name_server.bind((address, 53))
        yield {"/etc/resolv.conf": tmp_path / "resolv.conf", "/etc/hosts": tmp_path / "hosts"}
