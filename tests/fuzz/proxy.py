"""Headers of the PROXY protocol: read in this process, and in front of the bytes of a gpen's clients."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from gpen.proto.proxy_header import HeaderError, header
from gpen.wire.proxy import read_header
from tests.fuzz.kind import Balanced, Trial
from tests.fuzz.lines import serves
from tests.fuzz.mutations import BYTES, cuts, pieces, spoiled
from tests.harness import Gpen, Server, connect, echo, read_all, wait_until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PROXY, STRANGER = "127.0.0.60", "127.0.0.61"  # who may send a header, and who may not

# --- headers ---------------------------------------------------------------------------------------------------------

TEXTS = ("127.0.0.1", "10.1.2.3", "255.255.255.255", "0.0.0.0", "::1", "2001:db8::7", "::ffff:10.1.2.3",
         "::ffff:0a01:203", "fe80::1%lo", "1.2.3", "01.2.3.4", "1.2.3.256", "::g", "1::2::3", "", "localhost")
PORTS = ("0", "1", "80", "65535", "65536", "01", "-1", "+1", " 1", "1e3", "\u0663", "99999999999", "")
V1_KINDS = ("TCP4", "TCP4", "TCP6", "UNKNOWN", "TCP5", "tcp4", "UDP4", "")
v1_headers = st.one_of(
    st.builds(lambda *words: "PROXY TCP4 {} {} {} {}\r\n".format(*words).encode(),
              st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535)),
    st.builds(lambda source, destination, port: f"PROXY TCP6 {source} {destination} {port} {port}\r\n".encode(),
              st.ip_addresses(v=6), st.ip_addresses(v=6), st.integers(0, 65535)),
    st.builds(lambda kind, words, end: " ".join(["PROXY", kind, *words]).encode() + end, st.sampled_from(V1_KINDS),
              st.tuples(*[st.sampled_from(TEXTS)] * 2, *[st.sampled_from(PORTS)] * 2),
              st.sampled_from((b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\r\n"))),
    st.just(b"PROXY UNKNOWN\r\n"))
CHECKSUM, TLS, TLS_BYTES = 0x03, 0x20, 5
UNIQUE_ID, MOST_OF_ID = 0x05, 128
ONCE = {0x01, 0x02, UNIQUE_ID, TLS}  # of these, the first counts
STAYING = {CHECKSUM, 0x04, 0x30}  # a checksum, padding, the name of a network namespace: these do not go on
few_bytes = st.binary(max_size=9)
within_tls = st.lists(st.tuples(st.integers(0x20, 0x26), few_bytes), max_size=3).map(
    lambda parts: b"abcde" + b"".join([struct.pack("!BH", kind, len(value)) + value for kind, value in parts]))
fields = st.builds(lambda kind, value: struct.pack("!BH", kind, len(value)) + value,
                   st.one_of(st.integers(0, 255), st.sampled_from((CHECKSUM, *STAYING, *ONCE))), st.one_of(
                       few_bytes, few_bytes, within_tls, st.integers(127, 130).map(lambda size: b"i" * size)))
SIZES = {0: 0, 1: 12, 2: 36, 3: 216}  # bytes of the addresses, by the family


@st.composite
def v2_headers(draw: st.DrawFn) -> bytes:
    family = draw(st.sampled_from((0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32)))
    size = SIZES[family >> 4]
    body = draw(st.binary(min_size=size, max_size=size)) + b"".join(draw(st.lists(fields, max_size=3)))
    command, summed = draw(st.sampled_from((0x21, 0x21, 0x21, 0x20))), draw(st.booleans())
    place = struct.pack("!BHI", CHECKSUM, 4, 0) if summed else b""
    header = SIGNATURE + struct.pack("!BBH", command, family, len(body + place)) + body + place
    return header[:-4] + checksum(header) if summed else header


headers = spoiled(st.one_of(v1_headers, v2_headers()), (*BYTES, SIGNATURE, b"PROXY ", b"\xff\xff", b"\x80", b"::",
                                                        b" 1", b"\xd9\xa3"), 3)
streams = st.tuples(st.builds(bytes.__add__, headers, st.sampled_from((b"", b"hello", b"x" * 300))), cuts)

# --- what they mean, by the letter of proxy-protocol.txt --------------------------------------------------------------


class Meaning(NamedTuple):
    """What a strict reader makes of a stream: whether there is a header, how many bytes it has, and whom it names: the
    address as the kernel has it, and the port."""

    accepted: bool
    length: int = 0
    source: tuple[bytes, int] | None = None


REFUSED = Meaning(False)
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")


def meaning(stream: bytes) -> Meaning:
    if stream.startswith(b"PROXY "):
        return v1_meaning(stream)
    if stream.startswith(SIGNATURE) and len(stream) >= 16:
        return v2_meaning(stream)
    return REFUSED


def v1_meaning(stream: bytes) -> Meaning:
    end = stream.find(b"\n")
    line = stream[:end + 1]
    if not 0 <= end < 107 or not line.endswith(b"\r\n") or not line.isascii():
        return REFUSED
    _, kind, *words = line[:-2].decode().split(" ")
    if kind == "UNKNOWN":
        return Meaning(True, len(line))
    family = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}.get(kind)
    if family is None or len(words) != 4:
        return REFUSED
    try:
        source, _ = (socket.inet_pton(family, word) for word in words[:2])
    except (OSError, ValueError):
        return REFUSED
    if not all(_PORT.fullmatch(word) and int(word) < 65536 for word in words[2:]):
        return REFUSED
    return Meaning(True, len(line), (unmapped(source), int(words[2])))


def v2_meaning(stream: bytes) -> Meaning:
    command, family, length = struct.unpack_from("!BBH", stream, 12)
    body = stream[16:16 + length]
    if command not in (0x20, 0x21) or length > 16384 or len(body) < length:
        return REFUSED
    if command == 0x20:
        return Meaning(True, 16 + length)
    size = SIZES.get(family >> 4)
    if size is None or family & 15 > 2 or length < size:
        return REFUSED
    if not are_well(body[size:], stream[:16 + size]):
        return REFUSED
    if family == 0x31:
        return Meaning(True, 16 + length, (b"", 0))
    if family not in (0x11, 0x21):
        return Meaning(True, 16 + length)
    size = 4 if family == 0x11 else 16
    return Meaning(True, 16 + length, (unmapped(body[:size]), struct.unpack_from("!H", body, 2 * size)[0]))


def are_well(extensions: bytes, before: bytes) -> bool:
    """Whether the type-length-values behind the addresses end where the header does, those of TLS are well in
    themselves, and each checksum is that of the header, of which ``before`` is the beginning."""
    fields = split(extensions)
    if fields is None:
        return False
    blanked = before + b"".join(head + (bytes(len(value)) if head[0] == CHECKSUM else value) for head, value in fields)
    return (all(len(value) >= TLS_BYTES and split(value[TLS_BYTES:]) is not None
                for head, value in fields if head[0] == TLS)
            and all(len(value) <= MOST_OF_ID for head, value in fields if head[0] == UNIQUE_ID)
            and all(value == checksum(blanked) for head, value in fields if head[0] == CHECKSUM))


def going_on(header: bytes) -> bytes:
    """What of a whole header's extensions goes on to a server, as it does."""
    if not header.startswith(SIGNATURE):
        return b""
    found, seen = b"", set[int]()
    for head, value in split(header[16 + SIZES[header[13] >> 4]:]) or []:
        if head[0] not in STAYING and not (head[0] in ONCE and head[0] in seen):
            found += head + value
        seen.add(head[0])
    return found


def split(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """The heads (type and length) and values of what must end where the last of them does; None if it does not."""
    found = []
    while data:
        end = 3 + int.from_bytes(data[1:3], "big")
        if end > len(data):
            return None
        found.append((data[:3], data[3:end]))
        data = data[end:]
    return found


def checksum(data: bytes) -> bytes:
    """CRC-32C (RFC 3720), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "big")


def unmapped(address: bytes) -> bytes:
    """An IPv4 address in IPv6's clothes is one of IPv4."""
    return address[12:] if len(address) == 16 and address.startswith(bytes(10) + b"\xff\xff") else address


# --- trials ----------------------------------------------------------------------------------------------------------


def check_reading(case: tuple[bytes, Sequence[int]]) -> None:
    """Read from a real socket: as the strict reader has it, and not a byte more."""
    stream, expected = case[0], meaning(case[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(stream)
        theirs.shutdown(socket.SHUT_WR)
        ours.setblocking(False)
        try:
            route: Any = read_header(ours, None, 1)  # type: ignore[arg-type]  # it need not wait
        except HeaderError as error:
            assert not expected.accepted, f"refused: {error}"
            return
        assert expected.accepted, f"taken for {route}"
        rest = ours.recv(1 << 16)
    assert rest == stream[expected.length:], f"it left {rest!r}"
    if expected.source is None or not expected.source[0]:
        assert route is None if expected.source is None else route.source == ""
        return
    family = socket.AF_INET if len(expected.source[0]) == 4 else socket.AF_INET6
    assert (socket.inet_pton(family, route.source), route.source_port) == expected.source
    passed_on = header("v2", route, is_summed=True)
    assert meaning(passed_on) == Meaning(True, len(passed_on), expected.source)
    assert going_on(passed_on) == going_on(stream[:expected.length])


class ProxyTrial(Balanced):
    """A client that may send a header, and one that may not."""

    def attempt(self, case: tuple[bytes, Sequence[int]]) -> None:
        stream, expected = case[0], meaning(case[0])
        logged = len(self.balancer.log)
        got = self._ask(PROXY, case)
        assert got == (stream[expected.length:] if expected.accepted else b""), f"its server got {got!r}"
        through = self._ask(STRANGER, case)
        is_header = stream.startswith((SIGNATURE, b"PROXY "))
        assert stream.startswith(through) and not through.startswith((SIGNATURE, b"PROXY "))
        assert is_header or through == stream, f"it was no header, and the server got {through!r}"
        wait_until(lambda: self.balancer.log.count("\n", logged) >= 2, what="two lines in the log")
        lines = self.balancer.log[logged:].splitlines()
        assert all(_LOGGED.fullmatch(line) for line in lines), lines

    def _ask(self, source: str, case: tuple[bytes, Sequence[int]]) -> bytes:
        with connect(self.balancer.address, source) as sock:
            with suppress(OSError):  # it may be refused already
                for piece in pieces(*case):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def settle(self) -> None:
        super().settle()
        self.balancer.log_file.write_bytes(b"")


_LOGGED = re.compile(r"(unix|[\d.]+:\d+|\[[\da-f:.]+\]:\d+|[\d.]+|[\da-f:.]+) \S+ server (0 \S+|- -) choose [\d.]+ "
                     r"connect [\d.]+ total [\d.]+ up \d+ down \d+ [a-z-]+")


@contextmanager
def proxy_trial(directory: Path) -> Iterator[Trial]:
    """A gpen that takes headers from one address, and a server that echoes."""
    with ExitStack() as stack, Server(echo) as server:
        yield ProxyTrial(stack, lambda: Gpen(
            directory, "-r", "-l", "gpen.log", "-O", f"acl 3 permit {PROXY}", "-O", "accept_proxy 3", "127.0.0.1:0",
            server.address), serves)
