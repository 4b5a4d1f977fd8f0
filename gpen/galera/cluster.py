"""All nodes together: which are usable, and why the others are not. Pure; time in seconds is handed in.

The nodes that may be used are those of the group that most nodes are in. Two things blur what nodes say:

- When the membership changes, the nodes say so one after the other, within some 100 ms. A node that was usable is
  given GRACE seconds to catch up with the others; one that comes back must be of their group at once.
- A node that hung (a stopped process, a paused machine) wakes up and says what was true before: that it is well.
  It is believed when it has been of the others' group for GRACE seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gpen.galera.members import Members
from gpen.galera.report import Grade, Report, View, grade

GRACE = 1.0  # seconds
POLICIES = ("avoid", "use", "never")
ALIEN = "another group than the majority"


@dataclass(frozen=True)
class Verdict:
    """What is thought of a node. ``lost``: what its sessions ask there fails or is stale, so they are of no use."""

    usable: bool
    reason: str
    lost: bool = False
    since: float = 0.0


@dataclass
class _Node:
    name: str = ""  # wsrep_node_name
    report: Report | None = None
    problem: str = ""  # why there is no report
    blind: bool = False  # the problem is the watcher's own, and says nothing about the node
    suspect: bool = False  # it hung, and is not believed yet
    agrees_since: float | None = None
    differs_since: float | None = None
    verdict: Verdict | None = None

    @property
    def seen(self) -> bool:
        return self.report is not None or bool(self.problem)


class Cluster:
    """What is known of the nodes, by their addresses HOST:PORT."""

    def __init__(self, donor: str = "avoid", mapped: Mapping[str, str] | None = None) -> None:
        """``donor``: whether donors and desynced nodes are used: "avoid" (when nothing better is left), "use" or
        "never". ``mapped``: as `Members`."""
        self._places = Members(mapped)
        self._donor = donor
        self._nodes: dict[str, _Node] = {}
        self._begun = False
        self._uuid = ""  # the cluster that is followed
        self.lagging: Mapping[str, str] = {}  # the nodes that are used only when nothing better is left, and why
        self.view: View | None = None  # of the group that most nodes are in

    @property
    def nodes(self) -> list[str]:
        return list(self._nodes)

    def add(self, address: str) -> None:
        self._nodes.setdefault(address, _Node())

    def remove(self, address: str) -> None:
        self._nodes.pop(address, None)
        self._places.forget(address)

    def report(self, address: str) -> Report | None:
        """What the node said last, unless it has failed since."""
        node = self._nodes.get(address)
        return node.report if node else None

    def name(self, address: str) -> str:
        """What the node calls itself; empty as long as it has not said so."""
        node = self._nodes.get(address)
        return node.name if node else ""

    def problem(self, address: str) -> str:
        """Why a node does not report."""
        node = self._nodes.get(address)
        return node.problem if node else ""

    def verdict(self, address: str) -> Verdict | None:
        """What was last thought of a node; None while nothing is known."""
        node = self._nodes.get(address)
        return node.verdict if node else None

    def usable(self) -> list[str]:
        return [address for address, node in self._nodes.items() if node.verdict and node.verdict.usable]

    def saw(self, address: str, report: Report) -> None:
        node = self._nodes[address]
        node.name, node.report, node.problem, node.blind = report.name, report, "", False
        self._places.saw(address, report)

    def failed(self, address: str, problem: str, blind: bool = False) -> None:
        """The node gave no report. ``blind``: for a reason that is the watcher's own; it gets no verdict then."""
        node = self._nodes[address]
        node.report, node.problem, node.blind = None, problem, blind

    def hangs(self, address: str, problem: str) -> None:
        """The node does not answer, but has not gone either."""
        self.failed(address, problem)
        self._nodes[address].suspect = True

    def judge(self, now: float) -> list[tuple[str, Verdict | None, Verdict | None]]:
        """Think again about all nodes. Returns what changed: node, verdict before, verdict now.

        Nothing is said before every node was seen once: the first to answer may be of a minority. A node that is added
        later has no verdict until it was seen.
        """
        seen = {address: node for address, node in self._nodes.items() if node.seen}
        self._begun = self._begun or 0 < len(seen) == len(self._nodes)
        if not self._begun:
            return []
        self.view = self._majority()
        grades = {address: self._grade(node, now) for address, node in seen.items()}
        grades |= {address: (Grade.LAGGING, reason) for address, reason in self.lagging.items()
                   if address in grades and grades[address][0] is Grade.GOOD}
        usable = {Grade.GOOD, *([Grade.DONOR] if self._donor == "use" else [])}
        if not any(found is Grade.GOOD for found, _ in grades.values()):
            usable |= {Grade.LAGGING, *([Grade.DONOR] if self._donor == "avoid" else [])}
        changes = []
        for address, node in seen.items():
            old, new = node.verdict, None if node.blind else _verdict(*grades[address], usable, now)
            if _differ(old, new):
                node.verdict = new
                changes.append((address, old, new))
        return changes

    def answering(self) -> list[str]:
        """The nodes that are of the group that is followed, now."""
        return [address for address, node in self._nodes.items()
                if node.report is not None and self.view is not None and node.report.view == self.view
                and node.report.status == "Primary"]

    def writable(self) -> list[str]:
        """The nodes on which somebody might be able to write: those that say so themselves, and those that the group
        has not dropped but that do not answer here."""
        members = self.members()
        return [address for address, node in self._nodes.items()
                if (node.suspect and node.report is None and self._may_be_in(address, members))
                or (node.report is not None and grade(node.report)[0] in (Grade.GOOD, Grade.DONOR))]

    def members(self) -> list[str]:
        """The addresses of the followed group's nodes: where they are reached, or as the cluster itself tells them
        (``AUTO`` where a node does not know its own)."""
        return self._places.addresses({address: node.report for address, node in self._nodes.items()
                                       if node.report is not None and node.report.view == self.view})

    def present(self) -> list[str]:
        """The nodes that are in the cluster, as far as is known: those that answer, and those that it has not dropped.
        """
        members, answering = self.members(), self.answering()
        return [address for address in self._nodes if address in answering or self._may_be_in(address, members)]

    def _may_be_in(self, address: str, members: Collection[str]) -> bool:
        return self._places.may_include(address, members, self._nodes)

    def _majority(self) -> View | None:
        """The view that most nodes of a primary component are in. Equally many: of the cluster that was followed so
        far, then the newer."""
        views = Counter(node.report.view for node in self._nodes.values()
                        if node.report is not None and node.report.status == "Primary" and not node.suspect)
        if not views:
            views = Counter(node.report.view for node in self._nodes.values()
                            if node.report is not None and node.report.status == "Primary")
        if not views:
            return None
        view = max(views, key=lambda view: (views[view], view.uuid == self._uuid, view.conf_id))
        self._uuid = view.uuid
        return view

    def _grade(self, node: _Node, now: float) -> tuple[Grade, str]:
        if node.report is None:
            node.agrees_since = None
            return Grade.UNFIT, node.problem
        found, reason = grade(node.report)
        agrees = node.report.status == "Primary" and node.report.view == self.view
        node.agrees_since = _since(node.agrees_since, agrees, now)
        node.differs_since = _since(node.differs_since, not agrees, now)
        if found is Grade.LOST:
            return found, reason
        if not agrees and not self._may_catch_up(node, now):
            return Grade.LOST, ALIEN
        if node.suspect:
            if node.agrees_since is None or now - node.agrees_since < GRACE:
                return Grade.UNFIT, "answers again, not believed yet"
            node.suspect = False
        return found, reason

    def _may_catch_up(self, node: _Node, now: float) -> bool:
        assert node.report is not None and node.differs_since is not None
        return (node.verdict is not None and node.verdict.usable and self.view is not None
                and node.report.view.uuid == self.view.uuid and now - node.differs_since < GRACE)


def _since(start: float | None, holds: bool, now: float) -> float | None:
    """Since when something holds that began to at ``start``, if it did."""
    if not holds:
        return None
    return now if start is None else start


def _verdict(found: Grade, reason: str, usable: Collection[Grade], now: float) -> Verdict:
    return Verdict(found in usable, reason, found is Grade.LOST, now)


def _differ(old: Verdict | None, new: Verdict | None) -> bool:
    if old is None or new is None:
        return old is not new
    return (old.usable, old.reason, old.lost) != (new.usable, new.reason, new.lost)
