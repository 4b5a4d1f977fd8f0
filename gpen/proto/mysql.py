"""As much of MySQL's protocol as a balancer needs: errors that stand in the place of the server's greeting.

A server that has no room for a client, or doesn't want it, sends an ERR packet instead of its greeting (MariaDB's
knowledge base: "ERR_Packet"): three bytes of length, a sequence number of 0, 0xff, two bytes of error number, the text.
Before the greeting there is no SQLSTATE in it: client and server have not agreed on a protocol that has one.
"""

from __future__ import annotations

from gpen.model.ending import Ending
from gpen.model.text import counted, shortened
from gpen.proto.protocol import Farewell, ServerFirst

TOO_MANY_CONNECTIONS = 1040
UNKNOWN_COMMAND = 1047  # what a Galera node answers that is not part of the primary component
SHUTTING_DOWN = 1053
HOST_BLOCKED = 1129
HOST_NOT_ALLOWED = 1130
TOO_MANY_USER_CONNECTIONS = 1203
USER_LIMIT_REACHED = 1226  # as where MAX_CONNECTIONS_PER_HOUR of a user is reached

_OF_HOSTS = frozenset({HOST_BLOCKED, HOST_NOT_ALLOWED})
_REFUSALS = frozenset({TOO_MANY_CONNECTIONS, SHUTTING_DOWN}) | _OF_HOSTS
_ERR = 0xFF
_SHOWN = 200  # characters of an error
_HEADER = 7  # length, sequence number, 0xff, error number
_GREETING_BYTES = 512


class MySQL(ServerFirst):
    """Servers greet, or say in an error that they take nobody; clients that are turned away get such an error."""

    first_bytes = _GREETING_BYTES
    is_followed = True

    def __init__(self, knows_clients: bool = False) -> None:
        """``knows_clients``: servers are told, or see, who a client is, so that what they have against a host is
        against that one's: no failure of theirs, but the client's to hear."""
        self._refusals = _REFUSALS - _OF_HOSTS if knows_clients else _REFUSALS

    def is_whole(self, first: bytes) -> bool:
        return len(first) >= _HEADER

    def refusal(self, first: bytes) -> str | None:
        if len(first) < _HEADER or first[4] != _ERR:
            return None
        code = int.from_bytes(first[5:7], "little")
        if code not in self._refusals:
            return None
        text = first[_HEADER : 4 + int.from_bytes(first[:3], "little")]
        return f"{_greeted_with(code)} {shortened(text, _SHOWN)}"

    def farewell(self, why: Farewell) -> bytes:
        waited = f"; waited {why.waited:.0f} s" if why.waited >= 1 else ""
        match why.ending:
            case Ending.NO_SERVER | Ending.CONNECT_FAILED if _is_full(why):
                return error(TOO_MANY_CONNECTIONS, f"gpen: all servers are full{waited}")
            case Ending.NO_SERVER | Ending.CONNECT_FAILED:
                return error(UNKNOWN_COMMAND, f"gpen: no server is usable{waited}")
            case Ending.DENIED:
                return error(HOST_NOT_ALLOWED, f"gpen: {why.address} may not connect here")
            case Ending.CLIENT_MAX:
                return error(TOO_MANY_USER_CONNECTIONS,
                             f"gpen: {why.address} has {counted(why.others, 'session')} already (client_max)")
            case Ending.CLIENT_RATE:
                return error(USER_LIMIT_REACHED, f"gpen: {why.address} connects too often (client_rate), try again in "
                                                 f"{why.away} s")
            case Ending.LOCAL:
                return error(TOO_MANY_CONNECTIONS, "gpen: no server can be reached from here for now")
            case Ending.SHUTDOWN:
                return error(SHUTTING_DOWN, "gpen: shutting down")
        return b""


def error(code: int, text: str) -> bytes:
    """An ERR packet in the place of a greeting."""
    body = bytes([_ERR]) + code.to_bytes(2, "little") + text.encode()
    return len(body).to_bytes(3, "little") + b"\0" + body


def _is_full(why: Farewell) -> bool:
    """Whether it is for want of room that there is no server."""
    if why.ending is Ending.NO_SERVER:
        return why.is_crowded()
    return why.problem.startswith(_greeted_with(TOO_MANY_CONNECTIONS))


def _greeted_with(code: int) -> str:
    return f"greeted with error {code}:"
