"""Out of descriptors: alive and quiet, no server blamed, and serving again when they are back."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, address_of, connect, naming, wait_until

pytestmark = pytest.mark.one_process

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def limit(balancer: Gpen, soft: int) -> None:
    """Let the running gpen have this many descriptors."""
    hard = resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE, (soft, hard))


def cpu_share(balancer: Gpen, seconds: float) -> float:
    """The part of a core that gpen uses in that time."""
    used, start = balancer.cpu, time.monotonic()
    time.sleep(seconds)  # this is what is measured
    return (balancer.cpu - used) / (time.monotonic() - start)


def is_unblamed(balancer: Gpen) -> bool:
    return [(row["health"], row["failures"]) for row in balancer.json("servers")] == [("up", 0)] * 2


def test_none_to_accept_with(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", servers=[servers(naming("a")), servers(naming("b"))])
    address = balancer.address
    with ExitStack() as stack:
        early = [stack.enter_context(balancer.connect()) for _ in range(4)]
        assert {sock.recv(1) for sock in early} == {b"a", b"b"}
        limit(balancer, balancer.fds())
        late = [stack.enter_context(connect(address)) for _ in range(20)]
        control = stack.enter_context(connect(balancer.control))
        control.sendall(b"pid\n")
        assert cpu_share(balancer, 2) < 0.05
        for sock in early:  # those who are in are served
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        limit(balancer, 1000)
        assert {sock.recv(1) for sock in late} == {b"a", b"b"}
        assert control.recv(10) == f"{balancer.pid}\n".encode()
        assert is_unblamed(balancer)
    balancer.wait_idle()
    assert balancer.stderr.count("can't accept clients") <= 2


def test_none_to_connect_with(gpen: Start, servers: Serve) -> None:
    """A client was accepted, and waits until there is a descriptor for its server."""
    balancer = gpen("-r", "-t", "15", servers=[servers(naming("a")), servers(naming("b"))])
    address, before = balancer.address, balancer.fds()
    limit(balancer, before + 1)
    with connect(address) as sock:
        wait_until(lambda: balancer.fds() == before + 1)
        assert cpu_share(balancer, 2) < 0.05
        limit(balancer, 1000)
        assert sock.recv(1) == b"a"
        assert is_unblamed(balancer)
    balancer.wait_idle()


def test_none_in_time(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-t", "1", "-l", "gpen.log", servers=[servers(naming("a")), servers(naming("b"))])
    address, before = balancer.address, balancer.fds()
    limit(balancer, before + 1)
    with connect(address) as sock:
        assert sock.recv(1) == b""
    limit(balancer, 1000)
    assert is_unblamed(balancer)
    wait_until(lambda: balancer.log.endswith(" local-error\n"))


def test_sessions_leave_descriptors_for_control(gpen: Start, servers: Serve) -> None:
    """A lower limit is seen, and keeps room for what is not a session."""
    server = servers(naming("a"))
    balancer = gpen(servers=[server])
    address = balancer.address
    limit(balancer, 40)  # 10 sessions and as many descriptors to spare
    cpu_share(balancer, 1.5)  # the janitor looks once a second
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connect(address))
        wait_until(lambda: server.served == 10)
        assert len(balancer.json("sessions")) == 10
        limit(balancer, 1000)
        wait_until(lambda: server.served == 30)


def test_the_limit_is_raised_to_what_conn_max_needs(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-x", "700", servers=[servers(naming("a"))], wrapper=("prlimit", "--nofile=256:4096"))
    assert resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE)[0] >= 1400


def test_a_limit_that_can_not_be_raised_is_told(gpen: Start, servers: Serve) -> None:
    wrapper = ("prlimit", "--nofile=256", "setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    balancer = gpen("-x", "700", servers=[servers(naming("a"))], wrapper=wrapper)
    assert "conn_max 700 needs" in balancer.stderr
    assert "ulimit" in balancer.stderr
    assert balancer.ask() == b"a"


def test_a_change_that_fails_keeps_none(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """Whichever of its files and sockets is the one that can't be opened, and no socket's file stays either."""
    server = servers(naming("a"))
    busy, wrong = tmp_path / "busy.cfg", tmp_path / "wrong.cfg"
    busy.write_text(f"log {tmp_path}/other.log\nlisten {server.address}\n")
    wrong.write_text(f"log {tmp_path}/none/other.log\nlisten {tmp_path}/front\n")
    balancer = gpen("-l", "gpen.log", servers=[server])
    before = balancer.fds()
    for _ in range(10):
        assert "can't listen on" in balancer.ctl(f"include {busy}")
        assert "none/other.log" in balancer.ctl(f"include {wrong}")
    assert balancer.fds() == before
    assert not (tmp_path / "front").exists()
    assert balancer.ask() == b"a"


def test_a_flow_needs_one_descriptor(gpen: Start) -> None:
    """Of 40 descriptors 20 are spare: that is room for 10 sessions, but for 20 flows."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        balancer = gpen("-U", "-x", "30", servers=[address_of(server)])
        limit(balancer, 40)
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(30)]

        def flows() -> int:
            """How many there are of 30 that begin anew: the limit is measured once a second."""
            balancer.ctl("close server 0")
            for client in clients:
                client.sendto(b"x", balancer.address)
            return len(balancer.json("sessions"))

        wait_until(lambda: flows() == 20, what="20 flows")
