"""A gpen takes the place of another, and flows of UDP go on there: their sockets pass, and no datagram is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.datagrams import DatagramServer, ask, client, echo, endings, naming, silence
from tests.harness import LOCAL, Gpen, wait_until
from tests.replacing import Pretender, replacing

Start = Callable[..., Gpen]
Serve = Callable[..., DatagramServer]
Replace = Callable[..., Gpen]


@pytest.fixture
def servers() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(DatagramServer(*arguments, **options))


@pytest.fixture
def replace() -> Iterator[Replace]:
    """Replace a gpen: replace(old); the new one ends with the test."""
    with ExitStack() as stack:
        yield lambda old, *more, **options: stack.enter_context(replacing(old, *more, **options))


def asks(sock: socket.socket, data: bytes) -> bytes:
    sock.send(data)
    return sock.recv(1 << 17)


@pytest.mark.parametrize("listen", [LOCAL, "0.0.0.0:0", "[::]:0", "[::1]:0"])
def test_flows_go_on(gpen: Start, servers: Serve, replace: Replace, listen: str) -> None:
    """With the servers that they have, from the same port there; replies come from where the client has asked."""
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen("-U", "-r", "-l", "gpen.log", listen=listen, servers=[a, b])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(6)]
        assert [asks(sock, b"1") for sock in socks] == [b"a", b"b"] * 3
        first = replace(balancer, name="first")
        assert balancer.process.wait(20) == 0
        assert [asks(sock, b"22") for sock in socks] == [b"a", b"b"] * 3
        second = replace(first, name="second")
        assert [asks(sock, b"333") for sock in socks] == [b"a", b"b"] * 3
        assert len(set(a.clients)) == 3
        rows = second.json("sessions")
        assert [(row["up"], row["down"], row["state"]) for row in rows] == [(6, 3, "open")] * 6
        assert [second.server(number)["sessions"] for number in (0, 1)] == [3, 3]
        assert balancer.log == ""
    assert second.stop() == 0
    assert endings(balancer, 6) == ["shutdown"] * 6
    assert " up 6 down 3 " in balancer.log


@pytest.mark.parametrize("listen", [LOCAL, "0.0.0.0:0", "[::]:0", "[::1]:0"])
def test_from_one_flavour_to_the_other(gpen: Start, servers: Serve, replace: Replace, listen: str) -> None:
    """Where gpen is compiled, to one that is not, and back: they know clients by different keys."""
    server = servers(echo)
    balancer = gpen("-U", listen=listen, servers=[server])
    with client(balancer) as sock:
        assert asks(sock, b"1") == b"1"
        pure = replace(balancer, name="pure", wrapper=("env", "GPEN_PURE=1"))
        assert balancer.process.wait(20) == 0
        assert asks(sock, b"2") == b"2"
        replace(pure, name="again")
        assert pure.process.wait(20) == 0
        assert asks(sock, b"3") == b"3"
    assert len(set(server.clients)) == 1


def test_no_datagram_is_lost(gpen: Start, servers: Serve, replace: Replace) -> None:
    """Flows that last, and queries that have one each, all the time."""
    server = servers(echo)
    balancer = gpen("-U", "-O", "udp_replies 1", servers=[server])
    lost: list[str] = []
    counts = [0, 0]
    goes_on = threading.Event()

    def keep_asking(kind: int) -> None:
        sock = client(place)
        while not goes_on.is_set():
            if kind:
                sock.close()
                sock = client(place)
            data = b"%d" % counts[kind]
            try:
                if asks(sock, data) != data:
                    lost.append("another")
            except OSError as error:
                lost.append(str(error))
            counts[kind] += 1
        sock.close()

    place = balancer.address
    assert isinstance(place, tuple)
    threads = [threading.Thread(target=keep_asking, args=(kind,), daemon=True) for kind in (0, 1)]
    for thread in threads:
        thread.start()
    for number in range(3):
        old, balancer = balancer, replace(balancer, name=f"new{number}")
        assert old.process.wait(20) == 0
        seen = list(counts)
        wait_until(lambda seen=seen: min(counts[0] - seen[0], counts[1] - seen[1]) > 50, what="more queries")
    goes_on.set()
    for thread in threads:
        thread.join()
    assert not lost


def test_what_has_no_answer_yet_goes_on_too(gpen: Start, servers: Serve, replace: Replace) -> None:
    """A server's late reply finds its client; and what a server refuses behind that goes to the next, for the
    datagrams that had no answer pass as well."""
    slow, other = servers(silence), servers(naming("other"))
    balancer = gpen("-U", "-r", servers=[slow, other])
    with client(balancer) as one, client(balancer) as two, client(balancer) as three:
        one.send(b"one")
        assert asks(two, b"two") == b"other"
        three.send(b"three")
        wait_until(lambda: len(slow.clients) == 2)
        new = replace(balancer)
        slow.socket.sendto(b"late", slow.clients[0])
        assert one.recv(100) == b"late"
        slow.close()
        three.send(b"more")
        assert [three.recv(100), three.recv(100)] == [b"other", b"other"]
        assert other.received == [b"two", b"three", b"more"]
        assert new.server(0)["sessions"] + new.server(1)["sessions"] == 3


def test_limits(gpen: Start, servers: Serve, replace: Replace) -> None:
    """They count flows that were adopted, and end them as ever."""
    server = servers(echo)
    balancer = gpen("-U", "-x", "3", "-O", "udp_timeout 1.5", "-l", "gpen.log", servers=[server])
    with client(balancer) as one, client(balancer) as two:
        assert asks(one, b"1") == b"1" and asks(two, b"2") == b"2"
        new = replace(balancer)
        assert ask(new, b"3") == b"3" and ask(new, b"4") == b"4"
        wait_until(lambda: len(new.json("sessions")) == 3)
        assert sorted(endings(balancer, 4)) == ["evicted", "silent", "silent", "silent"]
    new.wait_idle()


def test_a_server_that_is_none_any_more(gpen: Start, servers: Serve, replace: Replace) -> None:
    """Its flows end; their clients' next datagrams begin others."""
    a, b = servers(naming("a")), servers(naming("b"))
    balancer = gpen("-U", servers=[a, b])
    with client(balancer) as sock:
        assert asks(sock, b"1") == b"a"
        new = replace(balancer, arguments=("-U", LOCAL, b.address, "-O", f"server 1 address {b.address}".replace(
            ":", " port ")))
        assert balancer.process.wait(20) == 0
        assert asks(sock, b"2") in (b"a", b"b")
        assert len(new.json("sessions")) == 1


def test_both_transports(gpen: Start, servers: Serve, replace: Replace) -> None:
    """A gpen of TCP and UDP: each listener's own."""
    server = servers(echo)
    balancer = gpen("-O", f"listener dns listen {LOCAL}", "-O", "listener dns udp", servers=[server])
    (place,) = [row["address"] for row in balancer.json("listeners") if row["name"] == "dns"]
    host, _, port = place.rpartition(":")
    with client((host, int(port))) as sock:
        assert asks(sock, b"1") == b"1"
        new = replace(balancer)
        assert balancer.process.wait(20) == 0
        assert asks(sock, b"2") == b"2"
        assert [row["listener"] for row in new.json("sessions")] == ["dns"]


def test_when_it_comes_to_nothing(gpen: Start, servers: Serve) -> None:
    """Flows stand still as long as another is about to have them, and then go on: what came meanwhile is answered."""
    server = servers(echo)
    balancer = gpen("-U", servers=[server])
    place = balancer.address
    assert isinstance(place, tuple)
    with client(place) as sock, client(place) as fresh:
        assert asks(sock, b"1") == b"1"
        with Pretender(balancer) as other:
            other.listen()
            other.ready("")
            messages = other.listen()
            assert [len(message["flows"]) for message in messages if message.kind == "flows"] == [1]
            sock.send(b"2")
            fresh.send(b"3")
        assert sock.recv(100) == b"2" and fresh.recv(100) == b"3"
        assert len(set(server.clients)) == 2
    assert len(balancer.json("sessions")) == 2


def test_many_flows(gpen: Start, servers: Serve, replace: Replace) -> None:
    """More than one message can hold."""
    server = servers(echo)
    balancer = gpen("-U", "-x", "600", servers=[server])
    with ExitStack() as stack:
        socks = [stack.enter_context(client(balancer)) for _ in range(600)]
        for sock in socks:
            assert asks(sock, b"x" * 300) == b"x" * 300
        new = replace(balancer)
        assert "with 1 socket and 600 flows" in new.stderr
        for sock in socks:
            assert asks(sock, b"y") == b"y"
        assert len(set(server.clients)) == 600
