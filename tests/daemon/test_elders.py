"""What the gpens before tell of their sessions, and what it counts for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import pytest

from gpen.control.configuration import Configuration
from gpen.daemon.elders import Elders, send_rows
from gpen.wire.passing import Channel, cooperative, pair, plain
from tests.scripts import parse_lines

SERVERS = 1500  # more than one message holds


@contextmanager
def heard(configuration: Configuration) -> Iterator[tuple[Elders, Channel]]:
    """The elders of a gpen, one of whom we are."""
    ours, theirs = pair()
    elders, other = Elders(configuration, lambda: None), plain(theirs)
    elders.add(ours, 4711, [])
    elders.go_on()
    try:
        yield elders, other
    finally:
        elders.suspend()
        other.close()
        ours.close()


def configured(count: int) -> Configuration:
    configuration = Configuration(lambda: 1000.0, lambda: 1e9)
    lines = [f"server {number} address 10.0.{number // 250}.{number % 250} port 80" for number in range(count)]
    for call in parse_lines([*lines, "listener web listen 81"], "test"):
        configuration.run(call)
    return configuration


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def test_many_servers() -> None:
    configuration = configured(SERVERS)
    servers = configuration.pool.servers
    with heard(configuration) as (elders, other):
        send_rows(other, "sessions", [("", number, f"{server.address}", number + 1)
                                      for number, server in servers.items()])
        until(lambda: elders.count(servers[SERVERS - 1]))
        assert [server.load for server in servers.values()] == list(range(1, SERVERS + 1))
        send_rows(other, "sessions", [])
        until(lambda: not servers[0].sessions)
        assert not any(server.sessions for server in servers.values())


def test_listeners_and_what_is_not_there() -> None:
    """Each listener's sessions count for it; those of listeners, servers and addresses that are none of ours count
    nowhere. When it ends, all is free."""
    configuration = configured(2)
    server, place = configuration.pool.servers[0], "10.0.0.0:80"
    with heard(configuration) as (elders, other):
        send_rows(other, "sessions", [("", 0, place, 2), ("web", 0, place, 3), ("gone", 0, place, 5), ("", 7, place, 7),
                                      ("", 1, "10.9.9.9:80", 9)])
        until(lambda: elders.count(server))
        assert (elders.count(server), elders.count(server, ""), elders.count(server, "web")) == (5, 2, 3)
        assert server.sessions == 5 and configuration.pool.servers[1].sessions == 0
        assert sum(configuration.scopes["web"].selector.taken.values()) == 3
        other.close()
        until(lambda: not list(elders))
        assert (server.sessions, elders.count(server)) == (0, 0)


def test_it_passes_to_another() -> None:
    """Its line, and what it says meanwhile."""
    configuration = configured(1)
    server = configuration.pool.servers[0]
    with heard(configuration) as (elders, other):
        send_rows(other, "sessions", [("", 0, "10.0.0.0:80", 2)])
        until(lambda: server.sessions == 2)
        elders.suspend()
        (elder,) = elders
        fd = os.dup(elder.channel.fileno())
        send_rows(other, "sessions", [("", 0, "10.0.0.0:80", 1)])
        rows = elder.rows
        elders.let_go()
        assert server.sessions == 0
        newest = Elders(configuration, lambda: None)
        newest.add(cooperative(fd), elder.pid, rows)
        assert server.sessions == 2
        newest.go_on()
        until(lambda: server.sessions == 1)
        newest.let_go()


def test_those_that_are_let_go_are_heard_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever listened to one stops, and has nothing to complain of."""
    with heard(configured(1)) as (elders, _):
        gevent.idle()
        elders.let_go()
        gevent.idle()
        assert (list(elders), capfd.readouterr().err) == ([], "")
