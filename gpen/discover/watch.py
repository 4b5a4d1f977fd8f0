"""What goes on in gpen-discover: a thread asks the source, and one for each gpen tells what that has said.

An answer counts as a whole or not at all: what can't be had, is not understood or is empty changes nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from gpen.discover.gpen_client import GpenClient
from gpen.discover.plan import Terms, Wanted, wanted_of
from gpen.discover.source import Found, Source, SourceError
from gpen.gpenctl.link import Target
from gpen.log import Faults, say, warn
from gpen.model.address import Address
from gpen.model.text import counted, shortened

AGAIN = 1.0  # seconds until a source that failed is asked again
SIGNALLED = 0.5  # seconds that are waited at once: a signal that comes as a wait begins is taken behind it
SHORTEST = 0.1  # seconds that a watch lasts, if it is begun again at once
SHOWN = 300  # characters of an error
NAMED = 8  # servers by their addresses in a line of the log

Answer = dict[str, Any]


class Discoverer:
    """Keeps the servers of gpens as a source says."""

    def __init__(self, source: Source, targets: Sequence[Target], terms: Terms, allows_none: bool) -> None:
        """``allows_none``: that there are no servers at all is to be believed."""
        self.gpens = [GpenClient(target, terms) for target in targets]
        self._source = source
        self._terms = terms
        self._allows_none = allows_none
        self._wanted: Wanted | None = None
        self._answered: tuple[float, float] | None = None  # by the wall clock, and by the monotonic one
        self._error = ""
        self._faults = Faults()
        self._stopping = threading.Event()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        """Until ``stop``."""
        for gpen in self.gpens:
            gpen.start()
        thread = threading.Thread(target=self._watch, name=self._source.name, daemon=True)
        thread.start()
        while not self._has_ended():
            pass
        self._stopping.set()
        self._source.stop()
        for gpen in self.gpens:
            gpen.stop()

    def stop(self) -> None:
        """From any thread, and from a signal, which may come while the main thread holds the lock of an Event."""
        self._ended.put(None)

    def _has_ended(self) -> bool:
        """Wait until it was told to stop, or for a moment."""
        try:
            self._ended.get(timeout=SIGNALLED)
        except queue.Empty:
            return False
        return True

    # --- the source ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Ask the source for as long as we run, whatever goes wrong."""
        while not self._stopping.is_set():
            began = time.monotonic()
            if not self._faults.attempt(self._source.name, self._ask):
                self._error = self._faults.standing[self._source.name]
            elif time.monotonic() - began >= SHORTEST and not self._error:
                continue
            self._stopping.wait(AGAIN)

    def _ask(self) -> None:
        try:
            self._source.watch(self.tell, self._stopping)
        except SourceError as error:
            if not self._stopping.is_set():
                self._fail(str(error))

    def tell(self, found: Sequence[Found]) -> None:
        """The source says that these are all the servers."""
        try:
            wanted = wanted_of(found)
        except ValueError as error:
            self._fail(f"{error}: nothing is changed")
            return
        if not wanted and not self._allows_none:
            self._fail("there are no servers, it says: nothing is changed (--allow-empty has that believed)")
            return
        self._answered = time.time(), time.monotonic()
        if self._error:
            self._error = ""
            say(f"{self._source.name}: answers")
        if wanted != self._wanted:
            say(f"{self._source.name}: {_news(self._wanted, wanted)}")
            self._wanted = wanted
        for gpen in self.gpens:
            gpen.want(wanted)

    def _fail(self, why: str) -> None:
        why = shortened(why, SHOWN)
        if why != self._error:
            warn(f"{self._source.name}: {why}")
        self._error = why

    # --- what it tells ------------------------------------------------------------------------------------------------

    def status(self) -> Answer:
        """All that is known, for JSON. Times are seconds of the wall clock."""
        answered, wanted = self._answered, self._wanted
        gpens = [_gpen_row(gpen) for gpen in self.gpens]
        return {
            "well": answered is not None and not self._error and all(
                row["problem"] == "" and not row["refusal"] for row in gpens),
            "source": self._source.name, "owner": self._terms.owner,
            "answered": round(answered[0], 3) if answered else None,
            "age": round(time.monotonic() - answered[1], 3) if answered else None,
            "error": self._error,
            "servers": [{"address": str(place), "weight": server.weight, "prio": server.prio, "max": server.max}
                        for place, server in (wanted or {}).items()],
            "gpens": gpens,
        }


def _gpen_row(gpen: GpenClient) -> Answer:
    seen = gpen.seen
    return {
        "gpen": gpen.name, "problem": "not asked yet" if seen.problem is None else seen.problem,
        "refusal": seen.refusal,
        "servers": [{"number": row["number"], "address": str(Address(row["host"] or "", row["port"] or 0)),
                     "state": row["state"], "health": row["health"], "sessions": row["sessions"],
                     "leaves": row["number"] in seen.closing, "kept": row["number"] in seen.kept} for row in seen.own],
        "theirs": dict(seen.theirs),
    }


def _news(old: Wanted | None, new: Wanted) -> str:
    """What there is now, and what came and went."""
    came = [f"+ {place}" for place in new if place not in (old or {})]
    gone = [f"- {place}" for place in old or {} if place not in new]
    news = [*came, *gone]
    if not news:
        return counted(0, "server") if old is None else f"{counted(len(new), 'server')}: other weights, prios or limits"
    more = f" and {len(news) - NAMED} more" if len(news) > NAMED else ""
    return f"{counted(len(new), 'server')}: {', '.join(news[:NAMED])}{more}"
