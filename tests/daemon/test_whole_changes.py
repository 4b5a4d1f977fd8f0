"""A change is made whole or not at all: what was opened for it is closed again, and two changes never mix."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.datagrams import DatagramServer, ask
from tests.datagrams import echo as datagram_echo
from tests.harness import Gpen, Server, connect, echo, naming, wait_until
from tests.listeners import own

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
NAMES = 250
LONG = "x" * 70  # more than a label of a name may have


@pytest.fixture
def more(tmp_path: Path) -> Path:
    return tmp_path / "more.cfg"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def sockets_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_socket()}


FAILS = ("log no-such-host.invalid:514", "log /no/such/directory/x", f"log {LONG}.invalid:514",
         f"server 7 address {LONG} port 1", "geoip_db /no/such/file")


@pytest.mark.parametrize("fails", FAILS)
@pytest.mark.parametrize("listen", ["127.0.0.1:{port}", "127.0.0.1:0", "{directory}/new.sock"])
def test_what_was_opened_in_vain_is_closed(gpen: Start, servers: Serve, tmp_path: Path, more: Path, fifo: Path,
                                           listen: str, fails: str) -> None:
    balancer = gpen("-l", str(fifo), servers=[servers(naming("a"))], listen="0.0.0.0:0")
    port = balancer.address[1]
    listen = listen.format(port=port, directory=tmp_path)
    more.write_text(f"timeout 9\nlisten {listen}\nlog {tmp_path}/new.log\n{fails}\n")
    before, files = balancer.fds(), sockets_in(tmp_path)
    for _ in range(3):
        reply = balancer.ctl(f"include {more}")
        assert reply.startswith("error: ") and "gpen failed" not in reply, reply
    assert (balancer.fds(), sockets_in(tmp_path), balancer.ctl("timeout")) == (before, files, "3\n")
    assert {balancer.ask() for _ in range(40)} == {b"a"}
    assert len(balancer.json("servers")) == 1


def test_logs_of_listeners_that_were_made_in_vain(gpen: Start, tmp_path: Path, more: Path) -> None:
    """No file is left of the first, whatever becomes of the second; but one that was there before is not touched."""
    balancer = gpen(*own("v"), *own("w"), servers=["127.0.0.1:9"])
    (tmp_path / "old.log").write_text("old\n")
    before = balancer.fds()
    for fails in FAILS[:3]:
        for name in ("new.log", "old.log"):
            more.write_text(f"listener v log {tmp_path}/{name}\nlistener w {fails}\n")
            assert balancer.ctl(f"include {more}").startswith("error: listener w: log: ")
    assert {path.name for path in tmp_path.glob("*.log")} == {"old.log"}
    assert (balancer.fds(), (tmp_path / "old.log").read_text()) == (before, "old\n")


def test_what_was_opened_for_a_server_that_is_gpen_itself(gpen: Start, servers: Serve, tmp_path: Path,
                                                           more: Path) -> None:
    """Which is found when all is open."""
    balancer = gpen(servers=[servers(naming("a"))], listen="0.0.0.0:0")
    port, before = balancer.address[1], balancer.fds()
    for listen, server in ((f"127.0.0.1:{port}", f"127.0.0.1 port {port}"), (f"{tmp_path}/new", f"{tmp_path}/new")):
        more.write_text(f"listen {listen}\nlog {tmp_path}/new.log\nserver 7 address {server}\n")
        assert "is where gpen itself listens" in balancer.ctl(f"include {more}")
    assert (balancer.fds(), list(tmp_path.glob("new*"))) == (before, [])
    assert {balancer.ask() for _ in range(40)} == {b"a"}


@pytest.mark.parametrize("fails", FAILS[:3])
def test_a_udp_listener_that_was_opened_in_vain_is_closed(gpen: Start, more: Path, fails: str) -> None:
    with DatagramServer(datagram_echo) as server:
        balancer = gpen("-U", "-O", "udp_timeout 0.1", servers=[server.address], listen="0.0.0.0:0")
        port = int(balancer.address[1])
        before = balancer.fds()
        for listen in (f"127.0.0.1:{port}", "127.0.0.1:0"):
            more.write_text(f"listen {listen}\n{fails}\n")
            assert balancer.ctl(f"include {more}").startswith("error: log: ")
            assert all(ask(("127.0.0.1", port)) == b"who?" for _ in range(20))
        wait_until(lambda: balancer.fds() == before)


def test_a_listener_moves_about_while_sessions_live(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(servers=[servers(echo)])
    port = balancer.address[1]
    places = [f"127.0.0.1:{port}", "127.0.0.2:0", f"0.0.0.0:{port}", f"127.0.0.1:{port}", f"localhost:{port}",
              f"[::]:{port}", f"{tmp_path}/a.sock", f"0.0.0.0:{port}", f"{tmp_path}/a.sock", f"{tmp_path}/./a.sock",
              f"{tmp_path}/a.sock", f"127.0.0.1:{port}"]
    sessions = []
    before = balancer.fds()
    for place in places:
        assert balancer.ctl(f"listen {place}").startswith(place.removesuffix(":0"))
        sessions.append(balancer.connect())
        for sock in sessions:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
    assert not (tmp_path / "a.sock").exists()
    for sock in sessions:
        sock.close()
    wait_until(lambda: balancer.fds() == before)


def test_a_socket_that_somebody_removed_is_made_again(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    balancer = gpen(servers=[servers(naming("a"))], listen=str(path))
    path.unlink()
    assert not balancer.ctl(f"listen {tmp_path}/./a.sock").startswith("error")
    assert balancer.ask() == b"a"


# --- two changes at once ----------------------------------------------------------------------------------------------


@pytest.fixture
def sites(tmp_path: Path, certificates: Certificates) -> Path:
    """A directory of certificates that takes a while to read."""
    directory = tmp_path / "sites"
    directory.mkdir()
    for number in range(NAMES):
        shutil.copy(certificates.server.certificate, directory / f"{number}.example.crt")
        shutil.copy(certificates.server.key, directory / f"{number}.example.key")
    return directory


def served(balancer: Gpen) -> bytes:
    """The certificate that a client gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with balancer.connect() as sock, context.wrap_socket(sock) as secured:
        return secured.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("command", ["ssl_certificate {new}", "no ssl_certificate"])
def test_a_change_while_hup_reads_certificates(gpen: Start, servers: Serve, tmp_path: Path, sites: Path,
                                               certificates: Certificates, command: str) -> None:
    """What was set last is what holds, then and for good."""
    old = certificates.server.in_one(tmp_path / "old.pem")
    new = certificates.client.in_one(tmp_path / "new.pem")
    balancer = gpen("-E", str(old), "-O", f"ssl_sni_path {sites}", servers=[servers(naming("a"))])
    first = served(balancer)
    more = tmp_path / "more.cfg"
    more.write_text(f"no ssl_sni_path\n{command.format(new=new)}\n")
    balancer.signal(signal.SIGHUP)
    assert balancer.ctl("pid") == f"{balancer.pid}\n"  # by now the signal has been seen
    assert balancer.ctl(f"include {more}") == ""
    for _ in range(2):
        if "no " in command:
            assert balancer.ask() == b"a"
        else:
            assert served(balancer) not in (first, b"")
        wait_until(lambda: "nothing has changed" in balancer.ctl("reload"))  # whatever was under way is over


def test_two_clients_and_hups_change_at_once(gpen: Start, servers: Serve, tmp_path: Path, sites: Path,
                                             certificates: Certificates) -> None:
    """All that the last file says holds at the end, and nothing of the others."""
    pem = certificates.server.in_one(tmp_path / "old.pem")
    balancer = gpen("-E", str(pem), "-O", f"ssl_sni_path {sites}", servers=[servers(naming("a"))])
    before = balancer.fds()

    def change(number: int) -> None:
        file = tmp_path / f"{number}.cfg"
        for turn in range(2):
            value = 10 * number + turn
            file.write_text(f"timeout {value}\nhold_max {value}\nserver {number} address localhost port {value}\n"
                            f"log {tmp_path}/{value}.log\nssl_sni_path {sites}/{'.' * (turn % 2)}\n")
            assert balancer.ctl(f"include {file}") == ""

    threads = [threading.Thread(target=change, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        balancer.signal(signal.SIGHUP)
        assert balancer.ctl("pid") == f"{balancer.pid}\n"
    for thread in threads:
        thread.join()
    value = balancer.ctl("timeout").strip()
    assert balancer.ctl("hold_max", "log") == f"{value}\n{tmp_path}/{value}.log\n"
    assert balancer.server(int(value) // 10)["port"] == int(value)
    wait_until(lambda: balancer.fds() == before + 1)  # the log


def test_a_storm_of_hups_is_one_reload_after_another(gpen: Start, servers: Serve, tmp_path: Path, sites: Path,
                                                     certificates: Certificates) -> None:
    """Those that come while one waits for its turn add nothing: who changes something waits for two at most."""
    pem = certificates.server.in_one(tmp_path / "old.pem")
    (tmp_path / "web.cfg").write_text("timeout 4\n")
    balancer = gpen("-E", str(pem), "-O", f"ssl_sni_path {sites}", "-F", "web.cfg", servers=[servers(naming("a"))])
    for _ in range(40):
        balancer.signal(signal.SIGHUP)
        balancer.ctl("pid")
    assert balancer.ctl("timeout 5") == "5\n"
    assert 0 < balancer.stderr.count("nothing has changed") < 20
    assert balancer.ctl("timeout") == "5\n"


def test_a_name_that_takes_long_holds_up_nobody_who_looks(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """A change waits for the one before it; what is asked, and clients, do not."""
    balancer = gpen(servers=[servers(naming("a"))])
    with connect(balancer.control) as slow, connect(balancer.control) as other:
        slow.sendall(b"server 3 address no-such-host.invalid port 1\n")
        other.sendall(b"timeout 8\n")
        assert balancer.ask() == b"a"
        replies = b"".join(sock.recv(1 << 16) for sock in (slow, other))
        assert replies.startswith(b"error: server 3: ") and replies.endswith(b"8\n")
    assert len(balancer.json("servers")) == 1
