"""Rates by a clock that is turned by hand: so many in any time, and no more; nor fewer where more may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.model import rates
from gpen.model.rates import NO_RATE, Arrivals, Bucket, Rate, Window, parse_bytes, parse_rate, show_bytes

spans = st.integers(0, 192).map(lambda number: number / 64)  # seconds that add up exactly


@pytest.mark.parametrize(("text", "rate"), [
    ("100", Rate(100, 1)), ("600/60", Rate(600, 60)), ("1/0.5", Rate(1, 0.5)), ("0", NO_RATE), ("off", NO_RATE),
    ("0/7", NO_RATE)])
def test_rates_are_read_and_written(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate == parse_rate(str(rate))

    assert bool(rate) is (rate != NO_RATE)


@pytest.mark.parametrize("text", ["5/86399.999", "1/12345.678", "7/0.001", "600/60", "100/10"])
def test_a_rate_is_written_as_it_was_said(text: str) -> None:
    assert str(parse_rate(text)) == text


@pytest.mark.parametrize("text", ["", "-1", "1/0", "1/", "/1", "1/2/3", "x", "1e3", "1000001", "1/86401", "\u0661",
                                  "1 /2"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate: expected N or N/S"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "count", "shown"), [
    ("500", 500, "500"), ("64k", 65536, "64k"), ("10M", 10 << 20, "10m"), ("1g", 1 << 30, "1g"), ("0", 0, "0"),
    ("off", 0, "0"), ("1024", 1024, "1k"), ("1048577", 1048577, "1048577")])
def test_bytes_are_read_and_written(text: str, count: int, shown: str) -> None:
    assert parse_bytes(text) == count
    assert show_bytes(count) == shown
    assert parse_bytes(shown) == count


@pytest.mark.parametrize("text", ["", "-1", "k", "1t", "1.5m", "10mb", "10mbit", "9999999g", "\u0661"])
def test_what_are_no_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of bytes a second"):
        parse_bytes(text)


@given(st.integers(1, 7), spans.filter(bool), st.lists(spans, min_size=1, max_size=200))
def test_so_many_in_any_time_and_no_more(count: int, seconds: float, waits: list[float]) -> None:
    """Against a plain list of all that came."""
    window, came, now = Window(Rate(count, seconds)), [], 0.0
    for wait in waits:
        now += wait
        recent = sum(now - moment < seconds for moment in came)
        assert window.within(now) == recent
        delay = window.wait(now)
        assert (delay > 0) is (recent >= count)
        if delay:
            assert came[-count] + seconds == pytest.approx(now + delay)
        else:
            window.note(now)
            came.append(now)


def test_each_address_has_its_own() -> None:
    arrivals = Arrivals(Rate(2, 10))
    for now in (0.0, 1.0):
        arrivals.note("a", now)
    assert (arrivals.wait("a", 1.0), arrivals.wait("b", 1.0)) == (9.0, 0.0)
    assert (arrivals.within("a", 1.0), arrivals.within("a", 10.5), arrivals.within("b", 1.0)) == (2, 1, 0)
    assert arrivals.wait("a", 10.0) == 0.0


def test_those_whose_time_is_over_are_forgotten() -> None:
    arrivals = Arrivals(Rate(2, 10))
    for number in range(1000):
        arrivals.note(f"{number}", number / 10)
    assert len(arrivals) == 100


def test_a_flood_of_addresses_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was let in longest ago is forgotten first."""
    monkeypatch.setattr(rates, "MOST_ADDRESSES", 100)
    monkeypatch.setattr(rates, "MOST_MOMENTS", 150)
    arrivals = Arrivals(Rate(2, 1000))
    for number in range(500):
        arrivals.note(f"{number}", number)
    assert len(arrivals) == 100
    assert (arrivals.within("399", 500), arrivals.within("400", 500)) == (0, 1)
    for number in range(400, 500):
        arrivals.note(f"{number}", 500)
    assert sum(arrivals.within(f"{number}", 500) for number in range(500)) <= 150
    assert arrivals.wait("499", 500) == 0.0 == arrivals.wait("0", 500)


@given(st.integers(1, 10**6), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**6)), max_size=50))
def test_no_more_bytes_pass_than_the_rate_says(rate: int, uses: list[tuple[float, int]]) -> None:
    """But what was not used just before, and less than what a single read takes more."""
    bucket, now, passed = Bucket(rate, 0.0), 0.0, 0
    for wait, most in uses:
        now += wait
        count = min(most, max(int(bucket.left(now)), 0))
        bucket.take(count)
        passed += count
        assert passed <= rate * (now + rates.FIRST_SECONDS) + 1.001


def test_who_has_taken_too_much_waits_until_it_is_made_up_for() -> None:
    bucket = Bucket(1000, 0.0)
    bucket.take(600)
    assert bucket.left(0.0) == -550
    assert bucket.wait(1, 0.0) == pytest.approx(0.551)
    assert bucket.wait(10**9, 0.0) == pytest.approx(0.75)
    assert bucket.left(0.55) == pytest.approx(0)
    assert bucket.left(100.0) == 200
