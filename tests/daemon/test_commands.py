"""The commands of the control socket, with live sessions going on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, naming, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    """Three servers, a, b and c, in turn."""
    return gpen("-r", "-l", "gpen.log", "-O", "acl 1 permit 10.0.0.0/8",
                servers=[servers(naming(name)) for name in "abc"])


@pytest.fixture
def clients(balancer: Gpen) -> Iterator[dict[bytes, socket.socket]]:
    """A session with each server."""
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(3)]
        yield {sock.recv(1): sock for sock in socks}


def is_alive(sock: socket.socket) -> bool:
    """Whether what is sent is echoed."""
    sock.sendall(b"still here")
    return sock.recv(10) == b"still here"


def session_of(balancer: Gpen, server: int) -> int:
    return int(next(row["id"] for row in balancer.json("sessions") if row["server"] == server))


@pytest.mark.parametrize("line, named", [
    ("server", "number of a server"), ("server x max 3", "'x'"), ("server 0 max many", "'many'"),
    ("server 0 max", "max"), ("server 0 colour red", "'colour'"), ("server 7 max 3", "7"),
    ("server 0 state gone", "'gone'"), ("server 0 port 70000", "'70000'"), ("server 0 address 1.2.3", "'1.2.3'"),
    ("server 0 acl 10", "'10'"), ("no server 9", "9"), ("no server", "no server N"), ("close server 9", "9"),
    ("close x", "'x'"), ("timeout 0", "'0'"), ("timeout soon", "'soon'"), ("conn_max 0", "'0'"),
    ("blacklist -1", "'-1'"), ("acl 1 permit", "permit|deny"), ("acl 11 permit 10.0.0.1", "'11'"),
    ("acl 1 allow 10.0.0.1", "allow"), ("acl 1 permit 10.0.0.300", "10.0.0.300"),
    ("acl 1 permit country SE", "geoip_db"),
    ("acl 1 permit country SWE", "'SWE'"), ("no acl", "no acl N"), ("no", "command"), ("no servers", "no servers"),
    ("client_acl 12", "'12'"), ("tcp_fastclose maybe", "'maybe'"), ("listen", ""), ("listen 1.2.3.4.5:80", "1.2.3.4.5"),
    ("listen 192.0.2.77:0", "192.0.2.77"), ("explain", "ADDRESS"), ("explain nobody", "'nobody'"),
    ("events 0", "'0'"), ("events x", "'x'"), ("recent x", "'x'"), ("include NONE", "NONE"),
    ("write NONE/x", "NONE/x"), ("write", "FILE"), ("help nothing", "'nothing'"), ("exit_enabled", "start"),
    ("transparent", "CAP_NET_RAW"), ("dsr_ip ::1", "'::1'"), ("ssl_ocsp_response /x", "OCSP"),
    ("ssl_option no_such", "'no_such'"), ("geoip_db NONE", "'NONE'"),
    ("foreground", "start"), ("control /tmp/x", "start"), ('timeout "5', "quote"),
    ("control_mode 999", "'999'"), ("source nowhere", "'nowhere'"), ("roundrobin yes", "'yes'"),
    ("log NONE/log", "NONE/log"), ("mode x", "'x'"), ("timeout 5 6", "'6'"),
    ("web_stats NONE/x", "NONE"),
])
def test_an_error_is_one_line_that_names_the_value(wrong: Gpen, tmp_path: Path, line: str, named: str) -> None:
    """NONE is a path where nothing is."""
    line, named = (text.replace("NONE", str(tmp_path / "none")) for text in (line, named))
    reply = wrong.ctl(line)
    if line == "listen":
        assert reply.startswith("127.0.0.1:")
        return
    assert reply.startswith("error: ")
    assert reply.endswith("\n") and reply.count("\n") == 1
    assert named in reply


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpen]:
    """One gpen for all that is refused: it changes nothing, which is checked at the end."""
    with Gpen(tmp_path_factory.mktemp("wrong"), "127.0.0.1:0", "127.0.0.1:9") as balancer:
        balancer.ctl("write before")
        yield balancer
        balancer.ctl("write after")
        before, after = ((balancer.directory / name).read_text().splitlines() for name in ("before", "after"))
        assert before[2:] == after[2:]


def test_close_a_session(balancer: Gpen, clients: dict[bytes, socket.socket]) -> None:
    number = session_of(balancer, 1)
    assert balancer.ctl(f"close {number}") == f"Forcibly closing connection {number}\n"
    assert clients[b"b"].recv(10) == b""
    assert is_alive(clients[b"a"]) and is_alive(clients[b"c"])
    wait_until(lambda: balancer.log)
    assert balancer.log.split()[-1] == "killed"
    assert balancer.ctl(f"close {number}") == f"Forcibly closing connection {number}\n"
    assert balancer.ctl("close 500") == "Connection 500 out of range\n"


def test_close_the_sessions_of_a_server(balancer: Gpen, clients: dict[bytes, socket.socket]) -> None:
    assert balancer.ctl("close server 1") == "Closing 1 connections of server 1\n"
    assert clients[b"b"].recv(10) == b""
    assert is_alive(clients[b"a"])
    assert {balancer.ask() for _ in range(3)} == {b"a", b"b", b"c"}


def test_delete_a_server(balancer: Gpen, clients: dict[bytes, socket.socket]) -> None:
    """Its session goes on; the others keep their numbers; the number can be given again."""
    assert balancer.ctl("no server 1") == ""
    assert [row["number"] for row in balancer.json("servers")] == [0, 2]
    assert {balancer.ask() for _ in range(6)} == {b"a", b"c"}
    assert all(is_alive(sock) for sock in clients.values())
    with Server(naming("new")) as new:
        assert balancer.ctl(f"server 1 address 127.0.0.1 port {new.port}") == ""
        assert {balancer.ask() for _ in range(6)} == {b"a", b"new", b"c"}
        assert is_alive(clients[b"b"])
        assert balancer.server(1)["sessions"] == 0
    clients[b"b"].close()
    wait_until(lambda: len(balancer.json("sessions")) == 2)
    assert balancer.server(1)["sessions"] == 0


def test_states(balancer: Gpen, clients: dict[bytes, socket.socket]) -> None:
    assert balancer.ctl("server 1 state drain") == ""
    assert {balancer.ask() for _ in range(6)} == {b"a", b"c"}
    assert is_alive(clients[b"b"])
    assert balancer.ctl("server 1 state maint") == ""
    assert clients[b"b"].recv(10) == b""
    assert {balancer.ask() for _ in range(6)} == {b"a", b"c"}
    assert balancer.ctl("server 1 state ready") == ""
    assert {balancer.ask() for _ in range(6)} == {b"a", b"b", b"c"}
    assert [event["event"] for event in balancer.json("events 3")] == ["drain", "maint", "ready"]


def test_a_server_that_moves(balancer: Gpen, clients: dict[bytes, socket.socket]) -> None:
    """Its sessions go on, the new ones go to the new place."""
    with Server(naming("new"), at="::1") as new:
        assert balancer.ctl(f"server 1 address ::1 port {new.port} max 5") == ""
        assert {balancer.ask() for _ in range(6)} == {b"a", b"new", b"c"}
        assert is_alive(clients[b"b"])
        assert (balancer.server(1)["address"], balancer.server(1)["max"]) == ("::1", 5)


def test_explain_agrees_with_what_happens(balancer: Gpen) -> None:
    balancer.ctl("server 0 state drain", "server 1 max 1", "no roundrobin")
    with balancer.connect("127.0.0.2") as first:
        assert first.recv(1) == b"b"
        row = balancer.json("explain 127.0.0.3")
        assert (row["client"], row["server"]) == ("127.0.0.3", 2)
        assert {other["server"]: other["why_not"] for other in row["others"]} == {
            0: "its state is drain", 1: "full: 1 sessions, max 1"}
        assert balancer.ask(source="127.0.0.3") == b"c"
    balancer.wait_idle()
    assert balancer.json("explain 127.0.0.2")["why"] == "the client used it last"
    assert len(balancer.json("recent")) == 2  # asking is not visiting


def test_sessions(balancer: Gpen, clients: dict[bytes, socket.socket]) -> None:
    rows = balancer.json("sessions")
    assert {row["state"] for row in rows} == {"open"}
    assert {row["client"] for row in rows} == {f"127.0.0.1:{sock.getsockname()[1]}" for sock in clients.values()}
    assert [row["server"] for row in rows] == [0, 1, 2]
    assert all(0 <= row["idle"] <= row["age"] < 60 for row in rows)
    clients[b"a"].shutdown(socket.SHUT_WR)
    wait_until(lambda: len(balancer.json("sessions")) == 2)
    assert len(balancer.ctl("sessions").splitlines()) == 2


def test_include_is_whole_or_nothing(balancer: Gpen, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("server 0 weight 7\nblacklist 5\n")
    (tmp_path / "wrong").write_text("timeout 9\n# comment\nserver 0 wait 8\n")
    assert balancer.ctl(f"include {tmp_path}/more") == ""
    assert (balancer.server(0)["weight"], balancer.ctl("blacklist")) == (7, "5\n")
    reply = balancer.ctl(f"include {tmp_path}/wrong")
    assert reply.startswith(f"error: {tmp_path}/wrong:3: server: 'wait' ")
    assert balancer.ctl("timeout") == "3\n"


def body(path: Path) -> list[str]:
    """The lines of a written file below its head."""
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Generated by gpen at ") and lines[1].startswith("# gpen ")
    return lines[2:]


CHANGES = ["timeout 7", "blacklist 2.5", "no roundrobin", "hash", "stateless", "stubborn", "idle_timeout 90",
           "keepalive", "tcp_nodelay", "tcp_fastclose both", "pending_max 11", "source 127.0.0.1,127.0.0.3-127.0.0.9",
           "control_mode 640", "conn_max 77",
           "acl 3 deny 10.1.0.0 255.255.0.0", "acl 3 permit 2001:db8::/32", "client_acl 0", "control_acl 0", "idlers 0",
           "server 1 max 5 hard 6 weight 7 prio 8 acl 3", "no server 0", "server 9 address ::1 port 81 state drain",
           "server 3 address /run/x", "emergency 127.0.0.1:99", "abuse [::1]:98:3", "log_format json", "tracking 60",
           "web_stats stats#1.html", 'log "gpen 2.log"']


def test_what_was_written_starts_the_same(balancer: Gpen, gpen: Start, tmp_path: Path) -> None:
    assert "error" not in balancer.ctl(*CHANGES)
    first, second = tmp_path / "first.cfg", tmp_path / "second.cfg"
    assert balancer.ctl(f"write {first}") == ""
    listen = balancer.ctl("listen").strip()
    balancer.stop()
    with Gpen(tmp_path, "-F", str(first), name="again") as again:
        assert again.ctl(f"write {second}") == ""
        assert again.ctl("listen").split(":")[0] == listen.split(":")[0]
    before, after = ([line for line in body(file) if not line.startswith("control ")] for file in (first, second))
    assert [line for line in before if line not in after] == ["no roundrobin"], "which the command line had given"
    assert [line for line in after if line not in before] == []


@pytest.mark.one_process
def test_what_is_written_is_short(gpen: Start, tmp_path: Path) -> None:
    """What differs from the defaults, settings first; and a server that the command line gives is taken away."""
    balancer = gpen("-t", "7", servers=["127.0.0.1:81", "127.0.0.1:82:5"])
    balancer.ctl("no timeout", "blacklist 9", "hash", "no hash", "acl 2 permit ::1", "no server 0", "server 1 weight 3",
                 "server 2 address ::1 port 83", f"write {tmp_path}/short.cfg")
    assert [line for line in body(tmp_path / "short.cfg") if not line.startswith(("control ", "listen "))] == [
        "blacklist 9", "timeout 3", "foreground", "no acl 2", "acl 2 permit ::1", "server 0 address 0.0.0.0 port 0",
        "server 1 address 127.0.0.1 port 82 max 5 weight 3", "server 2 address ::1 port 83"]


def test_write_leaves_nothing_half(balancer: Gpen, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    reply = balancer.ctl(f"write {tmp_path}/dir")
    assert reply.startswith(f"error: write: can't write '{tmp_path}/dir': ")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".gpen-")]


def test_exit(gpen: Start, servers: Serve) -> None:
    assert gpen(servers=[servers(naming("a"))]).ctl("exit") == "Exit is not enabled; restart with -X flag\n"
    balancer = gpen("-X", servers=[servers(naming("a"))])
    assert balancer.ctl("exit") == ""
    assert balancer.process.wait(20) == 0


def test_a_number_is_used_again(gpen: Start, servers: Serve) -> None:
    """The new server counts from 0 while a session of the old one lives, which its number still closes."""
    balancer = gpen(servers=[servers(naming("old"))])
    with balancer.connect() as old:
        assert old.recv(3) == b"old"
        assert is_alive(old)
        balancer.ctl("no server 0", f"server 0 address 127.0.0.1 port {servers(naming('new')).port}")
        row = balancer.server(0)
        assert [row[name] for name in ("sessions", "total", "sx", "rx", "failures")] == [0] * 5
        assert is_alive(old)
        assert balancer.ask() == b"new"
        balancer.ctl("close server 0")
        assert old.recv(1) == b""
    balancer.wait_idle()


def test_a_deleted_server_can_be_closed(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("old"))])
    with balancer.connect() as old:
        assert old.recv(3) == b"old"
        assert balancer.ctl("no server 0") == ""
        assert not balancer.ctl("close server 0").startswith("error")
        assert old.recv(1) == b""
    balancer.wait_idle()


@pytest.mark.parametrize("line", ["server 0 at {} prio 7", "server 0 at {} health down because x", "no server 0 at {}",
                                  "close server 0 at {}", "server 0 at {} address 127.0.0.1 port 3"])
def test_a_command_for_a_server_at_another_address_changes_nothing(gpen: Start, line: str) -> None:
    front = gpen("-r", servers=["127.0.0.1:1"])
    before = [{**row, "for": 0} for row in front.json("servers")]
    name = line.partition(" 0")[0] if line.startswith("no") else line.split()[0]
    assert front.ctl(line.format("127.0.0.1:2")) == (
        f"error: {name}: the server with this number is at 127.0.0.1:1, not at 127.0.0.1:2: nothing is changed\n")
    assert [{**row, "for": 0} for row in front.json("servers")] == before
    assert not front.ctl(line.format("127.0.0.1:1")).startswith("error")


@pytest.mark.parametrize("place", ["127.0.0.1:2", "[::1]:2", "/run/x"])
def test_a_new_server_is_made_where_there_is_no_other(gpen: Start, place: str) -> None:
    front = gpen("-r", servers=["127.0.0.1:1"])
    made = f"server 1 at {place} address {place}"
    assert front.ctl(made, made, f"server 1 at {place} prio 3") == ""  # again, it is there already
    assert front.server(1)["prio"] == 3
    assert front.ctl("server 1 address 127.0.0.1:9", made) == (
        f"error: server: the server with this number is at 127.0.0.1:9, not at {place}: nothing is changed\n")
    assert "not at" in front.ctl(f"server 2 at 127.0.0.1:3 address {place}")
    assert len(front.json("servers")) == 2
