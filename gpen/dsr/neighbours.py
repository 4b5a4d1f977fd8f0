"""The machines on the interface that frames are sent on to: their MAC addresses, asked for by ARP (RFC 826), and asked
again, so that one that is gone is noticed.

Requests tell no address of ours (as RFC 5227's probes): the interface need not have one, and that of the service must
not be told to those who have it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpen.dsr import frames

FRESH = 3.0  # seconds for which an answer counts, before it is asked for again
PATIENCE = 3  # requests without an answer, a second apart, and a machine is gone
MOST_WAITING = 256  # frames that wait for an answer


class Neighbour:
    """One machine. ``head`` begins the frames that go there: its MAC and ours; empty as long as nobody knows.
    ``users`` is how many flows are there."""

    __slots__ = ("address", "answered", "asked", "head", "mac", "misses", "users", "waiting")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.mac = b""
        self.head = b""
        self.asked = self.answered = -FRESH
        self.misses = 0
        self.users = 0
        self.waiting: list[tuple[bytes, bytes]] = []  # keys of flows, and frames

    @property
    def is_gone(self) -> bool:
        """Whether it was asked often enough, and says nothing."""
        return not self.head and self.misses >= PATIENCE

    def keep(self, key: bytes, frame: bytes) -> bool:
        """Keep a flow's frame until it answers; False when too many wait."""
        if len(self.waiting) >= MOST_WAITING:
            return False
        self.waiting.append((key, frame))
        return True


class Neighbours:
    """All of them, by their IPv4 addresses."""

    def __init__(self, mac: bytes, send: Callable[[bytes], object]) -> None:
        """``mac`` is ours; ``send`` sends a frame."""
        self._all: dict[bytes, Neighbour] = {}
        self._mac = mac
        self._send = send

    def at(self, address: bytes, now: float) -> Neighbour:
        """The one of this address, which is asked for its MAC if it is new."""
        neighbour = self._all.get(address)
        if neighbour is None:
            neighbour = self._all[address] = Neighbour(address)
            self._ask(neighbour, now)
        return neighbour

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(list(self._all.values()))

    def heard(self, address: bytes, mac: bytes, now: float) -> Neighbour | None:
        """Somebody says that this is its address; the neighbour that it is, if that did not answer before."""
        neighbour = self._all.get(address)
        is_back = neighbour is not None and not neighbour.head
        if neighbour is not None:
            neighbour.answered, neighbour.misses = now, 0
            if neighbour.mac != mac:
                neighbour.mac, neighbour.head = mac, mac + self._mac
        return neighbour if is_back else None

    def moved(self, mac: bytes) -> None:
        """Our own MAC is another one."""
        self._mac = mac
        for neighbour in self._all.values():
            if neighbour.head:
                neighbour.head = neighbour.mac + mac

    def tend(self, now: float, needed: set[bytes]) -> Iterator[Neighbour]:
        """Each second: ask those that are due, forget those that nobody needs but who stand in ``needed``, and yield
        those that are gone now."""
        for address in needed:
            self.at(address, now)
        for neighbour in self:
            if not neighbour.users and neighbour.address not in needed:
                del self._all[neighbour.address]
                continue
            if now - neighbour.answered < FRESH or now - neighbour.asked < 0.5:
                continue
            if neighbour.answered < neighbour.asked:
                neighbour.misses += 1
            if neighbour.misses >= PATIENCE:
                neighbour.mac = neighbour.head = b""
            if neighbour.misses == PATIENCE:
                yield neighbour
            self._ask(neighbour, now)

    def _ask(self, neighbour: Neighbour, now: float) -> None:
        neighbour.asked = now
        self._send(frames.arp(frames.REQUEST, self._mac, frames.NO_ADDRESS, frames.BROADCAST, neighbour.address))
