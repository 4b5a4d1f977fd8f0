"""Periodic maintenance, once a second, in one greenlet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

from gpen.daemon.process import sessions_within_limit
from gpen.wire.datagram import DatagramListener

if TYPE_CHECKING:
    from gpen.daemon.balancer import Balancer

PERIOD = 1.0
SLICE = 2000
EVICTED_AT_ONCE = 100


def run(balancer: Balancer) -> None:
    """Tend sessions and limits for ever. Switches greenlets."""
    while True:
        gevent.sleep(PERIOD)
        balancer.session_limit = sessions_within_limit(balancer.settings)
        balancer.names.insist()
        balancer.idlers.tend()
        balancer.pool.expire()
        balancer.checks.tend()
        balancer.children.reap()
        balancer.resume()
        _tend_sessions(balancer)
        _evict_excess(balancer)


def _tend_sessions(balancer: Balancer) -> None:
    """Visit all sessions, letting others run after every SLICE of them (2,000 take about a millisecond)."""
    sessions = list(balancer.sessions.values())
    for start in range(0, len(sessions), SLICE):
        now = time.monotonic()
        for session in sessions[start : start + SLICE]:
            try:
                session.tend(now)
            except Exception:
                session.failed()
        gevent.sleep(0)


def _evict_excess(balancer: Balancer) -> None:
    """Flows of UDP give way to a conn_max that was lowered, letting others run after every EVICTED_AT_ONCE of them; TCP
    sessions go on."""
    while isinstance(balancer.listener, DatagramListener):
        excess = len(balancer.sessions) - balancer.settings.conn_max
        for _ in range(min(excess, EVICTED_AT_ONCE)):
            balancer.listener.make_room()
        if excess <= EVICTED_AT_ONCE:
            return
        gevent.sleep(0)
