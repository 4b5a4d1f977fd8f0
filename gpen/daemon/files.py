"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile


def write_whole(path: str, text: str) -> None:
    """Write a file by way of a temporary one beside it, so that nobody ever sees half of it. Raises OSError."""
    fd, temporary = tempfile.mkstemp(prefix=".gpen-", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
