"""What a client's first message names, in whatever pieces it comes."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.proto.client_hello import protocols_in

names = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255), min_size=1,
                 max_size=20)


def hello(protocols: list[str], name: str | None = "localhost") -> bytes:
    """The first bytes of OpenSSL's client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def in_records(message: bytes, sizes: list[int]) -> bytes:
    """A message in records that hold so many bytes each, and then the rest."""
    records = b""
    for size in [*sizes, len(message)]:
        piece, message = message[:size], message[size:]
        records += struct.pack("!BHH", 22, 0x301, len(piece)) + piece if piece else b""
    return records


@given(names, st.sampled_from([None, "localhost", "a" * 63 + ".example"]))
def test_all_that_are_named(protocols: list[str], name: str | None) -> None:
    assert protocols_in(hello(protocols, name)) == [protocol.encode() for protocol in protocols]


@given(st.lists(st.integers(1, 200), max_size=20))
def test_in_pieces_and_amid_records_of_another_kind(sizes: list[int]) -> None:
    records = in_records(hello(["h2", "http/1.1"])[5:], sizes)
    other = struct.pack("!BHH", 20, 0x303, 1) + b"\1"
    assert protocols_in(other + records + other) == [b"h2", b"http/1.1"]


def test_none() -> None:
    assert protocols_in(hello([])) is None


@given(st.binary(max_size=600) | st.tuples(st.binary(max_size=80), st.integers(0, 300)).map(
    lambda piece: hello(["h2"])[:piece[1]] + piece[0]))
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    assert protocols_in(data) is None or isinstance(protocols_in(data), list)
