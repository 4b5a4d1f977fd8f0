"""The addresses that connections to servers come from, as people write them."""

from __future__ import annotations

import pytest

from gpen.model.sources import ABSENT_SECONDS, MOST_SOURCES, Turns, parse_sources, sources_of


@pytest.mark.parametrize(("text", "said", "four", "six"), [
    ("10.0.0.1, 10.0.0.3-10.0.0.4", ("10.0.0.1", "10.0.0.3-10.0.0.4"), ("10.0.0.1", "10.0.0.3", "10.0.0.4"), ()),
    ("10.0.0.1 , ::1 10.0.0.1", ("10.0.0.1", "::1"), ("10.0.0.1",), ("::1",)),
    ("::ffff:10.0.0.1-10.0.0.2", ("10.0.0.1-10.0.0.2",), ("10.0.0.1", "10.0.0.2"), ()),
    ("fe80::1%br-lan,fe80::2%eth0", ("fe80::1%br-lan", "fe80::2%eth0"), (), ("fe80::1%br-lan", "fe80::2%eth0")),
    (",".join(["10.0.0.1"] * 5000), ("10.0.0.1",), ("10.0.0.1",), ()),
])
def test_lists(text: str, said: tuple[str, ...], four: tuple[str, ...], six: tuple[str, ...]) -> None:
    """Written with blanks as well, the same one twice; an address of a link keeps its interface."""
    assert parse_sources(text.split()) == said
    assert (sources_of(said, 4), sources_of(said, 6)) == (four, six)


@pytest.mark.parametrize(("text", "told"), [
    (",", "no address"), ("10.0.0.1-", "'10.0.0.1-' is not an IPv4"), ("10.0.0.2-10.0.0.1", "ends before"),
    ("10.0.0.1-::5", "mixes IPv4 and IPv6"), ("::-ffff::", f"at most {MOST_SOURCES} are possible"),
    ("fe80::1%a;b", "'fe80::1%a;b' is not"), ("fe80::1%a-fe80::2%a", "is not an IPv4"), ("x" * 9999, "xxx...' is not"),
    (",".join(f"10.0.0.{number}-10.0.9.255" for number in range(200)), ",...' are "),
])
def test_what_is_wrong_is_told_in_a_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"expected|possible") as caught:
        parse_sources(text.split())
    assert told in str(caught.value) and len(str(caught.value)) < 300


def test_turns_pass_over_those_that_are_missed() -> None:
    """For a while, and unless all are."""
    turns = Turns()
    assert [list(turns.of("abc", 0.0)) for _ in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    turns.miss("a", 0.0)
    assert [list(turns.of("abc", 1.0)) for _ in range(2)] == [list("bc"), list("cb")]
    assert list(turns.of("a", 1.0)) == ["a"] and list(turns.of("", 1.0)) == []
    assert list(turns.of("abc", ABSENT_SECONDS)) == list("cab")
    for source in range(MOST_SOURCES):
        turns.miss(str(source), 9.0)
    assert list(turns.of([str(MOST_SOURCES - 1), "x"], 9.0)) == ["x"]
