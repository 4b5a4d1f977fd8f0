"""One server: where it is, what it may take, and what became of it.

Two axes that never touch: ``state`` is the operator's word (ready, drain, maint), health is what was observed. A server
is down while a verdict of a check or of ``server N health`` says so: that is of the server, whoever uses it. A connect
that failed says something of one transport and port only (a filtered TCP 53 says nothing of UDP 53): that is its
Target's, which is blacklisted; then one connection is its trial. A server drains while the worst verdict is ``drain``:
it gets no clients, but those that it has are served well, and stay.

Listeners choose among Members: a server, one of its targets, and the weight, prio and max that it has there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gpen.model.address import Address, Endpoint, digest_of
from gpen.model.agent import SILENT
from gpen.model.check import Check
from gpen.model.silence import Silence

if TYPE_CHECKING:
    from gpen.model.lease import Lease, Spare

STATES = ("ready", "drain", "maint")
HEALTHS = ("up", "drain", "trial", "down", "empty")  # what is found of it: see Target.health
VERDICTS = ("up", "drain", "down")  # what can be said of a server; the worst one counts, and is the last here
AGENT = "agent"  # as the source of a verdict
TCP, UDP = TRANSPORTS = ("tcp", "udp")
# what is configured of a server besides its address, with the defaults
FIELDS: dict[str, Any] = {"max": 0, "hard": 0, "weight": 1, "prio": 0, "acl": 0, "state": "ready", "check": None,
                          "check_port": None, "owner": None, "tls": None, "tls_name": None}
MEMBER_FIELDS = ("max", "weight", "prio", "port")  # what may be different of it for one listener


class Verdict(NamedTuple):
    """What was found otherwise than by a client's connect. ``since`` is wall clock time in seconds; ``began``, which is
    the same moment, and ``renewed`` are the clock's."""

    word: str  # one of VERDICTS
    reason: str
    since: float
    began: float
    renewed: float


class Said(NamedTuple):
    """What somebody says of a server: one of VERDICTS, why, and for how many seconds it has been so. ``unknown`` takes
    back what was said before."""

    word: str
    reason: str = ""
    seconds: float = 0.0


class Stay:
    """A server's time at one address: what its sessions there are counted by. ``left`` is how many it has left behind
    there."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = 0


class Server:
    """A server with a number, or a special one. Changed by the Pool only."""

    __slots__ = ("acl", "address", "agent", "beside", "causes", "check", "check_port", "condemned", "deleted",
                 "drained", "elsewhere", "failures", "hard", "kept_away", "max", "name", "number", "owner", "prio",
                 "rx", "sessions", "spares", "state", "stay", "sx", "target", "targets", "tls", "tls_name", "total",
                 "verdicts", "weight")

    target: Target  # the one that counts where no listener is named

    def __init__(self, name: str, number: int | None = None) -> None:
        self.name = name
        self.number = number
        self.address = Address()
        self.targets: dict[tuple[str, int | str | None], Target] = {}  # by transport, and port if that is not its own
        self.max = 0
        self.hard = 0
        self.weight = 1
        self.prio = 0
        self.acl = 0
        self.check: Check | None = None  # None: as the setting says
        self.check_port: int | None = None  # the same
        self.agent = SILENT  # what its agent has said
        self.owner: str | None = None  # the program that has made it, and changes and deletes it
        self.tls: str | None = None  # on or off; None: as the setting server_tls says
        self.tls_name: str | None = None  # None: as server_tls_name says
        self.state = "ready"
        self.deleted = False
        self.verdicts: dict[str, Verdict] = {}  # by whom: command, check, agent, address
        self.condemned = ""  # why a verdict says down
        self.drained = ""  # why one says drain, while none says down
        self.sessions = 0
        self.spares: list[Spare] = []  # of these, places of idlers: a client who needs one takes it
        self.stay = Stay()
        self.elsewhere: dict[Address, Stay] = {}  # those at addresses that it had before, as long as sessions are there
        self.beside = 0  # how many idlers, and sessions elsewhere: what its limits don't count
        self.total = 0
        self.failures = 0
        self.causes: dict[str, int] = {}  # of these; what a gpen before has counted has none
        self.kept_away = ""  # how this machine keeps gpen from it, if it does
        self.sx = 0
        self.rx = 0

    @property
    def label(self) -> int | str:
        """What programs call it: its number, or the name of a special one."""
        return self.name if self.number is None else self.number

    @property
    def is_special(self) -> bool:
        """Whether it is an emergency or an abuse server."""
        return self.number is None

    @property
    def is_empty(self) -> bool:
        """Whether this is but a number that is free: pen's way to remove a server is to give it no address."""
        return self.address.is_none

    @property
    def is_full(self) -> bool:
        """Whether it has as many sessions as it may have; a max of 0 is no limit."""
        return 0 < self.max <= self.load

    @property
    def load(self) -> int:
        """The clients' sessions at the address where it is now."""
        return self.sessions - self.beside

    def excuse(self, now: float) -> None:
        """What it has left without a reply until ``now`` counts no more."""
        for target in self.targets.values():
            target.excuse(now)

    @property
    def verdict(self) -> tuple[str, Verdict] | None:
        """The verdict that counts, a bad one before a good one, and by whom; of equals the first, and an agent's last:
        who takes a server away by command, and back, looks for his own."""
        return max(self.verdicts.items(), key=lambda item: (VERDICTS.index(item[1].word), item[0] != AGENT),
                   default=None)

    def weigh(self) -> None:
        """Draw the conclusion from all verdicts."""
        _, verdict = self.verdict or ("", None)
        self.condemned = verdict.reason if verdict and verdict.word == "down" else ""
        self.drained = verdict.reason if verdict and verdict.word == "drain" else ""


class Target:
    """A server as it is reached: over ``transport``, at ``port`` if that is not its own; and what connects to there
    have come to."""

    __slots__ = ("blamed", "changed", "digest", "down_until", "endpoints", "is_away", "is_silent", "port", "reason",
                 "returned", "server", "silences", "since", "transport", "trial")

    def __init__(self, server: Server, transport: str, port: int | str | None = None) -> None:
        self.server = server
        self.transport = transport
        self.port = port
        self.endpoints: tuple[Endpoint, ...] = ()
        self.digest = 0  # of them, once there are some
        self.down_until = 0.0
        self.blamed = 0.0  # when, by the clock, a connect failed last
        self.trial: Lease | None = None
        self.reason = ""
        self.since = 0.0  # wall clock time of the last change of its state
        self.changed = 0.0  # the same moment by the clock
        self.is_away = False  # whether it took no clients, by its state and standing, at the last change of these
        self.returned = 0.0  # when, by the clock, it came back from that; 0: it never was away while gpen served
        self.silences: dict[Endpoint, Silence] = {}  # of flows of UDP, by the address that they asked
        self.is_silent = False  # whether it is blacklisted for silence

    def locate(self, endpoints: Sequence[Endpoint]) -> None:
        """It is at these endpoints from now on, which are tried in this order."""
        self.endpoints = tuple(endpoints)
        if endpoints:
            self.digest = digest_of(endpoints)

    @property
    def name(self) -> str:
        """What people call it: its server, and how it is reached, where that is not as all reach it."""
        server = self.server
        if self.port is None:
            return server.name if self is server.target else f"{server.name} ({self.transport})"
        return f"{server.name} ({self.transport} port {self.port})"

    @property
    def address(self) -> Address:
        """Where it is, as people write it."""
        address = self.server.address
        return address if self.port is None or address.path else Address(address.host, self.port)

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
    def unanswered(self) -> int:
        """How many flows in a row have got no reply from the address that is in use, and count against it."""
        silence = self.silences.get(self.endpoints[0]) if self.endpoints else None
        return silence.flows if silence is not None else 0

    def silence_at(self, endpoint: Endpoint) -> Silence:
        """What silence says of one of its addresses; whoever has a reply from there says so there."""
        silence = self.silences.get(endpoint)
        if silence is None:
            silence = self.silences[endpoint] = Silence(endpoint)
        return silence

    def excuse(self, now: float) -> None:
        """What it has left without a reply until ``now`` counts no more."""
        for silence in self.silences.values():
            silence.excused = now

    @property
    def is_down(self) -> bool:
        """Whether a verdict or the blacklist says so, be it for one connection's trial."""
        return bool(self.server.condemned or self.down_until)

    @property
    def standing(self) -> str:
        """``down``, ``drained`` or ``up``, as ``events`` tells it; ``drain`` is what that calls an operator's."""
        return "down" if self.is_down else "drained" if self.server.drained else "up"

    @property
    def takes_clients(self) -> bool:
        """Whether neither the operator nor its health keeps new clients away."""
        return self.server.state == "ready" and self.standing == "up"

    def health(self, now: float) -> str:
        """``up``, ``down`` (by a verdict, or blacklisted), ``drain`` (by a verdict: no new clients), ``trial`` (the
        blacklist is over, and one connection shall decide) or ``empty`` (there is no server)."""
        server = self.server
        if server.is_empty:
            return "empty"
        if server.condemned or now < self.down_until:
            return "down"
        if server.drained:
            return "drain"
        return "trial" if self.down_until else "up"

    def why(self, now: float) -> str:
        """The reason for its health, where it is not well."""
        server = self.server
        return server.condemned or (server.drained if now >= self.down_until else "") or self.reason


class Member:
    """A server as a listener uses it: where that reaches it, and its weight, prio and max there (0: none but the
    server's own, which counts over all). ``weight`` is what its agent has left of the one that is ``configured``."""

    __slots__ = ("configured", "max", "number", "prio", "server", "target", "weight")

    def __init__(self, server: Server, target: Target) -> None:
        self.server = server
        self.target = target
        self.number = server.number or 0
        self.max = 0
        self.configured = server.weight
        self.weight = server.agent.of(server.weight)
        self.prio = server.prio
