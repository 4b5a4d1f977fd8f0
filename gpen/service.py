"""What a program that goes on until a signal comes does first: gpen-galera and gpen-discover."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from gpen.journal import ERROR
from gpen.log import failure, say
from gpen.start import unblock_signals


def tell_of_failures() -> None:
    """A thread that fails costs itself alone: the watcher begins it again."""

    def tell(failed: threading.ExceptHookArgs) -> None:
        name = failed.thread.name if failed.thread else "a thread"
        what = failure(failed.exc_value) if failed.exc_value else failed.exc_type.__name__
        say(f"{name} failed: {what}", ERROR)

    threading.excepthook = tell


def on_signals(stop: Callable[[], None]) -> None:
    """Call this at SIGTERM, SIGINT and SIGHUP; not at the last where that was ignored from the start (nohup)."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, lambda *_: stop())
    unblock_signals()
