"""What is in the datagrams: pen's note of a request, or a line of a web server's log. Bytes in, bytes out.

All that comes from the network is checked here. An address is rewritten in its one form, and what is to be written
holds no character that can't be seen, but the tab: web servers escape them in their logs (``\\x1b``), so a genuine
line stays byte for byte what it is.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from gpen.model.text import printable

# penlog cuts a line into datagrams of so many bytes: one that has just this length and no end goes on in the next.
PIECE = 1023

_WEB_LINE = re.compile(rb'([^ \t"]+)([ \t][^"]*"([^"\\]*(?:\\.[^"\\]*)*)".*)', re.DOTALL)
_GENUINE = "\t" + "".join(map(chr, range(0xDCA0, 0xDD00)))  # the letters of a log in Latin-1, which are no UTF-8
_ODD = re.compile(rb"[^\t\x20-\x7e]")
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"t": b"\t", b"b": b"\b", b"v": b"\v", b"f": b"\f"}


class Request(NamedTuple):
    """A balancer's note: this client has sent a request that begins with this line to this server."""

    client: str
    server: str
    request: bytes


class WebLine(NamedTuple):
    """A line of a web server's log: the address that it begins with, what follows, and the request within that."""

    address: bytes
    rest: bytes
    request: bytes


def is_note(datagram: bytes) -> bool:
    """Whether it comes from a balancer; else it is a line of a web server."""
    return datagram.startswith(b"+ ")


def read_note(datagram: bytes) -> Request:
    """Read ``+ CLIENT SERVER REQUEST``; the request ends at the first end of a line. Raises ValueError."""
    fields = datagram.split(b" ", 3)
    if len(fields) != 4:
        raise ValueError("expected + CLIENT SERVER REQUEST")
    request = fields[3].split(b"\n", 1)[0].split(b"\r", 1)[0]
    if not request:
        raise ValueError("the request is empty")
    return Request(canonical(printable(fields[1])), canonical(printable(fields[2])), request)


def is_web_line(line: bytes) -> bool:
    """Whether something stands in quotes, as requests do in the logs of web servers."""
    return line.count(b'"') >= 2


def read_web_line(line: bytes) -> WebLine | None:
    """The parts of a line that begins with an address and holds a request in quotes; None for any other line."""
    found = _WEB_LINE.fullmatch(line)
    return WebLine(found[1], found[2], found[3]) if found else None


def unescaped(request: bytes) -> bytes:
    """A request as the client sent it, from how web servers log it: ``\\"`` for a quote, ``\\x1b`` for a byte."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()) if found[1] else
                       _LETTERS.get(found[2], found[2]), request)


def one_line(line: bytes) -> bytes:
    """The line without its end, in characters that can be printed, and tabs: also ends of lines within it."""
    line = line.rstrip(b"\r\n")
    return printable(line, _GENUINE).encode("utf-8", "surrogateescape") if _ODD.search(line) else line


@lru_cache(maxsize=4096)
def canonical(address: str) -> str:
    """An IP address in its one form, without the scope of a link-local one. Raises ValueError."""
    known = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(known, "ipv4_mapped", None) or known)
