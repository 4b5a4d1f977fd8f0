"""Transfers in all orders of half-close with servers that speak TLS: each arrives whole, and how it ends is told."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.harness import PATIENCE, Gpen, Server, connect, free_port, read_all, reset, wait_until
from tests.tlsclient import TlsClient, trusting
from tests.wire.test_transfers import DATA, Digests, server_of, transfer

Start = Callable[..., Gpen]
Secure = Callable[..., Server]
Talk = Callable[["Secured"], None]
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
MB = 1 << 20
TRANSFERS, AT_ONCE = 48, 12

each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["tls1.2", "tls1.3"])


class Secured(TlsClient):
    """The server's side. It closes behind the last byte that it is sent, for with bytes unread it would reset, and
    lose what it has sent itself."""

    def recv(self, most: int, flags: int = 0) -> bytes:
        return TlsClient.recv(self, most)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            with suppress(OSError):
                self.shutdown(socket.SHUT_WR)
                read_all(self.sock)
        TlsClient.close(self)


@pytest.fixture
def secure(servers: Callable[..., Server], certificates: Certificates) -> Secure:
    """Start a server that speaks TLS, this version: secure(serve, TLS12)."""

    def start(serve: Talk, version: ssl.TLSVersion = TLS13, fin: bool = True) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(certificates.server.certificate, certificates.server.key)

        def handle(sock: socket.socket) -> None:
            sock.settimeout(PATIENCE)
            with Secured("", context, None, sock=sock, fin=fin) as secured:
                serve(secured)

        return servers(handle)

    return start


@pytest.fixture
def trusted(certificates: Certificates) -> tuple[str, ...]:
    """The options of a gpen that speaks TLS to servers called localhost."""
    return ("-l", "gpen.log", "-O", "server_tls on", "-O", "server_tls_name localhost",
            "-O", f"server_tls_ca {certificates.authority.certificate}")


def ending_of(balancer: Gpen) -> str:
    """The ending in the last line of the log, which what servers' TLS is follows."""
    balancer.wait_idle()
    wait_until(lambda: balancer.log.endswith("\n"), what="a line in the session log")
    return balancer.log.splitlines()[-1].partition(" to TLSv")[0].split()[-1]


def exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer at the end."""
    received = b""
    while len(received) < count and (piece := sock.recv(count - len(received))):
        received += piece
    return received


@pytest.mark.parametrize(("version", "fin"), [(TLS12, True), (TLS13, True), (TLS13, False)],
                         ids=["tls1.2", "tls1.3", "tls1.3-no-fin"])
@pytest.mark.parametrize("client", ["plain", "tls"])
def test_all_arrive_whole(gpen: Start, secure: Secure, certificates: Certificates, trusted: tuple[str, ...],
                          client: str, version: ssl.TLSVersion, fin: bool) -> None:
    """``fin``: TCP's stream ends behind a close_notify of the server (and of a client with TLS)."""
    uploads: Digests = {}
    backends = [secure(server_of(uploads), version, fin) for _ in range(2)]  # type: ignore[arg-type]
    own = certificates.server.options if client == "tls" else ()
    balancer = gpen("-r", *trusted, *own, servers=backends)
    address, context = balancer.address, trusting(certificates.authority.certificate, version)

    def dial(address: Any, seconds: float) -> Any:
        if client == "tls":
            return TlsClient(address, context, seconds=seconds, fin=fin)
        return connect(address, seconds=seconds)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = list(pool.map(lambda number: transfer(address, number, uploads, dial), range(TRANSFERS)))
    assert [text for text in wrong if text] == []
    balancer.wait_idle()
    lines = balancer.log.splitlines()
    assert len(lines) == TRANSFERS and [line for line in lines if "-closed " not in line] == []


@each_version
def test_a_slow_reader_gets_it_all(gpen: Start, secure: Secure, trusted: tuple[str, ...], version: ssl.TLSVersion,
                                   ) -> None:
    """And holds the server back, whose goodbye waits behind all of it."""
    sent: list[int] = []

    def serve(sock: Secured) -> None:
        for start in range(0, 24 * MB, MB):
            sock.sendall(DATA[:MB])
            sent.append(start)

    balancer = gpen(*trusted, servers=[secure(serve, version)])
    with balancer.connect() as client:
        count = len(client.recv(1))
        (session,) = balancer.json("sessions")
        wait_until(lambda: balancer.json(f"connection {session['id']}")["pend"] > 0)
        assert len(sent) < 24
        while piece := client.recv(1 << 16):
            count += len(piece)
    assert count == 24 * MB and ending_of(balancer) == "server-closed"


@each_version
@pytest.mark.parametrize(("end", "ending"), [
    (lambda sock: sock.shutdown(socket.SHUT_WR), "server-truncated"), (reset, "server-reset")],
    ids=["truncated", "reset"])
def test_a_stream_that_ends_without_a_goodbye(gpen: Start, secure: Secure, trusted: tuple[str, ...],
                                              version: ssl.TLSVersion, end: Callable[[socket.socket], None],
                                              ending: str) -> None:
    """What had come is delivered."""
    def serve(sock: Secured) -> None:
        sock.sendall(DATA[:100_000])
        sock.recv(1)  # the client has it all
        end(sock.sock)

    balancer = gpen(*trusted, servers=[secure(serve, version)])
    with balancer.connect() as client:
        assert exactly(client, 100_000) == DATA[:100_000]
        client.sendall(b"!")
        assert read_all(client) == b""
    assert ending_of(balancer) == ending


@contextmanager
def s_server(certificates: Certificates, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The openssl program as a server: its address, and the process, which obeys its standard input."""
    port, pair = free_port(), certificates.server
    with subprocess.Popen(
            ["stdbuf", "-oL", "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", pair.certificate,
             "-key", pair.key, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT) as process:
        try:
            told(process, b"ACCEPT")
            yield f"127.0.0.1:{port}", process
        finally:
            process.kill()


def test_a_server_changes_its_keys(gpen: Start, certificates: Certificates, trusted: tuple[str, ...]) -> None:
    """By a KeyUpdate that asks for gpen's own, again and again, with bytes in both directions behind it."""
    with s_server(certificates, "-tls1_3") as (address, process):
        balancer = gpen(*trusted, servers=[address])
        with balancer.connect() as client:
            for number in range(3):
                client.sendall(b"question %d\n" % number)
                told(process, b"question %d" % number)
                say(process, b"K\n")
                told(process, b"SSL_do_handshake -> 1")
                say(process, b"answer %d\n" % number)
                assert exactly(client, 9) == b"answer %d\n" % number
        balancer.wait_idle()


def told(process: subprocess.Popen[bytes], words: bytes) -> None:
    """Wait until it has said so."""
    assert process.stdout is not None
    while words not in (line := process.stdout.readline()):
        assert line, "it has ended"


def say(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()
