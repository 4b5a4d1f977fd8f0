"""gpen-discover as a process, and what its gpens have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from gpen.console import Answer, ConsoleError, ask
from tests.harness import PATIENCE, ROOT, Gpen, wait_until

COMMAND = [sys.executable, "-W", "error", str(ROOT / "bin" / "gpen-discover")]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=20, check=False)


class Discoverer:
    """A gpen-discover that runs until the end of a ``with``, with a socket and a log in ``directory``."""

    def __init__(self, directory: Path, *words: str, gpens: tuple[Gpen | str, ...], name: str = "discover",
                 wrapper: Sequence[str] = ()) -> None:
        """``words``: the source, its options and ours; ``wrapper``: a command that starts commands. Without --floor
        nothing that has left is kept, as the servers of most tests are none that can be tried."""
        self.socket = str(directory / f"{name}.sock")
        self.log = directory / f"{name}.log"
        told = [f"--gpen={gpen if isinstance(gpen, str) else gpen.control}" for gpen in gpens]
        floor = [] if any(word.startswith("--floor") for word in words) else ["--floor=0"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([*wrapper, *COMMAND, *words, *told, *floor, f"--socket={self.socket}"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self) -> Discoverer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        status = self.stop()
        print(f"--- what gpen-discover told\n{self.told}")
        if kind is None:
            assert status == 0
            assert "Traceback" not in self.told and " failed:" not in self.told

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def told(self) -> str:
        """All of its log so far."""
        return self.log.read_text()

    def wait_told(self, words: str, times: int = 1) -> None:
        wait_until(lambda: self.told.count(words) >= times, what=f"'{words}' in {self.told}")

    def status(self) -> dict[str, Any]:
        """What status tells as JSON, once there is somebody who answers."""
        return dict(wait_until(self._status, what=f"an answer at {self.socket}"))

    def _status(self) -> Answer | None:
        with suppress(ConsoleError):
            return ask(self.socket, "status", "gpen-discover SOURCE")
        return None


def write(path: Path, *servers: str) -> None:
    """Replace the file by one with these lines, as a whole."""
    new = path.with_name("new")
    new.write_text("".join(f"{server}\n" for server in servers))
    os.replace(new, path)


def numbered(gpen: Gpen, owner: str | None = "discover") -> dict[int, str]:
    """The servers of an owner by their numbers: HOST:PORT, and what else there is to say."""
    rows = [row for row in gpen.json("servers") if row["owner"] == owner and row["number"] is not None]
    return {row["number"]: f"{row['host']}:{row['port']}{_said(row)}" for row in rows}


def _said(row: dict[str, Any]) -> str:
    words = [f"{name} {row[name]}" for name, usual in (("weight", 1), ("prio", 0), ("max", 0)) if row[name] != usual]
    if row["verdict"]:
        words.append(f"{row['verdict']}: {row['verdict_reason']}")
    return "".join(f" {word}" for word in words)


def wait_servers(gpen: Gpen, *expected: str, owner: str | None = "discover") -> None:
    """Wait until an owner's servers are these, in whatever order."""
    wait_until(lambda: sorted(numbered(gpen, owner).values()) == sorted(expected),
               what=f"{expected}, where there is {numbered(gpen, owner)}")
