"""What agents say of their servers: HAProxy's words for it (agent-check), so that its agents do for gpen.

An answer is a line of words. What one leaves out stays as it was said before: an agent may tell of the load alone. Of
each of three things the last word counts: of health (up; down, stopped and fail are one), of what somebody wants
(ready, drain, maint) and of how much of its weight the server shall have (75%). Behind a # stands why, for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gpen.model.text import printable, shortened

UNWELL = ("down", "stopped", "fail", "failed")
_HEALTH, _WISHES = ("up", *UNWELL), ("ready", "drain", "maint")
_SHARE = re.compile("[0-9]{1,9}%")
_BETWEEN = re.compile("[ \t,]+")
_MOST_SHARE = 25600  # percent, as HAProxy has it
_NOTABLE = 25  # percent, by which a share differs from what was told of it before, or it is no news
_WHY_SHOWN = 100
_NOT_OURS = "maxconn:"  # HAProxy's limit of sessions, which is the operator's here (max)


@dataclass(frozen=True)
class Answer:
    """All that an agent has said, and counts; an empty word where it has said nothing of a thing. ``share`` is in
    percent of the server's weight, ``told`` that which events have told last."""

    health: str = ""
    wish: str = ""
    share: int | None = None
    why: str = ""
    told: int = field(default=100, compare=False)

    def __str__(self) -> str:
        """As an agent would say it."""
        share = "" if self.share is None else f"{self.share}%"
        why = f"#{self.why}" if self.why else ""
        return " ".join(filter(None, (self.health, self.wish, share, why)))

    @property
    def verdict(self) -> str:
        """What it comes to, one of VERDICTS (model/server.py): a share of nothing is a drain."""
        if self.health in UNWELL or self.wish == "maint":
            return "down"
        return "drain" if self.wish == "drain" or self.share == 0 else "up"

    def followed_by(self, line: str) -> Answer:
        """What counts once the agent has said this line as well. Raises ValueError if it says nothing."""
        answer, known = self, [word for word in _words(line) if _is_known(word)]
        if not known:
            raise ValueError(f"'{shortened(line, _WHY_SHOWN)}' is no answer of an agent: expected up, down, drain, "
                             "maint, ready or a share as 75%")
        for word in known:
            if word in _HEALTH:
                answer = replace(answer, health=word, why="")
            elif word in _WISHES:
                answer = replace(answer, wish=word, why="")
            elif word.endswith("%"):
                answer = replace(answer, share=min(int(word[:-1]), _MOST_SHARE))
        why = printable(line.partition("#")[2].strip()[:_WHY_SHOWN])
        return replace(answer, why=why) if why and any(not word.startswith(_NOT_OURS) for word in known) else answer

    @property
    def is_notable(self) -> bool:
        """Whether its share is news. Agents measure, and say another one each time."""
        return abs(self._of_all - self.told) >= _NOTABLE

    @property
    def as_told(self) -> Answer:
        """The same, of which its share is no news any more."""
        return replace(self, told=self._of_all)

    @property
    def _of_all(self) -> int:
        return 100 if self.share is None else self.share

    def of(self, weight: float) -> float:
        """What is left of a server's weight; a whole number where it can be one."""
        if self.share in (None, 100):
            return weight
        left = weight * self.share / 100
        return int(left) if left.is_integer() else left


SILENT = Answer()


def unknown_words(line: str) -> list[str]:
    """The words of an answer that mean nothing."""
    return [word for word in _words(line) if not _is_known(word)]


def _is_known(word: str) -> bool:
    return word in _HEALTH or word in _WISHES or _SHARE.fullmatch(word) is not None or word.startswith(_NOT_OURS)


def _words(line: str) -> Iterator[str]:
    return filter(None, _BETWEEN.split(line.partition("#")[0].lower()))
