"""HTTP/1 as a protocol: what a client says before it gets a server, and the pages that gpen itself answers with."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from gpen.model.ending import Ending
from gpen.model.route import Asked
from gpen.model.settings import Settings
from gpen.model.text import shortened
from gpen.proto.http_requests import Bytes, Forwarded, Requests
from gpen.proto.http_responses import Responses
from gpen.proto.protocol import Farewell, Opening, Protocol, Refused

TIMEOUT = 408  # the status of a request whose head does not come in time
MISDIRECTED = 421  # of one for a host that is not to be had on this connection (RFC 9110, 15.5.20)
_ENDINGS = {TIMEOUT: Ending.REQUEST_TIMEOUT, MISDIRECTED: Ending.NO_ROUTE}


class Http(Protocol):
    """Clients ask, and servers are not troubled before the head of a first request is whole."""

    client_asks = True

    def __init__(self, most: int, is_routed: bool = False) -> None:
        """``most`` bytes are the limit of a request's head; ``is_routed``: its host says who may answer."""
        self._most = most
        self._is_routed = is_routed

    def opening(self, address: str, scheme: str) -> HttpOpening:
        return HttpOpening(Forwarded(address, scheme), self._most, self._is_routed)

    def ending_of(self, status: int) -> Ending:
        return _ENDINGS.get(status, Ending.BAD_REQUEST)

    def farewell(self, why: Farewell) -> bytes:
        match why.ending:
            case Ending.BAD_REQUEST | Ending.REQUEST_TIMEOUT | Ending.NO_ROUTE if why.status:
                return page(why.status)
            case Ending.DENIED:
                return page(403)
            case Ending.CLIENT_MAX:
                return page(429)
            case Ending.CLIENT_RATE:
                return page(429, f"Retry-After: {why.away}\r\n")
            case Ending.NO_SERVER | Ending.CONNECT_FAILED | Ending.LOCAL | Ending.SHUTDOWN if not why.status:
                return page(503)
        return b""


class HttpOpening(Opening):
    """The head of the first request, and all that came with it. So no server is troubled by who says nothing, or
    nothing that it may say."""

    __slots__ = ("_host", "_is_let_in", "out", "requests", "responses", "rest")

    def __init__(self, forwarded: Forwarded, most: int, is_routed: bool) -> None:
        """As Http has it."""
        super().__init__()
        self._host = ""
        self._is_let_in: Callable[[str], bool] | None = None
        self.responses = Responses()
        self.requests = Requests(forwarded, most, self.responses)
        if is_routed:
            self.requests.heed = self._note_host
        self.out: Bytes = b""  # what the server gets of it: the head, when that is whole
        self.rest: Bytes = b""  # what was not looked at yet

    @property
    def misdirected(self) -> int:
        return MISDIRECTED

    @property
    def is_whole(self) -> bool:
        return bool(self.out)

    @property
    def asked(self) -> Asked:
        return Asked(host=self._host)

    def keep_to(self, is_let_in: Callable[[str], bool]) -> None:
        """All requests are refused whose hosts its client was not let in for."""
        self._is_let_in = is_let_in
        self.requests.heed = self._note_host

    def _note_host(self, host: str) -> None:
        if self._is_let_in is not None and not self._is_let_in(host):
            raise Refused(MISDIRECTED, f"Host {shortened(host)} has other authorities for clients' certificates than "
                                       "the name in the handshake")
        self._host = host

    def stay_with(self, is_same: Callable[[str], bool]) -> None:
        """Requests behind the first are refused unless their hosts lead to the same servers."""

        def heed(host: str) -> None:
            self._note_host(host)
            if not is_same(host):
                raise Refused(MISDIRECTED, f"Host {shortened(host)} is of another route than the first on this "
                                           "connection")

        self.requests.heed = heed

    def seconds(self, settings: Settings) -> float:
        return settings.http_head_timeout

    def late(self, seconds: float) -> Refused:
        return late(seconds)

    def take(self, data: bytes) -> None:
        self.heard += data
        self.out, self.rest = self.requests.read(data)
        if not self.out and self.requests.whole:  # blank lines, and they may be many
            self.heard.clear()


def late(seconds: float) -> Refused:
    """The refusal of a request whose head is not whole within so many seconds."""
    return Refused(TIMEOUT, f"no whole header within {seconds:g} s (http_head_timeout)")


def page(status: int, fields: str = "") -> bytes:
    """A whole response of this status, which closes the connection; with these lines in its header."""
    phrase = HTTPStatus(status).phrase
    body = f"<!DOCTYPE html>\n<title>{status} {phrase}</title>\n<h1>{status} {phrase}</h1>\n"
    return (f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"
            f"{fields}Connection: close\r\n\r\n{body}").encode()
