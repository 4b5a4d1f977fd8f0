"""Keeps the servers' addresses resolved: at start, when they change, and again when a connect fails."""

from __future__ import annotations

import logging
import time

import gevent
from gevent.pool import Pool as Greenlets

from gpen.control.draft import Draft
from gpen.control.script import Errors, ScriptError
from gpen.model.address import Address, Endpoint
from gpen.model.pool import Pool
from gpen.model.server import Server
from gpen.model.settings import Settings
from gpen.wire.resolve import ResolveError, resolve
from gpen.wire.turns import gently

log = logging.getLogger("gpen")

LOOKUPS_AT_ONCE = 20
LOOKUP_PAUSE = 5.0

Endpoints = dict[int | str, tuple[Address, tuple[Endpoint, ...]]]  # by a server's number or special name


class Names:
    """The names of the servers in one pool."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._looked_up: dict[str, float] = {}

    def resolve(self, draft: Draft, patient: bool = False) -> Endpoints:
        """Resolve the addresses that a draft gives to servers, side by side, and change nothing. Switches greenlets.

        Raises ScriptErrors that name each server, and where its address was given. When ``patient``, a name service
        that does not answer is no error: the server waits for it, and the others serve.
        """
        places = draft.new_addresses()
        lookups = Greenlets(LOOKUPS_AT_ONCE)
        results = lookups.imap(lambda address: _looked_up(address, draft.settings), gently(places.values()))
        found, errors = {}, Errors()
        for (label, address), result in zip(places.items(), results, strict=True):
            if not isinstance(result, ResolveError):
                found[label] = (address, result)
            elif patient and result.temporary:
                log.warning("server %s: %s; it is not used until there is one", label, result)
            else:
                errors.add(ScriptError(f"server {label}: {result}", draft.origin_of(label)))
        errors.raise_all()
        return found

    def adopt(self, endpoints: Endpoints) -> None:
        """Give the servers that have none the endpoints that were resolved for them."""
        for label, (address, found) in endpoints.items():
            server = self._pool.server(label)
            if server is not None and server.address == address and not server.endpoints:
                self._pool.resolved(server, found)

    def insist(self) -> None:
        """Look up the names that could not be resolved so far."""
        for server in self._pool.all_servers():
            if not server.endpoints:
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


def _looked_up(address: Address, settings: Settings) -> tuple[Endpoint, ...] | ResolveError:
    """The endpoints of a server's address, or why there are none."""
    if not address.path and not address.port:
        return ResolveError(f"'{address.host}' needs a port")
    try:
        return resolve(address, settings.timeout, settings.udp)
    except ResolveError as error:
        return error
