"""What gpens are told, as a pure plan; and a gpen's configuration that is told so, whatever happens to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.control.configuration import Configuration
from gpen.control.script import parse_line
from gpen.discover.plan import LEFT, PROBATION, Plan, Terms, place_of, plan, rows_in, wanted_of
from gpen.discover.source import Found

A, B, C = Found("10.0.0.1", 80), Found("10.0.0.2", 80), Found("10.0.0.3", 80)
TERMS = Terms("discover", "file /etc/servers", range(100), 0, None)
FLOOR = replace(TERMS, floor=1)


class Gpen:
    """The configuration of a gpen, and the rows that it would tell."""

    def __init__(self, *lines: str) -> None:
        self.now = 1000.0
        self.configuration = Configuration(lambda: self.now, lambda: 1e9 + self.now)
        self.sessions: dict[int, int] = {}
        self.received: dict[int, int] = {}  # bytes
        self.leaving: dict[int, float] = {}
        for line in lines:
            self.run(line)

    def run(self, line: str) -> None:
        call = parse_line(line)
        assert call is not None
        if call.command.name == "close":
            self.sessions.pop(call["server"])
        else:
            self.configuration.run(call)

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(number) for number in self.configuration.pool.servers]

    def _row(self, number: int) -> dict[str, Any]:
        server = self.configuration.pool.servers[number]
        by, verdict = server.verdict or (None, None)
        return {"number": number, "address": server.target.shown_host,
                "host": server.address.path or server.address.host, "port": server.address.port,
                "state": server.state, "health": server.target.health(self.now),
                "sessions": self.sessions.get(number, 0), "weight": server.weight, "prio": server.prio,
                "max": server.max, "owner": server.owner, "verdict": verdict and verdict.word, "verdict_by": by,
                "verdict_reason": verdict and verdict.reason, "for": self.now - server.target.changed,
                "rx": self.received.get(number, 0)}

    def follow(self, *found: Found, terms: Terms = TERMS, passes: int = 6) -> Plan:
        """Carry out what the plan says, again and again, until that is nothing more; gives the last one."""
        for _ in range(passes):
            todo = plan(wanted_of(found), rows_in(json.dumps(self.rows())), terms, self.leaving, self.now)
            self.leaving = dict(todo.leaving)
            if not todo.steps:
                break
            for step in todo.steps:
                self.run(step.line)
        for line in todo.renewals:
            self.run(line)
        return todo

    @property
    def dump(self) -> list[str]:
        return list(self.configuration.dump())


def test_what_is_new_is_made_with_all_that_is_said_of_it() -> None:
    gpen = Gpen("server 0 address 192.0.2.1 port 80")
    gpen.follow(A, Found("2001:db8::1", 81, weight=3, prio=2, max=5), Found("Web.Example.", 80))
    assert gpen.dump == ["server 0 address 192.0.2.1 port 80",
                         "server 1 address 10.0.0.1 port 80 owner discover",
                         "server 2 address 2001:db8::1 port 81 max 5 weight 3 prio 2 owner discover",
                         "server 3 address web.example port 80 owner discover"]
    assert gpen.follow(A, Found("2001:DB8:0::1", 81, weight=3, prio=2, max=5), Found("web.example", 80)).steps == []


def test_what_the_source_does_not_say_is_the_operators() -> None:
    gpen = Gpen()
    gpen.follow(A, B._replace(weight=2))
    gpen.run("server 0 weight 7 max 4")
    gpen.run("server 1 weight 7 max 4")
    gpen.follow(A, B._replace(weight=2))
    assert gpen.dump == ["server 0 address 10.0.0.1 port 80 max 4 weight 7 owner discover",
                         "server 1 address 10.0.0.2 port 80 max 4 weight 2 owner discover"]


def test_who_leaves_drains_and_is_deleted_without_sessions() -> None:
    gpen = Gpen()
    gpen.follow(A, B)
    gpen.sessions[0] = 3
    todo = gpen.follow(B)
    assert list(todo.leaving) == [0] and gpen.rows()[0]["verdict_reason"] == LEFT + "file /etc/servers"
    assert [row["health"] for row in gpen.rows()] == ["drain", "up"]
    assert gpen.follow(B).steps == []
    gpen.sessions.clear()
    gpen.follow(B)
    assert gpen.dump == ["server 1 address 10.0.0.2 port 80 owner discover"]


def test_it_drains_for_as_long_as_it_takes_where_verdicts_expire() -> None:
    gpen = Gpen("health_ttl 5")
    gpen.follow(A, B)
    gpen.sessions[0] = 3
    gpen.follow(B)
    for _ in range(5):
        gpen.now += 3
        gpen.configuration.pool.health.expire()
        assert [row["health"] for row in gpen.rows()] == ["drain", "up"]
        assert gpen.follow(B).steps == []


def test_who_comes_back_is_taken_back_also_by_one_that_was_started_since() -> None:
    gpen = Gpen()
    gpen.follow(A, B)
    gpen.sessions[0] = 3
    gpen.follow(B)
    gpen.leaving = {}
    gpen.follow(A, B)
    assert [row["health"] for row in gpen.rows()] == ["up", "up"] and gpen.leaving == {}


def test_sessions_are_closed_when_their_time_is_over() -> None:
    gpen, terms = Gpen(), replace(TERMS, patience=30.0)
    gpen.follow(A, B, terms=terms)
    gpen.sessions[0] = 3
    gpen.follow(B, terms=terms)
    gpen.now += 29.9
    assert gpen.follow(B, terms=terms).steps == [] and gpen.sessions == {0: 3}
    gpen.now += 0.2
    gpen.follow(B, terms=terms)
    assert gpen.sessions == {} and gpen.dump == ["server 1 address 10.0.0.2 port 80 owner discover"]


def test_the_word_of_the_operator_stays() -> None:
    gpen = Gpen()
    gpen.follow(A, B)
    gpen.run("server 0 state maint")
    gpen.sessions[0] = 1
    gpen.follow(B)
    gpen.follow(A, B)
    assert [row["state"] for row in gpen.rows()] == ["maint", "ready"]


def test_servers_of_others_are_left_and_not_doubled() -> None:
    gpen = Gpen("server 4 address 10.0.0.1 port 80 weight 9", "server 5 address 10.0.0.2 port 80 owner other")
    todo = gpen.follow(A._replace(weight=1), B, C)
    assert todo.theirs == {"10.0.0.1:80": "server 4, which nobody owns",
                           "10.0.0.2:80": "server 5, which has the owner other"}
    gpen.follow(C)
    assert gpen.dump == ["server 0 address 10.0.0.3 port 80 owner discover",
                         "server 4 address 10.0.0.1 port 80 weight 9",
                         "server 5 address 10.0.0.2 port 80 owner other"]


def test_two_owners_do_not_disturb_each_other() -> None:
    gpen, other = Gpen(), Terms("other", "dns web.example", range(50, 60), 1, None)
    for _ in range(3):
        gpen.follow(A, B)
        gpen.follow(B, C, terms=other)
    assert gpen.dump == ["server 0 address 10.0.0.1 port 80 owner discover",
                         "server 1 address 10.0.0.2 port 80 owner discover",
                         "server 50 address 10.0.0.3 port 80 owner other"]
    gpen.follow(A)  # what the other one wants as well leaves, and is made by that
    gpen.follow(B, C, terms=other)
    assert gpen.dump[1:] == ["server 50 address 10.0.0.3 port 80 owner other",
                             "server 51 address 10.0.0.2 port 80 owner other"]


def test_those_that_left_are_kept_while_too_few_can_be_used() -> None:
    gpen = Gpen()
    gpen.follow(A, terms=FLOOR)
    gpen.now += PROBATION
    gpen.follow(A, B, terms=FLOOR)
    gpen.follow(B, terms=FLOOR)
    gpen.now += PROBATION
    gpen.follow(B, terms=FLOOR)
    assert gpen.dump == ["server 1 address 10.0.0.2 port 80 owner discover"]
    gpen.run("server 1 health down because broken")
    gpen.sessions[1] = 1
    gpen.follow(C, A, terms=FLOOR)
    gpen.now += PROBATION
    assert gpen.follow(C, A, terms=FLOOR).kept == []  # they have been up for long enough
    gpen.run("server 0 health down because broken")
    gpen.run("server 2 health down because broken")
    gpen.sessions.update({0: 1, 2: 1})
    gpen.run("server 1 health up")
    assert gpen.follow(C, A, terms=FLOOR).kept == [1] and gpen.rows()[0]["health"] == "up"
    gpen.run("server 0 health up")
    assert gpen.follow(C, A, terms=FLOOR).kept == []


@pytest.mark.parametrize("found_to_work", [
    lambda gpen: gpen.run("server 2 checked up"), lambda gpen: gpen.received.update({2: 1}),
    lambda gpen: setattr(gpen, "now", gpen.now + PROBATION)])
def test_a_list_of_nothing_but_new_servers_is_believed_when_one_is_found_to_work(
        found_to_work: Callable[[Gpen], object]) -> None:
    """A new server counts as up before anybody has tried it: what it replaces must not be gone by then."""
    gpen = Gpen()
    gpen.follow(A, B, terms=FLOOR)
    gpen.now += PROBATION
    assert gpen.follow(C, terms=FLOOR).kept == [0]
    gpen.now += PROBATION / 2
    assert gpen.follow(C, terms=FLOOR).kept == [0] and [row["health"] for row in gpen.rows()] == ["up", "up"]
    found_to_work(gpen)
    assert gpen.follow(C, terms=FLOOR).kept == []
    assert gpen.dump == ["server 2 address 10.0.0.3 port 80 owner discover"]


def test_a_name_and_its_address_are_two_servers() -> None:
    """One that is both in turn would be changed without an end."""
    rows = [{**row, "address": "10.0.0.1"} for row in _rows("web")]
    todo = plan(wanted_of([Found("web", 80, weight=2), Found("10.0.0.1", 80, weight=3)]), rows, TERMS, {}, 0.0)
    assert [step.line for step in todo.steps] == [
        "server 1 at 10.0.0.1:80 address 10.0.0.1 port 80 weight 3 owner discover", "server 0 at web:80 weight 2"]
    assert plan(wanted_of([A]), rows, TERMS, {}, 0.0).steps == []


def test_a_server_at_a_path_that_has_our_owner_leaves() -> None:
    gpen = Gpen("server 5 address /run/web.sock owner discover")
    assert gpen.follow(A).steps == []
    assert gpen.dump == ["server 0 address 10.0.0.1 port 80 owner discover"]


def test_a_floor_that_keeps_thousands() -> None:
    """In less than the two seconds until the next look, and without what grows with their square."""
    (row,) = _rows("web")
    rows = [{**row, "number": number, "host": f"10.1.{number // 250}.{number % 250 + 1}"} for number in range(10_000)]
    began = time.process_time()
    todo = plan(wanted_of([A]), rows, replace(TERMS, numbers=range(100_000), floor=10_000), {}, 0.0)
    assert len(todo.kept) == 10_000 and time.process_time() - began < 2


def test_a_source_that_tells_of_each_change_of_thousands() -> None:
    """All are looked at each time: were each address read anew, this would take 20 seconds, and more changes wait."""
    found = [Found(f"10.1.{number // 250}.{number % 250 + 1}", 80) for number in range(2000)]
    began = time.process_time()
    for number in range(500):
        found[number] = found[number]._replace(weight=2)
        assert len(wanted_of(found)) == 2000
    assert time.process_time() - began < 5


def _rows(host: str) -> list[dict[str, Any]]:
    return Gpen(f"server 0 address {host} port 80 owner discover").rows()


def test_none_at_all_means_none() -> None:
    """Whether that is believed is decided before."""
    gpen = Gpen("server 0 address 192.0.2.1 port 80")
    gpen.follow(A, B)
    gpen.follow()
    assert gpen.dump == ["server 0 address 192.0.2.1 port 80"]


def test_numbers_that_are_all_taken() -> None:
    terms = Terms("discover", "a file", range(1, 3), 1, None)
    gpen = Gpen("server 1 address 192.0.2.1 port 80")
    todo = gpen.follow(A, B, C, terms=terms)
    assert todo.trouble == "2 of 3 servers have no number: all from 1 to 2 are taken (--numbers)"
    assert gpen.dump[1] == "server 2 address 10.0.0.1 port 80 owner discover"


def test_a_check_that_says_down_does_not_hide_that_it_leaves() -> None:
    gpen = Gpen()
    gpen.follow(A, B)
    gpen.run("server 0 checked down because silent")
    gpen.sessions[0] = 1
    assert gpen.follow(B).steps == []
    gpen.run("server 0 checked up")
    assert gpen.rows()[0]["health"] == "drain"
    gpen.run("server 0 checked down because silent")
    gpen.follow(A, B)
    gpen.run("server 0 checked up")
    assert gpen.rows()[0]["health"] == "up"


@pytest.mark.parametrize("found", [
    Found("", 80), Found("10.0.0.1", 0), Found("10.0.0.1", 65536), Found("0.0.0.0", 80), Found("/run/x", 80),
    Found("a b", 80), Found("a", 80, weight=-1), Found("a", 80, max=1 << 40), Found("10.0.0.999", 80),
    Found("::", 80), Found("a\n", 80), Found("http://a", 80), Found("a:81", 80),
])
def test_a_server_that_makes_no_sense_makes_all_suspect(found: Found) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        wanted_of([A, found])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("answer", ["", "[", "{}", "[7]", '[{"number": 1}]', '[{"number": 1, "owner": null}]',
                                    "[" * 100_000, "error: no"])
def test_an_answer_that_is_none(answer: str) -> None:
    with pytest.raises(ValueError, match=r"is it a gpen|older than this"):
        rows_in(answer)


FOUND = st.builds(Found, st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "web"]), st.sampled_from([80, 81]),
                  st.none() | st.integers(0, 3), st.none() | st.integers(0, 3), st.none() | st.integers(0, 3))
HAND = st.sampled_from([
    "server {n} state maint", "server {n} state ready", "server {n} health down because x", "no server {n}",
    "server {n} address 10.0.0.1 port 80", "server {n} weight 9", "server {n} owner default",
    "server {n} owner other", "server {n} address 10.0.0.3 port 81 owner other", "server {n} address 0.0.0.0"])


@given(st.lists(st.tuples(st.lists(FOUND, max_size=6), st.lists(st.tuples(HAND, st.integers(0, 8)), max_size=4)),
                min_size=1, max_size=4))
def test_whatever_happens_all_that_is_wanted_is_there_once_and_others_are_as_they_were(
        rounds: Sequence[tuple[Sequence[Found], Sequence[tuple[str, int]]]]) -> None:
    gpen = Gpen()
    for found, hands in rounds:
        for line, number in hands:
            try:
                gpen.run(line.format(n=number))
            except Exception as error:
                assert type(error).__name__ == "ScriptError", error
        others = [line for line in gpen.dump if not line.endswith("owner discover")]
        gpen.follow(*found, terms=Terms("discover", "x", range(100), 0, None), passes=20)
        assert [line for line in gpen.dump if not line.endswith("owner discover")] == others
        places = [f"{row['host']}:{row['port']}" for row in gpen.rows() if row["health"] != "empty"]
        own = [f"{row['host']}:{row['port']}" for row in gpen.rows()
               if row["owner"] == "discover" and row["health"] != "empty"]
        wanted = {str(place_of(server)) for server in found}
        assert wanted <= set(places) and set(own) <= wanted and len(own) == len(set(own))


ROW = st.fixed_dictionaries({
    "address": st.sampled_from(["10.0.0.1", "10.0.0.9", "", None]),
    "host": st.sampled_from(["10.0.0.1", "web", "", None]),
    "port": st.sampled_from([80, 81, 0, "", None]), "state": st.sampled_from(["ready", "drain", "maint"]),
    "health": st.sampled_from(["up", "down", "drain", "trial", "empty"]), "sessions": st.integers(0, 2),
    "weight": st.integers(0, 3), "prio": st.integers(0, 3), "max": st.integers(0, 3), "rx": st.integers(0, 1),
    "for": st.sampled_from([0.0, PROBATION]), "owner": st.sampled_from(["discover", "other", None]),
    "verdict": st.sampled_from([None, "up", "down", "drain"]),
    "verdict_by": st.sampled_from([None, "command", "check"]),
    "verdict_reason": st.sampled_from([None, "", "broken", f"{LEFT}x"])})


@given(st.lists(FOUND, max_size=6), st.lists(ROW, max_size=9), st.integers(0, 3), st.sets(st.integers(0, 8)),
       st.sampled_from([None, 1.0]))
def test_whatever_a_gpen_says_others_are_not_touched_and_the_floor_holds(
        found: Sequence[Found], said: Sequence[dict[str, Any]], floor: int, leaving: set[int], patience: float | None,
        ) -> None:
    rows = rows_in(json.dumps([{"number": number, **row} for number, row in enumerate(said)]))
    wanted = wanted_of(found)
    terms = Terms("discover", "x", range(1, 20), floor, patience)
    todo = plan(wanted, rows, terms, dict.fromkeys(leaving, 0.0), 100.0)
    lines = [step.line.split() for step in todo.steps] + [line.split() for line in todo.renewals]
    told = {int(line[line.index("server") + 1]): line for line in lines}
    for number, line in told.items():
        assert number >= len(rows) or rows[number]["owner"] == "discover", line
        assert line[line.index("server") + 2] == "at", line
    ended = {int(line[line.index("server") + 1]) for line in lines if {"drain", "no", "close"} & set(line)}
    able = [row for row in rows if row["host"] and row["state"] == "ready" and row["health"] == "up"]
    lost = [row for row in able if row["number"] in ended]
    if wanted and lost:
        places = {(place.host, place.port) for place in wanted}
        stay = [row for row in able if row["number"] not in ended and (
            row["number"] in todo.kept or {(row["host"], row["port"]), (row["address"], row["port"])} & places)]
        assert len(stay) >= floor
