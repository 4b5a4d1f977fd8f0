"""The PROXY protocol (HAProxy's proxy-protocol.txt, versions 1 and 2): who a connection is really from. Pure.

A header stands in front of the first byte of a connection. We write one to servers, and read it from clients that are
proxies themselves.
"""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from typing import Any, NamedTuple

from gpen.model.text import shortened
from gpen.proto.proxy_tlvs import Tlv, crc32c, joined, packed, read_tlvs, with_sum

__all__ = ["MOST", "SIGNATURE", "V1", "HeaderError", "HeaderReader", "Route", "crc32c", "header", "local_header"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY "
_V1_MOST = 107  # bytes of a header of version 1, its end included
_V2_MOST = 16384  # bytes behind the first 16 of version 2
_V2_HEAD = 16
MOST = _V2_HEAD + _V2_MOST
_LOCAL, _PROXY = 0x20, 0x21
_STREAM4, _STREAM6, _UNIX = 0x11, 0x21, 0x31
_UNIX_PATH = 108
_ADDRESS_BYTES = {0: 0, 1: 12, 2: 36, 3: 216}  # by the family: unspecified, IPv4, IPv6, unix
_DATAGRAM = 2  # the last of the protocols: unspecified, stream, datagram


class Route(NamedTuple):
    """Where a connection comes from and where it went to. The host of a unix socket is empty, its path the name."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    path: str = ""  # of the unix socket that was connected to
    tlvs: tuple[Tlv, ...] = ()  # what the proxy that it comes from has told besides
    own: tuple[Tlv, ...] = ()  # what we have learned from the client itself


class HeaderError(Exception):
    """The client's header is missing, malformed or late: says which."""


# --- to servers -------------------------------------------------------------------------------------------------------


def header(version: str, route: Route, is_summed: bool = False) -> bytes:
    """The header, ``v1`` or ``v2``, that tells a server this route; that of version 2 with a checksum where it
    ``is_summed``."""
    tlvs = packed(joined(route.tlvs, route.own)) if version == "v2" else b""
    if not route.source or not route.destination:
        return b"PROXY UNKNOWN\r\n" if version == "v1" else _v2(_PROXY, _UNIX, _unix_pair(route.path) + tlvs, is_summed)
    source, destination = _family(route.source, route.destination)
    if version == "v1":
        return f"PROXY TCP{source.version} {source} {destination} {route.source_port} " \
               f"{route.destination_port}\r\n".encode()
    family = _STREAM4 if source.version == 4 else _STREAM6
    ports = struct.pack("!HH", route.source_port, route.destination_port)
    return _v2(_PROXY, family, source.packed + destination.packed + ports + tlvs, is_summed)


def local_header(version: str) -> bytes:
    """The header of a connection that is our own, not a client's: a check's. Empty for ``off``."""
    if version == "off":
        return b""
    return b"PROXY UNKNOWN\r\n" if version == "v1" else _v2(_LOCAL, 0, b"")


def _v2(command: int, family: int, body: bytes, is_summed: bool = False) -> bytes:
    head = SIGNATURE + struct.pack("!BB", command, family)
    return with_sum(head, body) if is_summed else head + struct.pack("!H", len(body)) + body


def _unix_pair(path: str) -> bytes:
    return bytes(_UNIX_PATH) + path.encode("utf-8", "surrogateescape")[:_UNIX_PATH].ljust(_UNIX_PATH, b"\0")


def _family(source: str, destination: str) -> Any:
    """Both addresses in one family: an IPv4 one beside an IPv6 one is mapped."""
    pair = [ipaddress.ip_address(text.partition("%")[0]) for text in (source, destination)]
    if pair[0].version != pair[1].version:
        pair = [ipaddress.ip_address(f"::ffff:{ip}") if ip.version == 4 else ip for ip in pair]
    return pair


# --- from clients -----------------------------------------------------------------------------------------------------


class HeaderReader:
    """Reads the header in front of a client's first byte, in whatever pieces it comes, and not a byte more.

    When it ``is_whole``, ``route`` is what it says; None for a connection that is the proxy's own (LOCAL, UNKNOWN).
    """

    def __init__(self) -> None:
        self._data = b""
        self.is_whole = False
        self.route: Route | None = None

    def take(self, ahead: bytes) -> int:
        """How many of the next bytes belong to the header, which is read so far. Raises HeaderError."""
        data = self._data + ahead
        _check_start(data[: len(SIGNATURE)])
        try:
            return self._take(data)
        except ValueError as error:
            raise HeaderError(f"malformed: {shortened(str(error))}") from None

    def _take(self, data: bytes) -> int:
        before = len(self._data)
        end = _end_of(data)
        self._data = data[:end]
        if end is not None and len(data) >= end:
            self.route = (_read_v1 if data.startswith(V1) else _read_v2)(self._data)
            self.is_whole = True
        return len(self._data) - before


def _end_of(data: bytes) -> int | None:
    """Where the header ends that begins so; None where that can't be known yet. Raises ValueError."""
    if data.startswith(SIGNATURE[:1]):
        return _V2_HEAD + _v2_length(data[:_V2_HEAD]) if len(data) >= _V2_HEAD else None
    end = data.find(b"\n", 0, _V1_MOST) + 1
    if not end and len(data) >= _V1_MOST:
        raise ValueError(f"no line end within {_V1_MOST} bytes")
    return end or None


def _check_start(data: bytes) -> None:
    if data[: len(V1)] != V1[: len(data)] and data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise HeaderError("missing: the first bytes are none")


def _read_v1(line: bytes) -> Route | None:
    if not line.endswith(b"\r\n"):
        raise ValueError("the line ends without a carriage return")
    if not line.isascii():
        raise ValueError("the line has bytes that are not ASCII")
    words = line[:-2].decode().split(" ")
    if words[1] == "UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("expected PROXY TCP4|TCP6|UNKNOWN and two addresses and ports")
    version = 4 if words[1] == "TCP4" else 6
    source, destination = (_address(word, version) for word in words[2:4])
    return Route(_plain(source), _port(words[4]), _plain(destination), _port(words[5]))


def _address(word: str, version: int) -> Any:
    """Raises ValueError, in words that hold the word as it came: Python's own have it escaped already."""
    with contextlib.suppress(ValueError):
        if (address := ipaddress.ip_address(word)).version == version:
            return address
    raise ValueError(f"'{word}' is not an IPv{version} address")


def _plain(address: Any) -> str:
    """The text of an address; an IPv4 one that is written as IPv6 is IPv4, for access lists and memory."""
    if getattr(address, "scope_id", None):
        raise ValueError("an address has a scope, which means nothing elsewhere")
    return str(getattr(address, "ipv4_mapped", None) or address)


def _port(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or word != str(int(word)) or int(word) > 65535:
        raise ValueError(f"'{word}' is not a port")
    return int(word)


def _v2_length(head: bytes) -> int:
    """How many bytes follow the first 16. Raises ValueError."""
    command, _, length = struct.unpack("!BBH", head[len(SIGNATURE) :])
    if command not in (_LOCAL, _PROXY):
        raise ValueError(f"version and command are {command:#04x}")
    if length > _V2_MOST:
        raise ValueError(f"it is longer than {_V2_MOST} bytes")
    return int(length)


def _read_v2(data: bytes) -> Route | None:
    head, body = data[:_V2_HEAD], data[_V2_HEAD:]
    command, family = head[len(SIGNATURE) :][:2]
    if command == _LOCAL:
        return None  # whatever it holds: "the receiver must accept [...] and discard the protocol block"
    size = _ADDRESS_BYTES.get(family >> 4)
    if size is None or family & 15 > _DATAGRAM:
        raise ValueError(f"address family and protocol are {family:#04x}")
    if len(body) < size:
        raise ValueError("the addresses are cut off")
    return _route(family, body, read_tlvs(head, body, size))


def _route(family: int, body: bytes, tlvs: tuple[Tlv, ...]) -> Route | None:
    """Where a connection comes from and goes to; None where that is no stream: the connection's own address counts."""
    if family == _UNIX:
        path = body[_UNIX_PATH : 2 * _UNIX_PATH].rstrip(b"\0").decode("utf-8", "surrogateescape")
        return Route("", 0, "", 0, path, tlvs)
    if family not in (_STREAM4, _STREAM6):
        return None
    size = 4 if family == _STREAM4 else 16
    source, destination = (_plain(ipaddress.ip_address(body[i : i + size])) for i in (0, size))
    source_port, destination_port = struct.unpack("!HH", body[2 * size : 2 * size + 4])
    return Route(source, source_port, destination, destination_port, tlvs=tlvs)
