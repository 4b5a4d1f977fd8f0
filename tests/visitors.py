"""Clients that come one after the other, from several threads, while something happens to a gpen."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Visitors:
    """Each thread calls ``visit`` again and again until the end: it returns what was wrong, nothing if all was well, or
    raises OSError. ``failures`` is what went wrong, ``count`` how many visits are over."""

    def __init__(self, visit: Callable[[], str], threads: int = 4) -> None:
        self.count = 0
        self.failures: list[str] = []
        self._visit = visit
        self._goes_on = True
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._goes_on = False
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while self._goes_on:
            try:
                problem = self._visit()
            except OSError as error:
                problem = str(error)
            if problem:
                self.failures.append(problem)
            self.count += 1
