"""gpenctl's `top`: servers, sessions and events on the whole terminal, with keys to sort, and to drain. Needs rich."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpen.gpenctl.board import KEPT, STRETCH, Board, Shown, at, called, number_of
from gpen.gpenctl.feed import Answer, Asker
from gpen.gpenctl.keys import Keys
from gpen.gpenctl.screen import Stage, redraw
from gpen.gpenctl.sheet import Sheet
from gpen.gpenctl.show import View, refused
from gpen.gpenctl.signs import Signs, lacks_blocks
from gpen.gpenctl.tables import plain
from gpen.gpenctl.watch import interval
from gpen.model.text import quote
from gpen.start import remedy
from gpen.usage import UsageError

if TYPE_CHECKING:
    from gpen.gpenctl.dashboard import Dashboard

INTERVALS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds, for + and -
CLOCK = 1.0  # seconds until the time of day is drawn anew
ESCAPE = 0.05  # seconds in which the rest of a key's bytes comes
MESSAGE = 8.0  # seconds that an answer is shown
NARROWEST, LOWEST = 30, 10  # columns and lines that a picture has at least


def top(view: View, words: list[str]) -> int:
    """Show what goes on until q or Ctrl-C, and do what keys ask for. `words`: at most the seconds between two looks.

    While the daemon is away a line says so. Raises UsageError, and LinkError when it is away at the beginning.
    """
    pause = interval("top", words)
    if view.format in ("json", "csv"):
        raise UsageError(f"top shows tables only, not {view.format}; the command servers gives {view.format}")
    if not (view.terminal and sys.stdin.isatty()):
        raise UsageError("top needs a terminal for what it shows and for its keys; 'watch' does without")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("top needs a terminal that can be drawn on, and TERM says that this one can't; the command "
                         "servers does without")
    dashboard = drawn_by_rich(view)
    refused(view)
    try:
        with Stage() as stage:
            Top(view, pause, stage, dashboard).run()
    except (KeyboardInterrupt, EOFError):
        pass
    return 0


def drawn_by_rich(view: View) -> Dashboard:
    """Raises UsageError where rich is missing."""
    try:
        from gpen.gpenctl.dashboard import Dashboard
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "rich":
            raise
        raise UsageError(f"top needs the package rich: {remedy('rich')}; 'watch' does "
                         "without") from None
    return Dashboard(view.color, Signs(lacks_blocks()))


class Top:
    """One run of it: looks at the daemon, draws, and obeys keys."""

    def __init__(self, view: View, pause: float, stage: Stage, dashboard: Dashboard) -> None:
        self._stage = stage
        self._dashboard = dashboard
        self._asker = Asker(view)
        self._board = Board()
        self._shown = Shown(view.target.text, pause)
        self._keys = Keys()
        self._awaited = 0  # looks that are being taken
        self._next_look = self._message_ends = 0.0  # when
        self._line = self._done = ""  # what is sent if the question is answered by yes, and said when it is done
        self._is_over = False
        self._actions: dict[str, Callable[[], object]] = {
            "q": self._quit, "?": self._help, "escape": self._back, "c": self._sessions, "enter": self._sessions,
            "s": lambda: self._sort(1), "right": lambda: self._sort(1), "left": lambda: self._sort(-1),
            "r": lambda: self._sheet.reverse(), "up": lambda: self._move(-1), "down": lambda: self._move(1),
            "page up": lambda: self._move(-10), "page down": lambda: self._move(10),
            "home": lambda: self._move(-1_000_000), "end": lambda: self._move(1_000_000),
            "d": lambda: self._ask_state("drain"), "m": lambda: self._ask_state("maint"),
            "y": lambda: self._ask_state("ready"), "x": self._ask_close, "g": self._graph, "space": self._pause,
            "+": lambda: self._change_interval(1), "-": lambda: self._change_interval(-1), "redraw": self._stage.clear,
        }

    def run(self) -> None:
        """Returns when q is pressed. Raises EOFError when the terminal is gone."""
        self._asker.start()
        while not self._is_over:
            now = time.monotonic()
            if self._is_due and now >= self._next_look:
                self._look()
            if now >= self._message_ends:
                self._shown.message = ""
            self._draw()
            self._obey(self._typed(now))
            for result in self._asker.results():
                if isinstance(result, Answer):
                    self._tell(result.text, result.is_error)
                    self._look()
                else:
                    self._awaited -= 1
                    self._board.take(result)

    @property
    def _is_due(self) -> bool:
        """Whether the next look is taken when its time comes."""
        return not (self._awaited or self._shown.is_paused)

    def _look(self) -> None:
        lines = ["listeners", f"events {max(LOWEST, shutil.get_terminal_size().lines)}", "info"]
        self._asker.look(*lines, *(["sessions"] if self._shown.page == "sessions" else []))
        self._awaited += 1
        self._next_look = time.monotonic() + self._shown.interval

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        redraw(self._dashboard.lines(self._board, self._shown, max(width, NARROWEST), max(height - 1, LOWEST)))

    def _typed(self, now: float) -> list[str]:
        """The keys that are pressed until something else is to be done."""
        until = [now + CLOCK]
        until += [self._next_look] * self._is_due + [self._message_ends] * bool(self._shown.message)
        typed = self._keys.feed(self._stage.wait(min(until) - now, self._asker.bell))
        if self._keys.is_open:
            more = self._stage.wait(ESCAPE)
            typed += self._keys.feed(more) if more else self._keys.escaped()
        return typed

    # --- keys -----------------------------------------------------------------------------------------------------

    def _obey(self, keys: list[str]) -> None:
        for key in keys:
            if self._shown.question:
                self._answer(key)
            elif key in self._actions:
                self._actions[key]()
            elif key.isdecimal() and 0 < int(key) <= len(self._shown.columns):
                self._sheet.sort_by(self._shown.columns[int(key) - 1])
            if self._shown.question:  # what was typed before anybody could read it is no answer
                return

    @property
    def _sheet(self) -> Sheet:
        """The table that keys are about."""
        return self._board.sessions if self._shown.page == "sessions" else self._board.servers

    def _quit(self) -> None:
        self._is_over = True

    def _help(self) -> None:
        self._turn_to("servers" if self._shown.page == "help" else "help")

    def _back(self) -> None:
        self._turn_to("servers")

    def _turn_to(self, page: str) -> None:
        """Nobody sees its columns, to sort by one of them, until it is drawn."""
        self._shown.page, self._shown.columns = page, []

    def _sessions(self) -> None:
        """Those of the selected server, or back."""
        self._turn_to("sessions" if self._shown.page == "servers" else "servers")
        if self._shown.page == "sessions":
            self._look()

    def _sort(self, steps: int) -> None:
        self._sheet.sort_next(self._shown.columns, steps)

    def _move(self, steps: int) -> None:
        if self._shown.page == "sessions":
            self._board.sessions.move(steps)
        else:
            self._board.choose(steps)

    def _graph(self) -> None:
        self._tell(f"drawn: {self._board.next_graph()}, the last {STRETCH * KEPT / 60:g} minutes")

    def _pause(self) -> None:
        self._shown.is_paused = not self._shown.is_paused

    def _change_interval(self, steps: int) -> None:
        """The next one that is longer, or shorter."""
        now = self._shown.interval
        others = [each for each in INTERVALS if (each > now if steps > 0 else each < now)]
        if others:
            self._shown.interval = others[0] if steps > 0 else others[-1]
            self._next_look = time.monotonic() + self._shown.interval

    # --- actions, with a question before --------------------------------------------------------------------------

    def _ask_state(self, state: str) -> None:
        """Whether the selected server shall be in that state: by its number and address, for the picture may be old."""
        server = self._board.servers.selected
        if self._shown.page != "servers" or server is None:
            return
        if server.get("number") is None:
            self._tell(f"{called(server)} has no number, and is always ready", True)
            return
        self._ask(f"{state} {called(server)}?", f"server {number_of(server)} at {quote(at(server))} state {state}",
                  f"{called(server)} is in state {state}")

    def _ask_close(self) -> None:
        session = self._board.sessions.selected
        if self._shown.page == "sessions" and session is not None:
            number = plain(session.get("id"))
            self._ask(f"close session {number} of {plain(session.get('client'))}?", f"close {number}",
                      f"session {number} is closed")

    def _ask(self, question: str, line: str, done: str) -> None:
        self._shown.question, self._line, self._done = question, line, done

    def _answer(self, key: str) -> None:
        """Only y is yes."""
        self._shown.question = ""
        if key in ("y", "Y"):
            self._asker.tell(self._line, self._done)
        else:
            self._tell("nothing is changed")

    def _tell(self, text: str, is_error: bool = False) -> None:
        self._shown.message, self._shown.is_error = text, is_error
        self._message_ends = time.monotonic() + MESSAGE
