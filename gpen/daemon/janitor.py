"""Periodic maintenance, once a second, in one greenlet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

from gpen.daemon.process import sessions_within_limit

if TYPE_CHECKING:
    from gpen.daemon.balancer import Balancer

PERIOD = 1.0
SLICE = 2000


def run(balancer: Balancer) -> None:
    """Tend sessions and limits for ever. Switches greenlets."""
    while True:
        gevent.sleep(PERIOD)
        balancer.session_limit = sessions_within_limit(balancer.settings)
        balancer.names.insist()
        balancer.idlers.tend()
        balancer.pool.expire()
        balancer.checks.tend()
        balancer.resume()
        _tend_sessions(balancer)


def _tend_sessions(balancer: Balancer) -> None:
    """Visit all sessions, letting others run after every SLICE of them (2,000 take about a millisecond)."""
    sessions = list(balancer.sessions.values())
    for start in range(0, len(sessions), SLICE):
        now = time.monotonic()
        for session in sessions[start : start + SLICE]:
            session.tend(now)
        gevent.sleep(0)
