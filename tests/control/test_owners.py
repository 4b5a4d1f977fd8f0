"""The owner of a server: the program that made it. What is written, reloaded and handed on keeps it."""

from __future__ import annotations

import pytest

from gpen.control.script import ScriptError, parse_line
from tests.control.test_difference import Running
from tests.control.test_succession import merged, running, sources

OWNED = "server 7 address 10.0.0.9 port 80 owner discover"


@pytest.mark.parametrize("word", ["", "two words", "a:b", "x" * 65, '"a b"'])
def test_an_owner_is_one_plain_word(word: str) -> None:
    with pytest.raises(ScriptError, match="server: "):
        parse_line(f"server 7 owner {word}")


def test_write_saves_it_and_it_can_be_taken_back() -> None:
    began = Running(file=["server 0 address 10.0.0.1 port 80"])
    began.run(OWNED)
    assert OWNED in began.dump
    began.run("server 7 owner default")
    assert began.dump[-1] == "server 7 address 10.0.0.9 port 80"


def test_a_reload_leaves_a_server_that_somebody_owns() -> None:
    """Unless the file has a server of its own with this number: that is nobody's."""
    began = Running(file=["server 0 address 10.0.0.1 port 80"])
    began.run(OWNED)
    assert began.reload("server 0 address 10.0.0.1 port 80 max 4") == ["server 0 max 4 (was max 0)"]
    assert OWNED in began.dump
    assert began.reload("server 7 address 10.0.0.5 port 80") == [
        "no server 0", "server 7 address 10.0.0.5 port 80 owner default (was address 10.0.0.9 port 80 owner discover)"]
    assert began.dump == ["server 7 address 10.0.0.5 port 80"]


def test_a_written_owner_is_read_and_reloaded() -> None:
    began = Running(file=[OWNED])
    assert began.dump == [OWNED]
    assert began.reload(OWNED) == []
    assert began.reload(OWNED.replace("discover", "other")) == ["server 7 owner other (was owner discover)"]


def test_who_takes_the_place_of_another_knows_the_owners() -> None:
    origin = sources(["listen 80", "server 0 address 10.0.0.1"])
    old = running(origin, OWNED)
    assert OWNED in merged(origin, old, sources(["listen 80", "server 0 address 10.0.0.1"]))
