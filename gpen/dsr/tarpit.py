"""The tarpit: whoever looks for machines finds one at each address of an access list, which accepts connections and
says nothing more. No state is kept: what comes behind a SYN is not answered."""

from __future__ import annotations

import _socket
import logging
import zlib
from collections.abc import Callable

from gpen.dsr import frames
from gpen.model.pool import Pool
from gpen.wire.faults import Seldom

log = logging.getLogger("gpen")


class Tarpit:
    """Answers for the addresses that access list ``number`` permits, but for those that ``is_real`` knows.
    ``connections`` is how many it has accepted."""

    def __init__(self, pool: Pool, number: int, is_real: Callable[[bytes], bool]) -> None:
        self.connections = 0
        self._pool = pool
        self._number = number
        self._is_real = is_real
        self._seldom = Seldom()

    def has(self, address: bytes) -> bool:
        """Whether it is in the pit: an access list that is empty has nobody there."""
        access = self._pool.acls[self._number]
        return bool(access.entries) and not self._is_real(address) and access.permits(_socket.inet_ntoa(address))

    def answer(self, view: memoryview, size: int, start: int, client: bytes, address: bytes) -> bytes | None:
        """What a TCP segment of this client to this address is answered, whose header begins at ``start``."""
        if size < start + 20 or view[start + 13] & (frames.SYN | frames.ACK | frames.RST) != frames.SYN:
            return None
        if not self.has(address):
            return None
        self.connections += 1
        more = self._seldom.comes()
        if more is not None:
            port = int.from_bytes(view[start + 2:start + 4], "big")
            log.info("tarpit: %s connects to %s:%d%s", _socket.inet_ntoa(client), _socket.inet_ntoa(address), port,
                     more or "; others are told once a minute")
        return frames.syn_ack(view, start, zlib.crc32(client + address + bytes(view[start:start + 4])))
