"""pen and gpen side by side: started with the same arguments, asked with the same words."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.harness import COMMAND, PATIENCE, ROOT, connect, free_port, read_all, wait_until

PEN, GPEN = "pen", "gpen"
PROGRAMS = {PEN: ["pen"], GPEN: COMMAND}
GPENCTL = [sys.executable, str(ROOT / "bin" / "gpenctl")]
ATTEMPTS = 3

needs_pen = pytest.mark.skipif(not shutil.which("pen") and not os.environ.get("CI"), reason="pen is not installed")


class Balancer:
    """A pen or a gpen in the foreground, with a control port; use it in a ``with``."""

    def __init__(self, kind: str, directory: Path, *options: str, servers: Iterable[str] = ()) -> None:
        """``kind`` is PEN or GPEN; ``directory`` takes its diagnostics."""
        self.kind = kind
        self.stderr_file = directory / f"{kind}.err"
        self.ended = False
        self._arguments = [*options], [*servers]
        for attempt in range(ATTEMPTS):
            if self._starts():
                return
            assert attempt + 1 < ATTEMPTS, f"{kind} did not start: {self.stderr_file.read_text()}"

    def _starts(self) -> bool:
        """Start it on two ports that were free just now; False when somebody else was quicker to take one."""
        options, servers = self._arguments
        self.port, self.control_port = free_port(), free_port()
        place = f"127.0.0.1:{self.port}"
        command = [*_as_nobody(self.kind, "-U" in options), "-C", self.control, *options, place, *servers]
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        return bool(wait_until(lambda: self.process.poll() is not None or self._answers()) and self._answers())

    def _answers(self) -> bool:
        try:
            return self.process.poll() is None and self.ask("pid") == f"{self.process.pid}\n"
        except OSError:
            return False

    def __enter__(self) -> Balancer:
        return self

    def __exit__(self, *_: object) -> None:
        still_ran = self.ended or self.process.poll() is None
        self.process.terminate()
        self.process.wait(PATIENCE)
        print(f"--- what {self.kind} told\n{self.stderr_file.read_text()}")
        assert still_ran, f"{self.kind} ended by itself with status {self.process.returncode}"

    def ends(self) -> None:
        """It was told to end, and does."""
        self.process.wait(PATIENCE)
        self.ended = True

    @property
    def control(self) -> str:
        return f"127.0.0.1:{self.control_port}"

    def plain(self, reply: str) -> str:
        """A reply without what must differ: the process id and the ports that the kernel chose."""
        if reply == f"{self.process.pid}\n":
            return "PID\n"
        return reply.replace(f"127.0.0.1:{self.port}", "LISTEN").replace(self.control, "CONTROL")

    # --- asking ---------------------------------------------------------------------------------------------------

    def ask(self, line: str) -> str:
        """The reply to one command."""
        with connect(("127.0.0.1", self.control_port)) as sock:
            sock.sendall(f"{line}\n".encode())
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock).decode()

    def penctl(self, line: str) -> str:
        """The same by way of pen's own client."""
        done = subprocess.run(["penctl", self.control, *line.split()], capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
        assert done.returncode == 0 and not done.stderr
        return done.stdout

    def gpenctl(self, *lines: str) -> tuple[int, str, str]:
        """The same by way of gpenctl: exit status, replies, errors."""
        done = subprocess.run([*GPENCTL, self.control], input="".join(f"{line}\n" for line in lines),
                              capture_output=True, text=True, timeout=PATIENCE, check=False)
        return done.returncode, done.stdout, done.stderr

    # --- traffic --------------------------------------------------------------------------------------------------

    def open(self, source: str = "127.0.0.1") -> tuple[socket.socket, str]:
        """A session of a client from ``source``, and the name that its server says; "" when it is closed."""
        sock = connect(("127.0.0.1", self.port), source)
        with contextlib.suppress(ConnectionError):
            return sock, sock.recv(1).decode()
        return sock, ""

    def name(self, source: str = "127.0.0.1") -> str:
        """The server that a client gets, which then leaves."""
        sock, name = self.open(source)
        sock.close()
        return name

    def names(self, count: int, source: str = "127.0.0.1") -> str:
        return "".join(self.name(source) for _ in range(count))

    def sessions(self) -> list[int]:
        """How many sessions each server has, as ``servers`` tells it."""
        return [int(line.split(" conn ")[1].split()[0]) for line in self.ask("servers").splitlines()]

    def spread(self, count: int, source: str = "127.0.0.1") -> dict[str, int]:
        """Which servers get how many of so many sessions that stay open at the same time."""
        opened = [self.open(source) for _ in range(count)]
        for sock, _ in opened:
            sock.close()
        wait_until(lambda: not any(self.sessions()), what="the end of all sessions")
        return dict(Counter(name for _, name in opened))


def _as_nobody(kind: str, udp: bool) -> list[str]:
    """The program in the foreground; root becomes nobody. pen -U is nobody from the start: it binds its port again for
    each client, which only the user may who has bound it first."""
    command = [*PROGRAMS[kind], "-f"]
    if os.geteuid() != 0:
        return command
    if kind == PEN and udp:
        return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", *command]
    return [*command, "-u", "nobody"]
