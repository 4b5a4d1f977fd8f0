"""What worker processes leave behind: descriptors, lines of the log, memory; and how they are confined."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from gpen.core import CORE
from tests.certificates import Certificates
from tests.daemon.conftest import ctl
from tests.daemon.crew import (
    family_of,
    fork_server_of,
    is_echoed,
    pids_of,
    rows_of,
    stat_of,
    talking,
    wait_gone,
    workers,
)
from tests.daemon.test_hold import wait_held
from tests.daemon.test_process import status_of
from tests.daemon.test_tls_files import copy
from tests.harness import (
    COMMAND,
    LOCAL,
    Gpen,
    Server,
    connect,
    echo,
    naming,
    needs_root,
    open_to_all,
    pair_of,
    refusing,
    reset,
    wait_until,
)
from tests.tlsclient import TlsClient, trusting
from tests.workers import burst

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
LINE = re.compile(r"127\.0\.0\.1:(\d+) \S+Z server \d \S+ choose \S+ connect \S+ total \S+ up 1 down 1 client-closed")
COST = 6 << 20 if CORE.is_used_compiled else 13 << 19  # bytes that a worker may cost: 6 and 6.5 MiB
MOST = 1000  # clients at one time


# --- descriptors ------------------------------------------------------------------------------------------------------


def descriptors(balancer: Gpen) -> list[int]:
    """How many each process has."""
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (balancer.pid, fork_server_of(balancer), *pids_of(balancer))]


def come_and_go(balancer: Gpen) -> None:
    """One client of each kind."""
    for leave in (socket.socket.close, reset):
        sock = balancer.connect()
        assert is_echoed(sock)
        leave(sock)
        leave(balancer.connect())
    with balancer.connect("127.0.0.2") as sock:  # denied
        assert sock.recv(1) == b""


def hold_and_leave(balancer: Gpen) -> None:
    """Clients that wait for a server, and leave."""
    balancer.ctl("server 1 health down")
    with ExitStack() as stack:
        for number in range(10):
            stack.enter_context(balancer.connect())
            wait_held(balancer, number + 1)
    balancer.ctl("server 1 health up")


def fail_in_the_handshake(balancer: Gpen) -> None:
    for greeting in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01", b""):
        with balancer.connect() as sock, suppress(ConnectionError):
            sock.sendall(greeting)
            if len(greeting) > 3:
                sock.recv(100)


def test_no_descriptor_is_left(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    with refusing() as nobody:
        balancer = gpen("-r", *workers(2), "-b", "0", "-O", "hold 20", "-O", "acl 1 deny 127.0.0.2", "-O",
                        "acl 1 permit 0.0.0.0/0", "-O", "client_acl 1", servers=[nobody, servers(echo)])

        def round(count: int) -> None:
            for _ in range(count):
                come_and_go(balancer)
            hold_and_leave(balancer)
            file = certificates.server.in_one(balancer.directory / "pem")
            balancer.ctl(f"ssl_certificate {file}")
            for _ in range(count):
                fail_in_the_handshake(balancer)
                with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
                    assert is_echoed(client)
            balancer.ctl("no ssl_certificate")
            balancer.wait_idle()

        round(5)
        before = descriptors(balancer)
        round(60)
        wait_until(lambda: descriptors(balancer) <= before)
        assert [row["sessions"] for row in balancer.json("recent")] == [0] * len(balancer.json("recent"))
        assert balancer.json("explain 127.0.0.1")["sessions"] == 0
        assert [row["sessions"] for row in rows_of(balancer)] == [0, 0]


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_line_for_each_session_and_none_torn(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-l", "gpen.log", "-x", str(MOST), *workers(2), servers=[servers(once), servers(once)])
    assert burst(balancer.address, 2000, 60) == {b"x": 2000}
    balancer.wait_idle()
    lines = balancer.log.splitlines()
    assert len(lines) == 2000
    assert [line for line in lines if not LINE.fullmatch(line.replace("server-closed", "client-closed"))] == []


def once(sock: socket.socket) -> None:
    """Send back a byte, and close."""
    sock.sendall(sock.recv(1))


def test_json(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-l", "gpen.log", "-O", "log_format json", "-x", str(MOST), *workers(2),
                    servers=[servers(once), servers(once)])
    assert burst(balancer.address, 400, 60) == {b"x": 400}
    balancer.wait_idle()
    rows = [json.loads(line) for line in balancer.log.splitlines()]
    assert len({row["client"] for row in rows}) == len(rows) == 400
    assert {(row["up"], row["down"]) for row in rows} == {(1, 1)}


def ask_each(balancer: Gpen, count: int) -> None:
    """So many clients, each with a request of its own."""
    for number in range(count):
        balancer.ask(b"GET /%d HTTP/1.0\r\n\r\n" % number)


def test_pen(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "log_format pen", *workers(2), servers=[servers(echo)])
    ask_each(balancer, 50)
    wait_until(lambda: balancer.log.count("\n") == 50)
    assert re.findall(r"^127\.0\.0\.1 \d{10} 127\.0\.0\.1 GET /(\d+) HTTP/1\.0$", balancer.log, re.MULTILINE) == [
        str(number) for number in range(50)]


def test_over_the_network(gpen: Start, servers: Serve) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        balancer = gpen("-l", f"127.0.0.1:{sock.getsockname()[1]}", *workers(2), servers=[servers(echo)])
        ask_each(balancer, 20)
        told = sorted(int(re.findall(rb"GET /(\d+) HTTP", sock.recv(1000))[0]) for _ in range(20))
        assert told == list(range(20))
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1000)


def test_bytes_are_shown_in_whole_lines(gpen: Start, servers: Serve) -> None:
    """By one process, though others have them."""
    balancer = gpen("-dd", "-a", "-x", str(MOST), *workers(2), servers=[servers(once)])
    assert burst(balancer.address, 200, 60) == {b"x": 200}
    balancer.wait_idle()
    for whence in ("client", "server"):
        shown = re.findall(rf"^\S+ \S+: session (\d+): 1 bytes? from the {whence}: x$", balancer.stderr, re.MULTILINE)
        assert sorted(map(int, shown)) == list(range(200))
    assert not [line for line in balancer.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(pids: set[int]) -> int:
    """Bytes of memory, what is shared counted once (PSS)."""
    return 1024 * sum(int(re.findall(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0])
                      for pid in pids)


def test_what_a_worker_costs(gpen: Start, servers: Serve) -> None:
    """When each has served 50 sessions."""
    used = []
    for count in (2, 6):
        balancer = gpen(*workers(count), servers=[servers(echo)], is_executed=True)
        with talking(balancer, 50 * count):
            pass
        balancer.wait_idle()
        used.append(memory(family_of(balancer.pid)))
        assert balancer.stop() == 0
    cost = (used[1] - used[0]) / 4
    print(f"a worker costs {cost / 2**20:.2f} MiB")
    assert 0 < cost < COST


# --- in the background, as another user, in a chroot ------------------------------------------------------------------


def test_no_process_keeps_the_terminal(tmp_path: Path, servers: Serve) -> None:
    """What is piped from the command that starts it ends with the command."""
    command = [*COMMAND, "-p", "gpen.pid", "-C", f"{tmp_path}/gpen.ctl", *workers(2), LOCAL, servers(echo).address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    pid = int((tmp_path / "gpen.pid").read_text())
    try:
        wait_until(lambda: len(family_of(pid)) == 4)
        family = family_of(pid)
        for each in family:
            assert {os.readlink(f"/proc/{each}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
            assert (os.getsid(each), stat_of(each)[4]) == (os.getsid(pid), "0")
            assert os.readlink(f"/proc/{each}/cwd") == os.readlink(f"/proc/{pid}/cwd")
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_gone(family, 5)


@needs_root
@pytest.mark.parametrize("jail", [False, True], ids=["user", "chroot"])
def test_workers_are_confined(gpen: Start, servers: Serve, tmp_path: Path, certificates: Certificates, jail: bool,
                              ) -> None:
    """They serve certificates that only root can read; also those that come in the place of others."""
    copy(certificates.server, tmp_path)
    os.chmod(tmp_path / "key", 0o600)
    open_to_all(tmp_path)
    balancer = gpen("-u", "nobody", *(("-j", str(tmp_path)) if jail else ()), *workers(2), "-E",
                    str(tmp_path / "certificate"), "-K", str(tmp_path / "key"), servers=[servers(echo)])

    def check() -> None:
        for pid in family_of(balancer.pid):
            status = status_of(pid)
            assert set(status["Uid"]) == {"65534"} and "0" not in [*status["Gid"], *status["Groups"]]
            assert int(status["CapEff"][0], 16) == int(status["CapPrm"][0], 16) == 0
            assert os.readlink(f"/proc/{pid}/root") == (str(tmp_path) if jail else "/")
        for _ in range(4):
            with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
                assert is_echoed(client)

    pids = pids_of(balancer)
    check()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(pids_of(balancer)) == 2 and not set(pids) & set(pids_of(balancer)))
    check()
    told = balancer.ctl("reload")  # which can't read them any more
    assert "the old certificates stay in force" in told and told.count("\n") == 2
    check()


@needs_root
def test_in_the_background_as_a_user(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    pid = daemonize("-u", "nobody", "-l", f"{tmp_path}/gpen.log", *workers(2), LOCAL, servers(naming("a")).address)
    family = wait_until(lambda: len(family := family_of(pid)) == 4 and family)
    assert all(set(status_of(each)["Uid"]) == {"65534"} for each in family)
    for _ in range(4):
        with connect(pair_of(ctl(tmp_path / "gpen.ctl", "listen").strip())) as sock:
            assert sock.recv(1) == b"a"
    os.kill(pid, signal.SIGTERM)
    wait_gone(family, 5)
    assert (tmp_path / "gpen.log").read_text().count("\n") == 4
    assert not (tmp_path / "gpen.pid").exists() and not (tmp_path / "gpen.ctl").exists()
