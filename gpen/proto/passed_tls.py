"""TLS that is not ended here: what a client's hello names says which servers it gets, and it passes on as it came."""

from __future__ import annotations

from gpen.model.ending import Ending
from gpen.model.route import Asked
from gpen.model.settings import Settings
from gpen.proto.client_hello import HelloReader
from gpen.proto.protocol import Farewell, Opening, Protocol, Refused

_UNRECOGNIZED_NAME = 112  # the alert of RFC 6066
_FATAL_ALERT = b"\x15\x03\x03\x00\x02\x02"  # a record of it, but for which


class PassedTls(Protocol):
    """Clients say first what they want, and servers are not troubled before."""

    client_asks = True

    def opening(self, address: str, scheme: str) -> HelloOpening:
        return HelloOpening()

    def farewell(self, why: Farewell) -> bytes:
        if why.ending is Ending.NO_ROUTE and why.status:
            return _FATAL_ALERT + bytes([why.status])
        return b""


class HelloOpening(Opening):
    """A hello, and all that came with it. Of a client that does not speak TLS, or not as it should, the first bytes:
    its server may know what to make of them."""

    __slots__ = ("_reader",)

    state = "handshake"

    def __init__(self) -> None:
        super().__init__()
        self._reader = HelloReader()

    @property
    def is_whole(self) -> bool:
        return self._reader.is_done

    @property
    def asked(self) -> Asked:
        hello = self._reader.hello
        return Asked() if hello is None else Asked(sni=hello.name, alpn=hello.protocols)

    @property
    def misdirected(self) -> int:
        return 0 if self._reader.hello is None else _UNRECOGNIZED_NAME

    def seconds(self, settings: Settings) -> float:
        return settings.ssl_handshake

    def late(self, seconds: float) -> Refused:
        return Refused(0, f"no whole TLS hello within {seconds:g} s (ssl_handshake)")

    def take(self, data: bytes) -> None:
        self.heard += data
        self._reader.take(data)
