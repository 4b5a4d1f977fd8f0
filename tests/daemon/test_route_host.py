"""Routes by the Host of a connection's first request, and what becomes of others behind it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.harness import Gpen, Server, read_all, wait_until
from tests.tlsclient import TlsClient, trusting
from tests.wire.http_peers import Recorder, read_response

pytest.importorskip("httptools")

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

each_crew = pytest.mark.parametrize("crew", [(), ("-O", "workers 2")], ids=["alone", "workers"])
ROUTES = ("-O", "route host a.example servers 0", "-O", "route host *.a.example servers 0", "-O",
          "route host b.example servers 1", "-O", "route host bad.example reject", "-O", "route host [::1] servers 1")


def answering(word: str) -> Recorder:
    return Recorder(lambda request: f"HTTP/1.1 200 OK\r\nContent-Length: {len(word)}\r\n\r\n{word}".encode())


def request(host: str, target: str = "/", version: str = "1.1", *more: str) -> bytes:
    lines = [f"GET {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *more]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


@pytest.fixture(params=[(), ("-O", "workers 2")], ids=["alone", "workers"])
def balancer(request: pytest.FixtureRequest, gpen: Start, servers: Serve) -> Gpen:
    """One whose servers answer with a, b and c, and whose default is c."""
    return gpen("-H", "-l", "gpen.log", *request.param, *ROUTES, "-O", "route default servers 2",
                servers=[servers(answering(word)) for word in "abc"])


def said(balancer: Gpen, *requests: bytes) -> list[bytes]:
    """The bodies of the answers to requests on one connection, one after the other; or the status of a refusal."""
    found = []
    with balancer.connect() as sock:
        for each in requests:
            sock.sendall(each)
            answer = read_response(sock)
            status = answer[9:12]
            found.append(answer.rpartition(b"\r\n\r\n")[2] if status == b"200" else status)
    return found


def test_the_first_request_chooses(balancer: Gpen) -> None:
    for host, word in (("a.example", b"a"), ("A.Example:8080", b"a"), ("www.a.example.", b"a"), ("b.example", b"b"),
                       ("x.y.a.example", b"c"), ("[::1]:80", b"b"), ("zz", b"c"), ("", b"c")):
        assert said(balancer, request(host, version="1.1" if host else "1.0"))[0] == word, host
    assert said(balancer, request("b.example", "http://b.example/x")) == [b"b"]
    assert said(balancer, request("", "http://b.example:80/x", "1.0")) == [b"b"]
    assert said(balancer, request("a.example", "http://b.example/x")) == [b"400"]
    assert said(balancer, request("bad.example")) == [b"421"]
    wait_until(lambda: balancer.log.count("\n") == 12)
    assert balancer.log.splitlines()[-1].endswith(" no-route") and ' route "host bad.example" ' in balancer.log
    told = balancer.ctl("explain 127.0.0.1 host b.example:80")
    assert told.startswith("127.0.0.1 would get server 1 ") and "(route host b.example)" in told
    assert balancer.ctl("explain 127.0.0.1 host bad.example").startswith(
        "127.0.0.1 would get no server: the route rejects it (route host bad.example)")


def test_a_host_that_is_none(balancer: Gpen) -> None:
    """Of which a server might make the name of a route that it is none of."""
    for host in ("bad.example:x", "bad.example:80:80", "user@bad.example", "bad.example/", "bad.example,a.example",
                 "bad.example a", "[::1", "bad.example\\", "bad.example?x", "bad.example#"):
        assert said(balancer, request(host)) == [b"400"], host
    assert said(balancer, request("", "http://user@bad.example/", "1.0")) == [b"400"]
    assert said(balancer, request("a.example"), request("a.example@bad.example")) == [b"a", b"400"]


def test_later_requests(balancer: Gpen) -> None:
    """Those for a host of another route are misdirected, and the client is to come again."""
    assert said(balancer, *[request("a.example"), request("A.example:80")] * 2) == [b"a"] * 4
    assert said(balancer, request("a.example"), request("www.a.example")) == [b"a", b"421"]
    assert said(balancer, request("zz"), request("yy"), request("b.example")) == [b"c", b"c", b"421"]
    with balancer.connect() as sock:  # all at once: what came before is answered, and nothing behind it
        sock.sendall(request("a.example") + request("b.example") + request("a.example"))
        sock.shutdown(socket.SHUT_WR)
        got = read_all(sock)
    assert got.count(b"HTTP/1.1 200 ") == got.count(b"HTTP/1.1 421 ") == 1
    assert got.index(b"200 OK") < got.index(b"421 Misdirected Request")
    wait_until(lambda: balancer.log.count(" no-route\n") == 3)


@each_crew
def test_behind_tls(gpen: Start, servers: Serve, certificates: Certificates, crew: tuple[str, ...]) -> None:
    """By the name of the handshake too; the route that was said first counts."""
    balancer = gpen("-H", *crew, *certificates.server.options, "-O", "route sni x.example servers 1", *ROUTES,
                    servers=[servers(answering(word)) for word in "abc"])
    context = trusting(certificates.authority.certificate)
    context.check_hostname = False
    for name, host, body in (("y.example", "a.example", b"a"), ("x.example", "a.example", b"b"),
                             (None, "b.example", b"b"), ("y.example", "bad.example", b"</h1>\n")):
        with TlsClient(balancer.address, context, name) as client:
            client.sendall(request(host))
            assert read_response(client).endswith(body)


@each_crew
def test_who_was_let_in_under_one_name_gets_no_other_by_host(
        gpen: Start, servers: Serve, certificates: Certificates, tmp_path: Path, crew: tuple[str, ...]) -> None:
    """Where names have authorities of their own, with and without routes; those that share one are alike."""
    (names := tmp_path / "names").mkdir()
    for name in ("a.example", "b.example", "*.a.example"):
        pair = certificates.authority.issue(name, file=name.replace("*", "any"))
        (names / f"{name}.crt").write_bytes(pair.certificate.read_bytes())
        (names / f"{name}.key").write_bytes(pair.key.read_bytes())
        if name != "b.example":
            (names / f"{name}.ca").write_bytes(certificates.other.certificate.read_bytes())
    balancer = gpen("-H", "-r", *crew, *certificates.server.options, "-G", str(certificates.authority.certificate),
                    "-O", "ssl_verify_client optional", "-O", f"ssl_sni_path {names}",
                    servers=[servers(answering("a"))])
    context = trusting(certificates.authority.certificate)
    context.check_hostname = False
    context.load_cert_chain(certificates.client.certificate, certificates.client.key)
    for route in ((), ("route host a.example servers 0", "route default servers 0")):
        if route:
            balancer.ctl(*route)
        for name, hosts, statuses in (("b.example", ("a.example",), [b"421"]), (None, ("A.example.:80",), [b"421"]),
                                      ("b.example", ("b.example", "zz", "x.a.example"), [b"200", b"200", b"421"])):
            with TlsClient(balancer.address, context, name) as client:
                assert [client.sendall(request(host)) or read_response(client)[9:12] for host in hosts] == statuses
    balancer.ctl("ssl_verify_client off")
    with TlsClient(balancer.address, context, "b.example") as client:
        client.sendall(request("a.example"))
        assert read_response(client)[9:12] == b"200"


def test_the_abuse_server_is_none_of_a_route(balancer: Gpen, servers: Serve) -> None:
    """Its bytes are the listener's, whatever route its client was on."""
    balancer.ctl("acl 1 deny 127.0.0.1", "client_acl 1", f"abuse 127.0.0.1:{servers(answering('no')).port}")
    assert said(balancer, request("a.example")) == [b"no"]
    wait_until(lambda: balancer.log.count("\n") == 1)
    row = balancer.json("listeners")[0]
    assert row["sx"] > 0 and row["rx"] > 0
