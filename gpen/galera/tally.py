"""What has happened since the watcher began, counted for its metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gpen.web.exposition import Histogram

# What comes of a question to a node: it tells of itself; it fails; the watcher can't see it, for a reason of its own;
# it owes an answer for too long.
QUESTIONS = ("answered", "failed", "blind", "late")
# What comes of what a gpen is to be told: it has done that; something of it is refused or missing; it is not reached,
# or not understood; the plan was too old to be told.
ROUNDS = ("told", "refused", "unreachable", "late")
# seconds: a pass takes a millisecond where nothing changes, and all of it when there are many nodes on a busy machine
TIMES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Tally:
    """For one thread."""

    def __init__(self) -> None:
        self.passes = Histogram(TIMES)  # seconds that each pass took, in which something was decided
        self.writer_changes = 0
        self.wakes = 0  # by `gpen-galera notify`, and by what the watcher itself has begun
        self._nodes: dict[str, Counter[str]] = {}
        self._gpens: dict[str, Counter[str]] = {}

    def asked(self, node: str, outcome: str) -> None:
        """One of QUESTIONS came of a question to this node."""
        self._nodes.setdefault(node, Counter())[outcome] += 1

    def told(self, gpen: str, outcome: str) -> None:
        """One of ROUNDS came of a round with this gpen."""
        self._gpens.setdefault(gpen, Counter())[outcome] += 1

    def forget(self, node: str) -> None:
        """It is watched no more."""
        self._nodes.pop(node, None)

    def questions(self, node: str) -> dict[str, int]:
        """How many questions to a node came to what."""
        return _counts(self._nodes.get(node), QUESTIONS)

    def rounds(self, gpen: str) -> dict[str, int]:
        """How many rounds with a gpen came to what."""
        return _counts(self._gpens.get(gpen), ROUNDS)


def _counts(counts: Counter[str] | None, words: Sequence[str]) -> dict[str, int]:
    return {word: counts[word] if counts is not None else 0 for word in words}
