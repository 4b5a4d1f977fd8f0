"""What the metrics tell of the servers of each listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness import wait_until
from tests.metrics import fetch, samples
from tests.servers import Server, free_port, naming


def test_a_listener_tells_how_many_of_its_servers_are_up(gpen: Callable[..., Any]) -> None:
    with Server(naming("a")) as one, Server(naming("b")) as two:
        port, reports = free_port(), free_port()
        front = gpen("-O", f"metrics 127.0.0.1:{port}", "-O", f"listener reports listen 127.0.0.1:{reports}",
                     "-O", "check connect", "-O", "check_interval 0.1", servers=[one, two])
        front.ctl("listener reports servers 1")

        def told() -> list[float]:
            found = samples(fetch(port))
            return [found[f'gpen_listener_servers{what}{{listener="{name}"}}']
                    for name in ("-", "reports") for what in ("", "_up")]

        assert told() == [2, 2, 1, 1]
        front.ctl("server 0 state drain")
        assert told() == [2, 1, 1, 1]
        two.close()
        wait_until(lambda: told() == [2, 0, 1, 0], what="no server being up")
        front.ctl("server 0 state ready")
        assert told() == [2, 1, 1, 0]
