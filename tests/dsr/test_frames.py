"""Frames that lie about themselves: each costs itself only, and nothing is sent on or answered for it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from gpen.dsr import frames
from tests.dsr.conftest import PORT, SERVICE, Start
from tests.dsr.test_around import mac_of
from tests.dsr.test_direct import frames as counts
from tests.harness import Gpen, needs_root, wait_until
from tests.networks import FAR, Machine, two_machines
from tests.servers import PATIENCE

pytestmark = needs_root

SYN, ACK, RST = frames.SYN, frames.ACK, frames.RST
NOBODY, SOURCE, ACKNOWLEDGED = "192.0.2.50", 4000, 99  # no machine's kernel has a say in its connections


def packet(data: bytes, first: int = 0x45, fragment: int = 0, protocol: int = frames.TCP) -> bytes:
    """One of IPv4 with this segment, or a piece of one, to the service."""
    head = struct.pack("!BBHHHBBH", first, 0, 20 + len(data), 7, fragment, 64, protocol, 0)
    return head + socket.inet_aton(NOBODY) + socket.inet_aton(SERVICE) + data


def segment(flags: int, acknowledged: int = ACKNOWLEDGED) -> bytes:
    return struct.pack("!HHIIBBHHH", SOURCE, PORT, 1, acknowledged, 5 << 4, flags, 1000, 0, 0)


class Cable:
    """Between a gpen and a machine that is its server, and sends what clients do."""

    def __init__(self, balancer: Gpen, near: Machine, far: Machine, sock: socket.socket) -> None:
        self.balancer = balancer
        self.server = far
        self._sock = sock
        self._head = mac_of(near) + mac_of(far) + b"\x08\0"

    def send(self, *packets: bytes, tag: int | None = None) -> None:
        """To gpen, with this tag of IEEE 802.1Q."""
        middle = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
        for each in packets:
            self._sock.send(self._head[:12] + middle + self._head[12:] + each)

    def answer(self) -> tuple[int, int]:
        """Flags and number of the next segment that NOBODY gets from the service."""
        wanted = socket.inet_aton(SERVICE) + socket.inet_aton(NOBODY) + struct.pack("!HH", PORT, SOURCE)
        while True:
            frame = self._sock.recv(2000)
            if frame[26:38] == wanted:
                return frame[47], int.from_bytes(frame[38:42], "big")

    def has_passed_on(self, count: int) -> None:
        """Wait for this: not more, for what is sent next is seen to last."""
        wait_until(lambda: counts(self.balancer)["forwarded"] >= count)
        assert counts(self.balancer)["forwarded"] == count and "failed" not in self.balancer.stderr


@pytest.fixture
def cable(gpen: Start) -> Iterator[Cable]:
    with two_machines() as (near, far):
        balancer = gpen("-r", "-O", "dsr_if cable", servers=[FAR], listen=f"{SERVICE}:{PORT}", wrapper=near.wrapper)
        with far.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock:
            sock.bind(("cable", 0x0800))
            sock.settimeout(PATIENCE)
            yield Cable(balancer, near, far, sock)


@pytest.mark.parametrize("flags", [SYN, ACK])
def test_headers_of_other_lengths(cable: Cable, flags: int) -> None:
    """Than IPv4 has, or of another version: what begins so belongs to nothing, and begins nothing."""
    odd = [packet(segment(flags), first) for first in (0x35, 0x40, 0x44, 0x60)]
    cable.send(*odd, packet(segment(flags)), *odd, packet(segment(ACK)))
    cable.has_passed_on(2)
    assert len(cable.balancer.json("sessions")) == 1


def test_tags(cable: Cable) -> None:
    """What is tagged for a VLAN is another network's; a tag with a priority alone is none of a VLAN."""
    cable.send(packet(segment(SYN)), tag=100)
    cable.send(packet(segment(SYN)), packet(segment(ACK)), tag=5 << 13)
    cable.send(packet(segment(ACK)), tag=5 << 13 | 100)
    cable.send(packet(segment(ACK)))
    cable.has_passed_on(3)


def test_frames_that_are_cut_off(cable: Cable) -> None:
    """In the header of TCP, or of what an error of ICMP is about: nothing is read behind the end of a frame, where
    that of an earlier one lies."""
    begun, error = packet(segment(SYN)), b"\x03\x04" + bytes(6)
    back = struct.pack("!BBHHHBBH4s4sHH", 0x45, 0, 40, 7, 0, 64, frames.TCP, 0, socket.inet_aton(SERVICE),
                       socket.inet_aton(NOBODY), PORT, SOURCE)
    cable.send(begun, packet(segment(ACK)), packet(error + back, protocol=frames.ICMP))
    cable.has_passed_on(3)
    other = begun.replace(struct.pack("!HH", SOURCE, PORT), struct.pack("!HH", SOURCE + 1, PORT))
    cable.send(*(other[:size] for size in (28, 32, 39)), packet(b""),
               *(packet(error + back[:size], protocol=frames.ICMP) for size in (0, 19, 23)), packet(segment(ACK)))
    cable.has_passed_on(4)
    assert len(cable.balancer.json("sessions")) == 1


@pytest.mark.long  # six seconds until a machine is found to be gone
def test_pieces_for_a_server_that_is_gone(cable: Cable) -> None:
    """What looks like a header in the middle of a segment is none: who has sent it is told by the next whole one."""
    cable.send(packet(segment(SYN)), packet(segment(ACK)), packet(segment(ACK), fragment=frames.MORE))
    cable.has_passed_on(3)
    cable.server.run(f"ip address del {FAR}/24 dev cable")
    wait_until(lambda: cable.balancer.server(0)["reason"] == "no answer to ARP")
    cable.send(packet(segment(ACK, acknowledged=1234), fragment=3), packet(segment(ACK)))
    assert cable.answer() == (RST, ACKNOWLEDGED)
    assert cable.balancer.json("sessions") == [] and "failed" not in cable.balancer.stderr
