"""HTTP/1.1 as RFC 9112 has it, to the letter, and what gpen refuses beyond that: what fuzzed streams are judged by.

Nothing here is shared with gpen. Where the RFC leaves it open, or llhttp knows better, a request is `doubtful`: gpen
may pass or refuse it, but must not take it for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"))
_LINE = re.compile(rb"(%b) ([!-~\x80-\xff]+) HTTP/(1\.[01])" % TOKEN)
_FIELD = re.compile(rb"(%b):[ \t]*((?:[!-~\x80-\xff]|[ \t](?=.*[!-~\x80-\xff]))*)[ \t]*" % TOKEN)
_PLAIN_TARGET = re.compile(rb"/[A-Za-z0-9/._?=&%-]*|\*")
_SIZE = re.compile(rb"([0-9A-Fa-f]+)((?:[ \t]*;.*)?)")
_PLAIN_EXTENSION = re.compile(rb"(?:;%b(?:=%b)?)*" % (TOKEN, TOKEN))
_ODD = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass
class Message:
    """A request. ``whole``: its body came to its end; ``broken``: something stands in it that is no body."""

    method: bytes
    target: bytes
    version: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = True
    doubtful: bool = False
    broken: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """Those of the fields of a name, in lower case."""
        return [value for known, value in self.fields if known.lower() == name]


@dataclass
class Reading:
    """What there is in a stream. ``refused``: behind its requests, or within the last one's body, something stands that
    is none; ``begun``: a head that is not whole, about which nothing is said."""

    requests: list[Message] = field(default_factory=list)
    refused: bool = False
    begun: bool = False
    rest: bytes = b""  # behind the last request


class Malformed(Exception):
    """Not HTTP, or not what gpen passes."""


def read(stream: bytes, most: int = 16384) -> Reading:
    """The requests of a client."""
    found = Reading()
    while stream:
        while stream.startswith(b"\r\n"):
            stream = stream[2:]
        if not stream:
            break
        head, end, rest = stream.partition(b"\r\n\r\n")
        if not end or len(head) + 4 > most:
            found.begun, found.refused, found.rest = not len(head) + 4 > most, len(head) + 4 > most, stream
            break
        try:
            request = read_head(head)
        except Malformed:
            found.refused = True
            break
        found.requests.append(request)
        try:
            stream = read_body(request, rest)
        except Malformed:
            found.refused = request.broken = True
        if not request.whole:
            break
    return found


def read_head(head: bytes) -> Message:
    """A head without its empty line. Raises Malformed."""
    first, *lines = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise Malformed
    fields = []
    for text in lines:
        if (matched := _FIELD.fullmatch(text)) is None or _ODD.search(text):
            raise Malformed
        fields.append((matched[1], matched[2]))
    request = Message(line[1], line[2], line[3], fields)
    request.doubtful = line[1] not in METHODS or not _PLAIN_TARGET.fullmatch(line[2])
    check(request)
    return request


def check(request: Message) -> None:
    """What a proxy that must not be deceived refuses. Raises Malformed."""
    hosts, lengths, codings = (request.values(name) for name in (b"host", b"content-length", b"transfer-encoding"))
    if len(hosts) > 1 or (not hosts and request.version == b"1.1") or request.method == b"CONNECT":
        raise Malformed
    for name, _ in request.fields:
        meant = re.sub(rb"[^a-z0-9]", b"-", name.lower())
        if meant in (b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade") and (
                name.lower() != meant):
            raise Malformed
    if codings and (lengths or request.version == b"1.0" or [coding.lower() for coding in codings] != [b"chunked"]):
        raise Malformed
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
        raise Malformed
    if any(name in re.sub(rb"[^a-z0-9]", b"-", value.lower()) for value in request.values(b"connection")
           for name in (b"x-forwarded-", b"content-length", b"transfer-encoding")):
        raise Malformed


def read_body(request: Message, stream: bytes) -> bytes:
    """Read its body, and return what is behind it. Raises Malformed."""
    if request.values(b"transfer-encoding"):
        return read_chunks(request, stream)
    if not request.values(b"content-length"):
        return stream
    length = int(request.values(b"content-length")[0])
    request.body, request.whole = stream[:length], len(stream) >= length
    return stream[length:]


def read_chunks(request: Message, stream: bytes) -> bytes:
    """The same for a chunked body."""
    request.whole = False
    while True:
        line, end, rest = stream.partition(b"\r\n")
        if not end:
            request.doubtful |= bool(stream)
            return b""
        size = _SIZE.fullmatch(line)
        if size is None or _ODD.search(line):
            raise Malformed
        request.doubtful |= len(line) > 16 or not _PLAIN_EXTENSION.fullmatch(size[2])
        length = int(size[1], 16)
        if not length:
            return read_trailer(request, rest)
        request.body += rest[:length]
        if len(rest) < length + 2:
            request.doubtful |= len(rest) > length and rest[length:] != b"\r"
            return b""
        if rest[length:length + 2] != b"\r\n":
            raise Malformed
        stream = rest[length + 2:]


def read_trailer(request: Message, stream: bytes) -> bytes:
    """What stands behind the last chunk."""
    if stream.startswith(b"\r\n"):
        request.whole = True
        return stream[2:]
    trailer, end, rest = stream.partition(b"\r\n\r\n")
    request.doubtful |= bool(trailer)
    if not end:
        return b""
    if any(_FIELD.fullmatch(line) is None or _ODD.search(line) for line in trailer.split(b"\r\n")):
        raise Malformed
    request.whole = True
    return rest


# --- responses -------------------------------------------------------------------------------------------------------

_STATUS = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
WHOLE, PART, ENDLESS, SWITCHED, MALFORMED, DOUBTFUL = "whole", "part", "endless", "switched", "malformed", "doubtful"


def read_response(method: bytes, stream: bytes) -> tuple[str, bytes]:
    """How far the response to such a request has come, interim ones and blank lines before it left out, and what is
    behind it. ``ENDLESS``: it ends with the connection; ``MALFORMED``: nobody can say where it ends."""
    head, end, rest = stream.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not end:
        return PART, b""
    first, *lines = head.split(b"\r\n")
    status, matched = _STATUS.fullmatch(first), [_FIELD.fullmatch(line) for line in lines]
    if status is None or None in matched or any(map(_ODD.search, lines)):
        return DOUBTFUL, b""
    response = Message(method, b"", status[1], [(line[1], line[2]) for line in matched if line])
    if status[2] == b"101":
        return SWITCHED, rest
    if status[2] < b"200":
        return read_response(method, rest)
    if method == b"HEAD" or status[2] in (b"204", b"304"):
        return WHOLE, rest
    lengths, codings = response.values(b"content-length"), response.values(b"transfer-encoding")
    if (lengths and codings) or (codings and codings != [b"chunked"]) or len(lengths) > 1 or (
            lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
        return MALFORMED, b""
    if not lengths and not codings:
        return ENDLESS, b""
    try:
        rest = read_body(response, rest)
    except Malformed:
        return MALFORMED, b""
    if response.doubtful:  # trailers, odd chunks
        return DOUBTFUL, b""
    return (WHOLE, rest) if response.whole else (PART, b"")


# --- as servers read that are not strict -----------------------------------------------------------------------------


def loosely(stream: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The requests that a careless server finds: a line ends with LF, names are what a CGI program sees, blanks before
    a colon are nothing, and a chunk's size is whatever hexadecimal digits it begins with. For each, the method, the
    body and what it is told of X-Forwarded-For."""
    while stream.strip(b"\r\n"):
        head, _, stream = re.sub(rb"\r?\n\r?\n", b"\n\n", stream.lstrip(b"\r\n"), count=1).partition(b"\n\n")
        first, *lines = re.split(rb"\r?\n", head)
        fields = [(re.sub(rb"[^a-z0-9]", b"-", name.strip(b" \t").lower()), value.strip())
                  for name, _, value in (line.partition(b":") for line in lines)]
        values = dict(fields)
        body = b""
        if b"chunked" in values.get(b"transfer-encoding", b"").lower():
            while (size := re.match(rb"\s*([0-9A-Fa-f]+)[^\n]*\n", stream)) is not None:
                length, stream = int(size[1], 16), stream[size.end():]
                body, stream = body + stream[:length], stream[length:]
                if not length:
                    break
        elif b"content-length" in values:
            length = int(values[b"content-length"] or b"0")
            body, stream = stream[:length], stream[length:]
        told = b", ".join(value for name, value in fields if name == b"x-forwarded-for")
        yield first.split(b" ")[0], body, told
