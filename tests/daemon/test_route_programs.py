"""Routes with programs as people have them: nginx with a certificate for each name behind gpen; curl and openssl before
it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.harness import Gpen, Server, connect, echo, free_port, needs_root, started, wait_until
from tests.proto.test_client_hello import hello

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

NAMES = ("a.example", "b.example", "c.example")
pytestmark = [needs_root, pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("curl")),
                                             reason="needs nginx and curl")]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[list[int]]:
    """The ports of an nginx: at each, TLS with a certificate of one name, and a file that tells it by its hash."""
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    ports = [free_port() for _ in NAMES]
    parts = []
    for name, port in zip(NAMES, ports, strict=True):
        pair = certificates.authority.issue(name)
        (directory / name).mkdir()
        (directory / name / "file").write_bytes(os.urandom(3_000_000))
        parts.append(f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {pair.certificate}; "
                     f"ssl_certificate_key {pair.key}; root {directory}/{name}; http2 on; }}")
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/pid; error_log {directory}/error.log; user root;\nevents {{}}\nhttp {{ "
        f"access_log off; {' '.join(parts)} }}\n")
    old = subprocess.run(["nginx", "-t", "-c", directory / "nginx.conf"], capture_output=True, text=True, timeout=20,
                         check=False)
    if "http2" in old.stderr:  # before 1.25.1 it stands behind listen
        text = (directory / "nginx.conf").read_text().replace(" http2 on;", "").replace(" ssl;", " ssl http2;", 3)
        (directory / "nginx.conf").write_text(text)
    with started(["nginx", "-c", directory / "nginx.conf", "-p", directory]) as nginx:
        wait_until(lambda: all(map(_answers, ports)))
        yield ports
        nginx.terminate()


def _answers(port: int) -> bool:
    try:
        connect(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=[(), ("-O", "workers 2")], ids=["alone", "workers"])
def balancer(request: pytest.FixtureRequest, gpen: Start, web: list[int]) -> Gpen:
    routes = ("sni a.example servers 0", "sni b.example servers 1", "sni *.example servers 2", "default reject")
    return gpen("-r", *request.param, *(word for line in routes for word in ("-O", f"route {line}")),
                servers=[f"127.0.0.1:{port}" for port in web])


def fetched(balancer: Gpen, name: str, authority: Path, *options: str) -> tuple[int, bytes]:
    """curl's exit status, and what it got."""
    port = balancer.address[1]
    done = subprocess.run(["curl", "-s", "--cacert", authority, "--connect-to", f"::127.0.0.1:{port}", *options,
                           f"https://{name}/file"], capture_output=True, timeout=30, check=False)
    return done.returncode, hashlib.sha256(done.stdout).digest()


def test_curl_gets_each_name_s_certificate_and_file(balancer: Gpen, certificates: Certificates, web: list[int],
                                                    tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = certificates.authority.certificate
    files = [tmp_path_factory.getbasetemp() / "nginx0" / name / "file" for name in NAMES]
    expected = [(0, hashlib.sha256(file.read_bytes()).digest()) for file in files]
    for options in ("--http1.1", "--http2", "--tls-max 1.2"):
        assert [fetched(balancer, name, authority, *options.split()) for name in NAMES] == expected, options
    assert fetched(balancer, "a.elsewhere", authority)[0] == 35  # an alert


def test_openssl(balancer: Gpen) -> None:
    for options in ("", "-tls1_2", "-alpn h2", "-split_send_frag 512 -max_send_frag 512", "-no_ticket",
                    "-groups X25519MLKEM768:X25519"):
        for name, shown in (("b.example", "b.example"), ("C.EXAMPLE.", "c.example")):
            said, complaint = handshake(balancer, f"-servername {name} {options}")
            if "Call to SSL_CONF_cmd" not in complaint:  # this openssl is too old for that
                assert f"subject=CN={shown}" in said.replace(" = ", "="), complaint
    assert "unrecognized name" in handshake(balancer, "-noservername")[1]


def handshake(balancer: Gpen, options: str) -> tuple[str, str]:
    """What openssl's client tells of its handshake, and complains of."""
    port = balancer.address[1]
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options.split()], input="",
                          capture_output=True, text=True, errors="replace", timeout=20, check=False)
    return done.stdout, done.stderr


def test_a_session_goes_on_when_its_route_goes(balancer: Gpen, servers: Serve) -> None:
    balancer.ctl(f"server 5 address 127.0.0.1 port {servers(echo).port}", "route sni e.example servers 5")
    with balancer.connect() as sock:
        sock.sendall(hello([], "e.example"))
        wait_until(lambda: sock.recv(1 << 16))
        assert balancer.ctl("no route sni e.example", "no server 5") == ""
        sock.sendall(b"more")
        assert sock.recv(10) == b"more"
    balancer.wait_idle()
