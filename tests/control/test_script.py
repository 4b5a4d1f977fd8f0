"""Lines to calls: words, comments, errors that say where and what, files that include files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.control.commands import COMMANDS, SERVER_FIELDS
from gpen.control.elsewhere import ELSEWHERE
from gpen.control.script import (
    MAX_INCLUDES,
    Call,
    ScriptError,
    UnknownCommand,
    parse_line,
    read_file,
    words_of,
)
from gpen.model.settings import quote
from tests.scripts import all_of, parse_lines


def parsed(line: str) -> Call:
    call = parse_line(line)
    assert call is not None
    return call


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "words"), [
    ("", []),
    ("  \t ", []),
    ("# a comment", []),
    ("  # a comment", []),
    ("timeout 5", ["timeout", "5"]),
    ("\ttimeout   5  ", ["timeout", "5"]),
    ("timeout 5 # seconds", ["timeout", "5"]),
    ("timeout 5#", ["timeout", "5#"]),
    ('log "/tmp/my file"', ["log", "/tmp/my file"]),
    ('log "/tmp/a#b" # c', ["log", "/tmp/a#b"]),
    (r'log "a \"b\" \\ c"', ["log", r'a "b" \ c']),
    ('log ""', ["log", ""]),
    ('log a"b', ["log", 'a"b']),
    (r"log a\b", ["log", r"a\b"]),
    ('"log" "x"', ["log", "x"]),
    ("log '/tmp/x'", ["log", "'/tmp/x'"]),
    ("timeout 5\r", ["timeout", "5"]),
])
def test_words(line: str, words: list[str]) -> None:
    assert words_of(line) == words


@pytest.mark.parametrize("line", ['log "a', 'log "a\\"', 'log "a"b', 'log " a', '"', 'log "a""b"'])
def test_a_quote_that_is_not_closed(line: str) -> None:
    with pytest.raises(ValueError, match="a quoted word must end with a double quote"):
        words_of(line)
    with pytest.raises(ScriptError, match=r"^gpen.cfg:3: "):
        parse_line(line, "gpen.cfg:3")


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), max_size=5))
def test_what_is_quoted_is_read_back(words: list[str]) -> None:
    assert words_of(" ".join(map(quote, words))) == words


@given(st.text())
def test_any_line_is_read_or_refused_in_one_line(line: str) -> None:
    try:
        parse_line(line, "here")
    except ScriptError as error:
        assert str(error).startswith("here: ")


@given(st.sampled_from(["timeout", "server", "acl", "listen", "emergency", "close", "recent", "log", "explain"]),
       st.lists(st.text("0123456789.:-[]/ax\u00b2\u0663", min_size=1), max_size=4))
def test_any_argument_is_read_or_refused(name: str, words: list[str]) -> None:
    try:
        parse_line(" ".join([name, *words]), "here")
    except ScriptError as error:
        assert str(error).startswith(f"here: {name}: ")
        assert "invalid literal" not in str(error), "our words, not Python's"


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_call() -> None:
    call = parse_line("server 2 address www port http max 5 blacklist 1.5", "gpen.cfg:7")
    assert call is not None and call.command.name == "server" and call.origin == "gpen.cfg:7"
    assert call["number"] == 2 and call["changes"]["max"] == 5 and call["changes"]["blacklist"] == 1.5
    assert str(call.error("no")) == "gpen.cfg:7: server: no"


def test_no() -> None:
    call = parsed("no server 3")
    assert call.no and call["number"] == 3 and str(call.error("x")) == "no server: x"
    assert parsed("no hash").arguments == {"value": None}
    assert parsed("hash").arguments == {"value": True}


def test_a_setting_without_a_value_is_read() -> None:
    assert parsed("timeout").arguments == {}


def test_json_is_the_last_word() -> None:
    assert parsed("servers json").json
    assert parsed("recent 5 json").json and parsed("recent 5 json")["seconds"] == 5
    assert not parsed("log json").json, "a file's name, where the reply has no JSON"
    assert parsed("log json")["value"] == "json"


@pytest.mark.parametrize(("line", "message"), [
    ("timeout abc", "timeout: 'abc' is not a number of seconds above 0: expected one such as 30 or 0.5"),
    ("timeout 0", "timeout: '0' is not a number of seconds above 0: expected one such as 30 or 0.5"),
    ("timeout 1e3", "timeout: '1e3' is not"),
    ("timeout -1", "timeout: '-1' is not"),
    ("timeout 1 2", "timeout: '2' is too much"),
    ("metrics off", "metrics: 'off' is no address: to have none, say 'no metrics'"),
    ("metrics_control yes", "metrics_control: 'yes' is not one of off, on"),
    ("conn_max 0", "conn_max: '0' is not a whole number from 1 to "),
    ("conn_max 99999999999", "conn_max: '99999999999' is not a whole number from 1 to "),
    ("debug --1", "debug: '--1' is not a whole number from 0 to 9"),
    ("debug 10", "debug: '10' is not a whole number from 0 to 9"),
    ("client_acl 10", "client_acl: '10' is not a whole number from 0 to 9"),
    ("tcp_fastclose left", "tcp_fastclose: 'left' is not one of off, up, down, both"),
    ("control_mode 888", "control_mode: '888' is not an octal file mode"),
    ("hash on", "hash: 'on' is too much"),
    ("no hash on", "no hash: 'on' is too much"),
    ("no", "no: expected the name of a command"),
    ("no servers", "no servers: there is no such command"),
    ("source www", "source: 'www' is not an IPv4 or IPv6 address"),
    ("listen :99999", "listen: port '99999' is out of range"),
    ("server", "server: expected the number of a server"),
    ("server x", "server: 'x' is not a whole number"),
    ("server 0 adress www", f"server: 'adress' is not one of {', '.join(SERVER_FIELDS)}; did you mean 'address'?"),
    ("server 0 x:80", f"server: 'x:80' is not one of {', '.join(SERVER_FIELDS)}; if that is the address: address x:80"),
    ("server 0 seven", f"server: 'seven' is not one of {', '.join(SERVER_FIELDS)}"),
    ("server 0 max", "server: max: expected a value"),
    ("server 0 max five", "server: max: 'five' is not a whole number"),
    ("server 0 state up", "server: state: 'up' is not one of ready, drain, maint"),
    ("server 0 port 70000", "server: port: port '70000' is out of range"),
    ("no server", "no server: expected no server N"),
    ("acl 10 permit 10.0.0.1", "acl: '10' is not a whole number from 0 to 9"),
    ("acl 1 permit", "acl: expected N permit|deny ADDRESS"),
    ("acl 1 allow 10.0.0.1", "acl: 'allow' is not permit or deny"),
    ("acl 1 permit country Sweden", "acl: 'Sweden' is not a country"),
    ("acl 1 permit country", "acl: expected"),
    ("no acl", "no acl: expected no acl N"),
    ("explain www", "explain: 'www' is not an IPv4 or IPv6 address"),
    ("explain json", "explain: expected the ADDRESS of a client"),
    ("close server", "close: expected close server N [at ADDRESS] [quiet]"),
    ("close server 0 quiet now", "close: expected close server N [at ADDRESS] [quiet]"),
    ("drain 0 quiet 5", "drain: '5' is too much: expected drain N [SECONDS] [quiet] [close]"),
    ("drain 0 5 quiet quiet", "drain: 'quiet' is too much: expected drain N [SECONDS] [quiet] [close]"),
    ("drain 0 quiet close", "drain: close: expected after how many SECONDS: drain N SECONDS close"),
    ("close x", "close: 'x' is not a whole number"),
    ("close", "close: expected N, server N or address ADDRESS"),  # pen closes session 0
    ("maxconn 5", "unknown command 'maxconn'; here that is conn_max N, of a listener, or 'server N max M'"),
    ("no balance", "unknown command 'balance'; here that is roundrobin, leastconn, "),
    ("listener web bind *:80", "listener web: unknown command 'bind'; here that is listen [HOST:]PORT"),
    ("max 5", "unknown command 'max'; that is said of a server: 'server N max ...'"),
    ("server 1 ready", f"server: 'ready' is not one of {', '.join(SERVER_FIELDS)}; did you mean 'state ready'?"),
    ("server 1 down", f"server: 'down' is not one of {', '.join(SERVER_FIELDS)}; did you mean 'health down'?"),
    ("server 1 backup", f"server: 'backup' is not one of {', '.join(SERVER_FIELDS)}; here that is prio "),
    ("server www1 10.0.0.1:80 check", "server: 'www1' is not a whole number: a server has a number, from 0 on, and no "
     "name: server 0 address HOST:PORT, say"),
    ("dsr_if eth0/1", "dsr_if: 'eth0/1' is not the name of an interface"),
    ("dsr_ip ::1", "dsr_ip: '::1' is not an IPv4 address"),
    ("tarpit_acl 10", "tarpit_acl: '10' is not a whole number from 0 to 9"),
    ("ssl_ocsp_response X", "ssl_ocsp_response: OCSP stapling is not possible with Python's ssl module, and "
     "authorities give OCSP up: leave it out, take a certificate without must-staple, or let nginx or haproxy end TLS"),
    ("ssl_option no_tlsv9", "ssl_option: 'no_tlsv9' is not one of"),
    ("ssl_alpn h2,,x", "ssl_alpn: 'h2,,x' is not a list of ALPN protocols"),
    ("include", "include: expected a FILE"),
    ('log ""', "log: '' is empty"),
    ('log "/tmp/a\x1bb"', r"log: '/tmp/a\x1bb' is empty or has characters that can't be printed"),
    ("log /tmp/\udcff", r"log: '/tmp/\udcff' is empty or has characters that can't be printed"),
    ('listen "/tmp/a\tb"', r"listen: '/tmp/a\tb' has characters that can't be printed"),
])
def test_an_error_names_origin_command_and_value(line: str, message: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_line(line, "gpen.cfg:12")
    assert str(caught.value).startswith(f"gpen.cfg:12: {message}")
    assert "\n" not in str(caught.value)


def test_no_of_what_is_missing_is_fine() -> None:
    assert parsed("no http").arguments == {"value": None}
    assert parsed("no ssl_ciphers").no


def test_an_unknown_command() -> None:
    with pytest.raises(UnknownCommand) as caught:
        parse_line("severs", "gpen.cfg:1")
    assert str(caught.value) == "gpen.cfg:1: unknown command 'severs'; did you mean 'servers'?"
    with pytest.raises(UnknownCommand, match="'help' lists the commands"):
        parse_line("xyzzy")
    with pytest.raises(UnknownCommand, match="'no'"):
        parse_line("no no hash")


def test_no_word_of_other_balancers_is_a_command_here() -> None:
    assert not ELSEWHERE.keys() & COMMANDS.keys() and ELSEWHERE.keys() == {word.lower() for word in ELSEWHERE}


# --- scripts and files ----------------------------------------------------------------------------------------------


def names(calls: list[Call]) -> list[str]:
    return [call.command.name for call in calls]


def test_a_script() -> None:
    calls = parse_lines(["# head", "", "timeout 7", "no hash  # off", "server 0 address www port 80"], "here")
    assert names(calls) == ["timeout", "hash", "server"]
    assert [call.origin for call in calls] == ["here:3", "here:4", "here:5"]


@pytest.mark.parametrize("line", ["servers", "pid", "write x", "exit", "close 3", "explain 10.0.0.1"])
def test_what_may_not_stand_in_a_configuration(line: str) -> None:
    with pytest.raises(ScriptError, match=r"^here:1: \w+: this command can't stand in a configuration"):
        parse_lines([line], "here")


def test_include(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.cfg", tmp_path / "outer.cfg"
    inner.write_text("hash\r\nweight")
    outer.write_text(f"timeout 7\ninclude {inner}\nprio\n")
    calls = all_of(read_file(str(outer)))
    assert names(calls) == ["timeout", "hash", "weight", "prio"]
    assert [call.origin for call in calls] == [f"{outer}:1", f"{inner}:1", f"{inner}:2", f"{outer}:3"]


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.cfg", tmp_path / "outer.cfg"
    inner.write_text("hash\ntimeout abc\n")
    outer.write_text(f"include {inner}\n")
    with pytest.raises(ScriptError, match="'abc'") as caught:
        all_of(read_file(str(outer)))
    assert str(caught.value).startswith(f"{inner}:2: timeout: 'abc'")


def test_a_file_that_includes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for again in ("loop.cfg", "./loop.cfg", str(tmp_path / "loop.cfg")):
        Path("loop.cfg").write_text(f"hash\ninclude {again}\n")
        with pytest.raises(ScriptError, match=r"loop\.cfg:2: include: .* is included by itself"):
            all_of(read_file("loop.cfg"))


def test_two_files_that_include_each_other_many_times(tmp_path: Path) -> None:
    """It ends soon, though each line of each file opens the next level."""
    one, two = tmp_path / "one.cfg", tmp_path / "two.cfg"
    one.write_text(f"include {two}\n" * 50)
    two.write_text(f"include {tmp_path}/./one.cfg\n" * 50)
    with pytest.raises(ScriptError, match="included by itself"):
        all_of(read_file(str(one)))


@pytest.mark.parametrize(("depth", "works"), [(MAX_INCLUDES, True), (MAX_INCLUDES + 1, False)])
def test_depth(tmp_path: Path, depth: int, works: bool) -> None:
    for level in range(depth):
        more = f"include {tmp_path}/{level + 1}\n" if level + 1 < depth else ""
        (tmp_path / str(level)).write_text(f"hash\n{more}")
    if works:
        assert names(all_of(read_file(f"{tmp_path}/0"))) == ["hash"] * depth
    else:
        with pytest.raises(ScriptError, match=f"more than {MAX_INCLUDES} deep"):
            all_of(read_file(f"{tmp_path}/0"))


def test_a_file_twice_side_by_side_is_no_cycle(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hash\n")
    (tmp_path / "b").write_text(f"include {tmp_path}/a\n" * 2)
    assert names(all_of(read_file(f"{tmp_path}/b"))) == ["hash", "hash"]


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"can't read the file '.*/none': No such file"):
        all_of(read_file(f"{tmp_path}/none"))
    with pytest.raises(ScriptError, match="not a regular file"):
        all_of(read_file(str(tmp_path)))
    (tmp_path / "latin").write_bytes(b"log /tmp/\xfc\n")
    with pytest.raises(ScriptError, match="not text in UTF-8"):
        all_of(read_file(f"{tmp_path}/latin"))
    (tmp_path / "outer").write_text("hash\ninclude none.cfg\n")
    with pytest.raises(ScriptError, match=r"outer:2: can't read the file 'none.cfg'"):
        all_of(read_file(f"{tmp_path}/outer"))


@pytest.mark.parametrize(("line", "number", "at"), [
    ("server 1 at 10.0.0.1:80 prio 2", 1, "10.0.0.1:80"), ("no server 1 at [::1]:80", 1, "[::1]:80"),
    ("server 1 at /run/a health up", 1, "/run/a"), ("server 1 prio 2", 1, None), ("no server 1", 1, None),
])
def test_where_a_server_is_to_be(line: str, number: int, at: str | None) -> None:
    call = parse_line(line)
    assert call is not None and call["number"] == number
    assert (str(call["at"]) if call["at"] else None) == at


@pytest.mark.parametrize("line", ["server 1 at", "no server 1 at", "no server 1 10.0.0.1", "close server 1 at",
                                  "server 1 at http://a/ prio 1"])
def test_where_a_server_is_to_be_is_an_address(line: str) -> None:
    with pytest.raises(ScriptError):
        parse_line(line)
