"""The command lines of gpenlog and gpenlogd, read."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpen import __version__
from gpen.model.address import Address
from gpen.usage import UsageError
from gpen.usage import read as usage_of


class Place(NamedTuple):
    """An address of this machine or another, as the socket calls take it."""

    family: int
    sockaddr: Any


def read(name: str, usage: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """The arguments of a command line (None: the process's own). Raises UsageError; --help and --version exit."""
    return usage_of(name, usage, sys.argv[1:] if argv is None else argv, f"{name} {__version__}")


def find(address: Address, family: int = socket.AF_UNSPEC) -> Place:
    """Where datagrams for this address go: by IPv4, where a name has both. Asks the name service. Raises UsageError."""
    try:
        if isinstance(address.port, str):
            socket.getservbyname(address.port, "udp")
    except OSError:
        raise UsageError(f"'{address.port}' is not a port, nor a service in /etc/services") from None
    try:
        found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name with an empty label, or a very long one
        reason = getattr(error, "strerror", None) or "it is not the name of a host"
        raise UsageError(f"can't find '{address}': {reason}") from None
    first = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return Place(first[0], first[4])
