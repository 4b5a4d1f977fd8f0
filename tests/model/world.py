"""A pool of servers under a clock that is turned by hand: what the tests of the model share."""

from __future__ import annotations

from collections.abc import Iterable

from gpen.model.acl import parse_entry
from gpen.model.address import Address, Endpoint, ServerSpec
from gpen.model.client import Client
from gpen.model.lease import Lease
from gpen.model.pool import Pool
from gpen.model.roster import Roster
from gpen.model.selector import Selector
from gpen.model.server import Member, Server
from gpen.model.settings import Settings


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A pool with ``count`` servers that are ready and resolved."""

    def __init__(self, count: int = 3, **settings: object) -> None:
        self.clock = Clock()
        self.settings = Settings()
        for name, value in settings.items():
            self.settings.set(name, value)
        self.pool = Pool(self.settings, self.clock, self.clock)
        roster = Roster(self.pool.transport)
        self.pool.use(roster)
        self.selector = Selector(self.pool, self.settings, roster)
        for number in range(count):
            self.add(number)

    def add(self, number: int) -> Server:
        server = self.pool.add(number, Address(f"10.0.0.{number}", 80))
        self.pool.resolved(server.target, [endpoint(f"10.0.0.{number}")])
        return server

    def another(self, roster: Roster, name: str = "other", **settings: object) -> Selector:
        """The selector of another listener over the same servers, with a roster and settings of its own."""
        own = Settings()
        for setting, value in settings.items():
            own.set(setting, value)
        self.pool.use(roster)
        self.resolve()
        return Selector(self.pool, own, roster, name)

    def resolve(self) -> None:
        """Find out where servers are that are reached otherwise than until now."""
        pool = self.pool
        targets, pool.unresolved = [target for target in pool.unresolved if not target.endpoints], []
        for target in targets:
            pool.resolved(target, [endpoint(target.address.host, int(target.address.port))])

    def server(self, number: int) -> Server:
        return self.pool.servers[number]

    def member(self, number: int) -> Member:
        """How the one listener uses a server."""
        member = self.selector.roster.get(self.server(number))
        assert member is not None
        return member

    def special(self, name: str, host: str = "10.9.9.9", **options: int) -> Server:
        """Set the emergency or the abuse server."""
        spec = ServerSpec(Address(host, 80), options)
        self.settings.replace(name, spec)
        self.pool.set_special(name, spec)
        self.selector.arrange_special()
        server = self.pool.special[name]
        self.pool.resolved(server.target, [endpoint(host)])
        return server

    def no_special(self, name: str) -> None:
        """Unset it."""
        self.settings.replace(name, None)
        self.pool.set_special(name, None)
        self.selector.arrange_special()

    def configure(self, number: int, **fields: int) -> None:
        """Give a server other limits, or another weight or prio."""
        self.pool.configure(self.server(number), fields)

    def acl(self, number: int, *entries: str) -> None:
        for entry in entries:
            self.pool.acls[number].add(parse_entry(*entry.split()))

    def reserve(self, client: Client | str = "192.0.2.1", port: int = 0, tried: Iterable[Server] = ()) -> Lease:
        """A lease; the test fails where there is none."""
        lease = self.selector.reserve(self.client(client), port, tuple(tried))
        assert lease is not None, "no server could take the client"
        return lease

    def refused(self, client: Client | str = "192.0.2.1", tried: Iterable[Server] = ()) -> bool:
        return self.selector.reserve(self.client(client), 0, tuple(tried)) is None

    def numbers(self, count: int, keep: bool = False, clients: Iterable[str] = ()) -> list[int | None]:
        """The numbers of the servers that this many clients get; unless ``keep``, each has left when the next comes."""
        names = list(clients) or [f"192.0.2.{i}" for i in range(count)]
        chosen = []
        for name in names:
            lease = self.reserve(name)
            chosen.append(lease.server.number)
            if not keep:
                lease.release()
        return chosen

    def state(self, selector: Selector | None = None) -> object:
        """All that a choice could change."""
        selector = selector or self.selector
        pool, turns = self.pool, selector.turns
        targets = [target for server in pool.all_servers() for target in server.targets.values()]
        things = (*pool.all_servers(), *targets, *selector.all_members())
        return ([contents(thing) for thing in things], turns.last, turns.share, dict(turns.shares),
                dict(selector.taken), len(pool.events))

    @staticmethod
    def client(client: Client | str) -> Client:
        return Client(client, 0) if isinstance(client, str) else client


def contents(thing: object) -> dict[str, object]:
    """What is in the slots of an object now: lists and such as they are now."""
    found = {name: getattr(thing, name) for name in type(thing).__slots__}
    return {name: value.copy() if isinstance(value, dict | list) else value for name, value in found.items()}


def endpoint(host: str, port: int = 80) -> Endpoint:
    return Endpoint(2, (host, port), host, port)
