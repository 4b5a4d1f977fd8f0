"""`gpen-galera serve`: what clustercheck does, 200 for a node that is usable and 503 for one that is not.

The node is asked all the time, over one kept connection, so that an answer is there when a request comes, and a node
that hangs makes nobody wait. What was found grows old: without news of the node it is usable no more. An account that
expires says nothing of the nodes, and is the same at all of them at once: then what was found before is told for KEPT
seconds, unless the node itself fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from gpen.galera.access import Access
from gpen.galera.check import Finding, Rules, judge
from gpen.galera.http_server import HttpHandler, HttpServer
from gpen.galera.node import Node, Problem, silence
from gpen.galera.report import Report
from gpen.log import say, warn
from gpen.model.address import Address

KEPT = 300.0  # seconds for which the last finding counts of a node that can't be seen, for a reason of the account
STATES = {True: (200, "OK"), False: (503, "Service Unavailable")}


class _Known(NamedTuple):
    """What was found last, and when (monotonic). ``blind``: why the node can't be seen since."""

    finding: Finding
    heard: float
    blind: str = ""


class Responder:
    """Knows how the node is."""

    def __init__(self, node: str, access: Access, rules: Rules, interval: float, timeout: float) -> None:
        self._rules = rules
        self._timeout = timeout
        self._known = _Known(Finding(False, "not asked yet"), -math.inf)
        self._fresh = interval + 2 * timeout  # seconds that a finding lasts
        self.node = Node(node, access, interval, timeout, self._take)

    def _take(self, address: str, news: Report | Problem) -> None:
        blind = self._known.blind
        if isinstance(news, Problem) and news.blind:
            if blind != news.text:
                warn(f"node {address}: it can't be seen, and what was found last is told for {KEPT:g} s: {news.text}")
            self._known = self._known._replace(blind=news.text)
            return
        if blind:
            say(f"node {address}: it is seen again")
        finding = Finding(False, news.text) if isinstance(news, Problem) else judge(news, self._rules)
        self._known = _Known(finding, time.monotonic())

    def finding(self) -> Finding:
        """How the node is now."""
        now = time.monotonic()
        if self.node.waiting(now) >= self._timeout:
            return Finding(False, silence(self._timeout))
        found, heard, blind = self._known
        age = now - heard
        if blind and age > KEPT:
            return Finding(False, blind)
        if blind:
            return Finding(found.usable, f"{found.text} {age:.0f} s ago; now: {blind}")
        return Finding(False, f"no news of it for {self._fresh:g} s") if found.usable and age > self._fresh else found


class Server(HttpServer):
    """Answers every request with what ``finding`` tells."""

    def __init__(self, address: Address, finding: Callable[[], Finding]) -> None:
        """Raises OSError when the address can't be had."""
        self.finding = finding
        super().__init__(address, _Handler)


class _Handler(HttpHandler):
    server: Server

    def do_GET(self) -> None:
        finding = self.server.finding()
        self.answer(*STATES[finding.usable], f"{finding.text}\n")

    do_HEAD = do_OPTIONS = do_GET
