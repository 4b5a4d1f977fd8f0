"""A pool of connections, as applications keep them: each stays, and is opened anew when it was closed."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import Counter
from typing import Any

from tests.servers import PATIENCE

EXCHANGE = b"a question and its answer"


class Pool:
    """So many connections to a balancer before servers that name themselves and echo (``naming``); use it in a
    ``with``. ``broken`` counts those that ended within an exchange, ``closed`` those that ended between two."""

    def __init__(self, address: tuple[str, int], count: int, *, pause: float = 0.0, returns: bool = True,
                 sources: int = 1) -> None:
        """``pause`` is for how many seconds each is silent between two exchanges, 0: for ever; ``returns`` whether one
        that was closed is opened anew; they come from so many ``sources``, 127.0.9.1 and the next."""
        self.broken = self.closed = 0
        self._address, self._pause, self._returns = address, pause, returns
        self._sources = [f"127.0.9.{number + 1}" for number in range(sources)]
        self._connections: dict[int, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        for number in range(count):
            self._open(number)

    def __enter__(self) -> Pool:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join(PATIENCE)
        for connection in self._connections.values():
            connection.sock.close()
        self._selector.close()

    @property
    def spread(self) -> dict[str, int]:
        """How many each server has, by its name."""
        return dict(Counter(connection.server for connection in list(self._connections.values())))

    def _open(self, number: int) -> None:
        connection = _Connection(self._address, self._sources[number % len(self._sources)], number, self._pause)
        self._connections[number] = connection
        self._selector.register(connection.sock, selectors.EVENT_READ, connection)

    def _run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(0.01):
                if not key.data.read():
                    self._lost(key.data)
            for connection in list(self._connections.values()) if self._pause else ():
                connection.ask()

    def _lost(self, connection: Any) -> None:
        if connection.owed:
            self.broken += 1
        else:
            self.closed += 1
        self._selector.unregister(connection.sock)
        connection.sock.close()
        del self._connections[connection.number]
        if self._returns:
            self._open(connection.number)


class _Connection:
    """``owed`` is how many bytes of an answer are yet to come."""

    def __init__(self, address: tuple[str, int], source: str, number: int, pause: float) -> None:
        self.sock = socket.create_connection(address, PATIENCE, (source, 0))
        self.server = self.sock.recv(1).decode()
        self.sock.setblocking(False)
        self.number, self.owed, self._pause = number, 0, pause
        self._next = time.monotonic() + pause * (number % 10) / 10

    def read(self) -> bool:
        """Take what has come; False at the end."""
        try:
            piece = self.sock.recv(1 << 16)
        except OSError:
            return False
        self.owed -= len(piece)
        return bool(piece)

    def is_closed(self) -> bool:
        """Whether it has been closed already, though nobody has read that: who begins an exchange looks first."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def ask(self) -> None:
        """Begin the next exchange, if it is time for that."""
        now = time.monotonic()
        if not self.owed and now >= self._next and not self.is_closed():
            self._next = now + self._pause
            self.owed = len(EXCHANGE)
            try:
                self.sock.sendall(EXCHANGE)
            except OSError:
                pass  # read says so
