"""Idlers: spare connections that notice a server that is gone."""

from __future__ import annotations

from collections.abc import Callable

from tests.harness import Gpen, Server, hold, wait_until


def test_idlers(gpen: Callable[..., Gpen]) -> None:
    with Server(hold) as server:
        balancer = gpen("-r", servers=[server])
        descriptors = balancer.fds()
        assert balancer.ctl("idlers 3") == "Idlers: 0/3\n"
        wait_until(lambda: balancer.ctl("idlers") == "Idlers: 3/3\n")
        assert balancer.server(0)["sessions"] == 3
        assert balancer.ctl("idlers 1").endswith("/1\n")
        wait_until(lambda: balancer.ctl("idlers") == "Idlers: 1/1\n")
        assert balancer.server(0)["sessions"] == 1
    wait_until(lambda: balancer.server(0)["health"] == "down", seconds=20)
    assert balancer.ctl("idlers 0").endswith("/0\n")
    wait_until(lambda: balancer.fds() == descriptors)
    assert balancer.server(0)["sessions"] == 0
