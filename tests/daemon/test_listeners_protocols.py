"""What is spoken at one listener and not at another: TLS, HTTP, MySQL's greeting, the PROXY protocol; and each one's
timeouts, log, and way to servers."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from tests.certificates import Certificates
from tests.harness import Gpen, Server, echo, hold, naming, read_all, refusing, wait_until
from tests.listeners import ask, own, place, told, visit
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import ADDED, OK, Recorder, added, get, read_response

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


def test_tls_at_one(gpen: Start, servers: Serve, certificates: Certificates) -> None:
    certificate, key = certificates.server.certificate, certificates.server.key
    balancer = gpen(*own("s", f"ssl_certificate {certificate}", f"ssl_key {key}"), servers=[servers(echo)])
    context = trusting(certificates.authority.certificate)
    with TlsClient(place(balancer, "s"), context) as secured, visit(balancer, "-") as plain:
        for sock in (secured, plain):
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
        assert {row["listener"]: row["tls"] for row in balancer.json("sessions")} == {
            None: None, "s": secured.tls.version()}
    assert [row["protocol"] for row in balancer.json("listeners")] == ["TCP", "TLS"]
    assert balancer.ctl("ssl_certificate", "listener s ssl_certificate") == f"{certificate}\n"
    balancer.ctl("listener s no ssl_certificate")
    assert ask(balancer, "s", b"plain") == b"plain"


def certificate_at(balancer: Gpen, name: str) -> bytes:
    """The certificate that a client gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with visit(balancer, name) as sock, context.wrap_socket(sock) as secured:
        return secured.getpeercert(binary_form=True) or b""


def test_certificates_are_read_again(gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path) -> None:
    """By HUP, those of each; one that is wrong keeps the old ones of that listener."""
    files = {name: certificates.server.in_one(tmp_path / f"{name}.pem") for name in ("one", "two")}
    balancer = gpen("-E", str(files["one"]), *own("s", f"ssl_certificate {files['two']}"),
                    *own("plain", "no ssl_certificate"), servers=[servers(echo)])
    first = certificate_at(balancer, "s")
    assert certificate_at(balancer, "-") == first and ask(balancer, "plain", b"x") == b"x"
    certificates.client.in_one(files["two"])
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: certificate_at(balancer, "s") != first)
    assert certificate_at(balancer, "-") == first
    reply = balancer.ctl("listener s ssl_certificate /no/such/file")
    assert reply.startswith("error: ") and "/no/such/file" in reply and reply.count("\n") == 1
    assert certificate_at(balancer, "s") not in (first, b"")
    files["two"].write_text("broken")
    assert balancer.ctl("reload").startswith("error: listener s: ssl_certificate: ")


def test_http_at_one(gpen: Start, servers: Serve) -> None:
    recorder = Recorder()
    balancer = gpen(*own("web", "http", "http_header_max 300"), *own("raw"),
                    servers=[servers(recorder)])
    for name in ("web", "raw"):
        with visit(balancer, name) as sock:
            sock.sendall(get(f"/{name}"))
            assert read_response(sock) == OK
    assert recorder.requests == [added(get("/web")), get("/raw")] and ADDED in recorder.requests[0]
    assert [row["protocol"] for row in balancer.json("listeners")] == ["TCP", "HTTP", "TCP"]
    assert ask(balancer, "web", get("/" + "x" * 300)).startswith(b"HTTP/1.1 431 ")
    assert ask(balancer, "web", b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    balancer.ctl("server 0 state maint")
    assert ask(balancer, "web", get("/")).startswith(b"HTTP/1.1 503 ") and ask(balancer, "raw") == b""


def test_mysql_at_one(gpen: Start, servers: Serve) -> None:
    """A client that is turned away is told so in MySQL's words, and nobody elsewhere is."""
    with refusing() as nobody:
        balancer = gpen("-b", "0", *own("db", "mysql"), *own("web", "http"), servers=[nobody])
        answer = ask(balancer, "db")
        assert answer[3:5] == b"\0\xff" and int.from_bytes(answer[:3], "little") == len(answer) - 4
        assert ask(balancer, "-") == b""
        assert ask(balancer, "web", get("/")).startswith(b"HTTP/1.1 503 ")
        reply = balancer.ctl("listener db http")
        assert reply.startswith("error: ") and "mysql" in reply


def test_a_greeting_at_one(gpen: Start, servers: Serve) -> None:
    """What was found by waiting for it is known to the other as well, who would not have waited."""
    balancer = gpen("-r", *own("db", "greeting 0.3"), servers=[servers(hold), servers(naming("b"))])
    with visit(balancer, "-") as silent:
        wait_until(lambda: balancer.server(0)["sessions"] == 1)
        assert (told(balancer, "db", 1), balancer.server(0)["reason"]) == ("b", "no first byte within 0.3 s")
        assert told(balancer, "-", 2) == "bb"
        silent.close()


def test_the_proxy_protocol_at_one(gpen: Start, servers: Serve) -> None:
    """Told to servers, or believed of clients."""
    balancer = gpen("-O", "acl 3 permit 127.0.0.60", *own("tell", "proxy_protocol v1"),
                    *own("take", "accept_proxy 3"), servers=[servers(echo)])
    assert ask(balancer, "-", b"x", "127.0.0.60") == b"x"
    assert ask(balancer, "tell", b"x", "127.0.0.60").startswith(b"PROXY TCP4 127.0.0.60 127.0.0.1 ")
    with visit(balancer, "take", "127.0.0.60") as sock:
        sock.sendall(b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\r\nx")
        assert sock.recv(10) == b"x"
        assert [row["client"] for row in balancer.json("sessions")] == ["10.1.2.3:1000"]
    assert [row["address"] for row in balancer.json("listener take recent")] == ["10.1.2.3"]


def test_dummy_at_one(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*own("d", "dummy"), servers=[servers(naming("a"))])
    assert b"HTTP/1" in ask(balancer, "d", b"GET / HTTP/1.0\r\n\r\n") and told(balancer, "-", 1) == "a"


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_what_ends_sessions_at_one(gpen: Start, servers: Serve) -> None:
    """A server that a verdict takes down (on_down), and idle_timeout."""
    balancer = gpen("-l", "gpen.log", *own("hasty", "on_down close"), *own("brief", "idle_timeout 0.2"),
                    servers=[servers(echo)])
    with visit(balancer, "-") as kept, visit(balancer, "hasty") as closed, visit(balancer, "brief") as idle:
        for sock in (kept, closed, idle):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        assert read_all(idle) == b""
        balancer.ctl("server 0 health down")
        assert read_all(closed) == b""
        kept.sendall(b"x")
        assert kept.recv(1) == b"x"
        assert [row["listener"] for row in balancer.json("sessions")] == [None]
    wait_until(lambda: balancer.log.count("\n") == 3)
    assert [line.split()[-1] for line in balancer.log.splitlines()] == ["idle", "server-down", "client-closed"]


def test_the_way_to_servers(gpen: Start, servers: Serve) -> None:
    peers: list[str] = []

    def note(sock: socket.socket) -> None:
        peers.append(sock.getpeername()[0])

    balancer = gpen(*own("w", "source 127.0.0.77"), servers=[servers(note)])
    assert (ask(balancer, "w"), ask(balancer, "-")) == (b"", b"")
    assert peers == ["127.0.0.77", "127.0.0.1"]


def test_half_closed_timeout(gpen: Start, servers: Serve) -> None:
    over = threading.Event()

    def stay(sock: socket.socket) -> None:
        over.wait(20)

    balancer = gpen(*own("w", "half_closed_timeout 0.2"), servers=[servers(stay)])
    with visit(balancer, "-") as kept:
        kept.shutdown(socket.SHUT_WR)
        assert ask(balancer, "w") == b""
        assert [row["listener"] for row in balancer.json("sessions")] == [None]
        over.set()
        assert read_all(kept) == b""
