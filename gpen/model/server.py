"""One server: where it is, what it may take, and what became of it.

Two axes that never touch: ``state`` is the operator's word (ready, drain, maint), health is what was observed. A server
is down while a verdict of a check or of ``server N health`` says so, or while it is blacklisted after a connect that
failed; then one connection is its trial. It drains while the worst verdict is ``drain``: it gets no clients, but those
that it has are served well, and stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gpen.model.address import Address, Endpoint
from gpen.model.check import Check
from gpen.model.silence import Silence

if TYPE_CHECKING:
    from gpen.model.lease import Lease, Spare

STATES = ("ready", "drain", "maint")
VERDICTS = ("up", "drain", "down")  # what can be said of a server; the worst one counts, and is the last here
# what is configured of a server besides its address, with the defaults
FIELDS: dict[str, Any] = {"max": 0, "hard": 0, "weight": 1, "prio": 0, "acl": 0, "state": "ready", "check": None}


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
        self.check: Check | None = None  # None: as the setting says
        self.state = "ready"
        self.deleted = False
        self.verdicts: dict[str, Verdict] = {}  # by whom: command, check, address
        self.condemned = ""  # why a verdict says down
        self.drained = ""  # why one says drain, while none says down
        self.down_until = 0.0
        self.blamed = 0.0  # when, by the clock, a connect failed last
        self.trial: Lease | None = None
        self.reason = ""
        self.since = 0.0  # wall clock time of the last change of its state
        self.changed = 0.0  # the same moment by the clock
        self.share = 0.0  # of choices by a rule whose ties go round: see scheduler.py
        self.sessions = 0
        self.spares: list[Spare] = []  # of these, places of idlers: a client who needs one takes it
        self.elsewhere: dict[Address, int] = {}  # and how many are at addresses that it had before
        self.beside = 0  # both together: what its limits don't count
        self.total = 0
        self.failures = 0
        self.silences: dict[Endpoint, Silence] = {}  # of flows of UDP, by the address that they asked
        self.is_silent = False  # whether it is blacklisted for silence
        self.kept_away = ""  # how this machine keeps gpen from it, if it does
        self.sx = 0
        self.rx = 0

    @property
    def label(self) -> int | str:
        """What programs call it: its number, or the name of a special one."""
        return self.name if self.number is None else self.number

    @property
    def is_special(self) -> bool:
        """Whether it is the emergency or the abuse server."""
        return self.number is None

    @property
    def is_empty(self) -> bool:
        """Whether this is but a number that is free: pen's way to remove a server is to give it no address."""
        return self.address.is_none

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
        return 0 < self.max <= self.load

    @property
    def load(self) -> int:
        """The clients' sessions at the address where it is now."""
        return self.sessions - self.beside

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
        return bool(self.condemned or self.down_until)

    @property
    def verdict(self) -> tuple[str, Verdict] | None:
        """The verdict that counts, a bad one before a good one, and by whom."""
        return max(self.verdicts.items(), key=lambda item: VERDICTS.index(item[1].word), default=None)

    def weigh(self) -> None:
        """Draw the conclusion from all verdicts."""
        _, verdict = self.verdict or ("", None)
        self.condemned = verdict.reason if verdict and verdict.word == "down" else ""
        self.drained = verdict.reason if verdict and verdict.word == "drain" else ""

    @property
    def standing(self) -> str:
        """``down``, ``drained`` or ``up``, as ``events`` tells it; ``drain`` is what that calls an operator's."""
        return "down" if self.is_down else "drained" if self.drained else "up"

    def health(self, now: float) -> str:
        """``up``, ``down`` (by a verdict, or blacklisted), ``drain`` (by a verdict: no new clients), ``trial`` (the
        blacklist is over, and one connection shall decide) or ``empty`` (there is no server)."""
        if self.is_empty:
            return "empty"
        if self.condemned or now < self.down_until:
            return "down"
        if self.drained:
            return "drain"
        return "trial" if self.down_until else "up"

    def why(self, now: float) -> str:
        """The reason for its health, where it is not well."""
        return self.condemned or (self.drained if now >= self.down_until else "") or self.reason
