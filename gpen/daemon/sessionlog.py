"""The session log: one line at each session's end, as text or JSON, or pen's line for each request.

Every line is written at once with one system call to a file that is opened for appending: nothing is lost when gpen
is killed, and at rotation (HUP) the old file has every line up to the moment when the new one takes over.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable

from gpen.control.reply import timestamp
from gpen.daemon.process import Jail
from gpen.model.settings import Settings
from gpen.wire.relay import End, Tap
from gpen.wire.session import Session

log = logging.getLogger("gpen")

REQUEST_BYTES = 100
DUMP_BYTES = 256


class SessionLog:
    """The open log file. Raises OSError when it can't be opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = _open(path)
        self._failed = False

    def fileno(self) -> int:
        return self._fd

    def reopen(self, jail: Jail) -> None:
        """Take up the file of that name, for rotation; when that fails the old one stays. Raises OSError."""
        fresh = _open(jail.path(self.path))
        os.close(self._fd)
        self._fd = fresh

    def write(self, line: str) -> None:
        """Append a line. A full disk costs the lines, not the sessions, and is told once."""
        try:
            os.write(self._fd, line.encode("utf-8", "backslashreplace"))
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("can't write the log '%s': %s", self.path, error.strerror)
            self._failed = True

    def close(self) -> None:
        os.close(self._fd)


def _open(path: str) -> int:
    # without blocking: a FIFO that nobody reads costs lines, not sessions
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)


def session_line(session: Session, settings: Settings) -> str:
    """The line for a session that has ended, in the format of log_format."""
    fields = _fields(session)
    if settings.log_format == "json":
        return json.dumps(fields, separators=(",", ":")) + "\n"
    server = session.server
    place = f"{server.name} {server.shown}" if server is not None else "- -"
    return (f"{fields['client']} {fields['started']} server {place} "
            f"choose {fields['choose']:.6f} connect {fields['connect']:.6f} total {fields['total']:.6f} "
            f"up {fields['up']} down {fields['down']} {fields['ending']}\n")


def _fields(session: Session) -> dict[str, object]:
    choose, connect, total = session.timings()
    server, ending = session.server, session.ending
    return {
        "client": session.peername,
        "started": timestamp(session.started),
        "server": server.label if server is not None else None,
        "server_address": server.shown if server is not None else None,
        "choose": round(choose, 6),
        "connect": round(connect, 6),
        "total": round(total, 6),
        "up": session.sent_up,
        "down": session.down.sent,
        "ending": ending.value if ending is not None else None,
    }


def request_tap(session: Session, current: Callable[[], SessionLog | None]) -> Tap:
    """Logs the first line of what the client sends at a time, as pen does: client, time, server, request.

    ``current`` gives the log of that moment: a session outlives the log that it began with.
    """

    def tap(end: End, data: memoryview) -> None:
        session_log = current()
        if session_log is not None and end is session.down and session.server is not None:
            request = _first_line(bytes(data[:REQUEST_BYTES]))
            session_log.write(f"{session.address} {int(time.time())} {session.server.shown_host} {request}\n")

    return tap


def _first_line(data: bytes) -> str:
    line = data.split(b"\n", 1)[0].split(b"\r", 1)[0]
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)


def dump_tap(session: Session, settings: Settings, further: Tap | None) -> Tap:
    """Shows the bytes of a session in the diagnostics (debug 2), as text (``ascii``) or hex, then passes them on."""

    def tap(end: End, data: memoryview) -> None:
        shown = bytes(data[:DUMP_BYTES])
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in shown) if settings.ascii else shown.hex(" ")
        whence = "client" if end is session.down else "server"
        log.debug("session %d: %d bytes from the %s: %s", session.id, len(data), whence, text)
        if further is not None:
            further(end, data)

    return tap
