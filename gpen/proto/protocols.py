"""Which protocol a listener's clients speak: a row for each, and the settings that choose it."""

from __future__ import annotations

from collections.abc import Callable

from gpen.model.settings import Settings
from gpen.proto.http import Http
from gpen.proto.mysql import MySQL
from gpen.proto.passed_tls import PassedTls
from gpen.proto.protocol import Protocol, ServerFirst

# A setting, and the protocol that it is for. What can't be together is refused before (control/validation.py).
PROTOCOLS: tuple[tuple[str, Callable[[Settings], Protocol]], ...] = (
    ("http", lambda settings: Http(settings.http_header_max, bool(settings.route))),
    ("mysql", lambda settings: MySQL(settings.introduces)),
    ("greeting", lambda settings: ServerFirst()),
    ("route", lambda settings: Protocol() if settings.ssl_certificate or settings.udp else PassedTls()),
)


def protocol_of(settings: Settings) -> Protocol:
    """The protocol of these settings."""
    return next((make(settings) for name, make in PROTOCOLS if settings.get(name)), Protocol())
