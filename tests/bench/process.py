"""Programs that a benchmark starts and, whatever happens, ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 10.0
POLL_SECONDS = 0.02
END_SECONDS = 2.0


class BenchError(Exception):
    """What keeps a measurement from being made, in one line for the user."""


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None,
            ) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in a session of its own, its output in `log`, and end all of it on leaving.

    `environment` stands in for our own.

    A session of its own keeps the terminal's Ctrl-C from it, so that the benchmark alone decides the order
    of the ending, and lets one signal reach the workers that the program started.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, so that it reaps its workers; kill what is left of its group after a moment."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def wait_until_listening(process: subprocess.Popen[bytes], host: str, port: int, log: Path,
                         seconds: float = START_SECONDS) -> None:
    """Return as soon as host:port accepts; raise BenchError when the program ended or took too long."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                why = f"no answer on {host}:{port}{last_line(log)}"
                raise BenchError(f"{process_name(process)}: {why}") from None
            time.sleep(POLL_SECONDS)
    raise BenchError(f"{process_name(process)}: ended with {process.returncode} at its start{last_line(log)}")


def process_name(process: subprocess.Popen[bytes]) -> str:
    """The command line, shell-like, as it is shown to the user."""
    return " ".join(map(str, process.args)) if isinstance(process.args, (list, tuple)) else str(process.args)


def last_line(log: Path) -> str:
    """The last thing a program said, ready to be put behind a message."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
