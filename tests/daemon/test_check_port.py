"""Checks at another port than the one that serves: what answers there decides, and is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.test_verdicts import events, verdict
from tests.harness import Gpen, Server, echo, free_port, hold, naming, run_gpen, sending, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
QUICK = ("-O", "check_interval 0.1")
SEND = 'check send "GET / HTTP/1.0\\r\\n\\r\\n" expect "200 OK"'


def test_what_answers_there_decides(gpen: Start, servers: Serve) -> None:
    """Though all is well at the server's own port, and though nobody listens at that of another server."""
    server, port = servers(naming("a")), free_port()
    balancer = gpen(*QUICK, "-O", "check connect", "-O", f"check_port {port}", servers=[server])
    wait_until(lambda: verdict(balancer)[0] == "down")
    reason = f"connection refused (port {port})"
    assert events(balancer) == [("down", reason)]
    assert reason in balancer.ctl("explain 127.0.0.1")
    assert balancer.server(0)["check_port"] == port
    with Server(hold, port=port):
        wait_until(lambda: verdict(balancer) == ("up", "check", f"listens (port {port})"))
        assert balancer.ask() == b"a"
    wait_until(lambda: f"down by its check: {reason}" in balancer.stderr)
    balancer.ctl("no check_port")
    wait_until(lambda: verdict(balancer) == ("up", "check", "listens"))


@pytest.mark.parametrize(("check", "serve", "good"), [
    ("greeting", sending(b"hello"), "greeted"),
    ("send x expect y", sending(b"xyz"), "answered 'y'"),
    (SEND.removeprefix("check "), sending(b"HTTP/1.1 200 OK\r\n\r\n"), "answered '200 OK'"),
])
def test_each_kind(gpen: Start, servers: Serve, check: str, serve: Callable[..., None], good: str) -> None:
    """With the header of no proxy_protocol: who listens there need not know it. The server says nothing."""
    other, server = servers(serve), servers(hold)
    balancer = gpen(*QUICK, "-O", f"check {check}", "-O", "proxy_protocol v1", "-O", f"check_port {other.port}",
                    servers=[server])
    wait_until(lambda: verdict(balancer) == ("up", "check", f"{good} (port {other.port})"))


def test_no_header_goes_there(gpen: Start, servers: Serve) -> None:
    other = servers(echo)
    balancer = gpen(*QUICK, "-O", "check send ping expect ping", "-O", "check_fall 1", "-O", "proxy_protocol v1",
                    "-O", f"server 0 check_port {other.port}", servers=[servers(hold)])
    wait_until(lambda: verdict(balancer)[0] == "up")
    balancer.ctl("server 0 check send ping expect PROXY")
    wait_until(lambda: verdict(balancer)[0] == "down")
    assert verdict(balancer)[2] == f"answered 'ping' instead of 'PROXY' (port {other.port})"


def test_one_server_s_own(gpen: Start, servers: Serve) -> None:
    """Its port goes before the setting, and default takes that again."""
    a, b, well, port = servers(naming("a")), servers(naming("b")), servers(hold), free_port()
    balancer = gpen(*QUICK, "-O", "check connect", "-O", f"check_port {port}", "-O", f"server 0 check_port {well.port}",
                    servers=[a, b])
    wait_until(lambda: (verdict(balancer, 0)[0], verdict(balancer, 1)[0]) == ("up", "down"))
    balancer.ctl("server 0 check_port default", f"server 1 check_port {well.port}")
    wait_until(lambda: (verdict(balancer, 0)[0], verdict(balancer, 1)[0]) == ("down", "up"))


def test_a_program_gets_it(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    program, server = tmp_path / "check", servers(echo)
    program.write_text('#!/bin/sh\necho "$1 $GPEN_ADDRESS $GPEN_HOST $GPEN_PORT"\n')
    program.chmod(0o755)
    balancer = gpen(*QUICK, "-O", f"check exec {program}", "-O", "check_port 9200", servers=[server])
    place = "127.0.0.1:9200"
    wait_until(lambda: verdict(balancer) == ("up", "check", f"{place} {place} 127.0.0.1 9200"))


def test_another_port_is_another_check(gpen: Start, servers: Serve) -> None:
    """What was counted at the old one counts no more; a change at runtime holds at once."""
    other, port = servers(hold), free_port()
    balancer = gpen("-O", "check_interval 0.4", "-O", "check connect", servers=[servers(echo)])
    wait_until(lambda: verdict(balancer)[0] == "up")
    balancer.ctl(f"check_port {port}")
    wait_until(lambda: verdict(balancer)[0] == "down")
    balancer.ctl(f"check_port {other.port}")
    wait_until(lambda: verdict(balancer)[:2] == ("up", "check"))


def test_a_unix_socket_is_checked_as_it_is(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    server = servers(naming("a"), at=str(tmp_path / "server.sock"))
    balancer = gpen(*QUICK, "-O", "check connect", "-O", f"check_port {free_port()}", servers=[server])
    wait_until(lambda: verdict(balancer) == ("up", "check", "listens"))


def test_mysql_s_own_port_is_not_talked_to() -> None:
    """A clustercheck at another port is no client of MySQL; one that is the server's own port is."""
    where = ("127.0.0.1:0", "127.0.0.1:3306")
    for allowed in (("-O", "check_port 9200"), ("-O", "server 0 check_port 9200", "-O", "check off", "-O",
                                                 f"server 0 {SEND}")):
        done = run_gpen("--check", "-O", "mysql", "-O", SEND, *allowed, *where)
        assert done.returncode == 0, done.stderr
    for refused in ((), ("-O", "check_port 3306"), ("-O", "server 0 check_port 9200")):
        done = run_gpen("--check", "-O", "mysql", "-O", SEND, *refused, *where)
        assert done.returncode == 2 and "a MySQL server (mysql) blocks gpen's address" in done.stderr, done.stderr


def test_over_udp(gpen: Start, servers: Serve) -> None:
    """A server of UDP is checked where it listens for TCP."""
    other = servers(hold)
    balancer = gpen(*QUICK, "-U", "-O", "check connect", "-O", f"check_port {other.port}",
                    servers=[f"127.0.0.1:{free_port()}"])
    wait_until(lambda: verdict(balancer) == ("up", "check", f"listens (port {other.port})"))


def test_over_ipv6(gpen: Start, servers: Serve) -> None:
    """The port of the same address, for the check and the agent."""
    server, other, agent = (servers(serve, at="::1") for serve in (echo, hold, sending(b"drain 40%\n")))
    balancer = gpen(*QUICK, "-O", f"check connect agent {agent.port}", "-O", f"check_port {other.port}",
                    servers=[server])
    wait_until(lambda: verdict(balancer)[:2] == ("drain", "agent"))
    wait_until(lambda: balancer.server(0)["checks"]["passed"])
    assert (balancer.server(0)["weight_now"], other.served) == (0.4, 0), "a half handshake is never seen"
