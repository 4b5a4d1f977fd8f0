"""What a session asks of its protocol, for each of them."""

from __future__ import annotations

import pytest

from gpen.model.ending import Ending
from gpen.model.settings import Settings
from gpen.proto import mysql
from gpen.proto.http import Http
from gpen.proto.mysql import MySQL
from gpen.proto.protocol import Farewell, Protocol, Refused, ServerFirst
from gpen.proto.protocols import protocol_of

ALL = (Protocol(), ServerFirst(), MySQL(), Http(16384))
FULL = "greeted with error 1040: Too many connections"


def why(ending: Ending, crowded: bool = False, problem: str = "", waited: float = 0.0, status: int = 0) -> Farewell:
    return Farewell(ending, "192.0.2.7", 3, waited, problem, lambda: crowded, status, 4)


def number_and_text(packet: bytes) -> tuple[int, str]:
    assert int.from_bytes(packet[:3], "little") == len(packet) - 4 and packet[3:5] == b"\0\xff"
    return int.from_bytes(packet[5:7], "little"), packet[7:].decode()


@pytest.mark.parametrize(("settings", "kind"), [
    ({}, Protocol), ({"greeting": 1}, ServerFirst), ({"mysql": True}, MySQL), ({"mysql": True, "greeting": 1}, MySQL),
    ({"http": True}, Http)])
def test_which_it_is(settings: dict[str, object], kind: type) -> None:
    made = Settings()
    for name, value in settings.items():
        made.set(name, value)
    assert type(protocol_of(made)) is kind


def test_who_speaks_first() -> None:
    assert [protocol.server_speaks_first for protocol in ALL] == [False, True, True, False]


@pytest.mark.parametrize(("ending", "more", "number", "text"), [
    (Ending.NO_SERVER, {}, 1047, "gpen: no server is usable"),
    (Ending.NO_SERVER, {"waited": 10.0}, 1047, "gpen: no server is usable; waited 10 s"),
    (Ending.NO_SERVER, {"crowded": True}, 1040, "gpen: all servers are full"),
    (Ending.CONNECT_FAILED, {"problem": FULL, "waited": 2.0}, 1040, "gpen: all servers are full; waited 2 s"),
    (Ending.CONNECT_FAILED, {"problem": "refused"}, 1047, "gpen: no server is usable"),
    (Ending.DENIED, {}, 1130, "gpen: 192.0.2.7 may not connect here"),
    (Ending.CLIENT_MAX, {}, 1203, "gpen: 192.0.2.7 has 3 sessions already (client_max)"),
    (Ending.CLIENT_RATE, {}, 1226, "gpen: 192.0.2.7 connects too often (client_rate), try again in 4 s"),
    (Ending.LOCAL, {}, 1040, "gpen: no server can be reached from here for now"),
    (Ending.SHUTDOWN, {}, 1053, "gpen: shutting down"),
])
def test_how_mysql_turns_clients_away(ending: Ending, more: dict[str, object], number: int, text: str) -> None:
    assert number_and_text(MySQL().farewell(why(ending, **more))) == (number, text)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ending", "status", "line"), [
    (Ending.NO_SERVER, 0, b"503 Service Unavailable"), (Ending.CONNECT_FAILED, 0, b"503 Service Unavailable"),
    (Ending.LOCAL, 0, b"503 Service Unavailable"), (Ending.SHUTDOWN, 0, b"503 Service Unavailable"),
    (Ending.DENIED, 0, b"403 Forbidden"), (Ending.CLIENT_MAX, 0, b"429 Too Many Requests"),
    (Ending.BAD_REQUEST, 431, b"431 Request Header Fields Too Large"),
    (Ending.REQUEST_TIMEOUT, 408, b"408 Request Timeout")])
def test_how_http_turns_clients_away(ending: Ending, status: int, line: bytes) -> None:
    page = Http(16384).farewell(why(ending, status=status))
    assert page.startswith(b"HTTP/1.1 " + line + b"\r\n") and b"\r\nConnection: close\r\n" in page


@pytest.mark.parametrize("protocol", ALL)
def test_who_was_served_is_told_nothing(protocol: Protocol) -> None:
    for ending in (Ending.CLIENT_CLOSED, Ending.SERVER_CLOSED, Ending.CLIENT_RESET, Ending.KILLED, Ending.IDLE):
        assert protocol.farewell(why(ending)) == b""


@pytest.mark.parametrize("protocol", ALL[:2])
@pytest.mark.parametrize("ending", Ending)
def test_an_unknown_protocol_has_no_words(protocol: Protocol, ending: Ending) -> None:
    assert protocol.farewell(why(ending)) == b""


@pytest.mark.parametrize(("number", "is_refused"), [
    (1040, True), (1053, True), (1129, True), (1130, True), (1047, False), (1045, False)])
def test_greetings_of_mysql(number: int, is_refused: bool) -> None:
    packet = mysql.error(number, "some words")
    for count in range(len(packet)):
        if not MySQL().is_whole(packet[:count]):
            assert MySQL().refusal(packet[:count]) is None
    assert MySQL().refusal(packet) == (f"greeted with error {number}: some words" if is_refused else None)
    its_own = number in (1040, 1053)  # where servers know who the client is, the others are against that one's host
    assert bool(MySQL(knows_clients=True).refusal(packet)) is its_own


def test_an_opening_is_whole_at_the_end_of_its_head() -> None:
    opening = Http(16384).opening("192.0.2.7", "https")
    for byte in b"\r\n\r\nGET / HTTP/1.1\r\nHost: www\r\n\r":
        opening.take(bytes([byte]))
        assert not opening.is_whole
    opening.take(b"\nbody of nobody")
    assert opening.is_whole and opening.heard.startswith(b"GET / HTTP/1.1\r\n")
    assert bytes(opening.out).endswith(b"\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert bytes(opening.rest) == b"body of nobody"


def test_an_opening_that_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        Http(100).opening("192.0.2.7", "http").take(b"GET /" + b"x" * 100)
    assert refused.value.status == 431
