"""TLS in front of plain servers, ended by pen and by gpen: the same clients get the same answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.harness import PATIENCE, Server, connect, open_to_all, read_all
from tests.pen.balancers import Balancer, needs_pen
from tests.pen.conftest import Start

pytestmark = needs_pen

Farm = dict[str, Server]
POLL = ("-O", "poll")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    open_to_all(tmp_path)  # pen reads certificates as the user that it has become
    return Authority(tmp_path, "trusted")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    made = authority.issue("localhost", kind="rsa")
    made.key.chmod(0o644)
    return made


def options(pair: Pair) -> tuple[str, ...]:
    return *POLL, *pair.options


def secured(balancer: Balancer, authority: Authority, source: str = "127.0.0.1") -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context.wrap_socket(connect(("127.0.0.1", balancer.port), source), server_hostname="localhost")


def name(balancer: Balancer, authority: Authority, source: str = "127.0.0.1") -> str:
    with secured(balancer, authority, source) as sock:
        return sock.recv(1).decode()


def test_bytes_both_ways(start: Start, authority: Authority, pair: Pair) -> None:
    balancer = start(*options(pair))
    with secured(balancer, authority) as sock:
        assert sock.recv(1) in (b"A", b"B")
        sock.sendall(b"x" * 100_000)
        received = b""
        while len(received) < 100_000:
            received += sock.recv(65536)
        assert received == b"x" * 100_000


def test_tracking_and_round_robin(start: Start, authority: Authority, pair: Pair) -> None:
    balancer = start(*options(pair))
    first = name(balancer, authority)
    assert [name(balancer, authority) for _ in range(3)] == [first] * 3
    balancer.ask("roundrobin")
    assert {name(balancer, authority) for _ in range(4)} == {"A", "B"}


def test_failover_and_emergency(start: Start, authority: Authority, pair: Pair, farm: Farm) -> None:
    balancer = start(*options(pair), "-r", "-e", farm["E"].address)
    farm["A"].close()
    assert [name(balancer, authority) for _ in range(3)] == ["B"] * 3
    farm["B"].close()
    assert [name(balancer, authority) for _ in range(2)] == ["E"] * 2


def test_abuse(start: Start, authority: Authority, pair: Pair, farm: Farm) -> None:
    balancer = start(*options(pair), "-B", farm["E"].address)
    balancer.ask("acl 1 deny 127.0.0.2")
    balancer.ask("client_acl 1")
    assert name(balancer, authority, "127.0.0.2") == "E"
    assert name(balancer, authority) in "AB"


def test_one_file_for_certificate_and_key(start: Start, authority: Authority, pair: Pair, tmp_path: Path) -> None:
    both = pair.in_one(tmp_path / "both.pem")
    balancer = start(*POLL, "-E", str(both), "-K", str(both))
    assert name(balancer, authority) in "AB"


def test_openssls_own_client(start: Start, authority: Authority, pair: Pair) -> None:
    balancer = start(*options(pair))
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{balancer.port}", "-CAfile", str(authority.certificate),
         "-verify_return_error", "-servername", "localhost"],
        input=b"hello\n", capture_output=True, timeout=PATIENCE, check=False)
    assert b"Verify return code: 0 (ok)" in done.stdout


def test_who_speaks_no_tls_gets_no_server(start: Start, authority: Authority, pair: Pair) -> None:
    balancer = start(*options(pair))
    with connect(("127.0.0.1", balancer.port)) as sock:
        with contextlib.suppress(OSError):  # pen resets it at the first byte
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            sock.shutdown(socket.SHUT_WR)
        assert read_all(sock)[:1] not in (b"A", b"B")
    assert name(balancer, authority) in "AB"
