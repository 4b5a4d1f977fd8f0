"""`gpen-galera serve`: what clustercheck does, 200 for a node that is usable and 503 for one that is not.

The node is asked all the time, over one kept connection, so that an answer is there when a request comes, and a node
that hangs makes nobody wait. What was found grows old: without news of the node it is usable no more.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from gpen.galera import notify
from gpen.galera.access import Access
from gpen.galera.check import Finding, Rules, judge
from gpen.galera.clients import Clients, Handler
from gpen.galera.node import Node, Problem, silence
from gpen.galera.report import Report
from gpen.model.address import Address

STATES = {True: (200, "OK"), False: (503, "Service Unavailable")}


class Responder:
    """Knows how the node is."""

    def __init__(self, node: str, access: Access, rules: Rules, interval: float, timeout: float) -> None:
        self._rules = rules
        self._timeout = timeout
        self._finding = Finding(False, "not asked yet")
        self._heard = 0.0
        self._fresh = interval + 2 * timeout  # seconds that a finding lasts
        self.node = Node(node, access, interval, timeout, self._take)

    def _take(self, _: str, news: Report | Problem) -> None:
        self._finding = Finding(False, news.text) if isinstance(news, Problem) else judge(news, self._rules)
        self._heard = time.monotonic()

    def finding(self) -> Finding:
        """How the node is now."""
        now = time.monotonic()
        if self.node.waiting(now) >= self._timeout:
            return Finding(False, silence(self._timeout))
        if self._finding.usable and now - self._heard > self._fresh:
            return Finding(False, f"no news of it for {self._fresh:g} s")
        return self._finding


class Server(Clients):
    """Answers every request with what ``finding`` tells."""

    def __init__(self, address: Address, finding: Callable[[], Finding]) -> None:
        """Raises OSError when the address can't be had."""
        self.finding = finding
        family, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM,
                                               flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__((str(place[0]), int(place[1])), _Handler)

    def server_bind(self) -> None:
        notify.bind_early(self.socket)
        super().server_bind()


class _Handler(Handler, BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        finding = self.server.finding()
        body = f"{finding.text}\n".encode()
        self.send_response(*STATES[finding.usable])
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_OPTIONS = do_GET

    def version_string(self) -> str:
        return "gpen-galera"

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each request would be a line for each check."""
