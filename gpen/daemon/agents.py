"""The agents: what runs beside servers and says how these are, asked again and again (model/agent.py).

An agent is asked each check_interval, in slots of its server's as checks are (slots.py), but not at the same moments.
One that can't be asked changes nothing: what it said last stays, and whether its server can be reached is a check's
business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from gpen.daemon.slots import FASTER, next_slot
from gpen.model.agent import SILENT, unknown_words
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.model.text import printable
from gpen.wire.agent import AgentFailed, ask
from gpen.wire.faults import Faults, Seldom
from gpen.wire.poller import Poller

log = logging.getLogger("gpen")

_PAUSE = 0.1  # seconds, behind a question that failed by gpen's own fault
_BESIDE = 0.5  # of an interval, by which agents' slots are off those of checks


class Agents:
    """Those who ask the agents of all servers that have one."""

    def __init__(self, pool: Pool, settings: Settings, poller: Poller, turned: Callable[[], object]) -> None:
        """``turned`` is called when a server may be used again, or no more, or otherwise."""
        self.pool = pool
        self.settings = settings
        self.poller = poller
        self.turned = turned
        self._askers: dict[Server, Asker] = {}
        self._faults = Faults()

    def known(self) -> list[Server]:
        """The servers whose agents are asked, though they may be deleted by now."""
        return list(self._askers)

    def tend(self, server: Server) -> None:
        """Begin and end what the configuration asks for at this server. Does not switch."""
        check = server.check or self.settings.check
        port = 0 if server.deleted or server.is_empty or server.address.path else check.agent
        asker = self._askers.get(server)
        if asker is not None and asker.port != port:
            self._askers.pop(server).stop()
            if not server.deleted:
                self.pool.forget_agent(server, "unchecked", "is dropped: that agent is asked no more")
                self.turned()
            asker = None
        if port and asker is None:
            asker = self._askers[server] = Asker(server, port, self, self._faults)
        if asker is not None:
            asker.tend()

    def figures(self, server: Server) -> dict[str, Any] | None:
        """What the server's agent has said, where it is asked, how often it has answered, and not, how many seconds the
        last question took, and what is wrong with it now; None for a server without one."""
        asker = self._askers.get(server)
        return None if asker is None else {
            "says": str(server.agent), "port": asker.port, "answered": asker.answered, "failed": asker.failed,
            "seconds": round(asker.took, 6), "problem": asker.problem}

    def close(self) -> None:
        """Ask nobody any more. Switches greenlets."""
        gevent.killall([asker.greenlet for asker in self._askers.values()])
        self._askers.clear()


class Asker:
    """Asks the agent of one server at one port for ever, in a greenlet of its own. ``answered`` and ``failed`` are how
    many questions were, ``took`` is how many seconds the last one took, ``problem`` why it failed."""

    def __init__(self, server: Server, port: int, agents: Agents, faults: Faults) -> None:
        self.port = port
        self.answered = self.failed = 0
        self.took = 0.0
        self.problem = ""
        self._server = server
        self._pool = agents.pool
        self._settings = agents.settings
        self._poller = agents.poller
        self._turned = agents.turned
        self._faults = faults
        self._asked = 0.0  # when, in seconds
        self._address = server.address
        self._interval = self._settings.check_interval
        self._unknown: list[str] = []  # words that were told
        self._told = ""  # the problem that was
        self._seldom = {"problem": Seldom(), "unknown": Seldom()}
        self._wake = Event()
        self.greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End it, soon. Does not switch."""
        self.greenlet.kill(block=False)

    def tend(self) -> None:
        """How often it is asked, or where its server is, may have changed."""
        if (self._interval, self._address) != (self._settings.check_interval, self._server.address):
            self._wake.set()

    def _run(self) -> None:
        while True:
            try:
                self._ask_once()
            except Exception:
                self._faults.tell(f"to ask the agent of server {self._server.name}")
                gevent.sleep(_PAUSE)

    def _ask_once(self) -> None:
        """Wait for the next slot and ask, unless something is different by then. Switches greenlets."""
        self._interval = self._settings.check_interval
        if self._address != self._server.address:
            self._address, self._asked = self._server.address, 0.0
        now = time.monotonic()
        period = self._interval if self._asked else self._interval / FASTER
        slot = next_slot(max(now, self._asked + period / 2), self._server.number or 0, period, _BESIDE)
        if self._wake.wait(slot - now):
            self._wake.clear()
        elif self._server.target.endpoints:  # else Names looks after it
            self._asked = slot
            self._ask()

    def _ask(self) -> None:
        server, address, endpoints = self._server, self._server.address, self._server.target.endpoints
        began = time.monotonic()
        try:
            line = ask(endpoints, self.port, self._settings, self._poller, self._settings.check_timeout)
            self.took = time.monotonic() - began
            if server.deleted or server.address != address or not {*endpoints} & {*server.target.endpoints}:
                return  # it is elsewhere by now
            self._heed(line)
        except (AgentFailed, ValueError) as failure:
            self.took = time.monotonic() - began
            self.failed += 1
            self._tell(str(failure))
        else:
            self.answered += 1
            self._tell("")

    def _heed(self, line: str) -> None:
        """Raises ValueError when it is no answer."""
        server = self._server
        before = server.agent
        if self._pool.heed(server, line):
            now = server.agent
            level = logging.WARNING if now.verdict == "down" != before.verdict else logging.INFO
            is_well = before == SILENT and now.verdict == "up" and now.of(100) == 100  # at the start, that is no news
            if is_well or (before.health, before.wish, before.verdict, before.told) == (
                    now.health, now.wish, now.verdict, now.told):
                level = logging.DEBUG
            log.log(level, "server %s %s: %s by its agent, which says '%s'", server.name, server.target.shown,
                    now.verdict, now)
            self._turned()
        self._tell_unknown(unknown_words(line))

    def _tell_unknown(self, words: list[str]) -> None:
        """The words that mean nothing; they may be others each time."""
        if words and words != self._unknown and (more := self._seldom["unknown"].comes()) is not None:
            self._unknown = words
            log.warning("server %s %s: its agent at port %d also says '%s', which means nothing here%s",
                        self._server.name, self._server.target.shown, self.port, printable(" ".join(words)), more)

    def _tell(self, problem: str) -> None:
        """What is wrong with the agent, or nothing; said once, until it is something else, and seldom, for that may be
        so each time."""
        self.problem = problem
        where = f"server {self._server.name} {self._server.target.shown}: its agent at port {self.port}"
        if problem and problem != self._told and (more := self._seldom["problem"].comes()) is not None:
            self._told = problem
            log.warning("%s can't be asked: %s; what it said before stays%s", where, problem, more)
        elif self._told and not problem:
            self._told = ""
            log.info("%s answers again", where)
