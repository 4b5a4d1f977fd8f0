"""Several listeners and their process: who may change them, its rights and root directory, its start and its end."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.daemon.conftest import ctl
from tests.harness import Gpen, Server, connect, echo, naming, needs_root, open_to_all, read_all, run_gpen, wait_until
from tests.listeners import HERE, names_of, own, told, visit
from tests.servers import free_port

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def test_what_a_client_of_a_control_port_may_do(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """As without the name of a listener: look, change servers, or all."""
    balancer = gpen("-u", "nobody", "-O", "control_access operate", *own("w"), control=f"127.0.0.1:{free_port()}",
                    servers=[servers(naming("a"))])
    assert balancer.ctl("listener w timeout", "listener w server 0 weight 2", "listener w client ::1 server 0") == "3\n"
    assert balancer.ctl("listener w servers 0", "listener w servers all", "listener w inherit server 0",
                        "listener w close server 0") == (
        "Closing 0 connections of server 0\n")
    (tmp_path / "more.cfg").write_text("listener w timeout 9\n")
    open_to_all(tmp_path)
    for line in ("listener w timeout 4", "listener w no timeout", "listener w inherit timeout",
                 "listener w listen 0", "listener v listen 0", "no listener w", "listener w tracking_with -"):
        assert "needs admin access" in balancer.ctl(line), line
    assert "needs admin access" in balancer.ctl(f"include {tmp_path}/more.cfg")
    assert balancer.ctl("listener w timeout") == "3\n" and names_of(balancer) == [None, "w"]


@needs_root
def test_in_a_chroot_and_as_another_user(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """The socket files and logs of all listeners, by the names that they have outside."""
    jail = tmp_path / "jail"
    jail.mkdir()
    open_to_all(jail)
    balancer = gpen("-j", str(jail), "-u", "nobody", *own("w", f"log {jail}/w.log", at=f"{jail}/w.sock"), *own("v"),
                    control=f"{jail}/gpen.ctl", servers=[servers(naming("a"))])
    assert (told(balancer, "w", 1), told(balancer, "v", 1)) == ("a", "a")
    wait_until(lambda: "listener w" in (jail / "w.log").read_text())
    (jail / "w.log").rename(jail / "w.log.1")
    balancer.signal(signal.SIGHUP)
    wait_until((jail / "w.log").exists)
    assert told(balancer, "w", 1) == "a"
    wait_until(lambda: (jail / "w.log").read_text())
    assert balancer.ctl(f"listener late listen {jail}/late.sock") == f"{jail}/late.sock\n"
    assert told(balancer, "late", 1) == "a"
    balancer.stop()
    assert not [path for path in jail.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]


def test_a_start_that_fails_leaves_nothing(servers: Serve, tmp_path: Path) -> None:
    """The listeners that were open by then are closed, and their files removed."""
    server = servers(naming("a"))
    done = run_gpen("-f", "-C", f"{tmp_path}/ctl", *own("u", at=f"{tmp_path}/u.sock"), *own("w", at=server.address),
                    *own("v", f"log {tmp_path}/v.log"), f"{tmp_path}/front.sock", server.address)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert server.address in done.stderr and "listener w" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_end(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """The sessions of all listeners end, and are logged where each logs; also those of one that was closed."""
    balancer = gpen("-l", "gpen.log", *own("w", f"log {tmp_path}/w.log"), *own("gone", f"log {tmp_path}/gone.log"),
                    servers=[servers(echo)])
    with ExitStack() as stack:
        socks = [stack.enter_context(visit(balancer, name)) for name in ("-", "w", "gone")]
        for sock in socks:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        balancer.ctl("no listener gone")
        balancer.stop()
        assert [read_all(sock) for sock in socks] == [b""] * 3
    for name, words in (("gpen", "Z server 0 "), ("w", " listener w server 0 "), ("gone", " listener gone server 0 ")):
        text = (tmp_path / f"{name}.log").read_text()
        assert (text.count("\n"), text.split()[-1], words in text) == (1, "shutdown", True)


def test_the_log_of_a_listener_that_was_closed(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """Its sessions are logged when they end, and then the file is closed; HUP reopens it meanwhile."""
    balancer = gpen(*own("w", f"log {tmp_path}/w.log"), servers=[servers(echo)])
    with visit(balancer, "w") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        balancer.ctl("no listener w")
        (tmp_path / "w.log").rename(tmp_path / "w.log.1")
        balancer.signal(signal.SIGHUP)
        wait_until((tmp_path / "w.log").exists)
    wait_until(lambda: " listener w server 0 " in (tmp_path / "w.log").read_text())
    wait_until(lambda: f"{tmp_path}/w.log" not in open_files(balancer.pid))


def open_files(pid: int) -> set[str]:
    """What a process holds open; what it closes at this moment may be missing."""
    paths = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            paths.add(os.readlink(link))
    return paths


def test_in_the_background(daemonize: Callable[..., int], servers: Serve, tmp_path: Path) -> None:
    daemonize(*own("w", at="./w.sock"), HERE, servers(naming("a")).address)
    with connect(str(tmp_path / "w.sock")) as sock:
        assert sock.recv(1) == b"a"
    assert ctl(tmp_path / "gpen.ctl", "listener w listen") == "./w.sock\n"
