"""The dummy web server: answers every request with one small page that says who answers. For tests and demos."""

from __future__ import annotations

from typing import Any

from gpen.model.ending import Ending
from gpen.wire.poller import EPOLLIN, Poller
from gpen.wire.relay import End

MAX_REQUEST = 64 * 1024
_PATIENCE = 60.0


def answer(client: End, poller: Poller, seconds: float) -> Ending:
    """Read requests (without bodies) and answer each until the client closes or stays silent for so many seconds
    (0: a minute). Switches greenlets. The caller closes the socket."""
    sock, request = client.sock, b""
    try:
        while True:
            piece = _receive(client, poller, seconds or _PATIENCE)
            if piece is None:
                return Ending.IDLE
            request += piece
            client.received += len(piece)
            if not piece or len(request) > MAX_REQUEST:
                return Ending.ANSWERED
            while b"\r\n\r\n" in request:
                head, _, request = request.partition(b"\r\n\r\n")
                client.say(_page(sock, head))
                if b"connection: close" in head.lower() or head.split(b"\r\n")[0].endswith(b"HTTP/1.0"):
                    return Ending.ANSWERED
    except OSError:
        return Ending.CLIENT_RESET


def _receive(client: End, poller: Poller, seconds: float) -> bytes | None:
    while True:
        try:
            return bytes(poller.view[: client.recv_into(poller.view)])
        except BlockingIOError:
            if not poller.wait(client.fd, EPOLLIN, seconds):
                return None


def _page(sock: Any, head: bytes) -> bytes:
    name = sock.getsockname()
    place = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
    body = f"<!DOCTYPE html><title>gpen</title><p>gpen's dummy server at {place}</p>\n".encode()
    header = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return header if head.startswith(b"HEAD ") else header + body
