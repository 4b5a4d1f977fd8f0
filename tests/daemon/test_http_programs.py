"""HTTP mode with real programs on both sides: curl and wrk, nginx and Python's own server; and the pages of its own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import LOCAL, PROGRAM, Gpen, Server, connect, free_port, open_to_all, refusing, wait_until
from tests.wire.http_peers import OK, Recorder, added, get, read_response

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000; client_body_temp_path {directory}; client_max_body_size 100m;
    proxy_temp_path {directory}; fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 200 "$request_uri $http_x_forwarded_for $http_x_forwarded_proto\\n"; }}
        location /files/ {{ alias {directory}/; dav_methods PUT; client_body_in_file_only on; }}
    }}
}}
"""


def needs(program: str) -> str:
    """The path of a program; the test is skipped where it is missing."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def is_listening(port: int) -> bool:
    try:
        connect(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    """The address of an nginx that answers with what it was told of the client, and has the files of /files/."""
    program, port = needs("nginx"), free_port()
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(NGINX.format(directory=tmp_path, port=port))
    open_to_all(tmp_path)
    process = subprocess.Popen([program, "-c", configuration, "-e", "stderr"], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(port), what="nginx")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def url(balancer: Gpen, path: str = "/") -> str:
    host, port = balancer.address
    return f"http://{host}:{port}{path}"


def curl(*arguments: str) -> str:
    """What curl prints: the bodies."""
    done = subprocess.run([needs("curl"), "-q", "-sS", "--max-time", "20", *arguments], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- programs --------------------------------------------------------------------------------------------------------


def test_nginx_hears_of_the_client_in_every_request(gpen: Start, nginx: str) -> None:
    balancer = gpen("-H", servers=[nginx])
    told = curl("-H", "X-Forwarded-For: 10.1.1.1", *(url(balancer, f"/{number}") for number in range(5)))
    assert told == "".join(f"/{number} 10.1.1.1, 127.0.0.1 http\n" for number in range(5))
    balancer.wait_idle()
    assert balancer.server(0)["total"] == 1, "curl did not keep its connection"


def test_nginx_and_large_bodies(gpen: Start, nginx: str, tmp_path: Path) -> None:
    """Up (with Expect: 100-continue; and in chunks) and down, and the connection is kept for the next request."""
    data = os.urandom(10_000_000)
    (tmp_path / "data").write_bytes(data)
    balancer = gpen("-H", servers=[nginx])
    curl("-f", "-T", str(tmp_path / "data"), "-H", "Expect: 100-continue", url(balancer, "/files/one"))
    curl("-f", "-T", str(tmp_path / "data"), "-H", "Transfer-Encoding: chunked", url(balancer, "/files/two"))
    curl("-o", str(tmp_path / "three"), url(balancer, "/files/one"), "--next", "-sS", "-o", str(tmp_path / "four"),
         url(balancer, "/files/two"))
    assert all((tmp_path / name).read_bytes() == data for name in ("one", "two", "three", "four"))
    assert curl("-I", url(balancer, "/files/one"), url(balancer)).count("200 OK") == 2


@pytest.mark.parametrize("most", [1, 16, 300])
def test_nginx_and_small_chunks(gpen: Start, nginx: str, tmp_path: Path, most: int) -> None:
    """Cut anywhere on their way."""
    dice = random.Random(most)
    pieces = [dice.randbytes(dice.randint(1, most)) for _ in range(50_000)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    balancer = gpen("-H", servers=[nginx])
    with balancer.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"PUT /files/small HTTP/1.1\r\nHost: www\r\nTransfer-Encoding: chunked\r\n\r\n")
        at = 0
        while at < len(body):
            size = dice.choice((1, 5, 100, 1448, 100_000))
            client.sendall(body[at:at + size])
            at += size
        client.sendall(get("/told"))
        assert read_response(client).startswith(b"HTTP/1.1 201 Created\r\n")
        assert read_response(client).endswith(b"/told 127.0.0.1 http\n")
    assert (tmp_path / "small").read_bytes() == b"".join(pieces)


def test_a_client_that_would_like_http_2(gpen: Start, nginx: str) -> None:
    balancer = gpen("-H", servers=[nginx])
    if "HTTP2" not in curl("--version"):
        pytest.skip("this curl knows no HTTP/2")
    assert curl("--http2", url(balancer, "/a"), url(balancer, "/b")) == "/a 127.0.0.1 http\n/b 127.0.0.1 http\n"
    assert curl("--http2", "-d", "abc", url(balancer, "/c")) == "/c 127.0.0.1 http\n"


def test_wrk(gpen: Start, nginx: str) -> None:
    """Many kept connections: no request fails."""
    wrk = needs("wrk")
    balancer = gpen("-H", servers=[nginx])
    done = subprocess.run([wrk, "-t1", "-c32", "-d1s", url(balancer)], capture_output=True, text=True, check=True)
    assert "requests in" in done.stdout
    assert "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout, done.stdout
    balancer.wait_idle()


def test_pythons_server(gpen: Start, tmp_path: Path) -> None:
    """HTTP/1.0 responses that end with the connection."""
    (tmp_path / "page").write_text("hello\n")
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", tmp_path, str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(port), what="http.server")
        balancer = gpen("-H", servers=[f"127.0.0.1:{port}"])
        assert curl(url(balancer, "/page"), url(balancer, "/page")) == "hello\n" * 2
    finally:
        server.terminate()
        server.wait()


# --- pages -----------------------------------------------------------------------------------------------------------


def test_no_server(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen("-H", servers=[address])
        head, _, body = curl("-i", url(balancer)).partition("\n\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable")
    assert "Connection: close" in head
    assert "<h1>503 Service Unavailable</h1>" in body


def test_no_server_for_an_upload(gpen: Start) -> None:
    """The page arrives though the body is still being sent."""
    with refusing() as address:
        balancer = gpen("-H", servers=[address])
        for _ in range(5):
            with balancer.connect() as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 1000000\r\n\r\n" + bytes(300_000))
                assert read_response(sock).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        balancer.wait_idle()


def test_a_client_that_is_denied(gpen: Start, servers: Servers) -> None:
    recorder = Recorder()
    balancer = gpen("-H", "-O", "acl 1 deny 127.0.0.1", "-O", "client_acl 1", servers=[servers(recorder)])
    assert curl("-w", " %{http_code}", url(balancer)).endswith(" 403")
    assert recorder.requests == []


def test_a_plain_gpen_says_nothing(gpen: Start) -> None:
    with refusing() as address:
        assert gpen(servers=[address]).ask(get("/")) == b""


# --- settings --------------------------------------------------------------------------------------------------------


def test_switched_on_and_off(gpen: Start, servers: Servers) -> None:
    """For the sessions that begin then."""
    recorder = Recorder()
    balancer = gpen(servers=[servers(recorder)])
    with balancer.connect() as old:
        old.sendall(get("/old"))
        assert read_response(old) == OK
        assert balancer.ctl("http") == ""
        with balancer.connect() as new:
            new.sendall(get("/new"))
            assert read_response(new) == OK
            old.sendall(get("/old"))
            assert read_response(old) == OK
            balancer.ctl("no http")
            new.sendall(get("/new"))
            assert read_response(new) == OK
    assert [(b"/new" in request, b"X-Forwarded-For" in request) for request in recorder.requests] == [
        (False, False), (False, False), (True, True), (True, True)]


def test_without_the_package(tmp_path: Path) -> None:
    """One line says what to install; everything else works without it."""
    hide = "import sys, runpy; sys.modules['httptools'] = None; sys.argv[:1] = []; runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", hide, PROGRAM]
    done = subprocess.run([*command, "-f", "-H", LOCAL, "127.0.0.1:1"], capture_output=True, text=True, check=False,
                          timeout=20, cwd=tmp_path)
    assert done.returncode != 0
    assert "needs the package httptools: pip install 'httptools>=0.6.1', or Debian's python3-httptools" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_old_package(tmp_path: Path) -> None:
    """Debian 12's own is of a lenient parser: it is refused, with the place where it is."""
    old = tmp_path / "httptools.py"
    old.write_text("__version__ = '0.1.1'\n")
    done = subprocess.run([sys.executable, PROGRAM, "-f", "-H", LOCAL, "127.0.0.1:1"], capture_output=True, text=True,
                          check=False, timeout=20, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"http: needs httptools 0.6.1 or newer, but {old} is httptools 0.1.1: pip install" in done.stderr


def test_an_idle_session_is_small(gpen: Start, servers: Servers) -> None:
    """What HTTP adds to one, after a request, is a few KB at most. What many first requests at the same moment leave
    behind for the next, greenlets above all, is no session's."""
    sizes = {}
    for option in ("-H", "-S 10"):
        balancer = gpen(*option.split(), "-x", "2000", servers=[servers(Recorder())])
        with together(balancer, 300):
            before = balancer.rss
            with together(balancer, 300):
                sizes[option] = (balancer.rss - before) / 300
    print("bytes an idle session:", sizes)
    assert sizes["-H"] < sizes["-S 10"] + 4096, sizes


@contextlib.contextmanager
def together(balancer: Gpen, count: int) -> Iterator[None]:
    """So many clients that ask at the same moment, and then say nothing."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(balancer.connect()) for _ in range(count)]
        for sock in clients:
            sock.sendall(get("/"))
        assert [read_response(sock) for sock in clients] == [OK] * count
        yield


def test_a_half_closing_client_gets_its_refusal(gpen: Start, servers: Servers) -> None:
    balancer = gpen("-H", servers=[servers(Recorder())])
    for _ in range(5):
        assert balancer.ask(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")
    balancer.wait_idle()


def test_other_settings_go_with_it(gpen: Start, servers: Servers) -> None:
    """A PROXY header in front of the requests, from the client and to the server."""
    recorder = Recorder()
    balancer = gpen("-H", "-O", "acl 1 permit 127.0.0.1", "-O", "accept_proxy 1", "-O", "proxy_protocol v1",
                    servers=[servers(recorder)])
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"
    with balancer.connect() as sock:
        sock.sendall(header + get("/"))
        assert read_response(sock) == OK
    assert recorder.requests == [header + added(get("/")).replace(b"127.0.0.1", b"192.0.2.1")]
