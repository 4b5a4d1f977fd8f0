"""A real agent for tests: it answers whoever connects with a line, as HAProxy's agent-check asks for."""

from __future__ import annotations

import socket

from tests.servers import Server


class Agent(Server):
    """Says ``line``, as it stands, to each connection, and closes."""

    def __init__(self, line: str = "up\n", port: int = 0) -> None:
        self.line = line
        super().__init__(self._say, port=port)

    def _say(self, sock: socket.socket) -> None:
        sock.sendall(self.line.encode())
