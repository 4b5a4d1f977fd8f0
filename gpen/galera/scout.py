"""Addresses that the cluster tells of, before they are servers: each is tried by a thread of its own until a node of
the cluster was met there. One that nobody can reach, or at which another cluster is, is not added."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from gpen.galera.access import Access
from gpen.galera.members import place_of
from gpen.galera.node import ask, explain
from gpen.galera.report import Report, read
from gpen.log import warn

RETRY = 10.0  # seconds from the end of one trial to the next
AT_A_TIME = 8  # trials: a list that lies may have hundreds of addresses

Post = Callable[[Callable[[], None]], None]


@dataclass(eq=False)
class _Trial:
    report: Report | None = None  # of what was met
    why: str = ""  # nothing was met
    again: float | None = 0.0  # when it is tried next; None: it is being tried


class Scout:
    """Tries addresses. All but the trials themselves is done by the thread that calls, and by what it is posted."""

    def __init__(self, access: Access, timeout: float, post: Post) -> None:
        """``timeout``: seconds for the way there and for each answer; ``post``: has the watcher's thread call."""
        self._access = access
        self._timeout = timeout
        self._post = post
        self._trials: dict[str, _Trial] = {}

    def reached(self, members: Iterable[str], uuid: str, names: Collection[str], now: float) -> list[str]:
        """Those of the members at which a node of the cluster ``uuid`` was met that is none of those that are known
        by ``names`` already. The others are tried."""
        wanted = {str(place) for member in members if (place := place_of(member))}
        self._trials = {address: trial for address, trial in self._trials.items()
                        if address in wanted or trial.again is None}
        for address in wanted:
            self._trials.setdefault(address, _Trial())
        due = sorted((again, address) for address in wanted
                     if (again := self._trials[address].again) is not None and again <= now)
        room = AT_A_TIME - sum(trial.again is None for trial in self._trials.values())
        for _, address in due[:max(0, room)]:
            self._begin(address, self._trials[address])
        return [address for address in sorted(wanted) if (report := self._trials[address].report)
                and report.view.uuid == uuid and report.name not in names]

    def _begin(self, address: str, trial: _Trial) -> None:
        trial.again = None
        try:
            threading.Thread(target=self._visit, args=(address, trial), name=f"trial of {address}", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            trial.again = time.monotonic() + RETRY

    def _visit(self, address: str, trial: _Trial) -> None:
        report, why = None, ""
        try:
            with closing(self._access.connect(address, self._timeout, self._timeout)) as connection:
                report = read(ask(connection))
        except Exception as error:  # whoever listens there, and whatever PyMySQL makes of it
            why = explain(error, self._access.user, self._timeout).text
        self._post(partial(self._take, address, trial, report, why))

    def _take(self, address: str, trial: _Trial, report: Report | None, why: str) -> None:
        if why and trial.why != why:
            warn(f"node {address}: the cluster tells of it, and it is not added: {why} (if it is reached elsewhere: "
                 f"--map {address}=HOST:PORT)")
        trial.report, trial.why, trial.again = report, why, time.monotonic() + RETRY
