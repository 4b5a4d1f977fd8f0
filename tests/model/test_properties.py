"""Any sequence of reserve, connected, fail, release and configure leaves the pool's invariants standing."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gpen.model.address import Address
from gpen.model.client import Client, ClientTable
from gpen.model.lease import Lease, Spare
from gpen.model.pool import RETRY_SECONDS, Choice
from gpen.model.scheduler import ROUND_ROBIN
from gpen.model.server import STATES, VERDICTS, Server
from tests.model.world import World, endpoint

RULES = ("", "prio", "weight", "leastconn", "random", "hash")
LIMITS = st.integers(0, 3)
NUMBERS = st.integers(0, 3)
HOSTS = ("0.0.0.0", "::", "10.0.1.1", "10.0.1.2")


class PoolMachine(RuleBasedStateMachine):
    """Sessions that come, fail and go, an operator who changes everything, and time that passes."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(0)
        self.pool = self.world.pool
        self.pool.turns.random = random.Random(7)  # so that a failure can be repeated
        self.clients = ClientTable()
        self.open: list[Lease] = []
        self.servers: list[Server] = []

    @initialize(count=st.integers(0, 4), rule=st.sampled_from(RULES), flags=st.sets(st.sampled_from(
        ("roundrobin", "stubborn"))), emergency=st.booleans())
    def configure_pool(self, count: int, rule: str, flags: set[str], emergency: bool) -> None:
        for number in range(count):
            self.servers.append(self.world.add(number))
        for name in (rule, *flags):
            if name:
                self.world.settings.set(name, True)
        self.world.special("abuse", max=2)
        if emergency:
            self.world.special("emergency", max=3)

    # --- sessions -------------------------------------------------------------------------------------------------

    @rule(target=leases, address=st.integers(0, 5), failures=st.integers(0, 5), port=st.integers(0, 3))
    def session(self, address: int, failures: int, port: int) -> Any:
        """A client comes; its first connects fail, and it tries on, as wire/session.py does."""
        client = self.clients.touch(f"10.0.0.{address}", self.world.clock(), 4, 0)
        tried: list[Server] = []
        while (lease := self.reserve(client, port, tried)) is not None and failures:
            failures -= 1
            tried.append(lease.server)
            self.open.remove(lease)
            lease.fail("connection refused")
        return lease if lease is not None else multiple()

    def reserve(self, client: Client, port: int, tried: list[Server]) -> Lease | None:
        before = {server: server.load for server in self.pool.all_servers()}
        now, turn = self.world.clock(), self.pool.turns.last
        served = {server: self.pool.refusal(server, client, now) is None and server not in tried
                  for server in self.pool.servers.values()}
        foreseen, rule, chosen = self.foresee(client, port, tried)
        lease = self.pool.reserve(client, port, tried)
        if chosen is None or rule is not ROUND_ROBIN:
            assert self.pool.turns.last == turn, "only round robin moves its turn"
        if lease is None:
            assert foreseen is None
            return None
        server = lease.server
        assert server is foreseen
        limit = max(server.max, server.hard) if client.server is server else server.max
        assert server.max == 0 or before[server] < limit, "a limit was overrun"
        assert server not in tried and not server.deleted and not server.is_empty and server.state == "ready"
        assert server.weight or rule is None or not rule.weighs
        if server.health(now) == "down":
            assert now - server.blamed >= RETRY_SECONDS and not self.world.settings.stubborn and server.trial is lease
            weighs = rule is not None and rule.weighs
            assert not any(ok and (other.weight or not weighs) for other, ok in served.items()), "another can serve"
        self.open.append(lease)
        return lease

    def foresee(self, client: Client, port: int, tried: list[Server]) -> Choice:
        """What explain says, which changes nothing."""
        def state() -> Any:
            servers = [vars(server).copy() for server in self.pool.all_servers()]
            return servers, self.pool.turns.last, self.pool.turns.share, len(self.pool.events)

        before, dice = state(), self.pool.turns.random.getstate()
        choice = self.pool.choose(client, self.world.clock(), port, tried)
        self.pool.turns.random.setstate(dice)
        assert state() == before
        return choice

    @rule(address=st.integers(0, 5))
    def idler(self, address: int) -> None:
        def give_way() -> None:
            assert spare is not None
            self.open.remove(spare)
            spare.release()

        spare = self.pool.reserve_spare(Client(f"idler {address}", -1), give_way)
        if spare is not None:
            self.open.append(spare)
            assert spare.server.max == 0 or spare.server.load + len(spare.server.spares) <= spare.server.max

    @rule()
    def janitor(self) -> None:
        self.pool.tend_spares()
        for server in self.pool.all_servers():
            assert not server.spares or not server.max or server.load + len(server.spares) <= server.max

    @rule(target=leases)
    def abuse(self) -> Any:
        lease = self.pool.reserve_abuse()
        if lease is None:
            return multiple()
        assert lease.server.load <= 2
        self.open.append(lease)
        return lease

    @rule(lease=leases, address=st.integers(0, 5))
    def connected(self, lease: Lease, address: int) -> None:
        was_trial = lease.server.trial is lease
        lease.connected()
        if was_trial and not lease.is_outdated:
            assert not lease.server.down_until
        client = self.clients.get(f"10.0.0.{address}")
        if client is not None and lease.server.number is not None:
            self.clients.stick(client, lease.server)

    @rule(lease=consumes(leases))
    def release(self, lease: Lease) -> None:
        self.open.remove(lease)
        lease.release()
        with pytest.raises(RuntimeError):
            lease.release()

    @rule(lease=consumes(leases))
    def fail(self, lease: Lease) -> None:
        self.open.remove(lease)
        lease.fail("connection timed out")
        with pytest.raises(RuntimeError):
            lease.fail("again")

    # --- the operator, and time -----------------------------------------------------------------------------------

    @rule(number=NUMBERS, limit=LIMITS, hard=LIMITS, weight=LIMITS, prio=LIMITS)
    def limits(self, number: int, limit: int, hard: int, weight: int, prio: int) -> None:
        server = self.pool.servers.get(number)
        if server is not None:
            server.max, server.hard, server.weight, server.prio = limit, hard, weight, prio

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
            assert server.health(self.world.clock()) == ("empty" if server.is_empty else expected)

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
            self.pool.resolved(server, [endpoint(host)])
            assert server.is_empty == (not host.startswith("10.") or port == 0)
            assert is_same or server.trial is None

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
            assert sum(server.elsewhere.values()) == len(left) and 0 not in server.elsewhere.values()

    @invariant()
    def no_idler_has_lost_its_reason(self) -> None:
        assert not any(server.spares for server in self.servers
                       if server.deleted or server.is_empty or server.state != "ready" or server.condemned)

    @invariant()
    def nothing_is_negative(self) -> None:
        for server in [*self.servers, *self.pool.special.values()]:
            assert min(server.sessions, server.total, server.failures, server.down_until) >= 0
            assert server.total >= server.sessions + server.failures

    @invariant()
    def a_trial_is_an_open_lease_of_a_server_that_is_down(self) -> None:
        for server in self.servers:
            if server.trial is not None:
                assert server.trial in self.open and server.trial.server is server and server.down_until

    @invariant()
    def special_servers_are_never_down(self) -> None:
        assert not any(server.down_until for server in self.pool.special.values())

    @invariant()
    def nobody_is_owed_more_than_one_turn(self) -> None:
        for server in self.pool.all_servers():
            assert server.share <= self.pool.turns.share + 1

    @invariant()
    def servers_are_in_order(self) -> None:
        numbers = [server.number for server in self.pool.all_servers() if server.number is not None]
        assert numbers == sorted(self.pool.servers) and all(not server.deleted for server in self.pool.servers.values())


PoolMachine.TestCase.settings = settings(max_examples=3 * settings().max_examples // 2, stateful_step_count=40)
TestPool = PoolMachine.TestCase
