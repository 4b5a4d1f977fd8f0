"""How words are written, and what somebody else has said so that it can do no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.model.text import printable, shortened

ODD = {
    "an escape sequence": ("\x1b[31mX", r"\x1b[31mX"), "C0 and DEL": ("a\0\t\n\r\x7fb", r"a\x00\x09\x0a\x0d\x7fb"),
    "C1": ("\x9b2J\x85", r"\xc2\x9b2J\xc2\x85"), "turned round": ("\u202e\u2066", r"\xe2\x80\xae\xe2\x81\xa6"),
    "ends of lines": ("\u2028\u2029", r"\xe2\x80\xa8\xe2\x80\xa9"),
    "no width": ("\u200b\ufeff", r"\xe2\x80\x8b\xef\xbb\xbf"),
    "unseen letters": ("\u3164\ufe0f", r"\xe3\x85\xa4\xef\xb8\x8f"), "a tag": ("\U000e0041", r"\xf3\xa0\x81\x81"),
    "a byte of a file's name": ("\udc9b", r"\x9b"), "half of a pair": ("\ud800", r"\xed\xa0\x80"),
}
any_text = st.text(st.characters() | st.sampled_from("\\\x1b\x9b\u202e\u2028\u200b\ufe0f\n\t\r"))


@pytest.mark.parametrize(("text", "told"), ODD.values(), ids=ODD)
def test_what_can_do_harm_is_written_as_its_bytes(text: str, told: str) -> None:
    assert printable(text) == shortened(text) == told
    assert printable(f"before {text} behind") == f"before {told} behind"


def test_bytes_that_are_no_text() -> None:
    assert printable(b"\xff\xc2\x9b\xed\xa0\x80caf\xc3\xa9") == r"\xff\xc2\x9b\xed\xa0\x80café"


@pytest.mark.parametrize("text", ["", "plain", "Zürich 東京 שלום", r"C:\new", "é"])
def test_what_can_be_read_stays(text: str) -> None:
    assert printable(text) == text


@given(any_text | st.binary())
def test_a_line_of_what_can_be_printed_and_twice_is_no_more_than_once(text: str | bytes) -> None:
    told = printable(text)
    assert told.isprintable() and printable(told) == told == told.encode().decode()


@given(any_text)
def test_what_is_kept(text: str) -> None:
    assert printable(text, keep="\n\t") == "\n".join(
        "\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


@given(any_text, any_text)
def test_two_texts_are_quoted_alike_only_if_they_are(one: str, other: str) -> None:
    for text in (other, printable(one)):
        assert (shortened(one, 1000) == shortened(text, 1000)) == (as_bytes(one) == as_bytes(text))


def as_bytes(text: str) -> bytes:
    """Half of a pair has no bytes in UTF-8, but those that it would have."""
    return b"".join(character.encode("utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else
                                     "surrogatepass") for character in text)


def test_it_is_not_quoted_at_length() -> None:
    assert shortened("x" * 100) == "x" * 100
    assert shortened("x" * 101) == f"{'x' * 100}..."
    assert shortened("\x1b\\" * 50_000, 3) == r"\x1b\\\x1b..."
    assert shortened(b"\xff" * 1000, 2) == r"\xff\xff..."
