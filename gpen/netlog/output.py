"""Where gpenlogd writes: a file that can be reopened, or standard output. Each line is one system call."""

from __future__ import annotations

import logging
import os

from gpen.daemon.process import Jail

log = logging.getLogger("gpen")


class Output:
    """The log. Raises OSError when it can't be opened."""

    def __init__(self, path: str | None) -> None:
        """``path``: None is standard output, kept for when the daemon lets go of its own."""
        self._path = path
        self._fd = _open(path) if path else os.dup(1)
        self._failed = False

    def fileno(self) -> int:
        return self._fd

    def reopen(self, jail: Jail) -> None:
        """Take up the file of that name, for rotation; when that fails the old one stays, and that is told."""
        if not self._path:
            return
        try:
            fresh = _open(jail.path(self._path))
        except OSError as error:
            log.error("can't reopen the log '%s': %s; the old one stays", self._path, error.strerror)
            return
        os.close(self._fd)
        self._fd = fresh

    def write(self, line: bytes) -> None:
        """Append a line; its end is added. A full disk costs lines, and is told once.

        Raises BrokenPipeError when standard output is a pipe that nobody reads any more.
        """
        try:
            _write(self._fd, line + b"\n")
            self._failed = False
        except OSError as error:
            if isinstance(error, BrokenPipeError) and not self._path:
                raise
            if not self._failed:
                log.error("can't write the log '%s': %s; lines are lost", self._path or "stdout", error.strerror)
            self._failed = True

    def close(self) -> None:
        os.close(self._fd)


def _open(path: str) -> int:
    # without blocking: a FIFO that nobody reads costs lines, and does not hold up the rest
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)


def _write(fd: int, data: bytes) -> None:
    while data:  # a disk that fills up, or a pipe, takes a part
        data = data[os.write(fd, data):]
