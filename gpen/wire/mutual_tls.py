"""TLS between peers: each side shows a certificate, and takes one that an authority has signed which both know."""

from __future__ import annotations

import ssl
from typing import Any

from gevent.ssl import SSLContext

from gpen.wire.tls_contexts import Path, authority, load_pair


class Mutual:
    """What one side needs, to connect and to be connected to: the files of its certificate, with its key, and of the
    authority. Raises TlsError."""

    def __init__(self, certificate: str, authorities: str, path: Path) -> None:
        self._contexts: dict[bool, Any] = {}
        known = authority("peers_ca", authorities, path)
        for is_server in (False, True):
            context = SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.check_hostname = False  # a certificate of the authority will do: addresses move
            context.verify_mode = ssl.CERT_REQUIRED
            load_pair(context, path, ("peers_certificate", certificate), ("peers_certificate", None))
            context.load_verify_locations(cadata=known)
            self._contexts[is_server] = context

    def towards(self, sock: Any) -> Any:
        """The same connection with TLS, where we have connected. Switches greenlets. Raises OSError."""
        return self._contexts[False].wrap_socket(sock)

    def of(self, sock: Any) -> Any:
        """The same where the other side has. Switches greenlets. Raises OSError."""
        return self._contexts[True].wrap_socket(sock, server_side=True)
