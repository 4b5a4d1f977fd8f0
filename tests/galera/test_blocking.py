"""A server blocks the address of who leaves too often without a login: gpen itself is no such client, the watcher sees
the limit, and what docs/GALERA.md has for a remedy is one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.galera.cluster import home
from tests.galera.lone import LIMIT, Lone, log_in
from tests.galera.test_traces import opened
from tests.galera.watcher import COMMAND, Watcher, credentials
from tests.harness import PATIENCE, ROOT, Gpen, needs_root, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(90), needs_root]

Start = Callable[..., Any]
EXAMPLE = ROOT / "contrib" / "galera" / "galera.cnf"
GRANTS = EXAMPLE.with_name("grants.sql")
MANY = 4 * LIMIT
CHECKS = 300


@pytest.fixture(scope="module")
def lone() -> Iterator[Lone]:
    with home() as directory, Lone(directory / "server") as server:
        yield server


@pytest.fixture
def server(lone: Lone) -> Lone:
    """The server that remembers nothing bad of gpen, and blocks it after LIMIT connections."""
    lone.make_usual()
    return lone


@pytest.fixture
def front(server: Lone, gpen: Start) -> Callable[..., Gpen]:
    """Start a gpen before the server, whose connections come from an address that counts."""
    return lambda *options: gpen("-r", "-O", "mysql", "-O", f"source {server.balancer}", *options,
                                 servers=[server.address])


def leave(front: Gpen, source: str = "") -> None:
    """Come, read the greeting, and go without a word."""
    with front.connect(source) as sock:
        assert sock.recv(1) != b""


def refusal(front: Gpen, **more: Any) -> int:
    """The error that an application gets."""
    with pytest.raises(pymysql.err.OperationalError) as error:
        log_in(front.address, **more)
    return int(error.value.args[0])


# --- what clients do, and the remedies --------------------------------------------------------------------------------


@pytest.mark.parametrize("undo", ["FLUSH HOSTS", "SET GLOBAL max_connect_errors = 4294967295"])
def test_clients_that_leave_have_gpen_blocked_until_that_is_undone(
        server: Lone, front: Callable[..., Gpen], undo: str) -> None:
    balancer = front("-b", "0.1")
    for _ in range(LIMIT):
        leave(balancer)
    wait_until(lambda: server.errors() == LIMIT, what="the count")
    assert refusal(balancer) == 1047
    assert "error 1129" in balancer.server(0)["reason"] and "is blocked" in balancer.server(0)["reason"]
    server.sql(undo)
    wait_until(lambda: comes_through(balancer), what="a login")
    assert server.errors() == 0


def comes_through(balancer: Gpen) -> bool:
    try:
        log_in(balancer.address)
    except pymysql.err.OperationalError:
        return False
    return True


def test_a_login_begins_the_count_anew(server: Lone, front: Callable[..., Gpen]) -> None:
    balancer = front()
    for _ in range(4):
        for _ in range(LIMIT - 1):
            leave(balancer)
        wait_until(lambda: server.errors() == LIMIT - 1, what="the count")
        log_in(balancer.address)
    assert refusal(balancer, password="wrong") == 1045
    assert server.errors() == 0


def test_a_high_limit_is_a_remedy(server: Lone, front: Callable[..., Gpen]) -> None:
    """The line of contrib/galera/galera.cnf."""
    balancer = front()
    (line,) = [line for line in EXAMPLE.read_text().splitlines() if line.startswith("max_connect_errors")]
    server.sql(f"SET GLOBAL {line}")
    assert server.sql("SELECT @@max_connect_errors") == [(int(line.split()[-1]),)]
    for _ in range(MANY):
        leave(balancer)
    wait_until(lambda: server.errors() == MANY, what="the count")
    log_in(balancer.address)


def test_the_proxy_protocol_is_a_remedy(server: Lone, front: Callable[..., Gpen]) -> None:
    """Who leaves has his own address blocked, and nobody else's."""
    server.sql(f"SET GLOBAL proxy_protocol_networks = '{server.balancer}'")
    balancer = front("-O", "proxy_protocol v2")
    bad, good = f"{server.net}66", f"{server.net}77"
    for source in (bad, good):
        log_in(balancer.address, bind_address=source)
    for _ in range(LIMIT):
        leave(balancer, bad)
    wait_until(lambda: server.errors(bad) == LIMIT, what="the count")
    with pytest.raises(pymysql.MySQLError):  # 1129, in a packet that PyMySQL finds out of order
        log_in(balancer.address, bind_address=bad)
    log_in(balancer.address, bind_address=good)
    assert (server.errors(), server.errors(good)) == (0, 0)


# --- what gpen does itself --------------------------------------------------------------------------------------------


def test_the_checks_that_gpen_allows_count_nothing(server: Lone, front: Callable[..., Gpen], tmp_path: Path) -> None:
    aborted = server.status("Aborted_connects")
    program = " ".join([*COMMAND, "check", f"--defaults-file={credentials(tmp_path)}"])
    begun = opened()
    balancer = front("-O", "check connect", "-O", "check_interval 0.01")
    wait_until(lambda: opened() - begun > CHECKS, 40, f"{CHECKS} checks")
    assert balancer.server(0)["verdict_reason"] == "listens"
    queries = server.status("Com_show_variables")
    balancer.ctl("check_timeout 10", f'check exec "{program}"')
    wait_until(lambda: server.status("Com_show_variables") >= queries + LIMIT + 1, 40, "checks by the program")
    assert balancer.server(0)["verdict_reason"] == "Synced"
    balancer.ctl("check off")
    log_in(balancer.address)
    assert (server.errors(), server.status("Aborted_connects")) == (0, aborted)


def test_whom_a_frozen_server_has_kept_waiting_is_not_counted(server: Lone, front: Callable[..., Gpen]) -> None:
    balancer = front("-O", "greeting 0.3", "-b", "0.1")
    with server.frozen(), ExitStack() as stack:
        clients = [stack.enter_context(balancer.connect()) for _ in range(MANY)]
        for client in clients:
            assert b"gpen: no server is usable" in client.recv(1000)
    wait_until(lambda: comes_through(balancer), what="a login")
    assert server.errors() == 0


def test_a_check_that_a_frozen_server_keeps_waiting_is_not_counted(server: Lone, tmp_path: Path) -> None:
    """Its address is 127.0.0.1, of which no server keeps a record; so that it was not there to be recorded is asked."""
    before = server.status("Connection_errors_peer_address")
    with server.frozen():
        for _ in range(2):
            done = subprocess.run([*COMMAND, "check", f"--defaults-file={credentials(tmp_path)}", "--timeout=0.2",
                                   server.address], capture_output=True, text=True, timeout=PATIENCE, check=False)
            assert (done.returncode, done.stdout) == (1, "no answer for 0.2 s\n")
    wait_until(lambda: server.status("Connection_errors_peer_address") == before + 2, what="two who were gone")


# --- the watcher ------------------------------------------------------------------------------------------------------


def node(judge: Watcher) -> Any:
    (row,) = json.loads(judge.command("status", "--json").stdout)["nodes"]
    return row


def warnings(judge: Watcher) -> list[str]:
    return [line for line in judge.stderr.splitlines() if "max_connect_errors" in line]


def test_the_watcher_warns_once_of_each_low_limit(
        server: Lone, front: Callable[..., Gpen], watcher: Callable[..., Watcher]) -> None:
    balancer = front()
    judge = watcher("--reader", balancer.control, "--interval", "0.05")
    wait_until(lambda: balancer.server(0)["verdict"] == "up", what="a verdict")
    (warning,) = warnings(judge)
    assert f"node {server.address} (lone): max_connect_errors is {LIMIT}: " in warning
    assert "1129" in warning and "4294967295" in warning and "proxy_protocol" in warning
    row, table = node(judge), judge.command("status")
    assert (row["max_connect_errors"], row["blocks"], row["warning"] in warning) == (LIMIT, True, True)
    assert table.returncode == 0 and f"\n\n{server.address}: {row['warning']}\n\n" in table.stdout
    server.sql("SET GLOBAL max_connect_errors = 7")
    wait_until(lambda: len(warnings(judge)) == 2, what="the other limit being told")
    balancer.ctl("proxy_protocol v2")  # which this server does not understand from here, but that is gpen's to see
    wait_until(lambda: node(judge)["warning"] == "", what="the watcher seeing that clients' addresses are told")
    balancer.ctl("proxy_protocol off")
    wait_until(lambda: len(warnings(judge)) == 3, what="the warning")
    server.sql("SET GLOBAL max_connect_errors = 4294967295")
    wait_until(lambda: (node(judge)["max_connect_errors"], node(judge)["warning"]) == (4294967295, ""))
    assert len(warnings(judge)) == 3
    assert f"\n\n{server.address}: max_connect_errors is 4294967295\n\n" in judge.command("status").stdout


def test_where_the_server_remembers_no_hosts_there_is_nothing_to_warn_of(
        server: Lone, front: Callable[..., Gpen], watcher: Callable[..., Watcher]) -> None:
    size = server.sql("SELECT @@host_cache_size")[0][0]
    server.sql("SET GLOBAL host_cache_size = 0")
    try:
        balancer = front()
        judge = watcher("--reader", balancer.control)
        wait_until(lambda: balancer.server(0)["verdict"] == "up", what="a verdict")
        assert warnings(judge) == []
        assert (node(judge)["max_connect_errors"], node(judge)["blocks"]) == (LIMIT, False)
        assert f": max_connect_errors is {LIMIT} (without effect: it rem" in judge.command("status").stdout
        for _ in range(MANY):
            leave(balancer)
        log_in(balancer.address)
    finally:
        server.sql(f"SET GLOBAL host_cache_size = {size}")


# --- what contrib/galera has beside ----------------------------------------------------------------------------------


def test_its_grants_can_be_run_again(server: Lone) -> None:
    for _ in range(2):
        for statement in filter(str.strip, GRANTS.read_text().split(";")):
            server.sql(statement)
    (granted,) = (row for row in server.sql("SHOW GRANTS FOR watcher@'10.0.0.%'") if "`gpen`" in row[0])
    assert granted[0].startswith("GRANT SELECT, INSERT, UPDATE, CREATE ON `gpen`.*")
