"""The health of servers: what was observed of each, and what leads from one state to another.

A server, as it is reached over a transport and at a port (its Target), is in one of these states, beside the operator's
word on it (ready, drain, maint). The first that holds counts:

    empty        its slot has no address           nobody goes there
    down         a verdict says so                 nobody; on_down says what becomes of its sessions
    drained      a verdict says drain, none down   nobody new; its sessions go on
    blacklisted  until its time is over            nobody; when no other can serve, one connection a second tries
    trial        its blacklist is over             one connection, which decides
    up           otherwise                         everybody

What leads from one to another, whoever says it (a client's connect, a check, a command, gpen-galera):

    a connect fails, or flows get no reply         up, trial -> blacklisted for the setting blacklist
    ... of the trial                               trial -> blacklisted anew
    the trial connects, or is answered             trial -> up
    server N blacklist S, or 0                     any -> blacklisted, or not any more, at all its targets
    a verdict up, drain or down                    the worst of all sources counts: up, drained or down; one that turns
                                                   to up ends a blacklist, but a check's not that of a command, nor that
                                                   of a transport or port that it does not ask, and an agent's none
    a verdict grows old (health_ttl), is withdrawn as if it had never been
    a new address, or its name means another place as if nothing had been observed; a command's verdict stays where
                                                   it was the name that moved
    this machine keeps gpen from all servers       those that were blamed for it are up again

Verdicts, and what a command says, are of the server: all its targets, for all listeners. What connects have found is of
the target alone: where TCP 53 is filtered, UDP 53 answers.

Special servers (emergency, abuse) are never blacklisted: they are tried whatever is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gpen.model.events import Events
from gpen.model.lease import dismiss_spares
from gpen.model.server import AGENT, Server, Target, Verdict
from gpen.model.settings import Settings
from gpen.model.text import printable

BLACKLISTED = "blacklisted by a command"
MEANWHILE = "; meanwhile "
MOST_CAUSES, OTHER_CAUSES = 16, "other"


class Health:
    """Who alone moves servers from state to state."""

    def __init__(self, settings: Settings, events: Events, clock: Callable[[], float],
                 servers: Callable[[], Sequence[Server]]) -> None:
        """``clock`` gives seconds that never jump, ``servers`` all that have a number."""
        self.is_cut_off = False  # this machine keeps gpen from all servers
        self.on_condemned: Callable[[Server], object] = lambda server: None  # called when a verdict keeps clients away
        self.on_unwell: Callable[[Server], object] = lambda server: None  # called when anything says so of it
        self._settings = settings
        self._events = events
        self._clock = clock
        self._servers = servers

    def blame(self, target: Target, cause: str, is_silent: bool = False, seconds: float | None = None) -> None:
        """The server could not be reached so, or is silent: leave it alone there for so many seconds (None: the
        blacklist time). Special servers are always tried."""
        server = target.server
        server.failures += 1
        note_cause(server.causes, cause)
        now = self._clock()
        if target.blamed == math.inf and now < target.down_until:
            self._blame_besides(target, cause, now)
            return
        duration = self._settings.blacklist if seconds is None else seconds
        target.reason = cause
        self.on_unwell(server)
        if server.is_special or server.deleted:
            return
        dismiss_spares(server, target)
        was_down = target.is_down
        target.blamed = now
        target.down_until = now + duration
        target.is_silent = is_silent
        if not was_down:
            self._events.note_target(target, "down", f"{cause}; blacklisted for {duration:g} s")

    def _blame_besides(self, target: Target, cause: str, now: float) -> None:
        """A command has said for how long the server is left alone: what is found meanwhile is told, once, and changes
        nothing."""
        if target.reason == BLACKLISTED:
            target.reason = f"{BLACKLISTED}{MEANWHILE}{cause}"
            self._events.tell(target.server, "failed",
                              f"{cause}; stays {BLACKLISTED}, for {target.down_until - now:.0f} s more")
            self.on_unwell(target.server)

    def blacklist(self, server: Server, duration: float) -> None:
        """Blacklist a server for so many seconds by command, however it is reached; 0 takes it off the list."""
        if not duration:
            for target in server.targets.values():
                if target.down_until:
                    self.restore(target, "taken off the blacklist by a command")
            return
        for target in server.targets.values():
            self._blacklist(target, duration, BLACKLISTED)
        dismiss_spares(server)
        self._events.note(server, "down", f"blacklisted by a command for {duration:g} s")
        self.on_unwell(server)

    def _blacklist(self, target: Target, duration: float, reason: str) -> None:
        target.trial = None
        target.blamed = math.inf
        target.down_until = self._clock() + duration
        target.reason = reason
        target.is_silent = False

    def found(self, target: Target, cause: str, seconds: float) -> None:
        """What another gpen has found of a server, as it is reached so, and for how many seconds that counts: it could
        not be reached, or, if that is the cause, a command had blacklisted it."""
        if cause.partition(MEANWHILE)[0] != BLACKLISTED:
            self.blame(target, cause, seconds=seconds)
            return
        self._blacklist(target, seconds, cause)
        dismiss_spares(target.server, target)
        self._events.note_target(target, "down", f"{cause} for {seconds:g} s")
        self.on_unwell(target.server)

    def begin(self, target: Target) -> None:
        """A server is reached so from now on: where a command has blacklisted it, it is so there as well."""
        now = self._clock()
        for other in target.server.targets.values():
            if other.blamed == math.inf and now < other.down_until:
                target.blamed, target.down_until, target.reason = math.inf, other.down_until, BLACKLISTED

    def restore(self, target: Target, cause: str) -> None:
        """The server is not blacklisted any more, as it is reached so."""
        self.forget_target(target)
        server = target.server
        if not server.condemned:
            self._events.note_target(target, target.standing, server.drained or cause)

    def forget(self, server: Server) -> None:
        """What connects have found, and whom that has blacklisted, counts no more."""
        for target in server.targets.values():
            self.forget_target(target)

    def forget_target(self, target: Target) -> None:
        """The same, of one way to reach a server."""
        target.down_until = target.blamed = 0.0
        target.trial = None
        target.reason = ""
        target.is_silent = False
        target.excuse(self._clock())
        target.server.kept_away = ""

    def keeps_away(self, server: Server, cause: str) -> bool:
        """This machine has kept gpen from a server: by a route, its firewall, an interface that is down. Whether it
        keeps gpen from all that it would use: then none is to blame, nor those that were before. Of one alone nobody
        knows whether others could be reached, and it is."""
        server.kept_away = cause
        if not self.is_cut_off:
            ready = [other for other in self._servers() if other.state == "ready" and not other.is_empty
                     and (other.kept_away or not (other.condemned or other.drained))]
            if len(ready) > 1 and all(other.kept_away for other in ready):
                self.is_cut_off = True
                self._events.note_own("cut off", f"this machine keeps gpen from all servers: {cause}")
                for other in ready:
                    self._acquit(other)
        return self.is_cut_off

    def _acquit(self, server: Server) -> None:
        verdict = server.verdicts.get("check")
        if verdict is not None and verdict.word == "down" and verdict.reason == server.kept_away:
            self.withdraw(server, "check", "unchecked", "is dropped: this machine keeps gpen from all servers")
        for target in server.targets.values():
            if target.down_until and target.reason == server.kept_away:
                self.restore(target, "this machine keeps gpen from all servers")

    def reached(self, server: Server, problem: str = "") -> None:
        """A server was reached, or a ``problem`` was found that is none of this machine's. If it has kept gpen from
        all, it does so no more."""
        server.kept_away = ""
        if self.is_cut_off and not server.is_special:
            self.is_cut_off = False
            self._events.note_own("connected", f"server {server.name}{f': {problem}' if problem else ' was reached'}")
            for other in self._servers():
                other.kept_away = ""

    def judge(self, server: Server, source: str, word: str, reason: str, age: float = 0.0) -> None:
        """A verdict on the server, one of VERDICTS, by ``source`` (command, check, agent). One that turns to up also
        ends a blacklist, unless a command made that and a check thinks better of it, or it is an agent's, who knows of
        no connect; one that is only renewed does not, for a client's connect may know better. It has been so for
        ``age`` seconds, where it turns."""
        old = server.verdicts.get(source)
        turned = old is None or old.word != word
        now = self._clock()
        since, began = self._events.wall() - age, now - age
        if old is not None and not turned:
            since, began = old.since, old.began
        server.verdicts[source] = Verdict(word, printable(reason), since, began, now)
        before = server.target.standing
        if turned and word == "up":
            self._end_blacklists(server, source)
        self._weigh(server, before, reason)
        if word == "down":
            self.on_unwell(server)

    def _end_blacklists(self, server: Server, source: str) -> None:
        """A verdict has turned to up: a command's means the server, however it is reached, a check's the way that it
        went, unless a command has blacklisted that; an agent's no way."""
        if source == "command":
            self.forget(server)
        elif source != AGENT and server.target.blamed != math.inf:
            self.forget_target(server.target)

    def withdraw(self, server: Server, source: str, event: str, cause: str) -> None:
        """The verdict of this source counts no more."""
        if source in server.verdicts:
            before = server.target.standing
            verdict = server.verdicts.pop(source)
            self._events.note(server, event, f"the verdict {verdict.word} ({verdict.reason}) {cause}")
            self._weigh(server, before, "no verdict says otherwise")

    def expire(self) -> None:
        """Drop the verdicts of commands that were not renewed for health_ttl seconds."""
        ttl, now = self._settings.health_ttl, self._clock()
        for server in self._servers() if ttl else ():
            verdict = server.verdicts.get("command")
            if verdict is not None and now - verdict.renewed >= ttl:
                self.withdraw(server, "command", "expired", f"was not renewed for {ttl:g} s")

    def _weigh(self, server: Server, before: str, cause: str) -> None:
        """Draw the conclusion from all verdicts; ``before`` them it stood so."""
        was, target = verdict_word(server), server.target
        server.weigh()
        word, reason = verdict_word(server), server.condemned or server.drained or cause
        if target.standing != before:
            self._events.note(server, target.standing, reason)
        elif target.down_until and word != was and (target.blamed == math.inf or "drain" in (word, was)):
            stays = target.reason if target.blamed == math.inf else f"blacklisted: {target.reason}"
            self._events.tell(server, "judged", f"{word}: {reason}; stays {stays}")
        if word not in (was, "up"):
            dismiss_spares(server)
            self.on_condemned(server)


def note_cause(causes: dict[str, int], cause: str) -> None:
    """Count a failure by its cause. Servers may say what they like: beyond so many causes, new ones are one."""
    cause = cause if cause in causes or len(causes) < MOST_CAUSES else OTHER_CAUSES
    causes[cause] = causes.get(cause, 0) + 1


def verdict_word(server: Server) -> str:
    """What the verdicts come to; up without any."""
    return "down" if server.condemned else "drain" if server.drained else "up"


def seconds_told(server: Server, now: float) -> float:
    """For how many seconds a verdict has said what the worst one says."""
    word = verdict_word(server)
    return now - min(verdict.began for verdict in server.verdicts.values() if verdict.word == word)
