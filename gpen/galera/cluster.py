"""All nodes together: which are usable, and why the others are not. Pure; time in seconds is handed in.

The nodes that may be used are those of the group that is followed (group.py). Three things blur what nodes say:

- When the membership changes, the nodes say so one after the other, within some 100 ms. A node that was usable is
  given time to catch up with the others; one that comes back must be of their group at once.
- A node that hung (a stopped process, a paused machine) wakes up and says what was true before: that it is well.
  It is believed when it has been of the others' group for GRACE seconds.
- The watcher may be blind to a node: it can't log in, for a reason of its own or of its account. That says nothing of
  the node. What was thought of it last stays; it is never made the writer, nor does it stop being it, for somebody may
  be writing there. Only the others can say more: that it is of their group no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from gpen.galera.group import GRACE, Followed
from gpen.galera.members import Members
from gpen.galera.report import Choice, Grade, Report, View, grade

SERVING = (Grade.LAGGING, Grade.DONOR, Grade.MAINTENANCE)  # their sessions are served, whether they get new ones or not
POLICIES = ("avoid", "use", "never")
DROPPED = "the others' group is without it"


@dataclass(frozen=True)
class Verdict:
    """What is thought of a node. ``lost``: what its sessions ask there fails or is stale, so they are of no use;
    ``drains``: it gets no new ones, but serves those that it has."""

    usable: bool
    reason: str
    lost: bool = False
    since: float = 0.0
    drains: bool = False

    @property
    def word(self) -> str:
        """As a gpen is told it."""
        return "up" if self.usable else "drain" if self.drains else "down"


@dataclass
class _Node:
    name: str = ""  # wsrep_node_name
    uuid: str = ""  # of its cluster, as it said last
    report: Report | None = None
    problem: str = ""  # why there is no report
    blind: bool = False  # the problem is the watcher's own, and says nothing about the node
    blind_since: float | None = None
    suspect: bool = False  # it hung, and is not believed yet
    agrees_since: float | None = None
    found: tuple[Grade, str] | None = None
    verdict: Verdict | None = None

    @property
    def seen(self) -> bool:
        return self.report is not None or bool(self.problem)

    @property
    def in_primary(self) -> bool:
        return self.report is not None and self.report.status == "Primary"


class Cluster:
    """What is known of the nodes, by their addresses HOST:PORT."""

    def __init__(self, donor: str = "avoid", mapped: Mapping[str, str] | None = None) -> None:
        """``donor``: whether donors and desynced nodes are used: "avoid" (when nothing better is left), "use" or
        "never". ``mapped``: where nodes are reached, by what they call themselves."""
        self._donor = donor
        self._places = Members(mapped)
        self.lagging: Mapping[str, str] = {}  # the nodes that are used only when nothing better is left, and why
        self._nodes: dict[str, _Node] = {}
        self._begun = False
        self.followed = Followed()

    @property
    def view(self) -> View | None:
        """Of the group that is followed."""
        return self.followed.view

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
        """The nodes that are well, as far as the watcher can see."""
        return [address for address, node in self._nodes.items()
                if node.verdict and node.verdict.usable and not node.blind]

    def blind(self) -> list[str]:
        """The nodes that the watcher can't see: what it thinks of them is of before. Not those that the others'
        group is without."""
        return [address for address, node in self._nodes.items() if node.blind and not self._is_dropped(address)]

    def blind_since(self, address: str) -> float | None:
        """Since when the watcher can't see a node; None: it can."""
        node = self._nodes.get(address)
        return node.blind_since if node else None

    def clusters(self) -> dict[str, list[str]]:
        """The nodes of each cluster that some node is in now, by its UUID."""
        found: dict[str, list[str]] = {}
        for address, node in self._nodes.items():
            if node.in_primary:
                found.setdefault(node.uuid, []).append(address)
        return found

    def saw(self, address: str, report: Report) -> None:
        node = self._nodes[address]
        node.name, node.report, node.problem, node.blind = report.name, report, "", False
        node.uuid = report.view.uuid
        self._places.saw(address, report)

    def failed(self, address: str, problem: str, blind: bool = False) -> None:
        """The node gave no report. ``blind``: for a reason that is the watcher's own; its verdict stays then."""
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
        for node in seen.values():
            node.blind_since = _since(node.blind_since, node.blind, now)
        self._begun = self._begun or 0 < len(seen) == len(self._nodes)
        if not self._begun:
            return []
        primary = [(node.report, node.suspect) for node in seen.values() if node.report and node.in_primary]
        self.followed.look([report for report, suspect in primary if not suspect],
                           [report for report, suspect in primary if suspect],
                           {node.uuid for node in seen.values() if node.report or node.blind}, now)
        for address, node in seen.items():
            node.found = self._find(address, node, now)
            if node.found and node.found[0] is Grade.GOOD and address in self.lagging:
                node.found = Grade.LAGGING, self.lagging[address]
        usable = {Grade.GOOD, *([Grade.DONOR] if self._donor == "use" else [])}
        if not any(node.found and node.found[0] is Grade.GOOD for node in seen.values()):
            usable |= {Grade.LAGGING, *([Grade.DONOR] if self._donor == "avoid" else [])}
        changes = []
        for address, node in seen.items():
            old, new = node.verdict, _verdict(*node.found, usable, now) if node.found else None
            if _differ(old, new):
                node.verdict = new
                changes.append((address, old, new))
        return changes

    def answering(self) -> list[str]:
        """The nodes that are of the group that is followed, now."""
        return [address for address, node in self._nodes.items()
                if node.report is not None and self.view is not None and node.report.view == self.view
                and node.in_primary]

    def writable(self) -> list[str]:
        """The nodes on which somebody might be able to write: those that say so themselves, and those that the group
        has not dropped but that do not answer here."""
        members, blind = self.members(), self.blind()
        return [address for address, node in self._nodes.items()
                if (node.suspect and node.report is None and self._may_be_in(address, members)) or address in blind
                or (node.report is not None and grade(node.report)[0] in (Grade.GOOD, *SERVING))]

    def members(self) -> list[str]:
        """The addresses of the followed group's nodes: where they are reached, or as the cluster itself tells them
        (``AUTO`` where a node does not know its own)."""
        return self._places.addresses({address: node.report for address, node in self._nodes.items()
                                       if node.report is not None and node.report.view == self.view})

    def called(self, choice: Choice) -> Choice:
        """A choice in the words that all watchers know: they may reach the nodes at other addresses."""
        return _renamed(choice, self._places.called)

    def known_as(self, choice: Choice) -> Choice:
        """The same with the addresses at which the nodes are reached from here."""
        return _renamed(choice, self._places.known_as)

    def present(self) -> list[str]:
        """The nodes that are in the cluster, as far as is known: those that answer, and those that it has not dropped.
        """
        members, answering = self.members(), self.answering()
        return [address for address in self._nodes if address in answering or self._may_be_in(address, members)]

    def _may_be_in(self, address: str, members: Collection[str]) -> bool:
        return self._places.may_include(address, members, self._nodes)

    def _find(self, address: str, node: _Node, now: float) -> tuple[Grade, str] | None:
        """How a node is; None: nothing is known, and never was."""
        if node.report is None:
            node.agrees_since = None
            if not node.blind:
                return Grade.UNFIT, node.problem
            gone = self._is_dropped(address) and self.followed.told_for(now) >= GRACE
            return (Grade.LOST, DROPPED) if gone else node.found
        found, reason = grade(node.report)
        agrees = node.in_primary and node.report.view == self.view
        node.agrees_since = _since(node.agrees_since, agrees, now)
        if found is Grade.LOST:
            return found, reason
        if not agrees and not (node.verdict and node.verdict.usable and self.followed.may_catch_up(node.report)):
            return Grade.LOST, self.followed.objection(node.report)
        if node.suspect:
            if node.agrees_since is None or now - node.agrees_since < GRACE:
                return Grade.UNFIT, "answers again, not believed yet"
            node.suspect = False
        return found, reason

    def _is_dropped(self, address: str) -> bool:
        """Whether the followed group is without a node that was of its cluster."""
        view = self.view
        return view is not None and self._nodes[address].uuid == view.uuid and self._places.is_missing(
            address, view.members.split(","))


def _renamed(choice: Choice, name: Callable[[str], str]) -> Choice:
    heir = name(choice.heir) if choice.heir else ""
    return choice._replace(writer=name(choice.writer), heir=heir, succession=tuple(map(name, choice.succession)))


def _since(start: float | None, holds: bool, now: float) -> float | None:
    """Since when something holds that began to at ``start``, if it did."""
    if not holds:
        return None
    return now if start is None else start


def _verdict(found: Grade, reason: str, usable: Collection[Grade], now: float) -> Verdict:
    return Verdict(found in usable, reason, found is Grade.LOST, now, found in SERVING and found not in usable)


def _differ(old: Verdict | None, new: Verdict | None) -> bool:
    if old is None or new is None:
        return old is not new
    return (old.word, old.reason, old.lost) != (new.word, new.reason, new.lost)
