"""Periodic maintenance, once a second, in one greenlet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

from gpen.daemon.process import sessions_within_limit
from gpen.wire.datagram import DatagramListener
from gpen.wire.turns import Turns

if TYPE_CHECKING:
    from gpen.daemon.balancer import Balancer

PERIOD = 1.0
SLICE = 500  # sessions that are visited between two looks at the clock


def run(balancer: Balancer) -> None:
    """Tend sessions and limits for ever. Switches greenlets."""
    while True:
        gevent.sleep(PERIOD)
        balancer.session_limit = sessions_within_limit(balancer.settings)
        balancer.names.tend()
        balancer.idlers.tend(2 * (balancer.session_limit - len(balancer.sessions)))
        balancer.pool.expire()
        balancer.checks.tend_all()
        balancer.children.reap()
        balancer.resume()
        _tend_sessions(balancer)
        _evict_excess(balancer)


def _tend_sessions(balancer: Balancer) -> None:
    """Visit all sessions."""
    turns = Turns()
    now = time.monotonic()
    for number, session in enumerate(list(balancer.sessions.values()), 1):
        try:
            session.tend(now)
        except Exception:
            session.failed()
        if number % SLICE == 0:
            turns.pause()
            now = time.monotonic()


def _evict_excess(balancer: Balancer) -> None:
    """Flows of UDP give way to a conn_max that was lowered; TCP sessions go on."""
    turns = Turns()
    while isinstance(balancer.listener, DatagramListener) and len(balancer.sessions) > balancer.settings.conn_max:
        balancer.listener.make_room()
        turns.pause()
