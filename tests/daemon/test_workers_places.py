"""Places, waiting and limits with worker processes: as with one process, though each session is somewhere else."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.daemon.crew import field_of, is_echoed, pids_of, rows_of, standing_still, talking, workers
from tests.daemon.test_hold import stopped, wait_held
from tests.daemon.test_limits import burst, first_words
from tests.harness import Gpen, Server, connect, echo, naming, read_all, refusing, reset, sending, wait_until
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import Recorder, get, read_response
from tests.workers import ANSWER, ROOM, Counted
from tests.workers import burst as rush

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
FIRST = b"PROXY TCP4 10.1.2.3 10.4.5.6 %d 2000\r\n"


def endings(balancer: Gpen, number: int) -> list[str]:
    """The last words of so many lines of the log, once they are there."""
    wait_until(lambda: balancer.log.count("\n") >= number, what=f"{number} lines in the log")
    return [line.split()[-1] for line in balancer.log.splitlines()]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("-r",), ("-O", "leastconn"), ()])
def test_servers_never_see_more_clients_than_they_take(gpen: Start, servers: Serve, options: tuple[str, ...]) -> None:
    """And all are served, who come together."""
    five, seven = Counted(), Counted()
    balancer = gpen(*options, *ROOM, *workers(2), servers=[f"{servers(five).address}:5", f"{servers(seven).address}:7"])
    assert rush(balancer.address, 2000, 60) == {ANSWER: 2000}
    balancer.wait_idle()
    assert (five.most, seven.most) == (5, 7)
    assert sum(row["total"] for row in balancer.json("servers")) == 2000
    assert all(total > 500 for total in field_of(balancer, "total"))


def test_without_hold_the_others_are_closed(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", "-l", "gpen.log", *workers(3),
                    servers=[f"{servers(naming('a')).address}:5", f"{servers(naming('b')).address}:7"])
    with burst(balancer, 60) as socks:
        assert first_words(socks) == [b""] * 48 + [b"a"] * 5 + [b"b"] * 7
        assert [row["sessions"] for row in balancer.json("servers")] == [5, 7]
        assert field_of(balancer, "sessions") == [4] * 3
    balancer.wait_idle()
    assert endings(balancer, 60).count("no-server") == 48


def test_client_max_is_exact(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", *workers(3), "-O", "client_max 10", servers=[servers(naming("a"))])
    with burst(balancer, 100) as socks:
        assert first_words(socks) == [b""] * 90 + [b"a"] * 10
        assert balancer.json("recent")[0]["sessions"] == 10
        with balancer.connect("127.0.0.2") as other:
            assert other.recv(1) == b"a"
    balancer.wait_idle()
    assert endings(balancer, 101).count("client-max") == 90


def test_the_excess_waits_in_the_kernel(gpen: Start, servers: Serve) -> None:
    server = servers(naming("a"))
    balancer = gpen("-x", "10", *workers(2), servers=[server])
    with burst(balancer, 30) as socks:
        wait_until(lambda: server.served == 10)
        assert (len(balancer.json("sessions")), field_of(balancer, "sessions")) == (10, [5, 5])
        balancer.ctl("conn_max 30")
        assert first_words(socks) == [b"a"] * 30
    balancer.wait_idle()


def test_descriptors_are_short_at_one_of_them(gpen: Start, servers: Serve) -> None:
    """Clients whose sockets it can't have are lost, and nobody else: no client gets another one's."""
    balancer = gpen("-l", "gpen.log", *workers(1), servers=[servers(echo)])
    pid, = pids_of(balancer)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with talking(balancer, 5) as old:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 5, limits[1]))
        with burst_in_one_instant(balancer, 20) as socks:
            answers = [read_once(sock) for sock in socks]
        assert all(answer in (b"", b"%d" % number) for number, answer in enumerate(answers)) and b"" in answers
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert all(map(is_echoed, old))
        with burst_in_one_instant(balancer, 20) as socks:
            assert [read_once(sock) for sock in socks] == [b"%d" % number for number in range(20)]
    balancer.wait_idle()
    assert endings(balancer, 45).count("local-error") == answers.count(b"")
    assert "clients are lost: too many open files" in balancer.stderr


@contextmanager
def burst_in_one_instant(balancer: Gpen, count: int) -> Iterator[list[socket.socket]]:
    """So many clients who come while gpen stands still, each of which says its number."""
    with ExitStack() as stack:
        place = balancer.address
        with stopped(balancer):
            socks = [stack.enter_context(connect(place)) for _ in range(count)]
            for number, sock in enumerate(socks):
                sock.sendall(b"%d" % number)
        yield socks


def read_once(sock: socket.socket) -> bytes:
    """What a client gets; nothing when it is closed."""
    try:
        return sock.recv(100)
    except ConnectionError:
        return b""


def test_one_serves_no_more_than_its_descriptors_allow(gpen: Start, servers: Serve) -> None:
    """When the other one hangs; the excess waits in the kernel."""
    balancer = gpen(*workers(2), servers=[servers(naming("a"))], wrapper=("prlimit", "--nofile=100:100"))
    with standing_still(pids_of(balancer)[1]):
        wait_until(lambda: rows_of(balancer)[1]["silent"] >= 2)
        with burst(balancer, 50) as socks:
            wait_until(lambda: max(field_of(balancer, "sessions")) == 25)
            most = field_of(balancer, "sessions")
            assert (most, balancer.server(0)["sessions"]) == ([25, 0], 25)
            for sock in socks:
                assert sock.recv(1) == b"a"
                sock.close()
        wait_until(lambda: not balancer.json("sessions"))


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_held_clients_are_served_in_the_order_in_which_they_came(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", *workers(2), "-O", "hold 20", servers=[f"{servers(echo).address}:1"])
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect())]
        assert is_echoed(socks[0])
        for number in range(8):
            socks.append(stack.enter_context(balancer.connect()))
            socks[-1].sendall(b"%d" % number)
            wait_held(balancer, number + 1)
        assert field_of(balancer, "sessions") == [5, 4]
        for number in range(8):
            socks[number].close()
            assert socks[number + 1].recv(10) == b"%d" % number
            assert balancer.server(0)["held"] == 7 - number
    balancer.wait_idle()


def test_a_held_client_that_leaves(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", *workers(2), "-O", "hold 60", servers=[f"{servers(echo).address}:1"])
    with talking(balancer, 1):
        for leave in (socket.socket.close, reset):
            client = balancer.connect()
            wait_held(balancer, 1)
            leave(client)
            wait_held(balancer, 0)
        assert endings(balancer, 2) == ["client-closed", "client-reset"]
        assert (balancer.server(0)["sessions"], sum(field_of(balancer, "sessions"))) == (1, 1)
    balancer.wait_idle()


def test_a_place_is_for_who_is_still_there(gpen: Start, servers: Serve) -> None:
    """In one instant a place comes free, and who waits for it leaves."""
    balancer = gpen("-r", *workers(2), "-O", "hold 20", servers=[f"{servers(echo).address}:1"])
    for _ in range(10):
        with ExitStack() as stack:
            first, second, third = (stack.enter_context(balancer.connect()) for _ in range(3))
            assert is_echoed(first)
            wait_held(balancer, 2)
            with stopped(balancer):
                second.close()
                first.close()
            if not balancer.json("sessions"):
                third.close()
            assert is_echoed(third)
        balancer.wait_idle()


def test_hold_ends(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", *workers(2), "-O", "hold 0.5", servers=[f"{servers(echo).address}:1"])
    with talking(balancer, 1), burst(balancer, 6) as socks:
        start = time.monotonic()
        assert first_words(socks) == [b""] * 6
        assert 0.3 < time.monotonic() - start < 5
    assert endings(balancer, 7).count("no-server") == 6


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_failover(gpen: Start, servers: Serve) -> None:
    """Who finds nobody goes to another server; the one that refuses is blacklisted once."""
    with refusing() as nobody:
        balancer = gpen("-r", "-l", "gpen.log", *workers(3), servers=[nobody, servers(naming("b"))])
        with burst(balancer, 30) as socks:
            assert first_words(socks) == [b"b"] * 30
        balancer.wait_idle()
        assert [row["event"] for row in balancer.json("events")].count("down") == 1
        refused = balancer.server(0)
        assert refused["blacklisted"] > 20 and refused["failures"] >= 1 and refused["sessions"] == 0
        assert all(" server 1 " in line for line in balancer.log.splitlines())


def test_nobody_can_be_reached(gpen: Start) -> None:
    with refusing() as first, refusing() as second:
        balancer = gpen("-r", "-l", "gpen.log", *workers(2), servers=[first, second])
        assert [balancer.ask() for _ in range(4)] == [b""] * 4
        assert set(endings(balancer, 4)) <= {"connect-failed", "no-server"}
        balancer.wait_idle()


def test_stubborn(gpen: Start, servers: Serve) -> None:
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen("-s", *workers(2), servers=[a, b])
    assert [balancer.ask(source="127.0.0.2") for _ in range(4)] == [b"a"] * 4
    assert balancer.ask(source="127.0.0.3") == b"b"
    a.close()
    assert [balancer.ask(source="127.0.0.2") for _ in range(4)] == [b""] * 4


def test_who_is_denied(gpen: Start, servers: Serve) -> None:
    denied = ("-O", "acl 1 deny 127.0.0.2", "-O", "acl 1 permit 0.0.0.0/0", "-O", "client_acl 1")
    balancer = gpen("-l", "gpen.log", *workers(2), *denied, servers=[servers(naming("a"))])
    assert [balancer.ask(source=f"127.0.0.{last}") for last in (2, 3, 2, 3)] == [b"", b"a"] * 2
    assert sorted(endings(balancer, 4)) == ["client-closed", "client-closed", "denied", "denied"]
    balancer.ctl(f"abuse {servers(naming('abuse')).address}")
    assert [balancer.ask(source=f"127.0.0.{last}") for last in (2, 3, 2, 3)] == [b"abuse", b"a"] * 2
    balancer.wait_idle()


def test_an_address_that_a_proxy_tells(gpen: Start, servers: Serve) -> None:
    """It counts for access lists and client_max, and clients stay with their server by it."""
    balancer = gpen("-l", "gpen.log", *workers(2), "-O", "acl 3 permit 127.0.0.60", "-O", "accept_proxy 3",
                    "-O", "client_max 3", servers=[servers(naming("a")), servers(naming("b"))])
    with ExitStack() as stack:

        def visit(number: int) -> bytes:
            sock = stack.enter_context(balancer.connect("127.0.0.60"))
            sock.sendall(FIRST % number)
            return sock.recv(1)

        assert [visit(number) for number in range(1, 6)] == [b"a"] * 3 + [b""] * 2
        assert {row["client"] for row in balancer.json("sessions")} == {f"10.1.2.3:{port}" for port in (1, 2, 3)}
        assert [row["sessions"] for row in balancer.json("recent") if row["address"] == "10.1.2.3"] == [3]
        assert balancer.ask(source="127.0.0.4") == b"b"
        balancer.ctl("acl 1 deny 10.1.2.3", "acl 1 permit 0.0.0.0/0", "client_acl 1")
        assert visit(7) == b""
        assert endings(balancer, 4)[-1] == "denied"
    balancer.wait_idle()


# --- ways to come -----------------------------------------------------------------------------------------------------


def test_a_unix_socket(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    place = str(tmp_path / "front")
    balancer = gpen("-l", "gpen.log", *workers(2), servers=[servers(naming("a"), at=str(tmp_path / "back"))],
                    listen=place)
    for _ in range(4):
        with connect(place) as sock:
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"a"
    assert (sum(field_of(balancer, "total")), len(endings(balancer, 4))) == (4, 4)
    balancer.wait_idle()


def test_tls(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = gpen("-l", "gpen.log", *workers(2), *certificates.server.options, servers=[servers(echo)])
    with ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(TlsClient(balancer.address, trusting(certificates.authority.certificate)))
            assert is_echoed(client)
        assert {(row["tls"], row["sni"]) for row in balancer.json("sessions")} == {("TLSv1.3", "localhost")}
        assert sum(balancer.server(0)["tls"].values()) == 4
    balancer.wait_idle()
    assert balancer.log.count(" localhost\n") == 4


def test_requests_of_one_connection(gpen: Start, servers: Serve) -> None:
    recorders = [Recorder(), Recorder()]
    balancer = gpen("-H", "-r", "-l", "gpen.log", *workers(2), servers=[servers(recorder) for recorder in recorders])
    for _ in range(2):
        with balancer.connect() as sock:
            for number in range(5):
                sock.sendall(get(f"/{number}"))
                assert read_response(sock).endswith(b"ok")
            assert sum(row["sessions"] for row in rows_of(balancer)) == 1
        balancer.wait_idle()
    assert [len(recorder.requests) for recorder in recorders] == [5, 5]
    assert all(b"X-Forwarded-For: 127.0.0.1" in request for recorder in recorders for request in recorder.requests)


def test_a_server_that_closes_first_has_its_place_free(gpen: Start, servers: Serve) -> None:
    """Though the client does not leave."""
    balancer = gpen(*workers(2), "-O", "hold 20", servers=[f"{servers(sending(b'bye')).address}:1"])
    with ExitStack() as stack:
        for _ in range(6):
            sock = stack.enter_context(balancer.connect())
            assert sock.recv(10) == b"bye"
        assert sum(field_of(balancer, "sessions")) <= 6
    balancer.wait_idle()
