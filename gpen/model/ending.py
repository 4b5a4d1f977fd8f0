"""Why a session ends: the one table of reasons. Logs, counters and the manual read it."""

from __future__ import annotations

from enum import Enum


class Ending(Enum):
    """``word``, or Enum's ``value``, stands in logs and counters; ``text`` says it in a sentence. ``is_error``: the
    client did not get what it came for, and neither it nor an operator has decided that."""

    word: str
    text: str
    is_error: bool

    def __new__(cls, word: str, text: str, is_error: bool = False) -> Ending:
        self = object.__new__(cls)
        self._value_ = self.word = word
        self.text = text
        self.is_error = is_error
        return self

    CLIENT_CLOSED = "client-closed", "the client closed first, and all bytes were passed on"
    SERVER_CLOSED = "server-closed", "the server closed first, and all bytes were passed on"
    CLIENT_RESET = "client-reset", "the client's connection was reset or lost"
    SERVER_RESET = "server-reset", "the server's connection was reset or lost", True
    IDLE = "idle", "no byte moved for idle_timeout seconds"
    HALF_CLOSED = "half-closed", "one side had ended, and no byte moved for half_closed_timeout seconds behind that"
    DENIED = "denied", "client_acl denies the client, and there is no abuse server"
    CLIENT_MAX = "client-max", "the client's address had as many sessions as client_max allows"
    CLIENT_RATE = "client-rate", "the client's address had as many new sessions as client_rate allows"
    NO_SERVER = "no-server", "no server could take the client", True
    CONNECT_FAILED = "connect-failed", "every server that was tried could not be reached, or did not greet", True
    PROXY_HEADER = "proxy-header", "the client's PROXY protocol header was missing, malformed, late, or not allowed"
    SERVER_DOWN = "server-down", "its server was found to be down, and on_down is close", True
    LOCAL = "local-error", "this machine ran out of descriptors, ports or memory, or keeps gpen from all servers", True
    KILLED = "killed", "closed by a command"
    REBALANCED = "rebalanced", "its server had more than its share, and it was between two exchanges (rebalance)"
    MAX_AGE = "max-age", "it had lasted for session_max_age seconds, and was between two exchanges"
    DRAINED = "drained", "its server is left quietly, and it was between two exchanges"
    SHUTDOWN = "shutdown", "gpen is stopping"
    ANSWERED = "answered", "gpen answered by itself (dummy)"
    TLS = "tls-handshake", "the client's TLS handshake failed, or was not done in ssl_handshake seconds"
    TRUNCATED = "client-truncated", "the client's TLS stream ended without a close_notify: its end may be missing"
    SERVER_TRUNCATED = ("server-truncated", "the server's TLS stream ended without a close_notify: its end may be "
                        "missing")
    BAD_REQUEST = "bad-request", "the client's HTTP request was malformed, ambiguous or too large; it was told so"
    REQUEST_TIMEOUT = "request-timeout", "the head of an HTTP request was not whole in http_head_timeout seconds"
    NO_ROUTE = "no-route", ("a route rejects what the client asked for; or, in HTTP, a request was for a host of "
                            "another route, or of other authorities for clients, and was told so")
    SILENT = "silent", "the flow had no datagram for udp_timeout seconds; with dsr_if, a connection none for 900 s"
    REPLIED = "replied", "the flow had its udp_replies replies"
    REQUESTED = "requested", "the flow had its udp_requests datagrams, and no reply was due"
    UNANSWERED = "unanswered", "the flow had no reply, where udp_replies expects one", True
    LOOP = "loop", "the flow's client is one of gpen's servers, or gpen itself, since these have changed"
    WORKER = "worker-lost", "the worker process that served it ended", True
    EVICTED = "evicted", "the flow made room for another one, at conn_max, or was beyond it", True
    ERROR = "error", "gpen failed; the traceback is in its diagnostics", True


BY_WORD = {ending.word: ending for ending in Ending}
ERRORS = frozenset(ending.value for ending in Ending if ending.is_error)
