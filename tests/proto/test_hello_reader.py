"""What a ClientHello says, read in whatever pieces and records it comes, and what is none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.proto.client_hello import MOST, Hello, HelloReader
from tests.proto.test_client_hello import hello, in_records


def read(*pieces: bytes) -> HelloReader:
    reader = HelloReader()
    for piece in pieces:
        reader.take(piece)
    return reader


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!HH", kind, len(data)) + data


def sni(name: bytes, kind: int = 0) -> bytes:
    item = struct.pack("!BH", kind, len(name)) + name
    return extension(0, struct.pack("!H", len(item)) + item)


def message(*extensions: bytes) -> bytes:
    """A ClientHello by hand."""
    listed = b"".join(extensions)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack("!H", len(listed)) + listed
    return b"\1" + len(body).to_bytes(3, "big") + body


GREASE = extension(0x1A1A, b"") + extension(0xFAFA, b"\0")


@given(st.lists(st.integers(1, 400), max_size=20), st.lists(st.integers(1, 300), max_size=20))
def test_in_any_pieces_and_any_records(records: list[int], cuts: list[int]) -> None:
    sent = in_records(hello(["h2", "http/1.1"], "www.example.org")[5:], records)
    reader, rest = HelloReader(), sent
    for cut in [*cuts, len(sent)]:
        assert not reader.is_done or not rest
        reader.take(rest[:cut])
        rest = rest[cut:]
    assert reader.is_done and reader.hello == Hello("www.example.org", ("h2", "http/1.1"))


def test_byte_by_byte_and_with_what_follows() -> None:
    sent = in_records(hello([], "localhost")[5:], [1] * 40)
    assert read(*(sent[at:at + 1] for at in range(len(sent)))).hello == Hello("localhost", ())
    assert read(sent + b"\x17\3\3\0\5early").hello == Hello("localhost", ())
    assert not read(sent[:-1]).is_done


def test_grease_and_large_ones() -> None:
    assert read(in_records(message(GREASE, sni(b"a.example"), GREASE), [])).hello == Hello("a.example", ())
    padding = extension(21, bytes(MOST - len(message(sni(b"a.example"))) - 4 + 4))
    whole = message(padding, sni(b"a.example"))
    assert len(whole) == MOST + 4  # the head of the message does not count
    assert read(in_records(whole, [16384])).hello == Hello("a.example", ())
    larger = message(padding + b"\0\x99\0\0", sni(b"a.example"))
    reader = read(in_records(larger, [100])[:200])
    assert reader.is_done and reader.hello is None  # as soon as its length is known


@pytest.mark.parametrize(("extensions", "name"), [
    ([sni(b"")], ""), ([sni(b"a\0b")], ""), ([sni("bücher".encode())], ""), ([sni(b"a.example", 7)], ""),
    ([extension(0, b"\0\0")], ""), ([sni(b"a.example"), sni(b"b.example")], "a.example"), ([], ""),
])
def test_names_that_are_none(extensions: list[bytes], name: str) -> None:
    assert read(in_records(message(*extensions), [])).hello == Hello(name, ())


@pytest.mark.parametrize("sent", [
    b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\1\0\2", b"\x16\2\0\0\5", b"\x16\3\1\0\0", b"\x16\3\1\x40\1",
    b"\x16\3\1\0\4\2\0\0\0", b"\x15\3\1\0\2\2\x28", b"\0",
    in_records(message(extension(0, b"\0\x20\0\0\5abc")), []), in_records(message(b"\0\0\0\xff"), []),
    in_records(b"\1\0\0\2\3\3", []), in_records(message(extension(16, b"\0\3\2h")), []),
])
def test_what_is_no_hello(sent: bytes) -> None:
    reader = read(sent)
    assert reader.is_done and reader.hello is None


@given(st.binary(max_size=300), st.integers(0, 600), st.binary(max_size=50))
def test_any_bytes_are_read_to_their_end(data: bytes, length: int, more: bytes) -> None:
    for sent in (data, hello(["h2"])[:length] + more, in_records(data, [7, 30])):
        whole, piecewise = read(sent), read(*(sent[at:at + 1] for at in range(len(sent))))
        assert (whole.is_done, whole.hello) == (piecewise.is_done, piecewise.hello)
