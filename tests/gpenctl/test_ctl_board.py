"""What `gpenctl TARGET top` computes: rates, the last minutes, order, selection, widths, keys; without a terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpen.gpenctl.board import SERVERS, Board, Shown, at, in_words
from gpen.gpenctl.feed import Look
from gpen.gpenctl.keys import NAMES, Keys
from gpen.gpenctl.rates import History, Rates
from gpen.gpenctl.sheet import Field, Sheet, fit, natural
from gpen.gpenctl.signs import Signs
from gpen.gpenctl.tables import plain, records
from tests.gpenctl.daemon import server

# --- rates and the last minutes -----------------------------------------------------------------------------


def test_rates_of_each_direction() -> None:
    rates = Rates()
    rates.add([server(0, "10.0.0.1", total=10, sx=1000, rx=5000)], 100.0)
    rows = [server(0, "10.0.0.1", total=30, sx=2000, rx=9000), server(1, "10.0.0.2")]
    rates.add(rows, 102.0)
    assert {key: rows[0][key] for key in rows[0] if key.endswith("_rate")} == {
        "session_rate": 10, "sent_rate": 500, "received_rate": 2000, "byte_rate": 2500}
    assert "byte_rate" not in rows[1]  # seen for the first time
    rows = [server(0, "10.0.0.1", total=1, sx=0, rx=0)]
    rates.add(rows, 103.0)
    assert "byte_rate" not in rows[0]  # the daemon has begun anew


def test_a_history_holds_means() -> None:
    history = History(10.0, 3)
    assert history.last(5) == []
    for now, figure in ((0.0, 2.0), (5.0, 4.0), (10.0, 7.0)):
        history.add(figure, now)
    assert history.last(5) == [3.0, 7.0] and history.last(1) == [7.0] and history.last(0) == []


def test_a_history_goes_on_where_looks_are_rare() -> None:
    """What is known of the time between two looks is their mean; and no more is kept than is wanted."""
    history = History(1.0, 4)
    history.add(5.0, 0.0)
    history.add(1.0, 3.0)
    assert history.last(9) == [5.0, 1.0, 1.0, 1.0]
    history.add(2.0, 1000.5)
    assert history.last(9) == [2.0] * 4
    history.add(4.0, 1000.9)
    assert history.last(9) == [2.0, 2.0, 2.0, 3.0]


def test_signs() -> None:
    assert Signs().graph([0, 0.1, 50, 100], 100) == " ▁▄█"
    assert Signs(are_plain=True).graph([0, 0.1, 50, 100], 100) == " .=#"
    assert Signs().graph([0, 0], 0) == "  "
    assert [Signs(are_plain=True).bar(part, 8) for part in (0, 0.01, 0.5, 1)] == [
        ("", "-" * 8), ("#", "-" * 7), ("####", "----"), ("#" * 8, "")]


# --- order and selection ------------------------------------------------------------------------------------


FIELDS = (
    Field("number", "#", lambda row: plain(row.get("number"))),
    Field("address", "address", lambda row: plain(row.get("address")), sort=lambda row: natural(row["address"])),
    Field("count", "count", lambda row: plain(row.get("count")), 2, is_figure=True),
    Field("why", "why", lambda row: plain(row.get("why")), 1, is_long=True),
)


def sheet_of(*rows: tuple[int, str, Any]) -> Sheet:
    sheet = Sheet(FIELDS, lambda row: str(row["number"]))
    sheet.take([{"number": number, "address": address, "count": count} for number, address, count in rows])
    return sheet


def numbers(sheet: Sheet) -> list[int]:
    return [row["number"] for row in sheet.rows]


def test_a_sheet_is_sorted() -> None:
    sheet = sheet_of((2, "10.0.0.9", 5), (1, "10.0.0.10", None), (0, "10.0.0.1", 7))
    assert numbers(sheet) == [0, 1, 2]
    sheet.sort_by("address")
    assert numbers(sheet) == [0, 2, 1]  # .9 before .10
    sheet.sort_by("count")
    assert numbers(sheet) == [0, 2, 1]  # figures: the largest first, what is unknown last
    sheet.sort_by("count")
    assert numbers(sheet) == [2, 0, 1]
    sheet.reverse()
    assert numbers(sheet) == [0, 2, 1]


def test_the_next_column_is_one_that_is_shown() -> None:
    sheet = sheet_of((0, "a", 1), (1, "b", 2))
    shown = ["number", "count"]
    orders = []
    for steps in (1, 1, -1):
        sheet.sort_next(shown, steps)
        orders.append(sheet.order)
    assert orders == ["count", "number", "count"] and numbers(sheet) == [1, 0]


def test_the_selected_row_stays_so() -> None:
    sheet = sheet_of((0, "a", 1), (1, "b", 2), (2, "c", 3))
    assert sheet.selected == sheet.rows[0]
    sheet.move(1)
    sheet.sort_by("count")
    assert sheet.selected is not None and sheet.selected["number"] == 1 and sheet.place == 1
    sheet.move(9)
    assert sheet.place == 2
    sheet.take([{"number": 2, "address": "c", "count": 3}, {"number": 1, "address": "b", "count": 0}])
    assert sheet.place == 1 and sheet.selected["number"] == 1  # 0 is gone; the last one is now 1
    sheet.take([])
    assert sheet.selected is None
    sheet.move(1)
    assert sheet.window(3) == []


@given(st.lists(st.integers(-5, 5), max_size=30), st.integers(1, 10))
def test_the_selected_row_is_in_the_window(steps: list[int], height: int) -> None:
    sheet = sheet_of(*((number, "a", None) for number in range(15)))
    for step in steps:
        sheet.move(step)
        window = sheet.window(height)
        assert len(window) == height and any(row is sheet.selected for row in window)


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
                          st.lists(st.integers(), max_size=2)), max_size=8))
def test_whatever_a_daemon_says_can_be_sorted(values: list[Any]) -> None:
    sheet = sheet_of(*((number, "a", value) for number, value in enumerate(values)))
    sheet.sort_by("count")
    assert sorted(numbers(sheet)) == list(range(len(values)))


@given(st.integers(20, 200), st.lists(st.lists(st.integers(0, 40), min_size=4, max_size=4), min_size=1, max_size=5))
def test_columns_fit(width: int, cells: list[list[int]]) -> None:
    """What may be left out, or cut off, never makes a table too wide; and what says nothing is left out."""
    fitted = fit(FIELDS, cells, width)
    needed = [max(row[i] for row in cells) for i in range(4)]
    least = max(needed[0], 1) + 2 + max(needed[1], len("address"))
    assert sum(column.width + 2 for column in fitted) - 2 <= max(width, least)
    assert {"number", "address"} <= {column.field.key for column in fitted}
    assert needed[2] or "count" not in {column.field.key for column in fitted}


# --- the board ----------------------------------------------------------------------------------------------


def board_of(*looks: Look) -> Board:
    board = Board()
    for look in looks:
        board.take(look)
    return board


def test_special_servers_are_not_expected_to_be_up() -> None:
    """As on the page, and by the plugin for Nagios."""
    board = Board()
    servers = [server(0, "10.0.0.1", health="up"), server(1, "10.0.0.2", health="down"),
               server(None, "emergency", health="up")]
    board.take(Look(1.0, {"servers": servers}))
    assert board.up == (1, 2)


def test_a_board_adds_up() -> None:
    def rows(more: int) -> list[dict[str, Any]]:
        return [server(number, f"10.0.0.{number}", total=more, sx=more * 100, rx=0) for number in (0, 1)]

    board = board_of(Look(10.0, {"servers": rows(0)}), Look(12.0, {"servers": rows(10)}))
    assert (board.total["session_rate"], board.total["sent_rate"], board.total["sessions"]) == (10, 1000, 6)
    assert board.history(board.servers.rows[0], 9) == [500] and board.highest(9) == 500
    assert board.history(board.total, 9) == [1000]
    assert board.next_graph() == "new/s" and board.history(board.servers.rows[0], 9) == [5]


def test_a_daemon_that_is_away() -> None:
    """What was known stays, and since when it is away is known."""
    board = board_of(Look(10.0, {"servers": [server(0, "10.0.0.1")]}), Look(11.0, problem="nobody answers"),
                     Look(14.0, problem="still nobody"))
    assert (board.problem, board.problem_since, len(board.servers.rows)) == ("still nobody", 11.0, 1)
    board.take(Look(15.0, {"servers": []}))
    assert board.problem == "" and board.servers.rows == []


def test_sessions_are_those_of_the_selected_server() -> None:
    sessions = [{"id": number, "server": label} for number, label in enumerate([1, 0, None, "emergency", 1])]
    servers = [server(0, "10.0.0.1"), server(1, "10.0.0.2"), server(None, "emergency")]
    board = board_of(Look(1.0, {"servers": servers, "sessions": sessions}))
    seen = {}
    for step in (0, 1, 1):
        board.choose(step)
        seen[plain((board.servers.selected or {})["name"])] = [row["id"] for row in board.sessions.rows]
    assert seen == {"10.0.0.1": [1], "10.0.0.2": [0, 4], "emergency": [3]}


def test_errors_are_those_that_the_daemon_calls_so() -> None:
    info = {"endings": {"client-closed": 9, "no-server": 2, "connect-failed": 5},
            "errors": ["no-server", "connect-failed", "error"]}
    assert board_of(Look(1.0, {"servers": [], "info": [info]})).errors == "5 connect-failed, 2 no-server"
    assert board_of(Look(1.0, {"servers": []})).errors == ""
    assert board_of(Look(1.0, {"servers": [], "info": [{**info, "errors": [["x"], {}, None, "no-server"]}]})
                    ).errors == "2 no-server"


@pytest.mark.parametrize(("more", "expected"), [
    ({}, "10.0.0.1:3306"),
    ({"host": "db1", "address": "10.0.0.1"}, "db1:3306"),
    ({"host": "2001:db8::1"}, "[2001:db8::1]:3306"),
    ({"host": "/run/db", "port": ""}, "/run/db"),
])
def test_where_a_server_is_for_commands(more: dict[str, Any], expected: str) -> None:
    assert at(server(0, "10.0.0.1", **more)) == expected


def test_a_server_in_words() -> None:
    told = in_words(server(1, "db1", health="down", reason="connection refused", blacklisted=12, failures=7,
                           **{"for": 192, "verdict": "down", "verdict_by": "check", "verdict_for": 192}))
    assert told.startswith("server 1 at db1:3306 (db1): ready, down for 3m12s by check: connection refused, "
                           "retry in 12s; failed 7 times; total 4711")


def test_worst_first() -> None:
    rows = [server(n, f"10.0.0.{n}", health=health) for n, health in enumerate(("up", "down", "trial", "drain", "odd"))]
    sheet = Sheet(SERVERS, lambda row: str(row["number"]))
    sheet.take(rows)
    sheet.sort_by("health")
    assert numbers(sheet) == [1, 2, 3, 0, 4]


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "expected"), [
    ([b"dq"], ["d", "q"]),
    ([b"\x1b[A\x1bOB"], ["up", "down"]),
    ([b"\x1b", b"[", b"6~x"], ["page down", "x"]),
    ([b" \r\x0c"], ["space", "enter", "redraw"]),
    ([b"\x1b[200~q"], ["q"]),  # a sequence without a name
    ([b"\x1bd"], []),  # Alt-d is not d
    ([b"\x1b\x1b[C"], ["escape", "right"]),
    (["ü€".encode()], []),
])
def test_keys(typed: list[bytes], expected: list[str]) -> None:
    keys = Keys()
    assert [name for data in typed for name in keys.feed(data)] == expected and not keys.is_open


def test_escape_is_a_key_when_nothing_follows() -> None:
    keys = Keys()
    assert keys.feed(b"q\x1b") == ["q"] and keys.is_open
    assert keys.escaped() == ["escape"] and not keys.is_open
    assert keys.escaped() == []


@given(st.lists(st.sampled_from([*NAMES.keys() - {b"\x1b"}, b"q", b"d"]), max_size=10), st.integers(1, 4))
def test_keys_come_through_in_whatever_pieces(typed: list[bytes], size: int) -> None:
    whole, pieces, data = Keys(), Keys(), b"".join(typed)
    found = [name for start in range(0, len(data), size) for name in pieces.feed(data[start:start + size])]
    assert found == whole.feed(data) == [NAMES.get(key) or key.decode() for key in typed]


# --- the picture --------------------------------------------------------------------------------------------

VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=60), st.sampled_from([
    "up", "down", "drain", "\x1b[2J", "[red]x", "界" * 30, [1], {"a": 1}, 1e300, -5]))
KEYS_OF = {
    "servers": ["number", "name", "address", "host", "port", "state", "health", "reason", "for", "blacklisted",
                "sessions", "max", "sx", "rx", "total", "failures", "verdict", "verdict_by", "old", "weight", "check",
                "held"],
    "listeners": ["name", "address", "protocol", "sessions", "conn_max", "held", "total", "rule", "servers", "sx"],
    "sessions": ["id", "client", "server", "state", "age", "idle", "up", "down", "tls", "listener"],
    "events": ["time", "server", "event", "cause", "listener"],
    "info": ["version", "flavour", "pid", "uptime", "sessions", "conn_max", "held", "endings", "errors", "workers",
             "clients"],
}
ROWS = {name: st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, VALUES)), max_size=4)
        for name, keys in KEYS_OF.items()}


@settings(max_examples=25)  # each takes some milliseconds
@given(st.fixed_dictionaries(ROWS), st.fixed_dictionaries(ROWS), st.integers(30, 220), st.integers(10, 40),
       st.sampled_from(["servers", "sessions", "help"]))
def test_whatever_a_daemon_says_can_be_drawn(
    first: dict[str, Any], then: dict[str, Any], width: int, height: int, page: str
) -> None:
    """It fits, and nothing in it acts on the terminal but colors."""
    dashboard = pytest.importorskip("gpen.gpenctl.dashboard", reason="rich is not installed").Dashboard
    looks = [{name: records(name, rows) for name, rows in told.items()} for told in (first, then)]
    board, shown = board_of(Look(1.0, looks[0]), Look(2.5, looks[1])), Shown("/run/gpen.ctl", 1.0, page=page)
    for key in board.servers.fields:
        board.servers.sort_by(key)
    drawn = dashboard(True, Signs()).lines(board, shown, width, height)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn]
    assert len(lines) <= height and all(line.isprintable() for line in lines)
    assert max(map(pytest.importorskip("rich.cells").cell_len, lines)) <= width
