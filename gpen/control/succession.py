"""What becomes of a configuration when a gpen takes the place of another that runs.

The new one is started with a command line and a file, as the old one was; meanwhile the old one may have been told
other things. As after a reload, what the new one's command line and file say otherwise than the old one's counts; all
else is as it is in the old one, whatever was done to it at runtime. What counts at the start only, the new one's
command line and file say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpen.control.configuration import Configuration
from gpen.control.difference import Difference
from gpen.control.draft import Draft
from gpen.control.script import Call, ScriptError, Step, parse_line
from gpen.control.sources import Sources
from gpen.model.settings import SETTINGS


def told_at_start(sources: Sources) -> Iterator[str]:
    """The commands that make what a gpen was started with: by its command line and by its file, as that was read
    last."""
    configuration = _nothing()
    configuration.adopt(sources.given)
    configuration.adopt(sources.said)
    return configuration.dump()


class Estate:
    """What the old gpen has told: what it was started with (``start``), and what it has now (``running``), both as
    commands. Raises ScriptError where these make no sense here."""

    def __init__(self, start: Iterable[str], running: Iterable[str]) -> None:
        self.running = _nothing()
        self.running.adopt(_draft(running))
        self._start = _draft(start)

    def merged(self, sources: Sources) -> Draft:
        """What a gpen with these sources has in its place, as a draft over nothing. Raises ScriptError."""
        own = _draft(told_at_start(sources))
        difference = Difference(self._start, own, Draft(_nothing()), self.running)
        for _ in difference.find():
            pass  # a line for each change, which nobody reads
        merged = _nothing()
        merged.adopt(_draft(self.running.dump()))
        merged.adopt(difference.draft)
        for setting in SETTINGS.values():
            if setting.startup:
                merged.settings.replace(setting.name, own.settings.get(setting.name))
        draft = _draft(merged.dump())
        draft.check()
        return draft

    def observations(self, lines: Iterable[str], base: Configuration) -> Draft:
        """What the old gpen knows of servers and clients (the command ``state``), as a draft over ``base``: of the
        servers that are there with the same address. The operator's word is in the configuration already."""
        draft = Draft(base, cause="by the gpen before")
        for line in lines:
            call = parse_line(line)
            if call is not None and self._concerns(call, base):
                _try(draft, call)
        return draft

    def _concerns(self, call: Call, base: Configuration) -> bool:
        if call.command.name == "client":
            return self._is_same(call["server"], base)
        return "state" not in call["changes"] and self._is_same(call["number"], base)

    def _is_same(self, number: int, base: Configuration) -> bool:
        address = base.address_of(number)
        return address is not None and address == self.running.address_of(number)


def _nothing() -> Configuration:
    return Configuration(lambda: 0.0, lambda: 0.0)


def _draft(lines: Iterable[str]) -> Draft:
    """These commands over nothing. Raises ScriptErrors."""
    draft = Draft(_nothing())
    draft.run_all(_steps(lines))
    return draft


def _steps(lines: Iterable[str]) -> Iterator[Step]:
    for line in lines:
        call = parse_line(line)
        if call is not None:
            yield call


def _try(draft: Draft, call: Call) -> None:
    """Something of it may be gone by now: a listener, say."""
    try:
        draft.run(call)
    except ScriptError:
        return
