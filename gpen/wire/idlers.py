"""Idlers: spare connections to the servers, as pen keeps them.

A server that is gone is noticed, and blacklisted, before a client comes. No client ever uses an idler, and none is
kept waiting by one: whoever needs its place, or its descriptor, gets it at once. One whose server gets no clients, or
is elsewhere by now, goes.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import gevent

from gpen.model.address import Endpoint
from gpen.model.client import Client
from gpen.model.lease import Spare
from gpen.proto.proxy_header import local_header
from gpen.wire import sockets
from gpen.wire.conversation import Front
from gpen.wire.dial import dial
from gpen.wire.faults import Faults
from gpen.wire.poller import EPOLLIN, Call
from gpen.wire.server_tls import tls_name

log = logging.getLogger("gpen")


class Idlers:
    """As many connections as the setting idlers asks for, as far as there is room for them."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._idlers: dict[_Idler, None] = {}  # in the order in which they began
        self._begun = 0
        self._faults = Faults()

    @property
    def connected(self) -> int:
        """How many are open."""
        return sum(idler.sock is not None for idler in self._idlers)

    def tend(self, most: int) -> None:
        """Begin what is missing, end what is too much; the janitor calls it each second. There are descriptors for so
        many at ``most``. Does not switch."""
        self._front.selector.tend_spares()
        wanted = min(self._front.settings.idlers, max(most, 0)) if self._front.listener is not None else 0
        for idler in list(self._idlers)[wanted:]:
            idler.end()
        for _ in range(wanted - len(self._idlers)):
            self._begun += 1
            # no access list knows this address, and a hash of it spreads idlers over the servers
            idler = _Idler(self._front, self._idlers, self._faults)
            if not idler.begin(Client(f"unix idler {self._begun}", -1)):
                return

    def shed(self) -> bool:
        """End all; whether there was any that had a descriptor. Does not switch."""
        had = self.connected > 0
        self.close()
        return had

    def close(self) -> None:
        """End all. Does not switch."""
        for idler in list(self._idlers):
            idler.end()


class _Idler:
    """One spare connection; ``others`` are those that there are, itself among them as long as it has a place."""

    def __init__(self, front: Front, others: dict[_Idler, None], faults: Faults) -> None:
        self._front = front
        self._others = others
        self._faults = faults
        self._lease: Spare | None = None
        self._greenlet: Any = None
        self.sock: Any = None

    def begin(self, client: Client) -> bool:
        """Reserve a place, and connect beside; False when there is none. Does not switch."""
        self._lease = self._front.selector.reserve_spare(client, self.end)
        if self._lease is None:
            return False
        self._others[self] = None
        self._greenlet = gevent.spawn(self._faults.attempt, "an idler", partial(self._connect, self._lease))
        return True

    def end(self) -> None:
        """Close the connection and give the place back; a second call does nothing. Does not switch."""
        lease = self._leave()
        if lease is not None:
            lease.release()

    def _leave(self) -> Spare | None:
        """The place, which is to be given back now, of one that is over."""
        lease, self._lease = self._lease, None
        self._others.pop(self, None)
        if self.sock is not None:
            self._front.poller.closed(self.sock.fileno())
            self.sock.close()
            self.sock = None
        elif lease is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)
        return lease

    def _connect(self, lease: Spare) -> None:
        front, settings = self._front, self._front.settings
        assert lease.endpoint is not None
        try:
            sock = self._dialled(lease, lease.endpoint)
        except OSError as error:
            self._unreached(error)
            return
        except BaseException:
            self.end()
            raise
        if self._lease is not lease:  # its place was needed just now
            sock.close()
            return
        self.sock = sock
        sockets.keep_alive(sock, settings)
        front.poller.add(sock.fileno(), EPOLLIN, Call(lambda events: self._read()))
        lease.connected()

    def _dialled(self, lease: Spare, endpoint: Endpoint) -> Any:
        """A connection, behind the handshake where its server speaks TLS. Switches greenlets. Raises OSError."""
        front, settings = self._front, self._front.settings
        header, secures = local_header(settings.proxy_protocol), front.server_tls
        name = None if secures is None else tls_name(lease.server, settings)
        if secures is None or name is None:
            return dial(endpoint, settings, front.poller, settings.timeout, front.protocol, header)
        return secures.dial(endpoint, name, settings, front.poller, settings.timeout, front.protocol, header).sock

    def _read(self) -> None:
        """What the server says is dropped; that it ends the connection is not well."""
        lease = self._lease
        assert lease is not None
        try:
            if sockets.drop(self.sock):
                return
        except OSError as error:
            log.debug("idler of server %s: %s", lease.server.name, error.strerror)
        self.end()
        self._front.selector.pool.health.on_unwell(lease.server)

    def _unreached(self, error: OSError) -> None:
        lease = self._leave()
        if lease is None:
            return
        if error.errno in sockets.LOCAL_ERRORS:
            lease.release()
        else:
            lease.fail(sockets.cause_of(error), error.errno in sockets.PROHIBITIONS)
