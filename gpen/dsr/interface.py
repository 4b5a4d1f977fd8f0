"""The socket of a network interface (packet(7)): whole frames come and go, cut and checksummed by the kernel or card.

Where this machine, its card or a virtual cable joins segments to frames that are larger than the MTU (GRO, GSO), or
leaves checksums to the card, the kernel says so before each frame (PACKET_VNET_HDR), and understands the same of what
is sent: so nothing of that needs to be switched off.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import fcntl
import os
import struct
from contextlib import suppress

from gpen.wire.sockets import ListenError, Socket

_ETHERNET = 1  # ARPHRD_ETHER
_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET = 263
_PACKET_STATISTICS, _PACKET_VNET_HDR = 6, 15  # linux/if_packet.h
_ATTACH_FILTER, _RCVBUFFORCE = 26, 33  # socket(7)
_ROOM = 16 << 20  # bytes of frames, with what the kernel adds to each
_SIOCGIFCONF = 0x8912  # netdevice(7)
_IFREQ = 16 + (24 if struct.calcsize("P") == 8 else 16)  # bytes of a struct ifreq
_MOST_ADDRESSES = 1024


class Interface:
    """An interface of Ethernet, whose frames come as far as ``program`` takes them. ``mac`` is its address."""

    def __init__(self, name: str, sock: Socket, program: bytes) -> None:
        """On a socket that ``opened`` has made, of this process or another. Raises OSError."""
        self.name = name
        self.socket = sock
        self.mac = b""
        self._index = 0
        self._dropped = 0
        self.take_only(program)
        self.bind()

    @classmethod
    def opened(cls, name: str, program: bytes) -> Interface:
        """Open it. Raises ListenError."""
        sock = None
        try:
            sock = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_NONBLOCK, 0)
            sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _ROOM)
            with suppress(OSError):  # beyond net.core.rmem_max it takes more rights
                sock.setsockopt(_socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
            return cls(name, sock, program)
        except OSError as error:
            if sock is not None:
                sock.close()
            raise ListenError(f"dsr_if: can't open '{name}': {error.strerror}{_remedy(error)}") from None

    def take_only(self, program: bytes) -> None:
        """What that takes comes from now on. Raises OSError."""
        code = ctypes.create_string_buffer(program)
        self.socket.setsockopt(_socket.SOL_SOCKET, _ATTACH_FILTER,
                               struct.pack("HP", len(program) // 8, ctypes.addressof(code)))

    def bind(self) -> None:
        """To the interface that has the name now. Raises OSError."""
        self.socket.bind((self.name, _ALL))
        *_, kind, mac = self.socket.getsockname()
        if kind != _ETHERNET:
            raise OSError(errno.EPROTOTYPE, "it is no interface of Ethernet")
        self._index, self.mac = _index_of(self.name), mac

    def follow(self) -> None:
        """Somebody may have made it anew, or given it another MAC. Raises OSError when it is gone."""
        if _index_of(self.name) != self._index:
            self.bind()
        self.mac = self.socket.getsockname()[4]

    def dropped(self) -> int:
        """How many frames the kernel had no room for, so far."""
        _, more = struct.unpack("II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._dropped += more
        return self._dropped

    def is_at(self, name: str) -> bool:
        """Whether it is the interface of this name."""
        return self.name == name and self.socket.fileno() >= 0

    @property
    def forwards(self) -> bool:
        """Whether this machine is a router for what comes here: then its kernel routes, or refuses, what is for us."""
        try:
            with open(f"/proc/sys/net/ipv4/conf/{self.name}/forwarding", "rb") as file:
                return file.read().strip() == b"1"
        except OSError:
            return False

    def own_addresses(self) -> set[bytes]:
        """This machine's IPv4 addresses, at whatever interface."""
        room = ctypes.create_string_buffer(_MOST_ADDRESSES * _IFREQ)
        request = struct.pack("iP", len(room), ctypes.addressof(room))
        try:
            size, _ = struct.unpack("iP", fcntl.ioctl(self.socket.fileno(), _SIOCGIFCONF, request))
        except OSError:
            return set()
        return {room.raw[at + 20:at + 24] for at in range(0, size, _IFREQ)}


def _index_of(name: str) -> int:
    """Raises OSError."""
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None


def _remedy(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (": frames need CAP_NET_RAW: start gpen as root (with -u USER it is that as long as it takes), or with "
                "that capability; one that runs has given it up, unless it had dsr_if: start it anew")
    if error.errno == errno.ENODEV:
        names = ", ".join(name for _, name in _socket.if_nameindex())
        return f": there is none of that name (there are {names})"
    return ""
