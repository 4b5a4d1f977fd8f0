"""Several listeners in one gpen: how they are made, changed and closed, and which values hold for whom."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpen.cli import main
from tests.harness import Gpen, Server, echo, naming, pair_of, run_gpen, wait_until
from tests.listeners import HERE, address, ask, names_of, own, place, port_of, row_of, told, visit
from tests.servers import free_port

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

SERVER = "127.0.0.1:9"


@pytest.fixture
def ab(servers: Serve) -> list[Server]:
    return [servers(naming(name)) for name in "ab"]


# --- made, moved, closed ----------------------------------------------------------------------------------------------


def test_on_the_control_socket(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-r", servers=ab)
    assert balancer.ctl("listener new timeout 5").startswith("error: listener new"), "it has to be made first"
    reply = balancer.ctl(f"listener new listen {HERE}")
    assert reply == balancer.ctl("listener new listen") and pair_of(reply.strip())[1] != 0
    assert names_of(balancer) == [None, "new"]
    assert (told(balancer, "new", 4), told(balancer, "-", 4)) == ("abab", "abab")


@pytest.mark.parametrize("door", ["-O", "-F"])
def test_before_the_start(gpen: Start, ab: list[Server], tmp_path: Path, door: str) -> None:
    """Whatever the order of the lines."""
    lines = ["listener new timeout 5", f"listener new listen {HERE}", "listener 2.b-_c listen 127.0.0.1:0"]
    (tmp_path / "gpen.cfg").write_text("".join(f"{line}\n" for line in lines))
    given = ["-F", "gpen.cfg"] if door == "-F" else [word for line in lines for word in ("-O", line)]
    balancer = gpen("-r", *given, servers=ab)
    assert set(names_of(balancer)) == {None, "new", "2.b-_c"}
    assert balancer.ctl("listener new timeout", "timeout") == "5\n3\n"
    assert (told(balancer, "2.b-_c", 2), told(balancer, "new", 2)) == ("ab", "ab")


@pytest.mark.parametrize("door", ["-O", "-F"])
def test_one_without_an_address_is_an_error(tmp_path: Path, door: str) -> None:
    (tmp_path / "gpen.cfg").write_text("listener new timeout 5\n")
    given = "listener new timeout 5" if door == "-O" else "gpen.cfg"
    done = run_gpen("--check", door, given, HERE, SERVER, directory=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "listener new" in done.stderr and "listen" in done.stderr.partition("listener new")[2]


def test_addresses_of_every_kind(gpen: Start, ab: list[Server], tmp_path: Path) -> None:
    balancer = gpen("-r", servers=ab, listen="[::1]:0")
    for name, at in (("unix", str(tmp_path / "unix.sock")), ("all", "0")):
        assert not balancer.ctl(f"listener {name} listen {at}").startswith("error")
        assert told(balancer, name, 2) == "ab"
    assert [row["transport"] for row in balancer.json("listeners")] == ["tcp", "unix", "tcp"]
    assert stat.S_ISSOCK((tmp_path / "unix.sock").stat().st_mode)
    assert row_of(balancer, "unix")["address"] == str(tmp_path / "unix.sock")
    balancer.ctl("no listener unix")
    assert not (tmp_path / "unix.sock").exists()


def test_its_sessions_go_on_when_it_moves_and_when_it_is_closed(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*own("w"), servers=[servers(echo)])
    before, old = balancer.fds(), place(balancer, "w")
    with visit(balancer, "w") as first:
        assert balancer.ctl("listener w listen 127.0.0.2:0").startswith("127.0.0.2:")
        assert place(balancer, "w") != old
        with visit(balancer, "w") as second:
            assert balancer.ctl("no listener w") == ""
            for sock in (first, second):
                sock.sendall(b"still here")
                assert sock.recv(10) == b"still here"
            assert names_of(balancer) == [None]
            assert balancer.ctl("listener w timeout").startswith("error: listener w")
            assert {row["listener"] for row in balancer.json("sessions")} == {"w"}
    balancer.wait_idle()
    wait_until(lambda: balancer.fds() == before - 1)
    assert ask(balancer, "-", b"x") == b"x"


def test_made_again_it_begins_anew(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-r", *own("w", "timeout 9", "servers 1"), servers=ab)
    where = address(balancer, "w")
    assert balancer.ctl("no listener w", f"listener w listen {where}") == f"{where}\n"
    assert balancer.ctl("listener w timeout") == "3\n"
    assert told(balancer, "w", 2) == "ab"


def test_addresses_change_hands(gpen: Start, ab: list[Server], tmp_path: Path) -> None:
    """In one change, whatever they are: of two listeners, and of one that goes and one that comes."""
    balancer, before = gpen("-r", servers=ab), set(tmp_path.iterdir())
    sockets = [str(tmp_path / "1.sock"), str(tmp_path / "2.sock")]
    for first, second in ([f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"], sockets, [sockets[0], "[::1]:0"]):
        balancer.ctl(f"listener v listen {first}", "listener v servers 0", f"listener w listen {second}",
                     "listener w servers 1")
        fds = balancer.fds()
        at = address(balancer, "v"), address(balancer, "w")
        for lines in (f"listener v listen {at[1]}\nlistener w listen {at[0]}\nlog /no/such/directory/x\n",
                      f"listener v listen {at[1]}\nlistener w listen {at[0]}\n",
                      f"no listener w\nlistener z listen {at[0]}\nlistener z servers 1\n"):
            (tmp_path / "more.cfg").write_text(lines)
            assert balancer.ctl(f"include {tmp_path}/more.cfg").startswith("error") == ("/no/such" in lines)
            if "/no/such" in lines:
                assert (told(balancer, "v", 2), told(balancer, "w", 2)) == ("aa", "bb")
        assert (address(balancer, "v"), address(balancer, "z")) == (at[1], at[0])
        assert (told(balancer, "v", 2), told(balancer, "z", 2)) == ("aa", "bb")
        wait_until(lambda: balancer.fds() == fds)  # noqa: B023 (it is used up at once)
        balancer.ctl("no listener v", "no listener z")
        assert set(tmp_path.iterdir()) - {tmp_path / "more.cfg"} == before


def test_a_file_that_is_gone_is_made_again_and_not_removed(gpen: Start, ab: list[Server], tmp_path: Path) -> None:
    """When the one that had made it first goes later, in the same change."""
    balancer = gpen(*own("v", at=f"{tmp_path}/1.sock"), servers=ab)
    (tmp_path / "1.sock").unlink()
    (tmp_path / "more.cfg").write_text(f"no listener v\nlistener w listen {tmp_path}/1.sock\n")
    assert balancer.ctl(f"include {tmp_path}/more.cfg") == ""
    assert told(balancer, "w", 1) in "ab"
    balancer.ctl("no listener w")
    assert not (tmp_path / "1.sock").exists()


def test_who_waited_when_it_was_closed_has_its_servers_and_its_log(gpen: Start, servers: Serve, tmp_path: Path,
                                                                   ) -> None:
    """Though it had no session then: those of others took all places there were."""
    balancer = gpen("-O", "conn_max_total 1", *own("w", "servers 1", f"log {tmp_path}/w.log"),
                    servers=[servers(echo), servers(naming("b"))])
    with balancer.connect() as first, visit(balancer, "w") as second:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        second.sendall(b"y")
        assert balancer.ctl("no listener w") == ""
        assert second.recv(1) == b"b"
    wait_until(lambda: " listener w server 1 " in (tmp_path / "w.log").read_text())


def test_made_again_what_has_no_effect_is_told_again(gpen: Start, ab: list[Server]) -> None:
    """What was told of the one that is gone is forgotten: names come and go."""
    balancer = gpen(servers=ab)
    for count in (1, 2):
        balancer.ctl(f"listener w listen {HERE}", "listener w udp_timeout 5", "listener w udp_timeout 6",
                     "no listener w")
        wait_until(lambda: balancer.stderr.count("listener w: udp_timeout") == count)  # noqa: B023 (used up at once)


def test_named_ones_only(ab: list[Server], tmp_path: Path) -> None:
    """No LISTEN: nothing is without a name, until it is given an address."""
    lines = [f"server {number} address {server.address}" for number, server in enumerate(ab)]
    with Gpen(tmp_path, "-r", *(word for line in lines for word in ("-O", line)), *own("w"), *own("v")) as balancer:
        assert set(names_of(balancer)) == {"w", "v"}
        assert balancer.ctl("listen") == ""
        assert [row["number"] for row in balancer.json("servers")] == [0, 1]
        assert (told(balancer, "w", 2), told(balancer, "v", 2)) == ("ab", "ab")
        assert "would get server 0" in balancer.ctl("listener w explain 127.0.0.1")
        assert "<!DOCTYPE html>" in balancer.ctl("status")
        assert not balancer.ctl(f"listen {HERE}").startswith("error")
        assert told(balancer, "-", 2) == "ab"


# --- on the command line ----------------------------------------------------------------------------------------------


def test_several_addresses_on_the_command_line(gpen: Start, servers: Serve) -> None:
    """The first is the one without a name, the others are called by their ports; and a server without a port is asked
    at that of the listener."""
    one, two = free_port(), free_port()
    for port, name in ((one, "a"), (two, "b")):
        servers(naming(name), at="127.0.0.2", port=port)
    balancer = gpen("-r", servers=["127.0.0.2"], listen=f"127.0.0.1:{one},127.0.0.1:{two}")
    assert names_of(balancer) == [None, str(two)]
    assert (port_of(balancer, "-"), port_of(balancer, str(two))) == (one, two)
    assert (told(balancer, "-", 2), told(balancer, str(two), 2)) == ("aa", "bb")


def test_special_servers_without_a_port(gpen: Start, servers: Serve) -> None:
    """As other servers: who comes by TLS to 443 is not given to port 80 of -e."""
    one, two = free_port(), free_port()
    for port, name in ((one, "a"), (two, "b")):
        servers(naming(name), at="127.0.0.2", port=port)
    balancer = gpen("-e", "127.0.0.2::7", "-B", "127.0.0.2", servers=["127.0.0.3:1"],
                    listen=f"127.0.0.1:{one},127.0.0.1:{two}")
    assert balancer.ctl("emergency", f"listener {two} emergency") == f"127.0.0.2:{one}:7\n127.0.0.2:{two}:7\n"
    assert balancer.ctl("abuse", f"listener {two} abuse") == f"127.0.0.2:{one}\n127.0.0.2:{two}\n"
    assert (told(balancer, "-", 1), told(balancer, str(two), 1)) == ("a", "b")


def test_a_server_without_a_port_where_a_listener_is_at_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "127.0.0.1:8001,127.0.0.1:0", "127.0.0.2"]) == 2
    assert capsys.readouterr().err == "gpen: server 0: '127.0.0.2' needs a port: 127.0.0.1:0 is at any that is free\n"


@pytest.mark.parametrize(("listen", "named"), [
    ("8001,8001", "8001"), ("8001,", "''"), (",8001", "''"), ("8001,,8002", "''"), ("8001,99999", "99999"),
    ("8001/tcp/udp", "/udp behind"), ("8001/sctp", "/udp behind"), ("[::1]:8001/UDP", "/udp behind"),
    ("8001,8002/", "/udp behind"), ("8001,[::1]:8001,[::1]:8001", "8001"), ("8001,/sock", "/sock"),
    ("8001/udp,/sock/udp", "/sock"),
])
def test_addresses_that_are_none(capsys: pytest.CaptureFixture[str], listen: str, named: str) -> None:
    assert main(["--check", listen, SERVER]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1) and told.err.startswith("gpen: ") and named in told.err


# --- values shared and own --------------------------------------------------------------------------------------------


def test_a_shared_value_and_its_own(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-O", "timeout 5", *own("w"), *own("v"), servers=ab)

    def values() -> str:
        return balancer.ctl("timeout", "listener w timeout", "listener v timeout").replace("\n", " ").strip()

    assert values() == "5 5 5"
    balancer.ctl("timeout 6")
    assert values() == "6 6 6"
    assert balancer.ctl("listener w timeout 9") == "9\n"
    balancer.ctl("timeout 7")
    assert values() == "7 9 7"
    balancer.ctl("listener w no timeout")
    assert values() == "7 3 7", "the default, not the shared value"
    balancer.ctl("listener w timeout 7", "timeout 8")
    assert values() == "8 7 8", "its own, though it was the same"
    balancer.ctl("listener w inherit timeout")
    assert values() == "8 8 8"
    balancer.ctl("listener v timeout 4", "no listener v")
    assert balancer.ctl("timeout", "listener w timeout") == "8\n8\n"


def test_a_flag_of_its_own(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-r", *own("w"), servers=ab)

    def modes() -> tuple[bool, bool]:
        return balancer.json("mode")["roundrobin"], balancer.json("listener w mode")["roundrobin"]

    seen = [modes()]
    for line in ("listener w no roundrobin", "no roundrobin", "listener w roundrobin", "listener w inherit roundrobin"):
        assert balancer.ctl(line) == ""
        seen.append(modes())
    assert seen == [(True, True), (True, False), (False, False), (False, True), (False, False)]


# --- what is refused --------------------------------------------------------------------------------------------------

PROCESS = ["conn_max_total 5", "clients_max 5", "blacklist 5", "check connect", "check_interval 5", "check_timeout 5",
           "check_rise 5", "check_fall 5", "health_ttl 5", "name_refresh 5", "idlers 5", "geoip_db /x", "web_stats /x",
           "debug 1", "ascii", "abort_on_error", "control /x", "control_acl 1", "control_mode 600",
           "control_access view", "exit_enabled", "foreground", "pid_file /x", "user nobody", "chroot /"]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpen]:
    """One gpen for all that is refused: it changes nothing, which is checked at the end."""
    with Gpen(tmp_path_factory.mktemp("wrong"), *own("w"), HERE, SERVER) as balancer:
        balancer.ctl("write before")
        rows = balancer.json("listeners")
        yield balancer
        balancer.ctl("write after")
        before, after = ((balancer.directory / name).read_text().splitlines() for name in ("before", "after"))
        assert (before[2:], rows) == (after[2:], balancer.json("listeners"))


@pytest.mark.parametrize("line", PROCESS)
def test_what_is_of_the_whole_gpen(wrong: Gpen, line: str) -> None:
    """And what to do instead."""
    name = line.split()[0]
    for words in (line, f"no {name}", f"inherit {name}"):
        reply = wrong.ctl(f"listener w {words}")
        assert reply.startswith("error: listener w: ") and reply.count("\n") == 1
        assert name in reply and "is of the whole gpen" in reply


@pytest.mark.parametrize(("line", "named"), [
    ("listener", "NAME"), ("no listener", "NAME"), ("no listener gone", "gone"), ("no listener -", "-"),
    ("listener -x listen 1", "-x"), (f"listener {'x' * 33} listen 1", "x" * 33), ("listener a/b listen 1", "a/b"),
    ("listener .a listen 1", ".a"), ("listener ü listen 1", "ü"), ('listener "" listen 1', "''"),
    ("listener - timeout 5", "-"), ("listener w", "listener w"), ("listener gone timeout 5", "gone"),
    ("listener w nonsense 5", "nonsense"), ("listener w no", "no"), ("listener w no nonsense", "nonsense"),
    ("listener w inherit", "inherit"), ("listener w inherit nonsense", "nonsense"), ("listener w timeout 0", "'0'"),
    ("listener w timeout 5 6", "'6'"), ("listener w no timeout 5", "'5'"), ("listener w roundrobin yes", "'yes'"),
    ("listener w inherit listen", "listen"), ("listener w no listen", "listen"),
    ("listener w inherit tracking_with", "tracking_with"), ("listener w listen 1.2.3.4.5:80", "1.2.3.4.5"),
    ("listener w tracking_with gone", "gone"), ("listener w tracking_with w", "w"),
    ("listener w servers x", "'x'"), ("listener w servers 2-1", "2-1"), ("listener w servers 0,", "'0,'"),
    ("listener w servers -1", "-1"), ("listener w servers 0 1", "'0 1'"), ("listener w no servers", "servers"),
    ("listener w server", "number of a server"), ("listener w server x max 1", "'x'"),
    ("listener w server 9 max 1", "9"),
    ("listener w server 0 max", "max"), ("listener w server 0 max x", "'x'"), ("listener w server 0 hard 1", "hard"),
    ("listener w server 0 state drain", "state"), ("listener w server 0 address 127.0.0.1", "address"),
    ("listener w server 0 health down", "health"), ("listener w server 0 port 70000", "70000"),
    ("listener w no server 0", "server"), ("listener w inherit server", "server"),
    ("listener w client 10.0.0.1 server 9", "9"), ("listener w client x server 0", "'x'"),
    ("listener w listener v listen 1", "listener"), ("listener w include x", "include"), ("listener w write", "write"),
    ("listener w reload", "reload"), ("listener w state", "state"), ("listener w acl 1 permit ::1", "acl"),
    ("listener w pid", "pid"), ("listener w exit", "exit"), ("listener w stay", "stay"),
    ("listener w status", "status"), ("listener w drain 0", "drain"), ("listener w listeners", "listeners"),
    ("listener w close server 9", "9"), ("listener w server 0 port nosuch", "listener w: server 0: 'nosuch'"),
    ("listener w emergency 127.0.0.1:nosuch", "listener w: emergency: 'nosuch'"),
    ("listener w explain nobody", "'nobody'"), ("listener w events 0", "'0'"), ("listener w recent x", "'x'"),
    ("listener w ssl_require_peer", "certificate"), ("listener w transparent", "CAP_NET_RAW"),
    ("listeners x", "'x'"), ("inherit timeout", "inherit"), ("servers 0", "'0'"), ("conn_max_total x", "'x'"),
    ("listener w log /no/such/directory/x", "/no/such/directory/x"), ("listener w geoip_db /x", "whole gpen"),
    ("listener w client_acl 12", "'12'"), ("listener w emergency 1:2:3:4:5:6:7", "1:2"),
])
def test_an_error_is_one_line_that_names_what_is_wrong(wrong: Gpen, line: str, named: str) -> None:
    reply = wrong.ctl(line)
    assert (reply.startswith(("error: ", "do_cmd: ignoring command starting with 'inherit'")), reply.count("\n")) == (
        True, 1), reply
    assert named in reply


def configured(balancer: Gpen) -> list[dict[str, object]]:
    """The listeners, but for what clients leave behind."""
    return [{key: value for key, value in row.items() if key not in ("total", "clients", "sx", "rx", "endings")}
            for row in balancer.json("listeners")]


def test_an_address_in_use_fails_the_whole_change_and_nothing_else(gpen: Start, ab: list[Server], tmp_path: Path,
                                                                   ) -> None:
    """Another program's, or that of another listener."""
    balancer = gpen("-r", *own("w"), servers=ab)
    taken = (ab[0].address, address(balancer, "-"), "192.0.2.77:80", "/no/such/directory/x")
    before = balancer.fds(), configured(balancer), balancer.ctl("timeout")
    with visit(balancer, "w") as sock:
        assert sock.recv(1) == b"a"
        for used in taken:
            more = f"listener free listen {HERE}\ntimeout 9\nlistener v listen {used}\nlistener w timeout 8\n"
            (tmp_path / "more.cfg").write_text(more)
            moved = f"listener w listen {used}"
            for line in (f"listener v listen {used}", f"include {tmp_path}/more.cfg", moved):
                reply = balancer.ctl(line)
                assert reply.startswith("error: ") and reply.count("\n") == 1 and used in reply, reply
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert balancer.ctl("listener w timeout") == "3\n"
    balancer.wait_idle()
    wait_until(lambda: (balancer.fds(), configured(balancer), balancer.ctl("timeout")) == before)
    assert told(balancer, "w", 2) == "ba"


def test_a_start_with_an_address_in_use(ab: list[Server]) -> None:
    done = run_gpen("-f", *own("w", at=ab[0].address), HERE, SERVER)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert ab[0].address in done.stderr


def test_no_server_is_where_any_of_them_listens(gpen: Start, ab: list[Server]) -> None:
    balancer = gpen("-r", *own("w"), servers=ab)
    where = address(balancer, "w")
    reply = balancer.ctl(f"server 5 address {where}")
    assert reply.startswith("error: ") and "is where gpen itself listens" in reply
    for line in (f"emergency {where}", f"server 0 port {port_of(balancer, 'w')}", f"abuse {where}"):
        assert "is where gpen itself listens" in balancer.ctl(f"listener w {line}"), line
    assert balancer.ctl("listener w servers 0-1", f"server 5 address {where}") == "", "w does not use it"
    assert told(balancer, "-", 3) == "aba", "by way of w"
    assert "is where gpen itself listens" in balancer.ctl("listener w servers all")
    assert told(balancer, "w", 2) == "ba"
