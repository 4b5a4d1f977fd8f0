"""Places on servers: counted from the choice to the end, and given back exactly once. Nobody else counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpen.model.server import Server
from gpen.model.silence import Silence, hold_against

if TYPE_CHECKING:
    from gpen.model.pool import Pool


class Lease:
    """A place on a server, counted as soon as there is one. Ends with exactly one ``release`` or ``fail``."""

    __slots__ = ("_address", "_endpoints", "_pool", "is_open", "server")

    def __init__(self, pool: Pool, server: Server) -> None:
        self._pool = pool
        self._address = server.address
        self._endpoints = server.endpoints
        self.server = server
        self.is_open = True
        server.sessions += 1
        server.total += 1
        if server.down_until:
            server.trial = self

    @property
    def is_outdated(self) -> bool:
        """Whether the server is elsewhere by now, or gone, or has got an address that was not there to be tried: what
        this place has seen says nothing of that."""
        server = self.server
        return (server.deleted or server.address is not self._address
                or not set(server.endpoints) <= set(self._endpoints))

    @property
    def is_elsewhere(self) -> bool:
        """Whether the server has been given another address since."""
        return self.server.address is not self._address and self.server.address != self._address

    def connected(self) -> None:
        """The server accepted the connection, or replied: if this was its trial, it is won. Older connections prove
        nothing, but whoever replies is not silent."""
        if self.server.kept_away or self._pool.health.is_cut_off:
            self._pool.health.reached(self.server)
        if (self.server.trial is self or self.server.is_silent) and not self.is_outdated:
            self._pool.health.restore(self.server, "a connection succeeded")

    def unanswered(self, silence: Silence, asked: float, patience: float = 0.0) -> bool:
        """A flow ends that has got no reply from there to what it asked at ``asked``, where one was due; see
        silence.py. Returns whether its client should be free to go elsewhere."""
        return hold_against(self._pool, self, silence, asked, self._pool.now(), patience)

    def moved(self, sent: int, received: int) -> None:
        """So many bytes were sent to the server in this place, and received from it."""
        self.server.sx += sent
        self.server.rx += received

    def release(self) -> None:
        """Give the place back: the session is over, or the attempt ended without a verdict on the server."""
        if not self.is_open:
            raise RuntimeError("a lease was given back twice")
        self.is_open = False
        server = self.server
        server.sessions -= 1
        if server.beside:
            self._leave_side(server)
        if server.trial is self:
            server.trial = None

    def _leave_side(self, server: Server) -> None:
        """If this place is one that limits don't count, there is one less of these."""
        if self.is_elsewhere:
            server.beside -= 1
            server.elsewhere[self._address] -= 1
            if not server.elsewhere[self._address]:
                del server.elsewhere[self._address]

    def fail(self, cause: str, is_kept_away: bool = False) -> bool:
        """Give the place back, and hold against the server that it could not be reached: unless gpen ``is_kept_away``
        from it by this machine, and from all others. Returns whether the server is to blame."""
        self.release()
        if self.is_outdated:
            return True  # but the new place is not
        if not is_kept_away:
            self._pool.health.reached(self.server, cause)
        elif self._pool.health.keeps_away(self.server, cause):
            return False
        self._pool.health.blame(self.server, cause)
        return True


class Spare(Lease):
    """The place of an idler, which counts for no limit: as soon as a client needs it, or there is no reason for it, the
    idler gives way. ``endpoint`` is where that is, or will be."""

    __slots__ = ("_give_way", "endpoint")

    def __init__(self, pool: Pool, server: Server, give_way: Callable[[], object]) -> None:
        """``give_way`` ends the idler's connection and gives the place back, at once and without a switch."""
        super().__init__(pool, server)
        self._give_way = give_way
        self.endpoint = server.endpoints[0] if server.endpoints else None
        server.spares.append(self)
        server.beside += 1

    def give_way(self) -> None:
        """End the idler."""
        self._give_way()

    def _leave_side(self, server: Server) -> None:
        server.spares.remove(self)
        server.beside -= 1


def has_all(server: Server) -> bool:
    """Whether it has as many places as its max allows, counting those of idlers."""
    return 0 < server.max <= server.load + len(server.spares)


def make_way(server: Server) -> None:
    """A client takes a place on this server: an idler gives way that is its trial, or without whom there is no room."""
    if isinstance(server.trial, Spare):
        server.trial.give_way()
    if has_all(server) and server.spares:
        server.spares[-1].give_way()


def dismiss_spares(server: Server) -> None:
    """End the idlers there: they have no reason any more."""
    for spare in tuple(server.spares):
        spare.give_way()
