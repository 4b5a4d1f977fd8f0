"""Alerts: the program of on_event, which is run for each change of a server's state, and when a listener can serve its
clients no more, or can again.

What has happened is put into words at once, and waits in a queue. One program runs at a time, and nothing ever waits
for it: where it is slower than the news, the oldest of these are lost, and the next run is told how many.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.event import Event as Signal

from gpen.control.configuration import Configuration
from gpen.daemon.listeners import Listeners
from gpen.daemon.readiness import Readiness
from gpen.model.events import Event
from gpen.model.listener import called
from gpen.model.server import Server, Target
from gpen.model.text import counted
from gpen.wire.faults import Faults, Seldom
from gpen.wire.pacing import gently
from gpen.wire.poller import Poller
from gpen.wire.subprocesses import Children, Flood, Program, how_it_ended, passed_environment, place_of

log = logging.getLogger("gpen")

LIMIT = 30.0  # seconds that a program may take
MOST_WAITING = 100
_READY, _UNREADY = "ready", "unready"
Environment = dict[str, str]


class _Late(Exception):
    """The time of a program is over."""


class Alerts:
    """Runs the program. ``done``, ``failed`` and ``lost`` are how many alerts it has taken, it has failed to take, and
    nobody was told of."""

    def __init__(self, configuration: Configuration, listeners: Listeners, readiness: Readiness, poller: Poller,
                 children: Children, locate: Callable[[str], str]) -> None:
        """``locate`` gives the name of a file as it is seen from within the chroot."""
        self.done = self.failed = self.lost = 0
        self._configuration = configuration
        self._settings = configuration.settings
        self._listeners = listeners
        self._readiness = readiness
        self._poller = poller
        self._children = children
        self._locate = locate
        self._words: dict[str, dict[object, str]] = {}  # of servers, as they are reached: how they were
        self._ready: dict[str, str] = {}  # of listeners, since somebody wants to know
        self._news: list[tuple[Event, Target]] = []
        self._queue: deque[Environment] = deque()
        self._untold = 0  # of those lost, since the last run
        self._has_news, self._is_waiting = Signal(), Signal()
        self._greenlets: list[Any] = []
        self._faults = Faults()
        self._seldom: dict[str, Seldom] = {}

    def start(self) -> None:
        """What happens from now on is told."""
        for server in self._configuration.pool.all_servers():
            self._words[server.name] = {_key(target): _word(target) for target in server.targets.values()}
        self._configuration.pool.events.on_change = self._note
        self._greenlets = [gevent.spawn(self._watch), gevent.spawn(self._deliver)]
        self.tend()

    def retire(self) -> None:
        """Another gpen tells what happens from now on; what waits here is told yet."""
        self._configuration.pool.events.on_change = lambda event, target: None
        if self._greenlets:
            self._greenlets[0].kill(block=False)
            self._take(self._news)

    def close(self) -> None:
        """Tell nothing any more, and end the program. Switches greenlets."""
        gevent.killall(self._greenlets)
        if self._queue:
            log.warning("on_event: gpen ends with %s that nobody was told of", counted(len(self._queue), "change"))

    def tend(self) -> None:
        """To be called each second, for what only time has changed, such as the end of a blacklist, may concern a
        listener; and when settings have changed. Does not switch."""
        self._has_news.set()

    def figures(self) -> dict[str, int]:
        """How many alerts became what."""
        return {"done": self.done, "failed": self.failed, "lost": self.lost}

    # --- what has happened ----------------------------------------------------------------------------------------

    def _note(self, event: Event, target: Target) -> None:
        self._news.append((event, target))
        self._has_news.set()

    def _watch(self) -> None:
        while True:
            self._has_news.wait()
            self._has_news.clear()
            news, self._news = self._news, []
            self._faults.attempt("to tell what has happened to servers", lambda: self._take(gently(news)))  # noqa: B023
            self._faults.attempt("to tell how listeners are", self._look_at_listeners)

    def _take(self, news: Iterable[tuple[Event, Target]]) -> None:
        for event, target in news:
            key, server = _key(target), target.server
            words = self._words.setdefault(server.name, {})
            old, new = words.get(key, ""), _word(target)
            words[key] = new
            if server.deleted:
                del self._words[server.name]
            if self._settings.on_event:
                self._queue_up({**_about("server", event.event, event.cause, event.time), **_where(target),
                                "GPEN_SERVER": server.name, "GPEN_OLD": old, "GPEN_NEW": new,
                                "GPEN_STATE": server.state, "GPEN_LISTENERS": " ".join(self._users(server))})

    def _users(self, server: Server) -> list[str]:
        """The listeners that use a server."""
        return [called(scope.name) for scope in self._configuration.scopes.values()
                if scope.settings.listen and scope.selector.members_of(server)]

    def _look_at_listeners(self) -> None:
        """Tell of those that can serve their clients no more, or can again. Switches greenlets, where there are many
        servers."""
        if not self._settings.on_event:
            self._ready = {}
            return
        before, self._ready = self._ready, {}
        for front in [front for front in self._listeners if front.listener is not None]:
            problem = self._readiness.problem(front)
            word = _UNREADY if problem else _READY
            self._ready[front.name] = word
            old = before.get(front.name, word)
            if word != old:
                self._queue_up({**_about("listener", word, problem or "a server can be used", time.time()), **_NOWHERE,
                                "GPEN_LISTENER": called(front.name), "GPEN_LISTENERS": called(front.name),
                                "GPEN_OLD": old, "GPEN_NEW": word})

    def _queue_up(self, environment: Environment) -> None:
        if len(self._queue) >= MOST_WAITING:
            self._queue.popleft()
            self.lost += 1
            self._untold += 1
            self._tell("lost", f"it is slower than the news: more than {MOST_WAITING} wait, and the oldest are lost")
        self._queue.append(environment)
        self._is_waiting.set()

    # --- telling it -----------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        while True:
            self._is_waiting.wait()
            if not self._queue:
                self._is_waiting.clear()
                continue
            environment, untold = self._queue.popleft(), self._untold
            self._untold = 0
            if self._settings.on_event:
                environment["GPEN_LOST"] = str(untold)
                self._faults.attempt("on_event", lambda: self._run(environment))  # noqa: B023 (it is called at once)

    def _run(self, environment: Environment) -> None:
        """Run the program with one alert. Switches greenlets."""
        path, *arguments = shlex.split(self._settings.on_event or "")
        problem = "the program can't be run"
        try:
            program = Program([self._locate(path), *arguments], passed_environment() | environment, self._poller,
                              self._children)
        except OSError as error:
            problem = f"{problem}: {error.strerror or error}"
        else:
            problem = self._outcome(program)
        if problem:
            self.failed += 1
            what = f"{environment['GPEN_ABOUT']} {environment['GPEN_SERVER'] or environment['GPEN_LISTENER']}"
            self._tell("failed", f"'{environment['GPEN_EVENT']}' of {what} was not told: {problem}")
        else:
            self.done += 1

    def _outcome(self, program: Program) -> str:
        """Why a program has failed; empty if it has not. Switches greenlets."""
        try:
            with gevent.Timeout(LIMIT, _Late()):
                status, line = program.outcome()
        except Flood:
            return "it wrote more than 1 MiB"
        except _Late:
            return f"it took more than {LIMIT:g} s, and was killed"
        finally:
            program.end()
        return how_it_ended(status, line) if status else ""

    def _tell(self, kind: str, words: str) -> None:
        """Say it now, or, where something of the kind was said a moment ago, not."""
        more = self._seldom.setdefault(kind, Seldom()).comes()
        if more is not None:
            log.warning("on_event: %s%s", words, more)


def _about(what: str, event: str, reason: str, moment: float) -> Environment:
    return {"GPEN_ABOUT": what, "GPEN_EVENT": event, "GPEN_REASON": reason, "GPEN_TIME": f"{moment:.3f}",
            "GPEN_SERVER": "", "GPEN_STATE": "", "GPEN_LISTENER": ""}


_NOWHERE = {"GPEN_ADDRESS": "", "GPEN_HOST": "", "GPEN_PORT": ""}


def _where(target: Target) -> Environment:
    if target.endpoints:
        return place_of(target.endpoints[0])
    address = target.address
    return {"GPEN_ADDRESS": str(address), "GPEN_HOST": address.host, "GPEN_PORT": str(address.port)}


def _key(target: Target) -> tuple[str, int | str | None]:
    return target.transport, target.port


def _word(target: Target) -> str:
    """How a server is in a word: as the operator says, where that is not ready, else as it was found."""
    server = target.server
    if server.deleted:
        return "deleted"
    if server.is_empty:
        return "empty"
    return server.state if server.state != "ready" else target.standing
