"""The way to syslog, for diagnostics and for the session log: a socket that nobody waits for, taken up anew when syslog
was started anew."""

from __future__ import annotations

import errno
import logging
import os
import socket

from gpen.daemon.line_file import connected
from gpen.journal import DEBUG, ERROR, INFO, WARNING

SOCKET = "/dev/log"


def severity(level: int) -> int:
    """How urgent a message of the library's level is."""
    if level >= logging.ERROR:
        return ERROR
    return WARNING if level >= logging.WARNING else INFO if level >= logging.INFO else DEBUG


class Syslog:
    """The socket where syslog listens, if it does; each line names its ``program`` and this process."""

    def __init__(self, program: str, facility: int) -> None:
        self._program = program
        self._facility = facility
        self._sock: socket.socket | None = None

    def connect(self) -> None:
        """Reach who listens there now. Raises OSError, and then all is as before."""
        fresh = socket.socket(fileno=connected(SOCKET))
        self.close()
        self._sock = fresh

    def send(self, urgency: int, line: str) -> None:
        """One line. Raises OSError where it is lost: nobody listens, or who listens does not read."""
        message = f"<{self._facility << 3 | urgency}>{self._program}[{os.getpid()}]: {line}".encode()
        if self._sock is not None:
            try:
                self._put(self._sock, message)
                return
            except BlockingIOError:
                raise
            except OSError:
                self.close()  # syslog was started anew, perhaps
        self.connect()
        assert self._sock is not None
        self._put(self._sock, message)

    def _put(self, sock: socket.socket, message: bytes) -> None:
        if sock.type == socket.SOCK_STREAM:  # where each ends with a NUL; one that is cut off ends the connection
            message += b"\0"
        if sock.send(message, socket.MSG_DONTWAIT) < len(message):
            self.close()
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def close(self) -> None:
        """Close it. What is sent later opens it again."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
