"""Handshakes, with openssl s_client, curl and Python's ssl: who gets in, by which version and name, and how long it may
take."""

from __future__ import annotations

import re
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import Certificates, Pair
from tests.harness import Gpen, Server, connect, echo, naming, read_all, sending, wait_until
from tests.tlsclient import TlsClient, Truncated, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = ("-tls1_2", "-tls1_3")

each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["tls1.2", "tls1.3"])


@pytest.fixture
def secure(gpen: Start, certificates: Certificates) -> Start:
    """Start gpen with a certificate and a log."""
    return lambda *options, **more: gpen("-l", "gpen.log", "-d", *certificates.server.options, *options, **more)


def s_client(balancer: Gpen, *options: object) -> str:
    """What openssl s_client tells of a connection that the server ends."""
    host, port = balancer.address
    done = subprocess.run(["openssl", "s_client", "-ign_eof", "-connect", f"{host}:{port}", *map(str, options)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


def talk(balancer: Gpen, version: str, *turns: tuple[str, str]) -> None:
    """Type lines to openssl s_client (R and K are commands), each when what is awaited of the one before has come."""
    host, port = balancer.address
    client = subprocess.Popen(["openssl", "s_client", "-connect", f"{host}:{port}", version], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with client:
        assert client.stdin is not None and client.stdout is not None
        for said, awaited in turns:
            client.stdin.write(said)
            client.stdin.flush()
            while awaited not in (line := client.stdout.readline()):
                assert line, f"no {awaited} behind {said}"
        client.stdin.close()


def curl(balancer: Gpen, *options: object) -> subprocess.CompletedProcess[str]:
    host, port = balancer.address
    return subprocess.run(["curl", "-q", "-sS", "--max-time", "15", "--resolve", f"localhost:{port}:{host}",
                           *map(str, options), f"https://localhost:{port}/"],
                          timeout=20, capture_output=True, text=True, check=False)


def http(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def secured(balancer: Gpen) -> list[list[str]]:
    """TLS version, cipher and name of each line in the log, once all sessions have one; whatever else its end is."""
    balancer.wait_idle()
    wait_until(lambda: balancer.log.endswith("\n"), what="a line in the session log")
    return [line.split()[-3:] for line in balancer.log.splitlines()]


# --- versions, ciphers, protocols -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "spoken"), [
    ((), (True, True)),
    (("-L", "tls1.2"), (True, False)),
    (("-L", "tls1.3"), (False, True)),
    (("-L", "ssl23"), (True, True)),
    (("-O", "ssl_option no_tlsv1.2"), (False, True)),
    (("-O", "ssl_option no_sslv2 no_sslv3 no_tlsv1 no_tlsv1.1 no_tlsv1.3"), (True, False)),
])
def test_versions(secure: Start, servers: Serve, option: tuple[str, ...], spoken: tuple[bool, bool]) -> None:
    balancer = secure(*option, servers=[servers(sending(b"hello"))])
    answers = [s_client(balancer, version) for version in VERSIONS]
    assert tuple("hello" in answer for answer in answers) == spoken
    assert [s_client(balancer, old).count("hello") for old in ("-tls1", "-tls1_1")] == [0, 0]
    assert balancer.stderr.count("ssl_protocol ssl23: means TLS 1.2 and 1.3 now") == ("ssl23" in option)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(secure: Start, servers: Serve, certificates: Certificates, version: str) -> None:
    balancer = secure(servers=[servers(http)])
    done = curl(balancer, f"--tlsv{version}", "--tls-max", version, "--cacert", certificates.authority.certificate)
    assert (done.returncode, done.stdout) == (0, "hello"), done.stderr
    (fields,) = secured(balancer)
    assert (fields[0], fields[2]) == (f"TLSv{version}", "localhost")


@pytest.mark.parametrize(("wanted", "cipher"), [
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("ECDHE+AESGCM", "ECDHE-ECDSA-AES256-GCM-SHA384"),
])
def test_ciphers(secure: Start, servers: Serve, wanted: str, cipher: str) -> None:
    balancer = secure("-O", f"ssl_ciphers {wanted}", servers=[servers(sending(b"hello"))])
    assert f"Cipher is {cipher}" in s_client(balancer, "-tls1_2")
    assert secured(balancer)[0][:2] == ["TLSv1.2", cipher]
    assert "handshake failure" in s_client(balancer, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM")
    wait_until(lambda: "no shared cipher" in balancer.stderr)


AES128, AES256, CHACHA = ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")


def ecdhe(key: str, *ciphers: str) -> str:
    return ":".join(f"ECDHE-{key}-{cipher}" for cipher in ciphers)


@pytest.mark.parametrize(("likes", "chosen"), [
    ((AES128, AES256), AES256), ((AES128, CHACHA), AES128), ((CHACHA, AES128, AES256), CHACHA), ((AES128,), AES128)])
def test_the_server_s_order_counts(secure: Start, servers: Serve, likes: tuple[str, ...], chosen: str) -> None:
    """But for a client that wants ChaCha20 most: its processor may be slow at AES."""
    balancer = secure(servers=[servers(sending(b"hello"))])
    assert f"Cipher is ECDHE-ECDSA-{chosen}" in s_client(balancer, "-tls1_2", "-cipher", ecdhe("ECDSA", *likes))
    suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
    assert "Cipher is TLS_AES_256_GCM_SHA384" in s_client(balancer, "-ciphersuites", suites)


def test_the_user_s_order_of_ciphers_counts(secure: Start, servers: Serve) -> None:
    wanted = ecdhe("ECDSA", AES128, AES256)
    balancer = secure("-O", f"ssl_ciphers {wanted}:ECDHE-ECDSA-AES128-SHA256", servers=[servers(sending(b"hello"))])
    for likes, chosen in ((ecdhe("ECDSA", AES256, AES128), AES128), ("ECDHE-ECDSA-AES128-SHA256", "AES128-SHA256")):
        assert f"Cipher is ECDHE-ECDSA-{chosen}" in s_client(balancer, "-tls1_2", "-cipher", likes)


@pytest.mark.parametrize("key", ["ECDSA", "RSA"])
def test_ciphers_that_nobody_has_to_ask_for(gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path,
                                            key: str) -> None:
    """Forward secrecy and authenticated encryption, and nothing else."""
    if key == "RSA":
        file = tmp_path / "rsa.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", file, "-out", file,
                        "-days", "2", "-subj", "/CN=localhost"], capture_output=True, check=True)
    options = ("-E", str(file)) if key == "RSA" else certificates.server.options
    balancer = gpen(*options, servers=[servers(sending(b"hello"))])
    offered, taken = all_ciphers(), []
    while offered:
        told = s_client(balancer, "-tls1_2", "-cipher", ":".join([*offered, "@SECLEVEL=0"]))
        chosen = next((name for name in offered if f"Cipher is {name}\n" in told), None)
        if chosen is None:
            break  # none of those that are left is taken
        taken.append(chosen)
        offered.remove(chosen)
    assert offered and sorted(taken) == sorted(ecdhe(key, AES128, AES256, CHACHA).split(":"))


def all_ciphers() -> list[str]:
    """Those of TLS 1.2 and before that this machine's OpenSSL knows."""
    done = subprocess.run(["openssl", "ciphers", "-v", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], capture_output=True,
                          text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return [name for name, version, *_ in rows if version != "TLSv1.3" and not {"Au=PSK", "Kx=SRP"} & set(_)]


@pytest.mark.parametrize(("offered", "chosen"), [
    ("http/1.1", "ALPN protocol: http/1.1"),
    ("h2,http/1.1,imap", "ALPN protocol: imap"),
])
def test_alpn(secure: Start, servers: Serve, offered: str, chosen: str) -> None:
    balancer = secure("-O", "ssl_alpn imap,http/1.1", servers=[servers(sending(b"hello"))])
    answer = s_client(balancer, "-alpn", offered)
    assert chosen in answer and "hello" in answer


ALPN = ("-O", "ssl_alpn imap,http/1.1")


@each_version
@pytest.mark.parametrize("name", [None, "localhost"])
def test_no_protocol_in_common(secure: Start, servers: Serve, certificates: Certificates, version: ssl.TLSVersion,
                               name: str | None) -> None:
    """RFC 7301, section 3.2. A client that does not use ALPN is none of its business."""
    balancer = secure(*ALPN, servers=[servers(sending(b"hello"))])
    context = trusting(certificates.authority.certificate, version)
    context.check_hostname = False
    for offered in (["h2"], ["h2", "IMAP", "http/1.1 "], ["\x1b[31m"]):
        context.set_alpn_protocols(offered)
        with pytest.raises(ssl.SSLError, match="no application protocol"), TlsClient(balancer.address, context, name):
            pass
    context = trusting(certificates.authority.certificate, version)
    context.check_hostname = False
    with TlsClient(balancer.address, context, name) as client:
        assert (client.read_all(), client.tls.selected_alpn_protocol()) == (b"hello", None)
    balancer.wait_idle()
    assert balancer.log.count(" tls-handshake") == 3 and balancer.server(0)["total"] == 1
    assert r"it speaks none of the protocols of ssl_alpn, but \x1b[31m" in balancer.stderr


def test_no_protocol_in_common_in_pieces(secure: Start, servers: Serve, certificates: Certificates) -> None:
    """One byte of each record at a time, and records of one byte."""
    balancer = secure(*ALPN, servers=[servers(sending(b"hello"))])
    message = hello_for(b"www.example", ["h2"])[5:]
    records = b"".join(b"\x16\x03\x01\0\x01" + bytes([byte]) for byte in message)
    with balancer.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(records), 7):
            sock.sendall(records[start : start + 7])
        assert read_all(sock) == NO_APPLICATION_PROTOCOL


def test_no_protocol_in_common_with_a_certificate_of_its_name(secure: Start, servers: Serve, tmp_path: Path,
                                                              certificates: Certificates) -> None:
    for suffix, file in ((".crt", certificates.server.certificate), (".key", certificates.server.key)):
        (tmp_path / f"www.example{suffix}").write_bytes(file.read_bytes())
    balancer = secure(*ALPN, "-O", f"ssl_sni_path {tmp_path}", servers=[servers(sending(b"hello"))])
    assert "ALPN protocol: imap" in s_client(balancer, "-servername", "www.example", "-alpn", "imap")
    assert "alert number 120" in s_client(balancer, "-servername", "www.example", "-alpn", "h2")


def test_no_protocol_in_common_when_the_client_has_to_say_hello_again(gpen: Start, servers: Serve, tmp_path: Path,
                                                                      certificates: Certificates) -> None:
    """OpenSSL's client guesses another group than this one: a HelloRetryRequest."""
    (tmp_path / "openssl.cnf").write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n"
                                          "[c]\nGroups = P-384\n")
    balancer = gpen(*certificates.server.options, *ALPN, servers=[servers(sending(b"hello"))],
                    wrapper=("env", f"OPENSSL_CONF={tmp_path / 'openssl.cnf'}"))
    answer = s_client(balancer, "-tls1_3", "-alpn", "h2,http/1.1", "-msg")
    assert answer.count("ClientHello") == 2 and "ALPN protocol: http/1.1" in answer
    assert "alert number 120" in s_client(balancer, "-tls1_3", "-alpn", "h2")


def test_no_client_may_renegotiate(secure: Start, servers: Serve) -> None:
    balancer = secure(servers=[servers(echo)])
    talk(balancer, "-tls1_2", ("spoken 1\n", "spoken 1"), ("R\n", "no renegotiation"))
    balancer.wait_idle()


def test_a_client_may_change_its_keys(secure: Start, servers: Serve) -> None:
    """The answer to its KeyUpdate comes with the next bytes."""
    balancer = secure(servers=[servers(echo)])
    talk(balancer, "-tls1_3", ("spoken 1\n", "spoken 1"), ("K\n", "KEYUPDATE"), ("spoken 2\n", "spoken 2"),
         ("K\n", "KEYUPDATE"), ("K\n", "KEYUPDATE"), ("spoken 3\n", "spoken 3"))
    balancer.wait_idle()
    assert "client-closed" in balancer.log


@pytest.mark.parametrize(("version", "options"), [
    ("-tls1_2", ()), ("-tls1_3", ()), *(pytest.param(version, ("no_ticket",), marks=pytest.mark.one_process)
                                        for version in ("-tls1_2", "-tls1_3"))])
@pytest.mark.parametrize("name", ["localhost", "other.example"])
def test_sessions_are_resumed(secure: Start, servers: Serve, tmp_path: Path, version: str, options: tuple[str, ...],
                              name: str) -> None:
    """Under whatever name; without a ticket, where it began."""
    balancer = secure(*(f"-Ossl_option {option}" for option in options), servers=[servers(sending(b"hello"))])
    assert "New, TLS" in s_client(balancer, version, "-sess_out", tmp_path / "session", "-servername", "localhost")
    again = s_client(balancer, version, "-sess_in", tmp_path / "session", "-servername", name)
    assert "Reused, TLS" in again and "hello" in again


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_trust_us(secure: Start, servers: Serve, certificates: Certificates) -> None:
    server = servers(http)
    balancer = secure(servers=[server])
    done = curl(balancer, "--cacert", certificates.other.certificate)
    assert done.returncode == 60
    assert wait_until(lambda: "it says: unknown ca" in balancer.stderr)
    assert "tls-handshake" in balancer.log
    assert server.served == 0


def test_an_expired_certificate_is_used_with_a_warning(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = gpen(*certificates.expired.options, servers=[servers(http)])
    assert f"ssl_certificate: the certificate '{certificates.expired.certificate}' has expired" in balancer.stderr
    done = curl(balancer, "--cacert", certificates.authority.certificate)
    assert done.returncode == 60 and "expired" in done.stderr
    assert curl(balancer, "--insecure").stdout == "hello"


@pytest.mark.parametrize("kind", ["-G", "-A"])
@each_version
def test_clients_need_a_certificate(secure: Start, servers: Serve, certificates: Certificates, tmp_path: Path,
                                    version: ssl.TLSVersion, kind: str) -> None:
    authority = certificates.authority.certificate
    if kind == "-A":
        (tmp_path / "authorities").mkdir()
        (tmp_path / "authorities" / "ours.pem").write_bytes(authority.read_bytes())
        subprocess.run(["openssl", "rehash", tmp_path / "authorities"], check=True, timeout=20)
        authority = tmp_path / "authorities"
    server = servers(naming("in"))
    balancer = secure("-R", kind, str(authority), servers=[server])

    def answer(pair: Pair | None) -> bytes:
        context = trusting(certificates.authority.certificate, version)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        with TlsClient(balancer.address, context) as client:
            return client.recv(100)

    assert answer(certificates.client) == b"in"
    for pair in (None, certificates.stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, Truncated)):
            answer(pair)
    balancer.wait_idle()
    assert "it has no certificate, and ssl_require_peer wants one" in balancer.stderr
    assert "its certificate is not valid: unable to get local issuer certificate" in balancer.stderr
    assert [line.split()[-4] for line in balancer.log.splitlines() if "TLSv" in line] == ["client-closed"]
    assert balancer.log.count(" tls-handshake") == 2
    assert server.served == 1


def test_nobody_is_asked_for_a_certificate_unless_it_is_required(secure: Start, servers: Serve,
                                                                 certificates: Certificates) -> None:
    balancer = secure("-G", str(certificates.authority.certificate), servers=[servers(sending(b"hello"))])
    assert "Client Certificate Types" not in s_client(balancer, "-tls1_2")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def names(certificates: Certificates, tmp_path: Path) -> Path:
    """A directory for ssl_sni_path: a name, a wildcard, and a name in one file whose clients have another authority."""
    directory = tmp_path / "names"
    directory.mkdir()
    for name in ("www.example.com", "*.example.com", "Strict.Example.org"):
        pair = certificates.authority.issue(name, file="".join(letter for letter in name if letter.isalnum()))
        if name.startswith("Strict"):
            pair.in_one(directory / f"{name}.crt")
            (directory / f"{name}.ca").write_bytes(certificates.other.certificate.read_bytes())
        else:
            (directory / f"{name}.crt").write_bytes(pair.certificate.read_bytes())
            (directory / f"{name}.key").write_bytes(pair.key.read_bytes())
    return directory


@pytest.mark.parametrize(("asked", "shown"), [
    ("www.example.com", "www.example.com"),
    ("WWW.Example.COM", "www.example.com"),
    ("other.example.com", "*.example.com"),
    ("a.b.example.com", "localhost"),
    ("example.com", "localhost"),
    ("strict.example.org", "Strict.Example.org"),
    ("unknown.org", "localhost"),
    ("", "localhost"),
])
def test_names(secure: Start, servers: Serve, names: Path, asked: str, shown: str) -> None:
    balancer = secure("-O", f"ssl_sni_path {names}", servers=[servers(sending(b"hello"))])
    for version in VERSIONS:
        answer = s_client(balancer, version, *(("-servername", asked) if asked else ("-noservername",)))
        assert re.search(rf"subject=CN = {re.escape(shown)}\n", answer) and "hello" in answer
    assert [fields[2] for fields in secured(balancer)] == [asked or "-"] * 2


@each_version
def test_a_name_with_clients_of_its_own(secure: Start, servers: Serve, certificates: Certificates, names: Path,
                                        version: ssl.TLSVersion) -> None:
    balancer = secure("-R", "-G", str(certificates.authority.certificate), "-O", f"ssl_sni_path {names}",
                      servers=[servers(naming("in"))])

    def answer(name: str, pair: Pair) -> bytes:
        context = trusting(certificates.authority.certificate, version)
        context.load_cert_chain(pair.certificate, pair.key)
        with TlsClient(balancer.address, context, name) as client:
            return client.recv(100)

    assert answer("strict.example.org", certificates.stranger) == b"in"
    assert answer("www.example.com", certificates.client) == b"in"
    for name, pair in (("strict.example.org", certificates.client), ("www.example.com", certificates.stranger)):
        with pytest.raises((ssl.SSLError, ConnectionError, Truncated)):
            answer(name, pair)


NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\0\x02\x02\x78"


def hello_for(name: bytes, protocols: Sequence[str] = ()) -> bytes:
    """A ClientHello whose name is this, with these protocols for ALPN."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    stand_in = "x" * len(name)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=stand_in).do_handshake()
    hello = outgoing.read()
    assert hello.count(stand_in.encode()) == 1
    return hello.replace(stand_in.encode(), name)


def test_a_name_can_not_forge_the_log(secure: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = secure(servers=[servers(sending(b"hello"))])
    context = trusting(certificates.authority.certificate, TLS12)
    context.check_hostname = False
    with TlsClient(balancer.address, context, "forged name\x1b%s") as client:
        assert client.read_all() == b"hello"
    assert secured(balancer)[0][2] == "forged?name??s"


def test_a_name_that_is_none(secure: Start, servers: Serve) -> None:
    balancer = secure(servers=[servers(sending(b"hello"))])
    for name in (b"\xff\xfe\xfd", b"new\nline"):
        with balancer.connect() as sock:
            sock.sendall(hello_for(name))
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
    balancer.wait_idle()
    assert balancer.log.count("tls-handshake") == 2
    assert len(balancer.log.splitlines()) == 2
    assert "the name that it asks for is not ASCII" in balancer.stderr
    assert "hello" in s_client(balancer)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_handshake_has_a_time_limit_in_all(secure: Start, servers: Serve) -> None:
    """One that sends a byte now and then has no more of it."""
    balancer = secure("-O", "ssl_handshake 1", servers=[servers(echo)])
    began = time.monotonic()
    with balancer.connect() as sock:
        sock.settimeout(0.1)
        hello = iter(hello_for(b"slow"))
        ended = False
        while not ended:
            try:
                sock.sendall(bytes([next(hello)]))
                ended = not sock.recv(100)
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
    assert 0.9 < time.monotonic() - began < 10
    balancer.wait_idle()
    assert "not done in 1 s" in balancer.stderr
    assert "tls-handshake" in balancer.log


def test_a_hundred_that_are_stuck_delay_nobody(secure: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = secure("-x", "300", servers=[servers(naming("in"))])
    with ExitStack() as stack:
        stuck = [stack.enter_context(balancer.connect()) for _ in range(100)]
        for number, sock in enumerate(stuck):
            sock.sendall(hello_for(b"stuck")[: number * 3])
        wait_until(lambda: len(balancer.json("sessions")) == 100)
        assert {session["state"] for session in balancer.json("sessions")} == {"handshake"}
        took = []
        for _ in range(5):
            began = time.monotonic()
            with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
                assert client.recv(10) == b"in"
            took.append(time.monotonic() - began)
        assert min(took) < 5
        numbers = [session["id"] for session in balancer.json("sessions")]
        balancer.ctl(f"close {numbers[0]}")
        wait_until(lambda: len(balancer.json("sessions")) == 99)
    balancer.wait_idle()
    assert " killed\n" in balancer.log


@each_version
def test_nobody_waits_for_acknowledgements(secure: Start, servers: Serve, certificates: Certificates,
                                           version: ssl.TLSVersion) -> None:
    """A client without TCP_NODELAY sends its request when the end of its handshake is acknowledged. Some are 40 ms late
    on purpose. One with TCP_NODELAY, in between, shows how fast this machine is just now."""
    balancer = secure(servers=[servers(http)])
    context, took = trusting(certificates.authority.certificate, version), {0: list[float](), 1: list[float]()}
    for no_delay in (0, 1) * 9:
        with TlsClient(balancer.address, context) as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
            began = time.monotonic()
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.read_all().endswith(b"hello")
            took[no_delay].append(time.monotonic() - began)
    assert statistics.median(took[0]) < statistics.median(took[1]) + 0.03


@pytest.mark.parametrize(("said", "told"), [
    (b"GET / HTTP/1.0\r\n\r\n", "it speaks HTTP, not TLS"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "it does not speak TLS"),
    (bytes(100), "it does not speak TLS"),
    (b"", "it closed the connection"),
])
def test_what_is_no_handshake(secure: Start, servers: Serve, said: bytes, told: str) -> None:
    balancer = secure(servers=[servers(echo)])
    descriptors = balancer.fds()
    balancer.ask(said)
    balancer.wait_idle()
    assert re.search(rf"session 0: TLS handshake of 127.0.0.1:\d+: {told}\n", balancer.stderr)
    assert balancer.log.count(" tls-handshake\n") == 1
    assert balancer.fds() == descriptors


# --- beside other features --------------------------------------------------------------------------------------------


def test_what_is_told_of_a_session(secure: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = secure("-O", "log_format json", servers=[servers(naming("in"))])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate, TLS13)) as client:
        assert client.recv(10) == b"in"
        (session,) = balancer.json("sessions")
        told = {"tls": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "sni": "localhost"}
        assert {name: session[name] for name in told} == told
    wait_until(lambda: '"tls":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384","sni":"localhost"' in balancer.log)


def test_a_proxy_header_stands_before_the_handshake(secure: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = secure("-O", "acl 3 permit 127.0.0.1", "-O", "accept_proxy 3", "-O", "proxy_protocol v1",
                      servers=[servers(echo)])
    sock = connect(balancer.address)
    sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n")
    with TlsClient("", trusting(certificates.authority.certificate), sock=sock) as client:
        assert client.recv(100) == b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n"
        assert balancer.json("sessions")[0]["client"] == "192.0.2.7:1234"


def test_nobody_smuggles_a_proxy_header_inside(secure: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = secure("-O", "acl 3 deny 127.0.0.1", "-O", "accept_proxy 3", servers=[servers(echo)])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
        client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n")
        with pytest.raises((Truncated, ConnectionError)):
            client.read_all()
    balancer.wait_idle()
    assert "proxy-header" in balancer.log


def test_dumps_and_pens_log_show_what_was_said(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = gpen("-l", "gpen.log", "-a", "-dd", "-O", "log_format pen", *certificates.server.options,
                    servers=[servers(http)])
    assert curl(balancer, "--cacert", certificates.authority.certificate).stdout == "hello"
    balancer.wait_idle()
    assert "GET / HTTP/1.1" in balancer.log
    assert "GET / HTTP/1.1" in balancer.stderr


@each_version
def test_one_that_waits_for_a_server_is_gone_when_it_says_goodbye(gpen: Start, certificates: Certificates,
                                                                   servers: Serve, version: ssl.TLSVersion) -> None:
    """One that has asked before it gets its answer."""
    balancer = gpen("-l", "gpen.log", "-O", "hold 20", *certificates.server.options, servers=[servers(http)])
    balancer.ctl("server 0 state drain")
    context = trusting(certificates.authority.certificate, version)
    silent, asking = TlsClient(balancer.address, context), TlsClient(balancer.address, context)
    wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held", "held"])
    asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
    asking.shutdown(socket.SHUT_WR)
    silent.close()
    wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
    balancer.ctl("server 0 state ready")
    assert asking.read_all().endswith(b"hello")
    asking.close()
    balancer.wait_idle()
    assert sorted(line.partition(" TLSv")[0].split()[-1] for line in balancer.log.splitlines()) == ["client-closed"] * 2


def test_the_dummy_speaks_tls(gpen: Start, certificates: Certificates) -> None:
    balancer = gpen("-O", "dummy", *certificates.server.options, servers=["127.0.0.1:9"])
    done = curl(balancer, "--cacert", certificates.authority.certificate)
    assert (done.returncode, "gpen's dummy server" in done.stdout) == (0, True), done.stderr


def test_a_client_that_is_denied_costs_no_handshake(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    balancer = gpen(*certificates.server.options, "-O", "acl 1 deny 127.0.0.2", "-O", "client_acl 1", "-l", "gpen.log",
                    servers=[servers(echo)])
    with balancer.connect(source="127.0.0.2") as denied:
        assert denied.recv(1) == b""
    balancer.wait_idle()
    assert balancer.log.endswith(" denied\n")


def test_nothing_plain_is_said_to_a_client_in_its_handshake(gpen: Start, servers: Serve, certificates: Certificates,
                                                            ) -> None:
    """Not even why it is closed, in HTTP mode."""
    balancer = gpen(*certificates.server.options, "-H", servers=[servers(echo)])
    with balancer.connect() as stuck:
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["handshake"], what="the handshake")
        balancer.stop()
        assert stuck.recv(100) == b""
