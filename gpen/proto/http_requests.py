"""The requests of an HTTP/1 client, written anew for the server: pure, bytes in and bytes out.

llhttp (httptools) reads heads and chunks, and what it understood is what the server gets: so no two readers of the same
bytes can differ on where a request ends. A head is cut out at its empty line, must be just what llhttp takes for a
head, and must have the form that RFC 9112 gives it, for llhttp alone lets things pass: ``GET /`` without a version, two
blanks; in httptools 0.6.1 also folded lines, and blanks before a colon. A parser serves one head or one body and is
made anew for the next, which costs 1 us, so that nothing is carried over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple, Protocol, TypeAlias

from gpen.model.text import shortened
from gpen.proto.protocol import Refused

with suppress(ImportError):  # an extra: without it the balancer refuses the setting http
    from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

Bytes: TypeAlias = "bytes | memoryview"
Values: TypeAlias = "dict[bytes, list[bytes]]"  # of some headers, by their names in lower case

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(rb"%b [!-~\x80-\xff]+ HTTP/(1\.[01])\r\n(?:%b:[\t -~\x80-\xff]*\r\n)*\r\n" % (_TOKEN, _TOKEN))
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")  # RFC 9112, 3.2.2
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.]+\]|[0-9A-Za-z._~!$&'()*+;=%\x80-\xff-]*)(?::[0-9]*)?")  # RFC 9110, 7.2
_LENGTH = re.compile(rb"[0-9]{1,18}")
_END = b"\r\n\r\n"
_SIZE_MOST = 4096  # bytes of a line with the size of a chunk, and its extensions
_BLANK_LINES = re.compile(rb"(?:\r\n)*")
_CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"  # the head of all chunked bodies, to llhttp

_BATCH, _BATCHES = 64, 8  # so many others are read before small ones are looked for again; and so often in a turn

# Servers make variables of names (CGI, WSGI), where X_Forwarded.For is the same as X-Forwarded-For.
_FOLDED = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else ord("-") for code in range(256))
_FOR, _PROTO, _LENGTHS, _CODINGS = b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding"
_OURS = (_FOR, _PROTO)
_TO_ALL = (b"x-forwarded-", _LENGTHS, _CODINGS)  # to be seen by all who come behind us
_SPECIAL = frozenset((*_OURS, _LENGTHS, _CODINGS, b"host", b"connection", b"upgrade"))


@cache  # and not at each start: it takes 5 ms
def _small_chunks() -> re.Pattern[bytes]:
    """Chunks of up to 79 bytes, if the size has no extension and no leading zero. Larger ones are as fast one by one.
    """
    digits = [b"%x" % digit if digit < 10 else b"[%x%X]" % (digit, digit) for digit in range(16)]
    contents = [rb"\r\n%b\r\n" % (b"." * size) for size in range(80)]
    return re.compile(b"(?s)(?:%b)*" % b"|".join(
        b"%b(?:%b%b)" % (digits[first], contents[first], b"".join(
            b"|%b%b" % (digits[second], contents[16 * first + second]) for second in range(16) if first < 5))
        for first in range(1, 16)))


class Forwarded(NamedTuple):
    """What servers are told of the client: its address, and the scheme (http or https) by which it came."""

    address: str
    scheme: str


class Asked(Protocol):
    """Who wants to know which response comes next."""

    def expect(self, method: bytes, upgrade: bool) -> None:
        """One to this method; ``upgrade``: it may end HTTP on this connection, in favour of a WebSocket."""


class Requests:
    """What a client asks, one request at a time. ``whole``: none is begun, or the last was read to its end. ``heed`` is
    told of each one's host, if somebody wants to know, and raises Refused where a request may not be for that."""

    __slots__ = ("_asked", "_body", "_head", "_most", "_ours", "heed", "whole")

    def __init__(self, forwarded: Forwarded, most: int, asked: Asked) -> None:
        """``most`` bytes are the limit of a head; ``asked`` hears of each head that goes to the server."""
        address = "unknown" if forwarded.address == "unix" else forwarded.address  # RFC 7239, 6.2
        self._ours = f"{address}\r\nX-Forwarded-Proto: {forwarded.scheme}\r\n\r\n".encode()
        self._most = most
        self._asked = asked
        self._head: _Head | None = None
        self._body: _Counted | _Chunked | None = None
        self.heed: Callable[[str], None] | None = None
        self.whole = True

    @property
    def in_head(self) -> bool:
        """Whether a head was begun, but not read to its end."""
        return self._head is not None and not self.whole

    @property
    def in_body(self) -> bool:
        """Whether a head was read, but not all of its body."""
        return self._body is not None

    def read(self, data: Bytes) -> tuple[Bytes, Bytes]:
        """What the server gets of these bytes, and those behind the end of the request; or, when it is not ``whole``,
        those that are to be read at another turn. Raises Refused."""
        if self._body is None:
            return self._read_head(data)
        out, rest = self._body.read(data)
        if self._body.whole:
            self._body = None
            self.whole = True
        return out, rest

    def _read_head(self, data: Bytes) -> tuple[Bytes, Bytes]:
        if self._head is None:
            self._head = _Head()
        head = self._head
        rest: Bytes | None = head.read(data, self._most)
        if rest is None:
            self.whole = not head.raw
            return b"", b""
        self._head = None
        out, self._body = self._rewrite(head)
        self.whole = self._body is None
        if rest and not self.whole:
            body, rest = self.read(rest)
            out += body  # in one piece: the kernel may keep a second one back until the first is acknowledged
        return out, rest

    def _rewrite(self, head: _Head) -> tuple[bytes, _Counted | _Chunked | None]:
        """The head that the server gets, and the body that follows. Raises Refused."""
        method, version = head.method, head.version
        lines, values = _sort(head.fields)
        body = _body_of(version, values)
        _check(method, version, values)
        if self.heed is not None:
            self.heed(_host_of(head.target, values))
        has_upgrade = b"upgrade" in values
        upgrade = has_upgrade and body is None and _asks_for_websocket(method, version, values)
        if has_upgrade and not upgrade:
            # Nobody need heed an Upgrade (RFC 9110, 7.8). Servers built on llhttp lose track of a body behind one, and
            # what comes in another HTTP (h2c, or 1.1 in TLS) would pass with whatever the client claims.
            lines = [line for line in lines if line[:8].lower() != b"upgrade:"]
        before = b"".join([value + b", " for value in values.get(_FOR, ()) if value])
        self._asked.expect(method, upgrade)
        return b"%b %b HTTP/%b\r\n%bX-Forwarded-For: %b%b" % (
            method, head.target, version, b"".join(lines), before, self._ours), body


def _sort(fields: list[tuple[bytes, bytes]]) -> tuple[list[bytes], Values]:
    """The header lines that are passed on as they came, and the values that matter here. Raises Refused."""
    lines: list[bytes] = []
    values: Values = {}
    for name, value in fields:
        folded = name.translate(_FOLDED)
        if folded in _SPECIAL:
            is_meant = name.lower() == folded
            if is_meant:
                values.setdefault(folded, []).append(value.strip(b" \t"))
            elif folded not in _OURS:
                raise Refused(400, f"a header {name.decode()}, which may be taken for {folded.decode()}")
            if folded in _OURS:
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    return lines, values


def _body_of(version: bytes, values: Values) -> _Counted | _Chunked | None:
    """The body that a request has. Raises Refused."""
    lengths, codings = values.get(_LENGTHS, []), values.get(_CODINGS, [])
    if codings:
        if lengths:
            raise Refused(400, "both Content-Length and Transfer-Encoding")
        if version == b"1.0" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise Refused(400, f"Transfer-Encoding '{shortened(b', '.join(codings), 40)}' in HTTP/{version.decode()}")
        return _Chunked()
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Refused(400, f"Content-Length '{shortened(b', '.join(lengths), 40)}'")
    length = int(lengths[0])
    return _Counted(length) if length else None


def _check(method: bytes, version: bytes, values: Values) -> None:
    """Raises Refused for what is well-formed, but can't be meant."""
    hosts = len(values.get(b"host", ()))
    if hosts > 1 or (not hosts and version == b"1.1"):
        raise Refused(400, f"{hosts} Host headers")
    if method == b"CONNECT":  # it would end HTTP here, by whatever an application answers
        raise Refused(400, "CONNECT, which is for proxies of clients")
    for value in values.get(b"connection", ()):
        words = value.translate(_FOLDED)
        if any(name in words for name in _TO_ALL):  # the next proxy would take it out (RFC 9110, 7.6.1)
            raise Refused(400, f"Connection '{shortened(value, 40)}'")


def _host_of(target: bytes, values: Values) -> str:
    """The host that a request is for. Raises Refused where that is said twice, and not alike: a server might go by
    either; and where it is no host, of which a server might make one."""
    host = values.get(b"host", [b""])[0]
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        if host and host.lower() != absolute[1].lower():
            raise Refused(400, f"a request for {shortened(absolute[1], 40)}, with Host {shortened(host, 40)}")
        host = absolute[1]
    if not _HOST.fullmatch(host):
        raise Refused(400, f"Host {shortened(host, 40)}, which is none")
    return host.decode("latin-1")


def _asks_for_websocket(method: bytes, version: bytes, values: Values) -> bool:
    """Whether a server may end HTTP behind this request: by nothing but a WebSocket, asked for as RFC 6455 says."""
    return (method == b"GET" and version == b"1.1" and b"upgrade" in _words(values.get(b"connection", ()))
            and set(_words(values.get(b"upgrade", ()))) == {b"websocket"})


def _words(values: Iterable[bytes]) -> list[bytes]:
    """The words of a list, in small letters; it may stand in several headers."""
    return [word.strip(b" \t") for word in b",".join(values).lower().split(b",")]


class _Head:
    """A head, as it is read. ``raw`` is what there is of it, without blank lines before it."""

    __slots__ = ("_found", "_parser", "raw", "version")

    def __init__(self) -> None:
        self.raw = bytearray()
        self.version = b""  # 1.0 or 1.1
        self._found = _Found()
        self._parser = HttpRequestParser(self._found)

    @property
    def method(self) -> bytes:
        return self._parser.get_method()

    @property
    def target(self) -> bytes:
        return self._found.target

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        return self._found.fields

    def read(self, data: Bytes, most: int) -> bytes | None:
        """What is behind the head, or None as long as its end has not come. Raises Refused."""
        raw, known = self.raw, len(self.raw)
        raw += data
        if known < 2:  # nothing but the half of a blank line, which may come first (RFC 9112, 2.2)
            blank = _BLANK_LINES.match(raw)
            del raw[: blank.end() if blank else 0]
            if len(raw) < 2:
                return None
            known = 0
        found = raw.find(_END, max(known - 3, 0))
        end = found + len(_END) if found >= 0 else len(raw)
        if end > most:
            raise Refused(431, f"a header of more than {most} bytes (http_header_max)")
        self._feed(raw[known:end])
        if found < 0 and not self._found.heads:
            return None
        rest = bytes(raw[end:])
        del raw[end:]
        form = _HEAD.fullmatch(raw)
        if self._found.heads != 1 or form is None:
            raise Refused(400, "a malformed header")
        self.version = bytes(form[1])
        return rest

    def _feed(self, piece: bytearray) -> None:
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:
            return  # whether it is one, the server says
        except HttpParserError as error:
            raise Refused(400, f"a malformed header: {error}") from None


class _Found:
    """What llhttp finds in a head."""

    __slots__ = ("fields", "heads", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.heads = 0

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.heads += 1


class _Counted:
    """A body whose length is known, passed on as it comes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def whole(self) -> bool:
        return not self._left

    def read(self, data: Bytes) -> tuple[Bytes, Bytes]:
        body, rest = data[:self._left], data[self._left:]
        self._left -= len(body)
        return body, rest


class _Chunked:
    """A chunked body: what is read at once becomes one chunk, or a few; extensions and trailers are left out.

    llhttp does not tell where a body ended. The sizes of the chunks do, and llhttp has to find the end just there: so
    what comes is fed to it as it is, whatever it looks like. Only small chunks that are written as simply as can be
    need no such care, and pass as they came: a body of one-byte chunks, which cost 150 ns each, costs 5 ns of each.
    """

    __slots__ = ("_before", "_content", "_in_trailer", "_left", "_parser")

    def __init__(self) -> None:
        self._content = _Content()
        self._parser = HttpRequestParser(self._content)
        self._parser.feed_data(_CHUNKED)
        self._before = b""  # known to llhttp: a size whose line is not complete, or where the end may have begun
        self._left = 0  # bytes before the next size
        self._in_trailer = False

    @property
    def whole(self) -> bool:
        return self._content.whole

    def read(self, data: Bytes) -> tuple[Bytes, Bytes]:
        """What the server gets of it, and what is behind the body; or, when that is not whole, what is to be read at
        another turn. Raises Refused."""
        known = self._before + data
        read, at = len(self._before), self._left  # so far; and where the next size begins
        out = []
        for _ in range(_BATCHES):
            if read == at:
                small = _small_chunks().match(known, at)
                assert small is not None  # or none of them
                out.append(small[0])
                read = at = small.end()
            if read == len(known):
                break
            at, stop = self._find_size(known, at, _BATCH if read == at else 1)
            found = known.find(_END, at) if self._in_trailer else -1
            stop = found + len(_END) if found >= 0 else stop
            self._feed(memoryview(known)[read:stop])
            if self.whole != (found >= 0):
                raise Refused(400, "a chunked body that ends with a bad line end")
            out.append(self._content.chunk())
            read = stop
            if self.whole:
                break
        self._before = known[max(at, read - 3) if self._in_trailer else at:read]
        if len(self._before) > _SIZE_MOST:
            raise Refused(400, f"a line of more than {_SIZE_MOST} bytes with the size of a chunk")
        self._left = max(at - read, 0)
        return b"".join(out), known[read:]

    def _find_size(self, known: bytes, at: int, most: int) -> tuple[int, int]:
        """Where the first size begins whose line is not complete, or that behind the next ``most`` chunks; or, in the
        trailer, the line end before that. And how far llhttp shall read. What is no size is refused here or by llhttp.
        Raises Refused."""
        if self._in_trailer:
            return at, len(known)
        find = known.find
        try:
            for _ in range(most):
                end = find(b"\n", at)
                if end < 0:
                    return at, len(known)
                size = int(known[at:end].partition(b";")[0], 16)
                if size <= 0:
                    self._in_trailer = True
                    return end - 1, len(known)
                at = end + size + 3
        except ValueError:
            raise Refused(400, "a malformed chunk: no size") from None
        return at, min(at, len(known))

    def _feed(self, piece: memoryview) -> None:
        try:
            self._parser.feed_data(piece)
        except HttpParserError as error:
            raise Refused(400, f"a malformed chunk: {error}") from None


class _Content:
    """What llhttp finds in a chunked body."""

    __slots__ = ("_begun", "_pieces", "whole")

    def __init__(self) -> None:
        self._begun = False
        self._pieces: list[bytes] = []
        self.whole = False

    def on_message_begin(self) -> None:
        if self._begun:
            raise ValueError("it ended before its empty line")
        self._begun = True

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self.whole = True

    def chunk(self) -> bytes:
        """What was found since the last time, as one chunk, and the last chunk if that was all."""
        body = b"".join(self._pieces)
        self._pieces.clear()
        return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if self.whole else b"")
