"""As much of MySQL's protocol as a balancer needs: errors that stand in the place of the server's greeting.

A server that has no room for a client, or doesn't want it, sends an ERR packet instead of its greeting (MariaDB's
knowledge base: "ERR_Packet"): three bytes of length, a sequence number of 0, 0xff, two bytes of error number, the text.
Before the greeting there is no SQLSTATE in it: client and server have not agreed on a protocol that has one.
"""

from __future__ import annotations

from gpen.model.words import shortened

TOO_MANY_CONNECTIONS = 1040
UNKNOWN_COMMAND = 1047  # what a Galera node answers that is not part of the primary component
SHUTTING_DOWN = 1053
HOST_BLOCKED = 1129
HOST_NOT_ALLOWED = 1130
TOO_MANY_USER_CONNECTIONS = 1203

_REFUSALS = frozenset({TOO_MANY_CONNECTIONS, SHUTTING_DOWN, HOST_BLOCKED, HOST_NOT_ALLOWED})
_ERR = 0xFF
_SHOWN = 200  # characters of an error
_HEADER = 7  # length, sequence number, 0xff, error number
GREETING_BYTES = 512


def refusal(greeting: bytes) -> str | None:
    """Why the server takes nobody, when its first packet, or the beginning of it, says so; None for a greeting."""
    if len(greeting) < _HEADER or greeting[4] != _ERR:
        return None
    code = int.from_bytes(greeting[5:7], "little")
    if code not in _REFUSALS:
        return None
    text = greeting[_HEADER : 4 + int.from_bytes(greeting[:3], "little")]
    return f"greeted with error {code}: {shortened(text, _SHOWN)}"


def says(problem: str, code: int) -> bool:
    """Whether what `refusal` said is this error."""
    return problem.startswith(f"greeted with error {code}:")


def is_whole(greeting: bytes) -> bool:
    """Whether so much of the first packet is here that ``refusal`` can say what it is."""
    return len(greeting) >= _HEADER


def error(code: int, text: str) -> bytes:
    """An ERR packet in the place of a greeting."""
    body = bytes([_ERR]) + code.to_bytes(2, "little") + text.encode()
    return len(body).to_bytes(3, "little") + b"\0" + body
