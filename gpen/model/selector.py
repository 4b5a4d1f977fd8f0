"""The selector: which server a client of one listener gets, and the place there that is counted in the same step.

Choosing and counting is one step (``reserve``), so that a burst can't overrun a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from gpen.model.client import Client
from gpen.model.health import seconds_told
from gpen.model.lease import Lease, Spare, dismiss_spares, has_all, make_way
from gpen.model.pool import SPECIAL, Pool
from gpen.model.roster import Roster
from gpen.model.scheduler import Rule, Turns
from gpen.model.server import Member, Server, Stay
from gpen.model.settings import Settings

RETRY_SECONDS = 1.0

if TYPE_CHECKING:
    # Who would get a client: a server, or None when it is turned away; the rule that chose, if one did; and whom it
    # chose, also where that one does not take the client and stubborn turns it away. A plain tuple: one is made for
    # each client.
    Choice = tuple[Member | None, Rule | None, Member | None]
_NOBODY: Choice = (None, None, None)


class Selector:
    """Chooses for one listener. ``taken`` is how many sessions of that each server has, by its Stay; ``sent`` and
    ``received`` are the bytes that went to servers and came from them, in sessions that are over."""

    route = ""  # in words, where it chooses for one

    def __init__(self, pool: Pool, settings: Settings, roster: Roster, listener: str = "") -> None:
        self.pool = pool
        self._acls = pool.acls
        self.settings = settings
        self.roster = roster
        self.listener = listener
        self.turns = Turns(pool.returns)
        self.taken: dict[Stay, int] = {}
        self.sent = self.received = 0
        self.emergency: Member | None = None
        self.abuse: Member | None = None

    # --- its servers ----------------------------------------------------------------------------------------------

    def arrange_special(self) -> None:
        """The settings emergency and abuse, or the transport, may have changed."""
        self.emergency, self.abuse = map(self._special, SPECIAL)

    def _special(self, name: str) -> Member | None:
        if self.settings.get(name) is None:
            return None
        return self.pool.special_member(special_name(self.listener, name), self.roster.transport) or (
            self.pool.special_member(name, self.roster.transport))

    def all_members(self) -> Iterator[Member]:
        """The numbered ones in order, then the special ones."""
        yield from self.roster.members
        yield from (special for special in (self.emergency, self.abuse) if special is not None)

    def members_of(self, server: Server) -> list[Member]:
        """How a server is used here: once, or not at all."""
        members = (self.roster.get(server), self.emergency, self.abuse)
        return [member for member in members if member is not None and member.server is server]

    def load_of(self, member: Member) -> int:
        """How many sessions of this listener a server has where it is now."""
        return self.taken.get(member.server.stay, 0)

    def forget(self, address: str) -> None:
        """The client of this address gets a server anew. The memory of clients is the listener's."""

    # --- choosing -------------------------------------------------------------------------------------------------

    def reserve(self, client: Client, port: int = 0, tried: Collection[Server] = ()) -> Lease | None:
        """A place on the server that this client gets now, counted; None when no server can take it.

        ``tried`` are the servers that failed this client already; with any of them, a stubborn listener gives up.
        Does not switch greenlets.
        """
        member, rule, chosen = self.choose(client, self.pool.now(), port, tried)
        if rule is not None and chosen is not None:
            rule.advance(self.turns, chosen)
        if member is None:
            return None
        if member.server.spares:
            make_way(member)
        return self._leased(member, client)

    def _leased(self, member: Member, client: Client | None) -> Lease:
        """A place on this server, for this client if it is known; counted."""
        return Lease(self, member)

    def resume(self, label: int | str) -> Lease | None:
        """A place on the server of this label for what had one there before, whatever the limits say; None when it is
        none of this listener's."""
        server = self.pool.server(label)
        members = [] if server is None else self.members_of(server)
        return self._leased(members[0], None) if members else None

    def reserve_abuse(self) -> Lease | None:
        """A place on the abuse server, or None when there is none."""
        abuse = self.abuse
        if abuse is None or _refuses_all(abuse.server):
            return None
        make_way(abuse)
        return self._leased(abuse, None)

    def reserve_spare(self, client: Client, give_way: Callable[[], object]) -> Spare | None:
        """A place for an idler, which calls itself this client, on a server that has room for one more; see Spare."""
        full = [member.server for member in self.all_members()
                if has_all(member.server) or member.target.trial is not None]
        member, rule, chosen = self.choose(client, self.pool.now(), tried=() if self.settings.stubborn else full)
        if member is None or member.server in full:
            return None
        if rule is not None and chosen is not None:
            rule.advance(self.turns, chosen)
        return Spare(self, member, give_way)

    def tend_spares(self) -> None:
        """End idlers for which only time, or what became of others, leaves no reason: beyond a limit that was lowered,
        and at the emergency server while another can serve."""
        for member in self.all_members():
            server = member.server
            while server.spares and 0 < server.max < server.load + len(server.spares):
                server.spares[-1].give_way()
        emergency, now = self.emergency, self.pool.now()
        if emergency is not None and emergency.server.spares and any(
                self._unavailable(member, now) is None for member in self.roster.members):
            dismiss_spares(emergency.server)

    def choose(self, client: Client, now: float, port: int = 0, tried: Collection[Server] = ()) -> Choice:
        """What ``reserve`` would do, without doing it; but dice that a rule throws are thrown.

        In pen's order: the server that the client used last, then the rule in force, then the emergency server. When
        a choice fails the rule chooses again among the others, so that a client that fails over goes where the next
        new client would go; for round robin that is pen's "next index, ring-wise". Before the emergency server is
        tried, and before a client is turned away, the rule may choose a server of which it is time to look whether it
        is back (``_is_due``). For silence alone nobody is turned away: see silence.py.
        """
        settings = self.settings
        last = client.server if settings.returns else None
        if last is not None and not last.deleted:
            remembered = self.roster.get(last)
            if remembered is not None:
                if last not in tried and self.refusal(remembered, client, now) is None:
                    return remembered, None, None
                if settings.stubborn:
                    return _NOBODY
        rule = settings.rule
        key = client.address
        if settings.roundrobin and rule.is_personal and rule.remembers:
            key = f"{key}:{port}"
        if settings.stubborn:
            return _NOBODY if tried else self._choose_once(rule, key, client, now)
        member = self._choose_usable(rule, key, client, now, tried)
        if member is not None:
            return member, rule, member
        return self._choose_at_worst(rule, key, client, now, tried)

    def _choose_usable(self, rule: Rule, key: str, client: Client, now: float, tried: Collection[Server],
                       ) -> Member | None:
        """Whom the rule chooses among those that can take the client."""
        return rule.pick(self.roster.members, lambda member: (
            member.server not in tried and self.refusal(member, client, now) is None), self.turns, key)

    def _choose_at_worst(self, rule: Rule, key: str, client: Client, now: float, tried: Collection[Server]) -> Choice:
        """Where no server can take the client: one that is due, the emergency server, or one that is silent."""
        members = self.roster.members
        member: Member | None = None

        def is_due(member: Member) -> bool:
            return (member.server not in tried and self._is_due(member, now)
                    and self.refusal(member, client, now, impatient=True) is None)

        def is_last_resort(member: Member) -> bool:
            return (member.target.is_silent and member.server not in tried
                    and self.refusal(member, client, now, desperate=True) is None)

        if any(now < other.target.down_until for other in members):
            member = rule.pick(members, is_due, self.turns, key)
            if member is not None:
                return member, rule, member
        emergency = self.emergency
        if emergency is not None and emergency.server not in tried and not _refuses_all(emergency.server):
            return emergency, None, None
        if any(other.target.is_silent for other in members):
            member = rule.pick(members, is_last_resort, self.turns, key)
        return _NOBODY if member is None else (member, rule, member)

    def _choose_once(self, rule: Rule, key: str, client: Client, now: float) -> Choice:
        """As pen does when it is stubborn: the rule chooses among the servers that are there, and one that is full, or
        denies the client, has had its turn."""
        member = rule.pick(self.roster.members,
                           lambda member: rule.is_personal or self._unavailable(member, now) is None, self.turns, key)
        takes = member is not None and self.refusal(member, client, now) is None
        return member if takes else None, rule, member

    @property
    def rule(self) -> Rule:
        """The rule that chooses for a new client."""
        return self.settings.rule

    def refusal(self, member: Member, client: Client, now: float, impatient: bool = False,
                desperate: bool = False) -> str | None:
        """Why this server can't take this client now; None when it can. ``impatient`` does not wait for the end of a
        blacklist, ``desperate`` heeds none."""
        reason = self._unavailable(member, now, impatient, desperate)
        if reason is not None:
            return reason
        server = member.server
        if 0 < server.max <= server.sessions and server.is_full:
            returning = client.server is server
            if not (returning and server.load < server.hard):
                limit = f"hard {server.hard}" if returning and server.hard > server.max else f"max {server.max}"
                return f"full: {server.load} sessions, {limit}"
        if member.max and self.load_of(member) >= member.max:
            return f"full for this listener: {self.load_of(member)} sessions, max {member.max}"
        if not self.permits(server.acl, client):
            return f"its access list {server.acl} denies the client"
        return None

    def _unavailable(self, member: Member, now: float, impatient: bool = False, desperate: bool = False) -> str | None:
        """Why this server can take nobody now, be there room or not."""
        server, target = member.server, member.target
        if server.state != "ready":
            return f"its state is {server.state}"
        if server.condemned:
            return f"down for {seconds_told(server, now):.0f} s: {server.condemned}"
        if server.drained:
            return f"draining for {seconds_told(server, now):.0f} s: {server.drained}"
        if target.down_until and not desperate:
            if now < target.down_until and not impatient:
                return f"blacklisted for {target.down_until - now:.0f} s more: {target.reason}"
            if target.trial is not None and not isinstance(target.trial, Spare):
                return f"on trial with another connection after: {target.reason}"
        if not target.endpoints:
            return "its slot is empty" if server.is_empty else f"its address {target.address} is not resolved"
        return None

    def _is_due(self, member: Member, now: float) -> bool:
        """Whether this server is blacklisted, but failed long enough ago to be tried by one connection when no other
        can serve. One that a command blacklisted never is."""
        target = member.target
        return now < target.down_until and now - target.blamed >= RETRY_SECONDS

    def has_room(self) -> bool:
        """Whether some client could be taken: by a server that is not full, or that is due; or in an emergency."""
        now, is_patient = self.pool.now(), self.settings.stubborn
        return any(self._has_place(member) for member in self.roster.members
                   if self._unavailable(member, now, not is_patient and self._is_due(member, now)) is None) or (
                       self.emergency is not None and not _refuses_all(self.emergency.server))

    def _has_place(self, member: Member) -> bool:
        server = member.server
        return (not server.max or server.load < max(server.max, server.hard)) and (
            not member.max or self.load_of(member) < member.max)

    def has_decided(self, tried: Collection[Server] = ()) -> bool:
        """Whether a client that was refused a place need not ask again: where stubborn is on, one chooses once, as long
        as there is a server to choose."""
        now = self.pool.now()
        return self.settings.stubborn and (
            bool(tried) or any(self._unavailable(member, now) is None for member in self.roster.members))

    def has_substitute(self, member: Member) -> bool:
        """Whether another server, which answers flows of UDP, could take the clients of this one."""
        now, rule, settings, pool = self.pool.now(), self.rule, self.settings, self.pool
        if settings.stubborn and (rule.is_personal or not settings.roundrobin):
            return False  # they go nowhere else
        server = member.server
        return any(other.server is not server and self._unavailable(other, now) is None
                   and not (other.target.is_down or other.target.unanswered or self._is_full(other))
                   and not (rule.weighs and not other.weight)
                   and (other.server.acl == server.acl or not pool.acls[other.server.acl].entries)
                   for other in self.roster.members)

    def is_crowded(self) -> bool:
        """Whether servers are well, but full."""
        now = self.pool.now()
        return any(self._is_full(member) and self._unavailable(member, now) is None for member in self.roster.members)

    def _is_full(self, member: Member) -> bool:
        return member.server.is_full or 0 < member.max <= self.load_of(member)

    def permits(self, number: int, client: Client) -> bool:
        """Whether access list ``number`` lets this client in. That most are empty is asked here, where it is C: the
        pool, which is not, takes 2,500 of a connection's 54,000 instructions to say so."""
        return not self._acls[number].entries or self.pool.permits(number, client)


def special_name(listener: str, name: str) -> str:
    """What a special server of its own of this listener is called."""
    return f"{listener}/{name}" if listener else name


def _refuses_all(special: Server) -> bool:
    """Whether a special server takes nobody now; it is tried whatever its connects came to."""
    return special.is_full or special.is_empty or bool(special.condemned)
