"""What a kind of input is, and what is the same in all trials of a running gpen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hypothesis.strategies import SearchStrategy

from tests.harness import Gpen, wait_until

MB = 1 << 20
WARM = 32 * MB  # what a gpen may grow by in its first round: Python's own caches, the memory of clients
GROWTH = 12 * MB  # and in all the others together
_TOLD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: .*")


class Trial(Protocol):
    """Takes cases."""

    def check(self, case: Any, /) -> None:
        """Try a case. Raises AssertionError when an invariant does not hold."""

    def settle(self) -> None:
        """A round is over: nothing may be left of it. Raises AssertionError."""


@dataclass(frozen=True)
class Kind:
    """A kind of input: ``cases`` makes it, ``trial`` opens what takes it, with a directory for files."""

    name: str
    about: str
    cases: SearchStrategy[Any]
    trial: Callable[[Path], AbstractContextManager[Trial]]
    round: int = 130  # cases of a round
    size: Callable[[Any], int] = lambda case: 1  # how many inputs a case is


class Pure:
    """The trial of a function, in this process."""

    def __init__(self, check: Callable[[Any], None]) -> None:
        self.check = check

    def settle(self) -> None:
        """Nothing can be left."""


def pure(check: Callable[[Any], None]) -> Callable[[Path], AbstractContextManager[Trial]]:
    """The trial of a kind that needs no program."""

    @contextmanager
    def trial(directory: Path) -> Iterator[Trial]:
        yield Pure(check)

    return trial


class Told:
    """What a program tells in a file: ``news`` is what came since it was asked last."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = 0

    def news(self) -> str:
        with self._file.open("rb") as file:
            file.seek(self._seen)
            new = file.read()
        self._seen += len(new)
        return new.decode()


def check_told(text: str) -> None:
    """No traceback, and each line is one, with its time in front, and nothing in it that a terminal obeys."""
    assert "Traceback" not in text, text
    for line in text.removesuffix("\n").split("\n") if text else ():
        assert _TOLD.fullmatch(line) and line.isprintable(), f"not a line of diagnostics: {line!r}"


class Balanced:
    """A trial of a running gpen. It is started again behind a case that failed, so that smaller ones can be tried."""

    def __init__(self, stack: ExitStack, start: Callable[[], Gpen], serves: Callable[[Gpen], None]) -> None:
        """``serves`` raises AssertionError when a healthy client isn't served."""
        self._stack, self._start, self._serves = stack, start, serves
        self.balancer: Gpen
        self._begin()

    def _begin(self) -> None:
        self.balancer = self._start()
        self._failed = False
        self._stack.callback(self.balancer.stop)
        self.told = Told(self.balancer.directory / "gpen.err")
        self._serves(self.balancer)
        self.balancer.wait_idle()
        self._descriptors, self._memory, self._room = self.balancer.fds(), self.balancer.rss, WARM

    def check(self, case: Any) -> None:
        if self._failed:
            self.balancer.stop()
            self._begin()
        self.told.news()
        self._failed = True
        self.attempt(case)
        self._serves(self.balancer)
        assert self.balancer.process.poll() is None, "gpen has ended"
        check_told(self.told.news())
        self._failed = False

    def attempt(self, case: Any) -> None:
        """Try the case itself."""
        raise NotImplementedError

    def settle(self) -> None:
        """Nothing is open any more, and its memory has not grown."""
        balancer = self.balancer
        balancer.wait_idle()
        wait_until(lambda: balancer.fds() <= self._descriptors, what=f"{self._descriptors} descriptors")
        grown = balancer.rss - self._memory
        assert grown < self._room, f"gpen has grown by {grown / MB:.1f} MB"
        if self._room == WARM:
            self._memory, self._room = balancer.rss, GROWTH
