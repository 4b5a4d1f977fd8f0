"""What a header of the PROXY protocol tells beside addresses: to servers, from clients, and between gpen, haproxy and
nginx."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpen.proto.certificate import algorithms_of
from tests.certificates import Certificates, openssl
from tests.harness import Gpen, Server, connect, echo, free_port, wait_until
from tests.proto.test_client_hello import hello
from tests.proxied import (
    ALPN,
    AUTHORITY,
    CIPHER,
    CN,
    CRC32C,
    KEY_ALG,
    NETNS,
    NOOP,
    SIG_ALG,
    SSL,
    UNIQUE_ID,
    VERSION,
    Header,
    read_header,
    tlv,
    v2,
)
from tests.tlsclient import TlsClient, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

ACCEPT = ("-O", "acl 3 permit 127.0.0.60", "-O", "accept_proxy 3")
V2 = ("-O", "proxy_protocol v2")
ALL = ("-O", "proxy_v2_options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,alpn,crc32c,unique-id")
FROM_PROXY = tlv(SSL, struct.pack("!BI", 0x07, 0) + tlv(VERSION, b"TLSv1.2") + tlv(CN, "J\xf6rg".encode())
                 + tlv(CIPHER, b"AES256"))
TOLD = (tlv(ALPN, b"h2"), tlv(AUTHORITY, b"www.example.com"), tlv(UNIQUE_ID, b"proxy-1"), FROM_PROXY,
        tlv(0xEA, b"\x01vpce"))

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")


class Recorder:
    """A server that keeps the headers that it gets, and echoes what follows."""

    def __init__(self) -> None:
        self.headers: list[Header] = []

    def __call__(self, sock: socket.socket) -> None:
        self.headers.append(read_header(sock))
        sock.sendall(b"!")
        echo(sock)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3385 has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def is_summed(header: Header) -> bool:
    """Whether its checksum is that of the header with zeros in its place."""
    value = header.tlvs[CRC32C]
    start = header.raw.rindex(b"\x03\x00\x04" + value) + 3
    zeroed = header.raw[:start] + bytes(4) + header.raw[start + 4 :]
    return int.from_bytes(value, "big") == crc32c(zeroed)


def ask(balancer: Gpen, first: bytes) -> bytes:
    with connect(balancer.address, "127.0.0.60") as sock:
        sock.sendall(first)
        return sock.recv(1)


# --- to servers -------------------------------------------------------------------------------------------------------


def test_nothing_unless_asked_for(gpen: Start, servers: Serve, recorder: Recorder) -> None:
    balancer = gpen(*V2, servers=[servers(recorder)])
    assert ask(balancer, b"x") == b"!"
    assert recorder.headers[0].tlvs == {}


def test_a_plain_client(gpen: Start, servers: Serve, recorder: Recorder) -> None:
    """Of TLS there is nothing to say; its id is that of the log, of each session another."""
    balancer = gpen(*V2, *ALL, "-l", "gpen.log", servers=[servers(recorder)])
    with connect(balancer.address, "127.0.0.60") as sock:
        assert sock.recv(1) == b"!"
        (row,) = balancer.json("sessions")
        assert ask(balancer, b"") == b"!"
    first, second = recorder.headers
    assert set(first.tlvs) == {UNIQUE_ID, CRC32C} and is_summed(first) and is_summed(second)
    assert first.tlvs[UNIQUE_ID] == row["unique_id"].encode() != second.tlvs[UNIQUE_ID]
    assert len(first.tlvs[UNIQUE_ID]) <= 128
    wait_until(lambda: balancer.log.count("\n") == 2)
    assert {line.rpartition(" id ")[2] for line in balancer.log.splitlines()} == {
        header.tlvs[UNIQUE_ID].decode() for header in recorder.headers}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_of_tls(gpen: Start, servers: Serve, certificates: Certificates, recorder: Recorder,
                         version: ssl.TLSVersion) -> None:
    """With a certificate: all that there is to tell."""
    balancer = gpen(*V2, *ALL, "-O", "ssl_alpn http/1.1,h2", "-R", "-G", str(certificates.authority.certificate),
                    *certificates.server.options, servers=[servers(recorder)])
    context = trusting(certificates.authority.certificate, version)
    context.load_cert_chain(certificates.client.certificate, certificates.client.key)
    context.set_alpn_protocols(["h2"])
    with TlsClient(balancer.address, context) as client:
        assert client.recv(1) == b"!"
        (row,) = balancer.json("sessions")
    header = recorder.headers[0]
    assert is_summed(header) and header.tlvs[ALPN] == b"h2" and header.tlvs[AUTHORITY] == b"localhost"
    flags, verify, texts = header.ssl
    shown = openssl("x509", "-in", certificates.client.certificate, "-noout", "-subject", "-nameopt", "multiline")
    assert (flags, verify) == (0x07, 0)
    assert texts == {VERSION: row["tls"], CIPHER: row["cipher"], SIG_ALG: "ecdsa-with-SHA256", KEY_ALG: "EC256",
                     CN: shown.rpartition("= ")[2].strip()}


def test_a_client_of_tls_without_a_certificate(gpen: Start, servers: Serve, certificates: Certificates,
                                               recorder: Recorder) -> None:
    balancer = gpen(*V2, "-O", "proxy_v2_options cert-cn", *certificates.server.options, servers=[servers(recorder)])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
        assert client.recv(1) == b"!"
    header = recorder.headers[0]
    assert set(header.tlvs) == {SSL} and header.ssl == (0x01, 1, {VERSION: "TLSv1.3"})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_client_of_tls_that_passes_on(gpen: Start, servers: Serve, recorder: Recorder, workers: int) -> None:
    """Where a route reads its hello: servers hear of the name, as nobody else has ended its TLS."""
    balancer = gpen(*V2, *ALL, "-O", f"workers {workers}", "-O", "route sni *.example servers 0",
                    servers=[servers(recorder)])
    for name in ("www.example", None):
        assert ask(balancer, hello([], name)) == b"!"
    first, second = recorder.headers
    assert set(first.tlvs) == {AUTHORITY, UNIQUE_ID, CRC32C} and set(second.tlvs) == {UNIQUE_ID, CRC32C}
    assert first.tlvs[AUTHORITY] == b"www.example" and is_summed(first)


@pytest.mark.parametrize(("options", "expected"), [
    (("rsa:2048", "-sha256"), ("RSA-SHA256", "RSA2048")), (("rsa:3072", "-sha512"), ("RSA-SHA512", "RSA3072")),
    (("ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-sha384"), ("ecdsa-with-SHA384", "EC384")),
    (("ed25519",), ("ED25519", "ED25519"))])
def test_how_certificates_are_signed(tmp_path: Path, options: tuple[str, ...], expected: tuple[str, str]) -> None:
    file = tmp_path / "pem"
    openssl("req", "-x509", "-nodes", "-newkey", *options, "-keyout", tmp_path / "key", "-out", file, "-subj", "/CN=me")
    assert algorithms_of(file.read_text()) == expected


def test_what_is_no_certificate() -> None:
    for text in ("", "no", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"):
        assert algorithms_of(text) == ("", "")


@pytest.mark.parametrize("workers", [0, 2])
def test_with_workers_and_at_one_of_two_listeners(gpen: Start, servers: Serve, certificates: Certificates,
                                                  recorder: Recorder, workers: int) -> None:
    port = free_port()
    balancer = gpen("-r", "-O", f"workers {workers}", *V2, "-O", f"listener two listen 127.0.0.1:{port}",
                    "-O", "listener two proxy_v2_options authority unique-id",
                    "-O", f"listener two ssl_certificate {certificates.server.certificate}",
                    "-O", f"listener two ssl_key {certificates.server.key}", servers=[servers(recorder)])
    assert ask(balancer, b"x") == b"!"
    assert balancer.ctl("listener two proxy_v2_options") == "authority,unique-id\n"
    with TlsClient(("127.0.0.1", port), trusting(certificates.authority.certificate)) as client:
        assert client.recv(1) == b"!"
        wait_until(lambda: any(row["listener"] == "two" for row in balancer.json("sessions")))
        row = next(row for row in balancer.json("sessions") if row["listener"] == "two")
    assert recorder.headers[0].tlvs == {}
    assert recorder.headers[1].tlvs == {AUTHORITY: b"localhost", UNIQUE_ID: row["unique_id"].encode()}


def test_it_is_written(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(*V2, "-O", "proxy_v2_options ssl,unique-id", servers=[servers(echo)])
    balancer.ctl(f"write {tmp_path}/file")
    assert "proxy_v2_options ssl,unique-id\n" in (tmp_path / "file").read_text()
    assert "'tls' is not one of ssl, cert-cn," in balancer.ctl("proxy_v2_options tls")
    assert balancer.ctl("no proxy_v2_options", "proxy_v2_options") == ""


def test_what_has_no_effect(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "proxy_protocol v1", *ALL, servers=[servers(echo)])
    assert "has no effect: only a header of version 2 has room for it" in balancer.stderr


# --- from clients -----------------------------------------------------------------------------------------------------

SHOWN = {"authority": "www.example.com", "alpn": "h2", "unique_id": "proxy-1", "tls": "TLSv1.2", "cipher": "AES256",
         "cn": "J\xf6rg", "sig_alg": None, "key_alg": None, "verified": True, "others": {"0xea": "0176706365"}}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_proxy_has_told_is_shown_and_passed_on(gpen: Start, servers: Serve, recorder: Recorder, workers: int,
                                                      ) -> None:
    balancer = gpen(*ACCEPT, *V2, "-O", f"workers {workers}", "-O", "proxy_v2_options unique-id", "-l", "gpen.log",
                    "-O", "log_format json", servers=[servers(recorder)])
    with connect(balancer.address, "127.0.0.60") as sock:
        sock.sendall(v2(*TOLD, tlv(NOOP, b"x"), tlv(NETNS, b"blue")))
        assert sock.recv(1) == b"!"
        (row,) = balancer.json("sessions")
    assert row["proxy"] == SHOWN and row["unique_id"] == "proxy-1" and row["tls"] is None
    wait_until(lambda: balancer.log.endswith("\n"))
    line = json.loads(balancer.log)
    assert (line["proxy"], line["unique_id"], line["client"]) == (SHOWN, "proxy-1", "10.1.2.3:1000")
    (header,) = recorder.headers
    assert header.source == ("10.1.2.3", 1000)
    assert header.raw[28:] == b"".join(TOLD)  # as it came


def test_what_we_know_better_counts(gpen: Start, servers: Serve, certificates: Certificates, recorder: Recorder,
                                    ) -> None:
    """A client of TLS behind a proxy that has passed its bytes on; but it is called what the proxy calls it."""
    balancer = gpen(*ACCEPT, *V2, *ALL, *certificates.server.options, servers=[servers(recorder)])
    sock = connect(balancer.address, "127.0.0.60")
    sock.sendall(v2(*TOLD))
    with TlsClient("", trusting(certificates.authority.certificate), sock=sock) as client:
        assert client.recv(1) == b"!"
    header = recorder.headers[0]
    assert header.tlvs[AUTHORITY] == b"localhost" and header.ssl[2][VERSION] == "TLSv1.3" and is_summed(header)
    assert (header.tlvs[ALPN], header.tlvs[UNIQUE_ID], header.tlvs[0xEA]) == (b"h2", b"proxy-1", b"\x01vpce")


def test_of_what_stands_there_twice_the_first_counts(gpen: Start, servers: Serve, recorder: Recorder) -> None:
    balancer = gpen(*ACCEPT, *V2, servers=[servers(recorder)])
    with connect(balancer.address, "127.0.0.60") as sock:
        sock.sendall(v2(tlv(AUTHORITY, b"one"), tlv(AUTHORITY, b"two")))
        assert sock.recv(1) == b"!"
        assert balancer.json("sessions")[0]["proxy"]["authority"] == "one"
    assert recorder.headers[0].tlvs == {AUTHORITY: b"one"}


def test_the_longest_is_passed_on(gpen: Start, servers: Serve, recorder: Recorder) -> None:
    balancer = gpen(*ACCEPT, *V2, *ALL, servers=[servers(recorder)])
    longest = b"x" * (16384 - 12 - 3)
    assert ask(balancer, v2(tlv(0xE0, longest))) == b"!"
    header = recorder.headers[0]
    assert header.tlvs[0xE0] == longest and UNIQUE_ID in header.tlvs and is_summed(header)


def test_a_unique_id_that_is_too_long_is_malformed(gpen: Start, servers: Serve) -> None:
    server = servers(echo)
    balancer = gpen(*ACCEPT, servers=[server])
    assert balancer.ask(v2(tlv(UNIQUE_ID, b"x" * 129)) + b"x", "127.0.0.60") == b""
    wait_until(lambda: "malformed: a unique id has 129 bytes" in balancer.stderr)
    assert not server.served
    assert ask(balancer, v2(tlv(UNIQUE_ID, b"x" * 128)) + b"x") == b"x"


def test_words_that_nobody_could_print(gpen: Start, servers: Serve, recorder: Recorder) -> None:
    balancer = gpen(*ACCEPT, *V2, "-O", "proxy_v2_options unique-id", "-l", "gpen.log", servers=[servers(recorder)])
    with connect(balancer.address, "127.0.0.60") as sock:
        sock.sendall(v2(tlv(AUTHORITY, b"\xff\n\x1b[2J"), tlv(UNIQUE_ID, b"a\nb")))
        assert sock.recv(1) == b"!"
        assert balancer.json("sessions")[0]["proxy"]["authority"] == "\\xff\\x0a\\x1b[2J"
    wait_until(lambda: balancer.log.endswith("\n"))
    assert balancer.log.endswith(" id a\\x0ab\n") and balancer.log.count("\n") == 1
    assert recorder.headers[0].tlvs == {AUTHORITY: b"\xff\n\x1b[2J", UNIQUE_ID: b"a\nb"}


@pytest.mark.parametrize(("tlvs", "scheme"), [((FROM_PROXY,), b"https"), ((tlv(SSL, bytes(5)),), b"http"),
                                              ((tlv(ALPN, b"h2"),), b"http")])
def test_servers_of_http_hear_of_its_tls(gpen: Start, servers: Serve, tlvs: tuple[bytes, ...], scheme: bytes) -> None:
    pytest.importorskip("httptools")
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        heard.append(sock.recv(4096))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    balancer = gpen("-H", *ACCEPT, servers=[servers(serve)])
    assert ask(balancer, v2(*tlvs) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == b"H"
    assert b"X-Forwarded-Proto: %b\r\n" % scheme in heard[0]


# --- real peers -------------------------------------------------------------------------------------------------------


@contextmanager
def running(*command: object, port: int) -> Iterator[None]:
    """A server, which listens there."""
    with subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:

        def is_up() -> bool:
            assert process.poll() is None and process.stdout is not None, process.communicate()[0]
            with contextlib.suppress(OSError):
                connect(("127.0.0.1", port)).close()
                return True
            return False

        try:
            wait_until(is_up, what=str(command[0]))
            yield
        finally:
            process.kill()
            process.communicate()


def haproxy(directory: Path, port: int, text: str) -> Any:
    file = directory / "haproxy.cfg"
    file.write_text(f"defaults\n mode http\n timeout connect 5s\n timeout client 9s\n timeout server 9s\n{text}\n")
    return running("haproxy", "-db", "-f", file, port=port)


@needs_haproxy
def test_haproxy_reads_it(gpen: Start, certificates: Certificates, tmp_path: Path) -> None:
    port = free_port()
    text = f"""frontend f
 bind 127.0.0.1:{port} accept-proxy
 http-request return status 200 content-type text/plain lf-string "%ci %[fc_pp_authority] %[fc_pp_unique_id]\""""
    with haproxy(tmp_path, port, text):
        balancer = gpen(*V2, *ALL, *certificates.server.options, servers=[f"127.0.0.1:{port}"])
        with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            body = client.read_all().rpartition(b"\r\n\r\n")[2].decode().split()
        assert body[:2] == ["127.0.0.1", "localhost"] and "-" in body[2]


@needs_haproxy
def test_haproxy_writes_it(gpen: Start, servers: Serve, certificates: Certificates, recorder: Recorder, tmp_path: Path,
                           ) -> None:
    """All that it can tell is read, shown and passed on."""
    port = free_port()
    pem = certificates.server.in_one(tmp_path / "pem")
    balancer = gpen("-O", "acl 3 permit 127.0.0.1", "-O", "accept_proxy 3", *V2, servers=[servers(recorder)])
    host, own = balancer.address
    text = f"""listen l
 mode tcp
 unique-id-format hap-%rt
 bind 127.0.0.1:{port} ssl crt {pem} ca-file {certificates.authority.certificate} verify optional
 server s {host}:{own} send-proxy-v2-ssl-cn proxy-v2-options ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"""
    with haproxy(tmp_path, port, text):
        context = trusting(certificates.authority.certificate)
        context.load_cert_chain(certificates.client.certificate, certificates.client.key)
        with TlsClient(("127.0.0.1", port), context) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"!"
            told = balancer.json("sessions")[0]["proxy"]
    flags, verify, texts = recorder.headers[-1].ssl
    assert (told["authority"], told["tls"], told["verified"]) == ("localhost", "TLSv1.3", True)
    assert told["unique_id"].startswith("hap-") and (told["cn"], told["cipher"]) == (texts[CN], texts[CIPHER])
    assert (told["sig_alg"], told["key_alg"]) == ("ecdsa-with-SHA256", "EC256") == algorithms_of(
        certificates.server.certificate.read_text())
    assert (flags, verify) == (0x07, 0)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_reads_it(gpen: Start, certificates: Certificates, tmp_path: Path) -> None:
    """It passes over what it does not know."""
    port = free_port()
    file = tmp_path / "nginx.conf"
    file.write_text(f"""daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log stderr; events {{}}
http {{ access_log off; server {{ listen 127.0.0.1:{port} proxy_protocol;
 location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port"; }} }} }}""")
    with running("nginx", "-c", file, "-p", tmp_path, port=port):
        balancer = gpen(*V2, *ALL, *certificates.server.options, servers=[f"127.0.0.1:{port}"])
        with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
            own = client.sock.getsockname()[1]
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert client.read_all().endswith(f"\r\n\r\n127.0.0.1 {own}".encode())
