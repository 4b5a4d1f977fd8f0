"""gpenlogd and penlogd as processes, and what is sent to them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.harness import PATIENCE, ROOT, family_of, free_port, wait_until

GPENLOG = [sys.executable, "-W", "error", str(ROOT / "bin" / "gpenlog")]
GPENLOGD = [sys.executable, "-W", "error", str(ROOT / "bin" / "gpenlogd")]
WEB = "127.0.0.2"  # where the web server is, unless told otherwise

needs_penlog = pytest.mark.skipif(not shutil.which("penlog") and not os.environ.get("CI"),
                                  reason="penlog is not installed (Debian's package pen)")

Address = tuple[str, int]


class Collector:
    """A gpenlogd in the foreground that writes to a file; use it in a ``with``."""

    def __init__(self, directory: Path, *options: str, listen: str = "127.0.0.1:0", log: Path | None = None) -> None:
        """``log``: the file to write to, if it shall not be log below ``directory``."""
        self.file = log or directory / "log"
        self._stderr = directory / "gpenlogd.err"
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen([*GPENLOGD, "-f", "-l", str(self.file), *options, listen], cwd=directory,
                                            stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        self.address: Address = wait_until(self._listens, what="gpenlogd's start")

    def _listens(self) -> Address | None:
        assert self.process.poll() is None, self.stderr
        return listening_on(self.stderr)

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        status = self.stop()
        print(f"--- what gpenlogd told\n{self.stderr}")
        if kind is None:
            assert status == 0
            assert "Traceback" not in self.stderr

    def stop(self) -> int:
        """End it by TERM, and return its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    @property
    def stderr(self) -> str:
        """What it told so far."""
        return self._stderr.read_text()

    @property
    def log(self) -> bytes:
        """What it has written."""
        return self.file.read_bytes() if self.file.exists() else b""

    def wait_for(self, log: bytes) -> None:
        """Wait until it has written just this."""
        try:
            wait_until(lambda: self.log == log)
        except AssertionError:
            assert self.log == log  # shows the difference
            raise

    def wait_for_lines(self, count: int) -> bytes:
        """Wait until it has written so many lines, and return them."""
        wait_until(lambda: self.log.count(b"\n") >= count, what=f"line {count}")
        return self.log


class Piped:
    """A program with pipes at all ends; it is killed where the test leaves it running. Use it in a ``with``."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def __enter__(self) -> Piped:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for pipe in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):  # what was not written yet has no reader any more
                pipe.close()

    def write(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def address(self) -> Address:
        """Where a gpenlogd says that it listens."""
        address = listening_on(self.stderr.readline().decode())
        assert address is not None
        return address


def listening_on(told: str) -> Address | None:
    """The address that a gpenlogd said it listens on."""
    found = re.search(r"listens on \[?(.*?)\]?:(\d+)\n", told)
    return (found[1], int(found[2])) if found else None


@contextlib.contextmanager
def penlogd(directory: Path) -> Iterator[Address]:
    """A real penlogd that writes to the file log below ``directory``, most of it at its end."""
    port = free_port()
    process = subprocess.Popen(["penlogd", "-f", "-l", str(directory / "log"), str(port)])
    try:
        wait_until(lambda: not is_free(port), what="penlogd's start")
        yield "127.0.0.1", port
        assert process.poll() is None, "penlogd ended by itself"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def is_free(port: int) -> bool:
    """Whether nobody has this UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def hearing(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    """A socket that datagrams can be sent to."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        sock.settimeout(PATIENCE)
        yield sock


def send(address: Address, *datagrams: bytes, source: str = WEB) -> None:
    """Send datagrams from this address of ours."""
    with hearing(source) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, address)


def note(client: str, request: bytes, server: str = WEB) -> bytes:
    """What a balancer sends."""
    return f"+ {client} {server} ".encode() + request + b"\n"


def line(request: bytes, rest: bytes = b"200 5", address: str = "127.0.0.1") -> bytes:
    """What a web server logs, in the common format."""
    return address.encode() + b' - - [23/Nov/2026:03:00:00 +0000] "' + request + b'" ' + rest + b"\n"


def run(command: Sequence[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with this input."""
    return subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE, check=False)
