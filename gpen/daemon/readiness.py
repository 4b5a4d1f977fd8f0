"""Whether clients can be served, and why not: the command ``ready``, /ready of the HTTP door, and a metric.

Who asks for that moves an address to another gpen, or takes this one out of a service. So it is told by what holds for
a while, as operators and monitors see it, and not by what the next client would meet: a server that is full, or a gpen
that has as many sessions as it may, is ready, for the load would only move with the address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from gpen.daemon.front import Front
from gpen.daemon.listeners import Listeners
from gpen.daemon.workers import Workers
from gpen.model.listener import called
from gpen.model.scheduler import Rule
from gpen.model.server import Member
from gpen.model.text import counted
from gpen.wire.pacing import gently

HEALTHY = ("up", "trial")  # of HEALTHS: those of whom nothing bad is known now


class Readiness:
    """Changes nothing: no server's turn, no trial."""

    def __init__(self, listeners: Listeners, workers: Workers, absence: Callable[[], str]) -> None:
        """``absence`` says why the whole gpen takes nobody; it is empty as long as it does."""
        self._listeners = listeners
        self._workers = workers
        self._absence = absence

    def told(self, name: str | None) -> dict[str, Any]:
        """Whether the listener of this name can serve its clients, or, for None, all that listen; why not, a line each;
        and how each of them is. Switches greenlets, where there are many servers."""
        fronts = [front for front in self._listeners
                  if (front.listener is not None if name is None else front.name == name)]
        problems = {front.name: self.problem(front) for front in fronts}
        is_alone = [front.name for front in self._listeners] == [""]
        reasons = [problem if is_alone else f"listener {called(name)}: {problem}"
                   for name, problem in problems.items() if problem]
        if absence := self._absence():
            reasons = [absence]
        return {"ready": not reasons, "reasons": reasons,
                "listeners": {called(name): not (problem or absence) for name, problem in problems.items()}}

    def problem(self, front: Front) -> str:
        """Why a listener can serve nobody; empty if it can. Switches greenlets, where there are many servers."""
        if front.listener is None:
            return "it does not listen"
        if not (front.settings.udp or self._workers.serve):
            return "no worker process serves"
        if front.scope.rejects_all:
            return "its routes reject everybody"
        selector, now = front.selector, front.selector.pool.now()
        emergency = selector.emergency if not front.settings.stubborn else None
        if emergency is not None and not _cause(emergency, now, selector.rule):
            return ""
        return _problem_of(front.scope.numbered_members(), now, selector.rule)


def _problem_of(members: Iterable[Member], now: float, rule: Rule) -> str:
    """Why none of these servers can be used; empty if one can. Looks no further than to the first that can."""
    causes: Counter[str] = Counter()
    for member in gently(list(members)):
        cause = _cause(member, now, rule)
        if not cause:
            return ""
        causes[cause] += 1
    if causes.total() < 2:
        return f"its only server can't be used: {next(iter(causes))}" if causes else "it has no servers"
    told = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    return f"none of its {counted(causes.total(), 'server')} can be used: {told}"


def _cause(member: Member, now: float, rule: Rule) -> str:
    """In a word or two why a server is not used, be there room or not; empty if it is."""
    server, target = member.server, member.target
    if server.state != "ready":
        return server.state
    health = target.health(now)
    if health not in HEALTHY:
        return health
    if not target.endpoints:
        return "without an address"
    return "of weight 0" if rule.weighs and not member.weight else ""
