"""The rules that choose a server for a new client.

Each takes the servers in order of their numbers and ``usable``, which says whether a server can take this client now,
and returns one of them or None. None of them changes anything, so that ``explain`` can ask them as well.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence

from gpen.model.server import Server

Usable = Callable[[Server], bool]


def lowest_prio(servers: Sequence[Server], usable: Usable) -> Server | None:
    """The lowest prio; ties to the lowest number."""
    return min(filter(usable, servers), key=lambda server: server.prio, default=None)


def least_weighted(servers: Sequence[Server], usable: Usable) -> Server | None:
    """pen's weight: the least 256 * sessions / weight, ties to the lowest number; weight 0 is never chosen."""
    weighted = (server for server in servers if server.weight and usable(server))
    return min(weighted, key=lambda server: 256 * server.sessions // server.weight, default=None)


def least_connections(servers: Sequence[Server], usable: Usable, cursor: int) -> Server | None:
    """The fewest sessions by weight, counting the one that comes; ties go round from the server chosen last."""
    weighted = (server for server in ring(servers, cursor) if server.weight and usable(server))
    return min(weighted, key=_load, default=None)


def best_of_two(servers: Sequence[Server], usable: Usable, rng: random.Random) -> Server | None:
    """Two random servers, and the less loaded of them: near the best choice without looking at all
    (Mitzenmacher, The Power of Two Choices, 2001)."""
    candidates = [server for server in servers if server.weight and usable(server)]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    return min(rng.sample(candidates, 2), key=_load)


def rendezvous(servers: Sequence[Server], usable: Usable, key: str) -> Server | None:
    """The highest hash of client and server together: a server that comes or goes moves only its own clients
    (Thaler and Ravishankar, 1998)."""
    return max(filter(usable, servers), key=lambda server: _score(key, str(server.address)), default=None)


def round_robin(servers: Sequence[Server], usable: Usable, cursor: int) -> Server | None:
    """The next usable one behind the number that was chosen last; so a full server's share goes to all others."""
    for server in ring(servers, cursor):
        if usable(server):
            return server
    return None


def ring(servers: Sequence[Server], cursor: int) -> list[Server]:
    """All servers in their order, beginning behind the number ``cursor``."""
    start = next((i for i, server in enumerate(servers) if (server.number or 0) > cursor), 0)
    return [*servers[start:], *servers[:start]]


def _load(server: Server) -> float:
    return (server.sessions + 1) / server.weight


def _score(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}|{name}".encode(), digest_size=8).digest()
