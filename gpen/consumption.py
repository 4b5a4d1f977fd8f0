"""What this process takes of the machine, for its metrics."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from typing import Any


def consumption() -> dict[str, Any]:
    """CPU time in seconds, memory in bytes, open descriptors and how many there may be; None for what can't be known
    where there is no /proc, as in a chroot."""
    row: dict[str, Any] = dict.fromkeys(("memory", "descriptors"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    row["cpu"] = usage.ru_utime + usage.ru_stime
    row["most_descriptors"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with suppress(OSError):
        row["descriptors"] = len(os.listdir("/proc/self/fd"))
        with open("/proc/self/statm", "rb") as file:
            row["memory"] = int(file.read().split()[1]) * resource.getpagesize()
    return row
