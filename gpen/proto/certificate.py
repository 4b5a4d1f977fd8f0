"""What a certificate says of how it was signed, and of its key, by the names that OpenSSL has for that. Pure.

Python's ssl shows no server its own certificate, so this reads as much of DER (X.690) as that takes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from functools import lru_cache

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_INTEGER, _OID, _VERSION = 0x02, 0x06, 0xA0  # tags
_BEFORE_KEY = 5  # in a certificate, behind its version: number, signature, issuer, validity, subject
_SIGNED = {
    "2a864886f70d010105": "RSA-SHA1", "2a864886f70d01010b": "RSA-SHA256", "2a864886f70d01010c": "RSA-SHA384",
    "2a864886f70d01010d": "RSA-SHA512", "2a864886f70d01010a": "RSASSA-PSS", "2a8648ce3d040302": "ecdsa-with-SHA256",
    "2a8648ce3d040303": "ecdsa-with-SHA384", "2a8648ce3d040304": "ecdsa-with-SHA512", "2b6570": "ED25519",
    "2b6571": "ED448",
}
_RSA, _EC = ("2a864886f70d010101", "2a864886f70d01010a"), "2a8648ce3d0201"
_CURVES = {"2a8648ce3d030107": "EC256", "2b81040022": "EC384", "2b81040023": "EC521"}


@lru_cache(maxsize=256)
def algorithms_of(pem: str) -> tuple[str, str]:
    """How the first certificate of a file is signed, and what key it has: ("RSA-SHA256", "RSA2048"). Empty is what is
    not known."""
    found = _PEM.search(pem)
    try:
        whole = base64.b64decode(found[1] if found else "")
        (_, outer), = _parts(whole)
        (_, content), (_, signature), *_ = _parts(outer)
        fields = [part for part in _parts(content) if part[0] != _VERSION]
        return _SIGNED.get(_oid(signature), ""), _key_of(fields[_BEFORE_KEY][1])
    except (binascii.Error, ValueError, IndexError):
        return "", ""


def _key_of(info: bytes) -> str:
    """The key, of a SubjectPublicKeyInfo (RFC 5280)."""
    (_, algorithm), (_, bits), *_ = _parts(info)
    kind = _oid(algorithm)
    if kind in _RSA:
        (_, key), = _parts(bits[1:])  # behind the count of bits that are not used
        modulus = next(value for tag, value in _parts(key) if tag == _INTEGER)
        return f"RSA{int.from_bytes(modulus, 'big').bit_length()}"
    if kind == _EC:
        return _CURVES.get(_oid(algorithm, 1), "EC")
    return _SIGNED.get(kind, "")


def _oid(data: bytes, number: int = 0) -> str:
    """The object identifier of this number in a sequence, as hex."""
    return [value for tag, value in _parts(data) if tag == _OID][number].hex()


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of each part. Raises ValueError and IndexError where it is not whole."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield tag, data[at : at + size]
        at += size
