"""A gpen of which one function fails, when it is told to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gpen.core import MODULES
from tests.harness import ROOT, Gpen, wait_until

FAULT = """
import errno, os, {module} as module

owner = {owner}
real = owner.{function}

def fails(*arguments, **more):
    try:
        trigger = os.open({trigger!r}, os.O_WRONLY | os.O_APPEND)  # without making it anew: it may go this very moment
    except FileNotFoundError:
        return real(*arguments, **more)
    os.write(trigger, b"x")
    os.close(trigger)
    raise {error}

owner.{function} = fails
"""


class Faulty:
    """A gpen of which one function fails as long as it is told to."""

    def __init__(self, directory: Path, place: str, error: str, *arguments: str) -> None:
        """``place``: ``module:Class.function`` within the package."""
        self.trigger = directory / "trigger"
        module, _, name = place.partition(":")
        holder, _, function = name.rpartition(".")
        owner = f"module.{holder}" if holder else "module"
        (directory / "sitecustomize.py").write_text(FAULT.format(
            module=f"gpen.{module}", owner=owner, function=function, trigger=str(self.trigger), error=error))
        # a compiled type takes no other function in the place of its own
        pure = ("GPEN_PURE=1",) if f"gpen.{module}" in MODULES else ()
        self.gpen = Gpen(directory, *arguments, wrapper=("env", f"PYTHONPATH={directory}:{ROOT}", *pure))

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        self.trigger.touch()
        yield
        self.trigger.unlink()

    def has_failed(self, times: int) -> None:
        """Wait until it has."""
        wait_until(lambda: len(self.trigger.read_text()) >= times, what=f"{times} failures")

    @property
    def tracebacks(self) -> int:
        return self.gpen.stderr.count("Traceback")
