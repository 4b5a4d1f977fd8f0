"""What MySQL's clients and servers say, followed: recordings of a real MariaDB (record_mysql.py), in any pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpen.proto.mysql_talk import COMPRESS, NO_METADATA, SSL, Login, Talk
from tests.proto.record_mysql import FLAVOURS

RECORDINGS: dict[str, Any] = json.loads(Path(__file__).with_name("mysql_talk.json").read_text())
PING, OK = b"\1\0\0\0\x0e", b"\7\0\0\1\0\0\0\2\0\0\0"
SIZES = [1, 3, 5, 1000, 1 << 20]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def login_of(name: str) -> Login:
    greeting, response, welcome = map(bytes.fromhex, RECORDINGS[name]["login"])
    login = Login()
    login.server(greeting)
    login.client(response)
    login.server(welcome)
    return login


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_login(name: str) -> None:
    login = login_of(name)
    assert login.is_over and login.is_readable
    flavour = FLAVOURS[name.partition(", ")[2]]
    assert login.capabilities & ~1 == flavour & ~1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RECORDINGS)
def test_each_command_is_over_with_the_last_byte_of_its_answer(name: str, size: int) -> None:
    talk = Talk(login_of(name).capabilities)
    for number, exchange in enumerate(RECORDINGS[name]["exchanges"]):
        where = f"exchange {number}: {bytes.fromhex(exchange['turns'][0][0])[4:60]!r}"
        answered = True
        for index, (said, answer) in enumerate(exchange["turns"]):
            is_last = index == len(exchange["turns"]) - 1
            for piece in pieces(bytes.fromhex(said), size if talk.is_known else 1 << 20):
                talk.client(piece, answered)
                answered = False
            answer = bytes.fromhex(answer)
            assert talk.is_at_rest == (not answer and is_last), where
            came = 0
            for piece in pieces(answer, size):
                assert not talk.is_at_rest, f"{where}: at rest behind {came} of {len(answer)} bytes"
                talk.server(piece)
                came += len(piece)
            answered = True
        assert talk.is_at_rest and not talk.is_lost, where
        if talk.status is not None:
            assert talk.is_in_transaction == exchange["open"], where


@pytest.mark.parametrize("name", RECORDINGS)
def test_pipelined(name: str) -> None:
    """A client that does not wait for answers, where none of them tells it what to say next."""
    talk = Talk(login_of(name).capabilities)
    turns = [[bytes.fromhex(each) for each in exchange["turns"][0]] for exchange in RECORDINGS[name]["exchanges"]
             if len(exchange["turns"]) == 1]
    for said, _ in turns:
        talk.client(said, True)
    for _, answer in turns:
        assert not talk.is_at_rest or not answer
        talk.server(answer)
    assert talk.is_at_rest


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(sorted(RECORDINGS)))
@settings(max_examples=300, deadline=None)
def test_bytes_that_mean_nothing(said: bytes, answer: bytes, name: str) -> None:
    """Neither raises, and what is not understood stays so."""
    login = Login()
    login.server(answer)
    login.client(said)
    login.server(answer)
    talk = Talk(login_of(name).capabilities)
    talk.client(PING, True)
    talk.server(OK)
    assert talk.is_at_rest and not talk.is_in_transaction
    talk.client(said, True)
    talk.server(answer)
    if talk.is_lost:
        talk.client(PING, True)
        talk.server(OK)
        assert talk.is_lost and not talk.is_at_rest


def test_what_is_not_followed() -> None:
    greeting, response, _ = (bytearray.fromhex(each) for each in RECORDINGS["statements, old"]["login"])
    for unreadable in (SSL, COMPRESS, NO_METADATA):
        wanted = int.from_bytes(response[4:8], "little") | unreadable
        login = Login()
        offered = bytearray(greeting)
        at = offered.index(0, 5) + 14
        offered[at : at + 2] = offered[at + 5 : at + 7] = b"\xff\xff"
        login.server(offered)
        login.client(response[:4] + wanted.to_bytes(4, "little") + response[8:])
        assert login.is_over and not login.is_readable
    refused = Login()
    refused.server(greeting)
    refused.client(response)
    refused.server(b"\x09\0\0\2\xff\x15\4#28000")
    assert refused.is_over and not refused.is_readable


def test_replication_is_not_understood() -> None:
    talk = Talk(login_of("others, old").capabilities)
    talk.client(b"\x0b\0\0\0\x12\4\0\0\0\0\0\1\0\0\0", True)
    assert talk.is_lost


def test_what_begins_in_the_midst_of_things() -> None:
    """An answer that was under way is none of its own; the next command is."""
    talk = Talk(login_of("statements, old").capabilities)
    talk.server(b"the rest of a row")
    talk.client(b"the rest of a command", False)
    assert not talk.is_known and not talk.is_at_rest
    talk.client(PING, True)
    assert talk.is_known and not talk.is_at_rest
    talk.server(OK)
    assert talk.is_at_rest and not talk.is_in_transaction


def test_an_error_does_not_tell_of_a_transaction() -> None:
    talk = Talk(login_of("statements, old").capabilities)
    talk.client(b"\7\0\0\0\3COMMIT", True)
    talk.server(OK)
    assert talk.has_ended_transaction
    talk.client(PING, True)
    talk.server(b"\x0d\0\0\1\xff\x28\4#42000oops")
    assert talk.is_at_rest and talk.is_in_transaction and not talk.has_ended_transaction


def test_who_is_about_to_say_more() -> None:
    """Behind a ping, and without autocommit behind all but the end of a transaction."""
    manual = b"\7\0\0\1\0\0\0\0\0\0\0"
    talk = Talk(login_of("statements, old").capabilities)
    talk.told(0)
    assert not talk.is_in_use  # nothing is known of what was said before
    for said, answer, is_in_use in ((PING, OK, True), (b"\5\0\0\0\3DO 1", OK, False), (b"\5\0\0\0\3DO 1", manual, True),
                                    (b"\x09\0\0\0\3ROLLBACK", manual, False), (PING, manual, True)):
        talk.client(said, True)
        talk.server(answer)
        assert talk.is_at_rest and talk.is_in_use == is_in_use, said


@pytest.mark.parametrize("leave", [b"\5\0\0\0\x1a\1\0\0\0", b"\5\0\0\0\x19\1\0\0\0", b"\1\0\0\0\x1f", b"\1\0\0\0\x11"])
def test_rows_that_are_yet_to_be_fetched(leave: bytes) -> None:
    """A cursor stays open whatever is said between, until its last row was fetched or somebody lets go of it."""
    execute, fetch = b"\x0a\0\0\0\x17%s\1\1\0\0\0", b"\x09\0\0\0\x1c\1\0\0\0\1\0\0\0"
    ends = {which: b"\5\0\0\4\xfe\0\0%c\0" % status for which, status in (("more", 0x42), ("last", 0x82))}
    opened = b"\1\0\0\1\1\4\0\0\2\3def" + ends["more"]
    talk = Talk(login_of("statements, old").capabilities)

    def say(command: bytes, answer: bytes) -> bool:
        talk.client(command, True)
        talk.server(answer)
        assert talk.is_at_rest and not talk.is_lost
        return talk.has_cursor

    assert say(execute % b"\1\0\0\0", opened)
    assert say(PING, OK) and say(fetch, b"\2\0\0\1\0\1" + ends["more"])
    assert not say(fetch, ends["last"])
    assert say(b"\7\0\0\0\x16DO 1 ?", b"\x0c\0\0\1\0\1\0\0\0" + bytes(7)) is False
    assert say(execute % b"\xff\xff\xff\xff", opened)  # of what was prepared last
    assert not say(leave, OK if leave[4] != 0x19 else b"")
    assert say(fetch, ends["more"])  # had it been open before
    assert not say(fetch, b"\x0d\0\0\1\xff\x28\4#42000oops")


def test_a_packet_of_16_megabytes() -> None:
    talk = Talk(login_of("statements, old").capabilities)
    talk.client(b"\xff\xff\xff\0\3" + b"x" * 0xFFFFFE, True)
    assert not talk.is_at_rest
    talk.client(b"\0\0\0\1", False)
    talk.server(OK)
    assert talk.is_at_rest
