"""Nodes that are behind: the queue of what the others have written (wsrep_local_recv_queue), and flow control, by which
such a node makes the writes of all others wait. Pure; time in seconds is handed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from gpen.galera.report import Report

STEADY = 1.0  # seconds: a queue comes and goes with each large transaction
CALM = 5.0  # seconds in which flow control is not told to be over
TOLD = 0.1  # share of the time from which on flow control is told


class Lag:
    """What the reports of the nodes say of it."""

    def __init__(self, max_queue: int | None) -> None:
        """``max_queue``: a node with a longer queue lags; None: none does."""
        self._max_queue = max_queue
        self._queues: dict[str, int] = {}
        self._turns: dict[str, float] = {}  # since when a queue says another thing than `lagging`
        self._waits: dict[str, deque[tuple[float, int]]] = {}  # when, and nanoseconds of flow control until then
        self._lagging: dict[str, str] = {}
        self._began: float | None = None  # flow control, as it was told
        self._held = 0.0  # when it was last seen

    @property
    def lagging(self) -> Mapping[str, str]:
        """The nodes whose queue was too long for STEADY seconds, and not since, each with the words for that."""
        return self._lagging

    def saw(self, address: str, report: Report, now: float) -> None:
        """A node's new report."""
        self._queues[address] = report.queue
        waits = self._waits.setdefault(address, deque())
        if waits and report.paused_ns < waits[-1][1]:  # it was started anew
            waits.clear()
        if report.paused_ns >= 0:
            waits.append((now, report.paused_ns))
        while len(waits) > 2 and now - waits[1][0] >= STEADY:
            waits.popleft()
        if self._max_queue is not None:
            self._weigh(address, report.queue > self._max_queue, now)

    def _weigh(self, address: str, is_long: bool, now: float) -> None:
        if is_long == (address in self._lagging):
            self._turns.pop(address, None)
        elif now - self._turns.setdefault(address, now) >= STEADY:
            del self._turns[address]
            if is_long:
                self._lagging[address] = f"lags: its queue is longer than {self._max_queue}"
            else:
                del self._lagging[address]

    def forget(self, address: str) -> None:
        """The node does not answer, or is no server any more."""
        for known in (self._queues, self._turns, self._waits, self._lagging):
            known.pop(address, None)

    def paused(self, address: str) -> float | None:
        """For what share of the last second (or since the look before, if that is longer ago) a node's writes waited
        for flow control; None: not known."""
        waits = self._waits.get(address)
        if not waits or waits[-1][0] <= waits[0][0]:
            return None
        return min(1.0, (waits[-1][1] - waits[0][1]) / 1e9 / (waits[-1][0] - waits[0][0]))

    def news(self, address: str, label: Callable[[str], str], now: float) -> str:
        """What is to be told of flow control, which holds up all nodes alike, after a report of one: that it has begun,
        or is over."""
        share = self.paused(address) or 0.0
        if share >= TOLD:
            self._held = now
            if self._began is None:
                self._began = now
                return f"flow control: writes wait, {share:.0%} of the last second{self._culprit(label)}"
        elif self._began is not None and now - self._held >= CALM:
            began, self._began = self._began, None
            return f"flow control: over after {self._held - began + STEADY:.0f} s"
        return ""

    def _culprit(self, label: Callable[[str], str]) -> str:
        node = max(self._queues, key=lambda node: self._queues[node], default="")
        return f"; the longest queue is that of {label(node)}: {self._queues[node]}" if self._queues.get(node) else ""
