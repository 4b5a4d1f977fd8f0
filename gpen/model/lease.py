"""Places on servers: counted from the choice to the end, and given back exactly once. Nobody else counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpen.model.server import Member, Server, Target
from gpen.model.silence import Silence, hold_against

if TYPE_CHECKING:
    from gpen.model.selector import Selector


class Lease:
    """A place on a server, counted as soon as there is one: by the server, and by the listener whose ``selector`` gave
    it. Ends with exactly one ``release`` or ``fail``."""

    __slots__ = ("_address", "_endpoints", "_selector", "_stay", "is_open", "member", "server", "target")

    def __init__(self, selector: Selector, member: Member) -> None:
        self.member = member
        server, target = self.member.server, self.member.target
        self._selector = selector
        self._address = server.address
        self._endpoints = target.endpoints
        self._stay = stay = server.stay
        self.server = server
        self.target = target
        self.is_open = True
        server.sessions += 1
        server.total += 1
        taken = selector.taken
        taken[stay] = taken.get(stay, 0) + 1
        if target.down_until:
            target.trial = self

    @property
    def is_outdated(self) -> bool:
        """Whether the server is elsewhere by now, or gone, or has got an address that was not there to be tried: what
        this place has seen says nothing of that."""
        server = self.server
        return (server.deleted or server.address is not self._address
                or not set(self.target.endpoints) <= set(self._endpoints))

    @property
    def is_elsewhere(self) -> bool:
        """Whether the server has been given another address since."""
        return self.server.address is not self._address and self.server.address != self._address

    def connected(self) -> None:
        """The server accepted the connection, or replied: if this was its trial, it is won. Older connections prove
        nothing, but whoever replies is not silent."""
        health, target = self._selector.pool.health, self.target
        if self.server.kept_away or health.is_cut_off:
            health.reached(self.server)
        if (target.trial is self or target.is_silent) and not self.is_outdated:
            health.restore(target, "a connection succeeded")

    def unanswered(self, silence: Silence, asked: float, patience: float = 0.0) -> bool:
        """A flow ends that has got no reply from there to what it asked at ``asked``, where one was due; see
        silence.py. Returns whether its client should be free to go elsewhere."""
        return hold_against(self._selector, self, silence, asked, self._selector.pool.now(), patience)

    def moved(self, sent: int, received: int) -> None:
        """So many bytes were sent to the server in this place, and received from it."""
        server, selector = self.server, self._selector
        server.sx += sent
        server.rx += received
        selector.sent += sent
        selector.received += received

    def release(self) -> None:
        """Give the place back: the session is over, or the attempt ended without a verdict on the server."""
        if not self.is_open:
            raise RuntimeError("a lease was given back twice")
        self.is_open = False
        server, taken, stay = self.server, self._selector.taken, self._stay
        server.sessions -= 1
        if taken[stay] > 1:
            taken[stay] -= 1
        else:
            del taken[stay]
        if server.beside:
            self._leave_side(server)
        if self.target.trial is self:
            self.target.trial = None

    def _leave_side(self, server: Server) -> None:
        """If this place is one that limits don't count, there is one less of these."""
        if self.is_elsewhere:
            server.beside -= 1
            self._stay.left -= 1
            if not self._stay.left:
                del server.elsewhere[self._address]

    def fail(self, cause: str, is_kept_away: bool = False) -> bool:
        """Give the place back, and hold against the server that it could not be reached: unless gpen ``is_kept_away``
        from it by this machine, and from all others. Returns whether the server is to blame."""
        self.release()
        return self.accuse(cause, is_kept_away)

    def accuse(self, cause: str, is_kept_away: bool = False) -> bool:
        """The same, when the place was given back already."""
        if self.is_outdated:
            return True  # but the new place is not
        health = self._selector.pool.health
        if not is_kept_away:
            health.reached(self.server, cause)
        elif health.keeps_away(self.server, cause):
            return False
        health.blame(self.target, cause)
        return True

    def refused(self, cause: str) -> None:
        """The server was reached, and takes nobody: hold that against it. The place may be free already."""
        if not self.is_outdated:
            self._selector.pool.health.blame(self.target, cause)


class Spare(Lease):
    """The place of an idler, which counts for no limit: as soon as a client needs it, or there is no reason for it, the
    idler gives way. ``endpoint`` is where that is, or will be."""

    __slots__ = ("_give_way", "endpoint")

    def __init__(self, selector: Selector, member: Member, give_way: Callable[[], object]) -> None:
        """``give_way`` ends the idler's connection and gives the place back, at once and without a switch."""
        super().__init__(selector, member)
        self._give_way = give_way
        self.endpoint = self.target.endpoints[0] if self.target.endpoints else None
        self.server.spares.append(self)
        self.server.beside += 1

    def give_way(self) -> None:
        """End the idler."""
        self._give_way()

    def _leave_side(self, server: Server) -> None:
        server.spares.remove(self)
        server.beside -= 1


class Former:
    """The places that sessions of a gpen before, which ends them now, have on a server: they count for all limits as
    long as they last, as our own do."""

    __slots__ = ("_address", "_selector", "_stay", "count", "server")

    def __init__(self, selector: Selector, server: Server) -> None:
        self.server = server
        self.count = 0
        self._selector = selector
        self._address = server.address
        self._stay = server.stay

    def become(self, count: int) -> None:
        """There are so many now."""
        more, self.count = count - self.count, count
        server, stay, taken = self.server, self._stay, self._selector.taken
        server.sessions += more
        taken[stay] = taken.get(stay, 0) + more
        if not taken[stay]:
            del taken[stay]
        if server.address != self._address:
            server.beside += more
            stay.left += more
            if not stay.left:
                server.elsewhere.pop(self._address, None)


def carry_on(server: Server, total: int, failures: int, sent: int, received: int) -> None:
    """A gpen before has counted so much of it."""
    server.total += total
    server.failures += failures
    server.sx += sent
    server.rx += received


def has_all(server: Server) -> bool:
    """Whether it has as many places as its max allows, counting those of idlers."""
    return 0 < server.max <= server.load + len(server.spares)


def make_way(member: Member) -> None:
    """A client takes a place on this server: an idler gives way that is its trial, or without whom there is no room."""
    server, trial = member.server, member.target.trial
    if isinstance(trial, Spare):
        trial.give_way()
    if has_all(server) and server.spares:
        server.spares[-1].give_way()


def dismiss_spares(server: Server, target: Target | None = None) -> None:
    """End the idlers there, or those that have reached it so: they have no reason any more."""
    for spare in tuple(server.spares):
        if target is None or spare.target is target:
            spare.give_way()
