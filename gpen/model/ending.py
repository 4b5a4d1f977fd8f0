"""Why a session ends: the one table of reasons. Logs, counters and the manual read it."""

from __future__ import annotations

from enum import Enum


class Ending(Enum):
    """``value`` is the word in logs and counters; ``text`` says it in a sentence; ``ok`` that nothing went wrong."""

    text: str
    ok: bool

    def __new__(cls, word: str, ok: bool, text: str) -> Ending:
        self = object.__new__(cls)
        self._value_ = word
        self.ok = ok
        self.text = text
        return self

    CLIENT_CLOSED = "client-closed", True, "the client closed first, and all bytes were passed on"
    SERVER_CLOSED = "server-closed", True, "the server closed first, and all bytes were passed on"
    CLIENT_RESET = "client-reset", False, "the client's connection was reset or lost"
    SERVER_RESET = "server-reset", False, "the server's connection was reset or lost"
    IDLE = "idle", False, "no byte moved for idle_timeout seconds"
    DENIED = "denied", False, "client_acl denies the client, and there is no abuse server"
    NO_SERVER = "no-server", False, "no server could take the client"
    CONNECT_FAILED = "connect-failed", False, "every server that was tried could not be reached"
    LOCAL = "local-error", False, "this machine ran out of something (descriptors, ports, memory)"
    KILLED = "killed", False, "closed by a command"
    SHUTDOWN = "shutdown", False, "gpen is stopping"
    ANSWERED = "answered", True, "gpen answered by itself (dummy)"
    ERROR = "error", False, "gpen failed; the traceback is in its diagnostics"
