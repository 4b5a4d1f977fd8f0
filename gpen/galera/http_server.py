"""An HTTP server for many clients, each with a request: what `serve` and the metrics have in common."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler
from typing import Any

from gpen.clients import Clients, Handler
from gpen.galera import notify
from gpen.model.address import Address


class HttpServer(Clients):
    """Listens at an address, which this machine may get later."""

    def __init__(self, address: Address, handler: type[HttpHandler]) -> None:
        """Raises OSError when the address can't be had."""
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM,
                                               flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__((str(place[0]), int(place[1])), handler)

    def server_bind(self) -> None:
        notify.bind_early(self.socket)
        super().server_bind()


class HttpHandler(Handler, BaseHTTPRequestHandler):
    """One request, one answer."""

    def answer(self, status: int, word: str, body: str, kind: str = "text/plain; charset=utf-8") -> None:
        """Send this. Raises OSError."""
        data = body.encode()
        self.send_response(status, word)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def version_string(self) -> str:
        return "gpen-galera"

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each request would be a line for each check."""
