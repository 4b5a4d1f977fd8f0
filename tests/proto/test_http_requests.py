"""Requests as they are written anew: what is passed, what is refused, and that cuts between reads don't matter."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpen.proto.http_requests import Forwarded, Requests
from gpen.proto.protocol import Refused

ADDED = b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"


class Log:
    """Who is told what to expect."""

    def __init__(self) -> None:
        self.expected: list[tuple[bytes, bool]] = []

    def expect(self, method: bytes, upgrade: bool) -> None:
        self.expected.append((method, upgrade))


def requests(address: str = "192.0.2.7", most: int = 16384, log: Log | None = None) -> Requests:
    return Requests(Forwarded(address, "https"), most, log or Log())


def passed(*pieces: bytes, reader: Requests | None = None) -> bytes:
    """What the server gets of requests that come in these pieces, each answered at once."""
    reader = reader or requests()
    out = b""
    for piece in pieces:
        rest: bytes | memoryview = memoryview(piece)
        while len(rest):
            words, rest = reader.read(rest)
            out += words
    return out


def refusal(*pieces: bytes, reader: Requests | None = None) -> tuple[int, str]:
    """The status of a request that is refused, and what reached the server nevertheless."""
    reader = reader or requests()
    with pytest.raises(Refused) as refused:
        assert passed(*pieces, reader=reader) == b"", "a part of it reached the server"
    return refused.value.status, str(refused.value)


# --- what is added ---------------------------------------------------------------------------------------------------


def test_headers_are_added_and_all_else_is_as_it_came() -> None:
    request = (b"GET /a?b=%20&c HTTP/1.1\r\nhost: www\r\nB:2\r\nA: \tx  y \r\nCookie: a=1; b\r\nA: z\r\nE:\r\n"
               b"X-Real-IP: 9.9.9.9\r\n\r\n")
    assert passed(request) == (b"GET /a?b=%20&c HTTP/1.1\r\nhost: www\r\nB: 2\r\nA: x  y \r\nCookie: a=1; b\r\nA: z\r\n"
                               b"E: \r\nX-Real-IP: 9.9.9.9\r\n" + ADDED)


def test_the_address_is_appended_to_what_is_there() -> None:
    request = (b"GET / HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nHost: www\r\nx-forwarded-for:  10.0.0.3 \r\n"
               b"X-FORWARDED-FOR:\r\n\r\n")
    assert passed(request) == (b"GET / HTTP/1.1\r\nHost: www\r\n"
                               b"X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7\r\n"
                               b"X-Forwarded-Proto: https\r\n\r\n")


@pytest.mark.parametrize("name", [b"X-Forwarded-Proto", b"x-forwarded-PROTO", b"X_Forwarded_For", b"X-Forwarded_For",
                                  b"x_forwarded_proto", b"X.Forwarded.For", b"X-Forwarded~Proto"])
def test_what_a_client_claims_does_not_pass(name: bytes) -> None:
    assert passed(b"GET / HTTP/1.1\r\nHost: www\r\n%b: http\r\n\r\n" % name) == (
        b"GET / HTTP/1.1\r\nHost: www\r\n" + ADDED)


def test_names_that_only_look_alike_pass() -> None:
    request = b"GET / HTTP/1.1\r\nHost: www\r\nX-Forwarded-Host: a\r\nX-Forwarded-Forx: b\r\nForwarded: for=1\r\n\r\n"
    assert passed(request) == request[:-2] + ADDED


@pytest.mark.parametrize(("address", "told"), [("unix", b"unknown"), ("2001:db8::1", b"2001:db8::1")])
def test_addresses(address: str, told: bytes) -> None:
    out = passed(b"GET / HTTP/1.0\r\n\r\n", reader=requests(address))
    assert out == b"GET / HTTP/1.0\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: https\r\n\r\n" % told


def test_what_is_expected_then() -> None:
    log = Log()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    passed(b"HEAD / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: www\r\n" + upgrade,
           b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: 1\r\n\r\nx", reader=requests(log=log))
    assert log.expected == [(b"HEAD", False), (b"GET", True), (b"POST", False)]


@pytest.mark.parametrize("headers", [
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Upgrade: WebSocket\r\nconnection: keep-alive, upgrade\r\n",
    b"Connection: keep-alive\r\nUPGRADE:websocket\t\r\nConnection:Upgrade\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
])
def test_a_websocket_may_begin(headers: bytes) -> None:
    log = Log()
    assert b"websocket" in passed(b"GET / HTTP/1.1\r\nHost: www\r\n%b\r\n" % headers, reader=requests(log=log)).lower()
    assert log.expected == [(b"GET", True)]


@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n",
    b"GET / HTTP/1.1\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n",
    b"GET / HTTP/1.1\r\nConnection: upgrades\r\nUpgrade: websocket\r\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade:\r\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket/1.1\r\n",
    b"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    b"HEAD / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
])
def test_what_may_not_end_http(head: bytes) -> None:
    """The server does not hear of it."""
    log = Log()
    out = passed(head + b"Host: www\r\nA: b\r\n\r\n", reader=requests(log=log))
    assert b"upgrade:" not in out.lower() and out.endswith(b"Host: www\r\nA: b\r\n" + ADDED)
    assert [upgrade for _, upgrade in log.expected] == [False]


@pytest.mark.parametrize("body", [b"Content-Length: 2\r\n\r\nhi",
                                  b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"])
def test_an_upgrade_with_a_body_is_none(body: bytes) -> None:
    """As HTTP clients send it that would like HTTP/2 best."""
    log = Log()
    request = b"POST / HTTP/1.1\r\nHost: www\r\nConnection: Upgrade\r\nupgrade: h2c\r\n"
    head, _, rest = (b"POST / HTTP/1.1\r\nHost: www\r\nConnection: Upgrade\r\n" + body).partition(b"\r\n\r\n")
    assert passed(request + body, reader=requests(log=log)) == head + b"\r\n" + ADDED + rest
    assert log.expected == [(b"POST", False)]


@pytest.mark.parametrize("protocol", [b"h2c", b"H2C", b"websocket, h2c", b"HTTP/2.0", b"TLS/1.0", b"SPDY/3.1", b"a"])
def test_an_upgrade_to_another_http_is_none(protocol: bytes) -> None:
    """Or its requests would pass with whatever a client claims in them."""
    log = Log()
    request = b"GET / HTTP/1.1\r\nHost: www\r\nConnection: Upgrade\r\n%bA: b\r\n"
    out = passed(request % (b"Upgrade: %b\r\n" % protocol) + b"\r\n", reader=requests(log=log))
    assert out == request % b"" + ADDED
    assert log.expected == [(b"GET", False)]


# --- bodies ----------------------------------------------------------------------------------------------------------

HEAD = b"POST / HTTP/1.1\r\nHost: www\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(("sent", "got"), [
    (b"0\r\n\r\n", b"0\r\n\r\n"),
    (b"2\r\nhi\r\n0\r\n\r\n", b"2\r\nhi\r\n0\r\n\r\n"),
    (b"00002;a=b\r\nhi\r\n4\r\n\r\n\r\n\r\n000\r\n\r\n", b"6\r\nhi\r\n\r\n\r\n0\r\n\r\n"),
    (b"9\r\n0\r\n\r\n\r\n\r\n\r\n0\r\nX-Forwarded-For: 1.1.1.1\r\nA: b\r\n\r\n",
     b"9\r\n0\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
])
def test_chunks_are_written_anew(sent: bytes, got: bytes) -> None:
    """Without extensions, and without trailers, in which one could claim to be somebody else."""
    head = HEAD + b"Transfer-Encoding: Chunked\r\n" + ADDED
    assert passed(CHUNKED + sent) == head + got
    following = passed(CHUNKED + sent + b"GET / HTTP/1.0\r\n\r\n")
    assert following == head + got + b"GET / HTTP/1.0\r\n" + ADDED


@pytest.mark.parametrize("body", [
    b"x\r\n", b"1\r\nab\r\n0\r\n\r\n", b"-1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"\r\n", b"1\r\na0\r\n\r\n",
    b"1\na\n0\n\n", b"1\r\na\n0\r\n\r\n", b"1\na\r\n0\r\n\r\n", b"1\r\na\r\n0\r\n\n",
    b"1\r\na\r\n0\r\n\nGET / HTTP/1.1\r\nHost: www\r\n\r\n", b"1;x\na\r\n0\r\n\r\n", b"1;\x00\r\na\r\n0\r\n\r\n",
    b"1\r\na\r\n0\r\nA: b\n\r\n", b"1\r\na\r\n0\r\nA b\r\n\r\n", b"fffffffffffffffff\r\na", b"1" * 40 + b"\r\n",
    b"+1\r\na\r\n", b"-5\r\nabcde\r\n", b"1_0\r\n", b"-0\r\n\r\n", b"0\n\r\n", b"1 \n", b";\r\n", b"\n",
])
def test_malformed_chunks(body: bytes) -> None:
    reader = requests()
    assert passed(CHUNKED, reader=reader).endswith(ADDED)
    with pytest.raises(Refused) as refused:
        passed(body, reader=reader)
    assert refused.value.status == 400
    assert reader.in_body


@pytest.mark.parametrize("piece", [b"\r\n", b"0\r\n\r\n", b"\n0\r\n\r\n"])
def test_a_chunk_that_looks_like_ends(piece: bytes) -> None:
    """It costs no more than any other: 20 MB in 1 s of CPU at most, on a machine that needs 0.02."""
    content = piece * (100_000 // len(piece))
    chunk = b"%x\r\n%b\r\n" % (len(content), content)
    reader = requests()
    passed(CHUNKED, reader=reader)
    begun = time.process_time()
    for _ in range(200):
        assert passed(chunk, reader=reader) == chunk
    assert time.process_time() - begun < 1
    assert passed(b"0\r\n\r\n", reader=reader) == b"0\r\n\r\n"
    assert reader.whole


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_long_size(cut: int) -> None:
    """Of a chunk, by its extensions: up to a limit."""
    reader, line = requests(), b"1;" + b"a" * 4000
    stream = line + b"\r\nx\r\n" + line + b"a" * 1000
    passed(CHUNKED, reader=reader)
    with pytest.raises(Refused, match="more than 4096 bytes"):
        passed(*(stream[start:start + cut] for start in range(0, len(stream), cut)), reader=reader)


# --- what is refused -------------------------------------------------------------------------------------------------

HOST = b"Host: www\r\n"
SMUGGLING = {
    "length and chunks": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal lengths": HEAD + b"Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a list of lengths": HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    "length with sign": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "negative length": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "hexadecimal length": HEAD + b"Content-Length: 0x3\r\n\r\nabc",
    "length with a blank": HEAD + b"Content-Length: 1 0\r\n\r\nabc",
    "no length": HEAD + b"Content-Length:\r\n\r\nabc",
    "endless length": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "underscore length": HEAD + b"Content_Length: 3\r\n\r\nabc",
    "underscore coding": HEAD + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and underscore length": HEAD + b"Transfer-Encoding: chunked\r\nContent_Length: 3\r\n\r\n0\r\n\r\n",
    "another coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "another coding, then chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked in a list": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "nearly chunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "quoted": HEAD + b"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    "vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no coding": HEAD + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "LF": b"GET / HTTP/1.1\nHost: www\n\n",
    "LF behind the first line": b"GET / HTTP/1.1\nHost: www\r\n\r\n",
    "LF behind a header": b"GET / HTTP/1.1\r\nHost: www\nA: b\r\n\r\n",
    "LF at the end": b"GET / HTTP/1.1\r\nHost: www\r\n\n",
    "LF at the end, and another": b"GET / HTTP/1.1\r\nHost: www\r\n\nGET / HTTP/1.1\r\nHost: www\r\n\r\n",
    "CR behind a header": b"GET / HTTP/1.1\r\nHost: www\rA: b\r\n\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\nHost: www\r\r\n\r\n",
    "CR in a value": b"GET / HTTP/1.1\r\nHost: www\r\nA: b\rc\r\n\r\n",
    "blank before the colon": b"GET / HTTP/1.1\r\nHost : www\r\n\r\n",
    "tab before the colon": b"GET / HTTP/1.1\r\nHost: www\r\nTransfer-Encoding\t: chunked\r\n\r\n",
    "blank before a name": b"GET / HTTP/1.1\r\n Host: www\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: www\r\nA: b\r\n c\r\n\r\n",
    "folded by a tab": b"GET / HTTP/1.1\r\nHost: www\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: www\r\n: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: www\r\nAb\r\n\r\n",
    "odd name": b"GET / HTTP/1.1\r\nHost: www\r\nA(b: c\r\n\r\n",
    "high name": b"GET / HTTP/1.1\r\nHost: www\r\nA\xe9: c\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHost: www\r\nA\x00: c\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: www\r\nA: b\x00c\r\n\r\n",
    "control character in a value": b"GET / HTTP/1.1\r\nHost: www\r\nA: b\x1bc\r\n\r\n",
    "DEL in a value": b"GET / HTTP/1.1\r\nHost: www\r\nA: b\x7fc\r\n\r\n",
    "control character in the target": b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
    "DEL in the target": b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab in the target": b"GET /\t HTTP/1.1\r\n" + HOST + b"\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "blank behind the version": b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/11": b"GET / HTTP/11\r\n" + HOST + b"\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\n" + HOST + b"\r\n",
    "http/1.1": b"GET / http/1.1\r\n" + HOST + b"\r\n",
    "RTSP": b"GET / RTSP/1.0\r\n" + HOST + b"\r\n",
    "ICE": b"SOURCE / ICE/1.0\r\n" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "no method": b"/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "small letters": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: www\r\nHost: other\r\n\r\n",
    "two equal Hosts": b"GET / HTTP/1.1\r\nHost: www\r\nhost: www\r\n\r\n",
    "two Hosts in 1.0": b"GET / HTTP/1.0\r\nHost: www\r\nHost: other\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT in 1.0": b"CONNECT a:1 HTTP/1.0\r\n\r\n",
    "CONNECT to a path": b"CONNECT / HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT to a URL": b"CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT for a WebSocket": b"CONNECT / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "connect": b"connect a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "Connect": b"Connect a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT, and a blank too many": b"CONNECT  a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECTION": b"CONNECTION a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT behind a tab": b"\tCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "CONNECT with a length": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc",
    "CONNECT with chunks": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "our headers as hop-by-hop": b"GET / HTTP/1.1\r\nHost: www\r\nConnection: close, X-Forwarded-For\r\n\r\n",
    "our headers as hop-by-hop, in their way": b"GET / HTTP/1.1\r\nHost: www\r\nConnection: x_forwarded_proto\r\n\r\n",
    "a length as hop-by-hop": HEAD + b"Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
    "chunks as hop-by-hop": HEAD + b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("request_", SMUGGLING.values(), ids=SMUGGLING)
def test_refused(request_: bytes) -> None:
    status, reason = refusal(request_)
    assert status == 400
    assert reason and reason.isprintable()


@pytest.mark.parametrize("request_", SMUGGLING.values(), ids=SMUGGLING)
def test_refused_byte_for_byte(request_: bytes) -> None:
    """However it is cut, and behind a request that is well."""
    reader = requests()
    assert passed(b"GET / HTTP/1.0\r\n\r\n", reader=reader)
    assert refusal(*(bytes([byte]) for byte in request_), reader=reader)[0] == 400


def test_a_long_header() -> None:
    fits = b"GET / HTTP/1.1\r\nHost: www\r\nA: "
    fits += b"x" * (1000 - len(fits) - 4) + b"\r\n\r\n"
    assert passed(fits, reader=requests(most=1000)) == fits[:-2] + ADDED
    assert passed(fits + fits, reader=requests(most=1000)) == (fits[:-2] + ADDED) * 2
    too_long = fits.replace(b"x", b"xx", 1)
    assert refusal(too_long, reader=requests(most=1000))[0] == 431
    assert refusal(*(bytes([byte]) for byte in too_long), reader=requests(most=1000))[0] == 431
    assert refusal(b"GET / HTTP/1.1\r\nA: ", *[b"x" * 100] * 10, reader=requests(most=1000))[0] == 431
    assert refusal(b"GET /", b"x" * 1000, reader=requests(most=1000))[0] == 431


def test_blank_lines_before_a_request() -> None:
    assert passed(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n\r\n", b"\r", b"\nGET / HTTP/1.0\r\n\r\n") == (
        b"GET / HTTP/1.0\r\n" + ADDED) * 2
    assert refusal(b"\nGET / HTTP/1.0\r\n\r\n")[0] == 400
    assert refusal(b"\rGET / HTTP/1.0\r\n\r\n")[0] == 400


# --- any way of cutting ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["A", "accept", "X-Long-Name", "Connection", "X_Forwarded_For", "X-Forwarded-For",
                         "x-forwarded-proto", "Expect"])
VALUES = st.text("abz019 ,;=-\t", max_size=12)
BODIES = st.text("a\r\n0", max_size=30).map(str.encode)


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    """A request that must pass: its head, and its body if any, with a length or in chunks."""
    fields = draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))
    method, target = draw(st.sampled_from(["GET", "POST", "OPTIONS"])), draw(st.text("ab/?", max_size=9))
    lines = [f"{method} /{target} HTTP/1.1", "Host: www", *(f"{name}:{value}" for name, value in fields)]
    head = "\r\n".join(lines).encode()
    match draw(st.integers(0, 2)):
        case 0:
            return head + b"\r\n\r\n"
        case 1:
            body = draw(BODIES)
            return head + b"\r\ncontent-length:%d\r\n\r\n%b" % (len(body), body)
    chunks = [b"%x%b\r\n%b\r\n" % (len(body), draw(st.sampled_from([b"", b";a", b";a=b"])), body)
              for body in draw(st.lists(BODIES.filter(bool), max_size=3))]
    trailer = draw(st.sampled_from([b"", b"A: b\r\n", b"X-Forwarded-For: 1.1.1.1\r\n"]))
    return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def as_read(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The heads and bodies that a simple server finds in what reached it; the last body may be incomplete."""
    found = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body, stream = stream[:int(length[1]) if length else 0], stream[int(length[1]) if length else 0:]
        while re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head) and stream:
            size, _, stream = stream.partition(b"\r\n")
            body, stream = body + stream[:int(size, 16)], stream[int(size, 16):]
            assert stream.startswith(b"\r\n")
            stream = stream[2:]
            if size == b"0":
                break
        found.append((head, body))
    return found


@settings(max_examples=3 * settings().max_examples)
@given(st.lists(valid_requests(), min_size=1, max_size=4), st.data())
def test_cuts_do_not_matter(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=40), label="cuts"))
    pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
    alone = [passed(request) for request in sent]
    assert as_read(passed(*pieces)) == as_read(b"".join(alone))
    assert as_read(passed(*(bytes([byte]) for byte in stream))) == as_read(b"".join(alone))
    for out in alone:
        assert out.count(b"X-Forwarded-For: ") == out.count(b"192.0.2.7\r\nX-Forwarded-Proto: https\r\n") == 1


SPOILERS = st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"0", b",", b";", b"_",
                            b"chunked", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
                            b"X-Forwarded-For: 6.6.6.6\r\n"])


@settings(max_examples=5 * settings().max_examples)
@given(st.lists(valid_requests(), min_size=1, max_size=3), st.lists(st.tuples(st.floats(0, 1), SPOILERS), max_size=3))
def test_nothing_is_smuggled(sent: list[bytes], spoilers: list[tuple[float, bytes]]) -> None:
    """Whatever a client makes of it: a server that reads strictly what it gets finds as many requests as gpen told it
    to expect, and each says who the client is, last of all."""
    stream, log = b"".join(sent), Log()
    for where, spoiler in spoilers:
        at = int(where * len(stream))
        stream = stream[:at] + spoiler + stream[at:]
    reader, out, rest, lost = requests(log=log), b"", memoryview(stream), 0
    try:
        while len(rest):
            words, rest = reader.read(rest)
            out += words
    except Refused as refused:
        assert refused.status in (400, 431)
        lost = 1  # at most: the head that came in one piece with the fault
    found = as_read(out)
    assert len(log.expected) - lost <= len(found) <= len(log.expected)
    for head, _ in found:
        lines = [line for line in head.split(b"\r\n") if re.match(rb"(?i)x[^a-z0-9]forwarded[^a-z0-9]for:", line)]
        assert len(lines) == 1
        assert lines[0].endswith(b"192.0.2.7")
