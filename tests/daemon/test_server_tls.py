"""TLS to servers: who is taken for the server that is meant, what becomes of one that is not, and of its clients."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.certificates import Authority, Certificates, Pair, openssl
from tests.door import DOOR, ask
from tests.harness import Gpen, Server, hold, naming, read_all, run_gpen, wait_until
from tests.tlsclient import TlsClient, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Secure = Callable[..., Server]
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
Talk = Callable[[ssl.SSLSocket], None]

each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["tls1.2", "tls1.3"])
each_crew = pytest.mark.parametrize("crew", [(), ("-O", "workers 2")], ids=["alone", "workers"])


def answer(sock: ssl.SSLSocket) -> None:
    """What it was asked, by which version, and whether the session is one of before."""
    question = sock.recv(1 << 16)
    sock.sendall(b"%s %s %s" % (question, (sock.version() or "").encode(), b"again" if sock.session_reused else b"new"))


def saying(data: bytes) -> Talk:
    """Say this to everybody."""
    return lambda sock: sock.sendall(data)


def secured(serve: Talk, pair: Pair, version: ssl.TLSVersion | None = None, clients: Path | None = None,
            alpn: tuple[str, ...] = (), asked: list[str | None] | None = None) -> Callable[[socket.socket], None]:
    """A server that speaks TLS, with clients of an authority only if one is given; the names that it is asked for go to
    ``asked``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if asked is not None:
        context.sni_callback = lambda sock, name, context: asked.append(name)

    def handle(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            serve(secure)
            secure.unwrap()

    return handle


@pytest.fixture
def secure(servers: Serve, certificates: Certificates) -> Secure:
    """Start a server that speaks TLS: secure(answer)."""
    return lambda serve, pair=certificates.server, **options: servers(secured(serve, pair, **options))


@pytest.fixture
def trusted(certificates: Certificates) -> tuple[str, ...]:
    """The options of a gpen that speaks TLS to servers called localhost."""
    return ("-l", "gpen.log", "-O", "server_tls on", "-O", "server_tls_name localhost",
            "-O", f"server_tls_ca {certificates.authority.certificate}")


# --- it works ---------------------------------------------------------------------------------------------------------


@each_crew
@each_version
def test_sessions_are_resumed(gpen: Start, secure: Secure, trusted: tuple[str, ...], version: ssl.TLSVersion,
                              crew: tuple[str, ...]) -> None:
    balancer = gpen(*trusted, *crew, servers=[secure(answer, version=version)])
    answers = [balancer.ask(b"hello").split() for _ in range(8)]
    spoken = f"TLSv1.{version - TLS12 + 2}".encode()
    assert {tuple(words[:2]) for words in answers} == {(b"hello", spoken)}
    assert answers[0][2] == b"new" and sum(words[2] == b"again" for words in answers) >= 6  # each worker has its own
    balancer.wait_idle()
    (row,) = balancer.json("listeners")
    assert (row["handshakes"], row["server_handshakes"]) == (0, 8) and row["server_resumed"] >= 6
    lines = balancer.log.splitlines()
    assert [line.split()[-4:-2] + line.split()[-1:] for line in lines] == [["to", spoken.decode(), "localhost"]] * 8


def test_what_is_told(gpen: Start, secure: Secure, trusted: tuple[str, ...]) -> None:
    balancer = gpen(*trusted, *DOOR, "-O", "log_format json", servers=[secure(saying(b"hello"))])
    with balancer.connect() as client:
        assert client.recv(5) == b"hello"
        (session,) = balancer.json("sessions")
        assert (session["tls"], session["server_tls"], session["tls_name"]) == (None, "TLSv1.3", "localhost")
        assert "server_tls TLSv1.3" in balancer.ctl("sessions")
    balancer.wait_idle()
    assert '"server_tls":"TLSv1.3"' in balancer.log
    assert 'gpen_listener_server_tls_handshakes_total{listener="-"} 1' in ask(balancer, "/metrics").text
    row = balancer.server(0)
    assert (row["server_tls"], row["tls_name"]) == ("on", "localhost")


@each_crew
def test_both_sides(gpen: Start, secure: Secure, certificates: Certificates, trusted: tuple[str, ...],
                    crew: tuple[str, ...]) -> None:
    balancer = gpen(*trusted, *crew, *certificates.server.options, servers=[secure(answer)])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
        client.sendall(b"hello")
        assert client.read_all() == b"hello TLSv1.3 new"
    balancer.wait_idle()
    words = balancer.log.split()
    assert words[-8:-6] == ["client-closed", "TLSv1.3"] or words[-8:-6] == ["server-closed", "TLSv1.3"]
    assert words[-4:-2] == ["to", "TLSv1.3"]


@each_crew
def test_http(gpen: Start, secure: Secure, trusted: tuple[str, ...], crew: tuple[str, ...]) -> None:
    """Several requests on one connection, each with the client's address."""
    heads: list[bytes] = []

    def serve(sock: ssl.SSLSocket) -> None:
        while head := sock.recv(1 << 16):
            heads.append(head)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    balancer = gpen(*trusted, *crew, "-H", servers=[secure(serve)])
    host, port = balancer.address
    done = subprocess.run(["curl", "-q", "-sS", "--max-time", "15", *[f"http://{host}:{port}/{n}" for n in range(3)]],
                          capture_output=True, timeout=20, check=True)
    assert done.stdout == b"hello" * 3
    assert [b"X-Forwarded-For: 127.0.0.1" in head and b"X-Forwarded-Proto: http\r" in head for head in heads] == [
        True] * 3
    balancer.wait_idle()
    assert balancer.json("listeners")[0]["server_handshakes"] == 1


def test_large_answers_in_many_records(gpen: Start, secure: Secure, trusted: tuple[str, ...]) -> None:
    data = bytes(range(256)) * 12_000

    def serve(sock: ssl.SSLSocket) -> None:
        sock.recv(1)
        sock.sendall(data)

    assert gpen(*trusted, servers=[secure(serve)]).ask(b"?") == data


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_proxy_header_goes_before_tls(gpen: Start, servers: Serve, certificates: Certificates,
                                          trusted: tuple[str, ...], version: str) -> None:
    heads: list[bytes] = []
    talk = secured(answer, certificates.server)

    def serve(sock: socket.socket) -> None:
        head = sock.recv(1 << 16, socket.MSG_PEEK)
        length = head.index(b"\r\n") + 2 if version == "v1" else 16 + int.from_bytes(head[14:16], "big")
        heads.append(sock.recv(length))
        talk(sock)

    balancer = gpen(*trusted, "-O", f"proxy_protocol {version}", servers=[servers(serve)])
    assert balancer.ask(b"hello").startswith(b"hello")
    assert heads[0].startswith(b"PROXY TCP4 127.0.0.1" if version == "v1" else b"\r\n\r\n\0\r\nQUIT\n\x21\x11")


def test_a_server_that_speaks_first(gpen: Start, servers: Serve, secure: Secure, trusted: tuple[str, ...]) -> None:
    """By greeting, one that says nothing behind its handshake has failed."""
    silent, well = secure(lambda sock: sock.recv(1)), secure(saying(b"hello"))
    balancer = gpen("-r", *trusted, "-O", "greeting 1", servers=[silent, well])
    assert balancer.ask() == b"hello"
    assert balancer.server(0)["reason"] == "no first byte within 1 s"


@each_crew
def test_what_comes_with_the_handshake_and_is_no_tls_ends_the_session(
        gpen: Start, servers: Serve, certificates: Certificates, trusted: tuple[str, ...], crew: tuple[str, ...],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)

    def serve(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(sock.recv(1 << 16))
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read() + b"\x17\3\3\0\x40" + bytes(0x40))
        read_all(sock)

    balancer = gpen("-r", *trusted, *crew, servers=[servers(serve)])
    assert balancer.ask() == b""
    balancer.wait_idle()
    assert " server-reset to TLSv1.3 " in balancer.log


def test_idlers(gpen: Start, secure: Secure, certificates: Certificates, trusted: tuple[str, ...]) -> None:
    """They shake hands, so that a server is found to be no good before a client comes."""
    balancer = gpen(*trusted, "-r", "-O", "idlers 2",
                    servers=[secure(answer, certificates.expired), secure(lambda sock: sock.recv(1))])
    wait_until(lambda: "has expired" in balancer.server(0)["reason"])
    wait_until(lambda: balancer.ctl("idlers") == "Idlers: 2/2\n")


def test_a_certificate_whose_key_is_elsewhere_is_given_at_runtime(
        gpen: Start, secure: Secure, certificates: Certificates, trusted: tuple[str, ...]) -> None:
    """The key first, for a certificate without one is refused."""
    pair = certificates.client
    balancer = gpen(*trusted, servers=[secure(answer, clients=certificates.authority.certificate)])
    assert "holds no private key" in balancer.ctl(f"server_tls_certificate {pair.certificate}")
    assert not balancer.ctl(f"server_tls_key {pair.key}")
    balancer.ctl(f"server_tls_certificate {pair.certificate}")
    assert balancer.ask(b"hello").startswith(b"hello")


@pytest.mark.parametrize("certified", [True, False], ids=["with", "without"])
@each_version
def test_a_server_that_wants_a_certificate(gpen: Start, secure: Secure, certificates: Certificates,
                                           trusted: tuple[str, ...], version: ssl.TLSVersion, certified: bool) -> None:
    pair = certificates.client
    own = ("-O", f"server_tls_certificate {pair.certificate}", "-O", f"server_tls_key {pair.key}")
    picky = secure(answer, version=version, clients=certificates.authority.certificate)
    balancer = gpen(*trusted, *(own if certified else ()), servers=[picky])
    told = balancer.ask(b"hello")
    if certified:
        assert told.startswith(b"hello")
    else:
        assert told == b""
        says = "it says: handshake failure" if version == TLS12 else (
            "it wants a certificate: give server_tls_certificate")
        assert wait_until(lambda: balancer.server(0)["reason"]) == f"TLS: {says}"


@pytest.mark.parametrize(("offered", "chosen"), [("imap,http/1.1", "http/1.1"), ("imap", None)])
def test_alpn(gpen: Start, secure: Secure, trusted: tuple[str, ...], offered: str, chosen: str | None) -> None:
    def serve(sock: ssl.SSLSocket) -> None:
        sock.sendall(repr(sock.selected_alpn_protocol()).encode())

    balancer = gpen(*trusted, "-O", f"server_tls_alpn {offered}", servers=[secure(serve, alpn=("http/1.1",))])
    assert balancer.ask() == repr(chosen).encode()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbered(certificates: Certificates) -> Pair:
    """A certificate for 127.0.0.1 and for no name."""
    pair = certificates.authority.issue("unused", file="numbered")
    request, extensions = pair.certificate.with_suffix(".csr"), pair.certificate.with_suffix(".ext")
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    ours = certificates.authority.pair
    openssl("x509", "-req", "-in", request, "-CA", ours.certificate, "-CAkey", ours.key, "-CAcreateserial",
            "-extfile", extensions, "-out", pair.certificate)
    return pair


def test_names(gpen: Start, secure: Secure, certificates: Certificates, numbered: Pair) -> None:
    """Of its address: a host is asked for, a number is not, and has to stand in the certificate."""
    asked: list[str | None] = []
    server = secure(answer, asked=asked)
    other = secure(answer, numbered, asked=asked)
    ca = f"server_tls_ca {certificates.authority.certificate}"
    balancer = gpen("-r", "-O", "server_tls on", "-O", ca,
                    servers=[f"localhost:{server.port}", f"127.0.0.1:{other.port}"])
    assert [balancer.ask(b"hi")[:2] for _ in range(2)] == [b"hi", b"hi"]
    assert asked == ["localhost", None]
    assert [row["tls_name"] for row in balancer.json("servers")] == ["localhost", "127.0.0.1"]


def test_a_unix_socket_is_localhost(gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path) -> None:
    server = servers(secured(answer, certificates.server), at=str(tmp_path / "server"))
    balancer = gpen("-O", "server_tls on", "-O", f"server_tls_ca {certificates.authority.certificate}",
                    servers=[server])
    assert balancer.ask(b"hi").startswith(b"hi")


@each_crew
def test_a_server_has_its_own(gpen: Start, servers: Serve, secure: Secure, certificates: Certificates,
                              crew: tuple[str, ...]) -> None:
    """TLS with one of two servers only, by a name that is its own; and with none any more."""
    plain, secret = servers(naming("plain")), secure(saying(b"secret"))
    balancer = gpen("-r", *crew, "-O", f"server_tls_ca {certificates.authority.certificate}", servers=[plain, secret])
    assert balancer.ctl("server 1 tls on tls_name localhost") == ""
    assert {balancer.ask() for _ in range(4)} == {b"plain", b"secret"}
    assert [row["server_tls"] for row in balancer.json("servers")] == ["off", "on"]
    wait_until(lambda: balancer.json("listeners")[0]["server_handshakes"] == 2)
    balancer.ctl("server_tls on", "server 0 tls off")
    assert {balancer.ask() for _ in range(4)} == {b"plain", b"secret"}
    balancer.ctl("no server_tls", "server 1 tls default")
    balancer.ctl("server 0 state drain")
    with balancer.connect() as client:
        client.sendall(b"no hello\n")
        assert b"secret" not in read_all(client)


def test_write_saves_it(gpen: Start, secure: Secure, certificates: Certificates, trusted: tuple[str, ...],
                        tmp_path: Path) -> None:
    balancer = gpen(*trusted, servers=[secure(answer)])
    balancer.ctl("server 0 tls on tls_name localhost", f"write {tmp_path / 'saved'}")
    saved = (tmp_path / "saved").read_text()
    assert "\nserver_tls on\n" in saved and "tls on tls_name localhost" in saved
    with Gpen(tmp_path, "-F", str(tmp_path / "saved"), name="again") as again:
        assert again.ask(b"hi").startswith(b"hi")


@each_crew
def test_a_listener_has_its_own(gpen: Start, servers: Serve, secure: Secure, trusted: tuple[str, ...],
                                crew: tuple[str, ...]) -> None:
    secret, plain = secure(saying(b"secret")), servers(naming("plain"))
    balancer = gpen(*trusted, *crew, "-O", "listener plain listen 127.0.0.1:0", "-O", "listener plain server_tls off",
                    "-O", "listener plain servers 1", "-O", "listener secret listen 127.0.0.1:0",
                    "-O", "listener secret servers 0", servers=[secret, plain])
    rows = {row["name"]: row["address"].rpartition(":") for row in balancer.json("listeners")}
    for name in ("plain", "secret"):
        host, _, port = rows[name]
        with socket.create_connection((host, int(port)), 20) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == name.encode()
    assert [balancer.json(f"listener {name} servers")[0]["server_tls"] for name in ("plain", "secret")] == ["off", "on"]


# --- servers that are no good -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def yet_to_come(certificates: Certificates) -> Pair:
    """A certificate that begins to be valid in the year 2100."""
    directory, ours = certificates.directory, certificates.authority.pair
    pair = certificates.authority.issue("localhost", file="to_come")
    (directory / "index").write_text("")
    (directory / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=it\n[it]\ndatabase={directory}/index\nnew_certs_dir={directory}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\nx509_extensions=names\n[any]\ncommonName=supplied\n"
        "[names]\nsubjectAltName=DNS:localhost\n")
    openssl("ca", "-batch", "-notext", "-config", directory / "ca.cnf", "-cert", ours.certificate, "-keyfile", ours.key,
            "-in", pair.certificate.with_suffix(".csr"), "-out", pair.certificate, "-startdate", "21000101000000Z",
            "-enddate", "21010101000000Z")
    return pair


def speaks_http(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


VERIFY = "TLS: certificate verify failed: "
BAD: dict[str, tuple[str, str]] = {
    "of another authority": ("stranger", f"{VERIFY}unable to get local issuer certificate"),
    "for another name": ("client", f"{VERIFY}Hostname mismatch, certificate is not valid for 'localhost'"),
    "expired": ("expired", f"{VERIFY}certificate has expired"),
    "not valid yet": ("yet_to_come", f"{VERIFY}certificate is not yet valid"),
    "self-signed": ("self", f"{VERIFY}self-signed certificate"),
    "plain": ("naming", "TLS: no TLS is spoken there"),
    "http": ("http", "TLS: no TLS is spoken there"),
    "silent": ("hold", "TLS: the handshake was not done in time"),
    "closing": ("closing", "TLS: it closed the connection in the handshake"),
}


@pytest.fixture
def bad(certificates: Certificates, yet_to_come: Pair, tmp_path: Path) -> Callable[[str], Callable[..., None]]:
    """What a server does that is bad in this way."""

    def bad(what: str) -> Callable[..., None]:
        if what == "self":
            return secured(answer, Authority(tmp_path, "localhost").pair)
        pairs = {"stranger": certificates.stranger, "client": certificates.client, "expired": certificates.expired,
                 "yet_to_come": yet_to_come}
        if what in pairs:
            return secured(answer, pairs[what])
        return {"naming": naming("220 mail.example.com"), "http": speaks_http, "hold": hold,
                "closing": lambda sock: None}[what]

    return bad


@each_crew
@pytest.mark.parametrize("what", BAD)
def test_a_bad_server_is_failed_over(gpen: Start, servers: Serve, secure: Secure, trusted: tuple[str, ...], what: str,
                                     bad: Callable[[str], Callable[..., None]], crew: tuple[str, ...]) -> None:
    """Its client gets the other one, it is blacklisted, and the reason is told."""
    kind, reason = BAD[what]
    balancer = gpen("-r", "-t", "1", *trusted, *crew, servers=[servers(bad(kind)), secure(answer)])
    assert balancer.ask(b"hello").startswith(b"hello")
    row = balancer.server(0)
    assert (row["health"], row["reason"], row["causes"]) == ("down", reason, {reason: 1})
    assert f"connect failed: {reason}" in balancer.stderr
    balancer.wait_idle()


def test_a_certificate_that_nobody_verifies(gpen: Start, secure: Secure, certificates: Certificates) -> None:
    balancer = gpen("-O", "server_tls on", "-O", "server_tls_verify off",
                    servers=[secure(answer, certificates.stranger)])
    assert balancer.ask(b"hello").startswith(b"hello")
    assert "server_tls_verify off: whoever answers at a server's address is taken for it" in balancer.stderr


def test_a_pinned_certificate(gpen: Start, secure: Secure, certificates: Certificates) -> None:
    """The file may hold the server's own certificate instead of its authority's."""
    balancer = gpen("-O", "server_tls on", "-O", "server_tls_name localhost",
                    "-O", f"server_tls_ca {certificates.server.certificate}", servers=[secure(answer)])
    assert balancer.ask(b"hello").startswith(b"hello")


def test_the_system_s_authorities(gpen: Start, secure: Secure, certificates: Certificates,
                                  monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority.certificate))
    options = ("-O", "server_tls on", "-O", "server_tls_name localhost")
    assert gpen(*options, servers=[secure(answer)]).ask(b"hello").startswith(b"hello")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    done = run_gpen("-f", *options, "127.0.0.1:0", "127.0.0.1:1")
    assert done.returncode == 2 and f"server_tls_ca: this system has no authorities in '{tmp_path}'" in done.stderr


# --- files ------------------------------------------------------------------------------------------------------------


@each_crew
def test_hup_reads_authorities_again(gpen: Start, secure: Secure, certificates: Certificates, tmp_path: Path,
                                     crew: tuple[str, ...]) -> None:
    """With another authority the server is another, whatever session there was; a broken file changes nothing."""
    file = tmp_path / "ca.pem"
    file.write_bytes(certificates.authority.certificate.read_bytes())
    balancer = gpen(*crew, "-O", "server_tls on", "-O", "server_tls_name localhost", "-O", f"server_tls_ca {file}",
                    servers=[secure(answer)])
    assert [balancer.ask(b"hello")[:5] for _ in range(4)] == [b"hello"] * 4
    file.write_text("nonsense")
    balancer.signal(SIGHUP)
    wait_until(lambda: f"server_tls_ca: '{file}' holds no certificates in PEM; the old certificates stay" in
               balancer.stderr)
    assert balancer.ask(b"hello")[:5] == b"hello"
    file.write_bytes(certificates.other.certificate.read_bytes())
    balancer.ctl("reload")
    assert balancer.ask(b"hello") == b""
    assert balancer.server(0)["reason"] == f"{VERIFY}unable to get local issuer certificate"


@pytest.mark.parametrize(("setting", "told"), [
    ("server_tls_ca /nowhere", "server_tls_ca: can't read '/nowhere': No such file or directory"),
    ("server_tls_certificate /etc/hostname", "server_tls_certificate: '/etc/hostname' holds no certificate in PEM"),
    ("server_tls_name a..b", "'a..b' is no name for TLS"),
    ("mysql", "server_tls: MySQL's TLS (mysql) begins inside its protocol"),
    ("udp", "server_tls: it is for TCP, and this is UDP"),
])
def test_what_is_refused(gpen: Start, secure: Secure, trusted: tuple[str, ...], setting: str, told: str) -> None:
    """At the start, by --check, and by a command, which then changes nothing."""
    options = (*trusted[2:], "-O", setting, "127.0.0.1:0", "127.0.0.1:1")
    assert told in run_gpen("--check", *options).stderr
    balancer = gpen(*trusted, servers=[secure(answer)])
    assert told in balancer.ctl(setting)
    assert balancer.ask(b"hello").startswith(b"hello")


def test_tls_of_a_mysql_server_is_refused(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "mysql", servers=[servers(hold)])
    assert "server 0: tls on: MySQL's TLS (mysql) begins inside its protocol" in balancer.ctl("server 0 tls on")
    assert balancer.server(0)["server_tls"] == "off"


# --- checks -----------------------------------------------------------------------------------------------------------

QUICK = ("-O", "check_interval 0.2", "-O", "check_fall 1")
CHECKS = {"connect": "connect", "greeting": "greeting", "send": 'send "ping" expect "ping TLS"'}


@pytest.mark.parametrize("check", CHECKS)
def test_checks_speak_tls(gpen: Start, secure: Secure, certificates: Certificates, trusted: tuple[str, ...],
                          check: str) -> None:
    serve = saying(b"welcome") if check == "greeting" else answer
    balancer = gpen(*trusted, *QUICK, "-O", f"check {CHECKS[check]}",
                    servers=[secure(serve), secure(serve, certificates.expired)])
    wait_until(lambda: balancer.server(0)["verdict"] == "up")
    wait_until(lambda: balancer.server(1)["verdict"] == "down")
    assert balancer.server(1)["verdict_reason"] == f"{VERIFY}certificate has expired"


def test_a_check_sees_that_a_certificate_is_wanted(gpen: Start, secure: Secure, certificates: Certificates,
                                                   trusted: tuple[str, ...]) -> None:
    """In TLS 1.3 a server says so behind the handshake."""
    picky = secure(answer, clients=certificates.authority.certificate)
    balancer = gpen(*trusted, *QUICK, "-O", "check connect", servers=[picky])
    wait_until(lambda: balancer.server(0)["verdict"] == "down")
    assert balancer.server(0)["verdict_reason"] == "TLS: it wants a certificate: give server_tls_certificate"


def test_checks_may_speak_plainly(gpen: Start, servers: Serve, trusted: tuple[str, ...]) -> None:
    balancer = gpen(*trusted, *QUICK, "-O", "check greeting", "-O", "check_tls off", servers=[servers(naming("a"))])
    wait_until(lambda: balancer.server(0)["verdict_reason"] == "greeted")
    balancer.ctl("check_tls default")
    wait_until(lambda: balancer.server(0)["verdict_reason"] == "TLS: no TLS is spoken there")
