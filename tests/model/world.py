"""A pool of servers under a clock that is turned by hand: what the tests of the model share."""

from __future__ import annotations

from collections.abc import Iterable

from gpen.model.acl import parse_entry
from gpen.model.address import Address, Endpoint, ServerSpec
from gpen.model.client import Client
from gpen.model.lease import Lease
from gpen.model.pool import Pool
from gpen.model.server import Server
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
        for number in range(count):
            self.add(number)

    def add(self, number: int) -> Server:
        server = self.pool.add(number, Address(f"10.0.0.{number}", 80))
        self.pool.resolved(server, [endpoint(f"10.0.0.{number}")])
        return server

    def server(self, number: int) -> Server:
        return self.pool.servers[number]

    def special(self, name: str, **options: int) -> Server:
        """Set the emergency or the abuse server."""
        self.pool.set_special(name, ServerSpec(Address("10.9.9.9", 80), options))
        server = self.pool.special[name]
        self.pool.resolved(server, [endpoint("10.9.9.9")])
        return server

    def acl(self, number: int, *entries: str) -> None:
        for entry in entries:
            self.pool.acls[number].add(parse_entry(*entry.split()))

    def reserve(self, client: Client | str = "192.0.2.1", port: int = 0, tried: Iterable[Server] = ()) -> Lease:
        """A lease; the test fails where there is none."""
        lease = self.pool.reserve(self.client(client), port, tuple(tried))
        assert lease is not None, "no server could take the client"
        return lease

    def refused(self, client: Client | str = "192.0.2.1", tried: Iterable[Server] = ()) -> bool:
        return self.pool.reserve(self.client(client), 0, tuple(tried)) is None

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

    @staticmethod
    def client(client: Client | str) -> Client:
        return Client(client, 0) if isinstance(client, str) else client


def endpoint(host: str) -> Endpoint:
    return Endpoint(2, (host, 80), host, 80)
