"""Which of the processes that run tests side by side runs what (pytest-xdist)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Two clusters of three nodes are what two processors carry; each has half of the work. One server alone is light. What
# is compiled is compiled once for all that try it; a browser, a demo and 4,000 servers take long to begin. What happens
# to two balancers is measured in tenths of a second.
TOGETHER = {
    "first": ("test_events.py", "test_clients.py", "test_chaos_galera.py", "test_one_gpen.py", "test_pools.py"),
    "second": ("test_writer.py", "test_watch_nodes.py", "test_watch_moves.py", "test_watch_one.py", "test_traces.py",
               "test_exporter.py"),
    "lone": ("test_blocking.py",),
    "compiled": ("test_core.py",),
    "browser": ("test_page.py", "test_page_asking.py", "test_page_sizes.py", "test_actions.py", "test_snapshot.py"),
    "demo": ("test_demo.py",),
    "large": ("test_large.py",),
    "balancers": ("test_keepalived_faults.py", "test_keepalived_ends.py", "test_keepalived_moves.py"),
}


class Scheduling(LoadScopeScheduling):
    """Each test is a piece of work of its own, but for those that share a cluster or a build: they begin first."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].rpartition("/")[2]
        return next((name for name, files in TOGETHER.items() if file in files), nodeid)

    def remove_node(self, node: WorkerController) -> str | None:
        """A process has ended. If a test has crashed it, that one is told and not tried again, and the others do what
        is left. xdist 3.8 puts all that the process has ever done back into the queue, and waits for it for good."""
        work = _undone(self.assigned_work.pop(node))
        if not work:
            return None
        unit = next(iter(work.values()))
        crashed = next(test for test, done in unit.items() if not done)
        unit[crashed] = True
        self.workqueue.update(_undone(work))
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        """Give a process more to do; one that has not said yet what it has found gets its share when it does. One that
        has ended can't be told: what it was to do is left when that is known (``remove_node``)."""
        if node in self.registered_collections:
            with suppress(OSError):
                super()._reschedule(node)

    def schedule(self) -> None:
        """Share out the work; also for a process that takes the place of a crashed one. It begins with two pieces, as
        it runs none before it knows the next."""
        super().schedule()
        for node in self.nodes:
            self._reschedule(node)


def _undone(work: dict[str, dict[str, bool]]) -> dict[str, Any]:
    return {scope: unit for scope, unit in work.items() if not all(unit.values())}
