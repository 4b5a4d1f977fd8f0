"""Any sequence of reserve, connected, fail, release and configure leaves the invariants of the pool, and of two
listeners that use it, standing."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gpen.model.address import Address
from gpen.model.client import Client, ClientTable
from gpen.model.lease import Lease, Spare
from gpen.model.roster import Roster
from gpen.model.scheduler import ROUND_ROBIN
from gpen.model.selector import RETRY_SECONDS, Selector
from gpen.model.server import STATES, TRANSPORTS, UDP, VERDICTS, Member, Server, Target
from tests.model.world import World, endpoint

if TYPE_CHECKING:
    from gpen.model.selector import Choice

RULES = ("", "prio", "weight", "leastconn", "random", "stateless", "hash")
LIMITS = st.integers(0, 3)
NUMBERS = st.integers(0, 3)
DIFFERENCES = st.dictionaries(NUMBERS, st.fixed_dictionaries({}, optional={
    "max": LIMITS, "weight": LIMITS, "prio": LIMITS, "port": st.sampled_from((80, 81))}), max_size=3)
HOSTS = ("0.0.0.0", "::", "10.0.1.1", "10.0.1.2")


class PoolMachine(RuleBasedStateMachine):
    """Sessions of two listeners that come, fail and go, an operator who changes everything, and time that passes."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(0)
        self.pool = self.world.pool
        self.roster = Roster(UDP)  # of the other listener
        self.differences: dict[int, dict[str, int]] = {}
        self.selectors = (self.world.selector, self.world.another(self.roster))
        self.clients = ClientTable()
        self.open: dict[Lease, Selector] = {}
        self.servers: list[Server] = []

    @initialize(count=st.integers(0, 4), rules=st.tuples(*[st.sampled_from(RULES)] * 2), flags=st.tuples(*[st.sets(
        st.sampled_from(("roundrobin", "stubborn")))] * 2), emergency=st.booleans(), share=st.booleans())
    def configure_pool(self, count: int, rules: tuple[str, str], flags: tuple[set[str], set[str]], emergency: bool,
                       share: bool) -> None:
        for number in range(count):
            self.servers.append(self.world.add(number))
        self.world.special("abuse", max=2)
        if emergency:
            self.world.special("emergency", max=3)
        first, second = self.selectors
        second.settings.replace("emergency", first.settings.emergency)
        for selector, chosen, names in zip(self.selectors, rules, flags, strict=True):
            for name in (chosen, *names):
                if name:
                    selector.settings.set(name, True)
            selector.arrange_special()
            selector.turns.random = random.Random(7)  # so that a failure can be repeated
        if share:
            second.turns = first.turns

    # --- sessions -------------------------------------------------------------------------------------------------

    @rule(target=leases, which=st.integers(0, 1), address=st.integers(0, 5), failures=st.integers(0, 5),
          port=st.integers(0, 3))
    def session(self, which: int, address: int, failures: int, port: int) -> Any:
        """A client comes; its first connects fail, and it tries on, as wire/session.py does."""
        self.world.resolve()
        selector = self.selectors[which]
        client = self.clients.touch(f"10.0.0.{address}", self.world.clock(), 4, 0)
        tried: list[Server] = []
        while (lease := self.reserve(selector, client, port, tried)) is not None and failures:
            failures -= 1
            tried.append(lease.server)
            del self.open[lease]
            lease.fail("connection refused")
        return lease if lease is not None else multiple()

    def reserve(self, selector: Selector, client: Client, port: int, tried: list[Server]) -> Lease | None:
        loads = {server: server.load for server in self.pool.all_servers()}
        own = {member: self.taken_here(selector, member.server) for member in selector.all_members()}
        now, turn = self.world.clock(), selector.turns.last
        served = {member: selector.refusal(member, client, now) is None and member.server not in tried
                  for member in selector.roster.members}
        foreseen, rule, chosen = self.foresee(selector, client, port, tried)
        lease = selector.reserve(client, port, tried)
        if chosen is None or rule is not ROUND_ROBIN:
            assert selector.turns.last == turn, "only round robin moves its turn"
        if lease is None:
            assert foreseen is None
            return None
        member, server, target = lease.member, lease.server, lease.target
        assert member is foreseen and member in own
        limit = max(server.max, server.hard) if client.server is server else server.max
        assert server.max == 0 or loads[server] < limit, "a limit was overrun"
        assert member.max == 0 or own[member] < member.max, "the listener's limit was overrun"
        assert server not in tried and not server.deleted and not server.is_empty and server.state == "ready"
        assert member.weight or rule is None or not rule.weighs
        if target.health(now) == "down":
            assert now - target.blamed >= RETRY_SECONDS and not selector.settings.stubborn and target.trial is lease
            weighs = rule is not None and rule.weighs
            assert not any(ok and (other.weight or not weighs) for other, ok in served.items()), "another can serve"
        self.open[lease] = selector
        return lease

    def taken_here(self, selector: Selector, server: Server) -> int:
        """How many sessions of a listener a server has where it is now."""
        return sum(its is selector and lease.server is server and not lease.is_elsewhere
                   for lease, its in self.open.items())

    def foresee(self, selector: Selector, client: Client, port: int, tried: list[Server]) -> Choice:
        """What explain says, which changes nothing."""
        before, dice = self.world.state(selector), selector.turns.random.getstate()
        choice = selector.choose(client, self.world.clock(), port, tried)
        selector.turns.random.setstate(dice)
        assert self.world.state(selector) == before
        return choice

    @rule(address=st.integers(0, 5))
    def idler(self, address: int) -> None:
        def give_way() -> None:
            assert spare is not None
            del self.open[spare]
            spare.release()

        selector = self.world.selector
        spare = selector.reserve_spare(Client(f"idler {address}", -1), give_way)
        if spare is not None:
            self.open[spare] = selector
            assert spare.server.max == 0 or spare.server.load + len(spare.server.spares) <= spare.server.max

    @rule()
    def janitor(self) -> None:
        self.world.selector.tend_spares()
        for server in self.pool.all_servers():
            assert not server.spares or not server.max or server.load + len(server.spares) <= server.max

    @rule(target=leases)
    def abuse(self) -> Any:
        selector = self.world.selector
        lease = selector.reserve_abuse()
        if lease is None:
            return multiple()
        assert lease.server.load <= 2
        self.open[lease] = selector
        return lease

    @rule(lease=leases, address=st.integers(0, 5))
    def connected(self, lease: Lease, address: int) -> None:
        was_trial = lease.target.trial is lease
        lease.connected()
        if was_trial and not lease.is_outdated:
            assert not lease.target.down_until
        client = self.clients.get(f"10.0.0.{address}")
        if client is not None and lease.server.number is not None:
            self.clients.stick(client, lease.server)

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        del self.open[lease]
        lease.release()
        with pytest.raises(RuntimeError):
            lease.release()

    @rule(lease=consumes(leases))
    def fail(self, lease: Lease) -> None:
        del self.open[lease]
        lease.fail("connection timed out")
        with pytest.raises(RuntimeError):
            lease.fail("again")

    # --- the operator, and time -----------------------------------------------------------------------------------

    @rule(number=NUMBERS, limit=LIMITS, hard=LIMITS, weight=LIMITS, prio=LIMITS)
    def limits(self, number: int, limit: int, hard: int, weight: int, prio: int) -> None:
        server = self.pool.servers.get(number)
        if server is not None:
            self.pool.configure(server, {"max": limit, "hard": hard, "weight": weight, "prio": prio})

    @rule(transport=st.sampled_from(TRANSPORTS), numbers=st.none() | st.sets(NUMBERS), differences=DIFFERENCES)
    def other_listener(self, transport: str, numbers: set[int] | None, differences: dict[int, dict[str, int]]) -> None:
        """The other listener uses other servers, or uses them otherwise."""
        self.differences = differences
        self.roster.change(transport, numbers, differences)
        self.pool.use(self.roster)
        self.selectors[1].arrange_special()
        self.pool.forget_unused()

    @rule(number=NUMBERS, state=st.sampled_from(STATES))
    def state(self, number: int, state: str) -> None:
        server = self.pool.servers.get(number)
        if server is not None:
            self.pool.set_state(server, state)

    @rule(number=NUMBERS, duration=st.sampled_from((0, 5, 60)))
    def blacklist(self, number: int, duration: float) -> None:
        server = self.pool.servers.get(number)
        if server is not None:
            self.pool.health.blacklist(server, duration)
            expected = "down" if duration or server.condemned else "drain" if server.drained else "up"
            expected = "empty" if server.is_empty else expected
            assert {target.health(self.world.clock()) for target in server.targets.values()} == {expected}

    @rule(number=NUMBERS)
    def delete_or_add(self, number: int) -> None:
        if number in self.pool.servers:
            self.pool.delete(number)
        else:
            self.servers.append(self.world.add(number))

    @rule(number=NUMBERS, port=st.sampled_from((0, 80)), host=st.sampled_from(HOSTS))
    def empty_or_fill(self, number: int, host: str, port: int) -> None:
        server = self.pool.servers.get(number)
        if server is not None:
            address = Address(host, port)
            is_same = address == server.address
            self.pool.move(server, address)
            self.pool.resolved(server.target, [endpoint(host)])
            assert server.is_empty == (not host.startswith("10.") or port == 0)
            assert is_same or not any(target.trial for target in server.targets.values())

    @rule(number=NUMBERS, source=st.sampled_from(("check", "command")), word=st.sampled_from(VERDICTS))
    def verdict(self, number: int, source: str, word: str) -> None:
        server = self.pool.servers.get(number)
        if server is not None:
            self.pool.health.judge(server, source, word, "seen")
            worst = max(VERDICTS.index(verdict.word) for verdict in server.verdicts.values())
            assert (bool(server.condemned), bool(server.drained)) == (worst == 2, worst == 1)

    @rule(seconds=st.sampled_from((0.5, 1.5, 10, 31, 100)))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.now += seconds

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def sessions_are_open_leases(self) -> None:
        counts = Counter(id(lease.server) for lease in self.open)
        for server in [*self.servers, *self.pool.special.values()]:
            assert server.sessions == counts[id(server)]
            its = [lease for lease in self.open if lease.server is server]
            spares = [lease for lease in its if isinstance(lease, Spare)]
            left = [lease for lease in its if lease.is_elsewhere]
            assert server.spares == spares and server.beside == len(spares) + len(left)
            lefts = [stay.left for stay in server.elsewhere.values()]
            assert sum(lefts) == len(left) and 0 not in lefts and server.stay.left == 0

    @invariant()
    def each_session_is_one_of_one_listener(self) -> None:
        for selector in self.selectors:
            assert 0 not in selector.taken.values()
            assert sum(selector.taken.values()) == sum(its is selector for its in self.open.values())
            for member in selector.all_members():
                assert selector.load_of(member) == self.taken_here(selector, member.server)

    @invariant()
    def each_listener_has_the_servers_that_it_uses(self) -> None:
        for selector in self.selectors:
            roster = selector.roster
            expected = [server for number, server in sorted(self.pool.servers.items()) if roster.uses(server)]
            assert [member.server for member in roster.members] == expected
            for member in roster.members:
                assert roster.get(member.server) is member and member.target in member.server.targets.values()
                self.is_as_configured(member, self.differences if roster is self.roster else {})

    @staticmethod
    def is_as_configured(member: Member, differences: dict[int, dict[str, int]]) -> None:
        server, fields = member.server, differences.get(member.number, {})
        assert (member.max, member.weight, member.prio) == (
            fields.get("max", 0), fields.get("weight", server.weight), fields.get("prio", server.prio))
        assert member.target.address.port == fields.get("port", server.address.port)

    @invariant()
    def no_idler_has_lost_its_reason(self) -> None:
        assert not any(server.spares for server in self.servers
                       if server.deleted or server.is_empty or server.state != "ready" or server.condemned)

    def targets(self) -> list[Target]:
        return [target for server in [*self.servers, *self.pool.special.values()] for target in server.targets.values()]

    @invariant()
    def nothing_is_negative(self) -> None:
        for server in [*self.servers, *self.pool.special.values()]:
            assert min(server.sessions, server.total, server.failures) >= 0
            assert server.total >= server.sessions + server.failures
        assert all(target.down_until >= 0 for target in self.targets())

    @invariant()
    def a_trial_is_an_open_lease_of_a_server_that_is_down(self) -> None:
        for target in self.targets():
            if target.trial is not None:
                assert target.trial in self.open and target.trial.target is target and target.down_until

    @invariant()
    def special_servers_are_never_down(self) -> None:
        assert not any(target.down_until for target in self.targets() if target.server.is_special)

    @invariant()
    def what_a_command_blacklisted_is_so_however_it_is_reached(self) -> None:
        now = self.world.clock()
        for server in self.pool.servers.values():
            ends = {target.down_until if target.blamed == math.inf and now < target.down_until else 0
                    for target in server.targets.values()}
            assert len(ends) == 1

    @invariant()
    def nobody_is_owed_more_than_one_turn(self) -> None:
        for selector in self.selectors:
            assert all(share <= selector.turns.share + 1 for share in selector.turns.shares.values())

    @invariant()
    def servers_are_in_order(self) -> None:
        numbers = [server.number for server in self.pool.all_servers() if server.number is not None]
        assert numbers == sorted(self.pool.servers) and all(not server.deleted for server in self.pool.servers.values())


PoolMachine.TestCase.settings = settings(max_examples=3 * settings().max_examples // 2, stateful_step_count=40)
TestPool = PoolMachine.TestCase
