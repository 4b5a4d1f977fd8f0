"""How the writer is settled: by one watcher alone, or by several that agree. Pure; time in seconds is handed in.

Agreed means: the choice is a row of a replicated table with a version, and a watcher that wants another writer proposes
the next version; Galera certifies one proposal of several. The rules that keep two gpens from ever using two nodes:

- A gpen uses the node that the newest version names, and no other.
- A watcher that reads a new version first takes the old writer away from its gpens. It gives them the new one at once
  if the old one has left the cluster, and otherwise after HANDOVER seconds, when all watchers have read it.
- Who does not hear from more than half of the cluster's nodes proposes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpen.galera.report import Choice
from gpen.galera.writer import Writer

PATIENCE = 10.0  # seconds after which a proposal without an outcome is made again
MOMENT = 1.0  # seconds that the outcome of a proposal may take to be read


@dataclass(frozen=True)
class Scene:
    """What a choice is made from."""

    order: Sequence[str]  # all nodes, in the order of succession
    candidates: Collection[str]  # those that can be the writer
    present: Collection[str] = ()  # those that are in the cluster, as far as is known
    choices: Collection[Choice] = ()  # as the usable nodes know them
    blank: bool = False  # they say that nothing has been chosen yet
    quorate: bool = True  # more than half of the cluster's nodes answer


class Alone:
    """One watcher decides."""

    version = 0  # the number of the choice, where it is agreed
    opens_at = 0.0  # when the writer may be used, in seconds of the clock that is handed in

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

    def settle(self, scene: Scene, now: float) -> None:
        """Choose again, if there is need to."""
        target = self._writer.choose(scene.order, scene.candidates, now)
        if target is not None:
            self._writer.set(target)

    def move(self, target: str, scene: Scene, now: float) -> None:
        """The operator wants this writer."""
        self._writer.set(target, pinned=True)

    def ranks(self, scene: Scene) -> list[str]:
        """The writer, and who would follow it."""
        return _ranked(self.current, scene.order)


class Agreed:
    """Like `Alone`, but the newest choice in the table counts. ``proposal`` is what this watcher wants to be next."""

    def __init__(self, writer: Writer, handover: float) -> None:
        self.proposal: Choice | None = None
        self.opens_at = 0.0
        self._writer = writer
        self._handover = handover
        self._choice: Choice | None = None
        self._used: str | None = None  # what the gpens used when this watcher came
        self._left: set[str | None] = set()  # writers of before that may still be in use elsewhere; None: unknown
        self._expires = 0.0
        self._pin: str | None = None

    @property
    def current(self) -> str | None:
        return self._choice.writer if self._choice else None

    @property
    def version(self) -> int:
        return self._choice.version if self._choice else 0

    def order(self, indexes: Mapping[str, int], usable: Collection[str]) -> list[str]:
        return self._writer.order(indexes, usable)

    def take_over(self, node: str) -> None:
        self._used = node

    def settle(self, scene: Scene, now: float) -> None:
        if scene.choices:
            self._follow(max(scene.choices), now)
        elif scene.blank and self._choice is not None:  # somebody has emptied the table
            self._used, self._choice = self.current, None
        if not self._left & {None, *scene.present}:
            self.opens_at = min(self.opens_at, now)
        if self.proposal is not None and (now >= self._expires or self.proposal.writer not in scene.candidates):
            self.proposal = None
        if self.proposal is None and scene.quorate and (self._choice is not None or scene.blank):
            target = self._wanted(scene, now)
            if target is not None:
                self._propose(target, scene, now)

    def outcome(self, proposal: Choice, now: float) -> None:
        """A proposal was written, or not: the table will tell within a moment."""
        if proposal is self.proposal:
            self._expires = min(self._expires, now + MOMENT)

    def move(self, target: str, scene: Scene, now: float) -> None:
        self._pin = target
        self._propose(target, scene, now)

    def ranks(self, scene: Scene) -> list[str]:
        succession = self._choice.succession if self._choice else ()
        known = [node for node in succession if node in scene.order]
        return _ranked(self.current, [*known, *(node for node in scene.order if node not in known)])

    def _wanted(self, scene: Scene, now: float) -> str | None:
        """The writer that this watcher would have instead, if any."""
        if self._choice is None and self._used in scene.candidates:
            return self._used  # the first choice of all is what is in use
        return self._writer.choose(scene.order, scene.candidates, now)

    def _follow(self, choice: Choice, now: float) -> None:
        if choice == self._choice:
            return
        old = self.current if self._choice else self._used
        if now >= self.opens_at:
            self._left.clear()
        self._choice, self.proposal = choice, None
        self._writer.set(choice.writer, pinned=choice.writer == self._pin)
        self._pin = None
        if old != choice.writer:
            self._left.add(old)
            self.opens_at = now + self._handover

    def _propose(self, target: str, scene: Scene, now: float) -> None:
        ranks = _ranked(target, scene.order)
        self.proposal, self._expires = Choice(self.version + 1, target, tuple(ranks)), now + PATIENCE


def _ranked(first: str | None, order: Sequence[str]) -> list[str]:
    return [*([first] if first else []), *(node for node in order if node != first)]
