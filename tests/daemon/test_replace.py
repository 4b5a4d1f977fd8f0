"""A gpen takes the place of another: nobody is turned away, sessions go on, and what was said at runtime counts."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.daemon.conftest import ctl, has_ended
from tests.harness import LOCAL, ROOT, Gpen, Server, connect, echo, needs_root, read_all, run_gpen, wait_until
from tests.replacements import pids_of
from tests.replacing import descriptors_unchanged, has_old, old_ctl, replacing
from tests.tlsclient import TlsClient, trusting
from tests.visitors import Visitors

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
Replace = Callable[..., Gpen]


@pytest.fixture
def replace() -> Iterator[Replace]:
    """Replace a gpen: replace(old); the new one ends with the test."""
    with ExitStack() as stack:
        yield lambda old, *more, **options: stack.enter_context(replacing(old, *more, **options))


@pytest.fixture(autouse=True)
def nobody_stays(tmp_path: Path) -> Iterator[None]:
    """Who was started by an upgrade is no child of the test, which may fail before it ends that."""
    yield
    for pid in pids_of(str(tmp_path / "gpen.ctl")):
        os.kill(pid, signal.SIGKILL)


def says(sock: socket.socket, text: bytes = b"hello") -> bool:
    """Whether an echo comes."""
    sock.sendall(text)
    return sock.recv(100) == text


# --- those who connect ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", [LOCAL, "/front.sock"])
def test_nobody_is_turned_away(gpen: Start, servers: Servers, replace: Replace, tmp_path: Path, listen: str) -> None:
    """Three times, and each time the one before ends by itself, with status 0."""
    place = f"{tmp_path}{listen}" if listen.startswith("/") else listen
    balancer = first = gpen("-r", listen=place, servers=[servers(echo)])
    address = balancer.address

    def visit() -> str:
        with connect(address, seconds=10) as sock:
            return "" if says(sock) else "closed"

    with Visitors(visit) as clients:
        for number in range(3):
            seen = clients.count
            old, balancer = balancer, replace(balancer, name=f"new{number}")
            assert old.process.wait(20) == 0
            wait_until(lambda seen=seen: clients.count > seen + 50, what="more clients")
    assert not clients.failures
    assert balancer.address == address and balancer.pid != first.pid
    assert not has_old(balancer)


def test_sessions_go_on_in_the_old_one(gpen: Start, servers: Servers, replace: Replace) -> None:
    """Megabytes that are hashed at both ends, begun before and ended behind."""
    balancer = gpen("-l", "gpen.log", servers=[servers(hashing)])
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(20)]
        hashes = [hashlib.sha256() for _ in socks]
        for number in range(40):
            for sock, digest in zip(socks, hashes, strict=True):
                piece = os.urandom(5000)
                digest.update(piece)
                sock.sendall(piece)
            if number == 20:
                new = replace(balancer)
        for sock in socks:
            sock.shutdown(socket.SHUT_WR)
        assert [read_all(sock) for sock in socks] == [digest.digest() for digest in hashes]
    assert balancer.process.wait(20) == 0
    assert new.log.count("client-closed") == 20
    assert f"gpen {balancer.pid} was replaced by pid {new.pid}; 20 sessions left" in balancer.stderr
    wait_until(lambda: f"the gpen before, with pid {balancer.pid}, has ended its sessions" in new.stderr)


def test_tls(gpen: Start, servers: Servers, replace: Replace, certificates: Certificates) -> None:
    """A session of the old one goes on, and the new one shakes hands with who comes now."""
    pair = certificates.server
    balancer = gpen("-E", str(pair.certificate), "-K", str(pair.key), servers=[servers(echo)])
    context = trusting(certificates.authority.certificate)
    with TlsClient(balancer.address, context) as before:
        before.sendall(b"one")
        assert before.recv(10) == b"one"
        new = replace(balancer)
        with TlsClient(new.address, context) as behind:
            behind.sendall(b"two")
            assert behind.recv(10) == b"two"
            assert [len(told.splitlines()) for told in (new.ctl("sessions"), old_ctl(new, "sessions"))] == [1, 1]
        before.sendall(b"three")
        assert before.recv(10) == b"three"
    assert balancer.process.wait(20) == 0


def hashing(sock: socket.socket) -> None:
    """Answer the hash of all that has come, at its end."""
    digest = hashlib.sha256()
    while piece := sock.recv(1 << 16):
        digest.update(piece)
    sock.sendall(digest.digest())


def test_several_listeners(gpen: Start, servers: Servers, replace: Replace) -> None:
    """Each keeps its socket, which it had from the kernel; one that the new one lacks closes, and one that it has more
    is opened."""
    one, two = servers(echo), servers(echo)
    options = ("-O", f"listener web listen {LOCAL}", "-O", "listener web servers 1")
    balancer = gpen(*options, "-O", f"listener gone listen {LOCAL}", servers=[one, two])
    places = {row["name"]: row["address"] for row in balancer.json("listeners")}
    arguments = ("-O", f"listener fresh listen {LOCAL}", *options, LOCAL, one.address, two.address)
    new = replace(balancer, arguments=arguments)
    after = {row["name"]: row["address"] for row in new.json("listeners")}
    assert set(after) == {None, "web", "fresh"}
    assert {name: place for name, place in after.items() if name != "fresh"} == {
        name: place for name, place in places.items() if name != "gone"}
    assert balancer.process.wait(20) == 0
    with pytest.raises(OSError, match="refused"), socket.create_connection(pair(places["gone"])):
        pass


def pair(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return host, int(port)


def test_another_address(gpen: Start, servers: Servers, replace: Replace, tmp_path: Path) -> None:
    """The new command line counts: the new one binds what it says, and nobody listens at the old place any more."""
    server = servers(echo)
    balancer = gpen(servers=[server])
    old_address = balancer.address
    assert isinstance(old_address, tuple)
    new = replace(balancer, arguments=(f"{tmp_path}/front.sock", server.address))
    with new.connect() as sock:
        assert says(sock)
    assert balancer.process.wait(20) == 0
    with pytest.raises(OSError, match="refused"), socket.create_connection(old_address):
        pass


# --- what it takes with it --------------------------------------------------------------------------------------------


def test_what_was_said_at_runtime_counts(gpen: Start, servers: Servers, replace: Replace) -> None:
    a, b, c = servers(echo), servers(echo), servers(echo)
    balancer = gpen(servers=[a, b])
    for line in ("server 1 state drain", "roundrobin", f"server 5 address 127.0.0.1 port {c.port} max 7",
                 "acl 3 permit 10.0.0.0/8", "server 0 health down because of the moon", "blacklist 77",
                 "client 192.0.2.1 server 1 idle 100", f"listener more listen {LOCAL}"):
        assert "error" not in balancer.ctl(line)
    more = [row["address"] for row in balancer.json("listeners") if row["name"] == "more"]
    new = replace(balancer)
    rows = {row["number"]: row for row in new.json("servers")}
    assert {number: row["state"] for number, row in rows.items()} == {0: "ready", 1: "drain", 5: "ready"}
    assert rows[5]["max"] == 7
    assert (rows[0]["health"], rows[0]["reason"]) == ("down", "of the moon")
    assert new.ctl("blacklist") == "77\n"
    assert "no hash roundrobin" in new.ctl("mode")
    assert new.ctl("acl 3 permit 10.0.0.0/8") == ""
    (line,) = [line for line in new.ctl("state").splitlines() if line.startswith("client")]
    assert line.startswith("client 192.0.2.1 server 1 idle 10")
    assert [row["address"] for row in new.json("listeners") if row["name"] == "more"] == more
    assert balancer.process.wait(20) == 0


def test_what_the_file_says_otherwise_counts(gpen: Start, servers: Servers, replace: Replace, tmp_path: Path) -> None:
    """As after a reload: a line that has changed counts, one that has not leaves what was said at runtime."""
    a, b = servers(echo), servers(echo)
    file = tmp_path / "gpen.cfg"
    text = f"listen {LOCAL}\nserver 0 address 127.0.0.1 port {a.port} max 5\n" \
           f"server 1 address 127.0.0.1 port {b.port} max 5\ntimeout 4\nblacklist 9\n"
    file.write_text(text)
    balancer = Gpen(tmp_path, "-F", str(file))
    with balancer:
        balancer.ctl("server 0 max 50", "server 1 max 50", "timeout 2", "blacklist 8", "hold 6")
        file.write_text(text.replace(f"{b.port} max 5", f"{b.port} max 6").replace("timeout 4", "timeout 5"))
        new = replace(balancer)
        assert [row["max"] for row in new.json("servers")] == [50, 6]
        assert [new.ctl(name).strip() for name in ("timeout", "blacklist", "hold")] == ["5", "8", "6"]
        assert new.ctl("reload") == "nothing has changed\n"
        assert balancer.process.wait(20) == 0


def test_sessions_of_the_old_one_count_for_max(gpen: Start, servers: Servers, replace: Replace) -> None:
    """A server with max 3 has never more, whoever serves them; what ends in the old one makes room."""
    server = servers(echo)
    balancer = gpen("-O", "server 0 max 3 hard 3", servers=[server])
    with balancer.connect() as one, balancer.connect() as two:
        assert says(one) and says(two)
        new = replace(balancer)
        assert [new.server(0)[key] for key in ("sessions", "old", "max")] == [0, 2, 3]
        assert new.ctl("servers").endswith(" old 2\n")
        with new.connect() as three:
            assert says(three)
            assert [new.server(0)[key] for key in ("sessions", "old")] == [1, 2]
            assert new.ask(b"no room") == b""
            assert "full: 3 sessions" in new.ctl("explain 127.0.0.9")
            one.close()
            wait_until(lambda: new.server(0)["old"] == 1)
            with new.connect() as four:
                assert says(four)
                assert new.ask(b"no room") == b""
    assert balancer.process.wait(20) == 0
    wait_until(lambda: new.server(0)["old"] == 0)
    assert new.ctl("servers").endswith(f"rx {new.server(0)['rx']}\n")
    new.wait_idle()


def test_a_chain(gpen: Start, servers: Servers, replace: Replace) -> None:
    """Three gpens, each with a session of a client: the newest counts those of all, whichever ends first."""
    middle = balancer = gpen("-O", "server 0 max 9", servers=[servers(echo)])
    with balancer.connect() as one:
        assert says(one)
        middle = replace(balancer, name="middle")
        two = middle.connect()
        assert says(two)
        newest = replace(middle, name="newest")
        assert [newest.server(0)[key] for key in ("sessions", "old")] == [0, 2]
        assert old_ctl(newest, "pid") == f"{balancer.pid}\n"
        assert old_ctl(newest, "pid", ".old2") == f"{middle.pid}\n"
        two.close()
        assert middle.process.wait(20) == 0
        wait_until(lambda: newest.server(0)["old"] == 1)
        assert says(one)
    assert balancer.process.wait(20) == 0
    wait_until(lambda: newest.server(0)["old"] == 0)
    assert not has_old(newest) and not has_old(newest, ".old2")


def test_a_server_that_moves_leaves_the_old_sessions_behind(gpen: Start, servers: Servers, replace: Replace) -> None:
    """They are elsewhere, and count for no limit of the new place; nor does their end."""
    server, other = servers(echo), servers(echo)
    balancer = gpen("-O", "server 0 max 1", servers=[server])
    with balancer.connect() as one:
        assert says(one)
        new = replace(balancer)
        assert new.ask(b"x") == b""
        new.ctl(f"server 0 address 127.0.0.1 port {other.port}")
        assert new.ask(b"x") == b"x"
    assert balancer.process.wait(20) == 0
    with new.connect() as two:
        assert says(two)
        assert new.ask(b"x") == b""
    new.wait_idle()


# --- the old one ------------------------------------------------------------------------------------------------------


def test_the_old_one_can_be_asked(gpen: Start, servers: Servers, replace: Replace) -> None:
    """Beside the control socket; it looks, and ends sessions, but changes nothing, and hands over to nobody."""
    balancer = gpen(servers=[servers(echo)])
    with balancer.connect() as sock:
        assert says(sock)
        new = replace(balancer)
        assert old_ctl(new, "pid") == f"{balancer.pid}\n"
        assert len(old_ctl(new, "sessions").splitlines()) == 1
        assert old_ctl(new, "timeout 9").startswith(f"error: pid {new.pid} has replaced this gpen")
        assert old_ctl(new, "reload").startswith(f"error: pid {new.pid} has replaced this gpen")
        assert old_ctl(new, "upgrade").startswith(f"error: upgrade: pid {new.pid} has replaced it already")
        assert old_ctl(new, "handover 1 0").startswith(f"error: handover: pid {new.pid} has replaced it already")
        assert "</html>" in old_ctl(new, "status")
        assert old_ctl(new, "close server 0") == "Closing 1 connections of server 0\n"
        assert sock.recv(10) == b""
    assert balancer.process.wait(20) == 0
    assert not has_old(new)


def test_logs_that_are_rotated(gpen: Start, servers: Servers, replace: Replace, tmp_path: Path) -> None:
    """HUP goes to the new one, which tells the old one: so no line goes to a file that is compressed or gone."""
    balancer = gpen("-l", "gpen.log", servers=[servers(echo)])
    with balancer.connect() as one, balancer.connect() as two:
        assert says(one) and says(two)
        new = replace(balancer)
        one.close()
        wait_until(lambda: balancer.log)
        balancer.log_file.rename(tmp_path / "gpen.log.1")
        new.signal(signal.SIGHUP)
        wait_until(balancer.log_file.exists)
        assert "nothing has changed" in new.ctl("reload")  # which is done when the old one has been told
        wait_until(lambda: str(balancer.log_file) in links(balancer), what="the old one's new file")
    assert balancer.process.wait(20) == 0
    assert len(balancer.log.splitlines()) == len((tmp_path / "gpen.log.1").read_text().splitlines()) == 1


def links(balancer: Gpen) -> list[str]:
    """What its descriptors lead to."""
    found = []
    for path in Path(f"/proc/{balancer.pid}/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(path))
    return found


def test_drain_timeout(gpen: Start, servers: Servers, replace: Replace) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "drain_timeout 0.5", servers=[servers(echo)])
    with balancer.connect() as sock:
        assert says(sock)
        replace(balancer)
        assert sock.recv(10) == b""
    assert balancer.process.wait(20) == 0
    assert "drain_timeout is over: 1 session left, which end now" in balancer.stderr
    assert balancer.log.endswith(" shutdown\n")


def test_term_ends_the_old_one_at_once(gpen: Start, servers: Servers, replace: Replace) -> None:
    balancer = gpen("-p", "gpen.pid", servers=[servers(echo)])
    with balancer.connect() as sock:
        assert says(sock)
        new = replace(balancer)
        balancer.signal(signal.SIGTERM)
        assert sock.recv(10) == b""
    assert balancer.process.wait(20) == 0
    assert (new.directory / "gpen.pid").read_text() == f"{new.pid}\n"
    assert new.ctl("pid") == f"{new.pid}\n"


def test_clients_that_wait_in_the_old_one_are_served_there(gpen: Start, servers: Servers, replace: Replace) -> None:
    balancer = gpen("-O", "hold 30", "-O", "server 0 max 1", servers=[servers(echo)])
    with balancer.connect() as one, balancer.connect() as two:
        assert says(one)
        two.sendall(b"me too")
        wait_until(lambda: balancer.server(0)["held"] == 1)
        new = replace(balancer)
        one.close()
        assert two.recv(100) == b"me too"
        assert new.server(0)["old"] <= 1
    assert balancer.process.wait(20) == 0


def test_control_clients_that_stay_come_again(gpen: Start, servers: Servers, replace: Replace) -> None:
    """Their connections end, so that they find the new one."""
    balancer = gpen(servers=[servers(echo)])
    with balancer.connect() as session, closing(socket.socket(socket.AF_UNIX)) as sock:
        assert says(session)
        sock.connect(balancer.control)
        sock.settimeout(10)
        sock.sendall(b"stay\npid\n")
        assert sock.recv(100) == f"{balancer.pid}\n".encode()
        replace(balancer)
        assert sock.recv(100) == b""


# --- pid file, background, signals ------------------------------------------------------------------------------------


def test_pid_file(gpen: Start, servers: Servers, replace: Replace, tmp_path: Path) -> None:
    """It is one file, locked all the time, and holds the pid of the one that serves; that one removes it."""
    file = tmp_path / "gpen.pid"
    balancer = gpen("-p", str(file), servers=[servers(echo)])
    made = file.stat().st_ino
    new = replace(balancer)
    assert balancer.process.wait(20) == 0
    assert (file.read_text(), file.stat().st_ino) == (f"{new.pid}\n", made)
    second = run_gpen("-f", "-p", str(file), LOCAL, "127.0.0.1:1", directory=tmp_path)
    assert f"is locked: it runs already, with pid {new.pid}" in second.stderr
    new.signal(signal.SIGHUP)
    new.signal(signal.SIGUSR1)
    wait_until(lambda: "servers: 0 addr" in new.stderr)
    assert new.stop() == 0
    assert not file.exists() and not Path(new.control).exists()


def test_in_the_background(daemonize: Callable[..., int], servers: Servers, tmp_path: Path) -> None:
    """As a command: its exit status says whether the new one serves."""
    server = servers(echo)
    old = daemonize(LOCAL, server.address)
    new = daemonize("--replace", LOCAL, server.address)
    wait_until(lambda: has_ended(old))
    assert ctl(tmp_path / "gpen.ctl", "pid") == f"{new}\n"
    third = run_gpen("--replace", "-p", "gpen.pid", "-C", "./gpen.ctl", LOCAL, server.address, "-l", "/nowhere/x",
                     directory=tmp_path)
    assert third.returncode == 2
    assert third.stderr == "gpen: log: the directory '/nowhere' does not exist\n"
    assert ctl(tmp_path / "gpen.ctl", "pid") == f"{new}\n"


@needs_root
def test_as_another_user(gpen: Start, servers: Servers, replace: Replace, tmp_path: Path) -> None:
    """Root replaces a gpen that has become nobody, at a port that nobody could bind."""
    tmp_path.chmod(0o777)
    balancer = gpen("-u", "nobody", "-p", str(tmp_path / "gpen.pid"), listen="127.7.7.7:81", servers=[servers(echo)])
    new = replace(balancer)
    assert new.ask(b"x") == b"x"
    assert balancer.process.wait(20) == 0
    assert (tmp_path / "gpen.pid").read_text() == f"{new.pid}\n"


# --- upgrade ----------------------------------------------------------------------------------------------------------


def test_upgrade(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """The running one starts it, with its own arguments; and what it tells goes where this one's goes."""
    balancer = gpen("-p", "gpen.pid", servers=[servers(echo)])
    pids = []
    for _ in range(2):
        reply = balancer.ctl("upgrade")
        assert reply.startswith("replaced by pid ")
        pids.append(int(reply.split()[-1]))
        assert balancer.ctl("pid") == f"{pids[-1]}\n" == (tmp_path / "gpen.pid").read_text()
        assert balancer.ask(b"x") == b"x"
    assert balancer.process.wait(20) == 0
    wait_until(lambda: has_ended(pids[0]))
    assert b"--replace\0--replace" not in Path(f"/proc/{pids[1]}/cmdline").read_bytes()
    assert f"gpen {pids[0]} was replaced by pid {pids[1]}" in balancer.stderr
    os.kill(pids[1], signal.SIGTERM)
    wait_until(lambda: has_ended(pids[1]))
    assert balancer.stderr.endswith("gpen ended\n")


def test_upgrade_that_fails(servers: Servers, tmp_path: Path) -> None:
    """The reply is the new one's complaint, and this one goes on."""
    file = tmp_path / "gpen.cfg"
    file.write_text(f"listen {LOCAL}\nserver 0 address 127.0.0.1 port {servers(echo).port}\n")
    with Gpen(tmp_path, "-F", str(file)) as balancer:
        file.write_text("timeout never\n")
        assert balancer.ctl("upgrade") == (f"error: upgrade: {file}:1: timeout: 'never' is not a number of seconds "
                                           "above 0: expected one such as 30 or 0.5\n")
        assert balancer.ask(b"x") == b"x"
        assert balancer.ctl("pid") == f"{balancer.pid}\n"


def test_upgrade_without_a_python(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """It is gone, or not for the user that gpen has become: a line, and nothing is left of it."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.executable = '/nowhere/python'\n")
    balancer = gpen(servers=[servers(echo)], wrapper=("env", f"PYTHONPATH={tmp_path}:{ROOT}"))
    with descriptors_unchanged(balancer):
        for _ in range(3):
            assert balancer.ctl("upgrade") == "error: upgrade: '/nowhere/python': No such file or directory\n"
        assert balancer.ask(b"x") == b"x"


@needs_root
def test_no_upgrade_in_a_chroot(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    balancer = gpen("-j", str(tmp_path), "-u", "nobody", servers=[servers(echo)])
    assert balancer.ctl("upgrade") == ("error: upgrade: no program can be started from within the chroot: run gpen "
                                       "--replace with the same arguments, as root\n")


def test_no_leaks(gpen: Start, servers: Servers, tmp_path: Path) -> None:
    """Eight times: as many descriptors and processes as in the beginning, and no file more."""
    balancer = gpen("-p", "gpen.pid", "-l", "gpen.log", "-O", f"listener web listen {LOCAL}", servers=[servers(echo)])
    before, files = balancer.fds(), set(os.listdir(tmp_path))
    last = 0
    for _ in range(8):
        pid = int(balancer.ctl("upgrade").split()[-1])
        wait_until(lambda last=last: not last or has_ended(last))
        last = pid
    assert balancer.process.wait(20) == 0
    wait_until(lambda: len(os.listdir(f"/proc/{last}/fd")) == before,
               what=f"{before} descriptors, not {os.listdir(f'/proc/{last}/fd')}")
    assert set(os.listdir(tmp_path)) == files
    os.kill(last, signal.SIGTERM)
    wait_until(lambda: has_ended(last))
