"""Requests and responses of HTTP: read and written anew in this process, and by a gpen in front of a server that keeps
every byte."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hypothesis import strategies as st

from gpen.proto.http_requests import Forwarded, Requests
from gpen.proto.http_responses import Responses
from gpen.proto.protocol import Refused
from tests.fuzz import http_reference as reference
from tests.fuzz.http_reference import Message
from tests.fuzz.kind import Balanced, Trial
from tests.fuzz.mutations import BYTES, cuts, pieces, spoiled
from tests.harness import Gpen, Server, read_all
from tests.proto.test_http_requests import SMUGGLING, valid_requests
from tests.wire.http_peers import get

ADDRESS = "192.0.2.7"
MOST = 4000  # bytes of a head
SPOILERS = (*BYTES, b":", b",", b";", b"_", b"0", b"chunked", b"0\r\n\r\n", b"\r\n\r\n", b"HTTP/1.0", b"HTTP/0.9",
            b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: identity\r\n", b"X-Forwarded-For: 6.6.6.6\r\n", b"X_Forwarded_For: 6.6.6.6\r\n",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n",
            b"Connection: x-forwarded-for\r\n", b"Host: other\r\n", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", b"a" * 4100,
            b"X-Forwarded-For : 6.6.6.6\r\n", b"\r\n X-Forwarded-For: 6.6.6.6", b"1\r\na\r\n", b"Content_Length: 3\r\n",
            b"Transfer.Encoding: chunked\r\n", b"Host : b\r\n", b"host: www\r\n",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", b"CONNECT / HTTP/1.0\r\n\r\n")
heads = st.sampled_from((get("/"), get("/a?b=c", "Connection: close"), b"GET / HTTP/1.0\r\n\r\n",
                         get("/chat", "Connection: Upgrade", "Upgrade: websocket"), b"HEAD / HTTP/1.0\r\n\r\n",
                         get("/", "X-Forwarded-For: 1.1.1.1", "x-forwarded-for:2.2.2.2"),
                         b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
                         b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
tricks = st.sampled_from(list(SMUGGLING.values()))
requests = st.lists(st.one_of(valid_requests(), valid_requests(), heads, tricks), min_size=1, max_size=4).map(b"".join)
streams = st.tuples(spoiled(requests, SPOILERS, 3), cuts)

# --- requests --------------------------------------------------------------------------------------------------------


class Ignorant:
    """Nobody who wants to know which response comes next."""

    def expect(self, method: bytes, upgrade: bool) -> None:
        pass


def passed(parts: Iterator[bytes]) -> tuple[bytes, bool]:
    """What the server gets when each request is answered at once, and whether the client was refused."""
    reader, out = Requests(Forwarded(ADDRESS, "https"), MOST, Ignorant()), b""
    try:
        for part in parts:
            rest: bytes | memoryview = part
            while len(rest):
                words, rest = reader.read(rest)
                out += words
    except Refused as refused:
        assert refused.status in (400, 431)
        return out, True
    return out, False


def check_requests(case: tuple[bytes, Sequence[int]]) -> None:
    """What gpen passes is just what a strict reader finds, and nobody can take it for anything else."""
    stream = case[0]
    out, refused = passed(pieces(*case))
    found = checked(out, ADDRESS.encode())
    expected = reference.read(stream, MOST)
    for number, (ours, theirs) in enumerate(zip(found, expected.requests, strict=False)):
        check_same(ours, theirs, theirs.whole or not refused, f"request {number}")
    count, most = len(found), len(expected.requests)
    least = most - any(request.broken for request in expected.requests)  # a head goes with what comes with it, or not
    doubtful = any(request.doubtful for request in expected.requests)
    assert (0 if doubtful else least) <= count <= most, f"it passed {count} requests of {most}"
    if not doubtful and not expected.begun:
        assert refused == expected.refused, f"refused: {refused}"


def checked(out: bytes, address: bytes) -> list[Message]:
    """The requests in what reached a server: strictly right, the same to a careless reader, and each says last who the
    client is."""
    found = reference.read(out, 1 << 20)
    assert not found.refused and not found.begun, f"the server got {out!r}"
    told = [request.values(b"x-forwarded-for") for request in found.requests]
    assert all(len(values) == 1 and re.fullmatch(rb"(.*, )?" + re.escape(address), values[0]) for values in told), told
    careless = list(reference.loosely(out))
    assert careless == [(request.method, request.body, values[0])
                        for request, values in zip(found.requests, told, strict=True)], f"read carelessly: {careless}"
    return found.requests


def check_same(ours: Message, theirs: Message, whole: bool, what: str) -> None:
    """What was passed is what was sent, but for what gpen adds and leaves out."""
    assert (ours.method, ours.target, ours.version) == (theirs.method, theirs.target, theirs.version), what
    assert plain(ours) == plain(theirs), f"{what} has the fields {ours.fields}, not {theirs.fields}"
    if whole and not theirs.doubtful:
        assert (ours.body, ours.whole) == (theirs.body, theirs.whole), f"{what} has the body {ours.body!r}"
    assert theirs.body.startswith(ours.body), f"{what} has the body {ours.body!r}"


def plain(message: Message) -> list[tuple[bytes, bytes]]:
    """Its fields without those that gpen writes itself, or may leave out."""
    return [(name, value) for name, value in message.fields
            if re.sub(rb"[^a-z0-9]", b"-", name.lower()) not in (b"x-forwarded-for", b"x-forwarded-proto", b"upgrade")]


# --- responses -------------------------------------------------------------------------------------------------------

CONTINUE, OK = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# a response, and whether it has an end of its own
ANSWERS: dict[bytes, bool] = {
    OK: True, CONTINUE + OK: True, b"HTTP/1.1 204 No Content\r\n\r\n": True,
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n": True,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;a=b\r\n!\r\n0\r\nA: b\r\n\r\n": True,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n": True,
    b"HTTP/1.1 404 \r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n404": True,
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end": False, b"HTTP/1.1 200 OK\r\n\r\nuntil the end": False,
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nshort": True,
}
MORE = (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"",
        b"HTTP/1.1 200 OK\r\n",
        b"not HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokay", OK + OK,
        b"HTTP/1.1 99 Low\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")
answers = st.sampled_from(list(ANSWERS))
responses = st.tuples(st.sampled_from((b"GET", b"HEAD", b"POST")), spoiled(
    st.one_of(answers, answers, st.sampled_from(MORE)), (*SPOILERS, b"HTTP/1.1 ", OK, CONTINUE), 2), cuts)


def check_responses(case: tuple[bytes, bytes, Sequence[int]]) -> None:
    """A response ends where a strict reader finds its end, and not before; whatever else comes, nothing is raised, and
    nothing more is asked behind what can't be read."""
    method, stream, cuts = case
    watched = watching(method, pieces(stream, cuts))
    assert watched.switched is False, "there was no upgrade"
    asked_on = watched.whole and not watched.lost
    state, _ = reference.read_response(method, stream)
    if state == reference.WHOLE:
        assert watched.whole or watched.lost, "it has ended"
    elif state != reference.DOUBTFUL:
        assert not asked_on, f"it is {state}, and the next request is sent"
    if stream in ANSWERS and method != b"HEAD":
        assert (watched.whole, watched.lost) == (ANSWERS[stream], b"\r\nConnection: close" in stream)
        assert not watching(method, pieces(stream[:-1], cuts)).whole, "it ended before its last byte"


def watching(method: bytes, parts: Iterator[bytes]) -> Responses:
    """Responses that have seen these pieces, behind one request."""
    watched = Responses()
    watched.expect(method, False)
    for part in parts:
        watched.watch(memoryview(part))
    return watched


# --- a gpen ----------------------------------------------------------------------------------------------------------

conversations = st.tuples(spoiled(requests, SPOILERS, 2), cuts, st.lists(st.one_of(
    answers, answers, st.sampled_from(MORE), spoiled(answers, SPOILERS, 2)), max_size=4).map(tuple))


class Scripted:
    """A server that answers each request it finds with the next of its answers, and keeps what came on each
    connection. An answer that has no end of its own, or may have none, is the last."""

    def __init__(self) -> None:
        self.answers: Sequence[bytes] = ()
        self._received: list[bytes] = []
        self._open = 0
        self._changed = threading.Condition()

    def received(self) -> list[bytes]:
        """What came on the connections that have ended, once none is open; and forget it."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, 30), "a connection to the server does not end"
            received, self._received = self._received, []
        return received

    def __call__(self, sock: socket.socket) -> None:
        got, answered = b"", 0
        with self._changed:
            self._open += 1
        try:
            while piece := sock.recv(1 << 16):
                got += piece
                while answered < sum(request.whole for request in reference.read(got, 1 << 20).requests):
                    answer = self.answers[answered] if answered < len(self.answers) else OK
                    answered += 1
                    sock.sendall(answer)
                    if not ANSWERS.get(answer):
                        return
        finally:
            with self._changed:
                self._received.append(got)
                self._open -= 1
                self._changed.notify_all()


class HttpTrial(Balanced):
    """A client that sends what it likes, and a server that answers as it likes."""

    def __init__(self, stack: ExitStack, server: Scripted, address: str, directory: Path) -> None:
        self._server = server
        super().__init__(stack, lambda: Gpen(directory, "-H", "-l", "gpen.log", "-O", "idle_timeout 10",
                                             "127.0.0.1:0", address), self._serves)

    def _serves(self, balancer: Gpen) -> None:
        self._server.answers = ()
        assert balancer.ask(get("/well?", "Connection: close")) == OK, "a healthy client is not served"

    def attempt(self, case: tuple[bytes, Sequence[int], Sequence[bytes]]) -> None:
        stream, cuts, self._server.answers = case
        with self.balancer.connect() as sock:
            with suppress(OSError):
                for piece in pieces(stream, cuts):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
            read_all(sock)
        for got in self._server.received():
            checked(got, b"127.0.0.1")

    def settle(self) -> None:
        super().settle()
        assert " idle" not in self.balancer.log, "a session waited for nothing"
        self.balancer.log_file.write_bytes(b"")


@contextmanager
def http_trial(directory: Path) -> Iterator[Trial]:
    """A gpen in HTTP mode."""
    scripted = Scripted()
    with ExitStack() as stack, Server(scripted) as server:
        yield HttpTrial(stack, scripted, server.address, directory)

