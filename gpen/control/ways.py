"""How the listeners of a draft reach servers: over which transport, and at which port if that is not their own."""

from __future__ import annotations

from collections.abc import Container, Iterator

from gpen.control.draft import Draft
from gpen.model.address import Address
from gpen.model.listener import ListenerConfig, transport_of
from gpen.model.route import used_with

Way = tuple[str, int | str | None]
_NOTHING = ListenerConfig()


class Ways:
    """Asked for one server after the other: listeners that use all servers alike are looked at once."""

    def __init__(self, draft: Draft, names: Container[str] | None = None) -> None:
        """Of all listeners, or of those with these names."""
        self._users: list[tuple[str, str, ListenerConfig]] = []
        self._used: dict[str, tuple[int, ...] | None] = {}  # the numbers of the servers that each uses, or None: all
        self._alike: dict[Way, None] = {}
        for name, settings in draft.all_settings().items():
            if not settings.listen or (names is not None and name not in names):
                continue
            transport, config = transport_of(settings), draft.listener_of(name) or _NOTHING
            self._users.append((name, transport, config))
            self._used[name] = used_with(config.servers, settings.route)
            if config.uses_all_alike or not self._alike:  # the first also says how one is reached that nobody uses
                self._alike[transport, None] = None
        self._others = [user for user in self._users if not user[2].uses_all_alike]
        self._numbers: dict[str, frozenset[int]] = {}  # of those that were asked for: of 100 listeners it took 80 ms
        if not self._alike:
            self._alike[transport_of(draft.settings), None] = None

    def to(self, label: int | str, address: Address) -> list[Way]:
        """Those to the server of this number, or special name, which is at this address."""
        if isinstance(label, str):
            return [(transport, None) for transport in dict.fromkeys(user[1] for user in self._users)] or (
                list(self._alike))
        ways = dict(self._alike)
        for name, transport, config in self._others:
            if self._is_used(name, label):
                ways[transport, _port(config, label, address)] = None
        return list(ways)

    def users(self, label: int | str, address: Address, way: Way) -> Iterator[str]:
        """The listeners that reach it so; there it is at this address."""
        for name, transport, config in self._users:
            if transport != way[0]:
                continue
            if isinstance(label, str):
                owner, _, special = label.rpartition("/")
                is_used = owner == name or (not owner and special not in config.own)
            else:
                port = config.members.get(label, {}).get("port")
                is_there = port == way[1] or (way[1] is None and (port == address.port or bool(address.path)))
                is_used = is_there and self._is_used(name, label)
            if is_used:
                yield name

    def _is_used(self, listener: str, number: int) -> bool:
        used = self._used[listener]
        if used is None:
            return True
        numbers = self._numbers.get(listener)
        if numbers is None:
            numbers = self._numbers[listener] = frozenset(used)
        return number in numbers


def _port(config: ListenerConfig, number: int, address: Address) -> int | str | None:
    port: int | str | None = config.members.get(number, {}).get("port")
    return None if port == address.port or address.path else port
