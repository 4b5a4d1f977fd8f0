"""One gpen, told by a thread of its own, so that one that hangs delays no other.

It is looked at again and again: so what somebody else has changed is mended, a gpen that was away or began anew is
brought up to date, and servers that drain are deleted once they have no session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpen.discover.plan import Plan, Row, Step, Terms, Wanted, plan, rows_in
from gpen.gpenctl.lines import ask_lines, refusal_in
from gpen.gpenctl.link import LinkError, Target
from gpen.log import QUIET, Faults, say, warn

LOOK = 2.0  # seconds between two looks at the servers
PASSES = 5  # that follow each other at once: what is new counts in the next, what drained is deleted
AT_ONCE = 200  # commands on one connection
NAMED = 20  # changes in the log, of those that are made at once
OFTEN = 3  # times that the same may be done in QUIET seconds, while the source says the same
MOST = 1 << 24  # bytes of an answer: 10,000 servers take about 8 MB


class Seen(NamedTuple):
    """What was found of a gpen when it was looked at last. ``problem``: why it could not be; None: not yet.
    ``refusal``: of a command, or what can't be done; ``own``: the servers that are ours, and ``closing`` the numbers of
    those that leave."""

    problem: str | None = None
    refusal: str = ""
    own: Sequence[Row] = ()
    closing: Sequence[int] = ()
    kept: Sequence[int] = ()
    theirs: Mapping[str, str] = {}


class Repeats:
    """How often the same is done while the same is wanted: whom somebody contradicts shall not fill the log."""

    def __init__(self) -> None:
        self._wanted: Wanted = {}
        self._times: dict[str, list[float]] = {}

    def begin(self, wanted: Wanted) -> None:
        """What is done from now on is done since this is wanted."""
        if wanted != self._wanted:
            self._times = {}
        self._wanted = wanted
        since = time.monotonic() - QUIET
        kept = ((what, [at for at in times if at > since]) for what, times in self._times.items())
        self._times = {what: times for what, times in kept if times}

    def is_news(self, what: str) -> bool:
        """Count this, and return whether it is to be told yet."""
        times = self._times.setdefault(what, [])
        times.append(time.monotonic())
        return len(times) <= OFTEN

    def are_many(self) -> bool:
        """Whether something has been done too often."""
        return any(len(times) > OFTEN for times in self._times.values())


class GpenClient:
    """Keeps the servers of the gpen at ``target`` as they are wanted."""

    def __init__(self, target: Target, terms: Terms) -> None:
        self.seen = Seen()  # a whole, changed at once: other threads read it
        self._target = target
        self._terms = terms
        self._wanted: Wanted | None = None
        self._leaving: Mapping[int, float] = {}
        self._repeats = Repeats()
        self._faults = Faults()
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"gpen {self.name}", daemon=True)

    @property
    def name(self) -> str:
        return self._target.text

    def start(self) -> None:
        """Look and tell from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Say nothing more; what the gpen knows it keeps."""
        self._is_stopping = True
        self._wake.set()

    def want(self, wanted: Wanted) -> None:
        """The servers are to be these from now on; from any thread."""
        self._wanted = wanted
        self._wake.set()

    def _run(self) -> None:
        while not self._is_stopping:
            if not self._faults.attempt(f"gpen {self.name}", self._round):
                self._note(Seen(self._faults.standing[f"gpen {self.name}"]))
            self._wake.wait(LOOK)
            self._wake.clear()

    def _round(self) -> None:
        """Look at the gpen, and tell it what is to be changed, until that is all."""
        try:
            refusal = ""
            for _ in range(PASSES):
                rows = self._look()
                if self._wanted is None or self._is_stopping:
                    self._note(Seen("", own=self._own(rows)))
                    return
                wanted = self._wanted
                todo = plan(wanted, rows, self._terms, self._leaving, time.monotonic())
                self._leaving = todo.leaving
                self._repeats.begin(wanted)
                refusal = self._tell(todo) or self._quarrel()
                kept = self.seen.kept if todo.steps else todo.kept  # those that are new count with the next look
                self._note(Seen("", refusal or todo.trouble, self._own(rows), sorted(todo.leaving), kept, todo.theirs))
                if refusal or not todo.steps:
                    if todo.renewals:
                        ask_lines(self._target, todo.renewals)
                    return
        except (LinkError, ValueError) as error:
            problem = str(error).removeprefix(f"{self.name}: ")
            self._note(self.seen._replace(problem=problem))

    def _own(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row["owner"] == self._terms.owner]

    def _look(self) -> list[Row]:
        """Its servers. Raises LinkError and ValueError."""
        return rows_in("\n".join(ask_lines(self._target, ["servers json"], MOST)))

    def _tell(self, todo: Plan) -> str:
        """Give the commands. Returns why one was refused; the others count. Raises LinkError."""
        refusal, done = "", list[Step]()
        for first in range(0, len(todo.steps), AT_ONCE):
            steps = todo.steps[first:first + AT_ONCE]
            refused = refusal_in(ask_lines(self._target, [step.line for step in steps]))
            refusal = refusal or refused
            done += [] if refused else steps
            if refused and len(steps) > 1 and refused != self.seen.refusal:
                say(f"gpen {self.name}: of {len(steps)} changes of servers not all are taken")
        news = [step.news for step in done if self._repeats.is_news(step.news)]
        for what in news[:NAMED]:
            say(f"gpen {self.name}: {what}")
        if len(news) > NAMED:
            say(f"gpen {self.name}: and {len(news) - NAMED} more changes of servers")
        return refusal

    def _quarrel(self) -> str:
        """That somebody undoes what we do."""
        if not self._repeats.are_many():
            return ""
        return (f"what is done is undone, again and again: does another gpen-discover tell it with the owner "
                f"{self._terms.owner}?")

    def _note(self, seen: Seen) -> None:
        """Keep what was found, and tell what is new of it."""
        old, self.seen = self.seen, seen
        if seen.problem != old.problem:
            if seen.problem:
                warn(f"gpen {self.name}: {seen.problem}")
            else:
                say(f"gpen {self.name}: answers")
        if seen.refusal and seen.refusal != old.refusal:
            warn(f"gpen {self.name}: {seen.refusal}")
        for place in seen.theirs.keys() - old.theirs.keys():
            say(f"gpen {self.name}: {place} is {seen.theirs[place]}: it is left as it is, and not made again")
        for number in set(seen.kept) - set(old.kept):
            warn(f"gpen {self.name}: server {number} has left {self._terms.source}, and is kept: without it fewer than "
                 f"{self._terms.floor} could be used (--floor)")
