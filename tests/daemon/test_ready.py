"""The command ready: whether clients can be served, and why not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.crew import fork_server_of, pids_of, workers
from tests.harness import LOCAL, PATIENCE, Gpen, Server, echo, free_port, hold, wait_until
from tests.listeners import own
from tests.replacing import old_ctl, replacing

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def why_not(balancer: Gpen, *words: str) -> str:
    """The reasons, without what each line begins with; empty where it is ready."""
    told = balancer.ctl(" ".join(("ready", *words)))
    assert told == "ready\n" or all(line.startswith("not ready: ") for line in told.splitlines()), told
    return "" if told == "ready\n" else told.replace("not ready: ", "").strip()


def test_what_is_said_of_the_servers(gpen: Start, servers: Serve) -> None:
    """By operators and by verdicts; a server that can be used makes it ready, whatever is said of the others."""
    balancer = gpen(servers=[servers(hold) for _ in range(3)])
    assert balancer.ctl("ready") == "ready\n"
    balancer.ctl("server 0 health down because test")
    balancer.ctl("server 1 state maint")
    assert why_not(balancer) == ""
    balancer.ctl("server 2 health drain")
    assert why_not(balancer) == "none of its 3 servers can be used: 1 down, 1 maint, 1 drain"
    balancer.ctl("server 1 state drain")
    assert why_not(balancer) == "none of its 3 servers can be used: 2 drain, 1 down"
    balancer.ctl("server 1 state ready")
    assert why_not(balancer) == ""
    for number in (1, 2):
        balancer.ctl(f"no server {number}")
    assert why_not(balancer) == "its only server can't be used: down"
    balancer.ctl("no server 0")
    assert why_not(balancer) == "it has no servers"


def test_a_weight_of_nothing(gpen: Start, servers: Serve) -> None:
    """Counts where the rule weighs, as for clients."""
    balancer = gpen("-W", servers=[servers(hold), servers(hold)])
    balancer.ctl("server 0 weight 0")
    assert why_not(balancer) == ""
    balancer.ctl("server 1 weight 0")
    assert why_not(balancer) == "none of its 2 servers can be used: 2 of weight 0"
    balancer.ctl("no weight")
    assert why_not(balancer) == ""


def test_a_server_that_is_found_dead(gpen: Start) -> None:
    """By a check. The emergency server counts, which is not checked: it is tried whatever is known of it."""
    dead = f"127.0.0.1:{free_port()}"
    balancer = gpen("-O", "check connect", "-O", "check_interval 0.2", servers=[dead])
    wait_until(lambda: why_not(balancer) == "its only server can't be used: down")
    balancer.ctl("emergency 127.0.0.1:9")
    assert why_not(balancer) == ""
    balancer.ctl("stubborn")
    assert why_not(balancer) == "its only server can't be used: down", "which does not fail over to that one"
    balancer.ctl("no stubborn", "no emergency")
    assert why_not(balancer) == "its only server can't be used: down"
    with Server(hold, port=int(dead.partition(":")[2])):
        wait_until(lambda: why_not(balancer) == "")


def test_a_blacklist(gpen: Start, servers: Serve) -> None:
    """As long as it lasts, though the next client would try that server all the same; then the server is on trial, and
    may be back."""
    server = servers(hold)
    balancer = gpen(servers=[server])
    balancer.ctl("server 0 blacklist 1")
    assert why_not(balancer) == "its only server can't be used: down"
    wait_until(lambda: why_not(balancer) == "")
    assert balancer.server(0)["health"] == "trial"


def test_what_is_full_is_ready(gpen: Start, servers: Serve) -> None:
    """An address that is moved for its load takes the load with it."""
    server = servers(hold)
    balancer = gpen("-O", "conn_max 2", servers=[f"{server.address}:1"])
    with balancer.connect(), balancer.connect():
        wait_until(lambda: balancer.json("info")["sessions"] >= 1)
        assert why_not(balancer) == ""


def test_of_one_listener(tmp_path: Path, servers: Serve) -> None:
    """Without a name it is of those that listen."""
    options = [word for number in range(3) for word in ("-O", f"server {number} address {servers(hold).address}")]
    with Gpen(tmp_path, *own("writer", "servers 1"), *own("reader", "servers 0,2"), *options) as balancer:
        assert "there is no listener of this name (known: writer, reader)" in balancer.ctl("ready nowhere")
        assert why_not(balancer, "-") == "listener -: it does not listen"
        assert why_not(balancer) == why_not(balancer, "writer") == ""
        assert balancer.json("ready writer") == {"ready": True, "reasons": [], "listeners": {"writer": True}}
        balancer.ctl("server 1 state maint")
        reason = "listener writer: its only server can't be used: maint"
        assert why_not(balancer, "writer") == why_not(balancer) == reason
        assert why_not(balancer, "reader") == ""
        assert balancer.json("ready") == {
            "ready": False, "reasons": [reason], "listeners": {"writer": False, "reader": True}}
        assert balancer.ctl("ready writer reader").startswith("error: ready: 'reader' is too much")


def test_of_routes(gpen: Start, servers: Serve) -> None:
    """Servers count that a client can get: not the listener's own, where those that no route matches are rejected or go
    elsewhere."""
    balancer = gpen(*own("w", "servers 0", "route sni a.test servers 1"), *own("dns", "udp"),
                    "-O", "route default reject", servers=[servers(hold), servers(hold)])
    assert why_not(balancer, "dns") == "", "which heeds none"
    assert why_not(balancer, "-") == "listener -: its routes reject everybody"
    balancer.ctl("server 0 state maint")
    assert why_not(balancer, "w") == ""
    balancer.ctl("server 0 state ready", "server 1 state maint")
    assert why_not(balancer, "w") == ""
    balancer.ctl("listener w route default reject")
    assert why_not(balancer, "w") == "listener w: its only server can't be used: maint"
    balancer.ctl("listener w route default servers 1")
    assert why_not(balancer, "w") == "listener w: its only server can't be used: maint"
    balancer.ctl("listener w emergency 127.0.0.1:9")
    assert why_not(balancer, "w") == ""
    balancer.ctl("listener w route default reject", "listener w route sni a.test reject")
    assert why_not(balancer, "w") == "listener w: its routes reject everybody"


def test_who_asks_changes_nothing(gpen: Start, servers: Serve) -> None:
    """No server's turn passes, and no trial ends; it is no session either."""
    balancer = gpen("-r", servers=[servers(hold) for _ in range(3)])
    with ExitStack() as clients:
        for turn in range(6):
            for _ in range(5):
                assert balancer.ctl("ready") == "ready\n"
            clients.enter_context(balancer.connect())
            wait_until(lambda: balancer.json("info")["sessions"] == turn + 1)  # noqa: B023 (it is awaited here)
        assert [row["sessions"] for row in balancer.json("servers")] == [2, 2, 2]
    assert balancer.json("info")["total"] == 6


def test_one_that_was_replaced(tmp_path: Path, servers: Serve) -> None:
    """The old one says so, and the new one is ready."""
    arguments = (LOCAL, servers(echo).address)
    with Gpen(tmp_path, *arguments) as old, old.connect():
        wait_until(lambda: old.json("sessions"))
        with replacing(old, arguments=arguments) as new:
            assert new.ctl("ready") == "ready\n"
            assert old_ctl(old, "ready") == f"not ready: pid {new.pid} has replaced it: ask that one\n"


def test_one_that_is_stopping(gpen: Start, servers: Serve) -> None:
    """As long as the last sessions are brought to their end. Who has asked to stay can see it."""
    balancer = gpen(servers=[servers(hold)])
    with socket.socket(socket.AF_UNIX) as client, balancer.connect():
        client.connect(balancer.control)
        client.settimeout(10)
        client.sendall(b"stay\nready\n")
        assert client.recv(99) == b"ready\n"
        balancer.signal(signal.SIGTERM)
        said = b"ready\n"
        while said == b"ready\n":
            client.sendall(b"ready\n")
            said = client.recv(99)
        assert said in (b"not ready: it is stopping\n", b"")
        assert balancer.process.wait(PATIENCE) == 0


def test_without_a_worker(gpen: Start, servers: Serve) -> None:
    """When all have ended and none can be forked, TCP is not served; UDP is, by the main process."""
    balancer = gpen(*workers(2), *own("dns", "udp"), servers=[servers(hold)])
    wait_until(lambda: len(pids_of(balancer)) == 2)
    assert why_not(balancer) == ""
    for pid in (fork_server_of(balancer), *pids_of(balancer)):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: why_not(balancer) == "listener -: no worker process serves")
    assert why_not(balancer, "dns") == ""


@pytest.mark.parametrize("is_ready", [True, False])
def test_many_servers(gpen: Start, tmp_path: Path, is_ready: bool) -> None:
    """4,000 of them: the answer comes at once where one of the first can be used, and soon where none can."""
    balancer = gpen()
    lines = [f"server {number} address 127.0.0.1:9{'' if is_ready else ' state maint'}" for number in range(4000)]
    (tmp_path / "many.cfg").write_text("\n".join(lines))  # one change; 4,000 take 3 s, and 20 on a busy machine
    assert balancer.ctl(f"include {tmp_path}/many.cfg") == ""
    expected = "" if is_ready else "none of its 4000 servers can be used: 4000 maint"
    assert why_not(balancer) == expected
    before = balancer.cpu
    for _ in range(100):
        balancer.ctl("ready")
    assert balancer.cpu - before < (0.3 if is_ready else 1.5)  # 0.03 and 0.15, where nobody else works
