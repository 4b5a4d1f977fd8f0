"""``rebalance [PERCENT] [over SECONDS]``: sessions that servers have beyond their share end when they are quiet, so
that their clients spread again.

Which of them is left to chance. Of a pool that takes its connections in turn, the one that is idle for longest is the
next that is used, and of one that takes the last first, the one that has just become quiet: whoever is about to say
something is at one of these ends.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from math import ceil

import gevent

from gpen.control.script import Call
from gpen.daemon.front import Front
from gpen.daemon.listeners import Listeners
from gpen.daemon.sessions import Sessions
from gpen.model.balance import landing, shares
from gpen.model.ending import Ending
from gpen.model.selector import Selector
from gpen.model.server import Server
from gpen.model.text import counted
from gpen.model.value_types import listener_prefix
from gpen.wire.conversation import Conversation
from gpen.wire.pacing import gently

TELL_SECONDS = 1.0
LOOK_SECONDS = 0.1
PATIENCE = 3.0  # seconds that are left, behind the time that was given, to sessions that are not quiet
SETTLE_SECONDS = 1.0  # in which clients whose session was ended are expected again
WAIT_SECONDS = 2.0  # until another session is tried in the place of one that is not quiet; twice ``quiet`` at least

ByServer = dict[Server, list[Conversation]]


class Rebalancing:
    """Carries the command out, for each listener once at a time."""

    def __init__(self, listeners: Listeners, sessions: Sessions) -> None:
        self._listeners = listeners
        self._sessions = sessions
        self._busy: set[Front] = set()

    def begin(self, call: Call) -> Iterator[str]:
        """A line a second, and at last what was done. Switches greenlets. Raises ScriptError when it makes no sense for
        the listener, when it is under way already, or when servers have more than their share at the end."""
        fronts = self._fronts(call)
        if any(front in self._busy for front in fronts):
            raise call.error("it is under way already")
        return self._run(call, fronts)

    def _fronts(self, call: Call) -> list[Front]:
        """Those that are to be rebalanced. Raises ScriptError when there is none."""
        fronts = [self._listeners[call.listener]] if call.listener else [
            front for front in self._listeners if front.listener is not None]
        problems = [f"{'' if call.listener else listener_prefix(front.name)}{problem}" for front in fronts
                    if (problem := _problem(front))]
        if len(problems) == len(fronts):
            raise call.error(problems[0] if problems else "gpen listens nowhere")
        return [front for front in fronts if not _problem(front)]

    def _run(self, call: Call, fronts: list[Front]) -> Iterator[str]:
        self._busy.update(fronts)
        spreads = [_Spread(front, selector, call["percent"], call["seconds"])
                   for front in fronts for selector in front.scope.selectors()]
        try:
            yield from self._wait(spreads, call["seconds"])
        finally:
            self._busy.difference_update(fronts)
            for spread in spreads:
                spread.give_up()
        done = [f"{spread.name}{spread.result()}" for spread in spreads if spread.has_sessions] or [spreads[0].result()]
        if any(spread.left for spread in spreads):
            raise call.error(f"after {call['seconds']:g} s not all that servers have beyond their share was quiet or "
                             f"found its way to another: {'; '.join(done)}")
        yield from (f"rebalanced: {line}\n" for line in done)

    def _wait(self, spreads: list[_Spread], seconds: float) -> Iterator[str]:
        """Until all have their share or time is up."""
        started = tells = time.monotonic()
        while True:
            theirs = self._by_selector()
            left, now = sum(spread.look(theirs.get(spread.selector, {})) for spread in spreads), time.monotonic()
            if not left and all(spread.is_settled(now) for spread in spreads):
                return
            if now - started >= seconds + PATIENCE:
                return
            if now >= tells:
                tells = max(tells + TELL_SECONDS, now)
                ended = sum(spread.ended for spread in spreads)
                yield (f"rebalancing: {counted(left, 'session')} left, {ended} ended, "
                       f"{max(seconds - (now - started), 0):.0f} s\n")
            gevent.sleep(LOOK_SECONDS)

    def _by_selector(self) -> Mapping[Selector, ByServer]:
        """The sessions that are at a server, by what has chosen that. Switches greenlets when they are many."""
        found: dict[Selector, ByServer] = {}
        for session in gently(list(self._sessions)):
            lease = session.lease
            if session.connected and not session.finished and (
                    lease is not None and lease.is_open and not lease.is_elsewhere):
                found.setdefault(session.selector, {}).setdefault(lease.server, []).append(session)
        return found


class _Spread:
    """The sessions of one listener, or of one of its routes, for which ``selector`` has chosen. ``left`` is how many
    servers have beyond their share, ``ended`` how many were ended."""

    def __init__(self, front: Front, selector: Selector, percent: int, seconds: float) -> None:
        route = f"route {selector.route}: " if selector.route else ""
        self.name = f"{listener_prefix(front.name)}{route}"
        self.selector = selector
        self.left = 0
        self._front = front
        self._percent = percent
        self._seconds = seconds
        self._total = 0  # sessions, at the beginning: who leaves and does not come again makes nobody's share less
        self._known: tuple[object, ...] = ()  # the servers by which the pace was reckoned
        self._excessive: set[Server] = set()  # servers that had more than is tolerated, and shall have their share
        self._pause = 0.0
        self._next = time.monotonic()  # when the next session is to be ended
        self._last = 0.0  # when the last one was
        self._asked: dict[Conversation, float] = {}  # sessions that are to end, and since when
        self._dice = random.Random()
        self._passed: set[Conversation] = set()  # that were not quiet for so long that others were tried
        self._counts: Counter[Server] = Counter()
        self._moved: list[Conversation] = []

    @property
    def has_sessions(self) -> bool:
        """Whether there were any."""
        return self._total > 0

    @property
    def ended(self) -> int:
        return sum(session.ending is Ending.REBALANCED for session in self._moved)

    def is_settled(self, now: float) -> bool:
        """Whether those whose sessions were ended last have come again, or have had the time."""
        return self._counts.total() >= self._total or now - self._last >= SETTLE_SECONDS

    def look(self, theirs: ByServer) -> int:
        """See who has too much of these sessions, and end what is due. How many are left to end."""
        now = time.monotonic()
        theirs = {server: [session for session in sessions if not session.finished]  # some may have ended since
                  for server, sessions in theirs.items()}
        self._counts = Counter({server: len(sessions) for server, sessions in theirs.items()})
        self._tend_asked(now)
        excess = self._excess()
        self.left = sum(excess.values())
        waiting = Counter(session.server for session in self._asked)
        while now >= self._next:
            over = {server: count - waiting[server] for server, count in excess.items() if count > waiting[server]}
            session = self._pick(theirs, over)
            if session is None:
                break
            self._next = max(self._next, now - self._pause) + self._pause
            self._asked[session] = self._last = now
            self._moved.append(session)
            waiting[session.server] += 1
            session.move_when_quiet(Ending.REBALANCED)
        return self.left

    def _tend_asked(self, now: float) -> None:
        """Those that have ended, and those that keep us waiting, whose place another takes."""
        patience = max(WAIT_SECONDS, 2 * self._front.settings.quiet)
        for session, since in list(self._asked.items()):
            if session.finished or session.lease is None:
                del self._asked[session]
                self._last = now
            elif now - since >= patience:
                del self._asked[session]
                _spare(session)
                self._passed.add(session)

    def _excess(self) -> dict[Server, int]:
        """How many sessions servers have beyond their share, if that was more than is tolerated."""
        counts, selector = self._counts, self.selector
        placed = sum(counts[server] for server in shares(selector, counts, 0))
        self._total = max(self._total, placed)
        share = shares(selector, counts, self._total)
        for server, fair in share.items():
            if counts[server] > fair * (1 + self._percent / 100):
                self._excessive.add(server)
        excess = {server: counts[server] - ceil(fair) for server, fair in share.items()
                  if server in self._excessive and counts[server] > ceil(fair)}
        known = tuple((server, server.address) for server in share)
        if known != self._known and excess:
            self._known = known
            self._pause = self._seconds / sum(excess.values()) * landing(selector, counts, share)
        return excess

    def _pick(self, theirs: ByServer, over: dict[Server, int]) -> Conversation | None:
        """The session that ends next: one of the server that has most too much."""
        for server in sorted(over, key=lambda server: -over[server]):
            free = [session for session in theirs.get(server, ()) if session not in self._asked]
            if free and self._passed.issuperset(free):
                self._passed.difference_update(free)
            free = [session for session in free if session not in self._passed]
            if free:
                return self._dice.choice(free)
        return None

    def give_up(self) -> None:
        """Let those go on that have not been quiet yet."""
        for session in self._asked:
            _spare(session)

    def result(self) -> str:
        """What was done, and how it stands."""
        share = shares(self.selector, self._counts, self._total)
        stand = ", ".join(f"{server.name} has {self._counts[server]}" for server in share)
        return (f"{counted(self.ended, 'session')} ended when {'it was' if self.ended == 1 else 'they were'} quiet; "
                f"{f'server {stand}' if stand else 'no server can take clients'}")


def _spare(session: Conversation) -> None:
    """Let a session go on, unless its server is being drained, which is another reason for it to end."""
    if session.server is not None and session.server.state == "ready":
        session.spare()


def _problem(front: Front) -> str:
    """Why a listener's sessions can't be rebalanced; empty where they can."""
    settings = front.settings
    if settings.dsr_if:
        return "servers answer clients themselves (dsr_if), and no session of theirs passes gpen"
    if settings.udp:
        return "flows of UDP get a server anew whenever they begin"
    if settings.rule.is_personal:
        return (f"by {settings.rule.name} each client has a server of its own, and would come back to the one that it "
                "has")
    return ""
