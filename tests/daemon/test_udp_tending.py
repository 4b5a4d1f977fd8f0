"""The janitor's visit of flows, with a balancer in this process: what races with it must not end it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import NamedTuple, cast

import gevent
import pytest

from gpen.control.configuration import Configuration
from gpen.control.script import read_lines
from gpen.control.sources import Sources
from gpen.daemon import janitor
from gpen.daemon.balancer import Balancer
from gpen.model.ending import Ending
from gpen.wire.datagram import DatagramListener
from gpen.wire.flow import REFUSAL_SECONDS, Flow
from tests.datagrams import DatagramServer, client, silence


class Scene(NamedTuple):
    """A balancer of UDP that runs as far as the test lets it, and its one server."""

    balancer: Balancer
    server: DatagramServer

    def begin_flow(self) -> Flow:
        """What a client's datagram begins."""
        balancer = self.balancer
        listener = balancer.listeners.unnamed.listener
        assert listener is not None
        host, _, port = listener.bound_to.rpartition(":")
        before = balancer.sessions.total
        with client((host, int(port))) as sock, gevent.Timeout(20):
            sock.send(b"x")
            while balancer.sessions.total == before:
                gevent.sleep(0.001)
        return cast(Flow, list(balancer.sessions)[-1])


@pytest.fixture
def scene() -> Iterator[Scene]:
    with DatagramServer(silence) as server:
        sources, configuration = Sources(), Configuration(time.monotonic, time.time)
        sources.give(read_lines(["udp", "listen 127.0.0.1:0", f"server 0 address 127.0.0.1 port {server.port}"], ""))
        configuration.adopt(sources.given)
        balancer = Balancer(configuration, sources)
        balancer.open()
        listener = balancer.listeners.unnamed.listener
        assert isinstance(listener, DatagramListener)
        listener.start()
        yield Scene(balancer, server)
        balancer.close()


def test_a_flow_that_has_ended_is_left_alone(scene: Scene) -> None:
    """The janitor goes through a list that it made before it let others run, and meanwhile a server refused."""
    flow = scene.begin_flow()
    scene.server.close()
    flow.send(b"refused")
    with gevent.Timeout(20):
        while not flow.finished:
            gevent.sleep(0.001)
    flow.tend(flow.finished + 2)
    flow.tend(flow.finished + 1000)
    assert (flow.ending, scene.balancer.listeners.endings()) == (Ending.CONNECT_FAILED, {"connect-failed": 1})


def test_one_that_fails_costs_no_other(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    pool = scene.balancer.pool
    broken = scene.begin_flow()
    pool.health.blacklist(pool.servers[0], 1e-9)
    other = scene.begin_flow()
    for flow in (broken, other):
        while time.monotonic() < flow.connected + REFUSAL_SECONDS:  # then silence is consent
            gevent.sleep(0.01)
    broken.lease = None  # which can't be
    with caplog.at_level(logging.ERROR, "gpen"):
        janitor.tend_sessions(scene.balancer.sessions)
    assert broken.ending is Ending.ERROR
    assert f"session {broken.id} of {broken.peername} failed" in caplog.text
    assert (other.ending, pool.servers[0].target.is_down) == (None, False)
