"""gpen.gpenctl.tables: values to text, JSON and pen's lines to tables and CSV."""

from __future__ import annotations

import csv
import io
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpen.control.commands import COMMANDS
from gpen.gpenctl.rates import Rates
from gpen.gpenctl.tables import COLUMNS, asked, csv_text, parse_plain, records, size, span, table


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (3 * 1024**6, "3072.0 PiB"),
        (None, ""),
        ("many", "many"),
        (True, "yes"),
    ],
)
def test_size(value: Any, expected: str) -> None:
    assert size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (86400 * 4 + 3 * 3600, "4d03h"),
        (-5, "0s"),
        (None, ""),
        ("long", "long"),
    ],
)
def test_span(value: Any, expected: str) -> None:
    assert span(value) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2),
)
numbers = st.integers() | st.sampled_from([10**400, -(10**400), 1e308, 10**18, 2**63])
json_values = json_values | numbers | st.dictionaries(st.text(), numbers | st.text() | st.floats(), max_size=2)
json_objects = st.dictionaries(
    st.sampled_from(
        [
            "number",
            "name",
            "address",
            "port",
            "health",
            "since",
            "max",
            "sx",
            "blacklisted",
            "others",
            "tls",
            "verdict",
            "verdict_since",
            "session_rate",
            "byte_rate",
            "rx",
            "total",
            "state",
            "connection",
            "server",
            "why",
            "time",
            "age",
            "later",
            "servers",
            "held",
            "listener",
        ]
    )
    | st.text(),
    json_values,
)


@given(
    st.sampled_from(sorted(COLUMNS)), json_objects | st.lists(json_objects, max_size=3), st.integers(0, 200)
)
@example("explain", {"others": 1}, 80)
@example("servers", {"held": {"\ud7fc": 0}}, 0)
@example("servers", [{"since": float("nan"), "sx": float("inf"), "total": 10**400, "tls": {"a": "b", "c": 1}}], 80)
def test_no_json_breaks_a_table(name: str, value: Any, width: int) -> None:
    assert all(line.isprintable() for line in table(name, value, width).split("\n"))
    csv_text(name, value)
    Rates().add(records("servers", value), 1.0)


def test_each_command_that_answers_in_json_has_a_table() -> None:
    assert COLUMNS.keys() == {name for name, command in COMMANDS.items() if command.json}


raw_texts = st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(st.sampled_from(sorted(COLUMNS)), st.text() | raw_texts)
def test_no_plain_lines_break_a_table(name: str, reply: str) -> None:
    value = parse_plain(name, reply)
    table(name, value)
    csv_text(name, value)


@pytest.mark.parametrize(("address", "shown"), [
    ("fd00::80", "[fd00::80]:80"), ("[fd00::80]:80", "[fd00::80]:80"), ("::1:80", "[::1:80]:80"), ("a:80", "a:80"),
    ("10.0.0.80", "10.0.0.80:80"), ("/run/a:80", "/run/a:80")])
def test_the_port_of_a_server(address: str, shown: str) -> None:
    assert table("servers", [{"number": 0, "address": address, "port": 80}]).split("\n")[2].split()[1] == shown


def test_servers() -> None:
    servers = [
        {
            "number": 0,
            "name": "0",
            "address": "10.0.0.1",
            "host": "www1",
            "port": 80,
            "health": "up",
            "max": 0,
            "sx": 2048,
            "since": time.time() + 3600,
                "for": 192.3,
            "future": {"a": 1},
        },
        {"number": 1, "address": "::1", "port": 80, "health": "down", "reason": "refused", "blacklisted": 12},
        {"number": None, "name": "emergency", "address": "/run/www", "port": None},
    ]
    first, second, third = table("servers", servers).split("\n")[2:]
    assert first.split() == ["0", "www1", "10.0.0.1:80", "up", "3m12s", "-", "2.0", "KiB"]
    assert second.split() == ["1", "[::1]:80", "down", "refused,", "retry", "in", "12s"]
    assert third.split() == ["emergency", "/run/www"]


def test_columns_that_say_nothing_are_left_out() -> None:
    assert table("servers", [{"number": 3, "address": "a"}]) == "#  address\n-  -------\n3  a"


@pytest.mark.parametrize("width", range(20, 160, 7))
def test_narrow_tables_keep_what_matters(width: int) -> None:
    servers = [
        {
            "number": n,
            "address": "10.0.0.1",
            "port": 80,
            "state": "ready",
            "health": "up",
            "sessions": 5,
            "sx": 1,
            "rx": 1,
            "max": 5,
            "hard": 5,
            "weight": 1,
            "prio": 0,
            "acl": 0,
            "total": 1000,
            "failures": 0,
        }
        for n in range(3)
    ]
    lines = table("servers", servers, width).split("\n")
    assert lines[0].split()[:4] == ["#", "address", "state", "health"]
    assert max(map(len, lines)) <= max(width, len("#  address      state  health  sessions"))


def test_colors() -> None:
    servers = [{"number": 0, "health": "up"}, {"number": 1, "health": "down"}]
    assert "\x1b" not in table("servers", servers)
    painted = table("servers", servers, color=True)
    assert "\x1b[32mup\x1b[0m" in painted and "\x1b[31mdown\x1b[0m" in painted


def test_empty() -> None:
    assert table("sessions", []) == "no sessions"
    assert table("recent", []) == "no clients in that time"
    assert csv_text("servers", []).startswith("number,name,address,") and csv_text("mode", []) == ""


SERVER_VALUES = [0, 12, "emergency", None]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("sessions", {"id": 7, "client": "192.0.2.7:5", "state": "open"}),
        ("recent", {"address": "192.0.2.7", "connects": 1}),
        ("events", {"time": 0, "event": "down", "cause": "refused"}),
    ],
)
def test_servers_by_number_and_by_name(name: str, record: dict[str, Any]) -> None:
    """Numbers stand one under the other, also beside a name; no server is an empty cell, number 0 is none."""
    records = [record | {"server": server} for server in SERVER_VALUES]
    heading, _, *lines = table(name, records).split("\n")
    end = heading.index("server") + len("server")
    start = end - len("emergency")
    assert [line[start:end].strip() for line in lines] == ["0", "12", "emergency", ""]
    assert lines[0][end - 2 : end] == " 0" and lines[1][end - 2 : end] == "12"
    rows = list(csv.DictReader(io.StringIO(csv_text(name, records))))
    assert [row["server"] for row in rows] == ["0", "12", "emergency", ""]


@pytest.mark.parametrize(("line", "name"), [
    ("servers", "servers"), ("recent 60", "recent"), ("listeners json", "listeners"), ("timeout", ""), ("", ""),
    ("listener x servers", "servers"), ("listener x servers json", "servers"), ("listener x servers 0", ""),
    ("listener x events 5", "events"), ("listener x explain 10.0.0.1 json", "explain"), ("listener x listeners", ""),
    ("listener x help", ""), ("listener x", ""), ("listener", ""), ("listener servers", ""), ("no listener x", "")])
def test_which_table_a_line_asks_for(line: str, name: str) -> None:
    assert asked(line) == name


LISTENERS: list[dict[str, Any]] = [
    {"name": None, "address": "10.0.0.9:80", "transport": "tcp", "protocol": "HTTP", "sessions": 3, "conn_max": 500,
     "held": 0, "total": 9, "rule": "least connections", "servers": None, "tracking_with": None},
    {"name": "dns", "address": "10.0.0.9:53", "transport": "udp", "protocol": "UDP", "sessions": 4, "conn_max": 50,
     "held": 0, "total": 8, "rule": "hash", "servers": [0, 1, 2, 5], "tracking_with": "-"},
]


def test_listeners() -> None:
    first, second = (re.split(" {2,}", line.strip()) for line in table("listeners", LISTENERS).split("\n")[2:])
    assert first == ["-", "10.0.0.9:80", "HTTP", "3", "500", "9", "least connections", "all"]
    assert second == ["dns", "10.0.0.9:53", "UDP", "4", "50", "8", "hash", "0-2, 5", "-"]
    assert "waiting" not in table("listeners", LISTENERS)
    assert "waiting" in table("listeners", [LISTENERS[0] | {"held": 2}])
    assert csv_text("listeners", LISTENERS).split("\n")[2] == 'dns,10.0.0.9:53,udp,UDP,4,50,0,8,hash,"[0, 1, 2, 5]",-'


@pytest.mark.parametrize("width", range(20, 120, 7))
def test_a_narrow_table_of_listeners(width: int) -> None:
    lines = table("listeners", LISTENERS, width).split("\n")
    assert lines[0].split()[:2] == ["listener", "address"] and "sessions" in lines[0]
    assert max(map(len, lines)) <= max(width, len("listener  10.0.0.9:80  sessions"))


def test_sessions_tell_their_listener_where_one_has_a_name() -> None:
    sessions = [{"id": 1, "client": "192.0.2.7:5", "listener": None}, {"id": 2, "client": "192.0.2.7:6"}]
    assert "listener" not in table("sessions", sessions)
    lines = table("sessions", [*sessions, {"id": 3, "client": "192.0.2.7:7", "listener": "dns"}]).split("\n")
    assert lines[0].split() == ["id", "client", "listener"]
    assert [line.split()[-1] for line in lines[2:]] == ["-", "-", "dns"]


def test_explain() -> None:
    value = {
        "client": "192.0.2.7",
        "server": 1,
        "server_address": "b:80",
        "why": "round robin",
        "others": [{"server": 0, "address": "a:80", "why_not": "full"}],
    }
    assert [line.split() for line in table("explain", value).split("\n")[2:]] == [
        ["1", "b:80", "yes", "round", "robin"],
        ["0", "a:80", "no", "full"],
    ]
    assert csv_text("explain", value) == (
        "server,address,chosen,why\n1,b:80,true,round robin\n0,a:80,false,full\n"
    )
    assert "no server can" in table("explain", {"server": None, "why": "no server can"})
    mixed = {"server": 0, "server_address": "a:80", "why": "prio", "others": [{"server": "abuse", "why_not": "no"}]}
    lines = table("explain", mixed).split("\n")
    assert [line.split() for line in lines[2:]] == [["0", "a:80", "yes", "prio"], ["abuse", "no", "no"]]
    assert lines[0].startswith("server  address")
    assert csv_text("explain", mixed).split("\n")[1:] == ["0,a:80,true,prio", "abuse,,false,no", ""]


def test_mode_and_connection() -> None:
    assert "roundrobin  on" in table("mode", {"hash": False, "roundrobin": True})
    assert "downfd      -1" in table("connection", {"connection": 3, "downfd": -1})


def test_csv_is_exact_and_keeps_unknown_fields() -> None:
    text = csv_text("recent", [{"address": 'a,b\n"c"', "sx": 5242881}, {"address": "d", "new": [1, True]}])
    assert list(csv.reader(io.StringIO(text))) == [
        ["address", "sx", "new"],
        ['a,b\n"c"', "5242881", ""],
        ["d", "", "[1, true]"],
    ]


def test_plain_lines_of_pen() -> None:
    reply = "0 addr ::1 port 9001 conn 2 max 10 hard 20 weight 3 prio 1 sx 78 rx 160\n"
    assert parse_plain("servers", reply) == [
        {
            "number": 0,
            "address": "::1",
            "port": 9001,
            "sessions": 2,
            "max": 10,
            "hard": 20,
            "weight": 3,
            "prio": 1,
            "sx": 78,
            "rx": 160,
        }
    ]
    assert parse_plain("recent", "127.0.0.1 connects 1 sx 160 rx 78\n") == [
        {"address": "127.0.0.1", "connects": 1, "sx": 160, "rx": 78}
    ]
    assert parse_plain("mode", "no hash roundrobin no stubborn\n") == {
        "hash": False,
        "roundrobin": True,
        "stubborn": False,
    }
    reply = "Connection 1:\nstate = 0\ndownfd = -1, upfd = -1\nclient = 0, server = 1\npend = 0\n"
    assert parse_plain("connection", reply) == {
        "connection": 1,
        "state": 0,
        "downfd": -1,
        "upfd": -1,
        "client": 0,
        "server": 1,
        "pend": 0,
    }


def test_pens_slots_that_never_had_an_address() -> None:
    reply = "2 addr (unknown address family 0 port 0 conn 0 max 3 hard 0 weight 0 prio 0 sx 0 rx 0\n"
    rows = parse_plain("servers", reply)
    assert rows == [{"number": 2, "address": "0.0.0.0", "port": 0, "sessions": 0, "max": 3, "hard": 0, "weight": 0,
                     "prio": 0, "sx": 0, "rx": 0}]


@pytest.mark.parametrize("name", ["servers", "recent", "connection", "sessions", "events"])
@pytest.mark.parametrize("reply", ["what is this\n", "Connection 9999 out of range\n", "1 2\n", "x = y"])
def test_other_lines_are_no_table(name: str, reply: str) -> None:
    assert parse_plain(name, reply) is None


def test_what_verdicts_say_of_servers() -> None:
    ahead = time.time() + 3600  # the wall clock has jumped back since
    verdict = {"verdict_by": "command", "since": ahead, "verdict_since": ahead, "for": 192, "check": "off", "held": 0}
    servers = [
        {"number": 0, "health": "up", "verdict": "up", "verdict_reason": "Synced",
         "verdict_for": 60, **verdict},
        {"number": 1, "health": "down", "reason": "Donor", "verdict": "down", "verdict_reason": "Donor",
         "verdict_for": 5, **verdict},
        {"number": 2, "health": "down", "reason": "refused", "verdict": "up", "verdict_reason": "Synced",
         "verdict_for": 7, **verdict, "check": "connect"},
    ]
    first, second, third = table("servers", servers).split("\n")[2:]
    assert first.split() == ["0", "up", "1m00s", "Synced", "command"]
    assert second.split() == ["1", "down", "5s", "Donor", "command"]
    assert third.split() == ["2", "down", "3m12s", "refused", "command", "connect"]


def test_clients_that_are_held() -> None:
    assert "wait" not in table("servers", [{"number": 0, "health": "up", "held": 0}])
    shown = table("servers", [{"number": 0, "health": "up", "held": 7}, {"number": 1, "health": "up", "held": 7}])
    assert shown.startswith("clients that wait for a server: 7\n\n") and shown.count("7") == 1


def test_datagrams_that_were_dropped() -> None:
    shown = table("servers", [{"number": 0, "health": "up", "held": 0, "looped": 4600}])
    assert shown.startswith("datagrams dropped, for they would go round for ever: 4600\n\n")
    assert "dropped" not in table("servers", [{"number": 0, "health": "up", "looped": 0}])
