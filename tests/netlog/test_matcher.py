"""The memory of requests: whose line it is, how many are held."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from gpen.netlog.matcher import COMPARED, Matcher

SERVER = "10.0.0.1"
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.sampled_from([b"GET /1", b"GET /2"])), max_size=40)


class Plain:
    """The same rules, as they are said: a list that is searched."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: list[tuple[int, str, bytes]] = []
        self.answers: list[tuple[int, str, bytes]] = []

    def remember(self, number: int, server: str, request: bytes) -> None:
        self.held = [*self.held, (number, server, request)][-self.limit:]

    def client_of(self, server: str, request: bytes) -> str | None:
        alike = [entry for entry in self.held if entry[1:] == (server, request)]
        waiting = [entry for entry in alike if entry not in self.answers]
        if waiting:
            self.answers.append(waiting[-1])
            return str(waiting[-1][0])
        last = [entry for entry in self.answers if entry[1:] == (server, request)][-1:]
        return str(last[0][0]) if last and last[0] in alike else None


@given(st.integers(1, 6), STEPS)
def test_it_does_what_the_rules_say(limit: int, steps: list[tuple[bool, str, bytes]]) -> None:
    matcher, plain = Matcher(limit), Plain(limit)
    for number, (is_note, server, request) in enumerate(steps):
        if is_note:
            matcher.remember(str(number), server, request)
            plain.remember(number, server, request)
        else:
            assert matcher.client_of(server, request) == plain.client_of(server, request)
        assert len(matcher) == len(plain.held) <= limit


def test_equal_requests_of_two_clients_get_a_line_each() -> None:
    matcher = Matcher(10)
    matcher.remember("a", SERVER, b"GET /")
    matcher.remember("b", SERVER, b"GET /")
    assert {matcher.client_of(SERVER, b"GET /") for _ in range(2)} == {"a", "b"}


def test_after_a_lost_line_the_next_is_right() -> None:
    matcher = Matcher(10)
    matcher.remember("lost", SERVER, b"GET /")
    for client in "abc":
        matcher.remember(client, SERVER, b"GET /")
        assert matcher.client_of(SERVER, b"GET /") == client


def test_requests_sent_together_are_the_last_clients() -> None:
    matcher = Matcher(10)
    for client in "ab":
        matcher.remember(client, SERVER, b"GET /")
        assert [matcher.client_of(SERVER, b"GET /") for _ in range(3)] == [client] * 3


def test_server_and_request_must_both_be_the_same() -> None:
    matcher = Matcher(10)
    matcher.remember("a", SERVER, b"GET /")
    assert matcher.client_of("10.0.0.2", b"GET /") is None
    assert matcher.client_of(SERVER, b"GET /x") is None
    assert matcher.client_of(SERVER, b"") is None


def test_a_request_that_pen_has_cut_is_known_by_its_beginning() -> None:
    matcher = Matcher(10)
    long = b"GET /" + b"x" * 2000
    matcher.remember("a", SERVER, long[:940])
    matcher.remember("b", SERVER, long[:COMPARED - 1])
    assert matcher.client_of(SERVER, long) == "a"


def test_no_step_takes_longer_when_many_requests_are_held() -> None:
    """With a search from end to end, 20,000 equal requests would take minutes."""
    matcher = Matcher(20_000)
    began = time.process_time()
    for number in range(100_000):
        matcher.remember("a", SERVER, b"GET /")
        matcher.client_of(SERVER, b"GET /" if number % 3 else b"GET /other")
    assert time.process_time() - began < 10
    assert len(matcher) == 20_000
