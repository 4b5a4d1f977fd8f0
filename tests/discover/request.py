"""A request, as a server reads it that is made of a socket."""

from __future__ import annotations

import re
import socket


def request_of(client: socket.socket) -> bytes:
    """Its head and its body; what there is of it where the client ends before."""
    heard = b""
    while piece := client.recv(1 << 16):
        heard += piece
        head, end, body = heard.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
        if end and len(body) >= int(length[1] if length else 0):
            break
    return heard
