"""Keeps the servers' addresses resolved: at start, when they change, and again when a connect fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import gevent
from gevent.pool import Pool as Greenlets

from gpen.control.configuration import Configuration
from gpen.control.script import Call, ScriptError
from gpen.model.address import Address, Endpoint
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.wire.resolve import ResolveError, resolve

log = logging.getLogger("gpen")

LOOKUPS_AT_ONCE = 20
LOOKUP_PAUSE = 5.0

Endpoints = dict[Address, tuple[Endpoint, ...]]


class Names:
    """The names of the servers in one pool."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._looked_up: dict[str, float] = {}

    def resolve(self, configuration: Configuration, calls: Sequence[Call] = (), patient: bool = False) -> Endpoints:
        """Resolve the servers of a configuration whose addresses are not known yet, side by side, and change nothing.
        Switches greenlets.

        Raises ScriptError that names the server, and which of the calls gave it. When ``patient``, a name service
        that does not answer is no error: the server waits for it, and the others serve.
        """
        known: Endpoints = {server.address: server.endpoints for server in self._pool.all_servers()
                            if server.endpoints}
        fresh = [server for server in configuration.pool.all_servers()
                 if server.address not in known and not server.is_empty]
        lookups = Greenlets(LOOKUPS_AT_ONCE)
        results = lookups.imap(lambda server: _looked_up(server, configuration.settings), fresh)
        for server, result in zip(fresh, list(results), strict=True):
            if not isinstance(result, ResolveError):
                known[server.address] = result
            elif patient and result.temporary:
                log.warning("server %s: %s; it is not used until there is one", server.name, result)
            else:
                raise ScriptError(f"server {server.name}: {result}", _origin(server, calls))
        return known

    def adopt(self, endpoints: Endpoints) -> None:
        """Give the servers of the pool that have none the endpoints that were resolved for them."""
        for server in self._pool.all_servers():
            if not server.endpoints:
                self._pool.resolved(server, endpoints.get(server.address, ()))

    def insist(self) -> None:
        """Look up the names that could not be resolved so far."""
        for server in self._pool.all_servers():
            if not (server.endpoints or server.is_empty):
                self.refresh(server)

    def refresh(self, server: Server) -> None:
        """Look a server's name up again, beside, at most once in LOOKUP_PAUSE seconds; a failure changes nothing."""
        host = server.address.host
        now = time.monotonic()
        known = bool(server.endpoints) and host == server.shown_host
        if not host or known or now - self._looked_up.get(host, 0) < LOOKUP_PAUSE:
            return
        self._looked_up[host] = now
        gevent.spawn(self._refresh, server)

    def _refresh(self, server: Server) -> None:
        address = server.address
        try:
            endpoints = resolve(address, self._settings.timeout, self._settings.udp)
        except ResolveError as error:
            log.warning("server %s: %s; its last known address stays", server.name, error)
            return
        if server.address == address and set(endpoints) != set(server.endpoints):
            log.info("server %s: '%s' is %s now", server.name, address.host, endpoints[0].host)
            self._pool.resolved(server, endpoints)


def _looked_up(server: Server, settings: Settings) -> tuple[Endpoint, ...] | ResolveError:
    """The endpoints of a server, or why there are none."""
    if not server.address.path and not server.address.port:
        return ResolveError(f"'{server.address.host}' needs a port")
    try:
        return resolve(server.address, settings.timeout, settings.udp)
    except ResolveError as error:
        return error


def _origin(server: Server, calls: Sequence[Call]) -> str:
    """Where the address of a server was given last."""
    return next((call.origin for call in reversed(calls) if call.arguments.get("number") == server.number), "")
