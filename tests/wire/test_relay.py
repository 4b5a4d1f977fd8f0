"""The sides of a session without the session: what is on the wire of each, and what is done on the way, combine. A
server's TLS is spoken here only: no setting offers it yet."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import gevent
import pytest

from gpen.proto.http import HttpOpening
from gpen.proto.http_requests import Forwarded
from gpen.wire.http import HttpFilter
from gpen.wire.kernel import Socket
from gpen.wire.poller import Poller
from gpen.wire.proxy import guard
from gpen.wire.relay import PLAIN, End, Filter, Stream
from gpen.wire.tls import Channel, TlsStream
from tests.certificates import Certificates
from tests.harness import PATIENCE, started
from tests.tlsclient import TlsClient, Truncated, trusting
from tests.wire.http_peers import OK, Recorder, get, read_request, read_response
from tests.wire.test_transfers import DATA

MB = 1 << 20
ADDED = b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"

Sock = Any  # a socket, or a TlsClient
Act = Callable[[Sock], Any]

each_client = pytest.mark.parametrize("client", ["plain", "tls"])
each_server = pytest.mark.parametrize("server", ["plain", "tls"])


class Relayed:
    """Two sides, whose machines are threads, as a session has them: it closes both when both have ended and nothing
    waits."""

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        self._trusting = trusting(certificates.authority.certificate)
        self._serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._serving.load_cert_chain(certificates.server.certificate, certificates.server.key)
        self._serving.options |= ssl.OP_NO_RENEGOTIATION
        self._stack = stack
        self._threads = stack.enter_context(ThreadPoolExecutor(2))
        self._poller = Poller()
        stack.callback(self._poller.close)
        self._poller.loop.update_now()  # it knows the time of when it ran last, in a test before
        self._opening: HttpOpening | None = None
        self.over = False
        self.refused: list[int] = []
        self.failures: list[BaseException | None] = []

    def client(self, speaks: str, act: Act) -> Future[Any]:
        """What comes of what the client does."""
        ours, theirs = self._pair()
        result = self._begin(act, theirs, self._trusting if speaks == "tls" else None, "localhost")
        self.client_at(ours, speaks)
        return result

    def client_at(self, sock: socket.socket, speaks: str, filter: Filter | None = None) -> None:
        """There is one already behind this socket."""
        stream = TlsStream(shaken(sock, self._serving)) if speaks == "tls" else PLAIN
        self.down = self._end(sock, stream, filter)

    def server(self, speaks: str, act: Act, request: bytes = b"") -> Future[Any]:
        """What comes of what the server does. With a first request the client speaks HTTP."""
        ours, theirs = self._pair()
        result = self._begin(act, theirs, self._serving if speaks == "tls" else None)
        self.server_at(ours, speaks, request)
        return result

    def server_at(self, sock: socket.socket, speaks: str, request: bytes = b"") -> None:
        """There is one already behind this socket."""
        stream = TlsStream(shaken(sock, self._trusting, "localhost")) if speaks == "tls" else PLAIN
        if request:
            self._opening = HttpOpening(Forwarded("192.0.2.7", "https"), 8192, False)
            self._opening.take(request)
            self.up = self._end(sock, stream, HttpFilter(self._opening, self._refuse))
        else:
            self.up = self._end(sock, stream)

    def start(self) -> None:
        self.down.start(self.up)
        self.up.start(self.down)
        if self._opening is not None:
            assert isinstance(self.up.filter, HttpFilter)
            self.up.filter.begin(self._opening)
        self.up.wake()
        self.down.wake()

    def until(self, condition: Callable[[], Any]) -> None:
        """Let the loop run until something is true."""
        with gevent.Timeout(PATIENCE):
            while not condition():
                gevent.sleep(0.001)
        assert not self.failures

    def result(self, future: Future[Any]) -> Any:
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        self.up.close()
        self.down.close()
        assert not self._poller.watched

    def settle(self, end: End) -> None:
        if self.up.eof and self.down.eof and self.up.pending is None and self.down.pending is None:
            self.over = True
            self.close()

    def parted(self, end: End) -> None:
        pass

    def failed(self) -> None:
        self.failures.append(sys.exc_info()[1])

    def _refuse(self, status: int, reason: str) -> None:
        self.refused.append(status)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.settimeout(PATIENCE)
            self._stack.enter_context(sock)
        return ours, theirs

    def _begin(self, act: Act, sock: socket.socket, context: ssl.SSLContext | None, name: str | None = None,
               ) -> Future[Any]:
        def run() -> Any:
            with TlsClient("", context, name, sock=sock) if context is not None else sock as peer:
                return act(peer)

        return self._threads.submit(run)

    def _end(self, sock: socket.socket, stream: Stream, filter: Filter | None = None) -> End:
        sock.setblocking(False)
        return End(Socket(sock.family, sock.type, 0, sock.detach()), self._poller, self, stream, filter)


def shaken(sock: socket.socket, context: ssl.SSLContext, name: str | None = None) -> Channel:
    """The TLS of a connection whose handshake is done: with a name, to the server that has it."""
    channel = Channel(context, name)
    while not channel.step():
        sock.sendall(channel.outgoing.read())
        channel.incoming.write(sock.recv(1 << 16))
    sock.sendall(channel.outgoing.read())
    return channel


@pytest.fixture
def relayed(certificates: Certificates) -> Iterator[Relayed]:
    with ExitStack() as stack:
        relayed = Relayed(certificates, stack)
        yield relayed
        relayed.close()


def read_all(sock: Sock) -> bytes:
    """What comes until the end of input. Raises Truncated, where TLS has none."""
    return b"".join(iter(partial(sock.recv, 1 << 16), b""))


def say_all(data: bytes, sock: Sock) -> bytes:
    """Send all, end, and read to the end."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return read_all(sock)


def answer_all(data: bytes, sock: Sock) -> bytes:
    """Read to the end, and then send all."""
    received = read_all(sock)
    sock.sendall(data)
    return received


# --- streams ---------------------------------------------------------------------------------------------------------


@each_client
@each_server
def test_bytes_arrive_whole(relayed: Relayed, client: str, server: str) -> None:
    """More than finds room, and an end of each direction that the other outlives."""
    asked = relayed.client(client, partial(say_all, DATA[:2 * MB]))
    served = relayed.server(server, partial(answer_all, DATA[MB:4 * MB]))
    relayed.start()
    assert relayed.result(served) == DATA[:2 * MB]
    assert relayed.result(asked) == DATA[MB:4 * MB]
    relayed.until(lambda: relayed.over)
    assert (relayed.down.received, relayed.up.sent) == (2 * MB, 2 * MB)
    assert (relayed.up.received, relayed.down.sent) == (3 * MB, 3 * MB)
    assert not (relayed.up.truncated or relayed.down.truncated)


@each_client
def test_an_end_behind_bytes_in_one_packet(relayed: Relayed, client: str) -> None:
    """No event tells of a goodbye that came with what was read, if it has come as the last of what TLS has to say."""

    def serve(sock: TlsClient) -> bytes:
        sock.fin = False
        sock.sock.sendall(sock.encrypted(b"all") + sock.goodbye())
        return read_all(sock)

    asked, served = relayed.client(client, partial(answer_all, b"late")), relayed.server("tls", serve)
    relayed.start()
    assert (relayed.result(asked), relayed.result(served)) == (b"all", b"late")
    relayed.until(lambda: relayed.over)


@pytest.mark.parametrize("whose", ["client", "server"])
def test_an_end_that_is_missing_is_missing_on_the_other_side(relayed: Relayed, whose: str) -> None:
    def leave(sock: TlsClient) -> None:
        sock.sendall(b"half")
        sock.sock.shutdown(socket.SHUT_WR)
        read_all(sock)

    asked = relayed.client("tls", leave if whose == "client" else read_all)
    served = relayed.server("tls", leave if whose == "server" else read_all)
    relayed.start()
    with pytest.raises(Truncated):
        relayed.result(served if whose == "client" else asked)
    ended, other = (relayed.down, relayed.up) if whose == "client" else (relayed.up, relayed.down)
    assert ended.truncated and ended.received == other.sent == 4


# --- what is done on the way -----------------------------------------------------------------------------------------


@each_client
@each_server
def test_requests_and_responses(relayed: Relayed, client: str, server: str) -> None:
    """One at a time reaches the server; among them are large ones, in both directions."""
    large = b"POST / HTTP/1.1\r\nHost: www\r\nContent-Length: %d\r\n\r\n%b" % (MB, DATA[:MB])
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (2 * MB, DATA[:2 * MB])
    recorder = Recorder(lambda request: response if b"/large" in request else OK)

    def ask(sock: Sock) -> list[bytes]:
        sock.sendall(get("/large") + get("/next"))
        answers = [read_response(sock) for _ in range(3)]
        sock.sendall(large + get("/last"))
        answers += [read_response(sock) for _ in range(2)]
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        return answers

    asked, served = relayed.client(client, ask), relayed.server(server, recorder, get("/first"))
    relayed.start()
    assert relayed.result(asked) == [OK, response, OK, OK, OK]
    relayed.result(served)
    relayed.until(lambda: relayed.over)
    assert recorder.requests == [request.replace(b"\r\n\r\n", b"\r\n" + ADDED, 1) for request in (
        get("/first"), get("/large"), get("/next"), large, get("/last"))]
    assert relayed.up.sent == sum(map(len, recorder.requests))
    assert relayed.up.received == relayed.down.sent == 4 * len(OK) + len(response)


@each_server
def test_a_request_that_is_refused(relayed: Relayed, server: str) -> None:
    """The server never hears of it, nor a goodbye; the client has the answer to what came before."""
    recorder = Recorder()

    def ask(sock: Sock) -> bytes:
        sock.sendall(b"GET /\r\n\r\n")
        return read_response(sock)

    asked, served = relayed.client("plain", ask), relayed.server(server, recorder, get("/first"))
    relayed.start()
    assert relayed.result(asked) == OK
    relayed.until(lambda: relayed.refused and served.done())
    assert isinstance(served.exception(), Truncated if server == "tls" else type(None))
    assert (relayed.refused, len(recorder.requests)) == ([400], 1)


@each_server
def test_a_websocket(relayed: Relayed, server: str) -> None:
    """Behind the switch bytes pass as they are."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    def serve(sock: Sock) -> bytes:
        read_request(sock)
        sock.sendall(switch)
        return answer_all(b"\1nor this", sock)

    def ask(sock: Sock) -> bytes:
        return read_response(sock) + say_all(b"\0no HTTP", sock)

    request = get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    asked, served = relayed.client("tls", ask), relayed.server(server, serve, request)
    relayed.start()
    assert (relayed.result(served), relayed.result(asked)) == (b"\0no HTTP", switch + b"\1nor this")


@each_client
@each_server
def test_taps_see_what_is_meant(relayed: Relayed, client: str, server: str) -> None:
    seen: dict[End, bytes] = {}

    def ask(sock: Sock) -> bytes:
        answer = read_response(sock)
        sock.sendall(get("/second"))
        return answer + read_response(sock)

    def show(end: End, data: memoryview) -> None:
        seen[end] = seen.get(end, b"") + bytes(data)

    asked, _ = relayed.client(client, ask), relayed.server(server, Recorder(), get("/first"))
    relayed.down.tap = relayed.up.tap = show
    relayed.start()
    assert relayed.result(asked) == OK + OK
    assert seen == {relayed.down: get("/second"), relayed.up: OK + OK}


@each_client
def test_the_guard(relayed: Relayed, client: str) -> None:
    refused: list[bool] = []
    relayed.client(client, partial(say_all, b"PROXY TCP4 10.1.2.3 10.4.5.6 1000 2000\r\n"))
    served = relayed.server("tls", read_all)
    guard(relayed.down, lambda: refused.append(True))
    relayed.start()
    relayed.until(lambda: refused)
    relayed.close()
    with pytest.raises((Truncated, ConnectionResetError)):
        relayed.result(served)


class Holding:
    """A filter that holds back what goes to its End."""

    def join(self, end: End) -> None:
        self._end = end
        end.send = self.take

    def take(self, view: memoryview) -> int:
        self._end.keep(memoryview(bytes(view)), for_room=False)
        return len(view)

    def served(self) -> None:
        pass

    flushed = ended = leave = served


def test_what_tls_has_to_answer_does_not_wait_for_a_filter(relayed: Relayed) -> None:
    """R lets openssl ask for a new handshake, which it is refused."""
    relayed.server("plain", read_all)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
        with started(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                     bufsize=0) as client, listener.accept()[0] as sock:
            relayed.client_at(sock, "tls", Holding())
            relayed.start()
            relayed.down.send(memoryview(b"held back"))
            assert relayed.down.pending == b"held back"
            client.stdin.write(b"R\n")
            relayed.until(lambda: client.poll() is not None)
            assert b"no renegotiation" in client.stderr.read()
