"""The whole of a terminal, for a time: its second screen, drawn again and again, and what it was before afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import termios
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

# Alternate screen, no cursor, no line wrap; and all that back.
OPEN, CLOSE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@contextlib.contextmanager
def full_screen() -> Iterator[None]:
    """The terminal's second screen, without a cursor; the first one comes back however this ends."""
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    sys.stdout.write(OPEN)
    try:
        yield
    finally:
        sys.stdout.write(CLOSE)
        sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def redraw(lines: list[str]) -> None:
    """Over the old frame, without clearing first: no flicker. What does not fit below is counted."""
    height = shutil.get_terminal_size().lines - 1  # the cursor rests in the last line
    if len(lines) > height:
        lines = [*lines[: height - 1], f"... and {len(lines) - height + 1} more lines: the window is too low"]
    # A line is erased before it is written: afterwards the cursor may stand on its last character.
    sys.stdout.write(HOME + "".join(f"{ERASE_LINE}{line}\n" for line in lines) + ERASE_BELOW)
    sys.stdout.flush()


class Stage:
    """The whole terminal with its keys, in a `with`: its second screen, and keys that come at once and unseen. The
    first screen and the modes of before come back however this ends, and for as long as Ctrl-Z stops the program."""

    def __init__(self) -> None:
        self._keyboard = sys.stdin.fileno()
        self._modes = termios.tcgetattr(self._keyboard)
        self._bell, self._rope = socket.socketpair()  # rung by signals
        self._stops = self._goes_on = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Stage:
        self._rope.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._rope.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, handler) for number, handler in (
            (signal.SIGTERM, leave), (signal.SIGHUP, leave), (signal.SIGTSTP, self._note), (signal.SIGCONT, self._note),
            (signal.SIGWINCH, self._note))}
        self._take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._bell.close()
        self._rope.close()

    def wait(self, seconds: float, *others: socket.socket) -> bytes:
        """What has been typed; nothing where so many seconds have passed, a signal has come, as when the size changes,
        or one of the others can be read. Raises EOFError when the terminal is gone."""
        ready, _, _ = select.select([self._keyboard, self._bell, *others], [], [], max(0.0, seconds))
        for sock in (self._bell, *others):
            if sock in ready:
                sock.recv(4096)
        if self._stops:
            self._stop()
        if self._goes_on:
            self._goes_on = False
            self._take()
        if self._keyboard not in ready:
            return b""
        try:
            typed = os.read(self._keyboard, 4096)
        except OSError:
            typed = b""
        if not typed:
            raise EOFError
        return typed

    def clear(self) -> None:
        """An empty screen, for one that others have written to."""
        sys.stdout.write(HOME + ERASE_BELOW)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """What a signal asks for is done in `wait`: here, a line may be half written."""
        self._stops = self._stops or number == signal.SIGTSTP
        self._goes_on = self._goes_on or number == signal.SIGCONT

    def _stop(self) -> None:
        """Stop as Ctrl-Z does, with the terminal as it was; and take it again when the shell lets us go on."""
        self._stops = False
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)
        self._goes_on = True

    def _take(self) -> None:
        modes = termios.tcgetattr(self._keyboard)
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keyboard, termios.TCSANOW, modes)  # in the background, this stops us
        sys.stdout.write(OPEN)
        sys.stdout.flush()

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone
            sys.stdout.write(CLOSE)
            sys.stdout.flush()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._keyboard, termios.TCSANOW, self._modes)
