"""The command lines of gpenlog and gpenlogd, read."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from docopt import DocoptExit, docopt

from gpen import __version__
from gpen.model.address import Address
from gpen.model.text import printable

FAILED, USAGE = 1, 2  # exit statuses


class UsageError(Exception):
    """The command line is wrong, or names something that can't be used; one line for the user."""


class Place(NamedTuple):
    """An address of this machine or another, as the socket calls take it."""

    family: int
    sockaddr: Any


def read(name: str, usage: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """What docopt makes of a command line (None: the process's own). Raises UsageError; --help and --version exit."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return dict(docopt(usage, words, version=f"{name} {__version__}"))
    except DocoptExit as error:
        raise UsageError(f"{_complaint(str(error.code), usage, words)}; {name} --help shows the usage") from None


def _complaint(said: str, usage: str, words: list[str]) -> str:
    """What docopt says, in words for the user. Where an argument is missing it complains of everything else."""
    first = said.partition("\n")[0]
    if not first.startswith(("Usage", "Warning")):
        return first
    with contextlib.suppress(DocoptExit):
        docopt(usage, [*words, "argument"])
        return "an argument is missing"
    wrong = re.findall(r"'(-[^']*)'|Argument\(None, '([^']*)'", first)
    return "unknown or repeated " + ", ".join(option or word for option, word in wrong)


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


def complain(name: str, what: object) -> None:
    """Tell on stderr, in one line, where there is somebody to read it."""
    with contextlib.suppress(OSError):
        print(printable(f"{name}: {what}"), file=sys.stderr, flush=True)
