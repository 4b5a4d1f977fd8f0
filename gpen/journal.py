"""stderr, where it is the journal of systemd: how urgent each line is stands in front of it (sd-daemon(3)), and the
time is the journal's. A terminal and a file get the lines alone. And how a time is written in any log."""

from __future__ import annotations

import os
import time

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7  # as syslog(3) counts


def timestamp(seconds: float) -> str:
    """A wall clock time in UTC, to the millisecond (ISO 8601)."""
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1000):03d}Z"


def has_stderr() -> bool:
    """Whether stderr leads there: JOURNAL_STREAM is the device and inode of what systemd has given us."""
    stream = os.environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def marked(text: str, urgency: int) -> str:
    """Lines for stderr as they are, or each with how urgent it is in front of it, for the journal."""
    if not has_stderr():
        return text
    return "\n".join(f"<{urgency}>{line}" for line in text.split("\n"))
