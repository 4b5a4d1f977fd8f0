"""What the ssl_ settings name: files that are missing, broken or changed, at start, at HUP and by command."""

from __future__ import annotations

import os
import re
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Certificates, Pair, openssl
from tests.harness import LOCAL, Gpen, Server, echo, needs_root, open_to_all, run_gpen, sending, wait_until
from tests.tlsclient import TlsClient, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def shown(balancer: Gpen, certificates: Certificates) -> str:
    """The name in the certificate that gpen shows."""
    context = trusting(certificates.authority.certificate)
    context.check_hostname = False
    with TlsClient(balancer.address, context) as client:
        return dict(field for (field,) in client.tls.getpeercert()["subject"])["commonName"]  # type: ignore[index,misc]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Path:
    """A directory of files, most of which are no good."""
    directory = tmp_path_factory.mktemp("files")
    certificates.server.in_one(directory / "good.pem")
    for name, content in (("text", "hello\n"), ("certificate", certificates.server.certificate.read_text()),
                          ("garbled", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
                           + certificates.server.key.read_text()),
                          ("key", certificates.server.key.read_text()),
                          ("foreign-key", certificates.client.key.read_text())):
        (directory / name).write_text(content)
    openssl("pkey", "-in", certificates.server.key, "-aes256", "-passout", "pass:secret", "-out", directory / "locked")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rsa", "-keyout", directory / "rsa-key",
            "-out", directory / "rsa")
    for broken in ("missing", "foreign", "empty"):
        (directory / f"names-{broken}").mkdir()
        (directory / f"names-{broken}" / "a.org.crt").write_text((directory / "certificate").read_text())
    (directory / "names-foreign" / "a.org.key").write_text((directory / "foreign-key").read_text())
    (directory / "names-empty" / "a.org.key").write_text((directory / "key").read_text())
    (directory / "foreign.pem").write_text((directory / "certificate").read_text()
                                           + (directory / "foreign-key").read_text())
    (directory / "authorities").mkdir()
    (directory / "authorities-empty").mkdir()
    for empty in ("empty", "names-empty/a.org.ca", "authorities-empty/01234567.0"):
        (directory / empty).touch()
    os.mkfifo(directory / "pipe")
    return directory


@pytest.mark.parametrize(("options", "told"), [
    ("-E nowhere", "ssl_certificate: can't read 'nowhere': No such file or directory"),
    ("-E .", "ssl_certificate: '.' is not a regular file"),
    ("-E pipe", "ssl_certificate: 'pipe' is not a regular file"),
    ("-E text", "ssl_certificate: 'text' holds no certificate in PEM"),
    ("-E certificate", "ssl_certificate: 'certificate' holds no private key in PEM: put it there, or in a file of its "
                       "own"),
    ("-E garbled", "ssl_certificate: 'garbled' with the key 'garbled' can't be used: "),
    ("-E certificate -K nowhere", "ssl_key: can't read 'nowhere': No such file or directory"),
    ("-E certificate -K text", "ssl_key: 'text' holds no private key in PEM"),
    ("-E certificate -K foreign-key", "ssl_key: 'foreign-key' does not belong to the certificate 'certificate'"),
    ("-E foreign.pem", "ssl_certificate: the key in it does not belong to the certificate 'foreign.pem'"),
    ("-E rsa -K key", "ssl_key: 'key' does not belong to the certificate 'rsa'"),
    ("-E certificate -K locked", "ssl_key: 'locked' is encrypted, and nobody is there to give the password: decrypt it "
                                 "with openssl pkey"),
    ("-E good.pem -G nowhere", "ssl_ca_file: can't read 'nowhere': No such file or directory"),
    ("-E good.pem -G text", "ssl_ca_file: 'text' holds no certificates in PEM"),
    ("-E good.pem -G empty", "ssl_ca_file: 'empty' holds no certificates in PEM"),
    ("-E good.pem -G pipe", "ssl_ca_file: 'pipe' is not a regular file"),
    ("-E good.pem -A authorities-empty", "ssl_ca_path: 'authorities-empty/01234567.0' holds no certificates in PEM"),
    ("-E good.pem -Ossl_sni_path=names-empty", "ssl_sni_path: 'names-empty/a.org.ca' holds no certificates in PEM"),
    ("-E good.pem -HOssl_alpn=h2,http/1.1", "ssl_alpn: HTTP mode (-H) speaks HTTP/1 only: leave h2 out"),
    ("-E good.pem -A nowhere", "ssl_ca_path: can't read 'nowhere': No such file or directory"),
    ("-E good.pem -A authorities", "ssl_ca_path: 'authorities' has no certificates under hashed names: run openssl "
                                   "rehash"),
    ("-E good.pem -R", "ssl_require_peer: by whose word is a certificate valid?"),
    ("-E good.pem -Ossl_ciphers=XYZ", "ssl_ciphers: 'XYZ' names no cipher of TLS 1.2 that there is: see openssl "
                                      "ciphers -v"),
    ("-E good.pem -Ossl_ciphers=ECDHE-RSA-AES128-GCM-SHA256 -L tls1.2",
     "ssl_certificate: no client can use the certificate 'good.pem' with these ssl_ settings: no shared cipher"),
    ("-E good.pem -L tls1.2 -Ossl_option=no_tlsv1.2",
     "ssl_option: no_tlsv1.2 leaves no version of TLS to speak, with ssl_protocol tls1.2"),
    ("-E good.pem -Ossl_option=no_tlsv1.2 -Ossl_option=no_tlsv1.3",
     "ssl_option: no_tlsv1.2 no_tlsv1.3 leaves no version of TLS to speak"),
    ("-E good.pem -Ossl_sni_path=nowhere", "ssl_sni_path: can't read 'nowhere': No such file or directory"),
    ("-E good.pem -Ossl_sni_path=names-missing",
     "ssl_sni_path: 'names-missing/a.org.crt' holds no private key in PEM: put it there, or in a file of its own"),
    ("-E good.pem -Ossl_sni_path=names-foreign",
     "ssl_sni_path: 'names-foreign/a.org.key' does not belong to the certificate 'names-foreign/a.org.crt'"),
])
def test_what_is_no_good_is_named(files: Path, options: str, told: str) -> None:
    words = [word.replace("=", " ") for word in options.split()]
    done = run_gpen("-f", *words, LOCAL, "127.0.0.1:9", directory=files)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"gpen: {re.escape(told)}[^\n]*\n", done.stderr), done.stderr


def test_a_running_gpen_takes_settings_and_refuses_broken_ones(gpen: Start, servers: Serve, files: Path,
                                                              certificates: Certificates) -> None:
    balancer = gpen(servers=[servers(sending(b"hello"))])
    assert balancer.ask() == b"hello"
    assert balancer.ctl(f"ssl_certificate {files}/text").startswith("error: ssl_certificate: ")
    assert balancer.ask() == b"hello"
    assert balancer.ctl(f"ssl_certificate {files}/good.pem") == f"{files}/good.pem\n"
    assert shown(balancer, certificates) == "localhost"
    assert balancer.ctl(f"ssl_key {files}/foreign-key").startswith("error: ssl_key: ")
    assert balancer.ctl("ssl_protocol tls1.2") == ""
    with pytest.raises(ssl.SSLError):
        TlsClient(balancer.address, trusting(certificates.authority.certificate, ssl.TLSVersion.TLSv1_3))
    assert balancer.ctl("no ssl_certificate") == ""
    assert balancer.ask() == b"hello"


def test_what_is_written_starts_the_same(gpen: Start, servers: Serve, files: Path, tmp_path: Path,
                                         certificates: Certificates) -> None:
    server = servers(sending(b"hello"))
    first = gpen(*certificates.server.options, "-L", "tls1.3", "-O", "ssl_alpn h2,http/1.1", "-O",
                 "ssl_option no_ticket", "-O", "ssl_handshake 2.5", "-R", "-G", str(certificates.authority.certificate),
                 servers=[server])
    first.ctl(f"write {tmp_path}/written")
    second = gpen("-F", str(tmp_path / "written"))
    for line in ("ssl_certificate", "ssl_key", "ssl_protocol", "ssl_alpn", "ssl_option", "ssl_handshake",
                 "ssl_ca_file"):
        assert first.ctl(line) == second.ctl(line) != ""
    with pytest.raises((ssl.SSLError, ConnectionError)), \
            TlsClient(second.address, trusting(certificates.authority.certificate)) as stranger:
        stranger.read_all()
    context = trusting(certificates.authority.certificate)
    context.load_cert_chain(certificates.client.certificate, certificates.client.key)
    with TlsClient(second.address, context) as client:
        assert client.read_all() == b"hello"


# --- HUP --------------------------------------------------------------------------------------------------------------


def copy(pair: Pair, place: Path) -> None:
    (place / "certificate").write_bytes(pair.certificate.read_bytes())
    (place / "key").write_bytes(pair.key.read_bytes())


def test_hup_takes_new_certificates_up(gpen: Start, servers: Serve, tmp_path: Path, certificates: Certificates) -> None:
    """Old sessions go on; what is broken changes nothing."""
    copy(certificates.server, tmp_path)
    (tmp_path / "names").mkdir()
    balancer = gpen("-E", str(tmp_path / "certificate"), "-K", str(tmp_path / "key"), "-O",
                    f"ssl_sni_path {tmp_path}/names", servers=[servers(echo)])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as old:
        copy(certificates.client, tmp_path)
        assert shown(balancer, certificates) == "localhost"
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: shown(balancer, certificates) == "client")

        (tmp_path / "key").write_bytes(certificates.server.key.read_bytes())
        balancer.signal(signal.SIGHUP)
        told = f"ssl_key: '{tmp_path}/key' does not belong to the certificate '{tmp_path}/certificate'; the old " \
               "certificates stay in force"
        wait_until(lambda: told in balancer.stderr)
        assert shown(balancer, certificates) == "client"

        (tmp_path / "certificate").unlink()
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: "No such file or directory; the old certificates stay in force" in balancer.stderr)
        assert shown(balancer, certificates) == "client"

        copy(certificates.server, tmp_path)
        pair = certificates.authority.issue("new.example", file="new")
        pair.in_one(tmp_path / "names" / "localhost.crt")
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: shown(balancer, certificates) == "new.example")
        old.sendall(b"still here")
        assert old.recv(100) == b"still here"


@needs_root
@pytest.mark.parametrize("jail", [False, True], ids=["user", "chroot"])
def test_keys_are_read_before_privileges_are_dropped(gpen: Start, servers: Serve, tmp_path: Path, jail: bool,
                                                     certificates: Certificates) -> None:
    copy(certificates.server, tmp_path)
    os.chmod(tmp_path / "key", 0o600)
    open_to_all(tmp_path)
    balancer = gpen("-u", "nobody", *(("-j", str(tmp_path)) if jail else ()), "-E", str(tmp_path / "certificate"),
                    "-K", str(tmp_path / "key"), servers=[servers(echo)])
    assert shown(balancer, certificates) == "localhost"
    balancer.signal(signal.SIGHUP)
    told = f"ssl_key: can't read '{tmp_path}/key': Permission denied; the old certificates stay in force"
    wait_until(lambda: told in balancer.stderr)
    assert shown(balancer, certificates) == "localhost"


@needs_root
def test_hup_in_a_chroot(gpen: Start, servers: Serve, tmp_path: Path, certificates: Certificates) -> None:
    """Files in it are found by the names that they had before."""
    copy(certificates.server, tmp_path)
    open_to_all(tmp_path)
    balancer = gpen("-j", str(tmp_path), "-E", str(tmp_path / "certificate"), "-K", str(tmp_path / "key"),
                    servers=[servers(echo)])
    copy(certificates.client, tmp_path)
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: shown(balancer, certificates) == "client")
