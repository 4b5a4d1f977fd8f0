"""What a server learns of a client beside its bytes: by a header of the PROXY protocol, and, where gpen is transparent,
by the address that the connection comes from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from gpen.model.address import Endpoint
from gpen.model.settings import Settings
from gpen.proto import proxy_header
from gpen.proto.certificate import algorithms_of
from gpen.proto.proxy_tlvs import (
    ALPN,
    AUTHORITY,
    CERT_CONN,
    CERT_SESS,
    OVER_SSL,
    UNIQUE_ID,
    SslInfo,
    Tlv,
    ssl_tlv,
)
from gpen.wire.conversation import Conversation
from gpen.wire.faults import Troubles
from gpen.wire.poller import Poller
from gpen.wire.sockets import Socket
from gpen.wire.tls import Channel
from gpen.wire.transparent import connect_as

_OF_SSL = {"ssl", "cert-cn", "ssl-cipher", "cert-sig", "cert-key"}  # of proxy_v2_options


class Introduction(NamedTuple):
    """The header, which may be empty, and whose address and port the connection to the server is to have; ``troubles``
    are told where it can't."""

    header: bytes
    address: str
    port: int
    troubles: Troubles

    def connect(self, endpoint: Endpoint, settings: Settings, poller: Poller, seconds: float) -> Socket:
        """A connection to a server as this client. Switches greenlets. Raises OSError."""
        return connect_as(self.address, self.port, endpoint, settings, poller, seconds, self.troubles)


def introduction(session: Conversation, route: proxy_header.Route) -> bytes | Introduction:
    """What a server is to learn of this session's client, which came by this route."""
    settings, header = session.front.settings, b""
    if settings.proxy_protocol != "off":
        options = settings.proxy_v2_options
        if "unique-id" in options:
            route = route._replace(own=(*route.own, (UNIQUE_ID, session.unique_id.encode())))
        header = proxy_header.header(settings.proxy_protocol, route, "crc32c" in options)
    if not settings.transparent:
        return header
    return Introduction(header, session.address, session.client_port, session.front.troubles)


def tls_tlvs(channel: Channel, options: Collection[str]) -> tuple[Tlv, ...]:
    """What servers are told of a client's TLS with us, by these words of proxy_v2_options."""
    tlvs: list[Tlv] = []
    protocol = channel.tls.selected_alpn_protocol()
    if "alpn" in options and protocol:
        tlvs.append((ALPN, protocol.encode()))
    if "authority" in options and channel.sni:
        tlvs.append((AUTHORITY, channel.sni.encode()))
    if not _OF_SSL.isdisjoint(options):
        tlvs.append(ssl_tlv(_ssl_info(channel, options)))
    return tuple(tlvs)


def _ssl_info(channel: Channel, options: Collection[str]) -> SslInfo:
    tls = channel.tls
    certificate = tls.getpeercert(False)  # of a client that need not show one, None; all others are valid
    flags = OVER_SSL
    if certificate:
        flags |= CERT_SESS if tls.session_reused else CERT_SESS | CERT_CONN
    version, cipher, *_ = channel.secured
    sig, key = algorithms_of(getattr(tls.context, "chain", "")) if {"cert-sig", "cert-key"} & set(options) else ("", "")
    return SslInfo(flags, 0 if certificate else 1, version, _name_in(certificate) if "cert-cn" in options else "",
                   cipher if "ssl-cipher" in options else "", sig if "cert-sig" in options else "",
                   key if "cert-key" in options else "")


def _name_in(certificate: Any) -> str:
    """The common name of its subject, or empty; of several, the last, which is the most specific."""
    names = [value for part in (certificate or {}).get("subject", ()) for key, value in part if key == "commonName"]
    return names[-1] if names else ""
