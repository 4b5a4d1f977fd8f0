"""Headers of the PROXY protocol, in whatever pieces they come: what they say, and where they end."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.proto.proxy_header import SIGNATURE, HeaderError, HeaderReader, Route, header, local_header

ROUTE = Route("192.0.2.7", 4711, "198.51.100.1", 3306)
ROUTE6 = Route("2001:db8::7", 4711, "2001:db8::1", 3306)
UNIX = Route("", 0, "", 0, "/run/gpen.sock")
GOOD = [(header("v1", ROUTE), ROUTE), (header("v2", ROUTE), ROUTE), (header("v1", ROUTE6), ROUTE6),
        (header("v2", ROUTE6), ROUTE6), (header("v2", UNIX), UNIX), (header("v1", UNIX), None),
        (local_header("v1"), None), (local_header("v2"), None)]
BAD = [
    (b"GET / HTTP/1.1\r\n", "missing: the first bytes are none"),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "malformed: the line ends without a carriage return"),
    (b"PROXY \r\n", "malformed: expected PROXY TCP4|TCP6|UNKNOWN and two addresses and ports"),
    (b"PROXY " + b"x" * 200, "malformed: no line end within 107 bytes"),
    (SIGNATURE + struct.pack("!BBH", 0x31, 0x11, 12) + bytes(12), "malformed: version and command are 0x31"),
    (SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 20000), "malformed: it is longer than 16384 bytes"),
    (SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 3) + bytes(3), "malformed: the addresses are cut off"),
]


def read(stream: bytes, cuts: list[int]) -> tuple[Route | None, bytes]:
    """What a header says that comes in such pieces, and what was left in the socket."""
    reader, ahead = HeaderReader(), b""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for start, end in pairwise(places):
        ahead += stream[start:end]
        while ahead and not reader.is_whole:
            taken = reader.take(ahead)
            assert taken, "bytes that are not taken would be told again and again"
            ahead = ahead[taken:]
    assert reader.is_whole
    return reader.route, ahead


@pytest.mark.parametrize(("stream", "route"), GOOD)
@given(cuts=st.lists(st.integers(1, 240), max_size=5))
def test_nothing_behind_a_header_is_taken(stream: bytes, route: Route | None, cuts: list[int]) -> None:
    for behind in (b"", b"\n", b"SELECT 1\r\n", SIGNATURE):
        assert read(stream + behind, cuts) == (route, behind)


@pytest.mark.parametrize(("stream", "reason"), BAD)
@given(cuts=st.lists(st.integers(1, 240), max_size=5))
def test_what_is_no_header(stream: bytes, reason: str, cuts: list[int]) -> None:
    with pytest.raises(HeaderError) as failed:
        read(stream, cuts)
    assert str(failed.value) == reason


@pytest.mark.parametrize(("stream", "route"), GOOD)
def test_a_header_is_not_whole_before_its_last_byte(stream: bytes, route: Route | None) -> None:
    reader = HeaderReader()
    for place in range(len(stream) - 1):
        assert reader.take(stream[place : place + 1]) == 1 and not reader.is_whole
