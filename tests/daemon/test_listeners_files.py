"""Listeners in files: what `write` saves and `state` prints makes the same gpen again, and a file that is read again
changes what has changed in it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Gpen, Server, echo, naming, refusing, run_gpen, wait_until
from tests.listeners import HERE, address, names_of, own, place, row_of, server_of, told, visit

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def seen(balancer: Gpen) -> Any:
    """All that was configured, as far as a gpen tells it."""
    rows = [{key: row[key] for key in ("name", "protocol", "transport", "conn_max", "rule", "servers", "tracking_with")}
            for row in balancer.json("listeners")]
    fields = ("number", "address", "port", "max", "weight", "prio", "health", "verdict_reason", "state")
    commands = ["servers", *(f"listener {row['name']} servers" for row in rows if row["name"])]
    return rows, [[[row[key] for key in fields] for row in balancer.json(line)] for line in commands]


# --- write and state --------------------------------------------------------------------------------------------------


@pytest.fixture
def rich(gpen: Start, servers: Serve) -> Gpen:
    """A gpen with much that is different at its listeners, some of it done while it ran."""
    x = servers(naming("x"))
    balancer = gpen(*own("w", "prio", "servers 0,2", "server 2 prio 5 max 7 weight 2", "timeout 3", "hold 4"),
                    *own("443", "tracking_with w", "conn_max 9"), "-r",
                    servers=[servers(naming(name)) for name in "abc"])
    balancer.ctl("listener late listen 127.0.0.1:0", f"listener late server 0 port {x.port}", "listener late no mysql",
                 'listener late log "/dev/null"', "listener late no roundrobin", "conn_max_total 77",
                 "listener w server 0 prio 9", "listener w inherit hold", "listener w keepalive 5 6 7",
                 "listener late ssl_option no_ticket no_tlsv1.2", "listener late client_acl 3", "acl 3 deny 10.0.0.1")
    return balancer


def test_what_is_written_starts_the_same(rich: Gpen, gpen: Start, tmp_path: Path) -> None:
    rich.ctl(f"write {tmp_path}/written.cfg")
    text = (tmp_path / "written.cfg").read_text()
    assert "listener w timeout 3\n" in text, "its own, though it is the default"
    assert "listener w server 2 max 7 weight 2 prio 5\n" in text and "listener late no roundrobin\n" in text
    before, commands = seen(rich), ("conn_max_total", "listener late log", "listener w timeout",
                                    "listener late ssl_option", "listener late client_acl", "listener w hold")
    told_before = rich.ctl(*commands)
    with Gpen(tmp_path, "-F", f"{tmp_path}/written.cfg", name="again") as again:
        assert (seen(again), again.ctl(*commands)) == (before, told_before)
        assert "".join(told(again, name, 2) for name in ("-", "w", "443", "late")) == "abccabxx"
        assert again.ctl("reload") == "nothing has changed\n"
        again.ctl(f"write {tmp_path}/twice.cfg")
    first, second = (set((tmp_path / f"{name}.cfg").read_text().splitlines()[2:]) for name in ("written", "twice"))
    assert {line for line in first - second if not line.startswith("control ")} == {"listener w inherit hold"}, (
        "what the command line gave")
    assert {line for line in second - first if not line.startswith("control ")} == set()


def test_what_is_written_can_be_included_where_it_came_from(rich: Gpen, tmp_path: Path) -> None:
    before = seen(rich)
    rich.ctl(f"write {tmp_path}/written.cfg")
    assert not rich.ctl(f"include {tmp_path}/written.cfg").startswith("error")
    assert seen(rich) == before


def test_one_that_the_command_line_makes_and_a_command_closed(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """What is written closes it where there is one, and is valid where there is none."""
    balancer = gpen(*own("w", "prio"), *own("v"), servers=[servers(naming("a"))])
    balancer.ctl("no listener w", f"write {tmp_path}/written.cfg")
    assert balancer.ctl(f"include {tmp_path}/written.cfg") == ""
    assert names_of(balancer) == [None, "v"]
    with Gpen(tmp_path, "-F", f"{tmp_path}/written.cfg", name="alone") as alone:
        assert names_of(alone) == [None, "v"]
    with Gpen(tmp_path, *own("w"), "-F", f"{tmp_path}/written.cfg", name="again") as again:
        assert names_of(again) == [None, "v"]


def test_another_gpen_goes_on_where_the_first_one_is(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """`state`: who was where at which listener, verdicts, and what was found at which port."""
    with refusing() as nobody:
        port = nobody.rpartition(":")[2]
        arguments = (*own("w", f"server 0 port {port}"), *own("v", "tracking_with w"))
        every = [servers(naming(name)) for name in "abc"]
        first = gpen(*arguments, servers=every)
        assert (told(first, "w", 1, "127.0.0.5"), told(first, "v", 1, "127.0.0.6")) == ("b", "c")
        assert told(first, "-", 1, "127.0.0.5") == "a"
        first.ctl("server 1 health down because it rains", "server 1 state drain")
        (tmp_path / "state").write_text(first.ctl("state"))
        second = gpen(*arguments, servers=every)
        assert second.ctl(f"include {tmp_path}/state") == ""
        assert seen(second) == seen(first)
        assert (server_of(second, "w", 0)["health"], second.server(0)["health"]) == ("down", "up")
        assert server_of(second, "w", 0)["reason"] == server_of(first, "w", 0)["reason"] == "connection refused"
        second.ctl("server 1 health up", "server 1 state ready")
        assert [told(second, name, 2, "127.0.0.5") for name in ("w", "v", "-")] == ["bb", "bb", "aa"]
        assert told(second, "w", 2, "127.0.0.6") == "cc"


# --- read again -------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "web.cfg"


@pytest.fixture
def balancer(gpen: Start, servers: Serve, file: Path) -> Gpen:
    """Servers a and b from the file, and the listeners w and v, of which v is written where it is."""
    places = [f"server {number} address {servers(naming(name)).address}" for number, name in enumerate("ab")]
    file.write_text("\n".join([*places, "roundrobin", f"listener w listen {HERE}", "listener w timeout 5",
                               f"listener v listen {HERE}", ""]))
    return gpen("-F", str(file))


def change(file: Path, *lines: str, without: str = "") -> None:
    """Take lines that hold these words out of the file, and append others."""
    kept = [line for line in file.read_text().splitlines() if not without or without not in line]
    file.write_text("\n".join([*kept, *lines, ""]))


def test_an_unchanged_file_changes_nothing(balancer: Gpen) -> None:
    where = [address(balancer, name) for name in ("w", "v")]
    balancer.ctl("listener w timeout 6", "listener v roundrobin", f"listener new listen {HERE}", "no listener v")
    before = seen(balancer)
    assert balancer.ctl("reload") == "nothing has changed\n"
    assert (seen(balancer), balancer.ctl("listener w timeout")) == (before, "6\n")
    assert names_of(balancer) == [None, "w", "new"]
    assert address(balancer, "w") == where[0]


def test_a_listener_comes_changes_and_goes(balancer: Gpen, file: Path) -> None:
    balancer.ctl("listener w hold 7", f"listener kept listen {HERE}")
    change(file, f"listener new listen {HERE}", "listener new servers 1", "listener w timeout 6", without="w timeout")
    reply = balancer.ctl("reload")
    assert "listener w timeout 6 (was 5)\n" in reply and "listener new " in reply and "listener v" not in reply
    assert (told(balancer, "new", 2), balancer.ctl("listener w timeout", "listener w hold")) == ("bb", "6\n7\n")
    change(file, without="listener new servers")
    assert "listener new " in balancer.ctl("reload")
    assert told(balancer, "new", 2) == "ab" and row_of(balancer, "new")["servers"] is None
    change(file, "timeout 8", without="w timeout")
    assert "listener w " in balancer.ctl("reload")
    assert balancer.ctl("listener w timeout", "timeout") == "8\n8\n", "the shared value again"
    change(file, without="listener new")
    assert balancer.ctl("reload") == "no listener new\n"
    assert names_of(balancer) == [None, "w", "v", "kept"]
    assert balancer.ctl("listener w hold") == "7\n"


def test_what_was_closed_or_made_at_runtime(balancer: Gpen, file: Path) -> None:
    """A listener that a command has closed stays closed until its lines in the file change; one that the file does not
    name stays."""
    balancer.ctl("no listener w", f"listener own listen {HERE}")
    change(file, "timeout 4")
    assert balancer.ctl("reload") == "timeout 4 (was 3)\n"
    assert names_of(balancer) == [None, "v", "own"]
    change(file, "listener v servers 0", "listener v server 0 max 3")
    assert "listener v " in balancer.ctl("reload")
    assert (told(balancer, "v", 2), server_of(balancer, "v", 0)["max"]) == ("aa", 3)
    change(file, without="server 0 max 3")
    balancer.ctl("reload")
    assert server_of(balancer, "v", 0)["max"] == 0
    change(file, without="listener w")
    assert balancer.ctl("reload") == "nothing has changed\n", "it is gone already"


def test_hup_moves_a_listener(gpen: Start, servers: Serve, file: Path) -> None:
    """Its sessions go on, and those of the others do not notice."""
    file.write_text(f"listener w listen {HERE}\n")
    balancer = gpen("-F", str(file), servers=[servers(echo)])
    old = place(balancer, "w")
    with visit(balancer, "w") as moved, visit(balancer, "-") as other:
        file.write_text("listener w listen 127.0.0.3:0\n")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: address(balancer, "w").startswith("127.0.0.3:"))
        for sock in (moved, other):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        file.write_text("")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: names_of(balancer) == [None])
        moved.sendall(b"x")
        assert moved.recv(1) == b"x"
    assert place(balancer, "-") != old


@pytest.mark.parametrize(("line", "told_of"), [
    ("listener w timeout never", "web.cfg:7: listener w: timeout: 'never'"), ("listener x timeout 5", "listener x"),
    ("listener v listen 192.0.2.77:80", "192.0.2.77:80"), ("listener y tracking_with w", "listener y"),
    ("listener v tracking_with gone", "gone"), ("listener v blacklist 3", "it is of the whole gpen"),
    ("listener v log /no/such/directory/x", "/no/such/directory/x"), ("listener v server 9 max 4", "9"),
    ("listener v ssl_certificate /no/such/file", "/no/such/file"), ("listener v no listener", "listener"),
])
def test_a_wrong_line_changes_nothing(balancer: Gpen, file: Path, line: str, told_of: str) -> None:
    before, files, sockets = seen(balancer), balancer.fds(), [place(balancer, name) for name in ("-", "w", "v")]
    change(file, line, "timeout 6", f"listener new listen {HERE}")
    reply = balancer.ctl("reload")
    assert reply.startswith("error: ") and told_of in reply, reply
    assert (seen(balancer), balancer.fds(), balancer.ctl("timeout")) == (before, files, "3\n")
    assert [place(balancer, name) for name in ("-", "w", "v")] == sockets
    assert balancer.json("events 1")[0]["event"] == "reload failed"


def test_all_that_is_wrong_is_told(tmp_path: Path) -> None:
    (tmp_path / "gpen.cfg").write_text("listener w timeout never\nlistener v blacklist 3\nlistener a/b listen 1\n"
                                       "listener c tracking_with d\nlistener c listen 0\nlistener e listen 0\nbogus\n"
                                       "listener e server 0 hard 3\nlistener e server 7 max 3\n")
    done = run_gpen("--check", "-F", "gpen.cfg", "127.0.0.1:0", "127.0.0.1:9", directory=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    places = [line.split(":")[2] for line in done.stderr.splitlines() if line.startswith("gpen: gpen.cfg:")]
    assert places == list("12378"), done.stderr
    assert "listener c: tracking_with: there is no listener 'd'" in done.stderr
    assert "listener e: server 7: there is no server 7" in done.stderr


@pytest.mark.parametrize(("line", "told_of"), [
    ("log /no/such/place", "listener w: log: the directory '/no/such' does not exist"),
    ("server 0 port 9002", "listener w: server 0: 127.0.0.1:9002 is where gpen itself listens: it would be its own "
                           "client; give the address of a server"),
    ("server 0 port nothing", "listener w: server 0: 'nothing' is not a port, nor a service in /etc/services"),
    ("emergency 127.0.0.1:9002", "gpen.cfg:3: listener w: emergency: 127.0.0.1:9002 is where gpen itself listens: it "
                                 "would be its own client; give the address of a server"),
])
def test_what_is_wrong_of_a_listener_is_told_with_it(tmp_path: Path, line: str, told_of: str) -> None:
    """And not with the line that makes the server."""
    (tmp_path / "gpen.cfg").write_text("listener w listen 127.0.0.1:9002\nserver 0 address 127.0.0.1 port 9\n"
                                       f"listener w {line}\n")
    done = run_gpen("--check", "-F", "gpen.cfg", "127.0.0.1:0", directory=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"gpen: {told_of}\n")


def test_the_command_line_and_the_file(gpen: Start, servers: Serve, file: Path) -> None:
    """The file has the last word on a listener of the command line; what went from it, the command line has again."""
    file.write_text("listener w timeout 6\nlistener w servers 0\n")
    balancer = gpen("-F", str(file), "-r", *own("w", "timeout 5", "hold 2"),
                    servers=[servers(naming(name)) for name in "ab"])
    assert balancer.ctl("listener w timeout", "listener w hold") == "6\n2\n"
    assert told(balancer, "w", 2) == "aa"
    file.write_text("no listener w\n")
    assert balancer.ctl("reload") == "no listener w\n"
    assert names_of(balancer) == [None]
    file.write_text("")
    balancer.ctl("reload")
    assert (names_of(balancer), balancer.ctl("listener w timeout")) == ([None, "w"], "5\n")
    assert told(balancer, "w", 2) == "ab"


def test_a_written_file_starts_without_the_command_line(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """Also where it takes a listener of the command line away; and with the command line it does so."""
    arguments = ("-r", *own("w"), *own("v"))
    balancer = gpen(*arguments, servers=[servers(naming("a"))])
    balancer.ctl("no listener w", f"write {tmp_path}/written.cfg")
    balancer.stop()
    for given in ((), arguments):
        with Gpen(tmp_path, *given, "-F", f"{tmp_path}/written.cfg", name=f"again{len(given)}") as again:
            assert names_of(again) == [None, "v"] and told(again, "v", 1) == "a"
            assert again.ctl("no listener w").startswith("error: listener w: there is no listener of this name")


def test_a_service_that_there_is_not(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """As a port for one listener; or not over the transport that it is switched to."""
    server = servers(naming("a"))
    balancer = gpen(*own("w"), servers=[server])
    (tmp_path / "more.cfg").write_text(f"server 0 address {server.address}\nlistener w server 0 port no-such-service\n")
    for line in ("listener w server 0 port no-such-service", f"include {tmp_path}/more.cfg"):
        reply = balancer.ctl(line)
        assert reply.startswith("error: ") and reply.count("\n") == 1, reply
        assert "server 0: 'no-such-service' is not a port" in reply
    assert told(balancer, "w", 1) == "a" and server_of(balancer, "w", 0)["port"] == server.port
    done = run_gpen("--check", *own("w", "server 0 port no-such-service"), HERE, server.address)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "no-such-service" in done.stderr
