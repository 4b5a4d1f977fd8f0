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
4. Who does not hear from more than half of the cluster's nodes proposes nothing but the end of a handover (e); who
   can't see a node (it may not log in there, say) neither proposes it nor proposes to leave it, but by the operator's
   word.
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

Invariants, which tests/galera/test_agree_model.py tries in thousands of interleavings:

a. Versions only grow. A watcher follows no version that is lower than one that it has followed, nor another choice of
   the same version. A table that was emptied, or came from a backup, counts for nothing: what is in use stays in use,
   and whoever has followed the newest choice proposes it again, with a version LEAP above all that anybody has seen, so
   that no confirmation of before can be taken for one of this. It names the writer as its own heir, and so it counts
   when all have confirmed it.
b. Nobody fills a table that was emptied who does not know what is in use elsewhere: a watcher that comes new waits for
   those on the list that have carried out a choice, and says for whom. Where nobody has, it waits FOUNDING seconds.
   Who finds more in its own row than it has carried out (a backup) takes that back, so that nobody waits for it.
c. A row of the list is one living process's (identity.py). Whose row it is not uses no writer and confirms nothing. Who
   has just come (back) to the list leaves no writer that works: after a list was emptied, all are back by then.
d. What a watcher begins to use it has read since it last slept: after a pause nothing is used before that.
e. A handover ends. To call it off, or to conclude what all have confirmed, moves nothing that was not agreed before;
   so it needs no more than a node that takes the UPDATE, and Galera's quorum, not half of the nodes here.
f. What an operator wanted (``pinned``) is part of the choice, so nobody's failback undoes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from gpen.galera.election import Situation, ranked
from gpen.galera.identity import Identity
from gpen.galera.report import Choice
from gpen.galera.writer import Writer

YIELD = 2.0  # seconds that the others have to confirm
REST = 60.0  # seconds until the watcher tries again by itself what one of them has not confirmed
PATIENCE = 10.0  # seconds after which a proposal without an outcome is made again
MOMENT = 1.0  # seconds that the outcome of a proposal may take to be read
FOUNDING = 2.0  # seconds that an empty table has to be empty, so that whoever knows what was in it can say so
LEAP = 16  # versions that are passed over when a table is made good: more than are chosen unseen


class Agreed:
    """Like `Alone`, but what it wants is a ``proposal``, and what counts is read. ``me``: this watcher's name."""

    def __init__(self, writer: Writer, me: str, handover: float, identity: Identity | None = None) -> None:
        """``handover``: seconds in which every watcher that does not hang reads a new choice."""
        self.proposal: Choice | None = None
        self.before: int | None = None  # the version that it is to replace in the table, if there is one
        self.bearer: str | None = None  # the node through which it is to be written
        self.refusal = ""
        self.trouble = ""  # why there is no writer, or might be none
        self.identity = identity
        self._writer = writer
        self._me = me
        self._handover = handover
        self._joined = False
        self._listed_since = math.inf
        self._choice: Choice | None = None
        self._since = 0.0  # when it was read
        self._used: str | None = None  # what the gpens used when this watcher came
        self._left: set[str | None] = set()  # writers of before that may still be in use elsewhere; None: unknown
        self._waits_until = 0.0
        self._sleepy_until = 0.0  # it has slept, and reads what it missed
        self._deaf_since = math.inf  # since when it could read no table
        self._astray_since: float | None = None  # since when the table is no continuation of what is followed
        self._is_behind = False  # somebody has carried out a newer choice, which the table does not tell
        self._expires = 0.0
        self._rests_until = 0.0
        self._pin: str | None = None

    @property
    def current(self) -> str | None:
        known = self._joined and (self.identity is None or self.identity.stands or self.identity.clash)
        return self._choice.writer if self._choice and known else None

    @property
    def version(self) -> int:
        return self._choice.version if self._choice else 0

    @property
    def heir(self) -> str:
        return self._choice.heir if self._choice else ""

    @property
    def opens_at(self) -> float:
        if self.heir or self._is_behind or not self._takes_part:
            return math.inf
        return max(self._waits_until, self._sleepy_until)

    @property
    def _takes_part(self) -> bool:
        return self.identity is None or self.identity.stands

    def order(self, indexes: Mapping[str, int], usable: Collection[str]) -> list[str]:
        """By preference, then as agreed before, then by local index; a node that returns finds its place again."""
        agreed = self._choice.succession if self._choice else ()
        places = {node: agreed.index(node) if node in agreed else len(agreed) + index
                  for node, index in indexes.items()}
        return self._writer.order(places, places)

    def take_over(self, node: str) -> None:
        self._used = node

    def settle(self, scene: Situation, now: float) -> None:
        self._joined = self._joined or self._me in scene.watchers
        self._listed_since = min(self._listed_since, now) if self._me in scene.watchers else math.inf
        if self.identity is not None and scene.claim is not None:
            self.identity.saw(scene.claim, now)
        table = max(scene.choices, default=None)
        readable = table is not None or scene.blank
        self._notice_deafness(readable, now)
        if self._is_astray(table, scene):
            self._astray_since = now if self._astray_since is None else self._astray_since
        else:
            self._astray_since = None
            if table is not None:
                self._follow(table, now)
        self._is_behind = scene.newest > self.version
        if self._sleepy_until:
            astray = self._astray_since is not None
            self._sleepy_until = now + self._handover if astray else self._sleepy_until * (now < self._sleepy_until)
        if not self._left & {None, *scene.present}:
            self._waits_until = min(self._waits_until, now)
        if self._pin is not None and self._pin not in scene.candidates:
            self._give_up(f"{self._pin} can't be the writer any more", now)
        if self.proposal is not None and (now >= self._expires or self.bearer not in scene.candidates):
            self.proposal = None
        self.trouble = self._obstacle(scene, now)
        if self.proposal is None and readable and self._me in scene.watchers and self._takes_part:
            self.before = table.version if table else None
            self._propose(self._next(scene, now), scene, now)

    def woke(self, slept: float, now: float) -> None:
        """This process did not run for so many seconds: what it knows is old, and the others may not have waited."""
        is_long = slept >= 2 * self._handover
        if is_long or now - slept < self._waits_until:
            self._sleepy_until = now + self._handover
        if is_long and self.identity is not None:
            self.identity.woke()

    def move(self, target: str) -> None:
        self._pin, self._rests_until, self.refusal = target, 0.0, ""

    def absence(self, scene: Situation) -> str:
        """Why this watcher has no say in the choice; nothing when it has one."""
        if self.identity is not None and self.identity.clash:
            return self._namesake()
        return "it is not on the list of those that agree" if self._me not in scene.watchers else ""

    def ranks(self, scene: Situation) -> list[str]:
        succession = self._choice.succession if self._choice else ()
        known = [node for node in succession if node in scene.order]
        return ranked(self.current, [*known, *(node for node in scene.order if node not in known)])

    def outcome(self, proposal: Choice, now: float) -> None:
        """A proposal was written, or not: the table will tell within a moment."""
        if proposal is self.proposal:
            self._expires = min(self._expires, now + MOMENT)

    def confirmation(self, scene: Situation) -> int | None:
        """The choice that this watcher has to confirm: each, for that is what the others know of it."""
        due = self._takes_part and scene.told >= self.version > scene.watchers.get(self._me, self.version)
        return self.version if due else None

    def is_misquoted(self, scene: Situation) -> bool:
        """Whether its own row tells of a choice that it has never seen: a backup, say. Others would wait for it."""
        return self._takes_part and scene.watchers.get(self._me, 0) > self.version

    def _notice_deafness(self, readable: bool, now: float) -> None:
        """To read nothing for a while is like not to run."""
        if not readable:
            self._deaf_since = min(self._deaf_since, now)
        elif self._deaf_since < math.inf:
            if now - self._deaf_since >= self._handover:
                self._sleepy_until = now + self._handover
            self._deaf_since = math.inf

    def _is_astray(self, table: Choice | None, scene: Situation) -> bool:
        """Whether the table is empty, or holds an older choice than somebody has followed, or another one of the same
        version. (A node that lags shows that as well, for a moment; to propose anything is in vain then.)"""
        if table is None:
            return scene.blank
        return table.version < scene.newest or (table != self._choice and table.version <= self.version)

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
        elif yielded and before is not None and before.heir != before.writer:
            self._give_up(self.refusal or "another watcher called it off", now)
        self._writer.set(choice.writer, pinned=choice.pinned)
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

    def _obstacle(self, scene: Situation, now: float) -> str:
        """What the operator has to know."""
        if self.identity is not None and self.identity.clash:
            return self._namesake()
        astray = 0.0 if self._astray_since is None else now - self._astray_since
        if astray >= YIELD and self._informed(scene):
            return ("the table gpen_writer was emptied, or holds an older choice; the one of before is known to "
                    f"{self._informed(scene)}, and waited for (active = 0 in gpen_watcher if one is gone for good)")
        if self.heir and now - self._since >= YIELD + MOMENT and self.proposal is not None:
            return f"the handover to {self.heir} can't be ended: {self.bearer} has not taken the choice yet"
        if self._choice and not self.heir and self._choice.writer not in scene.writable and not scene.quorate:
            return f"no other writer than {self._choice.writer}, for this watcher hears from half of the nodes or less"
        return ""

    def _namesake(self) -> str:
        return (f"another watcher is called '{self._me}' as well, so this one takes no part and its gpens get no "
                "writer: start it with another --socket, or give this machine a name of its own")

    def _informed(self, scene: Situation) -> str:
        """Who on the list knows a newer choice than this watcher does."""
        return ", ".join(sorted(name for name, version in scene.watchers.items()
                                if name != self._me and version > self.version))

    def _next(self, scene: Situation, now: float) -> Choice | None:
        """The choice that this watcher would have instead of the one of now, if any."""
        choice = self._choice
        if self._astray_since is not None:
            return self._restoration(self._astray_since, scene, now) if scene.quorate else None
        if choice is None:
            return None
        if choice.heir:
            return self._conclusion(choice, scene, now)
        if not scene.quorate:
            return None
        if choice.writer not in scene.writable:
            return self._succession(choice, scene)
        if now - self._listed_since < FOUNDING:  # after the list was emptied the others may not be back on it yet
            return None
        target = self._pin if self._pin in scene.candidates else None
        if target is None and choice.writer not in scene.blind:
            target = self._writer.choose(scene.order, scene.candidates, now)
        if target is None or target == choice.writer or now < self._rests_until:
            return None
        return self._with(choice.writer, target, scene, target == self._pin)

    def _succession(self, choice: Choice, scene: Situation) -> Choice | None:
        """Nobody can write on the writer: the next one that is usable, as the gpens were told."""
        target = next((node for node in self.ranks(scene) if node in scene.candidates), choice.writer)
        return self._with(target, "", scene) if target != choice.writer else None

    def _restoration(self, since: float, scene: Situation, now: float) -> Choice | None:
        """What is in use, as the choice in a table that does not know it (any more)."""
        if self._informed(scene):
            return None
        if now - since < (FOUNDING if self._choice is None else MOMENT):
            return None
        if self._choice is not None:
            writer = self._choice.writer
        elif self._used in scene.candidates or self._used in scene.blind:
            writer = str(self._used)
        else:
            writer = self._writer.choose(scene.order, scene.candidates, now) or ""
        if not writer:
            return None
        newest = max(self.version, self.before or 0, scene.newest)
        choice = self._with(writer, writer if newest else "", scene, self._was_pinned)
        return choice._replace(version=newest + LEAP if newest else 1)

    def _conclusion(self, choice: Choice, scene: Situation, now: float) -> Choice | None:
        """What becomes of a choice that names an heir."""
        late = [name for name, version in scene.watchers.items() if version < choice.version]
        restored = choice.heir == choice.writer
        if choice.heir not in scene.candidates and choice.heir not in scene.blind and not restored:
            self.refusal = f"{choice.heir} can't be the writer any more"
            return self._with(choice.writer, "", scene, self._was_pinned)
        if not late and now - self._listed_since >= FOUNDING:
            return self._with(choice.heir, "", scene, choice.pinned)
        if choice.writer not in scene.writable:
            return self._succession(choice, scene) if scene.quorate else None
        if now - self._since < YIELD:
            return None
        if not restored:
            self.refusal = f"not confirmed within {YIELD:g} s by {', '.join(sorted(late))}"
        return self._with(choice.writer, "", scene, self._was_pinned)

    @property
    def _was_pinned(self) -> bool:
        """Whether an operator wanted the writer of now."""
        return self._writer.pinned  # of the last choice without an heir

    def _propose(self, proposal: Choice | None, scene: Situation, now: float) -> None:
        if proposal is not None and scene.candidates:
            best = proposal.heir or proposal.writer
            self.bearer = best if best in scene.candidates else next(iter(scene.candidates))
            self.proposal, self._expires = proposal, now + PATIENCE

    def _with(self, writer: str, heir: str, scene: Situation, pinned: bool = False) -> Choice:
        succession = self.ranks(scene) if writer == self.current else ranked(writer, scene.order)
        return Choice(self.version + 1, writer, tuple(succession), heir, pinned)
