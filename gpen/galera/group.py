"""Which group of nodes is followed: the one that most of them are in, of the cluster that was followed so far. Pure;
time in seconds is handed in.

A cluster is known by its wsrep_cluster_state_uuid. It is followed until the operator has another one adopted, or until
none of its nodes has answered for FORGET seconds: that its nodes hang makes a stranger among the servers no better.

Nodes that tell the same View are one group; they are not when more of them tell it than it has members. When the
membership changes they tell so one after the other, and those that answer slowly later still: what was asked for before
the change, or within GRACE seconds after it, is held against nobody, neither the node that differs nor those that it
differs from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from gpen.galera.report import Report, View
from gpen.model.text import shortened

GRACE = 1.0  # seconds
FORGET = 300.0  # seconds
ALIEN = "another group than the majority"
UUID = 36  # characters of a UUID


class Followed:
    """The group that is followed: its ``view``, None while no node is in one, and the ``uuid`` of its cluster, empty
    until there was one."""

    def __init__(self) -> None:
        self.uuid = ""
        self.view: View | None = None
        self._told_since: dict[View, float] = {}
        self._misfits: set[View] = set()  # that are told by more nodes than are in them
        self._asked = 0.0  # when the oldest question was asked whose answer speaks for the view
        self._heard = 0.0  # when a node of the cluster has answered

    def adopt(self, uuid: str, now: float) -> None:
        """Follow this cluster from now on."""
        self.uuid, self._heard = uuid, now

    def look(self, believed: Sequence[Report], doubted: Sequence[Report], uuids: Collection[str], now: float) -> None:
        """Think again. ``believed`` and ``doubted``: what nodes in a primary component say; the latter count where
        there are no others. ``uuids``: the clusters of all nodes that answer, in whatever state."""
        reports = [*believed, *doubted]
        tellers: dict[View, set[tuple[int, str]]] = {}  # two addresses may be one node
        for report in reports:
            tellers.setdefault(report.view, set()).add((report.index, report.name))
        self._told_since = {view: self._told_since.get(view, now) for view in tellers}
        self._misfits = {view for view, nodes in tellers.items() if len(nodes) > view.size}
        if self.uuid in uuids:
            self._heard = now
        forgotten = not self.uuid or now - self._heard >= FORGET
        known = {view for view in tellers if forgotten or view.uuid == self.uuid} - self._misfits
        fitting = ([report for report in part if report.view in known] for part in (believed, doubted))
        counted = next(filter(None, fitting), [])
        views = Counter(report.view for report in counted)
        self.view = max(views, key=lambda view: (views[view], view.uuid == self.uuid, view.conf_id, view == self.view,
                                                 view.members), default=None)
        self._asked = min((report.asked for report in counted if report.view == self.view), default=now)
        if self.view is not None and self.view.uuid != self.uuid:
            self.adopt(self.view.uuid, now)

    def woke(self, now: float) -> None:
        """The watcher did not run for a while: that nobody has answered meanwhile says nothing."""
        self._heard = now

    def told_for(self, now: float) -> float:
        """The seconds since the first node told the view."""
        return now - self._told_since.get(self.view, now) if self.view else 0.0

    def may_catch_up(self, report: Report) -> bool:
        """Whether a node tells another view only because it, or the others, were asked too early."""
        if report.view.uuid != self.uuid:
            return False
        changed = max(self._told_since[view] for view in (report.view, self.view) if view in self._told_since)
        return min(report.asked, self._asked) < changed + GRACE

    def objection(self, report: Report) -> str:
        """Why a node in a primary component is not of the group."""
        if report.view.uuid != self.uuid:
            return f"of cluster {shortened(report.view.uuid, UUID)}, which is not followed: gpen-galera adopt UUID"
        return f"its group of {report.view.size} is told by more nodes" if report.view in self._misfits else ALIEN
