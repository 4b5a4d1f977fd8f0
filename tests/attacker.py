"""A user without rights who lets names in its own directory mean something else all the time; a script of its own too.

It makes each of these kinds of a name in turn, as fast as it can: a file, a symbolic link and a hard link to a file of
root's, a FIFO, a directory, nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534
SECONDS = 100.0  # then it ends by itself


@contextlib.contextmanager
def attacking(name: Path, victim: Path) -> Iterator[None]:
    """Let ``nobody`` attack a name in its directory, for as long as this lasts; ``victim`` is what links lead to."""
    with subprocess.Popen([sys.executable, __file__, str(name), str(victim)], stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None and attacker.stdout.read(1) == b"."  # it has begun
            yield
            assert attacker.poll() is None, "the attack ended before its time"
        finally:
            attacker.kill()


def attack(name: str, victim: str) -> None:
    """Become nobody, and do it."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    fresh = f"{name}.fresh"
    kinds = (lambda: os.close(os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600)), lambda: os.symlink(victim, fresh),
             lambda: os.link(victim, fresh), lambda: os.mkfifo(fresh), lambda: os.mkdir(fresh))
    deadline = time.monotonic() + SECONDS
    os.write(1, b".")
    while time.monotonic() < deadline:
        for make in kinds:
            remove(fresh)
            with contextlib.suppress(OSError):  # what the kernel forbids, as hard links to others' files
                make()
                remove(name)
                os.rename(fresh, name)
        remove(name)


def remove(name: str) -> None:
    """Whatever it is."""
    for way in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            way(name)


if __name__ == "__main__":
    attack(*sys.argv[1:])
