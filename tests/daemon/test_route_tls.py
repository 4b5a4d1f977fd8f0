"""Routes by what a TLS hello names: where TLS is passed on as it came, and where it is ended here."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.proto.client_hello import MOST
from tests.certificates import Certificates
from tests.harness import (
    Gpen,
    Server,
    connect,
    echo,
    hold,
    naming,
    read_all,
    refusing,
    wait_until,
)
from tests.listeners import own, place, row_of, server_of
from tests.proto.test_client_hello import hello, in_records
from tests.replacing import replacing
from tests.tlsclient import TlsClient, trusting

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

each_crew = pytest.mark.parametrize("crew", [(), ("-O", "workers 2")], ids=["alone", "workers"])


def routes(*lines: str) -> list[str]:
    return [word for line in lines for word in ("-O", f"route {line}")]


def greeted(balancer: Gpen, name: str | None, alpn: str = "", source: str = "", listener: str = "-") -> bytes:
    """The first byte of the server that a hello with this name and protocol is passed on to, behind its echo."""
    with connect(place(balancer, listener), source) as sock:
        sock.sendall(hello([alpn] if alpn else [], name))
        return sock.recv(1)


def speaking(word: bytes) -> Callable[[socket.socket], None]:
    """A server that says this when it has heard something, and then echoes."""

    def serve(sock: socket.socket) -> None:
        heard = sock.recv(1 << 16)
        sock.sendall(word + heard)
        while piece := sock.recv(1 << 16):
            sock.sendall(piece)

    return serve


def refusal(balancer: Gpen, name: str | None) -> bytes:
    """What a client gets that asks for this name, and waits for the end."""
    return balancer.ask(hello([], name))


@each_crew
def test_each_name_gets_its_servers(gpen: Start, servers: Serve, crew: tuple[str, ...]) -> None:
    balancer = gpen("-r", "-l", "gpen.log", *crew, *routes(
        "sni a.example servers 0", "sni *.b.example servers 1", "sni x.b.example servers 0",
        "alpn acme-tls/1 servers 2", "sni bad.example reject"),
        servers=[servers(speaking(word)) for word in (b"a", b"b", b"c")])
    for name, word in (("a.example", b"a"), ("A.Example.", b"a"), ("y.b.example", b"b"), ("x.b.example", b"a")):
        assert greeted(balancer, name) == word
    assert greeted(balancer, "zz.example", "acme-tls/1") == b"c" == greeted(balancer, None, "acme-tls/1")
    assert {greeted(balancer, name) for name in (None, "b.example", "z.y.b.example") for _ in range(3)} == {
        b"a", b"b", b"c"}
    assert refusal(balancer, "bad.example") == b"\x15\3\3\0\2\2\x70"  # the alert unrecognized_name
    totals = {row["route"]: row["total"] for row in balancer.json("listeners")[0]["routes"]}
    assert totals == {"sni a.example": 2, "sni *.b.example": 1, "sni x.b.example": 1, "alpn acme-tls/1": 2,
                      "sni bad.example": 1, "default": 9}
    wait_until(lambda: balancer.log.count("\n") == 16)
    assert ' route "sni *.b.example" server 1 ' in balancer.log
    assert any(line.endswith(" no-route") and ' route "sni bad.example" server - - ' in line
               for line in balancer.log.splitlines())
    balancer.wait_idle()


@each_crew
def test_all_passes_on_as_it_came(gpen: Start, servers: Serve, crew: tuple[str, ...]) -> None:
    """In whatever pieces, records and sizes, with all that comes behind it."""
    balancer = gpen(*crew, *routes("sni a.example servers 1", "default reject"),
                    servers=[servers(hold), servers(echo)])
    large = [f"{number:03}" + "x" * 247 for number in range(63)]
    for protocols, records, piece in (([], [], 1), (["h2"], [1] * 30, 7), ([], [3, 50, 1], 10_000),
                                      (large, [], 5000), (large, [100] * 200, 1300)):
        message = hello(protocols, "a.example")[5:] if not protocols or len(protocols) < 9 else by_hand(protocols)
        assert len(message) <= MOST + 4
        sent = in_records(message, records or [16384]) + os.urandom(100_000)
        with balancer.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = sent[:len(sent) - 100_000]
            for at in range(0, len(head), piece):
                sock.sendall(head[at:at + piece])
            got = bytearray()
            sock.sendall(sent[len(head):])
            sock.shutdown(socket.SHUT_WR)
            got += read_all(sock)
        assert bytes(got) == sent
    balancer.wait_idle()


def by_hand(protocols: list[str]) -> bytes:
    """A large hello of these protocols, the name behind them."""
    named = b"".join(bytes([len(name)]) + name.encode() for name in protocols)
    alpn = struct.pack("!HHH", 16, len(named) + 2, len(named)) + named
    name = b"a.example"
    sni = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack("!H", len(alpn + sni)) + alpn + sni
    return b"\1" + len(body).to_bytes(3, "big") + body


@each_crew
def test_who_speaks_no_tls_gets_the_default_at_once_and_who_says_nothing_is_closed(
        gpen: Start, servers: Serve, crew: tuple[str, ...]) -> None:
    balancer = gpen("-l", "gpen.log", *crew, "-O", "ssl_handshake 0.5", *routes(
        "sni a.example servers 0", "default servers 1"), servers=[servers(hold), servers(speaking(b"plain "))])
    assert balancer.ask(b"SSH-2.0-client\r\n") == b"plain SSH-2.0-client\r\n"
    assert balancer.ask(b"\x16\3\1\0\5\1\0\0\1\0") == b"plain \x16\3\1\0\5\1\0\0\1\0"
    begun = time.monotonic()
    with balancer.connect() as silent, balancer.connect() as slow:
        slow.sendall(hello([], "a.example")[:50])
        assert {row["state"] for row in balancer.json("sessions")} <= {"handshake", "choosing"}
        assert read_all(silent) == read_all(slow) == b""
    assert 0.4 < time.monotonic() - begun < 5
    with balancer.connect() as gone:
        gone.sendall(hello([], "a.example")[:50])
    wait_until(lambda: balancer.log.count("\n") == 5)
    assert sorted(line.rpartition(" ")[2] for line in balancer.log.splitlines()[2:]) == [
        "client-closed", "tls-handshake", "tls-handshake"]
    balancer.ctl("route default reject")
    assert balancer.ask(b"SSH-2.0-client\r\n") == b""  # no alert to who would not know what that is


@each_crew
def test_a_client_comes_back_to_its_server_of_each_route(gpen: Start, servers: Serve, crew: tuple[str, ...]) -> None:
    balancer = gpen(*crew, *routes("sni a.example servers 0-1", "sni b.example servers 1-2"),
                    servers=[servers(speaking(word)) for word in (b"a", b"b", b"c")])
    for source in ("127.0.0.2", "127.0.0.3"):
        first = {name: greeted(balancer, name, source=source) for name in ("a.example", "b.example", None)}
        for _ in range(3):
            assert {name: greeted(balancer, name, source=source) for name in first} == first
    seen = {greeted(balancer, "a.example", source=f"127.0.1.{n}") for n in range(1, 5)}
    assert seen == {b"a", b"b"}


@each_crew
def test_it_comes_back_to_them_at_a_gpen_that_replaces_this_one(gpen: Start, servers: Serve, crew: tuple[str, ...],
                                                              ) -> None:
    """Each client, on each route, and by what was said of it at runtime."""
    balancer = gpen(*crew, *routes("sni a.example servers 0-2", "sni b.example servers 0-2", "default servers 0-2"),
                    servers=[servers(speaking(word)) for word in (b"a", b"b", b"c")])
    names = ("a.example", "b.example", None)
    sources = [f"127.0.0.{number}" for number in range(2, 7)]
    for turn, name in enumerate(names):  # so that no two have the same, and none has what its listener remembers
        for number, source in enumerate(sources):
            balancer.ctl(f"client {source} server {(turn + number) % 3} route "
                         f"{f'sni {name}' if name else 'default'}")
    expected = {(source, name): greeted(balancer, name, source=source) for source in sources for name in names}
    assert {expected[source, name] for source in sources[:1] for name in names} == {b"a", b"b", b"c"}
    assert balancer.json("explain 127.0.0.2 sni b.example")["server"] == 1
    with replacing(balancer) as new:
        assert {each: greeted(new, each[1], source=each[0]) for each in expected} == expected
        new.ctl("no client 127.0.0.2")
        assert "used it last" not in new.ctl("explain 127.0.0.2 sni a.example")


def test_a_client_that_is_forgotten_or_moved_by_a_command(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*routes("sni a.example servers 0,1"), servers=[servers(speaking(word)) for word in (b"a", b"b")])
    first = greeted(balancer, "a.example")
    other = 1 if first == b"a" else 0
    balancer.ctl(f"client 127.0.0.1 server {other}")
    assert balancer.json("explain 127.0.0.1 sni a.example")["server"] == other
    assert greeted(balancer, "a.example") != first
    balancer.ctl("no client 127.0.0.1")
    assert "used it last" not in balancer.ctl("explain 127.0.0.1 sni a.example")


def test_limits_health_and_emergency(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    with refusing() as nobody:
        balancer = gpen("-r", *routes("sni a.example servers 0,2", "sni b.example servers 1"),
                        servers=[servers(speaking(b"a")), f"{servers(speaking(b'b')).address}:1", nobody])
        assert {greeted(balancer, "a.example") for _ in range(4)} == {b"a"}  # fails over, but to none of other routes
        with balancer.connect() as sock:
            sock.sendall(hello([], "b.example"))
            assert sock.recv(1) == b"b"
            assert greeted(balancer, "b.example") == b""
            assert greeted(balancer, "a.example") == b"a"
            told = balancer.ctl("explain 127.0.0.9 sni b.example")
            assert "would get no server: none can take it (route sni b.example)" in told
            assert "not server 1" in told and "full: 1 sessions" in told and told.count("it is none of this route") == 2
        balancer.wait_idle()
        spare = servers(speaking(b"e"))
        balancer.ctl(f"emergency {spare.address}", "server 1 health down")
        assert greeted(balancer, "b.example") == b"e"
        assert balancer.json("explain 127.0.0.9 sni b.example")["server"] == "emergency"
        assert balancer.json("explain 127.0.0.9 sni a.example alpn h2 host x")["route"] == "sni a.example"
        assert balancer.json("explain 127.0.0.9")["route"] == "default"


@each_crew
def test_who_waits_for_a_server_of_a_route_holds_up_nobody_else(gpen: Start, servers: Serve, crew: tuple[str, ...],
                                                              ) -> None:
    balancer = gpen("-r", *crew, "-O", "hold 10", *routes("sni a.example servers 0", "sni b.example servers 1"),
                    servers=[servers(speaking(b"a")), servers(speaking(b"b"))])
    balancer.ctl("server 0 state drain", "server 1 state drain")
    with balancer.connect() as first, balancer.connect() as second:
        first.sendall(hello([], "a.example"))
        wait_until(lambda: balancer.json("listeners")[0]["held"] == 1)
        second.sendall(hello([], "b.example"))
        wait_until(lambda: balancer.json("listeners")[0]["held"] == 2)
        balancer.ctl("server 1 state ready")
        assert second.recv(1) == b"b"
        assert balancer.json("listeners")[0]["held"] == 1
        balancer.ctl("server 0 state ready")
        assert first.recv(1) == b"a"


@each_crew
def test_who_waits_for_a_server_of_a_route_that_is_taken_away(gpen: Start, servers: Serve, crew: tuple[str, ...],
                                                           ) -> None:
    """It gets one as if there had been none; also one that comes by a later change."""
    balancer = gpen("-r", *crew, "-O", "hold 10", *routes("sni a.example servers 0", "default servers 1"),
                    servers=[servers(speaking(b"a")), servers(speaking(b"b"))])
    balancer.ctl("server 0 state drain", "server 1 state drain")
    with balancer.connect() as first, balancer.connect() as second:
        first.sendall(hello([], "a.example"))
        wait_until(lambda: balancer.json("listeners")[0]["held"] == 1)
        balancer.ctl("no route sni a.example", "server 1 state ready")
        assert first.recv(1) == b"b"
        balancer.ctl("server 1 state drain", "route sni a.example servers 0")
        second.sendall(hello([], "a.example"))
        wait_until(lambda: balancer.json("listeners")[0]["held"] == 1)
        balancer.ctl("no route", f"server 2 address {servers(speaking(b'c')).address}")
        assert second.recv(1) == b"c"


def test_a_listener_of_its_own_and_servers_that_it_does_not_use(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", *own("w", "servers 0", "route sni b.example servers 1", "server 1 max 1"), "-O", "prio",
                    servers=[servers(speaking(word)) for word in (b"a", b"b", b"c")])
    assert greeted(balancer, "a.example", listener="w") == b"a" == greeted(balancer, None, listener="w")
    assert greeted(balancer, "b.example") == b"a"  # the other listener has no route
    with connect(place(balancer, "w")) as sock:
        sock.sendall(hello([], "b.example"))
        assert sock.recv(1) == b"b"
        assert greeted(balancer, "b.example", listener="w") == b""  # max 1
        assert server_of(balancer, "w", 1)["sessions"] == 1
    assert [row["number"] for row in balancer.json("listener w servers")] == [0, 1]
    assert row_of(balancer, "w")["routes"][0] == {"route": "sni b.example", "reject": False, "servers": [1], "total": 2}
    balancer.wait_idle()
    assert balancer.ctl("listener w no route sni c.example") == (
        "error: listener w: no route: there is no route 'sni c.example' (known: sni b.example)\n")
    assert balancer.ctl("server 3 address 127.0.0.1 port 9", "listener w route sni b.example servers 3") == ""
    told = balancer.json("listener w explain 127.0.0.1 sni b.example")
    assert (told["server"], [(other["server"], other["why_not"]) for other in told["others"]]) == (
        3, [(0, "it is none of this route")])
    assert balancer.ctl("listener w no route sni b.example") == ""
    assert greeted(balancer, "b.example", listener="w") == b"a"


def test_what_is_written_reloaded_and_passed_on(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    file, addresses = tmp_path / "gpen.cfg", [servers(speaking(word)).address.rpartition(":") for word in (b"a", b"b")]
    lines = ["roundrobin", *(f"server {number} address {host} port {port}"
                             for number, (host, _, port) in enumerate(addresses)),
             "route sni a.example servers 0", "route sni b.example servers 1", "route default reject",
             "listener w listen 127.0.0.1:0", "listener w route sni b.example servers 0"]
    file.write_text("\n".join(lines))
    balancer = gpen("-F", str(file))
    assert (greeted(balancer, "a.example"), greeted(balancer, "b.example")) == (b"a", b"b")
    assert (greeted(balancer, "b.example", listener="w"), greeted(balancer, "a.example", listener="w")) == (b"a", b"a")
    balancer.ctl(f"write {tmp_path}/written")
    written = (tmp_path / "written").read_text().splitlines()
    assert [line for line in written if " route" in f" {line}"] == [
        "no route", *lines[3:6], "listener w no route", "listener w route sni a.example servers 0",
        "listener w route sni b.example servers 0", "listener w route default reject"]
    with balancer.connect() as before:
        before.sendall(hello([], "b.example"))
        assert before.recv(1) == b"b"
        file.write_text("\n".join(lines).replace("route sni b.example servers 1", "route sni b.example reject", 1))
        balancer.signal(signal.SIGHUP)
        wait_until(lambda: "b.example reject" in balancer.ctl("route"))
        assert refusal(balancer, "b.example").startswith(b"\x15\3")
        before.sendall(b"on")
        wait_until(lambda: before.recv(1 << 16).endswith(b"on"))
    with replacing(balancer) as new:
        assert refusal(new, "b.example").startswith(b"\x15\3") and greeted(new, "a.example") == b"a"
        assert new.ctl("route") == "sni a.example servers 0, sni b.example reject, default reject\n"


def test_behind_a_header_and_behind_a_wrong_one(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "acl 1 permit 127.0.0.2", "-O", "accept_proxy 1", "-O",
                    "proxy_protocol v1", *routes("sni a.example servers 0"), servers=[servers(echo), servers(hold)])
    with balancer.connect("127.0.0.2") as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + hello([], "a.example"))
        sock.shutdown(socket.SHUT_WR)
        got = read_all(sock)
    assert got.startswith(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n\x16\3\1")
    balancer.ctl("no route", "route default servers 0", "no proxy_protocol")
    assert b"\n" not in balancer.ask(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhi", "127.0.0.3")
    wait_until(lambda: balancer.log.endswith(" proxy-header\n"))


@each_crew
def test_where_tls_is_ended(gpen: Start, servers: Serve, certificates: Certificates, crew: tuple[str, ...]) -> None:
    balancer = gpen("-r", "-l", "gpen.log", *crew, *certificates.server.options, "-O", "ssl_alpn h2,http/1.1",
                    "-O", "log_format json",
                    *routes("alpn h2 servers 2", "sni a.example servers 0", "sni b.example servers 1",
                            "sni bad.example reject"), servers=[servers(naming(word)) for word in "abc"])

    def said(name: str | None, *protocols: str) -> bytes:
        context = trusting(certificates.authority.certificate)
        context.check_hostname = False
        if protocols:
            context.set_alpn_protocols(protocols)
        with TlsClient(balancer.address, context, name) as client:
            return client.recv(1)

    assert [said(name, *protocols) for name, *protocols in (
        ("a.example",), ("b.example", "http/1.1"), ("b.example", "http/1.1", "h2"))] == [b"a", b"b", b"c"]
    assert said("bad.example") == b""
    wait_until(lambda: balancer.log.count("\n") == 4)
    rows = [json.loads(line) for line in balancer.log.splitlines()]
    assert sorted((row["route"], row["ending"] == "no-route", row["sni"]) for row in rows) == [
        ("alpn h2", False, "b.example"), ("sni a.example", False, "a.example"), ("sni b.example", False, "b.example"),
        ("sni bad.example", True, "bad.example")]
    balancer.ctl("no ssl_alpn")
    assert "give ssl_alpn" in balancer.ctl("no ssl_alpn")


def test_metrics_by_route(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen("-O", f"metrics {tmp_path}/door", *routes("sni a.example servers 0", "sni b.example reject"),
                    servers=[servers(speaking(b"a"))])
    assert greeted(balancer, "a.example") == b"a"
    refusal(balancer, "b.example")
    with connect(f"{tmp_path}/door") as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = read_all(sock).decode()
    for route, count in (("sni a.example", 1), ("sni b.example", 1), ("default", 0)):
        assert f'gpen_listener_route_sessions_total{{listener="-",route="{route}"}} {count}\n' in text
    assert 'gpen_sessions_ended_total{ending="no-route"} 1\n' in text
