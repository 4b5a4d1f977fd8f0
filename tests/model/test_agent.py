"""What agents say, and what it comes to: HAProxy's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.model.agent import SILENT, Answer, unknown_words
from gpen.model.server import VERDICTS

WORDS = st.sampled_from(["up", "DOWN", "Stopped", "fail", "failed", "ready", "drain", "maint", "75%", "0%", "100%",
                         "250%", "99999999%", "maxconn:30", "what", "10", "%"])
BETWEEN = st.sampled_from([" ", "\t", ",", ", ", "  "])
WHY = st.sampled_from(["", "#", "# disk full", "#a#b", "#\x1b[31m"])
LINES = st.tuples(st.lists(st.tuples(WORDS, BETWEEN)), WHY).map(
    lambda line: "".join(word + between for word, between in line[0]) + line[1])


def heard(*lines: str) -> Answer:
    """What has been said with all of these."""
    answer = SILENT
    for line in lines:
        answer = answer.followed_by(line)
    return answer


@pytest.mark.parametrize(("lines", "verdict", "says"), [
    (["up"], "up", "up"), (["ready"], "up", "ready"), (["75%"], "up", "75%"), (["maxconn:30"], "up", ""),
    (["down"], "down", "down"), (["stopped"], "down", "stopped"), (["fail"], "down", "fail"),
    (["failed"], "down", "failed"), (["FAIL#disk full"], "down", "fail #disk full"),
    (["drain"], "drain", "drain"), (["maint # by Ann"], "down", "maint #by Ann"), (["0%"], "drain", "0%"),
    (["up 75% ready"], "up", "up ready 75%"), (["ready,up,\t50%"], "up", "up ready 50%"),
    (["up down"], "down", "down"), (["50% 60%"], "up", "60%"),
    (["down", "75%"], "down", "down 75%"), (["down", "up"], "up", "up"),
    (["drain", "up"], "drain", "up drain"), (["drain", "up", "ready"], "up", "up ready"),
    (["maint", "down", "up"], "down", "up maint"),
    (["0%", "up"], "drain", "up 0%"), (["0%", "up", "100%"], "up", "up 100%"),
    (["down #disk", "50%"], "down", "down 50% #disk"), (["down #disk", "down"], "down", "down"),
    (["99999%"], "up", "25600%"), (["maxconn:30 #busy"], "up", ""),
    (["down #disk", "maxconn:30 #busy"], "down", "down #disk"),
])
def test_what_it_comes_to(lines: list[str], verdict: str, says: str) -> None:
    assert (heard(*lines).verdict, str(heard(*lines))) == (verdict, says)


@pytest.mark.parametrize("line", ["", "  ", "# up", "HTTP/1.0 200 OK", "75", "%", "75.5%", "-1%", "upp", "9999999999%"])
def test_no_answer(line: str) -> None:
    with pytest.raises(ValueError, match="is no answer of an agent"):
        heard("drain", line)


def test_what_means_nothing_is_told() -> None:
    assert unknown_words("up twice, 75% maxconn:10 #why not") == ["twice"]


@pytest.mark.parametrize(("said", "weight", "left"), [
    ("75%", 100, 75), ("75%", 1, 0.75), ("100%", 3, 3), ("0%", 3, 0), ("250%", 2, 5), ("up", 7, 7), ("50%", 0, 0)])
def test_what_is_left_of_a_weight(said: str, weight: int, left: float) -> None:
    found = heard(said).of(weight)
    assert (found, type(found)) == (left, type(left))


@given(st.lists(LINES))
def test_any_lines(lines: list[str]) -> None:
    """What counts can be said in one line that comes to the same, in characters that can be printed."""
    answer = SILENT
    for line in lines:
        try:
            answer = answer.followed_by(line)
        except ValueError:
            continue
        assert answer.verdict in VERDICTS and answer.of(10) >= 0 and str(answer).isprintable()
        if str(answer):
            assert SILENT.followed_by(str(answer)) == answer
