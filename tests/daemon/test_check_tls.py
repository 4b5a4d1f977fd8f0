"""Where checks speak TLS: as the server does at its own port, and at another port only where that is told."""

from __future__ import annotations

from collections.abc import Callable

from tests.certificates import Certificates
from tests.daemon.test_server_tls import answer, secured, trusted
from tests.harness import Gpen, Server, echo, hold, wait_until

__all__ = ["trusted"]  # a fixture
Start = Callable[..., Gpen]
Serve = Callable[..., Server]
SEND = ("-O", "check_interval 0.1", "-O", "check_fall 1", "-O", "check_rise 1", "-O", "check send ping expect ping")


def reason(balancer: Gpen, number: int = 0) -> str | None:
    return balancer.server(number)["verdict_reason"]


def test_a_port_of_its_own_speaks_plainly(gpen: Start, servers: Serve, certificates: Certificates,
                                          trusted: tuple[str, ...]) -> None:
    """Though the server speaks TLS; one without such a port is checked in TLS beside it."""
    server, other = servers(secured(answer, certificates.server)), servers(echo)
    balancer = gpen(*trusted, *SEND, "-O", f"server 0 check_port {other.port}", servers=[server, server])
    wait_until(lambda: reason(balancer) == f"answered 'ping' (port {other.port})")
    wait_until(lambda: reason(balancer, 1) == "answered 'ping'")


def test_tls_at_a_port_of_its_own(gpen: Start, servers: Serve, certificates: Certificates,
                                  trusted: tuple[str, ...]) -> None:
    """Where that is told, at runtime and back; servers that speak plainly are checked so."""
    other = servers(secured(answer, certificates.server))
    balancer = gpen(*trusted, *SEND, "-O", f"check_port {other.port}", "-O", "check_tls on", servers=[servers(hold)])
    wait_until(lambda: reason(balancer) == f"answered 'ping' (port {other.port})")
    balancer.ctl("server 0 tls off")
    wait_until(lambda: balancer.server(0)["verdict"] == "down")
    balancer.ctl("server 0 tls default")
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    balancer.ctl("check_tls off")
    wait_until(lambda: balancer.server(0)["verdict"] == "down")
    balancer.ctl("check_tls on")
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    balancer.ctl("no check_tls")
    wait_until(lambda: balancer.server(0)["verdict"] == "down")
    assert balancer.ctl("check_tls") == "default\n"


def test_the_server_s_own_port_told_twice(gpen: Start, servers: Serve, certificates: Certificates,
                                          trusted: tuple[str, ...]) -> None:
    server = servers(secured(answer, certificates.server))
    balancer = gpen(*trusted, *SEND, "-O", f"check_port {server.port}", servers=[server])
    wait_until(lambda: reason(balancer) == "answered 'ping'")
