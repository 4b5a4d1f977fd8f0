"""gpen as its own server: refused, or down where a name turns out to mean it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, naming, needs_root, run_gpen, seeing, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

@pytest.mark.parametrize(("listen", "server"), [
    ("127.0.0.5:{}", "127.0.0.5:{}"), ("127.0.0.1:{}", "localhost:{}"), ("{}", "127.0.0.77"), ("{}", "localhost"),
    ("[::]:{}", "127.0.0.77:{}"), ("[::]:{}", "[::1]"), ("[::1]:{}", "[::1]"), ("127.0.0.1:{}", "[::ffff:127.0.0.1]"),
    ("-U {}", "127.0.0.77"), ("-U 127.0.0.1:{}", "localhost"), ("127.0.0.5:{}", "127.0.0.1:1 -e 127.0.0.5"),
    ("127.0.0.1:{}", "127.0.0.1:1 -B localhost"),
])
def test_it_is_refused_at_start(listen: str, server: str) -> None:
    port = free_port("-U" in listen)
    for flag in ("--check", "-f"):
        done = run_gpen(flag, *listen.format(port).split(), *server.format(port).split())
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "is where gpen itself listens" in done.stderr


def free_port(udp: bool) -> int:
    with socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def test_a_path_is_its_file(tmp_path: Path, gpen: Start) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "front")
    for path in ("front", "x/../front", "link"):
        (tmp_path / "x").mkdir(exist_ok=True)
        done = run_gpen("-f", str(tmp_path / "front"), str(tmp_path / path))
        assert done.returncode == 2 and "is where gpen itself listens" in done.stderr
        assert not (tmp_path / "front").exists()
    balancer = gpen(listen=str(tmp_path / "front"), servers=["127.0.0.1:1"])
    assert "is where gpen itself listens" in balancer.ctl(f"server 0 address {tmp_path}/link")


def test_a_file_is_refused_with_its_line(tmp_path: Path, gpen: Start) -> None:
    port = free_port(udp=False)
    file = tmp_path / "gpen.cfg"
    file.write_text(f"server 0 address 127.0.0.6 port {port}\n\nserver 1 address 127.0.0.5 port {port}\n")
    for flag in ("--check", "-f"):
        done = run_gpen(flag, "-F", str(file), f"127.0.0.5:{port}")
        assert done.returncode == 2 and done.stderr.startswith(f"gpen: {file}:3: server 1: 127.0.0.5:{port} is where")
    balancer = gpen(listen=f"127.0.0.5:{port}", servers=["127.0.0.1:1"])
    before = balancer.ctl("servers")
    assert balancer.ctl(f"include {file}").startswith(f"error: {file}:3: server 1: ")
    assert balancer.ctl("servers") == before


@pytest.mark.parametrize("option", ["-r", "-U"])
def test_commands_are_refused(option: str, gpen: Start, servers: Serve) -> None:
    balancer = gpen(option, servers=[servers(naming("a"))])
    own = balancer.ctl("listen").strip()
    before = balancer.ctl("servers", "emergency", "listen")
    for line in (f"server 1 address {own}", f"server 0 address localhost port {own.rpartition(':')[2]}",
                 f"server 0 port {own.rpartition(':')[2]}", f"emergency {own}", f"abuse {own}"):
        reply = balancer.ctl(line)
        assert reply.startswith("error: ") and "is where gpen itself listens" in reply
    assert balancer.ctl("servers", "emergency", "listen") == before


def test_gpen_is_not_moved_to_where_a_server_is_thought(gpen: Start) -> None:
    """Where nobody listens, gpen could."""
    port = free_port(udp=False)
    balancer = gpen(servers=["127.0.0.1:1", f"127.0.0.5:{port}"])
    before = balancer.ctl("listen")
    for listen in (f"127.0.0.5:{port}", str(port), f"[::]:{port}"):
        assert f"server 1: 127.0.0.5:{port} is where gpen itself listens" in balancer.ctl(f"listen {listen}")
    assert balancer.ctl("listen") == before
    assert balancer.ctl(f"listen 127.0.0.6:{port}") == f"127.0.0.6:{port}\n"


@needs_root
@pytest.mark.parametrize("special", [False, True])
def test_a_name_that_turns_out_to_mean_gpen(gpen: Start, servers: Serve, tmp_path: Path, special: bool) -> None:
    hosts, port = tmp_path / "hosts", free_port(udp=False)
    hosts.write_text("127.0.0.1 localhost\n127.0.0.8 web.test\n")
    b = servers(naming("b"))
    places = (("-e", f"web.test:{port}"), ["127.0.0.1:1"]) if special else (("-r",), [f"web.test:{port}", b])
    balancer = gpen("-b", "0", *places[0], servers=places[1], listen=f"127.0.0.5:{port}",
                    wrapper=seeing({"/etc/hosts": hosts}))
    hosts.write_text("127.0.0.5 web.test\n")

    def row() -> dict[str, object]:
        balancer.ask()
        return next(row for row in balancer.json("servers") if row["host"] == "web.test")

    wait_until(lambda: row()["verdict"] == "down", 20)
    reason = f"its name means gpen itself, 127.0.0.5:{port}"
    assert (row()["health"], row()["reason"], row()["verdict_by"]) == ("down", reason, "address")
    assert balancer.ask() == (b"" if special else b"b") and reason in balancer.ctl("explain 192.0.2.1")
    assert balancer.ctl("debug 1", "server 1 max 5" if not special else "server 0 max 5") == "1\n", "others go through"
    assert balancer.ctl(f"listen 127.0.0.6:{port}") == f"127.0.0.6:{port}\n"
    assert row()["verdict"] is None, "gpen is somewhere else now"
    assert balancer.ctl(f"listen 127.0.0.5:{port}").startswith("error: ")


@needs_root
def test_a_name_that_means_gpen_and_another(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """As where the balancer's machine is one of a cluster's: the other serves, at the start and later."""
    hosts, a = tmp_path / "hosts", servers(naming("a"), at="127.0.0.8")
    hosts.write_text("127.0.0.1 localhost\n127.0.0.5 both.test\n127.0.0.8 both.test\n127.0.0.8 later.test\n")
    balancer = gpen("-r", "-O", "name_refresh 1", servers=[f"both.test:{a.port}", f"later.test:{a.port}"],
                    listen=f"127.0.0.5:{a.port}", wrapper=seeing({"/etc/hosts": hosts}))
    assert [balancer.ask() for _ in range(4)] == [b"a"] * 4
    hosts.write_text(hosts.read_text() + "127.0.0.5 later.test\n127.0.0.9 later.test\n")
    wait_until(lambda: "'later.test' is" in balancer.stderr)  # which the second of them makes known
    assert [balancer.ask() for _ in range(4)] == [b"a"] * 4
    assert {row["health"] for row in balancer.json("servers")} == {"up"}
