"""Slow start: a server that has come back gets a share of the new clients that grows until it has all of its own.

``Returns`` knows which servers have come back and when. ``eased`` makes, of a rule of scheduler.py, one that heeds it:
a server that came back less than ``seconds`` ago has the ``fraction`` of its weight that has passed of them, and of the
clients the part that this weight is of all; where the rule gives all clients to one server (prio), that fraction of
them. The others get the rest, as if it were not there. Where the rule thinks it worse than them, as leastconn one that
has more sessions, it gets none. Where nobody else can take a client it does: nobody is turned away for it.

Whose turn it is is no matter of chance: choices are spread evenly (evenly.py), and nothing is remembered but how many
there were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from gpen.model.evenly import evenly
from gpen.model.scheduler import Rule, Turns, Usable
from gpen.model.server import Member, Server, Target

VIEW_SECONDS = 0.05  # between two looks at all servers
MOST_VIEWS = 100
LEAST = 0.01  # of its weight, that a server has as soon as it is back


class Returns:
    """Which servers have come back to their clients, and when. ``latest`` is when the last one did, ``version`` another
    number whenever something has changed about a server.

    Before gpen serves, servers come but do not come back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds that never jump."""
        self.now = clock
        self.latest = -math.inf
        self.version = 0
        self.is_serving = False
        self.on_return: Callable[[Target], object] = lambda target: None  # called when one has come back

    def look(self, target: Target) -> None:
        """Something has changed about a server, as it is reached so."""
        self.version += 1
        was_away, target.is_away = target.is_away, not target.takes_clients
        if was_away and not target.is_away:
            self._note(target)

    def begin(self, *targets: Target) -> None:
        """A server is new, or is another one, from now on, as it is reached so."""
        for target in targets:
            target.is_away = not target.takes_clients
            if not target.is_away:
                self._note(target)

    def _note(self, target: Target) -> None:
        if self.is_serving and not target.server.is_special:
            self.version += 1
            target.returned = self.latest = self.now()
            self.on_return(target)

    def resume(self, server: Server, seconds: float) -> None:
        """A gpen before has seen a server come back so many seconds ago."""
        self.version += 1
        for target in server.targets.values():
            target.returned = self.now() - seconds
            self.latest = max(self.latest, target.returned)


def fraction(target: Target, seconds: float, now: float) -> float:
    """How much of its weight a server has, up to 1, where it is given so many seconds (0: all at once). ``now`` may be
    a moment before it came back, where a long answer is being written."""
    if not (seconds and target.returned):
        return 1.0
    return min(max((now - target.returned) / seconds, LEAST), 1.0)


def eased(rule: Rule, seconds: float) -> Rule:
    """The same rule, which gives servers so many seconds. A client's own server, by a hash, stays its own at once: if
    its share grew, all of its clients would go elsewhere first, and then move once more."""
    if not seconds or rule.is_personal:
        return rule
    easing = Easing(rule, seconds)
    return replace(rule, pick=easing.pick, advance=easing.advance)


class _View(NamedTuple):
    """The newcomers among the servers, with the fraction that each had; of all servers' weights the sum, as far as they
    have grown; and for what this holds."""

    parts: dict[Member, float]
    whole: float
    version: tuple[int, int]
    until: float


class Easing:
    """What takes the place of a rule's ``pick`` and ``advance``."""

    def __init__(self, rule: Rule, seconds: float) -> None:
        self._rule = rule
        self._seconds = seconds
        self._views: dict[int, _View] = {}  # by whose servers they are: each route of a listener may have others

    def __reduce__(self) -> tuple[type[Easing], tuple[Rule, float]]:
        """Settings go to other processes, without servers."""
        return Easing, (self._rule, self._seconds)

    def pick(self, members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
        """The newcomer whose turn it is, or whom the rule picks of the others."""
        returns, rule = turns.returns, self._rule
        if returns is None or (now := returns.now()) - returns.latest >= self._seconds:
            return rule.pick(members, usable, turns, key)
        view = self._view(members, returns, now)
        other = rule.pick(members, lambda member: member not in view.parts and usable(member), turns, key)
        for member in self._newcomers(view, evenly(turns.choices)):
            if member in members and usable(member) and (other is None or rule.rank(member) <= rule.rank(other)):
                return member
        return other if other is not None else rule.pick(members, usable, turns, key)

    def _view(self, members: Sequence[Member], returns: Returns, now: float) -> _View:
        """Who is new now, or was a moment ago: to look at 1,000 servers takes 0.4 ms."""
        view, version = self._views.get(id(members)), (returns.version, len(members))
        if view is None or view.version != version or not view.until - VIEW_SECONDS <= now < view.until:
            grown = {member: fraction(member.target, self._seconds, now) for member in members
                     if not member.target.is_away and (member.weight or not self._rule.weighs)}
            view = _View({member: part for member, part in grown.items() if part < 1},
                         sum(part * self._weight(member) for member, part in grown.items()),
                         version, now + VIEW_SECONDS)
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            self._views[id(members)] = view
        return view

    def _weight(self, member: Member) -> float:
        return member.weight if self._rule.weighs else 1

    def _newcomers(self, view: _View, place: float) -> Iterator[Member]:
        """Those whose turn it is at this ``place`` between 0 and 1."""
        if self._rule.is_exclusive:
            yield from (member for member in sorted(view.parts, key=self._rule.rank) if place < view.parts[member])
            return
        end, point = 0.0, place * view.whole
        for member, part in view.parts.items():
            begin, end = end, end + part * self._weight(member)
            if begin <= point < end:
                yield member

    def advance(self, turns: Turns, member: Member) -> None:
        """The choice counts. That of a newcomer is nobody's turn but its own."""
        turns.choices += 1
        if turns.returns is None or fraction(member.target, self._seconds, turns.returns.now()) == 1:
            self._rule.advance(turns, member)
