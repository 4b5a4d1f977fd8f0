"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile


def write_whole(path: str, text: str) -> None:
    """Write a file by way of a temporary one beside it, so that nobody ever sees half of it. Raises OSError.

    A file that is replaced passes its mode and owner on; where a symbolic link stands, what it leads to is replaced.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    fd, temporary = tempfile.mkstemp(prefix=".gpen-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _take_after(temporary, path)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _take_after(file: str, model: str) -> None:
    try:
        was = os.stat(model)
    except FileNotFoundError:
        os.chmod(file, 0o644)
        return
    os.chmod(file, stat.S_IMODE(was.st_mode))
    if os.geteuid() == 0:
        os.chown(file, was.st_uid, was.st_gid)
