"""A connection to a node whose answers have an end: PyMySQL keeps what it reads in memory, however much that is. And
one that has TLS where that is wanted: before version 1.2, PyMySQL logs in without where a server does not offer it."""

from __future__ import annotations

from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT, CR

MOST = 1 << 22  # bytes of a login, or of the answer to a question: what is asked for has some 10,000


class Bounded(Connection):
    """Like any other, until an answer is too long: then pymysql.err.InternalError is raised, and it is of no use."""

    _heard = 0

    def _request_authentication(self) -> None:
        if self.ssl and not self.server_capabilities & CLIENT.SSL:  # type: ignore[attr-defined]
            raise pymysql.err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is wanted, and it does not offer that")
        super()._request_authentication()  # type: ignore[misc]

    def query(self, sql: Any, unbuffered: bool = False) -> int:
        """Ask; the answer may have so many bytes."""
        self._heard = 0
        return super().query(sql, unbuffered)

    def _read_bytes(self, num_bytes: int) -> bytes:
        self._heard += num_bytes
        if self._heard > MOST:
            raise pymysql.err.InternalError(0, f"its answer has more than {MOST >> 20} MB")
        data: bytes = super()._read_bytes(num_bytes)  # type: ignore[misc]
        return data
