"""What becomes of a datagram: notes, lines, pieces, and bytes that are neither."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpen.netlog.entries import PIECE, one_line, read_note, read_web_line, unescaped
from gpen.netlog.merge import BEGUN, LONGEST, Merger
from tests.netlog.programs import WEB, line, note

FROM = (WEB, 1)
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def merged(*datagrams: bytes, limit: int = 100) -> list[bytes]:
    merger = Merger(limit)
    return [out for datagram in datagrams for out in merger.take(datagram, FROM)]


# --- notes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datagram, client, server, request_line", [
    (b"+ 127.0.0.1 127.0.0.2 GET /a HTTP/1.1\n", "127.0.0.1", "127.0.0.2", b"GET /a HTTP/1.1"),
    (b"+ 127.0.0.1 127.0.0.2 GET /a HTTP/1.1", "127.0.0.1", "127.0.0.2", b"GET /a HTTP/1.1"),
    (b"+ 127.0.0.1 127.0.0.2 GET /a\rb\nc\n", "127.0.0.1", "127.0.0.2", b"GET /a"),
    (b"+ 127.0.0.1 127.0.0.2 \x00\x01\xff\n", "127.0.0.1", "127.0.0.2", b"\x00\x01\xff"),
    (b"+ 2001:DB8:0::5 ::ffff:10.0.0.1 GET /\n", "2001:db8::5", "10.0.0.1", b"GET /"),
    (b"+ fe80::1%eth0 fe80::2%\x1b[31m GET /\n", "fe80::1", "fe80::2", b"GET /"),
])
def test_a_note_is_read(datagram: bytes, client: str, server: str, request_line: bytes) -> None:
    assert read_note(datagram) == (client, server, request_line)


@pytest.mark.parametrize("datagram", [
    b"+ ", b"+ a", b"+ a b", b"+ a b c\n", b"+ 1.1.1.1 localhost GET /\n", b"+ 1.1.1.1 2.2.2.2\n",
    b"+ 1.1.1.1 2.2.2.2 \n", b"+ 1.1.1.1 2.2.2.2 \r\n", b"+ 1.1.1.256 2.2.2.2 GET /\n", b"+ \x00 2.2.2.2 GET /\n",
    b"+ 1.1.1.1 \xff\xfe GET /\n", b"+  1.1.1.1 2.2.2.2 GET /\n"])
def test_a_bad_note_is_refused(datagram: bytes) -> None:
    with pytest.raises(ValueError):
        read_note(datagram)
    assert merged(datagram) == []


# --- lines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before, after", [
    (b'127.0.0.1 - - [x] "GET /a" 200 5\n', b'10.9.9.9 - - [x] "GET /a" 200 5'),
    (b'127.0.0.1 - - [x] "GET /a" 200 5', b'10.9.9.9 - - [x] "GET /a" 200 5'),
    (b'127.0.0.1 - - [x] "GET /a" 200 5\r\n', b'10.9.9.9 - - [x] "GET /a" 200 5'),
    (b'lb.example.com\t"GET /a"\t\xc3\xa9\xff "ref" "agent"\n', b'10.9.9.9\t"GET /a"\t\xc3\xa9\xff "ref" "agent"'),
    (b'::1 - "GET /a"\n', b'10.9.9.9 - "GET /a"'),
])
def test_the_first_word_is_replaced_and_nothing_else(before: bytes, after: bytes) -> None:
    assert merged(note("10.9.9.9", b"GET /a"), before) == [after]


@pytest.mark.parametrize("unknown", [
    b'127.0.0.1 - "GET /b" 200', b'127.0.0.1 - "GET /" 200', b'127.0.0.1 - "GET /a HTTP/1.1" 200', b'127.0.0.1 "" 400',
    b'127.0.0.1 - "-" 408', b'"GET /a" 200', b' "GET /a" 200', b'{"client": "127.0.0.1", "request": "GET /a"}'])
def test_a_line_whose_request_is_not_known_is_unchanged(unknown: bytes) -> None:
    assert merged(note("10.9.9.9", b"GET /a"), unknown + b"\n") == [unknown]


@pytest.mark.parametrize("sent, logged", [
    (b'GET /a"b\\c', rb'GET /a\"b\\c'), (b'GET /a"b', rb"GET /a\x22b"), (b"\x16\x03\x01", rb"\x16\x03\x01"),
    (b"GET /\tb", rb"GET /\tb"), (rb"GET /a\b", rb"GET /a\b"), (b"GET /\xff", rb"GET /\xff"),
    (b"GET /\xff", b"GET /\xff"), (b"GET /\x01", b"GET /\x01")])
def test_a_request_is_known_however_the_web_server_writes_it(sent: bytes, logged: bytes) -> None:
    assert merged(note("10.9.9.9", sent), line(logged))[0].startswith(b"10.9.9.9 - ")


def test_an_escape_at_the_end_is_left() -> None:
    assert unescaped(b"a\\") == b"a\\"


@pytest.mark.parametrize("bad", [b"", b"\n", b"x", b"no request\n", b'one " quote\n', b"\xff" * 2000, b"+x\n"])
def test_what_is_no_line_is_ignored_and_counted(bad: bytes) -> None:
    merger = Merger(10)
    assert not list(merger.take(bad, FROM))
    assert (merger.lines, merger.ignored) == (0, 1)


def test_a_datagram_is_one_line() -> None:
    forged = line(b"GET /a").rstrip() + b"\n" + line(b"GET /\x1b[2J")
    assert merged(forged) == [line(b"GET /a").rstrip() + b"\\x0a" + line(rb"GET /\x1b[2J").rstrip()]


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=40).map(b'+ 1.1.1.1 127.0.0.2 '.__add__)
                | st.binary(max_size=40).map(b'1.1.1.1 "'.__add__), max_size=20))
@example([b"+ ::1 127.0.0.2 a", b'1 "a"'])
def test_no_bytes_do_harm(datagrams: list[bytes]) -> None:
    merger = Merger(5)
    for datagram in datagrams:
        for out in merger.take(datagram, FROM):
            assert not CONTROL.search(out)
    assert list(merger.take(note("9.9.9.9", b"GET /ok"), FROM)) == []
    assert list(merger.take(line(b"GET /ok"), FROM)) == [line(b"GET /ok", address="9.9.9.9").rstrip()]


@given(st.binary(max_size=300))
def test_what_is_read_from_a_line_is_all_of_it(some: bytes) -> None:
    parts = read_web_line(one_line(some))
    assert parts is None or parts.address + parts.rest == one_line(some)


# --- pieces --------------------------------------------------------------------------------------------------------


def pieces_of(whole: bytes) -> list[bytes]:
    return [whole[start:start + PIECE] for start in range(0, len(whole), PIECE)]


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 5000])
def test_pieces_are_put_together(length: int) -> None:
    start = line(b"GET /a", b"")[:-1]
    whole = start + b"x" * (length - len(start) - 1) + b"\n"
    assert len(whole) == length
    expected = [whole.replace(b"127.0.0.1", b"10.9.9.9", 1).rstrip(b"\n")]
    assert merged(note("10.9.9.9", b"GET /a"), *pieces_of(whole)) == expected


def test_a_piece_that_looks_like_a_note_is_a_piece() -> None:
    start = line(b"GET /a", b"x" * 2000)[:PIECE]
    assert merged(start, b"+ ::1 127.0.0.2 GET /\n") == [start + b"+ ::1 127.0.0.2 GET /"]


def test_pieces_of_two_senders_are_kept_apart() -> None:
    merger = Merger(10)
    a, b = (pieces_of(line(letter * 2500)) for letter in (b"a", b"b"))
    written = [out for pair in zip(a, b, strict=True) for sender, piece in enumerate(pair)
               for out in merger.take(piece, (WEB, sender))]
    assert written == [b"".join(a).rstrip(), b"".join(b).rstrip()]


def test_of_many_begun_lines_the_oldest_are_written_as_they_are() -> None:
    merger = Merger(10)
    begun = [line(b"GET /%d" % number, b"x" * 2000)[:PIECE] for number in range(BEGUN + 3)]
    assert [out for number, piece in enumerate(begun) for out in merger.take(piece, (WEB, number))] == begun[:3]


def test_an_endless_line_is_written_in_parts() -> None:
    merger = Merger(10)
    endless = b'x "a" ' + b"y" * LONGEST
    written = [out for piece in pieces_of(endless) for out in merger.take(piece, FROM)]
    assert len(written) == 1 and endless.startswith(written[0])
    assert len(written[0]) <= LONGEST


def test_at_the_end_what_has_begun_is_written() -> None:
    merger = Merger(10)
    piece = line(b"GET /", b"x" * 2000)[:PIECE]
    assert list(merger.take(piece, FROM)) == []
    assert list(merger.rest()) == [piece]
