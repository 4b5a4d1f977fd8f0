"""How many: limits of servers, conn_max with the excess in the kernel, connects under way."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.harness import Gpen, Server, SilentServer, echo, naming, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@contextmanager
def burst(balancer: Gpen, count: int) -> Iterator[list[socket.socket]]:
    """So many clients that connect at once, without waiting for one another."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        address = balancer.address
        for sock in socks:
            sock.setblocking(False)
            sock.connect_ex(address)
        for sock in socks:
            sock.settimeout(20)
        yield socks


def first_words(socks: Iterable[socket.socket]) -> list[bytes]:
    """What each client is told first, sorted; nothing when it is closed."""

    def word(sock: socket.socket) -> bytes:
        try:
            return sock.recv(10)
        except ConnectionResetError:
            return b""

    return sorted(map(word, socks))


@pytest.mark.parametrize("options", [["-r"], [], ["-W"], ["-h"], ["-O", "leastconn"], ["-O", "random"], ["-O", "prio"]])
def test_a_burst_never_overruns_the_limits(gpen: Start, servers: Serve, options: list[str]) -> None:
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen(*options, servers=[f"{a.address}:5", f"{b.address}:7"])
    with burst(balancer, 40) as socks:
        assert first_words(socks) == [b""] * 28 + [b"a"] * 5 + [b"b"] * 7
        assert [row["sessions"] for row in balancer.json("servers")] == [5, 7]
        assert len(balancer.json("sessions")) == 12
    balancer.wait_idle()


def test_places_are_counted_before_the_connect(gpen: Start, servers: Serve) -> None:
    with SilentServer() as silent:
        b = servers(naming("b"))
        balancer = gpen("-r", "-t", "0.5", servers=[f"{silent.address}:5", f"{b.address}:7"])
        with burst(balancer, 40) as socks:
            wait_until(lambda: balancer.server(0)["sessions"])
            assert balancer.server(0)["sessions"] <= 5
            assert first_words(socks) == [b""] * 33 + [b"b"] * 7
        balancer.wait_idle()


def test_hard_limit_for_clients_that_return(gpen: Start, servers: Serve) -> None:
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen(servers=[f"{a.address}:1:2", b])
    with ExitStack() as stack:

        def visit(source: str) -> bytes:
            return stack.enter_context(balancer.connect(source)).recv(10)

        assert visit("127.0.0.2") == b"a"
        assert visit("127.0.0.3") == b"b"
        assert visit("127.0.0.2") == b"a"  # beyond max, within hard
        assert visit("127.0.0.4") == b"b"
        assert visit("127.0.0.2") == b"b"  # beyond hard
    balancer.wait_idle()


@pytest.mark.parametrize("multi_accept", [1, 100])
def test_the_excess_waits_in_the_kernel(gpen: Start, servers: Serve, multi_accept: int) -> None:
    server = servers(naming("a"))
    balancer = gpen("-x", "10", "-m", str(multi_accept), servers=[server])
    with burst(balancer, 30) as socks:
        wait_until(lambda: server.served == 10)
        waiting = list(socks)
        served = 0
        while waiting:
            assert len(balancer.json("sessions")) <= 10
            told = [sock for sock in waiting if is_told(sock)]
            served += len(told)
            for sock in told:
                assert sock.recv(10) == b"a"
                sock.close()
            waiting = [sock for sock in waiting if sock not in told]
        assert served == 30
    balancer.wait_idle()
    assert server.served == 30


def is_told(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_conn_max_changes_while_clients_wait(gpen: Start, servers: Serve) -> None:
    server = servers(naming("a"))
    balancer = gpen("-x", "3", servers=[server])
    with burst(balancer, 9) as socks:
        wait_until(lambda: server.served == 3)
        assert balancer.ctl("conn_max 5") == "5\n"
        wait_until(lambda: server.served == 5)
        assert balancer.ctl("conn_max 1") == "1\n"
        assert len(balancer.json("sessions")) == 5
        balancer.ctl("conn_max 100")
        assert first_words(socks) == [b"a"] * 9


def test_pending_max(gpen: Start, servers: Serve) -> None:
    """No more connects than that are under way at one time; all clients are served in the end."""
    with SilentServer() as silent:
        server = servers(naming("a"))
        balancer = gpen("-r", "-t", "0.3", "-b", "0", "-O", "pending_max 2", servers=[silent.address, server])
        with burst(balancer, 8) as socks:
            while server.served < 8:
                assert sum(row["state"] != "open" for row in balancer.json("sessions")) <= 2
            assert first_words(socks) == [b"a"] * 8


def test_clients_max_forgets_the_oldest(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-c", "3", servers=[servers(echo)])
    for last in range(2, 8):
        balancer.ask(source=f"127.0.0.{last}")
    assert [row["address"] for row in balancer.json("recent")] == ["127.0.0.7", "127.0.0.6", "127.0.0.5"]


def test_tracking_keeps_a_client_with_its_server(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a")), servers(naming("b")), servers(naming("c"))])
    sources = [f"127.0.0.{last}" for last in range(2, 8)]
    first = [balancer.ask(source=source) for source in sources]
    assert sorted(first) == [b"a", b"a", b"b", b"b", b"c", b"c"]
    assert [balancer.ask(source=source) for source in sources] == first


def test_more_sessions_at_runtime_get_their_descriptors(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-x", "20", servers=[servers(naming("a"))], wrapper=("prlimit", "--nofile=100:4096"))
    assert balancer.ctl("conn_max 600") == "600\n"
    soft, hard = resource.prlimit(balancer.pid, resource.RLIMIT_NOFILE)
    assert (soft > 1200, hard) == (True, 4096)
    with burst(balancer, 150) as socks:
        assert first_words(socks) == [b"a"] * 150
        assert len(balancer.json("sessions")) == 150
    balancer.wait_idle()
