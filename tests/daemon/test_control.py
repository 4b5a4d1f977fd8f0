"""The control socket as a socket: who may, and that no client of it delays another."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.harness import (
    Gpen,
    Server,
    connect,
    free_port,
    hold,
    needs_root,
    pair_of,
    read_all,
    refusing,
    wait_until,
)

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    return gpen("-x", "2000", servers=[servers(hold)])


def is_prompt(balancer: Gpen) -> bool:
    start = time.monotonic()
    assert balancer.ctl("pid") == f"{balancer.pid}\n"
    return time.monotonic() - start < 5


@pytest.fixture
def client(balancer: Gpen) -> Iterator[socket.socket]:
    with connect(balancer.control) as sock:
        yield sock


def mode_of(balancer: Gpen) -> int:
    return stat.S_IMODE(os.stat(balancer.control).st_mode)


def test_mode(gpen: Start, servers: Serve, balancer: Gpen) -> None:
    assert mode_of(balancer) == 0o600
    assert balancer.ctl("control_mode 660") == "0660\n"
    assert mode_of(balancer) == 0o660
    assert mode_of(gpen("-O", "control_mode 0640", servers=[servers(hold)])) == 0o640


def test_a_silent_client(balancer: Gpen, client: socket.socket) -> None:
    assert is_prompt(balancer)


def test_a_client_without_an_end_of_line(balancer: Gpen, client: socket.socket) -> None:
    """Megabytes without a newline: an error, then the end."""
    before = balancer.rss
    try:
        for _ in range(400):
            client.sendall(bytes(b"x" * 10_000))
    except OSError:
        pass
    assert is_prompt(balancer)
    assert balancer.rss - before < 2 << 20
    with connect(balancer.control) as other:
        other.sendall(b"x" * 8193)
        assert read_all(other) == b"error: the line is longer than 8192 bytes\n"


def test_a_client_that_sends_byte_by_byte(balancer: Gpen, client: socket.socket) -> None:
    for byte in b"timeout 7\n":
        client.sendall(bytes([byte]))
        assert is_prompt(balancer)
    assert read_all(client) == b"7\n"


def test_a_client_that_never_reads(balancer: Gpen, client: socket.socket) -> None:
    """Its reply, of many sessions, is far larger than what the kernel holds for it."""
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(balancer.connect())
        wait_until(lambda: len(balancer.json("sessions")) == 300)
        client.sendall(b"sessions json\n" * 100)
        for _ in range(5):
            assert is_prompt(balancer)
    balancer.wait_idle()


def test_a_hundred_clients_at_once(balancer: Gpen) -> None:
    """40 silent ones hold their places; the others are answered meanwhile."""
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(balancer.control))
        with ThreadPoolExecutor(60) as pool:
            assert all(pool.map(lambda _: is_prompt(balancer), range(60)))


def test_many_silent_clients_lock_nobody_out(balancer: Gpen) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(balancer.control))
        assert is_prompt(balancer)


@pytest.mark.parametrize("sent, replied", [
    (b"timeout\nblacklist\ntracking\n", b"3\n30\n0\n"),
    (b"timeout\r\nblacklist\r\n", b"3\n30\n"),
    (b"timeout\nblacklist", b"3\n30\n"),
    (b"timeout", b"3\n"),
    (b"\n\n  # a comment\n  timeout  # another\n", b"3\n"),
    (b"timeout abc\ntimeout\n",
     b"error: timeout: 'abc' is not a number of seconds above 0: expected one such as 30 or 0.5\n3\n"),
    (b"\xff\xfe\n", "do_cmd: ignoring command starting with '\ufffd\ufffd'\n".encode()),
    (b"", b""),
])
def test_lines(balancer: Gpen, client: socket.socket, sent: bytes, replied: bytes) -> None:
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == replied


def test_it_closes_with_the_reply(balancer: Gpen) -> None:
    """As penctl needs it, which does not end its input."""
    start = time.monotonic()
    for _ in range(20):
        with connect(balancer.control) as sock:
            sock.sendall(b"pid\n")
            assert read_all(sock) == f"{balancer.pid}\n".encode()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("pieces", [
    [b"pid\npid\npid\n"], [b"pid\n", b"pid\n", b"pid\n"], [b"pid\np", b"id\npid\n"], [b"pid\npi", b"d", b"\npid\n"],
])
def test_lines_that_have_come_are_answered(balancer: Gpen, client: socket.socket, pieces: list[bytes]) -> None:
    """In one packet or several, without an end of input."""
    for piece in pieces:
        client.sendall(piece)
    assert read_all(client) == f"{balancer.pid}\n".encode() * 3


def test_a_line_in_two_parts_far_apart(balancer: Gpen, client: socket.socket) -> None:
    """What has begun is awaited."""
    client.sendall(b"pid\nti")
    assert client.recv(100) == f"{balancer.pid}\n".encode()
    assert is_prompt(balancer)
    client.sendall(b"meout\n")
    assert read_all(client) == b"3\n"


def test_lines_that_come_during_a_long_reply(balancer: Gpen, client: socket.socket) -> None:
    with balancer.connect():
        wait_until(lambda: balancer.json("sessions"))
        client.sendall(b"drain 0 1\n")
        assert client.recv(1000).startswith(b"draining server 0")
        client.sendall(b"timeout\n")
        assert read_all(client).endswith(b"3\n")


def test_a_client_that_stays(balancer: Gpen, client: socket.socket) -> None:
    client.sendall(b"stay\n")
    for _ in range(3):
        assert is_prompt(balancer)
        client.sendall(b"pid\n")
        assert client.recv(100) == f"{balancer.pid}\n".encode()
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b""


@pytest.mark.parametrize("sent", [b"pid\n", b"help\n" * 200])
def test_what_comes_too_late_costs_no_reply(gpen: Start, servers: Serve, sent: bytes) -> None:
    """A close with something unread would reset the connection, and the reply with it."""
    with refusing() as address:
        pass
    balancer = gpen("-u", "nobody", control=address, servers=[servers(hold)])
    with connect(pair_of(address)) as sock:
        sock.sendall(sent)
        received = [sock.recv(10)]
        for _ in range(100):
            try:
                sock.sendall(b"x" * 1000)
            except OSError:
                break
        received.append(read_all(sock))
    whole = b"".join(received)
    assert whole.startswith(f"{balancer.pid}\n".encode()) or whole.count(b"'help NAME' says") == 200
    assert is_prompt(balancer)


def test_a_client_that_resets(balancer: Gpen) -> None:
    for _ in range(20):
        with connect(balancer.control) as sock:
            sock.sendall(b"help\n" * 50)
    assert is_prompt(balancer)
    assert "Traceback" not in balancer.stderr


def test_a_control_port(gpen: Start, servers: Serve) -> None:
    """Over TCP, access goes by list and by level; the list of clients has no say in it."""
    commands = ["control_acl 4", "acl 4 deny 127.0.0.9", "acl 4 permit 127.0.0.0/8", "control_access operate",
                "client_acl 5", "acl 5 deny 127.0.0.8"]
    options = [word for command in commands for word in ("-O", command)]
    address = f"127.0.0.1:{free_port()}"
    balancer = gpen("-u", "nobody", *options, control=address, servers=[servers(hold)])
    assert balancer.ctl("control") == f"{address}\n"
    assert balancer.ctl("server 0 weight 5") == ""
    assert balancer.ctl("timeout") == "3\n"
    assert balancer.ctl("timeout 4").startswith("error: timeout: needs admin access")
    assert balancer.ctl("servers", source="127.0.0.8").startswith("0 addr 127.0.0.1")
    assert balancer.ctl("servers", source="127.0.0.9") == "error: access list 4 (control_acl) denies 127.0.0.9\n"


def test_the_default_list_does_not_lock_the_operator_out(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-u", "nobody", "-O", "acl 0 deny 0.0.0.0/0", control=f"127.0.0.1:{free_port()}",
                    servers=[servers(hold)])
    assert balancer.ctl("acl 0 deny 10.0.0.0/8", "timeout 4") == "4\n"


@needs_root
def test_a_list_for_ipv4_holds_on_an_ipv6_port(gpen: Start, servers: Serve) -> None:
    """Where IPv4 clients come as mapped addresses."""
    port = free_port("::")
    options = [word for command in ("acl 3 deny 127.0.0.0/8", "acl 3 permit ::1", "control_acl 3")
               for word in ("-O", command)]
    balancer = gpen("-u", "nobody", *options, control=f"[::]:{port}", servers=[servers(hold)])
    with connect(("127.0.0.1", port)) as sock:
        assert read_all(sock) == b"error: access list 3 (control_acl) denies 127.0.0.1\n"
    assert balancer.ctl("acl 3 permit 127.0.0.0/8", "no acl 3", "acl 3 deny 10.0.0.0/8") == ""
    with connect(("127.0.0.1", port)) as sock:
        sock.sendall(b"pid\n")
        assert read_all(sock) == f"{balancer.pid}\n".encode()
