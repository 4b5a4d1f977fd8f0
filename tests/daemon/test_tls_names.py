"""Who is let in by TLS: certificates that clients may have, names that nobody has; and keys that are encrypted."""

from __future__ import annotations

import json
import os
import pty
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, Certificates, Pair, openssl
from tests.harness import COMMAND, Gpen, Server, naming, run_gpen, wait_until
from tests.tlsclient import TlsClient, Truncated, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

each_crew = pytest.mark.parametrize("crew", [(), ("-O", "workers 2")], ids=["alone", "workers"])
REFUSED = (ssl.SSLError, ConnectionError, Truncated)


def said(balancer: Gpen, certificates: Certificates, name: str | None = "localhost", pair: Pair | None = None,
         version: ssl.TLSVersion | None = None) -> bytes:
    """What a client is told first that asks for this name and has this certificate."""
    context = trusting(certificates.authority.certificate, version)
    context.check_hostname = False
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    with TlsClient(balancer.address, context, name) as client:
        return client.recv(10)


@each_crew
def test_client_certificates_that_are_optional(gpen: Start, servers: Serve, certificates: Certificates,
                                               crew: tuple[str, ...]) -> None:
    balancer = gpen("-l", "gpen.log", *crew, *certificates.server.options, "-G",
                    str(certificates.authority.certificate), "-O", "ssl_verify_client optional",
                    servers=[servers(naming("x"))])
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert said(balancer, certificates, version=version) == b"x"
        assert said(balancer, certificates, pair=certificates.client, version=version) == b"x"
        for pair in (certificates.stranger, certificates.expired):
            with pytest.raises(REFUSED):
                said(balancer, certificates, pair=pair, version=version)
    wait_until(lambda: balancer.log.count("\n") == 8)
    ends = sorted(line.split(" localhost")[-1] for line in balancer.log.splitlines() if " tls-handshake" not in line)
    assert ends == ["", "", " CN=client", " CN=client"]
    balancer.ctl("log_format json", "ssl_verify_client required")
    with pytest.raises(REFUSED):
        said(balancer, certificates)
    assert said(balancer, certificates, pair=certificates.client) == b"x"
    wait_until(lambda: '"subject":"CN=client"' in balancer.log)
    assert json.loads(balancer.log.splitlines()[-1])["tls"].startswith("TLSv1")
    assert balancer.ctl("ssl_verify_client off") == "" and said(balancer, certificates) == b"x"


def test_the_subject_of_a_session(gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path) -> None:
    """As RFC 4514 writes it, with what could confuse a log quoted."""
    authority = Authority(tmp_path, "more")
    pair = authority.issue("odd")
    openssl("req", "-new", "-key", pair.key, "-subj", "/C=SE/O=A, B \\\\ \"C\"/CN=r\u00e4ka", "-utf8", "-out",
            tmp_path / "csr")
    openssl("x509", "-req", "-in", tmp_path / "csr", "-CA", authority.certificate, "-CAkey", authority.pair.key,
            "-CAcreateserial", "-out", pair.certificate)
    balancer = gpen(*certificates.server.options, "-G", str(authority.certificate), "-R",
                    servers=[servers(naming("x"))])
    context = trusting(certificates.authority.certificate)
    context.load_cert_chain(pair.certificate, pair.key)
    with TlsClient(balancer.address, context) as client:
        assert client.recv(1) == b"x"
        subject = balancer.json("sessions")[0]["subject"]
        assert subject == 'CN=r\u00e4ka,O=A\\, B \\\\ \\"C\\",C=SE'
        assert ' localhost subject "' in balancer.ctl("sessions")


@each_crew
def test_names_that_nobody_has(gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path,
                               crew: tuple[str, ...]) -> None:
    (names := tmp_path / "names").mkdir()
    for file, pair in (("a.example", certificates.authority.issue("a.example")),
                       ("*.b.example", certificates.authority.issue("*.b.example", file="wild"))):
        (names / f"{file}.crt").write_bytes(pair.certificate.read_bytes())
        (names / f"{file}.key").write_bytes(pair.key.read_bytes())
    balancer = gpen("-d", *crew, *certificates.server.options, "-O", f"ssl_sni_path {names}", "-O", "ssl_strict_sni",
                    servers=[servers(naming("x"))])
    for name in ("a.example", "A.EXAMPLE.", "y.b.example", "localhost"):  # the last is that of ssl_certificate itself
        assert said(balancer, certificates, name) == b"x"
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for strange in ("c.example", "b.example", "x.y.b.example", None, "127.0.0.1"):
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                said(balancer, certificates, strange, version=version)
    wait_until(lambda: "it asks for the name c.example, which no certificate has (ssl_strict_sni)" in balancer.stderr
               and "it asks for no name (ssl_strict_sni)" in balancer.stderr)
    assert balancer.ctl("explain 127.0.0.1 sni c.example").startswith(
        "127.0.0.1 would get no server: no certificate has the name c.example, and ssl_strict_sni is on\n")
    assert [balancer.json(f"explain 127.0.0.1 {asked}")["server"] for asked in ("sni y.b.example", "sni localhost", "")
            ] == [0, 0, 0]
    balancer.ctl("no ssl_strict_sni")
    assert said(balancer, certificates, "c.example") == said(balancer, certificates, None) == b"x"


@each_crew
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"])
def test_a_session_that_goes_on_under_another_name(
        gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path, version: ssl.TLSVersion,
        crew: tuple[str, ...]) -> None:
    """The name that is asked for now says which servers it gets, and whether any."""
    (names := tmp_path / "names").mkdir()
    for name in ("a.example", "b.example"):
        pair = certificates.authority.issue(name)
        (names / f"{name}.crt").write_bytes(pair.certificate.read_bytes())
        (names / f"{name}.key").write_bytes(pair.key.read_bytes())
    balancer = gpen(*crew, *certificates.server.options, "-O", f"ssl_sni_path {names}", "-O", "ssl_strict_sni", "-O",
                    "route sni b.example servers 1", "-O", "route default servers 0",
                    servers=[servers(naming("a")), servers(naming("b"))])
    context = trusting(certificates.authority.certificate, version)
    context.check_hostname = False

    def visit(name: str | None, session: ssl.SSLSession | None = None) -> tuple[bytes, bool | None, Any]:
        with context.wrap_socket(balancer.connect(), server_hostname=name, session=session) as sock:
            return sock.recv(1), sock.session_reused, sock.session

    _, _, session = visit("a.example")
    assert visit("b.example", session)[:2] == (b"b", True)
    for strange in ("c.example", None):
        with pytest.raises(REFUSED):
            visit(strange, session)
    balancer.ctl("no ssl_strict_sni")
    _, _, session = visit("b.example")
    assert visit(None, session)[0] == b"a"


@each_crew
def test_who_was_let_in_under_one_name_is_not_under_that_of_another_authority(
        gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path, crew: tuple[str, ...]) -> None:
    """Though the client would resume its session there."""
    (names := tmp_path / "names").mkdir()
    for name, authority in (("a.example", certificates.authority), ("b.example", certificates.other)):
        pair = certificates.authority.issue(name)
        (names / f"{name}.crt").write_bytes(pair.certificate.read_bytes())
        (names / f"{name}.key").write_bytes(pair.key.read_bytes())
        (names / f"{name}.ca").write_bytes(authority.certificate.read_bytes())
    balancer = gpen(*crew, *certificates.server.options, "-G", str(certificates.authority.certificate), "-R", "-O",
                    f"ssl_sni_path {names}", "-O", "ssl_alpn x,y", servers=[servers(naming("x"))])
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(certificates.authority.certificate, version)
        context.load_cert_chain(certificates.client.certificate, certificates.client.key)

        def visit(name: str, session: ssl.SSLSession | None = None, context: ssl.SSLContext = context) -> ssl.SSLSocket:
            sock = context.wrap_socket(balancer.connect(), server_hostname=name, session=session)
            with sock:
                assert sock.recv(1) == b"x"
                sock.reused = sock.session_reused  # type: ignore[attr-defined]
                sock.known = sock.session  # type: ignore[attr-defined]
            return sock

        for option in ("no ssl_option", "ssl_option no_ticket"):
            balancer.ctl(option)
            session = visit("a.example").known  # type: ignore[attr-defined]
            again = visit("a.example", session)
            assert again.reused or crew  # type: ignore[attr-defined]  # by number, at another worker, it is unknown
            for known in (None, session):
                with pytest.raises(REFUSED):
                    visit("b.example", known)
    session = visit("localhost").known  # type: ignore[attr-defined]
    context.set_alpn_protocols(["x", *(f"{number:03}" + "z" * 247 for number in range(100))])  # more than is looked at
    assert visit("localhost", session)
    for known in (None, session):
        with pytest.raises(REFUSED):
            visit("b.example", known)
    context.set_alpn_protocols(["z"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        visit("a.example", context=context)


# --- keys that are encrypted ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an encrypted key, and files with what is its passphrase, and what is not."""
    directory = tmp_path_factory.mktemp("locked")
    openssl("pkey", "-in", certificates.server.key, "-aes256", "-passout", "pass:se cret", "-out", directory / "key")
    openssl("ec", "-in", certificates.server.key, "-aes128", "-passout", "pass:se cret", "-out", directory / "old-key")
    for name, text, mode in (("right", "se cret\nand more\n", 0o600), ("bare", "se cret", 0o640),
                             ("dos", "se cret\r\n", 0o600), ("wrong", "secret\n", 0o600), ("open", "se cret\n", 0o644),
                             ("empty", "\n", 0o600), ("long", "x" * 2000, 0o600)):
        (directory / name).write_text(text)
        (directory / name).chmod(mode)
    return directory


@pytest.mark.parametrize(("file", "told"), [
    ("wrong", "'wrong' does not hold the passphrase of the key 'key'"),
    ("open", "everybody can read 'open': chmod o-r"), ("empty", "'empty' has no passphrase in its first line"),
    ("long", "'long' has no passphrase in its first line"),
    ("nowhere", "can't read 'nowhere': No such file or directory"), (".", "can't read '.': Is a directory"),
])
def test_a_passphrase_that_is_no_good(locked: Path, certificates: Certificates, file: str, told: str) -> None:
    done = run_gpen("-f", "-E", str(certificates.server.certificate), "-K", "key", "-O", f"ssl_key_passphrase {file}",
                    "127.0.0.1:0", "127.0.0.1:9", directory=locked)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpen: ssl_key_passphrase: {told}") and done.stderr.count("\n") == 1


@each_crew
def test_passphrases(gpen: Start, servers: Serve, certificates: Certificates, locked: Path, tmp_path: Path,
                     crew: tuple[str, ...]) -> None:
    """Of the key, and of those by name; read again at HUP."""
    (names := tmp_path / "names").mkdir()
    pair = certificates.authority.issue("a.example")
    (names / "a.example.crt").write_bytes(pair.certificate.read_bytes())
    openssl("pkey", "-in", pair.key, "-aes256", "-passout", "pass:se cret", "-out", names / "a.example.key")
    (word := tmp_path / "word").write_bytes((locked / "dos").read_bytes())
    word.chmod(0o600)
    balancer = gpen(*crew, "-E", str(certificates.server.certificate), "-K", str(locked / "old-key"), "-O",
                    f"ssl_key_passphrase {word}", "-O", f"ssl_sni_path {names}", servers=[servers(naming("x"))])
    assert said(balancer, certificates) == said(balancer, certificates, "a.example") == b"x"
    word.write_text("other\n")
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: "does not hold the passphrase" in balancer.stderr)
    assert said(balancer, certificates) == b"x"
    word.write_text("se cret")
    assert "error" not in balancer.ctl("reload")
    assert balancer.ctl(f"ssl_key {locked}/key") == f"{locked}/key\n"
    assert balancer.ctl(f"ssl_key_passphrase {locked}/bare") == ""
    assert said(balancer, certificates) == b"x"
    assert balancer.ctl(f"ssl_key_passphrase {locked}/wrong").startswith("error: ssl_key_passphrase: ")


def test_nobody_is_asked_for_a_password(locked: Path, certificates: Certificates) -> None:
    """Not even on a terminal."""
    here, there = pty.openpty()
    done = subprocess.run([*COMMAND, "-f", "-E", certificates.server.certificate, "-K", locked / "key", "127.0.0.1:0",
                           "127.0.0.1:9"], stdin=there, stdout=there, stderr=there, timeout=20, check=False,
                          start_new_session=True)
    os.close(there)
    told = os.read(here, 10_000).decode()
    os.close(here)
    assert done.returncode == 2
    assert told.startswith(f"gpen: ssl_key: '{locked}/key' is encrypted, and nobody is there to give the password")
    assert told.count("\n") == 1 and "or give ssl_key_passphrase" in told and "PEM pass" not in told
