"""Whether this machine has ports for what conn_max promises: a connection takes one at the address that it comes from,
which another to another server may have as well."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from gpen.model.listener import Scope
from gpen.model.sources import sources_of
from gpen.model.text import counted
from gpen.model.value_types import listener_prefix
from gpen.wire.sockets import ephemeral_ports

log = logging.getLogger("gpen")


def tell_shortages(scopes: Iterable[Scope]) -> None:
    """Warn of what these listeners can't reach."""
    for line in shortages(scopes):
        log.warning("%s", line)


def shortages(scopes: Iterable[Scope]) -> Iterator[str]:
    """What listeners can't reach, though all their servers took as many: a line, with the remedy, for each that can't
    by itself, or else for all together that use the same servers in the same way."""
    low, high = ephemeral_ports()
    ports = high - low + 1
    for those in _in_groups(scopes):
        sessions = {scope.name: _most(scope.settings.conn_max, scope) for scope in those}
        together = _most(sum(sessions.values()), those[0])
        room = ports * ways(those[0]) if together > ports else 0  # else all may go to one server: none is looked at
        if not 0 < room < together:
            continue
        told = [f"{listener_prefix(name)}conn_max {wanted}" for name, wanted in sessions.items() if wanted > room]
        servers = counted(len(those[0].selector.roster.members), "server")
        for what in told or [f"conn_max {together} (of {len(those)} listeners together)"]:
            yield (f"{what} needs more ports than there are: {low} to {high} allow {room} connections to {servers}; "
                   f"let source have more addresses, or widen net.ipv4.ip_local_port_range with sysctl")


def _most(sessions: int, scope: Scope) -> int:
    return min(sessions, scope.settings.conn_max_total or sessions)


def _in_groups(scopes: Iterable[Scope]) -> Iterable[list[Scope]]:
    """Those that need ports, together where they share them: listeners for which nothing is different have one
    roster."""
    groups: dict[tuple[object, ...], list[Scope]] = {}
    for scope in scopes:
        settings = scope.settings
        # of transparent, each client has ports of its own, and direct server return takes none
        if settings.listen and not settings.transparent and not settings.dsr_if:
            groups.setdefault((scope.selector.roster, settings.source), []).append(scope)
    return groups.values()


def ways(scope: Scope) -> int:
    """How many pairs of a server and an address that connections to it come from there are; 0 where one is a path,
    which takes no ports."""
    addresses = [member.target.address for member in scope.selector.roster.members]
    if any(address.path for address in addresses):
        return 0
    said = scope.settings.source or ()
    return sum(max(len(sources_of(said, 6 if ":" in address.host else 4)), 1) for address in set(addresses))
