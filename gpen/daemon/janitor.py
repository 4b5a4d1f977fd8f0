"""Periodic maintenance, once a second, in one greenlet, which ends with gpen only: whatever fails, the rest is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING

import gevent

from gpen.daemon.process import sessions_within_limit
from gpen.wire.datagram import DatagramListener
from gpen.wire.faults import Faults
from gpen.wire.turns import Turns, gently

if TYPE_CHECKING:
    from gpen.daemon.balancer import Balancer

PERIOD = 1.0
VISITS = 5  # in a period, to sessions that are new
SLICE = 500  # sessions that are visited between two looks at the clock


def run(balancer: Balancer) -> None:
    """Tend sessions and limits for ever. Switches greenlets."""
    faults, works, newcomers = Faults(), _works(balancer), _Newcomers(balancer)
    while True:
        for _ in range(VISITS):
            gevent.sleep(PERIOD / VISITS)
            faults.attempt("the janitor: new sessions", newcomers.visit)
        for name, work in works:
            faults.attempt(f"the janitor: {name}", work)


class _Newcomers:
    """Sessions of the last moment: those that are still there are likely to last."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._newest = 0  # the last session that was visited

    def visit(self) -> None:
        """Have the kernel watch over them. Switches greenlets when they are many."""
        new = list(takewhile(lambda session: session.id > self._newest, reversed(self._balancer.sessions.values())))
        self._newest = new[0].id if new else self._newest
        for session in gently(new):
            session.keep_alive()


def _works(balancer: Balancer) -> tuple[tuple[str, Callable[[], object]], ...]:
    return (
        ("the limit of sessions", lambda: _renew_limit(balancer)),
        ("names", balancer.names.tend),
        ("idlers", lambda: balancer.idlers.tend(2 * (balancer.session_limit - len(balancer.sessions)))),
        ("verdicts", balancer.pool.expire),
        ("troubles", balancer.troubles.tend),
        ("checks", balancer.checks.tend_all),
        ("children", balancer.children.reap),
        ("accepting", balancer.resume),
        ("sessions", lambda: _tend_sessions(balancer)),
        ("conn_max", lambda: _evict_excess(balancer)),
    )


def _renew_limit(balancer: Balancer) -> None:
    balancer.session_limit = sessions_within_limit(balancer.settings)


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
    for _ in range(len(balancer.sessions) - balancer.settings.conn_max):
        if not isinstance(balancer.listener, DatagramListener) or len(balancer.sessions) <= balancer.settings.conn_max:
            return
        balancer.listener.make_room()
        turns.pause()
