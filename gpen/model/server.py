"""One server: where it is, what it may take, and what became of it.

Two axes that never touch: ``state`` is the operator's word (ready, drain, maint), health is what was observed
(up, blacklisted until a time, or on trial).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpen.model.address import Address, Endpoint

if TYPE_CHECKING:
    from gpen.model.pool import Lease

STATES = ("ready", "drain", "maint")


class Server:
    """A place to connect to. Changed by the Pool only."""

    def __init__(self, name: str, number: int | None = None) -> None:
        self.name = name
        self.number = number
        self.address = Address()
        self.endpoints: tuple[Endpoint, ...] = ()
        self.max = 0
        self.hard = 0
        self.weight = 1
        self.prio = 0
        self.acl = 0
        self.state = "ready"
        self.deleted = False
        self.down_until = 0.0
        self.trial: Lease | None = None
        self.reason = ""
        self.since = 0.0
        self.sessions = 0
        self.total = 0
        self.failures = 0
        self.sx = 0
        self.rx = 0

    @property
    def label(self) -> int | str:
        """What programs call it: its number, or the name of a special one."""
        return self.name if self.number is None else self.number

    @property
    def shown_host(self) -> str:
        """The numeric address when it is known, else the name; a path for a unix socket."""
        return self.endpoints[0].host if self.endpoints else self.address.path or self.address.host

    @property
    def shown_port(self) -> int | str:
        return self.endpoints[0].port if self.endpoints else self.address.port

    @property
    def shown(self) -> str:
        return str(self.endpoints[0]) if self.endpoints else str(self.address)

    @property
    def is_full(self) -> bool:
        """Whether it has as many sessions as it may have; a max of 0 is no limit."""
        return 0 < self.max <= self.sessions

    def health(self, now: float) -> str:
        """``up``, ``down`` (blacklisted) or ``trial`` (the blacklist is over and one connection shall decide)."""
        if not self.down_until:
            return "up"
        return "down" if now < self.down_until else "trial"
