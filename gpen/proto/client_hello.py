"""The first message of a client that speaks TLS, as far as the library does not tell: pure, bytes in.

Python's ssl offers ALPN's protocols, but where a client has none of them it goes on as if there were no ALPN. RFC 7301
(section 3.2) has the server refuse, so that nobody speaks one protocol where another is expected, as the attack ALPACA
makes browsers do. Which protocols a client names only its ClientHello says. It is read when OpenSSL, having found no
fault in it, asks for the certificate (ssl.SSLContext.sni_callback), for the answer to that may be an alert; it takes
14 us of a handshake's 1,000. OpenSSL's own callback for ALPN would need its structures by ctypes, of whichever library
Python was built with.
"""

from __future__ import annotations

_HANDSHAKE = 22  # the type of a record
_CLIENT_HELLO = 1  # the type of a message
_ALPN = 16  # the type of an extension
_RECORD_HEAD = 5  # type, version, length
_BEFORE_LISTS = 38  # the message's head, version and random


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
