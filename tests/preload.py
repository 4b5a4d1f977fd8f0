"""A process that has loaded gpen once, and forks for each gpen that a test starts.

To load it takes three quarters of what a start costs, and the tests start thousands. What runs is the same, the program
with a command line in a process of its own, only that Python is not begun anew. Tests of starts, of rights, and of what
a parent leaves run bin/gpen itself, as they run all the other programs.

Run as a program this is that process. It reads a request a line from the socket whose number it is given, and answers
each with a number: the pid of what it has started, or the exit status of what it was asked for, null while that runs.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "bin" / "gpen"
FLAGS = ["-W", "error"]


class Loader:
    """The other end of such a process, which ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # tests start gpens in threads, too
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, *FLAGS, __file__, str(theirs.fileno())], cwd=ROOT,
                                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                             pass_fds=[theirs.fileno()])
        self._sock = ours
        self._replies = ours.makefile("r")

    def end(self) -> None:
        self._replies.close()
        self._sock.close()
        self._process.wait()

    def ask(self, *request: Any) -> Any:
        """The answer to a request. Raises EOFError when the process is gone."""
        with self._lock:
            self._sock.sendall(f"{json.dumps(request)}\n".encode())
            answer = self._replies.readline()
        if not answer:
            raise EOFError("the process that has loaded gpen is gone")
        return json.loads(answer)


class PreloadedGpen:
    """A gpen that was forked: what of a `subprocess.Popen` tests use."""

    def __init__(self, loader: Loader, arguments: Sequence[str], directory: Path, output: Path) -> None:
        """Start it there with these arguments; what it writes goes to the file ``output``."""
        self._loader = loader
        self.returncode: int | None = None
        self.pid: int = loader.ask("start", [*arguments], str(directory), str(output))

    def poll(self) -> int | None:
        """Its exit status, minus the signal that ended it, or None as long as it runs."""
        if self.returncode is None:
            self.returncode = self._loader.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, so many seconds at most. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            fd = os.pidfd_open(self.pid)
            try:
                select.select([fd], [], [], timeout)
            finally:
                os.close(fd)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(PROGRAM), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def surroundings() -> tuple[object, ...]:
    """What a process has from its parent, besides what is said at its start."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    limits = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)
    network = os.readlink("/proc/thread-self/ns/net")
    return os.getpid(), network, environment, [resource.getrlimit(limit) for limit in limits]


class _Usual:
    """The process that has loaded gpen, for as long as nobody has changed what it would pass on."""

    def __init__(self) -> None:
        self._surroundings: tuple[object, ...] = ()
        self._loader: Loader | None = None

    def begin(self) -> None:
        """The surroundings are now as they are for nearly all tests."""
        self._surroundings = surroundings()

    def end(self) -> None:
        if self._loader is not None:
            self._loader.end()
            self._loader = None

    def loader(self) -> Loader | None:
        """What forks a gpen; None where a test has changed what that would inherit."""
        if surroundings() != self._surroundings:
            return None
        if self._loader is None:
            self._loader = Loader()
        return self._loader


usual = _Usual()


# --- as a program -----------------------------------------------------------------------------------------------------


def _begin(arguments: list[str], directory: str, output: str) -> None:
    """Be as a process that was executed so."""
    os.chdir(directory)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    for stream in (1, 2):
        os.dup2(fd, stream)
    os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(PROGRAM), *arguments]
    sys.orig_argv = [sys.executable, *FLAGS, *sys.argv]


def _status(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> int:
    sys.path[0] = str(ROOT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    gc.disable()
    from gpen import cli, start

    del cli
    gc.enable()
    with socket.socket(fileno=int(sys.argv[1])) as sock, sock.makefile("r") as requests:
        for line in requests:
            word, *about = json.loads(line)
            if word == "start":
                pid = os.fork()
                if not pid:
                    requests.close()
                    sock.close()
                    _begin(*about)
                    return start.gpen()
                answer: int | None = pid
            else:
                answer = _status(*about)
            sock.sendall(f"{json.dumps(answer)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
