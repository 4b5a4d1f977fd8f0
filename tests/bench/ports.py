"""What it costs a flow of UDP to get a port, while there are free ones and when they are shared, on a machine of its
own: python -m tests.bench.ports"""

from __future__ import annotations

import resource
import time
from typing import Any

from gpen.wire.ends import Ends

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from tests.networks import Machine

LOW, COUNT, TENTH = 40000, 9000, 900
SERVERS = [Endpoint(2, (f"127.0.0.{number}", 53), f"127.0.0.{number}", 53) for number in (1, 2)]


def opened(ends: Ends, settings: Settings, endpoint: Endpoint, kept: list[Any]) -> float:
    """Seconds until a socket is there, or refused."""
    begun = time.perf_counter()
    try:
        sock, place = ends.open(endpoint, settings)
    except OSError:
        return time.perf_counter() - begun
    flow: Any = object()
    ends.enter(place, endpoint, flow, sock)
    kept.append((flow, sock))
    return time.perf_counter() - begun


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept: list[Any] = []
    with Machine() as machine, machine.entered():
        machine.run("sysctl -qw", f"net.ipv4.ip_local_port_range={LOW} {LOW + COUNT - 1}")
        ends, settings = Ends(), Settings()
        for endpoint, what in zip(SERVERS, ("a port of its own", "a shared port"), strict=True):
            tenths = [sum(opened(ends, settings, endpoint, kept) for _ in range(TENTH)) / TENTH for _ in range(10)]
            print(f"{what}, us by tenths of the ports:", *(f"{seconds * 1e6:.0f}" for seconds in tenths))
        refused = sorted(opened(ends, settings, SERVERS[0], kept) for _ in range(50))
        print(f"none left, us: {refused[25] * 1e6:.0f}, the first {refused[-1] * 1e6:.0f}")


if __name__ == "__main__":
    main()
