"""HTTP/1 as a protocol: what a client says before it gets a server, and the pages that gpen itself answers with."""

from __future__ import annotations

from http import HTTPStatus

from gpen.model.ending import Ending
from gpen.proto.http_requests import Bytes, Forwarded, Requests
from gpen.proto.http_responses import Responses
from gpen.proto.protocol import Farewell, Opening, Protocol, Refused

TIMEOUT = 408  # the status of a request whose head does not come in time


class Http(Protocol):
    """Clients ask, and servers are not troubled before the head of a first request is whole."""

    def __init__(self, most: int) -> None:
        """``most`` bytes are the limit of a request's head."""
        self._most = most

    def opening(self, address: str, scheme: str) -> HttpOpening:
        return HttpOpening(Forwarded(address, scheme), self._most)

    def farewell(self, why: Farewell) -> bytes:
        match why.ending:
            case Ending.BAD_REQUEST | Ending.REQUEST_TIMEOUT if why.status:
                return page(why.status)
            case Ending.DENIED:
                return page(403)
            case Ending.CLIENT_MAX:
                return page(429)
            case Ending.NO_SERVER | Ending.CONNECT_FAILED | Ending.LOCAL | Ending.SHUTDOWN if not why.status:
                return page(503)
        return b""


class HttpOpening(Opening):
    """The head of the first request, and all that came with it. So no server is troubled by who says nothing, or
    nothing that it may say."""

    __slots__ = ("out", "requests", "responses", "rest")

    def __init__(self, forwarded: Forwarded, most: int) -> None:
        """``most`` bytes are the limit of a request's head."""
        super().__init__()
        self.responses = Responses()
        self.requests = Requests(forwarded, most, self.responses)
        self.out: Bytes = b""  # what the server gets of it: the head, when that is whole
        self.rest: Bytes = b""  # what was not looked at yet

    @property
    def is_whole(self) -> bool:
        return bool(self.out)

    def take(self, data: bytes) -> None:
        self.heard += data
        self.out, self.rest = self.requests.read(data)
        if not self.out and self.requests.whole:  # blank lines, and they may be many
            self.heard.clear()


def late(seconds: float) -> Refused:
    """The refusal of a request whose head is not whole within so many seconds."""
    return Refused(TIMEOUT, f"no whole header within {seconds:g} s (http_head_timeout)")


def page(status: int) -> bytes:
    """A whole response of this status, which closes the connection."""
    phrase = HTTPStatus(status).phrase
    body = f"<!DOCTYPE html>\n<title>{status} {phrase}</title>\n<h1>{status} {phrase}</h1>\n"
    return (f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}").encode()
