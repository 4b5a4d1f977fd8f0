"""The built-in checks: which server is checked when, and how many good or bad ones in a row make a verdict.

Each server has slots, check_interval apart (slots.py). A server that is down, or about to change, is checked FASTER, in
slots that much closer, spread in the same way. A check that takes longer than to the next slot leaves that out: there
is one at a time. Its agent, if it has one, is asked beside that (agents.py).

Servers in state drain or maint are checked as well: the operator who is about to take one back wants to know whether
it is well. Special servers (emergency, abuse) are not: they are tried whatever is known of them.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from gpen.daemon.agents import Agents
from gpen.daemon.chroot import Chroot
from gpen.daemon.slots import FASTER, next_slot
from gpen.model.address import Address, Endpoint
from gpen.model.check import Check
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.wire.check import CheckFailed, KeptAway, Prober
from gpen.wire.faults import Faults, Troubles
from gpen.wire.pacing import gently

log = logging.getLogger("gpen")

_SOURCE = "check"
_PAUSE = 0.1  # seconds, behind a check that failed by gpen's own fault


class Checks:
    """The checkers of all servers that are checked, and those who ask their ``agents``."""

    def __init__(self, pool: Pool, settings: Settings, prober: Callable[[Server], Prober], agents: Agents,
                 troubles: Troubles, turned: Callable[[], object]) -> None:
        """``prober`` makes what checks a server; ``turned`` is called when one may be used again, or no more."""
        self.agents = agents
        self.pool = pool
        self.settings = settings
        self.prober = prober
        self.troubles = troubles
        self.turned = turned
        self._checkers: dict[Server, Checker] = {}
        self._faults = Faults()

    def tend_all(self) -> None:
        """As ``tend``, for all servers: the janitor calls it each second, for a client may have found a server down."""
        self.tend(dict.fromkeys([*self._checkers, *self.agents.known(), *self.pool.servers.values()]))

    def tend(self, servers: Iterable[Server]) -> None:
        """Begin and end what the configuration asks for, and look whether these servers are checked as they shall be.
        Switches greenlets."""
        for server in gently(servers):
            try:
                self._tend(server)
                self.agents.tend(server)
            except Exception:
                self._faults.tell(f"to see to the check of server {server.name}")

    def _tend(self, server: Server) -> None:
        checker = self._checkers.get(server)
        if self._is_checked(server):
            if checker is None:
                checker = self._checkers[server] = Checker(server, self, self._faults)
            checker.tend()
        elif checker is not None:
            self._checkers.pop(server).stop()
            if not server.deleted:
                self.pool.health.withdraw(server, _SOURCE, "unchecked", "is dropped: its check is off")
                self.turned()

    def _is_checked(self, server: Server) -> bool:
        check = server.check or self.settings.check
        return check.kind != "off" and not (server.deleted or server.is_empty)

    def figures(self, server: Server) -> dict[str, float] | None:
        """How often the server's checks have passed and failed, and how many seconds the last one took; None for one
        that is not checked."""
        checker = self._checkers.get(server)
        return None if checker is None else {
            "passed": checker.passed, "failed": checker.failed, "seconds": round(checker.took, 6)}

    def close(self) -> None:
        """End all checks and the programs that they run. Switches greenlets."""
        gevent.killall([checker.greenlet for checker in self._checkers.values()])
        self._checkers.clear()
        self.agents.close()


class _Outdated(Exception):
    """Thrown into a check that is under way: the server is checked otherwise by now, or elsewhere."""


class _Plan(NamedTuple):
    """What is checked, how, and how often."""

    check: Check
    address: Address
    endpoints: frozenset[Endpoint]
    port: int | None  # if it is not the server's own
    period: float  # seconds


class Checker:
    """Checks one server for ever, in a greenlet of its own. ``passed`` and ``failed`` are how many checks did, and
    ``took`` is how many seconds the last one took."""

    def __init__(self, server: Server, checks: Checks, faults: Faults) -> None:
        self.passed = self.failed = 0
        self.took = 0.0
        self._server = server
        self._faults = faults
        self._pool = checks.pool
        self._settings = checks.settings
        self._troubles = checks.troubles
        self._turned = checks.turned
        self._prober = checks.prober(server)
        self._good = self._bad = 0  # in a row
        self._checked = 0.0  # the slot of the last one, in seconds
        self._plan = self._planned()
        self._wake = Event()
        self._trouble = ""
        self._is_probing = False
        self.greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End it, soon. Does not switch."""
        self.greenlet.kill(block=False)

    def tend(self) -> None:
        """What is checked, or how often, may have changed."""
        if self._is_another() and self._is_probing:
            get_hub().loop.run_callback(self._interrupt)
        if self._plan != self._planned():
            self._wake.set()

    def _interrupt(self) -> None:
        if self._is_probing and self._is_another():
            self.greenlet.throw(_Outdated())

    def _planned(self) -> _Plan:
        server, interval = self._server, self._settings.check_interval
        verdict = server.verdicts.get(_SOURCE)
        is_well = verdict is not None and verdict.word == "up" and not (self._bad or server.target.is_down)
        period = interval if is_well and self._checked > 0 else interval / FASTER
        check = server.check or self._settings.check
        if check.agent:
            check = replace(check, agent=0)  # it is asked by others
        return _Plan(check, server.address, frozenset(server.target.endpoints), self._port(), period)

    def _port(self) -> int | None:
        """Where it is checked, if that is not its own port."""
        server = self._server
        port = server.check_port or self._settings.check_port
        is_own = all(endpoint.port == port for endpoint in server.target.endpoints)
        return None if server.address.path or is_own else port

    def _run(self) -> None:
        while True:
            try:
                self._check_once()
            except Exception:
                self._faults.tell(f"the check of server {self._server.name}")
                gevent.sleep(_PAUSE)  # it may not even have waited for its slot

    def _check_once(self) -> None:
        """Wait for the next slot and check, unless there is something else to check by then. Switches greenlets."""
        self._renew_plan()
        now = time.monotonic()
        slot = next_slot(max(now, self._checked + self._plan.period / 2), self._server.number or 0, self._plan.period)
        if self._wake.wait(slot - now):
            self._wake.clear()
            return
        self._checked = slot
        self._check()

    def _renew_plan(self) -> None:
        """What was counted of another check, or at another address, counts no more."""
        if self._is_another():
            self._good = self._bad = 0
            self._checked = 0.0
        self._plan = self._planned()

    def _is_another(self) -> bool:
        """Whether the check or the server's address has changed, or what that means."""
        return self._plan[:-1] != self._planned()[:-1]

    def _check(self) -> None:
        server, plan = self._server, self._plan
        if plan.check.kind == "off" or not server.target.endpoints:
            return  # it is about to be ended; or it takes nobody, and Names looks after it
        try:
            up, reason = self._probe(plan)
        except _Outdated:
            return
        except KeptAway as failure:
            if self._pool.health.keeps_away(server, str(failure)):
                self._good = self._bad = 0
                self._troubles.tell(f"servers can't be checked, by no fault of theirs: {failure}")
                return
            up, reason = False, str(failure)
        except CheckFailed as failure:
            up, reason = False, f"{failure}{_at(plan)}"
        except OSError as error:
            self._tell(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
            return
        if self._trouble:
            self._trouble = ""
            log.info("server %s %s: checked again", server.name, server.target.shown)
        if not server.deleted and not self._is_another():
            self._conclude(up, reason)

    def _probe(self, plan: _Plan) -> tuple[bool, str]:
        self._is_probing = True
        began = time.monotonic()
        try:
            found = self._prober.probe(plan.check, self._settings.check_timeout, plan.port)
            return True, f"{found}{_at(plan)}"
        finally:
            self._is_probing = False
            self.took = time.monotonic() - began

    def _tell(self, trouble: str) -> None:
        """The check could not be made; said once, until it can be or the trouble is another."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("server %s %s: not checked: %s", self._server.name, self._server.target.shown, trouble)

    def _conclude(self, up: bool, reason: str) -> None:
        """Count, and pass or renew the verdict. A server of which nothing is known is up with its first good check."""
        server, settings = self._server, self._settings
        self.passed += up
        self.failed += not up
        if reason != server.kept_away and self._plan.check.kind != "exec":  # a program goes its own ways
            self._pool.health.reached(server, "" if up else reason)
        if not up:
            self._pool.health.on_unwell(server)
        verdict = server.verdicts.get(_SOURCE)
        self._good, self._bad = (self._good + 1, 0) if up else (0, self._bad + 1)
        word = "up" if up else "down"
        turns = up if verdict is None else verdict.word != word
        if verdict is None:
            needed = 1 if up else settings.check_fall
        elif turns:
            needed = settings.check_rise if up else settings.check_fall
        else:
            needed = 1
        if (self._good if up else self._bad) < needed:
            log.debug("server %s %s: check: %s", server.name, server.target.shown, reason)
            return
        self._pool.health.judge(server, _SOURCE, word, reason)
        if turns:
            level = logging.INFO if up else logging.WARNING
            if up and verdict is None:
                level = logging.DEBUG  # at the start, to be well is no news
            log.log(level, "server %s %s: %s by its check: %s", server.name, server.target.shown, word, reason)
            self._turned()


def _at(plan: _Plan) -> str:
    """What is to be said behind what was found at another port than the server's; a program says what it likes."""
    return "" if plan.port is None or plan.check.kind == "exec" else f" (port {plan.port})"


def unusable(program: str, chroot: Chroot) -> str | None:
    """Why a program, with its arguments, can't be run; None when it can, or there is none."""
    if not program:
        return None
    path = chroot.path(shlex.split(program)[0])
    if not program.isprintable():
        return f"{program!r} has characters that can't be printed"
    if not os.path.isfile(path):
        return f"'{path}': there is no such program"
    if not os.access(path, os.X_OK):
        return f"'{path}' can't be run by the user of gpen: chmod +x"
    return None
