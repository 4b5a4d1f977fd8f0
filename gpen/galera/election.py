"""How the writer is settled when one watcher decides alone; several do as agree.py says. Pure; time in seconds is
handed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gpen.galera.report import Choice, Claim
from gpen.galera.writer import Writer


@dataclass(frozen=True)
class Situation:
    """What a choice is made from. The second half counts only where several watchers agree."""

    order: Sequence[str]  # all nodes, in the order of succession
    candidates: Collection[str]  # those that can be the writer
    blind: Collection[str] = ()  # those that this watcher can't see: not chosen, but not left either

    present: Collection[str] = ()  # those that are in the cluster, as far as is known
    writable: Collection[str] = ()  # those on which somebody might be able to write, whether they are usable or not
    choices: Collection[Choice] = ()  # as the usable nodes know them
    watchers: Mapping[str, int] = field(default_factory=dict)  # who takes part, and what each has carried out
    blank: bool = False  # the nodes say that nothing has been chosen yet
    quorate: bool = True  # more than half of the cluster's nodes answer
    told: int = 0  # the newest choice that all gpens of this watcher have carried out
    newest: int = 0  # the newest choice that any watcher has ever carried out
    claim: Claim | None = None  # to the row of this watcher's name; None: it was not read


class SingleWatcher:
    """One watcher decides."""

    version = 0  # the number of the choice, where it is agreed
    heir = ""  # to whom the writer hands over
    opens_at = 0.0  # when the writer may be used, in seconds of the clock that is handed in
    refusal = ""  # why the last move came to nothing
    trouble = ""  # with the agreement

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @property
    def current(self) -> str | None:
        """The writer."""
        return self._writer.current

    def order(self, indexes: Mapping[str, int], usable: Collection[str]) -> list[str]:
        """The order of succession, as `Writer.order`."""
        return self._writer.order(indexes, usable)

    def take_over(self, node: str) -> None:
        """The gpens use this node already."""
        self._writer.set(node)

    def settle(self, scene: Situation, now: float) -> None:
        """Choose again, if there is need to."""
        if self.current in scene.blind:
            return
        target = self._writer.choose(scene.order, scene.candidates, now)
        if target is not None:
            self._writer.set(target)

    def woke(self, slept: float, now: float) -> None:
        """This process did not run for so many seconds. It is the only one that decides, so nothing was missed."""

    def move(self, target: str) -> None:
        """The operator wants this writer."""
        self._writer.set(target, pinned=True)

    def absence(self, scene: Situation) -> str:
        """Why this watcher has no say in the choice; nothing when it has one."""
        return ""

    def ranks(self, scene: Situation) -> list[str]:
        """The writer, and who would follow it."""
        return ranked(self.current, scene.order)


def ranked(first: str | None, order: Sequence[str]) -> list[str]:
    """An order with this one in front."""
    return [*([first] if first else []), *(node for node in order if node != first)]
