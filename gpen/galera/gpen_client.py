"""One gpen, told by a thread of its own; so that one that hangs delays no other.

A round is one connection to the control socket: the plan's commands, and a look at the servers: in each round where
only one of them may be used, at least every second elsewhere.
What else is to be changed comes before, on a connection of its own, so that its refusal says nothing of the plan.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from gpen.galera import parting
from gpen.galera.listeners import TOO_OLD, Desk, Listener, Roles, lack, listeners_in
from gpen.galera.plan import (
    Changes,
    Plans,
    Rivalry,
    Row,
    are_alike,
    commands,
    is_amiss,
    misfit,
    modes_in,
    new_limits,
    retries,
    rows_in,
    strays,
)
from gpen.gpenctl.lines import ask_lines, refusal_in
from gpen.gpenctl.link import LinkError, Target
from gpen.log import failure, say, warn
from gpen.model.text import shortened

MOST_SESSIONS = 1 << 26  # bytes of an answer that lists sessions: one takes about 200
# a server that moved since the last look; a gpen of before `at`; and both, or one that was deleted
ELSEWHERE, UNKNOWN = ", not at ", "'at' is not one of"
OUTDATED = (ELSEWHERE, "there is no server ", UNKNOWN)
# a gpen of before `health drain`, and what its user can do
NO_DRAIN = "'drain' is not up, down or unknown", ("it is older than this watcher and does not know 'health drain', so "
                                                  "a donor there gets clients still: restart it with this version")
STALE = 0.5  # seconds after which a plan is told no more
LOOK = 1.0  # seconds between two looks at the servers
TTL = 5  # seconds that verdicts last where they must not outlive the watchers
PROXIED = ("v1", "v2")  # of the setting proxy_protocol

Tell = Callable[["GpenClient", "Sequence[Row] | None", str], None]


class Wanted(NamedTuple):
    """What a gpen is to be told. ``version``: of the choice that the plans follow; ``made``: when they were, in seconds
    of the monotonic clock."""

    plans: Plans
    changes: Changes
    version: int
    made: float


class _Late(Exception):
    """What was to be told is old."""


class GpenClient:
    """Brings plans to the gpen at ``target``, and tells its servers, None when it can't be reached, and what is wrong,
    if anything (from its own thread)."""

    def __init__(self, target: Target, is_writer: bool, tell: Tell, roles: Roles | None = None,
                 interval: float = 0.0, quiet: float = 0.0) -> None:
        """``is_writer``: it goes with the writer, and its verdicts must not outlive the watchers (`health_ttl`).
        ``roles``: of its listeners; None: what it is, all of them are. ``interval``: seconds between two plans.
        ``quiet``: seconds that sessions have to end between two exchanges, where they leave a writer that is well."""
        self.target = target
        self.is_writer = is_writer
        self.roles = roles
        self.desks = [Desk(name) for name in roles.writers] if roles else []
        self.listeners: dict[str, Listener] = {}  # as they were seen last, where they have roles
        self._tell = tell
        self._rivalry = Rivalry()
        self._pid = ""
        self._limits: dict[int, int] = {}  # the `max` that it was given for its servers
        self._by_address = True
        self.told = 0  # the newest choice of the writer that it has carried out
        self.hides_clients = True  # without the PROXY protocol its servers see its own address alone
        self.is_late = False  # the last plan was too old to be told when its turn came: another one is needed
        self.absent = False  # nobody listens at its control socket, so there is no such gpen
        self._wanted = Wanted(Plans(), Changes(), 0, math.inf)  # the first look is never late
        self._quiet = quiet
        self._lasting = max(STALE, 2 * interval)
        self._told = Plans()
        self._rows: Sequence[Row] = ()
        self._look_at = 0.0
        self._mending: list[str] = []
        self._misfit = ""
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self.target.text

    def start(self) -> None:
        """Ask and tell from now on, if that is not done already. Raises RuntimeError when there is no thread to be
        had."""
        if self._thread is None or not self._thread.is_alive():
            self._wake.set()
            thread = threading.Thread(target=self._run, name=f"gpen {self.name}", daemon=True)
            thread.start()
            self._thread = thread

    def stop(self) -> None:
        """Say nothing more; what the gpen knows it keeps."""
        self._stopping = True
        self._wake.set()

    def want(self, plans: Plans, changes: Changes, version: int, made: float = math.inf) -> None:
        """Bring these plans to the gpen now, after these changes; what has become old by then is not told."""
        self._wanted = Wanted(plans, changes, version, made)
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopping:
                return
            try:
                news = self._round(self._wanted)
            except Exception as error:
                self._look_at = 0.0
                news = None, f"{self.name}: is not understood: {failure(error)}"
            self._tell(self, *news)

    def _round(self, wanted: Wanted) -> tuple[Sequence[Row] | None, str]:
        """Tell the gpen what is wanted. Returns its servers as they were seen last, and what is wrong."""
        self.is_late = time.monotonic() - wanted.made > STALE  # this process stood still, or the gpen was slow
        if self.is_late:
            return self._rows, self._trouble()
        try:
            refusal = self._carry_out(wanted.plans, wanted.changes, wanted.version)
        except _Late:
            self.is_late = True
            refusal = ""
        except LinkError as error:
            self.absent = isinstance(error.__context__, (ConnectionRefusedError, FileNotFoundError))
            self._look_at = 0.0
            self._forget_ranks()
            return None, str(error)
        return self._rows, f"{self.name}: {refusal}" if refusal else self._trouble()

    def _carry_out(self, plans: Plans, changes: Changes, version: int, again: bool = True) -> str:
        """Returns what the gpen has refused. Raises LinkError, and _Late when the plans have become old meanwhile."""
        chores = [*self._mending, *changes.commands(self._rows, self._by_address)]
        orders = self._orders(plans, changes.kept(self._rows))
        looking = self.is_writer or bool(chores) or plans != self._told or time.monotonic() >= self._look_at
        if not orders and not looking:
            return ""
        unchanged = self._do(plans, chores) if chores else ""
        self._note_limits(plans, changes)
        if orders and self._quiet and plans != self._told:
            self._part(plans, changes.kept(self._rows))
        seen, pid = self._rows, self._pid
        untold = self._say(plans, orders, looking)
        if again and any(words in untold for words in OUTDATED):
            self._by_address = UNKNOWN not in untold
            self._say(plans, (), True)
            return self._carry_out(plans, changes, version, again=False)
        if self._rows is not seen and not untold:
            untold = self._mend(plans, changes, is_said=bool(seen) and pid == self._pid)
        if self.is_writer and not untold and plans != self._told:
            self._end_strays(plans)
        self.absent = False
        if untold:
            self._look_at = 0.0
        elif self._rows:
            self._told, self.told = plans, version
        return unchanged or (NO_DRAIN[1] if NO_DRAIN[0] in untold else untold)

    def _part(self, plans: Plans, rows: Sequence[Row]) -> None:
        """Let the sessions that the plans end quietly do so, for a while. Raises _Late."""
        questions = parting.begin(plans, rows, self.desks, partial(self._give, plans), self._by_address)
        deadline = time.monotonic() + self._quiet  # from when they were told, however long that took
        while questions and time.monotonic() < deadline:
            answer = "".join(ask_lines(self.target, questions[:1], MOST_SESSIONS))
            if parting.is_over(plans, rows, answer):
                questions.pop(0)
            else:
                time.sleep(parting.LOOK_SECONDS)

    def _give(self, plans: Plans, lines: Sequence[str]) -> list[str]:
        """Give commands that follow the plans, and return the reply. Raises _Late when something else is wanted now, or
        the watcher has not thought for a while, as it stood still. How long the gpen itself takes to answer does not
        count: while it is waited for, the same is wanted again at each interval."""
        if time.monotonic() - self._wanted.made > self._lasting or not are_alike(plans, self._wanted.plans):
            raise _Late
        return ask_lines(self.target, lines)

    def _orders(self, plans: Plans, rows: Sequence[Row]) -> list[str]:
        """The lines that carry out the plans: the listeners' choice before any server is up for all of them."""
        return [*(line for desk in self.desks for line in desk.commands(plans.writers, rows)),
                *commands(plans.servers, rows, self._limits, self._by_address)]

    def _do(self, plans: Plans, chores: Sequence[str]) -> str:
        """Make these changes. Returns why one was refused; not that a server has got another number since the last
        look, for the next one shows that."""
        refusal = refusal_in(self._give(plans, chores))
        self._by_address = self._by_address and UNKNOWN not in refusal
        return "" if ELSEWHERE in refusal or UNKNOWN in refusal else refusal

    def _say(self, plans: Plans, orders: Sequence[str], looking: bool) -> str:
        """Give these commands, and take the answers to what is asked with them. Returns why a command was refused. The
        servers are looked at as well when the gpen began anew since it was spoken to last."""
        said = [*orders, "pid", *self._questions(looking)]
        lines = self._give(plans, said) if orders else ask_lines(self.target, said)
        if looking:
            self._look(lines)
        pid, known = lines.pop() if lines else "", self._pid
        if pid != known:
            self._pid, self._limits = pid, {}
            if known:
                say(f"gpen {self.name}: began anew")
                self._told = Plans()
                self._forget_ranks()
            if not looking:
                return refusal_in(lines) or self._say(plans, (), True)
        return refusal_in(lines)

    def _forget_ranks(self) -> None:
        for desk in self.desks:
            desk.forget()

    def _mend(self, plans: Plans, changes: Changes, is_said: bool) -> str:
        """Put right at once what the last look has shown; tell all where that could not be said yet, as nobody knew the
        servers. Returns why a command was refused."""
        rows = changes.kept(self._rows)
        if any(plans) and plans == self._told:
            self._rivalry.saw(plans.writers or plans.servers, rows, time.monotonic())
        again = retries(plans.servers, rows, self._by_address)
        if again:
            self._give(plans, again)
        if not any(plans) or (is_said and not self._is_amiss(plans, rows)):
            return ""
        self._note_limits(plans, changes)
        return self._say(plans, self._orders(plans, rows), True)

    def _is_amiss(self, plans: Plans, rows: Sequence[Row]) -> bool:
        return is_amiss(plans.servers, rows) or any(desk.is_amiss(plans.writers, rows) for desk in self.desks)

    def _end_strays(self, plans: Plans) -> None:
        """What was opened on a server that was deleted since, or has another address now, no row tells of."""
        if any(order.close for plan in plans for order in plan.values()):
            sessions = "".join(ask_lines(self.target, ["sessions json"], MOST_SESSIONS))
            names = [desk.name for desk in self.desks]
            lines = [*strays(plans.servers, self._rows, sessions), *strays(plans.writers, self._rows, sessions, names)]
            if lines:
                self._give(plans, list(dict.fromkeys(lines)))

    def _note_limits(self, plans: Plans, changes: Changes) -> None:
        self._limits |= new_limits(plans.servers, changes.kept(self._rows), self._limits)

    def _trouble(self) -> str:
        return self._rivalry.trouble(self.name, time.monotonic()) or self._misfit

    def _questions(self, looking: bool) -> list[str]:
        if not looking:
            return []
        own = ["mode json"] if self.is_writer else []
        if self.roles is not None:
            own = [*(question for desk in self.desks for question in desk.questions),
                   *(f"listener {name} proxy_protocol" for name in self.roles.named), "listeners json"]
        return [*own, *["health_ttl"] * self.is_writer, "proxy_protocol", "servers json"]

    def _look(self, lines: list[str]) -> None:
        """Take the answers to the questions from the end of a reply. Raises LinkError when they aren't there."""
        try:
            rows = rows_in(lines.pop())
            proxied = [lines.pop()]
            ttl = lines.pop() if self.is_writer else None
            if self.roles is not None:
                self._misfit, told = self._listeners(self.roles, lines)
                proxied += told
            elif self.is_writer:
                self._misfit = misfit(self.name, modes_in(lines.pop()))
        except IndexError:
            raise LinkError(f"{self.name}: no answer to 'servers json': is it a gpen?") from None
        except ValueError as error:
            why = shortened(str(error))
            raise LinkError(f"{self.name}: no answer to 'servers json' ({why}): is it a gpen?") from None
        self.hides_clients = any(said.strip() not in PROXIED for said in proxied)
        self._rows = self.desks[0].ranked(rows) if self.desks else rows
        self._look_at = time.monotonic() + LOOK
        if ttl is not None:
            self._mend_ttl(ttl)

    def _listeners(self, roles: Roles, lines: list[str]) -> tuple[str, list[str]]:
        """Take what was asked of the listeners. Returns what is wrong with them, and what proxy_protocol is there."""
        told, proxied = lines.pop(), [lines.pop() for _ in roles.named]
        answers = [(lines.pop(), lines.pop()) for _ in self.desks]
        try:
            self.listeners = listeners_in(told)
        except ValueError:
            self.listeners = {}
            return f"{self.name}: {TOO_OLD}", proxied
        for desk, (servers, modes) in zip(reversed(self.desks), answers, strict=True):
            desk.look(self.name, self.listeners, modes, servers)
        troubles = [lack(self.name, roles.readers, self.listeners), *(desk.trouble for desk in self.desks)]
        return next(filter(None, troubles), ""), proxied

    def _mend_ttl(self, ttl: str) -> None:
        mended, self._mending = bool(self._mending), []
        if ttl.strip() in ("", "0"):
            self._mending = [f"health_ttl {TTL}"]
            if not mended:
                warn(f"gpen {self.name}: health_ttl was 0, so that a dead watcher's verdicts would last for ever; "
                     f"it is {TTL} now")
