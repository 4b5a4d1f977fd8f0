"""Networks of a test's own: a loopback interface, and the routes that the test gives it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

from tests.harness import PATIENCE, wait_until

Made = TypeVar("Made")


class Network:
    """A network namespace; use it in a ``with``. What is started with its ``wrapper`` is in it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._own = f"/proc/{self._holder.pid}/ns/net"
        wait_until(lambda: os.readlink(self._own) != os.readlink("/proc/self/ns/net"), what="a network")
        self.wrapper = ("nsenter", f"--net={self._own}")
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.wait()

    def run(self, *command: str) -> None:
        """Run a command there."""
        subprocess.run([*self.wrapper, *command], check=True, timeout=PATIENCE)

    def ip(self, line: str) -> None:
        """Change its routes or rules."""
        self.run("ip", *line.split())

    def refuse_first(self) -> None:
        """Let rules that come count before the table of its own addresses."""
        for line in ("rule add pref 100 lookup local", "rule del pref 0", "-6 rule add pref 100 lookup local",
                     "-6 rule del pref 0"):
            self.ip(line)

    def inside(self, make: Callable[[], Made]) -> Made:
        """What a function makes that is called there: sockets stay in the network where they were made (setns(2))."""
        made: list[Made] = []

        def enter() -> None:
            descriptor = os.open(self._own, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            made.append(make())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]
