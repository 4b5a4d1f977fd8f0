"""Checks as they are written, read, and written again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.control.script import ScriptError, parse_line, words_of
from gpen.model.check import Check, parse_check
from gpen.model.settings import SETTINGS

WORD = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF)).filter(str.isprintable)


@pytest.mark.parametrize(("line", "check"), [
    ("off", Check()), ("connect", Check("connect")), ("greeting", Check("greeting")),
    ('send "PING\\r\\n" expect +PONG', Check("send", send=r"PING\r\n", expect="+PONG")),
    ('send "" expect 220', Check("send", expect="220")),
    ("exec /usr/bin/true", Check("exec", program="/usr/bin/true")),
    ('exec "/bin/sh -c \'exit 0\'"', Check("exec", program="/bin/sh -c 'exit 0'")),
    ("agent 9777", Check(agent=9777)), ("connect agent 1", Check("connect", agent=1)), ("off agent 1", Check(agent=1)),
    ("send x expect agent agent 65535", Check("send", send="x", expect="agent", agent=65535)),
    ("exec /bin/true agent 2", Check("exec", program="/bin/true", agent=2)),
])
def test_what_is_read(line: str, check: Check) -> None:
    assert parse_check(words_of(line)) == check
    call = parse_line(f"check {line}")
    assert call is not None and call["value"] == check
    assert parse_check(words_of(str(check))) == check
    call = parse_line(f"server 3 max 7 check {line} prio 2")
    assert call is not None and call["changes"] == {"max": 7, "check": check, "prio": 2}


def test_the_default_of_a_server() -> None:
    call = parse_line("server 3 check default max 7")
    assert call is not None and call["changes"] == {"check": None, "max": 7}


@pytest.mark.parametrize(("text", "data"), [
    (r"PING\r\n", b"PING\r\n"), (r"\0\t\\n", b"\0\t\\n"), (r"\x00\xfF", b"\0\xff"), ("ü", "ü".encode()), ("", b"")])
def test_escapes(text: str, data: bytes) -> None:
    assert Check("send", send=text, expect="x").question == data
    assert Check("send", expect=text).answer == data


@given(WORD, WORD.filter(bool))
def test_what_is_written_is_read_back(send: str, expect: str) -> None:
    check = Check("send", send=send.replace("\\", "\\\\"), expect=expect.replace("\\", "\\\\"))
    assert (check.question, check.answer) == (send.encode(), expect.encode())
    call = parse_line(SETTINGS["check"].line(check))
    assert call is not None and call["value"] == check


@given(WORD.filter(lambda word: "'" not in word))
def test_a_program_is_read_back(argument: str) -> None:
    call = parse_line(SETTINGS["check"].line(Check("exec", program=f"/bin/true '{argument}'")))
    assert call is not None and call["value"].command == ["/bin/true", argument]


@pytest.mark.parametrize(("words", "says"), [
    ("ping", "'ping' is not a check: expected off|connect|"), ("connect now", "'now' is too much"),
    ("agent", "expected agent PORT"), ("agent 0", "'0' is not a port: expected 1 to 65535"),
    ("connect agent http", "'http' is not a port"), ("connect agent 1 agent 2", "'agent' is too much"),
    ("agent 1 agent 2", "'agent' is too much"),
    ("send x", "expected send STRING expect STRING"), ("send x expects y", "expected send STRING expect STRING"),
    ('send x expect ""', "expected send STRING expect STRING"), (r"send \q expect y", r"'\q' is none of"),
    (r"send x expect \x4", r"'\x' is none of"), ("exec", "expected exec PROGRAM"),
    ("exec true", "does not begin with the absolute path"), ('exec "/bin/sh \'"', "no closing quotation"),
])
def test_what_is_wrong(words: str, says: str) -> None:
    with pytest.raises(ScriptError) as error:
        parse_line(f"check {words}")
    assert says in str(error.value)


def test_what_is_wrong_with_the_check_of_a_server() -> None:
    with pytest.raises(ScriptError, match="server: check: 'ping' is not a check"):
        parse_line("server 0 check ping")


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "\x1b[0m"])
def test_control_characters_are_escaped(text: str) -> None:
    for words in (["send", text, "expect", "x"], ["send", "x", "expect", text], ["exec", f"/bin/{text}"]):
        with pytest.raises(ValueError):
            parse_check(words)
