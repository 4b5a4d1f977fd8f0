"""The watcher's log: stderr, a line for each change."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from gpen.control.reply import timestamp
from gpen.model.words import printable


def say(line: str) -> None:
    """One line to the log, with the time in UTC; from any thread."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{timestamp(time.time())} {printable(line)}\n")
        sys.stderr.flush()
