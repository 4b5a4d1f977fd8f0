"""What fails in gpen itself, in the real program: it is told once, costs what it happened to, and ends nothing else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import pytest

from tests import datagrams
from tests.faulty import Faulty
from tests.harness import LOCAL, Server, connect, echo, hold, naming, read_all, sending, wait_until

pytestmark = pytest.mark.one_process

Serve = Callable[..., Server]
Start = Callable[..., Faulty]


@pytest.mark.parametrize("place", [
    "daemon.balancer:Balancer._renew_limit", "daemon.hostnames:Hostnames.tend", "wire.idlers:Idlers.tend",
    "model.health:Health.expire", "daemon.checks:Checks.tend_all", "wire.subprocesses:Children.reap",
    "daemon.janitor:tend_sessions", "daemon.front:Front.evict_excess", "daemon.front:Front.resume"])
def test_the_janitor_goes_on(faulty: Start, servers: Serve, place: str) -> None:
    balancer = faulty(place, "-O", "idle_timeout 1", LOCAL, servers(hold).address)
    with balancer.failing(), contextlib.ExitStack() as stack:
        balancer.has_failed(3)
        assert balancer.tracebacks == 1
        if place == "daemon.front:Front.resume":
            return  # whatever ends fails by it
        sock = stack.enter_context(balancer.gpen.connect())
        if not place.endswith(":tend_sessions"):
            assert sock.recv(1) == b"", "it was idle"
        assert balancer.tracebacks == 1
    with balancer.gpen.connect() as sock:
        assert sock.recv(1) == b""


@pytest.mark.parametrize(("place", "setting"), [
    ("wire.shaping:Shaper._go_on", "bandwidth 100k"), ("wire.shaping:Meter._give", "bandwidth_total 100k"),
    ("wire.throttle:Throttle._go_on", "connection_rate 1/0.3")])
def test_who_waits_for_time_to_pass_waits_no_longer_than_it_fails(faulty: Start, servers: Serve, place: str,
                                                                  setting: str) -> None:
    balancer = faulty(place, "-O", setting, LOCAL, servers(sending(b"x" * 20_000)).address)
    with balancer.failing(), balancer.gpen.connect() as first, balancer.gpen.connect() as second:
        balancer.has_failed(2)
        balancer.trigger.rename(f"{balancer.trigger}.gone")
        assert len(read_all(first)) == len(read_all(second)) == 20_000
        balancer.trigger.touch()
    assert balancer.tracebacks == 1


def test_sessions_become_quiet_behind_a_fault(faulty: Start, servers: Serve) -> None:
    balancer = faulty("wire.quiet:Quieter._look", "-O", "quiet 0.05", LOCAL, servers(echo).address)
    with balancer.gpen.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        with balancer.failing():
            balancer.gpen.ctl("close server 0 quiet")
            balancer.has_failed(2)
        assert sock.recv(1) == b""
    assert balancer.tracebacks == 1


def test_one_session_that_can_not_be_tended_costs_no_other(faulty: Start, servers: Serve) -> None:
    balancer = faulty("wire.session:Session._tend_last_bytes", LOCAL, servers(hold).address)
    with balancer.gpen.connect() as first, balancer.gpen.connect() as second:
        wait_until(lambda: len(balancer.gpen.json("sessions")) == 2)
        with balancer.failing():
            for sock in (first, second):
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
    balancer.gpen.wait_idle()


def test_one_that_waits_and_can_not_be_tended_costs_no_other(faulty: Start, servers: Serve) -> None:
    """Who tends it is not the hub, and goes on."""
    balancer = faulty("wire.session:Session.tend", "-O", "hold 60", LOCAL, f"{servers(hold).address}:1")
    with balancer.gpen.connect() as served, balancer.gpen.connect() as held:
        wait_until(lambda: [row["state"] for row in balancer.gpen.json("sessions")] == ["open", "held"])
        with balancer.failing():
            with pytest.raises(ConnectionResetError):
                served.recv(1)
            assert held.recv(1) == b""
    balancer.gpen.wait_idle()
    balancer.gpen.ctl("idle_timeout 1")
    with balancer.gpen.connect() as idle:
        assert idle.recv(1) == b""


@pytest.mark.parametrize("place", [
    "wire.session:Session._leave_client", "wire.relay:End.close",
    "wire.relay:End.half_close", "wire.conversation:Conversation._settle_accounts", "daemon.front:Front.ended"])
def test_a_session_that_can_not_be_closed(faulty: Start, servers: Serve, place: str) -> None:
    balancer = faulty(place, LOCAL, servers(naming("A")).address)
    with balancer.failing():
        for _ in range(5):
            with balancer.gpen.connect() as sock:
                assert sock.recv(1) == b"A"
        balancer.has_failed(5)
    for _ in range(10):
        assert balancer.gpen.ask() == b"A"
    wait_until(lambda: not balancer.gpen.json("sessions"), what="the end of all sessions")


@pytest.mark.parametrize("place", [
    "model.client:ClientTable.touch", "model.client:ClientTable.stick", "model.selector:Selector.permits",
    "model.selector:Selector.reserve", "wire.conversation:Conversation._settle_accounts", "wire.session:Session._relay",
    "wire.session:Session._leave_client", "wire.session:Session._limit", "daemon.front:Front.ended"])
def test_a_session_that_fails_counts_no_more(faulty: Start, servers: Serve, place: str) -> None:
    """A client may have as many as before."""
    balancer = faulty(place, "-O", "client_max 3", LOCAL, servers(naming("A")).address)
    with balancer.failing():
        for _ in range(5):
            with balancer.gpen.connect() as sock, contextlib.suppress(OSError):
                sock.recv(1)
        balancer.has_failed(5)
    wait_until(lambda: not balancer.gpen.json("sessions"), what="the end of all sessions")
    assert balancer.gpen.json("explain 127.0.0.1")["sessions"] == 0
    assert balancer.gpen.ask() == b"A"


@pytest.mark.parametrize("place", [
    "wire.flow:Flow._disconnect", "wire.flow:Flow._judge", "wire.flow:Flow._close", "wire.flow:Flow.stop",
    "wire.datagram:DatagramListener._close_if_unused", "daemon.front:Front.ended"])
def test_flows_that_can_not_be_closed_give_way(faulty: Start, place: str) -> None:
    with datagrams.DatagramServer(datagrams.echo) as server, contextlib.ExitStack() as stack:
        balancer = faulty(place, "-U", "-O", "conn_max 10", LOCAL, server.address)
        clients = [stack.enter_context(datagrams.client(balancer.gpen)) for _ in range(8)]
        for client in clients:
            assert answer(client) == b"x"
        with balancer.failing():
            balancer.gpen.ctl("conn_max 2")
            balancer.has_failed(1)
            cpu = balancer.gpen.cpu
            wait_until(lambda: len(balancer.gpen.json("sessions")) <= 2, 5, "room")
            assert balancer.gpen.cpu - cpu < 1
        assert answer(clients[0]) == answer(clients[7]) == b"x"


def answer(client: socket.socket) -> bytes:
    client.send(b"x")
    return client.recv(10)


@pytest.mark.parametrize("place", ["wire.check:Prober.probe", "daemon.checks:Checker._renew_plan",
                                   "daemon.checks:Checker._conclude", "daemon.checks:next_slot"])
def test_the_checks_go_on(faulty: Start, servers: Serve, place: str) -> None:
    server = servers(hold)
    balancer = faulty(place, "-O", "check connect", "-O", "check_interval 0.2", "-O", "check_fall 1", LOCAL,
                      server.address)
    with balancer.failing():
        balancer.has_failed(4)
        assert balancer.tracebacks == 1
    server.close()
    wait_until(lambda: balancer.gpen.server(0)["health"] == "down", what="a bad check")


@pytest.mark.parametrize("error", ['RuntimeError("on purpose")', 'OSError(errno.ENOMEM, "no memory")',
                                   'OSError(errno.EBADF, "bad")', "MemoryError()"])
@pytest.mark.parametrize("place", ["wire.poller:Poller._pass", "daemon.front:Front.no_room",
                                   "wire.greenlets:Greenlets.start", "daemon.front:Front._begin"])
def test_the_poller_goes_on(faulty: Start, servers: Serve, place: str, error: str) -> None:
    balancer = faulty(place, LOCAL, servers(naming("A")).address, error=error)
    address = balancer.gpen.address
    with balancer.failing(), connect(address):
        balancer.has_failed(1)
        assert balancer.gpen.ctl("pid"), "control clients are served"
        assert balancer.tracebacks == 1
    for _ in range(3):
        assert balancer.gpen.ask() == b"A"


def test_what_can_not_be_watched_is_held_against_no_server(faulty: Start, servers: Serve) -> None:
    """fs.epoll.max_user_watches is reached."""
    balancer = faulty("wire.poller:Poller.add", "-l", "gpen.log", LOCAL, servers(naming("A")).address,
                      error="OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    with balancer.failing():
        for _ in range(3):
            assert balancer.gpen.ask() == b""
    wait_until(lambda: balancer.gpen.log.count("\n") == 3, what="a line for each session")
    assert [line.split()[-1] for line in balancer.gpen.log.splitlines()] == ["local-error"] * 3
    assert balancer.gpen.server(0)["health"] == "up" and balancer.gpen.server(0)["failures"] == 0
    assert balancer.gpen.ask() == b"A"
    assert balancer.tracebacks == 0
    balancer.gpen.wait_idle()


def test_no_watch_for_the_front_socket(faulty: Start, servers: Serve) -> None:
    balancer = faulty("wire.poller:Poller.add", "-O", "conn_max 1", LOCAL, servers(hold).address,
                      error="OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))")
    with balancer.gpen.connect() as first, balancer.gpen.connect() as second:
        wait_until(lambda: balancer.gpen.json("sessions"))
        with balancer.failing():
            first.close()
            balancer.has_failed(2)
            assert balancer.gpen.stderr.count("No space left") == 1
        wait_until(lambda: balancer.gpen.json("sessions"))
        second.close()
    assert balancer.tracebacks == 0
