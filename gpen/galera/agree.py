"""How several watchers agree on the writer, so that their gpens never use two nodes. Pure; the clock is handed in.

The choice is a row of a replicated table. It has a version, and whoever wants another choice proposes the next version;
of several proposals Galera certifies one. The newest version counts, and these are the rules:

1. A gpen uses the writer that the choice names, and no other; none while the choice names an heir as well.
2. As long as somebody might still be able to write on the writer, it is left in three steps: a choice that names the
   heir; each watcher takes the writer away from its gpens, and confirms that in a table; when all have, a choice that
   makes the heir the writer. When one does not confirm for YIELD seconds (it hangs, or a gpen of it does) the
   writer stays what it is: better there than on two nodes.
3. A writer on which nobody can write, for it has left the cluster, refuses, or is gone, is left at once. Should it be a
   member even so, the new one is used after a while, when every watcher has read of it.
4. Who does not hear from more than half of the cluster's nodes proposes nothing; who can't see a node (it may not log
   in there, say) neither proposes it nor proposes to leave it, but by the operator's word.
5. Who follows a writer on which nobody can write is agreed as well: the first usable one of the choice's succession.
   The gpens have their servers ranked so, and one whose watcher is dead goes there by itself, health_ttl seconds
   later. The succession changes with the writer only, and keeps its order but for what the operator prefers.

What rule 5 leaves open: such a gpen has the ranks of the last choice that its watcher brought, and uses the first
server there that accepts connections. It parts from the others

- when a writer that they have left accepts connections: it stays there, or goes back when that node returns;
- when they pass over a node of the succession that accepts connections: a donor, a read_only one, one that is cut off;
- when its watcher died after it had confirmed a choice with an heir: the others go on to the heir without it;
- with a node that was not in the cluster yet when the choice was made: those rank last, in the order of each watcher.

A watcher that was killed is on the list still, and confirms nothing, so a writer that works is not left meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from gpen.galera.election import Scene, ranked
from gpen.galera.report import Choice
from gpen.galera.writer import Writer

YIELD = 2.0  # seconds that the others have to confirm
REST = 60.0  # seconds until the watcher tries again by itself what one of them has not confirmed
PATIENCE = 10.0  # seconds after which a proposal without an outcome is made again
MOMENT = 1.0  # seconds that the outcome of a proposal may take to be read


class Agreed:
    """Like `Alone`, but what it wants is a ``proposal``, and what counts is read. ``me``: this watcher's name."""

    def __init__(self, writer: Writer, me: str, handover: float) -> None:
        """``handover``: seconds in which every watcher that does not hang reads a new choice."""
        self.proposal: Choice | None = None
        self.bearer: str | None = None  # the node through which it is to be written
        self.refusal = ""
        self._writer = writer
        self._me = me
        self._handover = handover
        self._joined = False
        self._choice: Choice | None = None
        self._since = 0.0  # when it was read
        self._used: str | None = None  # what the gpens used when this watcher came
        self._left: set[str | None] = set()  # writers of before that may still be in use elsewhere; None: unknown
        self._waits_until = 0.0
        self._expires = 0.0
        self._rests_until = 0.0
        self._pin: str | None = None

    @property
    def current(self) -> str | None:
        return self._choice.writer if self._choice and self._joined else None

    @property
    def version(self) -> int:
        return self._choice.version if self._choice else 0

    @property
    def heir(self) -> str:
        return self._choice.heir if self._choice else ""

    @property
    def opens_at(self) -> float:
        return math.inf if self.heir else self._waits_until

    def order(self, indexes: Mapping[str, int], usable: Collection[str]) -> list[str]:
        """By preference, then as agreed before, then by local index; a node that returns finds its place again."""
        agreed = self._choice.succession if self._choice else ()
        places = {node: agreed.index(node) if node in agreed else len(agreed) + index
                  for node, index in indexes.items()}
        return self._writer.order(places, places)

    def take_over(self, node: str) -> None:
        self._used = node

    def settle(self, scene: Scene, now: float) -> None:
        self._joined = self._joined or self._me in scene.watchers
        if scene.choices:
            self._follow(max(scene.choices), now)
        elif scene.blank and self._choice is not None:  # somebody has emptied the table
            self._used, self._choice = self._choice.writer, None
        if not self._left & {None, *scene.present}:
            self._waits_until = min(self._waits_until, now)
        if self._pin is not None and self._pin not in scene.candidates:
            self._give_up(f"{self._pin} can't be the writer any more", now)
        if self.proposal is not None and (now >= self._expires or self.bearer not in scene.candidates):
            self.proposal = None
        if self.proposal is None and scene.quorate and self._me in scene.watchers:
            self._propose(self._next(scene, now), scene, now)

    def move(self, target: str) -> None:
        self._pin, self._rests_until, self.refusal = target, 0.0, ""

    def ranks(self, scene: Scene) -> list[str]:
        succession = self._choice.succession if self._choice else ()
        known = [node for node in succession if node in scene.order]
        return ranked(self.current, [*known, *(node for node in scene.order if node not in known)])

    def outcome(self, proposal: Choice, now: float) -> None:
        """A proposal was written, or not: the table will tell within a moment."""
        if proposal is self.proposal:
            self._expires = min(self._expires, now + MOMENT)

    def confirmation(self, scene: Scene) -> int | None:
        """The choice that this watcher has to confirm."""
        due = self.heir and scene.told >= self.version > scene.watchers.get(self._me, self.version)
        return self.version if due else None

    def _follow(self, choice: Choice, now: float) -> None:
        before = self._choice
        if choice == before:
            return
        old = before.writer if before else self._used
        self._choice, self.proposal, self._since = choice, None, now
        if choice.heir:
            return
        yielded = before is not None and bool(before.heir) and before.version + 1 == choice.version
        if choice.writer != old:
            self._leave(old, now, yielded)
        elif yielded:
            self._give_up(self.refusal or "another watcher called it off", now)
        self._writer.set(choice.writer, pinned=choice.writer == self._pin)
        if choice.writer == self._pin:
            self._pin = None

    def _give_up(self, refusal: str, now: float) -> None:
        """A handover came to nothing; it is not tried again at once, for it holds up the clients."""
        self.refusal, self._pin, self._rests_until = refusal, None, now + REST

    def _leave(self, old: str | None, now: float, yielded: bool) -> None:
        """Another writer has been chosen: when may it be used? At once, if all have left the old one before."""
        if now >= self._waits_until or yielded:
            self._left.clear()
        if yielded:
            self._waits_until = now
        else:
            self._left.add(old)
            self._waits_until = now + self._handover

    def _next(self, scene: Scene, now: float) -> Choice | None:
        """The choice that this watcher would have instead of the one of now, if any."""
        choice = self._choice
        if choice is None:
            return self._first(scene, now) if scene.blank else None
        if choice.heir:
            return self._conclusion(choice, scene, now)
        if choice.writer not in scene.writable:
            return self._succession(choice, scene)
        target = self._pin if self._pin in scene.candidates else None
        if target is None and choice.writer not in scene.blind:
            target = self._writer.choose(scene.order, scene.candidates, now)
        if target is None or target == choice.writer or now < self._rests_until:
            return None
        return self._with(choice.writer, target, scene)

    def _succession(self, choice: Choice, scene: Scene) -> Choice | None:
        """Nobody can write on the writer: the next one that is usable, as the gpens were told."""
        target = next((node for node in self.ranks(scene) if node in scene.candidates), choice.writer)
        return self._with(target, "", scene) if target != choice.writer else None

    def _first(self, scene: Scene, now: float) -> Choice | None:
        """The first choice of all is what is in use."""
        used = self._used in scene.candidates or self._used in scene.blind
        target = self._used if used else self._writer.choose(scene.order, scene.candidates, now)
        return self._with(target, "", scene) if target else None

    def _conclusion(self, choice: Choice, scene: Scene, now: float) -> Choice | None:
        """What becomes of a choice that names an heir."""
        late = [name for name, version in scene.watchers.items() if version < choice.version]
        if choice.heir not in scene.candidates and choice.heir not in scene.blind:
            self.refusal = f"{choice.heir} can't be the writer any more"
            return self._with(choice.writer, "", scene)
        if not late:
            return self._with(choice.heir, "", scene)
        if choice.writer not in scene.writable:
            return self._succession(choice, scene)
        if now - self._since < YIELD:
            return None
        self.refusal = f"not confirmed within {YIELD:g} s by {', '.join(sorted(late))}"
        return self._with(choice.writer, "", scene)

    def _propose(self, proposal: Choice | None, scene: Scene, now: float) -> None:
        if proposal is not None and scene.candidates:
            best = proposal.heir or proposal.writer
            self.bearer = best if best in scene.candidates else next(iter(scene.candidates))
            self.proposal, self._expires = proposal, now + PATIENCE

    def _with(self, writer: str, heir: str, scene: Scene) -> Choice:
        succession = self.ranks(scene) if writer == self.current else ranked(writer, scene.order)
        return Choice(self.version + 1, writer, tuple(succession), heir)
