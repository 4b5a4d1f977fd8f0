"""CPU time and memory of a program, with all the processes it has started, from /proc."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTime:
    """Seconds of CPU time. The sum is exact to a tick (10 ms), its parts are the kernel's estimate."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.user - earlier.user, self.system - earlier.system)


def cpu_time(pid: int) -> CpuTime:
    """CPU time that the process and its living descendants have used so far."""
    user = system = 0
    for member in family(pid):
        fields = (PROC / str(member) / "stat").read_text().rpartition(")")[2].split()
        user += int(fields[11])
        system += int(fields[12])
    return CpuTime(user / TICKS_PER_SECOND, system / TICKS_PER_SECOND)


def memory_kb(pid: int) -> int:
    """Proportional set size of the process and its descendants, in KB: shared pages count in part."""
    return sum(pss_kb(member) for member in family(pid))


def pss_kb(pid: int) -> int:
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0])
    raise ValueError(f"/proc/{pid}/smaps_rollup: has no Pss")


class Neighbours:
    """How much of the machine other programs took while we measured: what makes a run's figures doubtful."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.busy = busy_seconds()

    def share(self) -> float:
        """The share of all cores, 0 to 1, that was neither idle nor used by us and our ended children."""
        ours = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        elapsed = (time.monotonic() - self.began) * (os.cpu_count() or 1)
        return max(0.0, (busy_seconds() - self.busy - ours) / elapsed)


def busy_seconds() -> float:
    """CPU time of all cores since boot that was not idle (stolen time, which the host took, is busy)."""
    fields = [int(field) for field in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    idle, waiting = fields[3], fields[4]
    return (sum(fields) - idle - waiting) / TICKS_PER_SECOND


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    members = [pid]
    for task in (PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            members += family(int(child))
    return members
