"""ClientHellos to a gpen that speaks TLS: real ones, spoiled, and what follows them."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from hypothesis import strategies as st

from gpen.model.route import bare
from gpen.proto.client_hello import HelloReader
from tests.certificates import make_certificates
from tests.fuzz.kind import Balanced, Trial
from tests.fuzz.mutations import BYTES, cuts, pieces, spoiled
from tests.harness import Gpen, Server, echo, read_all, wait_until
from tests.tlsclient import TlsClient, trusting

NAMES = ("localhost", "www.example.org", "x" * 63, "127.0.0.1", None)
PROTOCOLS = ((), ("h2",), ("http/1.1",), ("h2", "http/1.1"), ("spdy/3",))
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
ALERT = b"\x15\x03\x03\x00\x02\x02\x70"  # unrecognized_name
RECORDS = range(20, 25)  # what the first byte of a record of TLS may be


@lru_cache
def hello(name: str | None, protocols: tuple[str, ...], version: int) -> bytes:
    """The first record of a client that asks for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = VERSIONS[version]
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return still(out.read())


def still(record: bytes) -> bytes:
    """The same without what is random in it, so that a seed makes the same input: the client's random number and the
    session's."""
    return record[:11] + bytes(range(32)) + record[43:44] + bytes(range(record[43])) + record[44 + record[43]:]


def in_records(record: bytes, most: int) -> bytes:
    """The message of a record in records of so many bytes, as it may come."""
    body = record[5:]
    return b"".join(record[:3] + struct.pack("!H", len(piece)) + piece
                    for piece in (body[at:at + most] for at in range(0, len(body), most)))


hellos = st.builds(hello, st.sampled_from(NAMES), st.sampled_from(PROTOCOLS), st.integers(0, 1))
streams = st.tuples(spoiled(st.one_of(hellos, hellos, st.builds(in_records, hellos, st.sampled_from((1, 7, 100)))), (
    *BYTES, b"\x16\x03\x01", b"\x15\x03\x03\x00\x02\x02\x28", b"\x14\x03\x03\x00\x01\x01", b"\x17\x03\x03\x00\x03abc",
    b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09\xff\x1b[31mabc", b"\x00\x10\x00\x03\x00\x02\x00", b"\xff\xff", b"a" * 20000,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x80\x2e\x01\x00\x02"), 4), cuts)


def check_reading(case: tuple[bytes, Sequence[int]]) -> None:
    """In pieces the same is read as at once; and of a hello that OpenSSL takes, the name that OpenSSL finds."""
    whole, piecewise = HelloReader(), HelloReader()
    whole.take(case[0])
    for piece in pieces(*case):
        piecewise.take(piece)
    assert (whole.is_done, whole.hello) == (piecewise.is_done, piecewise.hello)
    found = asked_name(case[0])
    assert found is None or whole.hello is None or bare(whole.hello.name) == bare(found), (found, whole.hello)


def asked_name(sent: bytes) -> str | None:
    """The name that OpenSSL's server finds in this; None where it finds none."""
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda tls, name, context: asked.append(name)
    incoming = ssl.MemoryBIO()
    incoming.write(sent)
    tls = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with suppress(ssl.SSLError):
        tls.do_handshake()
    return asked[0] if asked else None


class RoutedTrial(Balanced):
    """Clients whose hello is read and passed on: what they send comes back, from whichever server, or they are turned
    away by an alert or an end."""

    def attempt(self, case: tuple[bytes, Sequence[int]]) -> None:
        logged = self.balancer.log.count("\n")
        with self.balancer.connect() as sock:
            with suppress(OSError):
                for piece in pieces(*case):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
        assert answer in (case[0], ALERT, b""), f"neither all that was sent nor a refusal: {answer!r}"
        wait_until(lambda: self.balancer.log.count("\n") > logged, what="a line in the log")

    def settle(self) -> None:
        super().settle()
        self.balancer.log_file.write_bytes(b"")


def is_passed_on(balancer: Gpen) -> None:
    sent = hello("localhost", (), 1)
    assert balancer.ask(sent) == sent, "a healthy client is not served"


@contextmanager
def routed_trial(directory: Path) -> Iterator[Trial]:
    """A gpen with routes that passes TLS on."""
    with ExitStack() as stack, Server(echo) as one, Server(echo) as other:
        yield RoutedTrial(stack, lambda: Gpen(
            directory, "-r", "-l", "gpen.log", "-O", "route sni localhost servers 0", "-O", "route alpn h2 servers 1",
            "-O", f"route sni {NAMES[1]} reject", "127.0.0.1:0", one.address, other.address), is_passed_on)


class TlsTrial(Balanced):
    """Clients that send such a hello, and end."""

    def attempt(self, case: tuple[bytes, Sequence[int]]) -> None:
        logged = self.balancer.log.count("\n")
        with self.balancer.connect() as sock:
            with suppress(OSError):  # it may be refused already
                for piece in pieces(*case):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
            check_records(read_all(sock))
        wait_until(lambda: self.balancer.log.count("\n") > logged, what="a line in the log")

    def settle(self) -> None:
        super().settle()
        self.balancer.log_file.write_bytes(b"")


def check_records(answer: bytes) -> None:
    """What gpen said are records of TLS, and the last may be cut short."""
    while answer:
        assert answer[0] in RECORDS and answer[1:2] in (b"\3", b""), f"no record of TLS: {answer!r}"
        answer = answer[5 + int.from_bytes(answer[3:5], "big"):]


def serves(authority: Path) -> Callable[[Gpen], None]:
    context = trusting(authority)

    def serves(balancer: Gpen) -> None:
        with TlsClient(balancer.address, context) as client:
            client.sendall(b"well?")
            assert client.recv(5) == b"well?", "a healthy client is not served"

    return serves


@contextmanager
def tls_trial(directory: Path) -> Iterator[Trial]:
    """A gpen with certificates by name and protocols to choose from."""
    certificates = make_certificates(directory)
    (names := directory / "names").mkdir()
    pair = certificates.authority.issue("www.example.org")
    (names / "www.example.org.crt").write_bytes(pair.certificate.read_bytes())
    (names / "www.example.org.key").write_bytes(pair.key.read_bytes())
    with ExitStack() as stack, Server(echo) as server:
        yield TlsTrial(stack, lambda: Gpen(
            directory, "-r", "-l", "gpen.log", *certificates.server.options, "-O", f"ssl_sni_path {names}",
            "-O", "ssl_alpn h2,http/1.1", "127.0.0.1:0", server.address), serves(certificates.authority.certificate))
