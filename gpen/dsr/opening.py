"""How a listener of direct server return is opened: on a socket of its own, or that of the gpen before."""

from __future__ import annotations

import _socket
from contextlib import suppress

from gpen.dsr.frames import TCP, UDP
from gpen.dsr.interface import Interface
from gpen.dsr.listener import DirectListener
from gpen.dsr.programs import program
from gpen.model.address import UNSPECIFIED, Endpoint
from gpen.model.settings import Settings
from gpen.wire.conversation import Front
from gpen.wire.given import GivenSockets
from gpen.wire.sockets import ListenError


def open_listener(settings: Settings, endpoint: Endpoint, front: Front, others: list[DirectListener],
                  given: GivenSockets | None = None) -> DirectListener:
    """One for the address of the service, which ``endpoint`` is, beside what is in use; ``others`` are those at work.
    Raises ListenError."""
    assert settings.dsr_if is not None
    if endpoint.family != _socket.AF_INET or endpoint.host in UNSPECIFIED:
        raise ListenError(f"dsr_if: {endpoint.host} is no IPv4 address that clients connect to: give dsr_ip ADDRESS, "
                          "or listen ADDRESS:PORT")
    code = program(_socket.inet_aton(endpoint.host), UDP if settings.udp else TCP, endpoint.port, all_tcp=False)
    sock = given.take_frames(front.name, settings.dsr_if) if given is not None else None
    interface = None
    if sock is not None:
        with suppress(OSError):  # else with one of our own
            interface = Interface(settings.dsr_if, sock, code)
    return DirectListener(interface or Interface.opened(settings.dsr_if, code), endpoint, settings, front, others)
