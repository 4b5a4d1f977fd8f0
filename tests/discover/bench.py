"""How long a change takes to have its effect, and what gpen-discover costs: python -m tests.discover.bench

Half a minute, with a gpen, its servers listed in a file and nobody else at work.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from tests.discover.running import Discoverer, numbered, wait_servers, write
from tests.harness import LOCAL, Gpen, wait_until

CHANGES, MANY, IDLE = 50, 1000, 10.0
FIRST = "127.0.0.1:4000"


def change(file: Path, gpen: Gpen) -> list[float]:
    """Seconds from the change of the file to the gpen that has another server, sorted."""
    times = []
    for port in range(5000, 5000 + CHANGES):
        began = time.monotonic()
        write(file, FIRST, f"127.0.0.1:{port}")
        while f"127.0.0.1:{port}" not in numbered(gpen).values():
            time.sleep(0.001)
        times.append(time.monotonic() - began)
    return sorted(times)


def cpu_of(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure(directory: Path) -> Iterator[str]:
    """What comes of it, a line each."""
    file = directory / "servers"
    write(file, FIRST)
    with Gpen(directory, LOCAL) as gpen, Discoverer(directory, "file", str(file), gpens=(gpen,)) as discoverer:
        wait_servers(gpen, FIRST)
        times = change(file, gpen)
        yield (f"{CHANGES} changes, to effect: median {statistics.median(times) * 1000:.0f} ms, "
               f"95% {times[int(CHANGES * 0.95)] * 1000:.0f} ms, most {times[-1] * 1000:.0f} ms")
        yield f"idle: {idle(discoverer, gpen)}"
        began = time.monotonic()
        write(file, *(f"127.1.{number // 250}.{number % 250 + 1}:80" for number in range(MANY)))
        wait_until(lambda: len(numbered(gpen)) >= MANY, 60)
        yield f"{MANY} servers at once: {time.monotonic() - began:.2f} s"
        wait_until(lambda: len(numbered(gpen)) == MANY, 60)
        yield f"idle, with these: {idle(discoverer, gpen)}"
        memory = Path(f"/proc/{discoverer.process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
        yield f"memory: {int(memory) // 1024} MB"


def idle(discoverer: Discoverer, gpen: Gpen) -> str:
    """What both use of a processor while nothing changes."""
    pids = discoverer.process.pid, gpen.pid
    before = [cpu_of(pid) for pid in pids]
    time.sleep(IDLE)
    ours, gpens = (cpu_of(pid) - used for pid, used in zip(pids, before, strict=True))
    return f"{ours / IDLE:.2%} of a processor, and gpen {gpens / IDLE:.2%}"


def main() -> int:
    with tempfile.TemporaryDirectory() as name, redirect_stdout(io.StringIO()):  # logs
        for line in measure(Path(name)):
            print(line, file=sys.__stdout__, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
