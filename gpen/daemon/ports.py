"""Whether this machine has ports for what conn_max promises: a connection takes one at the address that it comes from,
which another to another server may have as well."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from gpen.model.listener import Scope
from gpen.model.roster import Roster
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
    """What each listener can't reach, though all its servers took as many: one line, with the remedy."""
    low, high = ephemeral_ports()
    ports = high - low + 1
    known: dict[tuple[Roster, object], int] = {}  # listeners for which nothing is different have one roster
    for scope in scopes:
        settings, roster = scope.settings, scope.selector.roster
        wanted = min(settings.conn_max, settings.conn_max_total or settings.conn_max)
        if not settings.listen or wanted <= ports:  # all may go to one server: thousands need not be looked at
            continue
        if settings.transparent or settings.dsr_if:  # each client has ports of its own
            continue
        key = roster, settings.source
        if key not in known:
            known[key] = ways(scope)
        room = ports * known[key]
        if 0 < room < wanted:
            servers = counted(len(roster.members), "server")
            yield (f"{listener_prefix(scope.name)}conn_max {wanted} needs more ports than there are: {low} to {high} "
                   f"allow {room} connections to {servers}; let source have more addresses, or widen "
                   f"net.ipv4.ip_local_port_range with sysctl")


def ways(scope: Scope) -> int:
    """How many pairs of a server and an address that connections to it come from there are; 0 where one is a path,
    which takes no ports."""
    addresses = [member.target.address for member in scope.selector.roster.members]
    if any(address.path for address in addresses):
        return 0
    said = scope.settings.source or ()
    return sum(max(len(sources_of(said, 6 if ":" in address.host else 4)), 1) for address in set(addresses))
