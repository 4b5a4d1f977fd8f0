"""Where gpenlogd writes: a file that can be reopened, or standard output."""

from __future__ import annotations

import logging

from gpen.daemon.chroot import Chroot
from gpen.daemon.line_file import STDOUT, LineFile

log = logging.getLogger("gpen")


class Output:
    """The log. Raises OSError when it can't be opened."""

    def __init__(self, path: str | None) -> None:
        """``path``: None is standard output, kept for when the daemon lets go of its own."""
        self._path = path
        self._file = LineFile(path or STDOUT, waits=True)
        self._failed = False

    def made(self) -> list[int]:
        """The file's descriptor, if gpenlogd has made it: the user that it becomes must be able to open it again."""
        return self._file.made()

    def confined(self, chroot: Chroot, user: str | None) -> None:
        """gpenlogd has become this user: tell what that means for rotation."""
        if self._path:
            self._file.warn_of_reopening(chroot.path(self._path), user)

    def reopen(self, chroot: Chroot) -> None:
        """Take up the file of that name, for rotation; when that fails the old one stays, and that is told."""
        if not self._path:
            return
        try:
            self._file.reopen(chroot.path(self._path))
        except OSError as error:
            log.error("can't reopen the log '%s': %s; the old one stays", self._path, error.strerror)

    def write(self, line: bytes) -> None:
        """Append a line; its end is added. A full disk costs lines, and is told once.

        Raises BrokenPipeError when standard output is a pipe that nobody reads any more.
        """
        try:
            self._file.write(line + b"\n")
            self._failed = False
        except OSError as error:
            if isinstance(error, BrokenPipeError) and not self._path:
                raise
            if not self._failed:
                log.error("can't write the log '%s': %s; lines are lost", self._path or "stdout", error.strerror)
            self._failed = True

    def close(self) -> None:
        self._file.close()
