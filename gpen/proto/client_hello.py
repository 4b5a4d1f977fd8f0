"""The first message of a client that speaks TLS, as far as the library does not tell: pure, bytes in.

It is read for two reasons. Where TLS is not ended here, the names in it say which servers a client gets (routes). And
Python's ssl offers ALPN's protocols, but where a client has none of them it goes on as if there were no ALPN. RFC 7301
(section 3.2) has the server refuse, so that nobody speaks one protocol where another is expected, as the attack ALPACA
makes browsers do. Which protocols a client names only its ClientHello says. It is read when OpenSSL, having found no
fault in it, asks for the certificate (ssl.SSLContext.sni_callback), for the answer to that may be an alert; it takes
14 us of a handshake's 1,000. OpenSSL's own callback for ALPN would need its structures by ctypes, of whichever library
Python was built with.
"""

from __future__ import annotations

from typing import NamedTuple

from gpen.model.text import printable

MOST = 16384  # bytes of a hello; those of browsers have 600 to 2,000
_HANDSHAKE = 22  # the type of a record
_CLIENT_HELLO = 1  # the type of a message
_HEAD = 4  # bytes of it: its type, and its length in three
_MOST_OF_RECORD = 16384
_SERVER_NAME, _ALPN = 0, 16  # types of extensions
_HOST_NAME = 0  # the type of a name
_RECORD_HEAD = 5  # type, version, length
_BEFORE_LISTS = 38  # the message's head, version and random


class Hello(NamedTuple):
    """What a client says that matters here: the name that it asks for, or empty, and the protocols that it offers."""

    name: str
    protocols: tuple[str, ...]


class HelloReader:
    """Reads what a client says first, in whatever pieces it comes. ``is_done``: no more is needed; ``hello`` is what
    was found then, or None where the client does not speak TLS, or not as it should."""

    __slots__ = ("_head", "_left", "_message", "hello", "is_done")

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.is_done = False
        self._head = b""  # of the record that begins
        self._left = 0  # bytes of the record that are to come
        self._message = bytearray()

    def take(self, data: bytes) -> None:
        """This came next."""
        at = 0
        while at < len(data) and not self.is_done:
            if self._left:
                piece = data[at:at + self._left]
                self._message += piece
                self._left -= len(piece)
                self._look()
            else:
                piece = data[at:at + _RECORD_HEAD - len(self._head)]
                self._head += piece
                self._begin_record()
            at += len(piece)

    def _begin_record(self) -> None:
        head = self._head
        length = int.from_bytes(head[3:], "big")
        is_whole = len(head) == _RECORD_HEAD
        if head[0] != _HANDSHAKE or head[1:2] not in (b"", b"\3") or (is_whole and not 0 < length <= _MOST_OF_RECORD):
            self.is_done = True
        elif is_whole:
            self._head, self._left = b"", length

    def _look(self) -> None:
        """Whether the message is a hello, and whole."""
        message = self._message
        length = int.from_bytes(message[1:_HEAD], "big") if len(message) >= _HEAD else 0
        if message[0] != _CLIENT_HELLO or length > MOST:
            self.is_done = True
        elif len(message) >= _HEAD and len(message) >= _HEAD + length:
            self.hello = hello_of(bytes(message[:_HEAD + length]))
            self.is_done = True


def hello_of(message: bytes) -> Hello | None:
    """What a whole ClientHello says; None where it is malformed."""
    try:
        extensions = dict(_extensions(message))
        name, protocols = extensions.get(_SERVER_NAME), extensions.get(_ALPN)
        return Hello("" if name is None else _name(name),
                     () if protocols is None else tuple(map(printable, _items(_list(protocols, 2), 1))))
    except IndexError:
        return None


def _extensions(hello: bytes) -> list[tuple[int, bytes]]:
    """The extensions of a hello, by their types; of one that stands twice, the first. Raises IndexError."""
    at = _BEFORE_LISTS
    if len(hello) < at:
        raise IndexError
    for width in (1, 2, 1):  # session, ciphers, compression
        at = _behind(hello, at, width)
    if at == len(hello):
        return []  # TLS 1.2 lets a client have none
    rest, found = _list(hello[at:], 2), []
    at = 0
    while at < len(rest):
        start, end = at + 4, _behind(rest, at + 2, 2)
        if end > len(rest):
            raise IndexError
        found.append((int.from_bytes(rest[at:at + 2], "big"), rest[start:end]))
        at = end
    return found[::-1]


def _list(data: bytes, width: int) -> bytes:
    """What a list holds that is all there is of ``data``. Raises IndexError."""
    if len(data) < width or _behind(data, 0, width) != len(data):
        raise IndexError
    return data[width:]


def _items(data: bytes, width: int) -> list[bytes]:
    """What stands one behind the other, with its length in front of each. Raises IndexError."""
    items, at = [], 0
    while at < len(data):
        start, at = at + width, _behind(data, at, width)
        if at > len(data):
            raise IndexError
        items.append(data[start:at])
    return items


def _name(data: bytes) -> str:
    """The name of a host in an extension; empty where it holds none, or one that is no name. Raises IndexError."""
    names = _list(data, 2)
    if not names or names[0] != _HOST_NAME:
        return ""
    name = _items(names[1:], 2)[0]
    return name.decode() if name.isascii() and name.decode().isprintable() else ""


# --- of a hello that the library has found well-formed ----------------------------------------------------------------


def name_in(sent: bytes) -> str:
    """The name that a client asks for in its hello, or empty. ``sent`` is as protocols_in has it."""
    hello = hello_of(_messages(sent))
    return "" if hello is None else hello.name


def protocols_in(sent: bytes) -> list[bytes] | None:
    """The protocols that a client names in its hello; None when it does not use ALPN. ``sent`` is what it had sent when
    the library took the hello for whole and well-formed."""
    hello = _messages(sent)
    if hello[:1] != bytes([_CLIENT_HELLO]):
        return None
    at = _BEFORE_LISTS
    for width in (1, 2, 1):  # session, ciphers, compression
        at = _behind(hello, at, width)
    end = _behind(hello, at, 2)
    at += 2
    while at < min(end, len(hello)):
        kind, at, start = hello[at : at + 2], _behind(hello, at + 2, 2), at + 4
        if kind == _ALPN.to_bytes(2, "big"):
            return _names(hello[start + 2 : at])
    return None


def _messages(sent: bytes) -> bytes:
    """The handshake's messages, whole or not, without the records around them."""
    found, at = b"", 0
    while at < len(sent):
        start, at, kind = at + _RECORD_HEAD, _behind(sent, at + 3, 2), sent[at]
        if kind == _HANDSHAKE:
            found += sent[start:at]
    return found


def _behind(data: bytes, at: int, width: int) -> int:
    """Where what begins there ends, after as many bytes as the first ``width`` of them say."""
    return at + width + int.from_bytes(data[at : at + width], "big")


def _names(data: bytes) -> list[bytes]:
    names, at = [], 0
    while at < len(data):
        start, at = at + 1, _behind(data, at, 1)
        names.append(data[start:at])
    return names
