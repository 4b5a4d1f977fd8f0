"""A connection to a node whose answers have an end: PyMySQL keeps what it reads in memory, however much that is, and
waits for the rest of an answer for good. And one that has TLS where that is wanted: before version 1.2, PyMySQL logs in
without where a server does not offer it.

How long a node may take to begin an answer is the caller's affair: one that is stopped may go on a day later. Not so
the rest of one that has begun: what does not come soon was never sent (a length that lies, say), and the node waits in
its turn for the next question.
"""

from __future__ import annotations

import socket
import time
from io import BufferedReader
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT, CR

MOST = 1 << 18  # bytes of a login, or of the answer to a question: what is asked for has some 10,000
SMALL = 64  # bytes that are read at once, however slowly they come
WHOLE = 5.0  # seconds for an answer that has begun, and for a silence in it


class Bounded(Connection):
    """Like any other, until an answer is too long, or does not end: then pymysql.err.Error is raised, and it is of no
    use."""

    _sock: socket.socket
    _rfile: BufferedReader
    _read_timeout: float | None
    _heard = 0
    _ends_by: float | None = None  # the answer that has begun (monotonic)

    def _request_authentication(self) -> None:
        if self.ssl and not self.server_capabilities & CLIENT.SSL:  # type: ignore[attr-defined]
            raise pymysql.err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is wanted, and it does not offer that")
        super()._request_authentication()  # type: ignore[misc]

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Ask; the answer may have so many bytes."""
        self._heard = 0
        return super().query(sql, unbuffered)

    def _write_bytes(self, data: bytes) -> None:
        if self._ends_by is not None:
            self._ends_by = None
            self._sock.settimeout(self._read_timeout)
        super()._write_bytes(data)  # type: ignore[misc]

    def _read_bytes(self, num_bytes: int) -> bytes:
        self._heard += num_bytes
        if self._heard > MOST:
            raise pymysql.err.InternalError(0, f"its answer has more than {MOST >> 10} kB")
        try:
            if self._ends_by is None:
                data = self._rfile.read1(num_bytes)
                self._ends_by = time.monotonic() + WHOLE
                self._sock.settimeout(min(WHOLE, self._read_timeout or WHOLE))
                if 0 < len(data) < num_bytes:
                    data += self._read_in_time(num_bytes - len(data), self._ends_by)
            elif num_bytes <= SMALL and time.monotonic() < self._ends_by:
                data = self._rfile.read(num_bytes)
            else:
                data = self._read_in_time(num_bytes, self._ends_by)
            if len(data) < num_bytes:
                raise OSError("ended")
        except OSError as error:
            self._force_close()  # type: ignore[attr-defined]
            raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, f"Lost connection ({error})") from None
        return data

    def _read_in_time(self, num_bytes: int, deadline: float) -> bytes:
        """So many bytes, or fewer where the connection ends. Raises TimeoutError."""
        data = b""
        while len(data) < num_bytes:
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
            piece = self._rfile.read1(num_bytes - len(data))
            if not piece:
                break
            data += piece
        return data
