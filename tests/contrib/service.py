"""The init script, run on instances in a directory of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib"
GPEN = f"{sys.executable} {ROOT / 'bin' / 'gpen'}"
PATIENCE = 10.0  # seconds


class Service:
    """contrib/init.d/gpen with configurations, pid files and control sockets below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.configurations = directory / "etc"
        self.configurations.mkdir()
        self.run_directory = directory / "run"
        self.defaults = directory / "default"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GPEN")}
        self.environment = inherited | {
            "GPEN": GPEN,
            "GPEN_CONFDIR": str(self.configurations),
            "GPEN_RUNDIR": str(self.run_directory),
            "GPEN_DEFAULTS": str(self.defaults),
        }

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run an action: service("start", "web")."""
        return subprocess.run(
            [CONTRIB / "init.d" / "gpen", *words],
            capture_output=True,
            text=True,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    def configuration(self, name: str) -> Path:
        return self.configurations / f"{name}.cfg"

    def configure(self, name: str, *commands: str) -> None:
        self.configuration(name).write_text("".join(f"{command}\n" for command in commands))

    def pid_file(self, name: str) -> Path:
        return self.run_directory / f"{name}.pid"

    def pid(self, name: str) -> int:
        return int(self.pid_file(name).read_text())

    def ask(self, name: str, command: str) -> str:
        """The reply to one command on the instance's control socket."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(str(self.run_directory / f"{name}.ctl"))
            control.sendall(f"{command}\n".encode())
            control.shutdown(socket.SHUT_WR)
            return read_all(control).strip()

    def greeting(self, name: str) -> str:
        """What a client of the instance gets to read."""
        host, _, port = self.ask(name, "listen").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            return read_all(client)


def read_all(connection: socket.socket) -> str:
    return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


def wait_for(fulfilled: Callable[[], bool], what: str) -> None:
    """Asks until it is so; fails after a while."""
    deadline = time.monotonic() + PATIENCE
    while not fulfilled():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether the process is there, and not just waiting for its parent to take notice of its end."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def with_our_programs(unit: str) -> str:
    """A unit that runs the programs of this tree."""
    return re.sub(r"(?<==)(gpen|gpenctl) ", rf"{ROOT}/bin/\1 ", unit)


def told_of_units(*units: Path, others: Path | None = None) -> list[str]:
    """What systemd-analyze says of these units; what it says of the machine's other units is not their fault.

    ``others`` is a directory of units that count before the machine's own.
    """
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    before = {"SYSTEMD_UNIT_PATH": f"{others}:"} if others else {}
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True,
                          timeout=60, check=False, env=os.environ | before)
    names = re.compile("|".join(rf"(?<![\w@.-]){re.escape(unit.name)}(?![\w-])" for unit in units))
    return [line for line in done.stderr.splitlines() if names.search(line)]


@contextlib.contextmanager
def greeter(text: str) -> Iterator[int]:
    """A server that greets each client and closes; yields its port."""

    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(text.encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()
