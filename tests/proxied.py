"""Headers of the PROXY protocol, version 2, as servers in tests read them: by the letter, without gpen's own reader."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 1, 2, 3, 4, 5, 0x20, 0x30
VERSION, CN, CIPHER, SIG_ALG, KEY_ALG = range(0x21, 0x26)


class Header(NamedTuple):
    """A header: its bytes, whose it is, and what stands behind the addresses."""

    raw: bytes
    source: tuple[str, int]
    tlvs: dict[int, bytes]

    @property
    def ssl(self) -> tuple[int, int, dict[int, str]]:
        """Flags, verify and texts of the TLV of TLS."""
        value = self.tlvs[SSL]
        flags, verify = struct.unpack("!BI", value[:5])
        return flags, verify, {kind: text.decode() for kind, text in split(value[5:]).items()}


def split(data: bytes) -> dict[int, bytes]:
    """The TLVs that these bytes are, none of which may stand there twice."""
    found: dict[int, bytes] = {}
    while data:
        kind, size = struct.unpack("!BH", data[:3])
        assert kind not in found and len(data) >= 3 + size
        found[kind], data = data[3 : 3 + size], data[3 + size :]
    return found


def read_header(sock: socket.socket) -> Header:
    """The header that a connection over IPv4 begins with."""
    head = sock.recv(16, socket.MSG_WAITALL)
    assert head.startswith(SIGNATURE + b"\x21\x11"), head
    body = sock.recv(int.from_bytes(head[14:], "big"), socket.MSG_WAITALL)
    return Header(head + body, (socket.inet_ntoa(body[:4]), int.from_bytes(body[8:10], "big")), split(body[12:]))


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(*tlvs: bytes) -> bytes:
    """The header of a client at 10.1.2.3:1000, with these."""
    body = bytes((10, 1, 2, 3, 10, 4, 5, 6)) + struct.pack("!HH", 1000, 2000) + b"".join(tlvs)
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(body)) + body
