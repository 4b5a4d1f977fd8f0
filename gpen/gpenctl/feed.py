"""What a daemon tells of itself, asked again and again, for the pictures that are drawn anew each second."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gpen.gpenctl.link import LinkError, ask, meet
from gpen.gpenctl.show import View, failed, fetch
from gpen.gpenctl.tables import Record, records


@dataclass(frozen=True)
class Look:
    """What was told at one time: by command, its records. `problem` says why nothing new was, in one line."""

    when: float  # seconds, of the monotonic clock
    told: dict[str, list[Record]] = field(default_factory=dict)
    problem: str = ""

    def of(self, name: str) -> list[Record]:
        """The records of a command; none where it was not asked for, or is not known."""
        return self.told.get(name, [])


class Feed:
    """A daemon, which may be a pen or an older gpen that knows less, and another one after it was away."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._pid = ""
        self._unknown: set[str] = set()  # to the daemon with that pid

    def look(self, *wanted: str) -> Look:
        """Ask for the servers, and for what else is wanted: lines of commands."""
        try:
            greeting = meet(self._view.target, self._view.timeout)
            if not greeting.isdigit():
                return Look(time.monotonic(), problem=greeting)
            if greeting != self._pid:
                self._pid, self._unknown = greeting, set()
            reply, value = fetch("servers", self._view)
            if value is None:
                return Look(time.monotonic(),
                            problem=reply.strip() if failed(reply) else "the daemon sent no list of servers")
            told = {"servers": records("servers", value)}
            return Look(time.monotonic(), told | {line.split()[0]: self._ask(line) for line in wanted})
        except LinkError as error:
            self._pid = ""  # who answers next may be another
            return Look(time.monotonic(), problem=str(error))

    def _ask(self, line: str) -> list[Record]:
        """What is told to `line`; nothing by a daemon that knows no such thing. Raises LinkError."""
        name = line.split()[0]
        _, value = fetch(line, self._view) if name not in self._unknown else ("", None)
        if value is None:
            self._unknown.add(name)
        return records(name, value)


@dataclass(frozen=True)
class Answer:
    """What the daemon said to a line that acts; `is_error`: that it did not do it."""

    text: str
    is_error: bool


class Asker(threading.Thread):
    """Asks in a thread of its own, one thing after the other, so that keys count while the daemon is silent. The
    interpreter does not wait for it at exit."""

    def __init__(self, view: View) -> None:
        super().__init__(daemon=True)
        self._view = view
        self._feed = Feed(view)
        self._tasks: queue.SimpleQueue[Callable[[], Look | Answer]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Look | Answer | Exception] = queue.SimpleQueue()
        self.bell, self._rope = socket.socketpair()  # `bell` can be read when there are results

    def look(self, *wanted: str) -> None:
        """Have a look taken: see Feed.look."""
        self._tasks.put(lambda: self._feed.look(*wanted))

    def tell(self, line: str, done: str) -> None:
        """Have a line sent that acts; its answer is `done` where the daemon has no objection."""
        self._tasks.put(lambda: self._act(line, done))

    def _act(self, line: str, done: str) -> Answer:
        try:
            greeting = meet(self._view.target, self._view.timeout)
            reply = ask(self._view.target, line, self._view.timeout) if greeting.isdigit() else greeting
        except LinkError as error:
            return Answer(str(error), True)
        refusal = failed(reply) or not greeting.isdigit()
        return Answer(reply.strip() if refusal else done, refusal)

    def results(self) -> list[Look | Answer]:
        """What has come since the last call. Raises what a task has raised."""
        found: list[Look | Answer] = []
        while not self._results.empty():
            result = self._results.get()
            if isinstance(result, Exception):
                raise result
            found.append(result)
        return found

    def run(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                self._results.put(task())
            except Exception as error:
                self._results.put(error)
            self._rope.send(b"!")
