"""Where the lines of a log go: a file, standard output, a FIFO, or a socket that takes lines.

Every line is written at once, with one system call where it is taken whole: nothing is lost when the process is killed,
and at rotation the old file has every line up to the moment when the new one takes over. Of what a full disk has taken
half, the rest comes before the next line, so that two are never one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import stat
import time

from gpen.files import Entry

log = logging.getLogger("gpen")

STDOUT = "-"
RETRY_SECONDS = 1.0  # between two attempts to reach somebody who reads
_STREAMS = ("stdin", "stdout", "stderr")
_INHERITED = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]{1,9})")
_NOBODY = (errno.ENXIO, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE)
_MODE = 0o640
_READABLE = (0, stat.S_IFREG, stat.S_IFIFO)


class LineFile:
    """An open log. Raises OSError when it can't be opened. A FIFO that nobody reads and a socket that nobody listens on
    can be: lines are kept by the kernel, or lost, until somebody does."""

    def __init__(self, path: str, waits: bool = False) -> None:
        """``path``: - is standard output. ``waits``: there, rather wait for a slow reader than lose lines."""
        self._path = path
        self._is_inherited = path == STDOUT or _INHERITED.fullmatch(path) is not None
        self._waits = waits
        self._retry_at = 0.0
        self._rest = b""
        self._socket: socket.socket | None = None
        self._fd = -1
        self._is_made = False
        self._adopt(self._open(path))

    def made(self) -> list[int]:
        """Its descriptor, if it is a file that was not there before."""
        return [self._fd] if self._is_made else []

    def unmake(self) -> None:
        """Remove the file, if it was not there before; to be called before it is closed. Who could make it, but can't
        remove it, leaves it."""
        if self._is_made and self._fd >= 0:
            with contextlib.suppress(OSError), Entry(self._path) as entry:
                entry.remove(os.fstat(self._fd))

    def reopen(self, path: str) -> None:
        """Take up what has this name now, for rotation. Raises OSError, and then the old one stays in use."""
        if self._is_inherited:
            return
        fresh = self._open(path)
        with contextlib.suppress(OSError):
            self.write(b"")
        self.close()
        self._path = path
        self._adopt(fresh)

    def warn_of_reopening(self, path: str, user: str | None) -> None:
        """Tell if we, who have become this user, could not take it up again under this name."""
        if user and not self._is_inherited and os.path.exists(path) and not os.access(path, os.W_OK):
            log.warning("log: '%s' can't be opened again at HUP by %s: chown %s %s", path, user, user, path)

    def write(self, line: bytes) -> None:
        """Append a line, which has its end. Raises OSError when it could not be written, or in part: then the rest of
        it comes before the next line."""
        if self._fd < 0:
            self._open_again()
        owed, data = len(self._rest), self._rest + line
        length = len(data)
        try:
            while data:
                data = data[self._put(data):]
        except OSError as error:
            if error.errno in _NOBODY and not self._is_inherited:
                self.close()
            raise
        finally:
            written = length - len(data)
            self._rest = self._rest[written:] if written <= owed else data

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _adopt(self, fd: int) -> None:
        self._fd = fd
        self._rest = b"" if self._is_inherited else _end_of_line(fd)
        if fd >= 0 and stat.S_ISSOCK(os.fstat(fd).st_mode):
            self._socket = socket.socket(fileno=fd)

    def _put(self, data: bytes) -> int:
        if self._socket is None:
            return os.write(self._fd, data)
        return self._socket.send(data, 0 if self._waits else socket.MSG_DONTWAIT)

    def _open_again(self) -> None:
        """Somebody may be there by now. Raises OSError."""
        if time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._adopt(self._open(self._path))
        if self._fd < 0:
            raise OSError(errno.ENXIO, "nobody reads it", self._path)

    def _open(self, path: str) -> int:
        """A descriptor; -1 when nobody can be reached. Raises OSError."""
        try:
            return self._descriptor(path)
        except OSError as error:
            if error.errno not in _NOBODY:
                raise
            return -1

    def _descriptor(self, path: str) -> int:
        number = 1 if path == STDOUT else _number(path)
        if number is not None:
            return _inherited(number, self._waits)
        with Entry(path) as entry:
            status = entry.status()
            kind = stat.S_IFMT(status.st_mode) if status else 0
            if kind == stat.S_IFSOCK:
                with entry.reached() as route:
                    return connected(route)
            # A FIFO that we can read as well has somebody who reads it: it opens, and keeps 64 KiB for who comes later.
            # Without blocking: a reader that is slow costs lines, not sessions. Of a file the last byte is read.
            with contextlib.suppress(PermissionError):
                if kind in _READABLE:
                    fd, self._is_made = entry.open(os.O_RDWR | os.O_APPEND, _MODE)
                    return fd
            fd, self._is_made = entry.open(os.O_WRONLY | os.O_APPEND, _MODE)
            return fd


def _kind(path: str) -> int:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return 0


def _number(path: str) -> int | None:
    """The number of the descriptor that a path names, if it does, and it is a socket's, which no path can open."""
    match = _INHERITED.fullmatch(path)
    if match is None or _kind(path) != stat.S_IFSOCK:
        return None
    return _STREAMS.index(match[1]) if match[1] else int(match[2])


def _inherited(number: int, waits: bool) -> int:
    """A descriptor of our own for what the parent has opened. A pipe or a terminal is opened once more, so that it need
    not block: to make theirs so would surprise the parent."""
    mode = os.fstat(number).st_mode
    if not waits and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    return os.dup(number)


def connected(path: str) -> int:
    """A connection to a socket, of datagrams as /dev/log is, or a stream. Raises OSError."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.connect(path)
                return sock.detach()
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
    raise OSError(errno.EPROTOTYPE, "it takes neither datagrams nor a stream", path)


def _end_of_line(fd: int) -> bytes:
    """The end of line that a file lacks which somebody was cut short in, by a full disk or worse."""
    if fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode) or not os.fstat(fd).st_size:
        return b""
    try:
        return b"" if os.pread(fd, 1, os.fstat(fd).st_size - 1) == b"\n" else b"\n"
    except OSError:  # not to be read by us
        return b""
