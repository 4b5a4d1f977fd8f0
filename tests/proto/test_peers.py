"""HAProxy's peers protocol: what is written is read again, in any pieces; what haproxy has written is understood; and
whatever else comes is refused, or passed over."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.proto.peers import (
    ASK,
    DICTIONARY,
    FINISHED,
    HEARTBEAT,
    IPV4,
    IPV6,
    KEY_BYTES,
    MOST_MESSAGE,
    Acknowledgement,
    Control,
    Decoder,
    Definition,
    Encoder,
    Failure,
    Hello,
    Message,
    PeersError,
    Updates,
    acknowledgement,
    control,
    decoded,
    definition,
    encoded,
    entries_of,
    failure,
    hello,
    hello_length,
    parse_hello,
    parse_status,
    status_line,
)

WEB = Definition(1, "web", IPV4, 4, expiry=1_800_000)


def reader(*names: str) -> Decoder:
    return Decoder(lambda table: not names or table.name in names)


def read_in(pieces: Sequence[bytes], decoder: Decoder) -> list[Message]:
    return [message for piece in pieces for message in decoder.read(piece)]


# --- numbers ----------------------------------------------------------------------------------------------------------


@given(st.one_of(st.integers(0, 5000), st.integers(0, 2**64 - 1)))
def test_numbers(value: int) -> None:
    data = encoded(value)
    assert decoded(data + b"x", 0) == (value, len(data))


@pytest.mark.parametrize(("value", "data"), [
    (0, "00"), (239, "ef"), (240, "f000"), (2287, "ff7f"), (2288, "f08000"), (0x1234, "f49401"), (264431, "ffff7f")])
def test_numbers_as_the_document_has_them(value: int, data: str) -> None:
    assert encoded(value).hex() == data and decoded(bytes.fromhex(data), 0)[0] == value


@pytest.mark.parametrize("data", [b"\xff" * 12, b"\xff" * 9 + b"\x7f", b"\xff" * 100_000])
def test_a_number_that_never_ends(data: bytes) -> None:
    with pytest.raises(PeersError, match="64 bits"):
        decoded(data, 0)


# --- hello ------------------------------------------------------------------------------------------------------------

names = st.text("abcXYZ019_.-", min_size=1, max_size=64)


@given(names, names, st.integers(0, 99999), st.binary(max_size=9))
def test_hello(remote: str, local: str, process: int, rest: bytes) -> None:
    data = hello(Hello(remote, local, process))
    assert parse_hello(data + rest) == Hello(remote, local, process)
    assert hello_length(data + rest) == len(data)
    assert all(parse_hello(data[:end]) is None for end in range(len(data)))


def test_hello_of_haproxy() -> None:
    assert parse_hello(b"HAProxyS 2.1\ngp\nha 4711 0\n") == Hello("gp", "ha", 4711)


@pytest.mark.parametrize(("data", "status"), [
    (b"GET / HTTP/1.1\r\n", 501), (b"\x16\x03\x01", 501), (b"HAProxyS 2.0\na\nb 1 0\n", 502),
    (b"HAProxyS 3.0\na\nb 1 0\n", 502), (b"HAProxyS x\na\nb 1 0\n", 501), (b"HAProxyS 2.1\n\nb 1 0\n", 501),
    (b"HAProxyS 2.1\na\n\n", 501), (b"HAProxyS 2.1\n" + b"a" * 1000, 501)])
def test_what_is_no_hello(data: bytes, status: int) -> None:
    with pytest.raises(PeersError) as caught:
        parse_hello(data)
    assert caught.value.status == status


def test_statuses() -> None:
    assert parse_status(status_line(200) + b"\0\4") == 200
    assert [parse_status(data) for data in (b"", b"2", b"200")] == [None] * 3
    for data in (b"abc\n", b"2000", b"20\n", b"\n"):
        with pytest.raises(PeersError):
            parse_status(data)


# --- messages ---------------------------------------------------------------------------------------------------------

ipv4, ipv6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
servers = st.one_of(st.sampled_from(["10.0.0.1:80", "2001:db8::1:80", "/run/www"]),
                    st.integers(0, 300).map("10.1.0.1:{}".format), st.text("abc:.", min_size=1, max_size=250))
numbers = st.integers(0, 2**32 - 1)
rows = st.one_of(st.tuples(st.just(IPV4), ipv4, servers, numbers, numbers),
                 st.tuples(st.just(IPV6), ipv6, servers, numbers, numbers))


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(rows, max_size=400), st.lists(st.integers(0, 10_000), max_size=8))
def test_entries(told: list[tuple[int, bytes, str, int, int]], cuts: list[int]) -> None:
    """In whichever pieces they come, from whichever tables, and of however many servers."""
    encoder, data, expected = Encoder(), b"", []
    table = 0
    for kind, key, server, update, left in told:
        if kind != table:
            table = kind
            data += definition(Definition(kind, "web", kind, KEY_BYTES[kind]))
        data += encoder.update(kind, update, left, key, server)
        expected.append((key, server, left, update))
    assert entries_of(read_in(pieces_of(data, cuts), reader())) == expected


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_all_kinds_of_messages(cuts: list[int]) -> None:
    encoder = Encoder()
    data = b"".join([
        control(ASK), definition(WEB), encoder.update(IPV4, 5, 9, b"abcd", "a:1"), control(HEARTBEAT),
        encoder.update(IPV4, 6, 8, b"efgh", "a:1"), acknowledgement(300, 2**32 - 1), control(FINISHED),
        failure(PeersError("", is_too_long=True))])
    messages = read_in(pieces_of(data, cuts), reader())
    assert messages == [
        Control(ASK), Updates(WEB, [(b"abcd", "a:1", 9, 5)], 5), Control(HEARTBEAT),
        Updates(WEB, [(b"efgh", "a:1", 8, 6)], 6), Acknowledgement(300, 2**32 - 1), Control(FINISHED), Failure(True)]


def update_of(kind: int, body: bytes) -> bytes:
    return bytes((10, kind)) + encoded(len(body)) + body


def test_the_four_kinds_of_updates() -> None:
    """With its number and without, with the time left and without."""
    place = b"\x05\x01\x03a:1"
    data = definition(WEB) + b"".join([
        update_of(128, b"\0\0\0\x07" + b"key1" + place), update_of(129, b"key2" + b"\x01\x01"),
        update_of(133, b"\xff\xff\xff\xff" + b"\0\0\x01\0" + b"key3" + b"\x01\x01"),
        update_of(134, b"\0\0\x02\0" + b"key4" + b"\x01\x01"), update_of(129, b"key5" + b"\0")])
    assert entries_of(reader().read(data)) == [
        (b"key1", "a:1", None, 7), (b"key2", "a:1", None, 8), (b"key3", "a:1", 256, 2**32 - 1),
        (b"key4", "a:1", 512, 0), (b"key5", None, None, 1)]


def test_other_values_are_passed_over() -> None:
    """Those in front of the server's key, of which some are three numbers, and those behind."""
    values = 1 << 0 | 1 << 3 | 1 << 13 | 1 << 19 | 1 << 20
    table = Definition(4, "web", IPV4, 4, values)
    body = b"\0\0\0\x01key1" + encoded(3) + encoded(1) + encoded(70_000) + encoded(2) + encoded(2**40)
    data = definition(table) + update_of(128, body + b"\x05\x01\x03a:1" + encoded(999))
    assert entries_of(reader().read(data)) == [(b"key1", "a:1", None, 1)]


def test_tables_that_are_not_wanted() -> None:
    """Of another name, with other keys, or without servers: their entries are passed over, and they take no room."""
    decoder, encoder = reader("web"), Encoder()
    others = [Definition(number, f"other{number}", IPV4, 4) for number in range(2, 5000)]
    others += [Definition(5001, "web", 6, 32), Definition(5002, "web", IPV4, 7), Definition(5003, "web", IPV4, 4, 1)]
    tracemalloc.start()
    for other in others:
        data = definition(other) + encoder.update(IPV4, 1, 1, b"abcd", "a:1")
        assert decoder.read(data) == []
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 20_000
    assert entries_of(decoder.read(definition(WEB) + Encoder().update(IPV4, 1, 2, b"abcd", "a:1")))


def test_one_table_under_thousands_of_numbers_takes_no_room() -> None:
    decoder = reader("web")
    for number in range(3000):
        decoder.read(definition(Definition(number, "web", IPV4, 4)))
    switched = [entries_of(decoder.read(update_of(131, encoded(number)) + update_of(129, b"abcd\0")))
                for number in (5, 2998, 2999)]
    assert [bool(entries) for entries in switched] == [False, False, True]


def test_a_table_is_switched_to() -> None:
    decoder, encoder = reader(), Encoder()
    other = Definition(2, "web", IPV6, 16)
    data = definition(WEB) + definition(other) + update_of(131, b"\x01") + encoder.update(IPV4, 1, 2, b"abcd", "a:1")
    (updates,) = decoder.read(data)
    assert isinstance(updates, Updates) and updates.table == WEB and decoder.has("web", IPV6)


def test_classes_and_types_that_nobody_knows_are_passed_over() -> None:
    encoder = Encoder()
    data = b"".join([update_of(200, b"x" * 500), bytes((11, 130)) + encoded(3) + b"abc", b"\xff\x05", definition(WEB),
                     update_of(150, b""), encoder.update(IPV4, 1, 2, b"abcd", "a:1")])
    assert entries_of(reader().read(data)) == [(b"abcd", "a:1", 2, 1)]


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    b"\x0a\x85" + encoded(MOST_MESSAGE + 1), b"\x0a\x85" + encoded(2**40), b"\x0a\x85" + b"\xff" * 20])
def test_a_message_that_is_too_long_is_refused_before_it_comes(data: bytes) -> None:
    with pytest.raises(PeersError):
        reader().read(data)


@pytest.mark.parametrize("body", [
    b"", b"\0\0\0\x01", b"\0\0\0\x01ke", b"\0\0\0\x01key1", b"\0\0\0\x01key1\x05\x01", b"\0\0\0\x01key1\x01",
    b"\0\0\0\x01key1\x01\0", b"\0\0\0\x01key1\x01\x81", b"\0\0\0\x01key1\x03\x01\x09a",
    b"\0\0\0\x01key1\x03\x01\x01\xff",
    b"\0\0\0\x01key1\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"])
def test_entries_that_make_no_sense(body: bytes) -> None:
    with pytest.raises(PeersError):
        reader().read(definition(WEB) + update_of(128, body) + control(HEARTBEAT) * 20)


@given(st.one_of(st.binary(max_size=300), st.builds(
    lambda head, kind, body: definition(WEB) + head + update_of(kind, body), st.binary(max_size=20),
    st.integers(128, 140), st.binary(max_size=60))), st.lists(st.integers(0, 10_000), max_size=4))
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    """They are read, or refused, and what they were cut into makes no difference."""
    def outcome(pieces: Sequence[bytes]) -> tuple[list[object], bool]:
        decoder, found = reader(), []
        try:
            for piece in pieces:
                for message in decoder.read(piece):
                    found += message.entries if isinstance(message, Updates) else [message]
        except PeersError:
            return [], False
        return found, True

    assert outcome([data]) == outcome(pieces_of(data, cuts))


def test_servers_without_end_take_no_room() -> None:
    encoder, decoder = Encoder(), reader()
    decoder.read(definition(WEB))
    tracemalloc.start()
    for number in range(20_000):
        server = f"10.0.{number >> 8}.{number & 255}:80"
        assert entries_of(decoder.read(encoder.update(IPV4, 1, 2, b"abcd", server)))[0][1] == server
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 400 * DICTIONARY


def test_messages_of_control_take_no_room() -> None:
    """Thousands of new objects at a time would have Python look through all clients that gpen remembers."""
    data = (control(ASK) + bytes((7, 7))) * 5000
    decoder = Decoder(lambda table: True)
    decoder.read(control(ASK))
    tracemalloc.start()
    try:
        messages = decoder.read(data)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert messages == [Control(ASK), Control(-1)] * 5000 and taken < 16 * len(messages)
