"""HTTP as the tests speak it: servers that keep every byte that reached them, and clients that read one response."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Protocol

from tests.harness import Serve

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ADDED = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n"


class Receiver(Protocol):
    """A socket, or a client of TLS."""

    def recv(self, most: int, /) -> bytes: ...


Answer = Callable[[bytes], bytes]  # of a request, with its body


def added(request: bytes) -> bytes:
    """A request without a body as the server sees it."""
    return request[:-2] + ADDED


def get(path: str, *headers: str) -> bytes:
    """A request without a body."""
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: www", *headers, "", "")).encode()


def read_until(sock: socket.socket, end: bytes, begun: bytes = b"") -> bytes:
    """What comes, up to a read that ends with these bytes; or all, when the other side closes before."""
    got = begun
    while not got.endswith(end) and (piece := sock.recv(1 << 16)):
        got += piece
    return got


def read_exactly(sock: Receiver, count: int) -> bytes:
    """So many bytes; fewer, when the other side closes before."""
    got = bytearray()
    while len(got) < count and (piece := sock.recv(count - len(got))):
        got += piece
    return bytes(got)


def read_request(sock: socket.socket) -> bytes:
    """One request with its body; more, when the client sends more than it may; nothing when it has closed."""
    got = b""
    while b"\r\n\r\n" not in got:
        if not (piece := sock.recv(1 << 16)):
            return got
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return head + b"\r\n\r\n" + (body if body.endswith(b"0\r\n\r\n") else read_until(sock, b"0\r\n\r\n", body))
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while length and len(body) < int(length[1]) and (piece := sock.recv(1 << 16)):
        body += piece
    return head + b"\r\n\r\n" + body


def read_response(sock: Receiver) -> bytes:
    """One response with a Content-Length or without a body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := sock.recv(1)):
            return head
        head += byte
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head + (read_exactly(sock, int(length[1])) if length and int(length[1]) else b"")


class Recorder:
    """Serves requests one after the other, and keeps them: ``connections`` has a list of them for each connection."""

    def __init__(self, answer: Answer = lambda request: OK) -> None:
        self._answer = answer
        self.connections: list[list[bytes]] = []

    def __call__(self, sock: socket.socket) -> None:
        requests: list[bytes] = []
        self.connections.append(requests)
        while request := read_request(sock):
            requests.append(request)
            sock.sendall(self._answer(request))

    @property
    def requests(self) -> list[bytes]:
        """Those of the only connection, or of all."""
        return [request for requests in self.connections for request in requests]


def script(*steps: tuple[bytes, bytes], then: Serve = lambda sock: None) -> Serve:
    """A server that waits for exactly these bytes, says those, and so on; what differs goes back as an error."""

    def serve(sock: socket.socket) -> None:
        for expected, said in steps:
            got = read_exactly(sock, len(expected))
            if got != expected:
                sock.sendall(b"HTTP/1.1 500 NOT AS EXPECTED\r\n\r\n" + got)
                return
            sock.sendall(said)
        then(sock)

    return serve
