"""What a source says of each of its servers, where each says so for itself.

Such entries are written by many, each by its server, say. One that is not understood costs itself alone: somebody's
slip must not keep a server that is gone among those that get clients, or a new one away. What it said before holds;
one that nobody has ever understood is no server. Where none at all is understood, these are no servers, and nothing
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpen.discover.plan import MOST_SERVERS, place_of
from gpen.discover.source import Found, SourceError
from gpen.log import warn
from gpen.model.text import counted, shortened

LONGEST = 253  # characters of a host, as in DNS; and of other names


class Entries:
    """The entries of a source, by what each is called, as they were understood last."""

    def __init__(self, source: str, read: Callable[[Any], Found]) -> None:
        """``source`` is what the source is called in the log; ``read`` raises SourceError for what it doesn't
        understand."""
        self._source = source
        self._read = read
        self._known: dict[str, Found] = {}
        self._misread: dict[str, str] = {}  # why, of each that is not understood as it is now

    def renew(self, said: Mapping[str, Any]) -> None:
        """These are all that there are. Raises SourceError when they are too many."""
        self._check_room(len(said))
        before = self._misread
        self._known = {key: found for key, found in self._known.items() if key in said}
        self._misread = {}
        for key, value in said.items():
            self._take(key, value)
        self._warn(before)

    def change(self, said: Mapping[str, Any], gone: set[str]) -> None:
        """These have changed or are new, and those are gone. Raises SourceError when they are too many now."""
        self._check_room(len({*self._known, *self._misread, *said} - gone))
        before = dict(self._misread)
        for key in gone:
            self._known.pop(key, None)
            self._misread.pop(key, None)
        for key, value in said.items():
            self._take(key, value)
        self._warn(before)

    def servers(self) -> list[Found]:
        """What they say. Raises SourceError when there are entries, and none is understood."""
        if self._misread and not self._known:
            key, why = next(iter(self._misread.items()))
            raise SourceError(f"no entry is understood; '{shortened(key)}': {why}")
        return list(dict.fromkeys(self._known.values()))

    def _take(self, key: str, value: Any) -> None:
        self._misread.pop(key, None)
        try:
            found = self._read(value)
            place_of(found)
            if len(found.host) > LONGEST:
                raise SourceError(f"'{shortened(found.host)}' is too long for a host")
            self._known[key] = found
        except (SourceError, ValueError) as error:
            self._misread[key] = shortened(str(error), 200)

    def _check_room(self, number: int) -> None:
        if number > MOST_SERVERS:
            raise SourceError(f"{number:,} entries are more than {MOST_SERVERS:,}: are they servers?")

    def _warn(self, before: Mapping[str, str]) -> None:
        """Tell of what is not understood since now: one line, however many they are."""
        news = [key for key, why in self._misread.items() if before.get(key) != why]
        if news and self._known:
            held = "what it said before holds" if news[0] in self._known else "it is left out"
            others = f"; the same goes for {counted(len(news) - 1, 'other')}" if len(news) > 1 else ""
            warn(f"{self._source}: '{shortened(news[0])}' is not understood: {self._misread[news[0]]}; {held}{others}")
