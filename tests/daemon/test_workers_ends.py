"""Worker processes that end, hang or stand still, and the end of all of them: what it costs, and what is told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.daemon.crew import (
    family_of,
    field_of,
    fork_server_of,
    is_echoed,
    owner_of,
    pids_of,
    rows_of,
    sort_by_worker,
    standing_still,
    stat_of,
    stop_process,
    talking,
    wait_gone,
    workers,
)
from tests.faulty import Faulty
from tests.harness import COMMAND, LOCAL, Gpen, Server, connect, echo, read_all, wait_until
from tests.servers import PATIENCE
from tests.tlsclient import TlsClient, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Iterator[Gpen]:
    """An echo that takes 6, two workers; clients are held, and each address may have 6 sessions."""
    started = gpen("-l", "gpen.log", *workers(2), "-O", "hold 20", "-O", "client_max 6",
                   servers=[f"{servers(echo).address}:6"])
    family = family_of(started.pid)
    yield started
    assert started.stop() == 0
    wait_gone(family, 3)


def events_of(balancer: Gpen, name: str = "worker ended") -> list[str]:
    """The causes of events of this name."""
    return [row["cause"] for row in balancer.json("events") if row["event"] == name]


def endings(balancer: Gpen) -> list[str]:
    """How the sessions of the log have ended."""
    return [line.split()[-1] for line in balancer.log.splitlines()]


def is_cut(sock: socket.socket) -> bool:
    """Whether the client sees that it is served no more, at once."""
    sock.settimeout(3)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_one_that_is_killed_costs_its_sessions_only(balancer: Gpen, number: signal.Signals) -> None:
    with talking(balancer, 6) as socks:
        pid = pids_of(balancer)[0]
        own, others = sort_by_worker(socks, pid)
        assert len(own) == len(others) == 3
        start = time.monotonic()
        os.kill(pid, number)
        assert all(map(is_cut, own))
        wait_until(lambda: balancer.server(0)["sessions"] == 3, 1)
        with talking(balancer, 3):  # by client_max and by the server's max, their places are free
            assert all(map(is_echoed, others))
        wait_until(lambda: len(rows_of(balancer)) == 2 and pid not in pids_of(balancer), 2)
        assert time.monotonic() - start < 5
        assert field_of(balancer, "number") == [0, 1]
        told, = wait_until(lambda: events_of(balancer))
        assert told == f"worker 0 (pid {pid}) ended by signal {number.value} ({number.name}): 3 sessions lost"
        assert balancer.stderr.count(told) == 1
        assert all(map(is_echoed, others))
    wait_until(lambda: balancer.log.count("\n") == 9)
    assert endings(balancer).count("worker-lost") == 3 and endings(balancer).count("client-closed") == 6
    balancer.wait_idle()


def test_one_that_is_told_to_end_gets_no_more_sessions(gpen: Start, servers: Serve) -> None:
    """It takes up to a second until it ends, which may be over at once."""
    balancer = gpen(*workers(2), servers=[servers(echo)])

    def others_get_all() -> bool:
        pid = wait_until(lambda: len(pids_of(balancer)) == 2 and pids_of(balancer)[0])
        os.kill(pid, signal.SIGTERM)
        with ExitStack() as stack:
            while pid in pids_of(balancer):
                sock = stack.enter_context(balancer.connect())
                with suppress(ConnectionError):
                    is_echoed(sock)
                first, *others = rows_of(balancer)
                if first["pid"] == pid and others and others[0]["sessions"] - first["sessions"] > 2:
                    return True
        return False

    assert any(others_get_all() for _ in range(5))


def test_no_more_than_one_a_second_is_forked(balancer: Gpen) -> None:
    """However often they are killed; afterwards all is as before."""
    killed, start = set[int](), time.monotonic()
    while time.monotonic() - start < 4:
        for pid in filter(None, field_of(balancer, "pid")):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            wait_until(lambda pid=pid: pid not in field_of(balancer, "pid"))  # type: ignore[misc]
    assert 4 <= len(killed) <= 2 + 5
    wait_until(lambda: len(pids_of(balancer)) == 2, 4)
    with talking(balancer, 6):
        assert field_of(balancer, "sessions") == [3, 3]
    balancer.wait_idle()
    assert len(events_of(balancer)) == len(killed)


def test_clients_that_come_while_there_is_none(balancer: Gpen) -> None:
    """They wait in the kernel until one is forked."""
    for pid in pids_of(balancer):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not rows_of(balancer) or not set(field_of(balancer, "total")) - {0})
    with talking(balancer, 6):
        wait_until(lambda: len(rows_of(balancer)) == 2, 3)


def test_one_that_ends_while_a_client_comes(gpen: Start, servers: Serve) -> None:
    """In one instant, where that may be seen when the client is given to it: the place that came free stays free."""
    balancer = gpen("-l", "gpen.log", *workers(1), servers=[f"{servers(echo).address}:1"])
    place, pid = balancer.address, pids_of(balancer)[0]
    with talking(balancer, 1):
        with standing_still(balancer.pid), connect(place) as late:
            late.sendall(b"late")
            os.kill(pid, signal.SIGKILL)
            wait_gone({pid}, 3)
        wait_until(lambda: len(endings(balancer)) == 2)
        assert endings(balancer)[0] == "worker-lost"  # the other one may have been served by the next worker
    balancer.wait_idle()
    wait_until(lambda: pids_of(balancer) != [pid])
    with talking(balancer, 1):
        pass


def test_a_held_client_is_lost_with_its_worker(balancer: Gpen) -> None:
    with talking(balancer, 6, "127.0.0.2"):
        sock, row = owner_of(balancer, balancer.connect)
        with sock:
            sock.sendall(b"x")
            wait_until(lambda: balancer.server(0)["held"] == 1)
            os.kill(row["pid"], signal.SIGKILL)
            assert is_cut(sock)
            wait_until(lambda: balancer.server(0)["held"] == 0, 1)
            wait_until(lambda: balancer.server(0)["sessions"] == 3, 1)
            with talking(balancer, 3):  # the place that came free is not given to who has gone
                pass
    balancer.wait_idle()


def test_a_held_client_gets_the_place_of_one_that_is_lost(balancer: Gpen) -> None:
    with talking(balancer, 6) as socks, balancer.connect("127.0.0.2") as held:
        held.sendall(b"held")
        wait_until(lambda: balancer.server(0)["held"] == 1)
        waits_at = max(rows_of(balancer), key=lambda row: row["sessions"])["pid"]
        other = next(pid for pid in pids_of(balancer) if pid != waits_at)
        own, _ = sort_by_worker(socks, other)
        os.kill(other, signal.SIGKILL)
        assert held.recv(10) == b"held"
        assert all(map(is_cut, own)) and own
    balancer.wait_idle()


def test_a_handshake_is_lost_with_its_worker(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = gpen("-l", "gpen.log", *workers(2), *certificates.server.options, servers=[servers(echo)])
    sock, row = owner_of(balancer, balancer.connect)
    with sock:
        sock.sendall(b"\x16\x03\x01")  # a ClientHello begins so
        os.kill(row["pid"], signal.SIGKILL)
        assert is_cut(sock)
    wait_until(lambda: "worker-lost" in balancer.log)
    for _ in range(4):
        with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
            assert is_echoed(client)
    balancer.wait_idle()


# --- the end of all ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loose(servers: Serve, tmp_path: Any) -> Iterator[tuple[subprocess.Popen[bytes], str, set[int]]]:
    """A gpen with two workers in a process group of its own: its process, where it listens, and its processes."""
    with (tmp_path / "err").open("w") as stderr, subprocess.Popen(
            [*COMMAND, "-f", "-C", str(tmp_path / "ctl"), "-l", str(tmp_path / "log"), *workers(2), LOCAL,
             servers(echo).address], cwd=tmp_path, stderr=stderr, start_new_session=True) as process:

        def ask(line: str) -> str:
            with connect(str(tmp_path / "ctl")) as sock:
                sock.sendall(f"{line}\n".encode())
                return read_all(sock).decode()

        try:
            wait_until((tmp_path / "ctl").exists)
            wait_until(lambda: ask("workers").count(" pid ") == 2 and " pid 0 " not in ask("workers"))
            family = family_of(process.pid)
            assert len(family) == 4
            yield process, ask("listen").strip(), family
            wait_gone(family, 0.1)
        finally:
            for pid in family_of(process.pid):
                os.kill(pid, signal.SIGKILL)
            print((tmp_path / "err").read_text())


@pytest.mark.parametrize("stopped", [False, True])
def test_without_the_main_process_none_is_left(loose: tuple[subprocess.Popen[bytes], str, set[int]], stopped: bool,
                                               ) -> None:
    process, place, family = loose
    host, _, port = place.rpartition(":")
    with connect((host, int(port))) as sock:
        assert is_echoed(sock)
        if stopped:
            for pid in family - {process.pid}:
                if stat_of(pid)[1] != str(process.pid):  # not the one that forks them
                    stop_process(pid)
        process.kill()
        wait_gone(family, 3)
        assert is_cut(sock)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_at_once(loose: tuple[subprocess.Popen[bytes], str, set[int]], number: signal.Signals,
                                 tmp_path: Any) -> None:
    """Of a terminal, or of a service manager: all ends in good order."""
    process, place, _ = loose
    host, _, port = place.rpartition(":")
    with ExitStack() as stack:
        socks = [stack.enter_context(connect((host, int(port)))) for _ in range(10)]
        assert all(map(is_echoed, socks))
        os.killpg(process.pid, number)
        assert process.wait(PATIENCE) == 0
        assert all(map(is_cut, socks))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["shutdown"] * 10
    assert all(" up 4 down 4 " in line for line in lines)
    told = (tmp_path / "err").read_text()
    assert "ended by" not in told and "Traceback" not in told


def test_the_fork_server_is_killed(balancer: Gpen) -> None:
    """The workers go on; that none can be forked any more is told, and no more than once."""
    server = fork_server_of(balancer)
    with talking(balancer, 4) as socks:
        os.kill(server, signal.SIGKILL)
        told, = wait_until(lambda: events_of(balancer))
        assert "forks workers" in told and balancer.stderr.count("forks workers") == 1
        assert all(map(is_echoed, socks))
        with talking(balancer, 2):
            assert field_of(balancer, "sessions") == [3, 3]
        assert balancer.ctl("timeout 7") == "7\n"
        own, others = sort_by_worker(socks, first := pids_of(balancer)[0])
        os.kill(first, signal.SIGKILL)
        assert all(map(is_cut, own))
        assert all(map(is_echoed, others))
        wait_until(lambda: len(rows_of(balancer)) == 1)
        assert is_echoed(others[0])
        assert balancer.ctl("timeout 8") == "8\n"
    balancer.wait_idle()


def test_one_that_fails_tells_why(faulty: Callable[..., Faulty], servers: Serve) -> None:
    one = faulty("daemon.worker:janitor.run", *workers(2), LOCAL, servers(echo).address)
    pid = pids_of(one.gpen)[0]
    with one.failing():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "ended with status 1: 0 sessions lost" in one.gpen.stderr)
        assert one.gpen.stderr.count("a worker failed") >= 1 and one.tracebacks >= 1
        assert "RuntimeError: on purpose" in one.gpen.stderr
    wait_until(lambda: len(pids_of(one.gpen)) == 2)
    with talking(one.gpen, 2):
        pass


def test_a_session_that_can_not_begin(faulty: Callable[..., Faulty], servers: Serve) -> None:
    one = faulty("daemon.worker:WorkerFront.begin", "-l", "gpen.log", *workers(2), LOCAL, servers(echo).address)
    with talking(one.gpen, 2) as socks, one.failing():
        with one.gpen.connect() as sock:
            assert is_cut(sock)
        wait_until(lambda: endings(one.gpen) == ["error"])
        assert all(map(is_echoed, socks))
    one.gpen.wait_idle()


def test_a_change_that_can_not_be_prepared(faulty: Callable[..., Faulty], servers: Serve) -> None:
    one = faulty("daemon.fork_server:tls_settings", *workers(2), LOCAL, servers(echo).address)
    pids_of(one.gpen)
    with one.failing():
        start = time.monotonic()
        told = one.gpen.ctl("proxy_protocol v1")
        assert told == "error: a process of gpen's failed: RuntimeError\n" and time.monotonic() - start < 5
    with talking(one.gpen, 2):
        assert one.gpen.ctl("proxy_protocol v1") == "v1\n"


def test_none_can_be_forked(faulty: Callable[..., Faulty], servers: Serve) -> None:
    """For the machine is short of something: that is told once, and tried again."""
    one = faulty("daemon.fork_server:os.fork", "-l", "gpen.log", *workers(2), LOCAL, servers(echo).address,
                 error="OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))")
    pids = pids_of(one.gpen)
    with one.failing():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        one.has_failed(3)
        assert len(events_of(one.gpen)) == 2
        assert one.gpen.stderr.count("can't fork a worker: Resource temporarily unavailable") == 1
        with connect(one.gpen.address) as sock:
            sock.sendall(b"waits")
            one.has_failed(5)
    wait_until(lambda: len(rows_of(one.gpen)) == 2 and len(pids_of(one.gpen)) == 2)
    with talking(one.gpen, 4):
        assert field_of(one.gpen, "sessions") == [2, 2]
    one.gpen.wait_idle()
    assert one.tracebacks == 0 and len(events_of(one.gpen)) == 2


# --- standing still ---------------------------------------------------------------------------------------------------


def test_one_that_hangs_is_told_of_and_replaced(balancer: Gpen) -> None:
    """It gets no sessions after 2 to 3 seconds, is told of after 10, and replaced after 30."""
    with talking(balancer, 4) as socks:
        pid = pids_of(balancer)[0]
        own, others = sort_by_worker(socks, pid)
        stop_process(pid)
        start = time.monotonic()
        wait_until(lambda: rows_of(balancer)[0]["silent"] >= 2, 5)
        assert time.monotonic() - start < 4
        with talking(balancer, 2):
            assert field_of(balancer, "sessions") == [2, 4]
        told, = wait_until(lambda: events_of(balancer, "worker hangs"), 12)
        assert 9 < time.monotonic() - start < 12.5
        assert told.startswith(f"worker 0 (pid {pid}) has given no sign for 10 s")
        assert re.search(rf"^{0} pid {pid} .* silent (9|1\d)$", balancer.ctl("workers"), re.MULTILINE)
        assert all(map(is_echoed, others))
        told, = wait_until(lambda: events_of(balancer), 25)
        assert 28 < time.monotonic() - start < 33
        assert "by signal 9" in told and "2 sessions lost" in told
        assert all(map(is_cut, own))
        wait_until(lambda: len(rows_of(balancer)) == 2, 3)
        assert all(map(is_echoed, others))
        assert len(events_of(balancer, "worker hangs")) == 1
    balancer.wait_idle()


def test_one_that_hangs_when_all_end(balancer: Gpen) -> None:
    """Its sessions have their lines in the log like all others, and it is killed."""
    with talking(balancer, 6) as socks:
        pid = pids_of(balancer)[0]
        stop_process(pid)
        assert balancer.stop() == 0
        wait_gone({pid}, 3)
        assert all(map(is_cut, socks))
    assert endings(balancer) == ["shutdown"] * 6


def test_a_main_process_that_stood_still_blames_nobody(balancer: Gpen) -> None:
    with talking(balancer, 4) as socks:
        with standing_still(balancer.pid):
            time.sleep(12)  # longer than a worker may be silent
            assert all(map(is_echoed, socks))
        time_was = balancer.json("workers")
        assert max(row["silent"] for row in time_was) <= 1
        assert events_of(balancer, "worker hangs") == events_of(balancer) == []
    balancer.wait_idle()
