"""Idlers: spare connections to the servers, as pen keeps them.

A server that is gone is noticed, and blacklisted, before a client comes. No client ever uses an idler.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent

from gpen.model.client import Client
from gpen.model.pool import Lease
from gpen.wire import sock as sockets
from gpen.wire.conversation import Front
from gpen.wire.dial import dial
from gpen.wire.faults import Faults
from gpen.wire.poller import EPOLLIN, FOR_EVER
from gpen.wire.proxy import local_header

log = logging.getLogger("gpen")


class Idlers:
    """As many connections as the setting idlers asks for, each in a greenlet of its own."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._greenlets: list[Any] = []
        self.connected = 0
        self._begun = 0
        self._faults = Faults()

    def tend(self) -> None:
        """Begin what is missing, end what is too much; the janitor calls it each second. Does not switch."""
        self._greenlets = [greenlet for greenlet in self._greenlets if not greenlet.dead]
        wanted = self._front.settings.idlers
        for greenlet in self._greenlets[wanted:]:
            greenlet.kill(block=False)
        for _ in range(wanted - len(self._greenlets)):
            self._begun += 1
            # no access list knows this address, and a hash of it spreads idlers over the servers
            self._greenlets.append(gevent.spawn(self._idle, Client(f"unix idler {self._begun}", -1)))

    def close(self) -> None:
        """End all. Switches greenlets."""
        gevent.killall(self._greenlets)

    def _idle(self, client: Client) -> None:
        self._faults.attempt("an idler", lambda: self._connect(client))

    def _connect(self, client: Client) -> None:
        front = self._front
        lease = front.pool.reserve(client)
        if lease is None:
            return
        try:
            sock = dial(lease.server.endpoints[0], front.settings, front.poller, front.settings.timeout,
                        local_header(front.settings.proxy_protocol))
        except OSError as error:
            self._unreached(lease, error)
            return
        except BaseException:
            lease.release()
            raise
        self._hold(lease, sock)

    def _hold(self, lease: Lease, sock: Any) -> None:
        """Keep the connection until the server ends it."""
        lease.connected()
        self.connected += 1
        try:
            while self._front.poller.wait(sock.fileno(), EPOLLIN, FOR_EVER) and sockets.drop(sock):
                pass
        except OSError as error:
            log.debug("idler of server %s: %s", lease.server.name, error.strerror)
        finally:
            self.connected -= 1
            lease.release()
            sock.close()
        self._front.pool.on_unwell(lease.server)

    def _unreached(self, lease: Lease, error: OSError) -> None:
        if error.errno in sockets.LOCAL_ERRORS:
            lease.release()
        else:
            lease.fail((error.strerror or str(error)).lower())
