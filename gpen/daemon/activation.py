"""Socket activation (sd_listen_fds(3)): systemd listens, and starts gpen with the sockets, from descriptor 3 on."""

from __future__ import annotations

import _socket
import logging
import os
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

from gpen.control.configuration import Configuration
from gpen.wire.given import Given, GivenSockets

log = logging.getLogger("gpen")

FIRST = 3  # SD_LISTEN_FDS_START
UNKNOWN = "unknown"  # what systemd calls one for which it has no name
MOST = 4096  # more than a service can have


class Passed(NamedTuple):
    """A descriptor that was passed on to this process, and its name."""

    fd: int
    name: str


def passed(environment: MutableMapping[str, str]) -> list[Passed]:
    """What the environment says was passed on to this process, and not to its parent. It says that once: no program
    that this process runs takes it for its own."""
    pid, count, names = (environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit() and len(count) <= len(str(MOST))):
        return []
    called = names.split(":") if names else []
    called += [UNKNOWN] * (int(count) - len(called))
    return [Passed(FIRST + number, name or UNKNOWN) for number, name in enumerate(called[: min(int(count), MOST)])]


def given(every: Sequence[Passed], configuration: Configuration) -> GivenSockets:
    """These for the listeners of a configuration: what is called as one of them is for that. All others (systemd calls
    a socket as its unit, unless FileDescriptorName= is said) are for the only one that has none then; if that are
    several, each takes what is at its address."""
    wanting = [name for name, scope in configuration.scopes.items() if scope.settings.listen]
    found = list(filter(None, map(_socket_of, every)))
    named = [given for given in found if given.name in wanting]
    others = [given for given in found if given.name not in wanting]
    without = set(wanting) - {given.name for given in named}
    if len(without) != 1:
        return GivenSockets(named, others)
    sockets = GivenSockets(named)
    sockets.give_to(without.pop(), others)
    return sockets


def _socket_of(one: Passed) -> Given | None:
    """The socket of a descriptor; None, and a line that says so, when it is something else."""
    try:
        return Given(one.name, _socket.socket(fileno=one.fd))
    except OSError as error:
        log.warning("descriptor %d ('%s'), which was given, is no socket (%s): not used", one.fd, one.name,
                    (error.strerror or "").lower())
        return None
