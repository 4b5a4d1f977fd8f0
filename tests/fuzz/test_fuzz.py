"""A minute of random input, always the same; `make fuzz` takes an hour, and other input each time."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz import http_reference as reference
from tests.fuzz.campaign import Campaign
from tests.fuzz.kind import Kind, pure
from tests.fuzz.kinds import KINDS
from tests.fuzz.mutations import pieces
from tests.fuzz.proxy import SIGNATURE, check_reading, checksum, meaning
from tests.proto.test_http_requests import CHUNKED, SMUGGLING

pytestmark = pytest.mark.long

SEED = int(os.environ.get("FUZZ_SEED") or 1)
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)  # for all kinds together; 0 is one round of each


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_fuzz(kind: Kind, tmp_path: Path) -> None:
    campaign = Campaign([kind], SEED)
    campaign.run(tmp_path, SECONDS / len(KINDS))
    (tally,) = campaign.tallies
    assert not tally.failure, tally.failure
    assert tally.cases >= min(kind.round, 50), "there was hardly any input"


# --- the tester tested -----------------------------------------------------------------------------------------------


def test_a_failure_is_told_with_the_smallest_input(tmp_path: Path) -> None:
    def check(case: bytes) -> None:
        assert b"\xff" not in case

    said: list[str] = []
    kind = Kind("bytes", "any", st.binary(max_size=50), pure(check), 300)
    campaign = Campaign([kind], 5, said.append)
    campaign.run(tmp_path)
    assert campaign.tallies[0].failure in said
    shown = said[0].partition("the smallest input:\n")[2].partition("\n")[0]
    assert ast.literal_eval(shown.strip()) == b"\xff"
    assert "--only bytes --seed 5 --round 0" in said[0] and "  1\n" in campaign.table()


def test_a_seed_makes_the_same_input(tmp_path: Path) -> None:
    seen: list[list[bytes]] = []
    for number in range(3):
        cases: list[bytes] = []
        (tmp_path / str(number)).mkdir()
        Campaign([Kind("bytes", "any", st.binary(), pure(cases.append), 20)], number // 2).run(tmp_path / str(number))
        seen.append(cases)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize(("cuts", "expected"), [
    ((), [b"abcdef"]), ((2,), [b"ab", b"cdef"]), ((8, 2, 6), [b"ab", b"cdef"]),
    ((-1,), [b"a", b"b", b"c", b"d", b"e", b"f"]),
])
def test_pieces(cuts: tuple[int, ...], expected: list[bytes]) -> None:
    assert list(pieces(b"abcdef", cuts)) == expected
    assert list(pieces(b"", cuts)) == [b""]


@pytest.mark.parametrize("request_", SMUGGLING.values(), ids=SMUGGLING)
def test_the_strict_reader_refuses(request_: bytes) -> None:
    found = reference.read(request_)
    assert not [request for request in found.requests if request.whole and not request.broken] or (
        found.requests[0].doubtful)


def test_the_strict_reader_reads() -> None:
    stream = (b"GET /a HTTP/1.1\r\nHost: www\r\nA: \tx  y \r\nE:\r\n\r\n\r\n"
              b"POST /b HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc" + CHUNKED
              + b"2;a=b\r\nhi\r\n0\r\nA: b\r\n\r\nPUT /c HTTP/1.0\r\nContent-Length: 9\r\n\r\nabc")
    found = reference.read(stream)
    assert [(request.method, request.body, request.whole) for request in found.requests] == [
        (b"GET", b"", True), (b"POST", b"abc", True), (b"POST", b"hi", True), (b"PUT", b"abc", False)]
    assert found.requests[0].fields == [(b"Host", b"www"), (b"A", b"x  y"), (b"E", b"")]
    assert not found.refused and not found.begun


V2 = SIGNATURE + b"\x21"
NOWHERE = b"\x00\x0c" + bytes(12)  # twelve bytes of addresses


@pytest.mark.parametrize(("header", "accepted"), [
    (V2 + b"\x11" + NOWHERE, True), (V2 + b"\x12" + NOWHERE, True), (V2 + b"\x00\x00\x00", True),
    (V2 + b"\x12\x00\x00", False), (V2 + b"\x22" + NOWHERE, False), (V2 + b"\x13" + NOWHERE, False),
    (V2 + b"\x41" + NOWHERE, False), (V2 + b"\x00\x00\x03\x04\x00\x01", False),
    (V2 + b"\x00\x00\x07\x03\x00\x04" + checksum(V2 + b"\x00\x00\x07\x03\x00\x04" + bytes(4)), True),
    (V2 + b"\x00\x00\x07\x03\x00\x04abcd", False), (V2 + b"\x00\x00\x03\x03\x00\x00", False),
    (V2 + b"\x00\x00\x04\x20\x00\x01a", False), (V2 + b"\x00\x00\x08\x20\x00\x05abcde", True),
    (V2 + b"\x00\x00\x83\x05\x00\x80" + b"i" * 128, True), (V2 + b"\x00\x00\x84\x05\x00\x81" + b"i" * 129, False),
    (V2 + b"\x00\x00\x09\x20\x00\x06abcdef", False), (V2 + b"\x00\x00\x0b\x20\x00\x08abcde\x20\x00\x00", True),
])
def test_proxy_headers(header: bytes, accepted: bool) -> None:
    """The strict reader and gpen agree."""
    found = meaning(header + b"hello")
    assert (found.accepted, found.length) == (accepted, len(header) if accepted else 0)
    check_reading((header + b"hello", ()))


def test_the_careless_reader_is_deceived() -> None:
    """Or it would show nothing."""
    stream = b"GET / HTTP/1.1\r\nHost: a\r\nA: b\n\nGET /forged HTTP/1.1\r\nX_Forwarded.For : 6.6.6.6\r\n\r\n"
    assert [told for _, _, told in reference.loosely(stream)] == [b"", b"6.6.6.6"]
