"""Ethernet frames with ARP (RFC 826), IPv4, ICMP, TCP and UDP in them, as far as it takes to send them on. Pure.

In memory each stands behind the VIRTIO bytes that the kernel puts before it (struct virtio_net_hdr of
linux/virtio_net.h), which say how it is to be cut into packets, and whether its checksum is yet to be computed. Offsets
count from there.
"""

from __future__ import annotations

import struct

VIRTIO = 10
ETHERNET = VIRTIO + 14  # where what is in the frame begins
TO, FROM = VIRTIO, VIRTIO + 6  # the MAC addresses
LEAST = ETHERNET + 28  # with an IPv4 header and that of UDP, and ARP
LARGEST = VIRTIO + (1 << 16) + 64
ARP, IPV4 = 0x0806, 0x0800  # Ethernet's types
ICMP, TCP, UDP = 1, 6, 17  # IPv4's protocols
FIN, SYN, RST, ACK = 1, 2, 4, 16  # TCP's flags
BROADCAST = b"\xff" * 6
NO_ADDRESS = bytes(4)
REQUEST, REPLY = 1, 2  # of ARP
MORE, OFFSET = 0x2000, 0x1FFF  # of an IPv4 header's word on fragments

# Of an IPv4 frame: type, version and length of the header, identification, fragment, protocol, source, destination and,
# where that header has no options, the two ports.
HEAD = struct.Struct("!22xHBxxxHHxBxx4s4s4s")
_ARP = struct.Struct("!24xHHBBH6s4s6s4s")
_ARP_KIND = (1, IPV4, 6, 4)  # Ethernet's, for IPv4
_TCP = struct.Struct("!4sIIBBHHH")
_NO_VIRTIO = bytes(VIRTIO)
_ERRORS = frozenset({3, 11, 12})  # ICMP: unreachable, which the path's MTU is told by; too old; bad header
_WINDOW = 5840  # bytes that a client of the tarpit may send


def payload_at(length: int) -> int:
    """Where TCP, UDP or ICMP begins behind a header with this first byte."""
    return ETHERNET + 4 * (length & 15)


def parse_arp(view: memoryview) -> tuple[int, bytes, bytes, bytes] | None:
    """What an ARP frame is (REQUEST, REPLY), its sender's MAC and IPv4 address, and the IPv4 address that it is about;
    None for ARP of other networks."""
    *kind, operation, mac, sender, _, target = _ARP.unpack_from(view)
    return (operation, mac, sender, target) if tuple(kind) == _ARP_KIND else None


def arp(operation: int, mac: bytes, sender: bytes, to: bytes, target: bytes) -> bytes:
    """An ARP frame from ``mac``, who says that it is at ``sender``, to the MAC ``to``, about ``target``."""
    asked = bytes(6) if to == BROADCAST else to
    return (_NO_VIRTIO + to + mac + struct.pack("!HHHBBH", ARP, *_ARP_KIND, operation) + mac + sender + asked + target
            ).ljust(VIRTIO + 60, b"\0")


def inner_flow(view: memoryview, size: int, start: int) -> bytes | None:
    """The key (see ``key_of``) of the flow that an ICMP error is about, whose message begins at ``start``: of what our
    address has sent to a client; None for other messages."""
    inner = start + 8
    if view[start] not in _ERRORS or size < inner + 20:
        return None
    ports = inner + 4 * (view[inner] & 15)
    if size < ports + 4:
        return None
    return bytes(view[inner + 16:inner + 20]) + bytes(view[ports + 2:ports + 4]) + bytes(view[ports:ports + 2])


def key_of(view: memoryview, start: int, client: bytes) -> bytes:
    """What a flow is known by, whose TCP or UDP header begins at ``start``: the client's address and port, and ours."""
    return client + bytes(view[start:start + 4])


def has_payload(view: memoryview, start: int) -> bool:
    """Whether a TCP segment, whose header begins at ``start``, carries bytes."""
    length: int = int.from_bytes(view[ETHERNET + 2:ETHERNET + 4], "big")
    return length > start - ETHERNET + 4 * (view[start + 12] >> 4)


def syn_ack(view: memoryview, start: int, number: int) -> bytes:
    """The frame that accepts the connection that a TCP segment asks for; ``number`` is its first."""
    (sequence,) = struct.unpack_from("!I", view, start + 4)
    return _answer(view, start, number, (sequence + 1) & 0xFFFFFFFF, SYN | ACK, _WINDOW)


def reset(view: memoryview, start: int) -> bytes:
    """The frame that tells who has sent this TCP segment that its connection is no more (RFC 9293, 3.10.7.1)."""
    _, sequence, acknowledged, offset, flags, *_ = _TCP.unpack_from(view, start)
    if flags & ACK:
        return _answer(view, start, acknowledged, 0, RST, 0)
    (total,) = struct.unpack_from("!H", view, ETHERNET + 2)
    length = total - (start - ETHERNET) - 4 * (offset >> 4) + bool(flags & SYN) + bool(flags & FIN)
    return _answer(view, start, 0, (sequence + length) & 0xFFFFFFFF, RST | ACK, 0)


def forward_reset(view: memoryview, start: int, to: bytes, mac: bytes) -> bytes:
    """The frame that tells the server with the MAC ``to`` that the client of this segment is gone."""
    ports, sequence, *_ = _TCP.unpack_from(view, start)
    addresses = bytes(view[ETHERNET + 12:ETHERNET + 20])
    return _segment(to + mac, addresses, ports, sequence, 0, RST, 0)


def _answer(view: memoryview, start: int, sequence: int, acknowledged: int, flags: int, window: int) -> bytes:
    """A segment the other way."""
    ports = bytes(view[start + 2:start + 4]) + bytes(view[start:start + 2])
    addresses = bytes(view[ETHERNET + 16:ETHERNET + 20]) + bytes(view[ETHERNET + 12:ETHERNET + 16])
    macs = bytes(view[FROM:FROM + 6]) + bytes(view[TO:TO + 6])
    return _segment(macs, addresses, ports, sequence, acknowledged, flags, window)


def _segment(macs: bytes, addresses: bytes, ports: bytes, sequence: int, acknowledged: int, flags: int, window: int,
             ) -> bytes:
    pseudo = addresses + struct.pack("!BBH", 0, TCP, _TCP.size)
    blank = _TCP.pack(ports, sequence, acknowledged, _TCP.size // 4 << 4, flags, window, 0, 0)
    segment = _TCP.pack(ports, sequence, acknowledged, _TCP.size // 4 << 4, flags, window, checksum(pseudo + blank), 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, TCP, 0)
    head = head[:10] + checksum(head + addresses).to_bytes(2, "big")
    frame = _NO_VIRTIO + macs + IPV4.to_bytes(2, "big") + head + addresses + segment
    return frame.ljust(VIRTIO + 60, b"\0")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
