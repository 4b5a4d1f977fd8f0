"""What a listener's memory of clients and its peers tell each other: which client was at which server, and when.

Servers are named by where they are, ADDRESS:PORT, for their numbers are each balancer's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gpen.model.address import UNIX, Endpoint
from gpen.model.client import Client, ClientTable
from gpen.model.server import Server, Target
from gpen.model.settings import Settings

if TYPE_CHECKING:
    from gpen.model.listener import Scope

NAME_OF_UNNAMED = "gpen"  # what peers call the memory of the listener without a name
FOREVER = 1 << 30  # milliseconds: 12 days, which haproxy's clock can tell from the past


class Journal:
    """The addresses of clients that have got a server here, in the order in which that happened, each at a position.

    Everybody who reads has a position of his own and comes when he can: who is slow costs nothing, and one who comes so
    late that it has forgotten what he has not read must look at all clients.
    """

    def __init__(self) -> None:
        self.begin = 0  # the position of the oldest that is kept
        self.on_news: Callable[[], object] = lambda: None  # called when there is something, and all was read before
        self._addresses: list[str] = []
        self._is_read = True

    @property
    def end(self) -> int:
        """The position of what comes next."""
        return self.begin + len(self._addresses)

    def add(self, address: str) -> None:
        """This client has got a server."""
        self._addresses.append(address)
        if self._is_read:
            self._is_read = False
            self.on_news()

    def since(self, position: int, most: int) -> list[str] | None:
        """The addresses at the next positions, at most so many, in their order; None when they are forgotten."""
        if position < self.begin:
            return None
        start = position - self.begin
        return self._addresses[start:start + most]

    def read(self) -> None:
        """Somebody begins to read: ``on_news`` shall be called for what comes from now on."""
        self._is_read = True

    def trim(self, most: int) -> None:
        """Forget the oldest until ``most`` remain."""
        excess = len(self._addresses) - most
        if excess > 0:
            del self._addresses[:excess]
            self.begin += excess


class SharedTable(ClientTable):
    """A memory of clients whose ``journal`` says what is new in it; what peers have told is no news for them."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal()

    def stick(self, client: Client, server: Server) -> None:
        client.server = server
        client.learnt_from = None
        self.journal.add(client.address)

    def remember(self, address: str, server: Server, last: float, limit: int) -> None:
        super().remember(address, server, last, limit)
        client = self.get(address)
        if client is not None:
            client.learnt_from = None
            self.journal.add(address)


class Exchange:
    """Between one listener's memory, which peers call by its ``name``, and all of them."""

    def __init__(self, scope: Scope, clients: SharedTable, settings: Settings, clock: Callable[[], float]) -> None:
        """``settings`` are those of the process, ``clock`` gives the seconds that the memory has."""
        self.name = scope.name or NAME_OF_UNNAMED
        self.clients = clients
        self._scope = scope
        self._settings = settings
        self._clock = clock
        self._servers: dict[str, Server] | None = None  # by where they are, as long as nothing has changed
        self._places: dict[Server, str] = {}
        self._has_missed = False  # clients that were told of, as their servers were not here

    @property
    def expiry(self) -> int:
        """For how many milliseconds a client is remembered."""
        return min(int(self._scope.settings.tracking * 1000), FOREVER) or FOREVER

    def servers_changed(self) -> bool:
        """Servers have come, gone or moved. Whether clients that were told of may be at one that has come."""
        before, self._servers = self._servers, None
        if not self._has_missed or self._known().keys() <= (before or {}).keys():
            return False
        self._has_missed = False
        return True

    def _known(self) -> dict[str, Server]:
        if self._servers is None:
            members = self._scope.selector.roster.members[::-1]  # of two at one place the first counts
            self._servers = {place: member.server for member in members for place in _places(member.target)}
            self._places = {member.server: _place(member.target) for member in members if member.target.endpoints}
        return self._servers

    def learn(self, told: Iterable[tuple[str, str | None, int | None]], expiry: int, peer: str) -> int:
        """Remember clients as a peer has told of them: the address, where its server is, and for how many milliseconds
        it is to be remembered, of ``expiry``; None: it has just been there. One without a server is nothing to
        remember. Returns how many were at servers that are not here. Does not switch."""
        servers, clients = self._known(), self.clients
        now, tracking, limit = self._clock(), self._scope.settings.tracking, self._settings.clients_max
        unknown = 0
        for address, place, left in told:
            server = servers.get(place)  # type: ignore[arg-type]  # None is none
            if server is None:
                unknown += place is not None
                continue
            age = (expiry - left) / 1000 if left is not None and left < expiry else 0.0
            if not (tracking and age > tracking):
                clients.learn(address, server, now - age, limit, peer)
        self._has_missed |= unknown > 0
        return unknown

    def tell(self, addresses: Iterable[str], peer: str = "") -> Iterator[tuple[str, str, int]]:
        """What a ``peer`` is to be told of the clients of these addresses, but for those of which it has told itself:
        the address, where its server is, and for how many milliseconds it is to be remembered yet."""
        self._known()
        get, places, expiry, now = self.clients.get, self._places, self.expiry, self._clock()
        for address in addresses:
            client = get(address)
            if client is None or client.server is None or (peer and client.learnt_from == peer):
                continue
            place = places.get(client.server)
            left = expiry - int((now - client.last) * 1000)
            if place is not None and address != UNIX and (left > 0 or expiry == FOREVER):
                yield address, place, max(left, 1)


def _place(target: Target) -> str:
    """Where a server is, as haproxy writes it (srvkey addr): an IPv6 address has no brackets."""
    endpoint = target.endpoints[0]
    return f"{_host(endpoint)}:{endpoint.port}" if endpoint.port else endpoint.host


def _places(target: Target) -> Iterator[str]:
    """All that peers may call it."""
    for endpoint in target.endpoints:
        yield str(endpoint)
        yield f"{endpoint.host}:{endpoint.port}"
        yield f"{_host(endpoint)}:{endpoint.port}"


def _host(endpoint: Endpoint) -> str:
    """The host; an IPv4 address as such, also where it is written as one of IPv6."""
    if not endpoint.host.startswith("::ffff:"):
        return endpoint.host
    return str(getattr(ip_address(endpoint.host), "ipv4_mapped", None) or endpoint.host)
