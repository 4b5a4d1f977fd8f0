"""The PROXY protocol: told to servers, believed of those who may, refused from all others."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.proto.proxy_header import crc32c
from tests.harness import Gpen, Server, connect, echo, naming, read_all, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ACCEPT = ("-O", "acl 3 permit 127.0.0.60", "-O", "accept_proxy 3")
V1 = b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\r\n"


def v2(family: int, addresses: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


V2 = v2(0x11, bytes((10, 1, 2, 3, 10, 4, 5, 6)) + struct.pack("!HH", 1000, 2000))
V2_IPV6 = v2(0x21, socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
             + struct.pack("!HH", 1000, 2000))
V2_TLV = v2(0x11, V2[16:] + b"\x02\x00\x04name")
V2_UNIX = v2(0x31, b"/from".ljust(108, b"\0") + b"/to".ljust(108, b"\0"))


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def summed(command: int = 0x21, family: int = 0x11, addresses: bytes = V2[16:], behind: bytes = b"") -> bytes:
    """A header with the right checksum."""
    start, end = SIGNATURE + struct.pack("!BBH", command, family, len(addresses) + 7 + len(behind)), b"\x03\0\x04"
    crc = crc32c(start + addresses + end + bytes(4) + behind)
    return start + addresses + end + crc.to_bytes(4, "big") + behind


NOOP, UNIX = tlv(0x04, b"ignored"), V2_UNIX[16:]
SSL = tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"me"))
WHOLE = {
    "a name": V2_TLV, "padding": v2(0x11, V2[16:] + NOOP + NOOP + tlv(0x04, b"")), "TLS": v2(0x11, V2[16:] + SSL),
    "TLS without more": v2(0x11, V2[16:] + tlv(0x20, bytes(5))), "an unknown type": v2(0x11, V2[16:] + tlv(0xEE, b"x")),
    "the longest": v2(0x11, V2[16:] + tlv(0x04, b"x" * 16369)), "a checksum": summed(),
    "a checksum amid others": summed(addresses=V2[16:] + NOOP, behind=SSL),
}
CUT_OFF = {
    "a byte": V2[16:] + b"\x04", "two bytes": V2[16:] + b"\x04\0", "a value": V2[16:] + b"\x04\0\x08ignored",
    "the second": V2[16:] + NOOP + b"\x02\xff\xff", "a short TLS": V2[16:] + tlv(0x20, bytes(4)),
    "within TLS": V2[16:] + tlv(0x20, bytes(5) + b"\x21\0\x09TLSv1.3") + NOOP,
    "a byte in TLS": V2[16:] + tlv(0x20, bytes(6)),
    "a checksum of three bytes": V2[16:] + tlv(0x03, bytes(3)), "a wrong checksum": V2[16:] + tlv(0x03, b"abcd"),
    "an address": V2[16:-1],
}


# --- to servers -------------------------------------------------------------------------------------------------------


def ask(balancer: Gpen, request: bytes, source: str = "127.0.0.60") -> bytes:
    return balancer.ask(request, source)


def test_v1(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "proxy_protocol v1", servers=[servers(echo)])
    with balancer.connect("127.0.0.50") as client:
        port, (host, own_port) = client.getsockname()[1], client.getpeername()
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == f"PROXY TCP4 127.0.0.50 {host} {port} {own_port}\r\nhello".encode()


def test_v2(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "proxy_protocol v2", servers=[servers(echo)])
    with balancer.connect("127.0.0.50") as client:
        ports = struct.pack("!HH", client.getsockname()[1], client.getpeername()[1])
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == v2(0x11, bytes((127, 0, 0, 50, 127, 0, 0, 1)) + ports) + b"hello"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_ipv6(gpen: Start, servers: Serve, version: str) -> None:
    balancer = gpen("-O", f"proxy_protocol {version}", listen="[::1]:0", servers=[servers(echo)])
    with balancer.connect() as client:
        ports = client.getsockname()[1], client.getpeername()[1]
        client.shutdown(socket.SHUT_WR)
        one = socket.inet_pton(socket.AF_INET6, "::1")
        expected = {"v1": f"PROXY TCP6 ::1 ::1 {ports[0]} {ports[1]}\r\n".encode(),
                    "v2": v2(0x21, one + one + struct.pack("!HH", *ports))}
        assert read_all(client) == expected[version]


@pytest.mark.parametrize(("version", "expected"), [
    ("v1", lambda path: b"PROXY UNKNOWN\r\n"),
    ("v2", lambda path: v2(0x31, bytes(108) + path.encode().ljust(108, b"\0"))),
])
def test_unix(gpen: Start, servers: Serve, tmp_path: Path, version: str, expected: Callable[[str], bytes]) -> None:
    front = str(tmp_path / "front")
    balancer = gpen("-O", f"proxy_protocol {version}", listen=front, servers=[servers(echo)])
    assert balancer.ask() == expected(front)


# --- from clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "client"), [
    (V1, "10.1.2.3:1000"),
    (b"PROXY TCP6 2001:db8::7 ::1 1000 2000\r\n", "[2001:db8::7]:1000"),
    (V2, "10.1.2.3:1000"), (V2_TLV, "10.1.2.3:1000"), (V2_IPV6, "[2001:db8::7]:1000"), (V2_UNIX, "unix"),
])
def test_its_address_counts(gpen: Start, servers: Serve, header: bytes, client: str) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(echo)])
    assert ask(balancer, header + b"hello") == b"hello"
    wait_until(lambda: balancer.log)
    assert balancer.log.startswith(f"{client} ")
    assert balancer.json("recent")[0]["address"] == client.rpartition(":")[0].strip("[]") or "unix"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n", v2(0, b"", 0x20),
                                    v2(0x11, V2[16:], 0x20), v2(0x00, b""), v2(0x00, NOOP), v2(0x12, V2[16:]),
                                    v2(0x10, V2[16:]), v2(0x11, b"cut", 0x20), v2(0x11, V2[16:] + b"\x04\0\x01", 0x20),
                                    v2(0x77, b"\x04\0\x01", 0x20), summed(family=0, addresses=b"")])
def test_a_proxy_that_speaks_for_itself(gpen: Start, servers: Serve, header: bytes) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(echo)])
    assert ask(balancer, header + b"hello") == b"hello"
    wait_until(lambda: balancer.log)
    assert balancer.log.startswith("127.0.0.60:")


def test_in_single_bytes(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*ACCEPT, servers=[servers(echo)])
    for header in (V1, V2):
        with balancer.connect("127.0.0.60") as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header + b"hello":
                client.sendall(bytes([byte]))
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"


@pytest.mark.parametrize("start", [
    b"GET / HTTP/1.0\r\n\r\n", b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 65536\r\n", b"PROXY TCP4 10.1.2.3 ::1 1000 2000\r\n",
    b"PROXY TCP4 10.1.2.3 10.4.5.6 1000\r\n", b"PROXY TCP4 10.1.2.3 10.4.5.6 01000 2000\r\n",
    b"PROXY TCP4  10.1.2.3 10.4.5.6 1000 2000\r\n", b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\n" + b"x" * 20,
    b"PROXY TCP4 " + b"1" * 200, v2(0x11, b"short"), v2(0x11, V2[16:], 0x22), v2(0x11, V2[16:], 0x31),
    b"PROXY TCP6 fe80::1%eth0 ::1 1000 2000\r\n", SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 100, V1[:20], b"",
    b"\r\n\r\nnot it",
])
def test_a_wrong_header_ends_the_session(gpen: Start, servers: Serve, start: bytes) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(naming("secret"))])
    assert ask(balancer, start) == b""
    wait_until(lambda: balancer.log.endswith(" proxy-header\n"))
    assert "PROXY protocol header of 127.0.0.60" in balancer.stderr
    assert balancer.server(0)["total"] == 0


@pytest.mark.parametrize("header", WHOLE.values(), ids=WHOLE)
def test_what_may_stand_behind_the_addresses(gpen: Start, servers: Serve, header: bytes) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(echo)])
    assert ask(balancer, header + b"hello") == b"hello"
    wait_until(lambda: balancer.log)
    assert balancer.log.startswith("10.1.2.3:1000 ")


REFUSED = {name: v2(0x11, body) for name, body in CUT_OFF.items()} | {
    "unix, and a value": v2(0x31, UNIX + b"\x04\0\x01"), "unix, an address": v2(0x31, UNIX[:-1]),
    "IPv6, an address": v2(0x21, V2_IPV6[16:-1]), "IPv6, a byte": v2(0x21, V2_IPV6[16:] + b"\0"),
    "unspecified, and a value": v2(0x00, b"\x04\0\x01"), "a family that is none": v2(0x41, V2[16:]),
    "a protocol that is none": v2(0x13, V2[16:]), "datagrams, and a value": v2(0x12, V2[16:] + b"\x04\0\x01"),
    "datagrams, an address": v2(0x12, V2[16:-1]), "changed on the way": summed()[:20] + b"\x0b" + summed()[21:],
    "one of two checksums": v2(0x11, V2[16:] + tlv(3, bytes(4)) + tlv(3, b"\1\2\3\4")),
}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
def test_what_is_cut_off_or_changed_ends_the_session(gpen: Start, servers: Serve, header: bytes) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(naming("secret"))])
    assert ask(balancer, header + b"hello") == b""
    wait_until(lambda: balancer.log.endswith(" proxy-header\n"))
    assert "PROXY protocol header of 127.0.0.60" in balancer.stderr and "malformed" in balancer.stderr
    assert balancer.server(0)["total"] == 0


def test_the_checksum() -> None:
    """RFC 3720, B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(bytes(range(32))) == 0x46DD794E


def test_a_slow_header_ends_the_session(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(naming("secret"))])
    with balancer.connect("127.0.0.60") as client:
        client.sendall(V1[:30])
        start = time.monotonic()
        assert read_all(client) == b""
        assert 2 < time.monotonic() - start < 10
    wait_until(lambda: "late" in balancer.stderr)


def test_access_and_memory_go_by_the_header(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*ACCEPT, "-O", "acl 0 deny 10.1.2.3", servers=[servers(naming("a")), servers(naming("b"))])
    assert ask(balancer, V1) == b""
    other = V1.replace(b"10.1.2.3", b"10.1.2.4")
    assert ask(balancer, other)[:1] == ask(balancer, other)[:1] == b"a"
    assert ask(balancer, V1.replace(b"10.1.2.3", b"10.1.2.5"))[:1] == b"b"


def test_it_is_passed_on(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*ACCEPT, "-O", "proxy_protocol v1", servers=[servers(echo)])
    assert ask(balancer, V2 + b"hello") == V1 + b"hello"


@pytest.mark.parametrize("pieces", [(V1,), (V2,), (V1[:3], V1[3:]), (V2[:5], V2[5:])])
def test_nobody_else_may_send_one(gpen: Start, servers: Serve, pieces: tuple[bytes, ...]) -> None:
    balancer = gpen("-l", "gpen.log", *ACCEPT, servers=[servers(echo)])
    with connect(balancer.address, "127.0.0.61") as client:
        for piece in pieces:
            client.sendall(piece)
            wait_until(lambda: {row["state"] for row in balancer.json("sessions")} <= {"open"})
        assert V1[:6] not in (passed := read_all(client)) and SIGNATURE not in passed
    wait_until(lambda: balancer.log.endswith(" proxy-header\n"))


def test_what_only_begins_like_one_is_passed_on(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*ACCEPT, servers=[servers(naming("a"))])
    for text in (b"PROFIT", b"P", b"\r\n\r\nhello", b"", b"hello" * 50000):
        assert ask(balancer, text, "127.0.0.61") == b"a" + text
    with balancer.connect("127.0.0.61") as client:
        assert client.recv(1) == b"a"
        for piece in (b"\r\n", b"\r\n", b"PRO", b"FESSOR"):
            client.sendall(piece)
            assert client.recv(len(piece), socket.MSG_WAITALL) == piece


def test_an_ipv4_address_in_ipv6_s_clothes(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*ACCEPT, "-O", "acl 0 deny 10.1.2.3", servers=[servers(naming("a"))])
    mapped = socket.inet_pton(socket.AF_INET6, "::ffff:10.1.2.3")
    for header in (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 1 2\r\n", b"PROXY TCP6 ::ffff:a01:203 ::1 1 2\r\n",
                   v2(0x21, mapped + mapped + b"\0\1\0\2")):
        assert ask(balancer, header) == b""
    assert balancer.server(0)["total"] == 0
