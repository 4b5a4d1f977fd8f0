"""syslog, where gpen tells what happens when it is in the background; with a /dev of the test's own."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import ctl
from tests.harness import PATIENCE, Server, connect, naming, needs_root, pair_of, read_all, refusing, seeing

pytestmark = needs_root


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """A /dev with what Python needs there."""
    for name, minor in (("null", 3), ("urandom", 9)):
        (tmp_path / "dev").mkdir(exist_ok=True)
        os.mknod(tmp_path / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    return tmp_path / "dev"


@pytest.fixture
def syslog(dev: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(dev / "log"))
        sock.settimeout(PATIENCE)
        yield sock


def fill(path: Path) -> int:
    """Send until a datagram socket takes no more; returns how many it took."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(path))
        for count in range(100_000):
            try:
                sock.send(b"filler", socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count
    raise AssertionError(f"{path} takes without end")


def test_a_syslog_that_does_not_read_costs_lines(daemonize: Callable[..., int], servers: Callable[..., Server],
                                                 dev: Path, syslog: socket.socket, tmp_path: Path) -> None:
    """Each client of a server that refuses is worth a line; when syslog reads again, it is told again."""
    fillers = fill(dev / "log")
    with refusing() as nobody:
        pid = daemonize("-r", "-b", "0", "127.0.0.1:0", nobody, servers(naming("a")).address,
                        wrapper=seeing({"/dev": dev}))
        address = pair_of(ctl(tmp_path / "gpen.ctl", "listen").strip())

        def ask() -> bytes:
            with connect(address) as sock:
                sock.shutdown(socket.SHUT_WR)
                return read_all(sock)

        assert [ask() for _ in range(30)] == [b"a"] * 30
        assert [syslog.recv(1000) for _ in range(fillers)] == [b"filler"] * fillers
        assert ask() == ask() == b"a"
        line = syslog.recv(1000).decode()
    assert line.startswith("<30>gpen[") and f"[{pid}]: server 0 {nobody}: connect failed" in line
