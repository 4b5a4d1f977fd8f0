"""client_max: how many sessions one client's address may have at one time; whoever goes, in whatever way, counts no
more."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import datagrams
from tests.certificates import Certificates
from tests.harness import Gpen, Server, connect, hold, naming, read_all, refusing, reset, wait_until
from tests.tlsclient import TlsClient, trusting
from tests.web.pages import data_of
from tests.wire.http_peers import Recorder, get, read_response

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
ONE, OTHER = "127.0.0.1", "127.0.0.2"
TWO_EACH = ("-r", "-l", "gpen.log", "-O", "client_max 2")


def count(balancer: Gpen, address: str = ONE) -> int:
    """How many sessions gpen counts for an address."""
    return int(balancer.json(f"explain {address}")["sessions"])


def wait_count(balancer: Gpen, number: int, address: str = ONE) -> None:
    wait_until(lambda: count(balancer, address) == number, what=f"{number} sessions of {address}")


@contextlib.contextmanager
def served(balancer: Gpen, number: int, source: str = "", name: bytes = b"a") -> Iterator[list[socket.socket]]:
    """So many clients who have a server."""
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect(source)) for _ in range(number)]
        for sock in socks:
            assert sock.recv(len(name)) == name
        yield socks


def endings(balancer: Gpen, number: int) -> list[str]:
    """The last words of so many lines of the log, once they are there."""
    wait_until(lambda: balancer.log.count("\n") >= number, what=f"{number} lines in the log")
    return [line.split()[-1] for line in balancer.log.splitlines()]


def test_a_client_has_so_many_sessions_and_no_more(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO_EACH, servers=[servers(naming("a"))])
    with served(balancer, 2) as first:
        assert [balancer.ask() for _ in range(3)] == [b""] * 3
        assert endings(balancer, 3) == ["client-max"] * 3
        with served(balancer, 2, OTHER):
            assert (balancer.ask(source=OTHER), balancer.ask(source="127.0.0.3")) == (b"", b"a")
        first[0].close()
        wait_count(balancer, 1)
        with served(balancer, 1):
            assert balancer.ask() == b""
    balancer.wait_idle()
    assert (count(balancer), count(balancer, OTHER)) == (0, 0)


def test_it_is_changed_while_gpen_runs(gpen: Start, servers: Serve) -> None:
    """Who is there stays, and counts also when there was no limit when it came."""
    balancer = gpen("-r", servers=[servers(naming("a"))])
    assert balancer.ctl("client_max") == "0\n"
    with served(balancer, 3) as early:
        assert balancer.ctl("client_max 2") == "2\n"
        assert balancer.ask() == b""
        early[0].sendall(b"x")
        assert early[0].recv(1) == b"x"
        balancer.ctl("client_max 4")
        assert balancer.ask() == b"a"
        balancer.ctl("client_max 3")
        assert balancer.ask() == b""
        balancer.ctl("no client_max")
        assert balancer.ask() == b"a"
    assert balancer.ctl("client_max x").startswith("error: client_max: 'x' is not a whole number")


def test_what_is_shown(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO_EACH, servers=[servers(naming("a"))])
    with served(balancer, 2), served(balancer, 1, OTHER):
        assert {row["address"]: row["sessions"] for row in balancer.json("recent")} == {ONE: 2, OTHER: 1}
        why = "it has 2 sessions already, and client_max is 2"
        row = balancer.json(f"explain {ONE}")
        assert (row["server"], row["why"], row["others"][0]["why_not"]) == (None, why, why)
        assert balancer.ctl(f"explain {OTHER}").endswith(f"{OTHER} has 1 session now\n")
        assert balancer.json(f"explain {OTHER}")["server"] == 0
        balancer.ask()
        assert data_of(balancer.ctl("status"))["info"]["endings"] == {"client-max": 1}
        assert [row["cause"] for row in balancer.json("events") if row["event"] == "refused"] == [
            f"{ONE} has 2 sessions already, and client_max is 2"]


def test_refusals_do_not_fill_the_diagnostics(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO_EACH, servers=[servers(naming("a"))])
    with served(balancer, 2), served(balancer, 2, OTHER):
        for source in (ONE, OTHER):
            assert [balancer.ask(source=source) for _ in range(20)] == [b""] * 20
        assert endings(balancer, 40) == ["client-max"] * 40
    assert balancer.stderr.count("client_max") == 1
    assert f"refused: {ONE} has 2 sessions already, and client_max is 2\n" in balancer.stderr


def test_it_is_not_forgotten_with_the_client(gpen: Start, servers: Serve) -> None:
    """clients_max says how many are remembered, which is no way around client_max."""
    balancer = gpen(*TWO_EACH, "-c", "1", servers=[servers(naming("a"))])
    with served(balancer, 2):
        assert balancer.ask(source=OTHER) == b"a"
        assert [row["address"] for row in balancer.json("recent")] == [OTHER]
        assert (balancer.ask(), count(balancer)) == (b"", 2)


# --- who it is that counts --------------------------------------------------------------------------------------------


def test_the_address_that_a_proxy_tells_counts(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO_EACH, "-O", "accept_proxy 3", "-O", "acl 3 permit 127.0.0.1", servers=[servers(naming("a"))])

    def header(address: str) -> bytes:
        return f"PROXY TCP4 {address} 10.0.0.1 1000 2000\r\n".encode()

    with ExitStack() as stack:
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            sock = stack.enter_context(balancer.connect())
            sock.sendall(header(address))
            assert sock.recv(1) == b"a"
        assert (balancer.ask(header("192.0.2.1")), balancer.ask(header("192.0.2.2"))) == (b"", b"a")
        assert (count(balancer, "192.0.2.1"), count(balancer, ONE)) == (2, 0)
        assert len(balancer.ask(b"PROXY UNKNOWN\r\n")) == 1


@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
def test_an_address_counts_whatever_the_notation(gpen: Start, servers: Serve, listen: str) -> None:
    """IPv4 through a socket for IPv6 is the IPv4 address."""
    balancer = gpen(*TWO_EACH, servers=[servers(naming("a"))], listen=listen)
    with served(balancer, 2):
        assert (balancer.ask(), count(balancer, "0:0::1"), count(balancer, "::1")) == (b"", 2, 2)
        if listen == "[::]:0":
            port = balancer.address[1]
            with connect((ONE, int(port))) as sock:
                assert sock.recv(1) == b"a"
                assert count(balancer) == count(balancer, f"::ffff:{ONE}") == 1


def test_clients_of_a_unix_socket_have_no_address(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(*TWO_EACH, servers=[servers(naming("a"))], listen=str(tmp_path / "front"))
    with served(balancer, 5):
        assert balancer.ask() == b"a"
    assert "client_max 2 has no effect: clients of a unix socket have no address" in balancer.stderr


def test_flows_count(gpen: Start) -> None:
    """All of conn_max is not for one address with many ports."""
    with datagrams.DatagramServer(datagrams.naming("a")) as server, ExitStack() as stack:
        balancer = gpen("-U", "-x", "5", *TWO_EACH, servers=[server.address])
        flows = [stack.enter_context(datagrams.client(balancer)) for _ in range(4)]
        for sock in flows[:2]:
            sock.send(b"x")
            assert sock.recv(9) == b"a"
        for sock in flows[2:]:
            sock.send(b"x")
        assert datagrams.endings(balancer, 2) == ["client-max"] * 2
        assert datagrams.ask(balancer, source=OTHER) == b"a"
        assert (count(balancer), count(balancer, OTHER)) == (2, 1)
        flows[0].send(b"x")
        assert flows[0].recv(9) == b"a", "those that are there go on"
        for row in balancer.json("sessions"):
            balancer.ctl(f"close {row['id']}")
        wait_count(balancer, 0)
        flows[2].send(b"x")
        assert flows[2].recv(9) == b"a"


# --- what they are told -----------------------------------------------------------------------------------------------


def test_a_client_of_mysql_is_told(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO_EACH, "-O", "mysql", servers=[servers(naming("greeting"))])
    with served(balancer, 2, name=b"greeting"):
        answer = balancer.ask()
    assert answer[4:] == b"\xff" + (1203).to_bytes(2, "little") + b"gpen: 127.0.0.1 has 2 sessions already (client_max)"


@pytest.fixture
def web(gpen: Start, servers: Serve) -> Gpen:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    return gpen("-H", *TWO_EACH, servers=[servers(Recorder(lambda request: page))])


@contextlib.contextmanager
def browsing(web: Gpen, number: int) -> Iterator[None]:
    """So many clients that have had a page and stay connected."""
    with ExitStack() as stack:
        for _ in range(number):
            sock = stack.enter_context(web.connect())
            sock.sendall(get("/"))
            assert read_response(sock).endswith(b"hi")
        yield


def test_a_client_of_http_is_told(web: Gpen) -> None:
    with browsing(web, 2):
        assert web.ask(get("/")).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
        assert endings(web, 1) == ["client-max"]
    web.wait_idle()
    wait_count(web, 0)


def test_those_who_are_told_do_not_fill_conn_max(web: Gpen) -> None:
    """A page needs a moment to arrive; of one address, no more than a few stay for that."""
    with browsing(web, 2), ExitStack() as stack:
        socks = [stack.enter_context(web.connect()) for _ in range(30)]
        assert len(endings(web, 30)) == 30
        assert len(web.json("sessions")) <= 4
        assert all(read_all(sock).startswith(b"HTTP/1.1 429 ") for sock in socks)
    wait_count(web, 0)


def test_a_client_of_tls_is_closed_before_its_handshake(gpen: Start, servers: Serve,
                                                        certificates: Certificates) -> None:
    """Those that are in their handshake count."""
    balancer = gpen(*TWO_EACH, *certificates.server.options, servers=[servers(naming("a"))])
    context = trusting(certificates.authority.certificate)
    with balancer.connect(), TlsClient(balancer.address, context) as client:
        assert client.recv(1) == b"a"
        with balancer.connect() as third:
            assert read_all(third) == b""
        assert endings(balancer, 1) == ["client-max"]


def test_clients_that_are_held_count(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen(*TWO_EACH, "-O", "hold 20", servers=[address])
        with balancer.connect() as first, balancer.connect():
            wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"] * 2)
            assert balancer.ask() == b""
            first.close()
            wait_count(balancer, 1)
        wait_count(balancer, 0)


def test_clients_of_the_abuse_server_count(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*TWO_EACH, "-O", "acl 1 deny 127.0.0.1", "-O", "client_acl 1", "-B", servers(naming("a")).address,
                    servers=[servers(hold)])
    with served(balancer, 2):
        assert balancer.ask() == b""
        assert endings(balancer, 1) == ["client-max"]
        assert "client_max is 2" in balancer.json(f"explain {ONE}")["why"]
    wait_count(balancer, 0)
    assert balancer.json(f"explain {ONE}")["server"] == "abuse"


# --- none is forgotten to be counted out ------------------------------------------------------------------------------


NOBODY = "127.0.0.1:9"  # port 9 (discard) of this machine
NEVER = ("-O", "server 0 state drain")
WAYS: dict[str, Sequence[str]] = {
    "open": (),
    "tls": ("-O", "ssl_handshake 0.2"),
    "proxy": ("-O", "accept_proxy 3"),
    "a header of who may send none": ("-O", "accept_proxy 3", "-O", "acl 3 permit 10.0.0.1"),
    "denied": ("-O", "acl 1 deny 127.0.0.1", "-O", "client_acl 1"),
    "no server": NEVER,
    "unreachable": ("-O", f"server 0 address {NOBODY}", "-b", "0"),
    "local": ("-O", "source 192.0.2.77"),
    "held": (*NEVER, "-O", "hold 0.3"),
    "http": ("-H",),
    "http, no server": ("-H", *NEVER),
    "mysql": ("-O", "mysql", "-O", "greeting 0.2", "-b", "0"),
    "dummy": ("-O", "dummy"),
    "idle": ("-O", "idle_timeout 0.3"),
    "one after the other": ("-O", "pending_max 1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_is_gone_is_not_counted(gpen: Start, servers: Serve, certificates: Certificates, way: str) -> None:
    """However their sessions end: they close, they reset, they say what makes no sense, there are too many of them."""
    options = (*certificates.server.options, *WAYS[way]) if way == "tls" else WAYS[way]
    balancer = gpen("-r", "-O", "client_max 3", *options, servers=[servers(hold)])
    address = balancer.address
    for _ in range(3):
        with connect(address), connect(address) as second, contextlib.suppress(OSError):
            second.sendall(b"PROXY nonsense\r\n\r\n")
            reset(second)
        with ExitStack() as stack:
            for _ in range(5):
                sock = stack.enter_context(connect(address))
                with contextlib.suppress(OSError):
                    sock.sendall(b"nonsense")
    wait_until(lambda: not balancer.json("sessions"))
    assert count(balancer) == 0


@pytest.mark.parametrize("way", ["open", "tls", "proxy", "held"])
def test_whoever_is_closed_by_a_command_is_not_counted(gpen: Start, servers: Serve, certificates: Certificates,
                                                       way: str) -> None:
    options = {"tls": certificates.server.options, "held": (*NEVER, "-O", "hold 20")}.get(way, WAYS[way])
    balancer = gpen("-r", "-O", "client_max 3", *options, servers=[servers(hold)])
    with balancer.connect() as first, balancer.connect() as second:
        wait_until(lambda: len(balancer.json("sessions")) == 2)
        assert count(balancer) == (0 if way == "proxy" else 2), "who has yet to say who it is is nobody"
        for row in balancer.json("sessions"):
            balancer.ctl(f"close {row['id']}")
        assert read_all(first) == read_all(second) == b""
        assert count(balancer) == 0
