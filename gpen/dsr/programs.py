"""Which frames the kernel gives us: programs of its packet filter (bpf(4), linux/filter.h). Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from gpen.dsr.frames import ARP, ICMP, IPV4, OFFSET, TCP

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30  # at a fixed place
_LOAD_HALF_BEHIND, _HEADER_LENGTH = 0x48, 0xB1  # behind the IPv4 header; and to know how long that is
_EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x15, 0x25, 0x45, 0x06
_ANCILLARY = 0xFFFFF000
_KIND, _VLAN, _HAS_VLAN = _ANCILLARY + 4, _ANCILLARY + 44, _ANCILLARY + 48
_VLAN_NUMBER = 0xFFF  # what else is in a tag is its priority; a tag without number belongs to no VLAN
_TO_ALL = 1  # kinds: 0 to us, 1 to all; then multicast, to others, and what this machine sends
_WHOLE = 0x40000  # bytes
_INSTRUCTION = struct.Struct("HBBI")
YES, NO, NEXT, UNTAGGED = "yes", "no", "", "untagged"
_UNTAGGED = 6  # the place of the step that follows those about tags


class _Step(NamedTuple):
    """An instruction, and where a comparison leads."""

    code: int
    value: int
    true: str = NEXT
    false: str = NEXT


def program(address: bytes, protocol: int, port: int, all_tcp: bool) -> bytes:
    """One that takes ARP, and of IPv4 what is sent to this machine's MAC for ``address``: of ``protocol`` to ``port``
    (0: to any), with all fragments, and ICMP. ``all_tcp``: TCP to whatever address, as well."""
    steps = [
        _Step(_LOAD_BYTE, _KIND), _Step(_GREATER, _TO_ALL, NO),
        _Step(_LOAD_BYTE, _HAS_VLAN), _Step(_EQUAL, 0, UNTAGGED, NEXT),
        _Step(_LOAD_HALF, _VLAN), _Step(_ANY_BIT, _VLAN_NUMBER, NO),
        _Step(_LOAD_HALF, 12), _Step(_EQUAL, ARP, YES), _Step(_EQUAL, IPV4, NEXT, NO),
        _Step(_LOAD_BYTE, _KIND), _Step(_EQUAL, 0, NEXT, NO),
    ]
    if all_tcp:
        steps += [_Step(_LOAD_BYTE, 23), _Step(_EQUAL, TCP, YES)]
    steps += [_Step(_LOAD_WORD, 30), _Step(_EQUAL, int.from_bytes(address, "big"), NEXT, NO),
              _Step(_LOAD_BYTE, 23), _Step(_EQUAL, ICMP, YES), _Step(_EQUAL, protocol, NEXT, NO)]
    if port:
        steps += [_Step(_LOAD_HALF, 20), _Step(_ANY_BIT, OFFSET, YES),
                  _Step(_HEADER_LENGTH, 14), _Step(_LOAD_HALF_BEHIND, 16), _Step(_EQUAL, port, NEXT, NO)]
    return _assembled(steps)


def _assembled(steps: Sequence[_Step]) -> bytes:
    """With the two ends behind it: to take a frame, and to leave it."""
    places = {YES: len(steps), NO: len(steps) + 1, UNTAGGED: _UNTAGGED}
    code = b"".join(_INSTRUCTION.pack(step.code, *(places[way] - place - 1 if way else 0
                                                   for way in (step.true, step.false)), step.value)
                    for place, step in enumerate(steps))
    return code + _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE) + _INSTRUCTION.pack(_RETURN, 0, 0, 0)
