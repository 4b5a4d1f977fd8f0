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
    """CPU time that the process, all its threads and its descendants have used so far, those that have ended included.

    A thread's time stays its process's when it ends, a process's becomes its parent's when that waits for it (proc(5)).
    """
    user = system = 0
    for member in family(pid):
        if fields := fields_of(PROC / str(member) / "stat"):
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    return CpuTime(user / TICKS_PER_SECOND, system / TICKS_PER_SECOND)


def own_cpu_time(pid: int) -> CpuTime:
    """CPU time that this process alone has used so far, with all its threads."""
    fields = fields_of(PROC / str(pid) / "stat")
    return CpuTime(int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND)


def memory_kb(pid: int) -> int:
    """Proportional set size of the process and its descendants, in KB: shared pages count in part."""
    return sum(pss_kb(member) for member in family(pid))


def pss_kb(pid: int) -> int:
    return _smaps_kb(pid, "Pss")


def own_kb(pid: int) -> int:
    """Memory that is the process's own and was written to, in KB: whatever becomes of those that share the rest."""
    return _smaps_kb(pid, "Private_Dirty")


def _smaps_kb(pid: int, what: str) -> int:
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0])
    raise ValueError(f"/proc/{pid}/smaps_rollup: has no {what}")


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
    for thread in threads(pid):
        for child in text_of(thread / "children").split():
            members += family(int(child))
    return members


def thread_states(pid: int) -> str:
    """The states of all threads of the process and of its descendants, as proc(5) has them: R runs, S waits, T is
    stopped."""
    rows = [fields_of(thread / "stat") for member in family(pid) for thread in threads(member)]
    return "".join(row[0] for row in rows if row)


def threads(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except FileNotFoundError:
        return []


def fields_of(stat: Path) -> list[str]:
    """What stands behind the name of a process or thread; nothing when it has just ended."""
    return text_of(stat).rpartition(")")[2].split()


def text_of(path: Path) -> str:
    """A file of a process or thread; empty when that has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
