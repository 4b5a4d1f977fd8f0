"""What version 2 of the PROXY protocol tells behind the addresses: TLVs, each a type, a length and a value. Pure.

They are read strictly: each is whole, those of TLS are whole within theirs, and a checksum is right, or the header is
malformed. What a proxy has told is passed on to servers as it came; what we know better of a client takes its place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gpen.model.text import printable

Tlv = tuple[int, bytes]  # type and value

ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIG_ALG, SSL_KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25
OVER_SSL, CERT_CONN, CERT_SESS = 0x01, 0x02, 0x04  # what is so of a client's TLS
LONGEST_UNIQUE_ID = 128  # bytes
_KNOWN = {ALPN, AUTHORITY, UNIQUE_ID, SSL}
_NOT_PASSED_ON = {CRC32C, NOOP, NETNS}  # of the header that it stood in, or of the machine that it came from
_HEAD, _SSL_HEAD, _SUM = 3, 5, 4


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = tuple(map(_crc_of, range(256)))


class SslInfo(NamedTuple):
    """What is told of a client's TLS; texts are empty where they are not. ``flags`` are those of OVER_SSL and so on;
    ``verify`` is 0 for a certificate that was found to be valid."""

    flags: int
    verify: int
    version: str = ""
    cn: str = ""
    cipher: str = ""
    sig_alg: str = ""
    key_alg: str = ""

    @property
    def has_certificate(self) -> bool:
        """Whether the client has shown one, in this connection or in the one that it resumes."""
        return bool(self.flags & (CERT_CONN | CERT_SESS))


class Told:
    """What a proxy has told of a client, by its TLVs. Of one that stands there twice the first counts."""

    def __init__(self, tlvs: Iterable[Tlv]) -> None:
        self.tlvs = tuple(tlvs)
        self._first: dict[int, bytes] = {}
        for kind, value in self.tlvs:
            self._first.setdefault(kind, value)

    @property
    def authority(self) -> str:
        """The name that the client asked for (SNI), or empty."""
        return printable(self._first.get(AUTHORITY, b""))

    @property
    def alpn(self) -> str:
        """The protocol that it speaks within TLS, or empty."""
        return printable(self._first.get(ALPN, b""))

    @property
    def unique_id(self) -> str:
        """What the connection is called by the proxy that took it, or empty."""
        return printable(self._first.get(UNIQUE_ID, b""))

    @property
    def ssl(self) -> SslInfo | None:
        """What is told of its TLS; None where that is nothing."""
        value = self._first.get(SSL)
        if value is None:
            return None
        flags, verify = struct.unpack("!BI", value[:_SSL_HEAD])
        texts: dict[int, str] = {}
        for kind, at, size in _places(value, _SSL_HEAD):
            texts.setdefault(kind, printable(value[at : at + size]))
        return SslInfo(flags, verify, *(texts.get(kind, "") for kind in range(SSL_VERSION, SSL_KEY_ALG + 1)))

    @property
    def is_secure(self) -> bool:
        """Whether the client speaks TLS with the proxy."""
        ssl = self.ssl
        return ssl is not None and bool(ssl.flags & OVER_SSL)

    def fields(self) -> dict[str, Any]:
        """The same for JSON; None for what is not told."""
        ssl = self.ssl or SslInfo(0, 0)
        return {
            "authority": self.authority or None, "alpn": self.alpn or None, "unique_id": self.unique_id or None,
            "tls": ssl.version or None, "cipher": ssl.cipher or None, "cn": ssl.cn or None,
            "sig_alg": ssl.sig_alg or None, "key_alg": ssl.key_alg or None,
            "verified": ssl.verify == 0 if ssl.has_certificate else None,
            "others": {f"{kind:#04x}": value.hex() for kind, value in self._first.items() if kind not in _KNOWN},
        }


# --- to servers -------------------------------------------------------------------------------------------------------


def ssl_tlv(info: SslInfo) -> Tlv:
    """The TLV that tells this of a client's TLS."""
    texts = zip(range(SSL_VERSION, SSL_KEY_ALG + 1), info[2:], strict=True)
    told = packed((kind, text.encode()) for kind, text in texts if text)
    return SSL, struct.pack("!BI", info.flags, info.verify) + told


def joined(theirs: Sequence[Tlv], ours: Sequence[Tlv]) -> tuple[Tlv, ...]:
    """What a server is told where a proxy has told us this, and we know that: ours counts, but for what the connection
    is called, which is the same all along its way."""
    known = {kind for kind, _ in ours}
    has_id = any(kind == UNIQUE_ID for kind, _ in theirs)
    passed: dict[int, None] = {}  # types that must not stand there twice
    result = []
    for kind, value in theirs:
        if kind in passed or (kind in known and kind != UNIQUE_ID):
            continue
        if kind in _KNOWN:
            passed[kind] = None
        result.append((kind, value))
    return (*result, *(tlv for tlv in ours if tlv[0] != UNIQUE_ID or not has_id))


def packed(tlvs: Iterable[Tlv]) -> bytes:
    """These as they stand in a header."""
    return b"".join([struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs])


def with_sum(head: bytes, body: bytes) -> bytes:
    """The whole header with a checksum behind the ``body``: the ``head`` are its first 14 bytes, without the length."""
    start = head + struct.pack("!H", len(body) + _HEAD + _SUM) + body + struct.pack("!BH", CRC32C, _SUM)
    return start + crc32c(start + bytes(_SUM)).to_bytes(_SUM, "big")


# --- from clients -----------------------------------------------------------------------------------------------------


def read_tlvs(head: bytes, body: bytes, start: int) -> tuple[Tlv, ...]:
    """Those behind the addresses, which end at ``start``, that are worth passing on. Each is whole, and the checksum is
    right if there is one. Raises ValueError."""
    sums, found = [], []
    for kind, at, size in _places(body, start):
        if kind == CRC32C:
            sums.append((at, at + size))
        elif kind == UNIQUE_ID and size > LONGEST_UNIQUE_ID:
            raise ValueError(f"a unique id has {size} bytes, which is more than {LONGEST_UNIQUE_ID}")
        elif kind == SSL:
            if size < _SSL_HEAD:
                raise ValueError("a TLV of TLS is cut off")
            for _ in _places(body[: at + size], at + _SSL_HEAD):
                pass
        if kind not in _NOT_PASSED_ON:
            found.append((kind, body[at : at + size]))
    if sums:
        _check_sums(head, body, sums)
    return tuple(found)


def _places(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """The TLVs from there on: type, where the value begins, and how many bytes that has. Raises ValueError when one is
    not whole."""
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + _HEAD], "big")
        if at + _HEAD + size > len(data):
            raise ValueError("a TLV is longer than what it is in")
        yield data[at], at + _HEAD, size
        at += _HEAD + size


def _check_sums(head: bytes, body: bytes, places: Sequence[tuple[int, int]]) -> None:
    """CRC32c over all of the header, with zeros in the place of the sum itself. Raises ValueError."""
    zeroed = bytearray(body)
    for start, end in places:
        zeroed[start:end] = bytes(end - start)
    wanted = crc32c(head + zeroed).to_bytes(_SUM, "big")
    if any(body[start:end] != wanted for start, end in places):
        raise ValueError("its checksum is wrong")


def crc32c(data: bytes) -> int:
    """The CRC of Castagnoli's polynomial (RFC 3720, 12.1)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
