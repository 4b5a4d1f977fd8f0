"""Where files are, before and after the chroot."""

from __future__ import annotations

import os


class Chroot:
    """What was named from outside the chroot and lies inside has a shorter name there."""

    def __init__(self) -> None:
        self._root: str | None = None
        self._start = ""

    @property
    def is_entered(self) -> bool:
        """Whether gpen is in one."""
        return self._root is not None

    def enter(self, root: str) -> None:
        """Go in, for good. Raises OSError."""
        inside, start = os.path.realpath(root), _working_directory()
        os.chroot(root)
        os.chdir("/")
        self._root, self._start = inside, start

    def path(self, path: str) -> str:
        """The name to open a file by; the same that was given when there is no chroot, or it lies outside."""
        if self._root is None:
            return path
        whole = os.path.normpath(os.path.join(self._start, path))
        return whole.removeprefix(self._root) if whole.startswith(f"{self._root}/") else path


def _working_directory() -> str:
    """Where relative names begin. In a directory that was deleted no file can be made or found, by whatever name."""
    try:
        return os.getcwd()
    except OSError:
        return "/"
