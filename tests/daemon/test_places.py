"""Places on servers that the gone would hold: given back when the server's side has ended, whatever its client does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from tests.certificates import Certificates
from tests.harness import PATIENCE, Gpen, Server, echo, free_port, naming, read_all, reset, wait_until
from tests.tlsclient import trusting
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
PIECE, MB = 1 << 14, 1 << 20


def states(balancer: Gpen) -> list[str]:
    return [row["state"] for row in balancer.json("sessions")]


def places(balancer: Gpen) -> int:
    """How many places are taken on server 0."""
    return int(balancer.server(0)["sessions"])


@contextmanager
def clients(balancer: Gpen, greeting: bytes, count: int) -> Iterator[list[socket.socket]]:
    """So many clients, each of whom the server has told its name."""
    with ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(count)]
        for sock in socks:
            assert sock.recv(10) == greeting
        yield socks


def parting(*steps: Callable[[socket.socket], object]) -> Callable[[socket.socket], None]:
    """A server that says "p" at once, waits for a byte of the client's, and then does this with the connection."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"p")
        sock.recv(1)
        for step in steps:
            step(sock)

    return serve


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def linger(sock: socket.socket) -> None:
    """Stay until the other side has ended."""
    read_all(sock)


def test_clients_of_a_server_that_was_restarted_hold_no_places(gpen: Start) -> None:
    """They are idle, and notice nothing; as many new ones are served by the new process."""
    port = free_port()
    with Server(naming("a"), port=port) as old:
        balancer = gpen("-r", "-b", "0", "-l", "gpen.log", servers=[f"{old.address}:3"])
        with clients(balancer, b"a", 3) as idle:
            assert (places(balancer), balancer.ask()) == (3, b"")
            old.close()
            wait_until(lambda: not places(balancer))
            with Server(naming("b"), port=port), clients(balancer, b"b", 3):
                assert (places(balancer), balancer.ask()) == (3, b"")
                assert sorted(states(balancer)) == ["half-closed"] * 3 + ["open"] * 3
                for sock in idle:
                    sock.close()
                wait_until(lambda: len(states(balancer)) == 3)
                assert places(balancer) == 3
    balancer.wait_idle()


@pytest.mark.parametrize("end", [half_close, reset])
@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_waits_gets_the_place(gpen: Start, servers: Serve, certificates: Certificates,
                                            end: Callable[[socket.socket], object], tls: bool) -> None:
    gone = threading.Event()
    options = certificates.server.options if tls else ()
    server = servers(parting(end, lambda sock: gone.wait(PATIENCE)))
    balancer = gpen("-r", "-O", "hold 20", *options, servers=[f"{server.address}:1"])
    trust = trusting(certificates.authority.certificate)

    def client() -> socket.socket:
        return trust.wrap_socket(balancer.connect(), server_hostname="localhost") if tls else balancer.connect()

    with client() as first:
        assert first.recv(1) == b"p"
        with client() as second:
            wait_until(lambda: "held" in states(balancer))
            first.sendall(b"x")
            assert second.recv(1) == b"p"
            gone.set()
    balancer.wait_idle()


def test_a_half_closed_session_goes_on(gpen: Start, servers: Serve) -> None:
    """The server has ended its side and has its place free again, and takes all that the client still sends."""
    uploads: list[bytes] = []
    server = servers(parting(half_close, lambda sock: uploads.append(read_all(sock))))
    balancer = gpen("-r", "-l", "gpen.log", servers=[f"{server.address}:1"])
    with clients(balancer, b"p", 1) as (first,):
        first.sendall(b"x")
        assert read_all(first) == b""
        wait_until(lambda: not places(balancer))
        with clients(balancer, b"p", 1):
            assert places(balancer) == 1
            first.sendall(bytes(MB))
            half_close(first)
            wait_until(lambda: uploads)
            assert len(uploads[0]) == MB
            wait_until(lambda: states(balancer) == ["open"])
            assert places(balancer) == 1
    balancer.wait_idle()
    row = balancer.server(0)
    assert (row["sx"], row["rx"], row["total"]) == (MB + 1, 2, 2)


def filling(sent: list[int], enough: threading.Event) -> Callable[[socket.socket], None]:
    """A step of a server that sends until it is told that this is enough."""

    def send(sock: socket.socket) -> None:
        while not enough.wait(0.005):
            sock.sendall(bytes(PIECE))
            sent.append(PIECE)

    return send


@pytest.mark.parametrize("end", [half_close, reset])
def test_a_client_that_does_not_read_holds_no_place(gpen: Start, servers: Serve,
                                                    end: Callable[[socket.socket], object]) -> None:
    """What the server has sent waits in gpen, which does not read on; the end is behind that."""
    sent, enough = [1], threading.Event()
    balancer = gpen(servers=[f"{servers(parting(filling(sent, enough), end, linger)).address}:1"])
    with balancer.connect() as client:
        client.sendall(b"x")
        wait_until(lambda: waiting_bytes(balancer))
        assert places(balancer) == 1
        enough.set()
        wait_until(lambda: not places(balancer))
        assert waiting_bytes(balancer)
        cpu = balancer.cpu
        time.sleep(0.5)  # how busy it is while nothing happens is what is measured
        assert balancer.cpu - cpu < 0.1
        received = len(read_all(client))
        assert received == sum(sent) if end is half_close else received > 0
    balancer.wait_idle()


def waiting_bytes(balancer: Gpen) -> int:
    """What waits in gpen, in its only session."""
    return sum(balancer.json(f"connection {row['id']}")["pend"] for row in balancer.json("sessions"))


def end_by_drain(balancer: Gpen) -> None:
    assert "0 sessions went by themselves, 1 were closed" in balancer.ctl("drain 0 0.3 close")


def end_by_maint(balancer: Gpen) -> None:
    balancer.ctl("server 0 state maint")


def end_by_close(balancer: Gpen) -> None:
    assert balancer.ctl("close server 0") == "Closing 1 connections of server 0\n"


def end_by_verdict(balancer: Gpen) -> None:
    balancer.ctl("on_down close", "server 0 health down")


def end_when_deleted(balancer: Gpen) -> None:
    balancer.ctl("no server 0")
    end_by_close(balancer)


def end_when_moved(balancer: Gpen) -> None:
    balancer.ctl("server 0 address 127.0.0.1 port 9")
    assert places(balancer) == 0
    end_by_close(balancer)


def end_by_number(balancer: Gpen) -> None:
    balancer.ctl(f"close {balancer.json('sessions')[0]['id']}")


@pytest.mark.parametrize("end", [end_by_drain, end_by_maint, end_by_close, end_by_verdict, end_when_deleted,
                                 end_when_moved, end_by_number])
def test_what_ends_the_sessions_of_a_server_ends_those_without_a_place(gpen: Start, servers: Serve,
                                                                       end: Callable[[Gpen], None]) -> None:
    balancer = gpen(servers=[servers(parting(half_close, linger))])
    with clients(balancer, b"p", 1) as (client,):
        client.sendall(b"x")
        wait_until(lambda: not places(balancer))
        end(balancer)
        wait_until(lambda: not states(balancer))
    balancer.ctl("server 0 address 127.0.0.1 port 9 health unknown")
    assert places(balancer) == 0


def test_leastconn_counts_places_only(gpen: Start, servers: Serve) -> None:
    a, b = servers(parting(half_close, linger)), servers(naming("b"))
    balancer = gpen("-r", "-O", "leastconn", servers=[a, b])
    with ExitStack() as stack:
        firsts = [stack.enter_context(balancer.connect()) for _ in range(4)]
        wait_until(lambda: [row["sessions"] for row in balancer.json("servers")] == [2, 2])
        for sock in firsts:
            sock.sendall(b"x")
        wait_until(lambda: [row["sessions"] for row in balancer.json("servers")] == [0, 2])
        for _ in range(2):
            assert stack.enter_context(balancer.connect()).recv(1) == b"p"
    balancer.wait_idle()


# --- half_closed_timeout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["client", "server"])
@pytest.mark.parametrize(("settings", "ending"), [
    (["half_closed_timeout 1"], "half-closed"), (["half_closed_timeout 1", "idle_timeout 30"], "half-closed"),
    (["half_closed_timeout 30", "idle_timeout 1"], "idle")])
def test_half_closed_timeout(gpen: Start, servers: Serve, half: str, settings: Sequence[str], ending: str) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"p")
        if half == "server":
            half_close(sock)
        over.wait(PATIENCE)

    over = threading.Event()
    balancer = gpen("-l", "gpen.log", *(word for line in settings for word in ("-O", line)), servers=[servers(serve)])
    with clients(balancer, b"p", 1) as (client,):
        start = time.monotonic()
        if half == "client":
            half_close(client)
        wait_until(lambda: balancer.log.endswith(f" {ending}\n"), 10)
        assert time.monotonic() - start > 0.9
        assert read_all(client) == b""
    over.set()
    balancer.wait_idle()
    assert data_of(balancer.ctl("status"))["info"]["endings"] == {ending: 1}


def test_the_silence_before_the_end_is_none_behind_it(gpen: Start, servers: Serve) -> None:
    """The client says nothing for longer than half_closed_timeout, ends, and gets its answer then."""

    def serve(sock: socket.socket) -> None:
        assert read_all(sock) == b""
        time.sleep(1)  # so long it works on the answer
        sock.sendall(b"answer")

    balancer = gpen("-O", "half_closed_timeout 2", servers=[servers(serve)])
    with balancer.connect() as client:
        wait_until(lambda: (balancer.json("sessions") or [{"idle": 0}])[0]["idle"] > 3)
        half_close(client)
        assert read_all(client) == b"answer"


def test_half_closed_sessions_that_move_bytes_go_on(gpen: Start, servers: Serve) -> None:
    ticks = 12

    def serve(sock: socket.socket) -> None:
        read_all(sock)
        for _ in range(ticks):
            time.sleep(0.25)
            sock.sendall(b"t")

    balancer = gpen("-O", "half_closed_timeout 1", servers=[servers(serve)])
    with balancer.connect() as client:
        half_close(client)
        assert read_all(client) == b"t" * ticks


def test_what_the_kernel_still_delivers_is_no_silence(gpen: Start, servers: Serve) -> None:
    """The server has sent all and ended; the client takes a little at a time, so that gpen itself has nothing to do for
    longer than half_closed_timeout."""
    size = MB

    def serve(sock: socket.socket) -> None:
        sock.sendall(bytes(size))
        half_close(sock)
        linger(sock)

    balancer = gpen("-O", "half_closed_timeout 1", servers=[servers(serve)])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE)
        client.connect(balancer.address)
        received, slow = 0, time.monotonic() + 4
        while piece := client.recv(2000 if time.monotonic() < slow else MB):
            received += len(piece)
            time.sleep(0.05 if time.monotonic() < slow else 0)
        assert received == size


def test_one_that_takes_nothing_is_silent(gpen: Start, servers: Serve) -> None:
    """The client of a server that has ended does not read what is left, which waits in gpen."""
    enough = threading.Event()
    balancer = gpen("-l", "gpen.log", "-O", "half_closed_timeout 1",
                    servers=[servers(parting(filling([], enough), half_close, linger))])
    with balancer.connect() as client:
        client.sendall(b"x")
        wait_until(lambda: waiting_bytes(balancer))
        enough.set()
        wait_until(lambda: states(balancer) == ["half-closed"])
        assert waiting_bytes(balancer)
        wait_until(lambda: not states(balancer), 10)
    assert balancer.log.endswith(" half-closed\n")


def test_half_closed_timeout_can_be_off(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "half_closed_timeout 1", servers=[servers(parting(half_close, linger))])
    assert balancer.ctl("half_closed_timeout") == "1\n"
    assert balancer.ctl("half_closed_timeout 0") == "0\n"
    with clients(balancer, b"p", 1) as (client,):
        client.sendall(b"x")
        wait_until(lambda: states(balancer) == ["half-closed"])
        wait_until(lambda: balancer.json("sessions")[0]["idle"] > 2.5)
        balancer.ctl("half_closed_timeout 0.5")
        wait_until(lambda: not states(balancer))


def test_an_open_session_may_be_silent_for_ever(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "half_closed_timeout 1", servers=[servers(echo)])
    with balancer.connect() as client:
        wait_until(lambda: (balancer.json("sessions") or [{"idle": 0}])[0]["idle"] > 3)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
