"""The rules that choose a server for a new client: one row of RULES each.

A row is all there is to a rule: settings, ``mode``, ``explain``, the status page, help, man pages and completion read
it. Its ``pick`` changes nothing, so that ``explain`` can ask it as well; what a choice moves on is in Turns and in the
server, and only ``advance`` changes it, once the choice counts.

Idle servers are a tie, and ties go round in proportion to weight: each choice of a server adds 1 / weight to its
``share``, and the smallest share is next (start-time fair queueing: Goyal, Vin and Cheng, 1996). Nobody saves up a
share: one that was away, or is new, goes on where the others are, so that it gets no burst.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

from gpen.model.server import Server

Usable = Callable[[Server], bool]
_number: Callable[[Server], Any] = attrgetter("number")


class Turns:
    """Whose turn it is: ``last`` is the number that round robin chose last, ``share`` the share that the last tie began
    with."""

    __slots__ = ("last", "random", "share")

    def __init__(self) -> None:
        self.last = -1
        self.share = 0.0
        self.random = random.Random()


Pick = Callable[[Sequence[Server], Usable, Turns, str], Server | None]


def lowest_prio(servers: Sequence[Server], usable: Usable, turns: Turns, key: str) -> Server | None:
    """The lowest prio; ties to the lowest number."""
    return _least(servers, usable, lambda server: server.prio)


def least_weighted(servers: Sequence[Server], usable: Usable, turns: Turns, key: str) -> Server | None:
    """pen's weight: the least 256 * sessions / weight; ties to the lowest number."""
    return _least(_weighty(servers), usable, lambda server: 256 * (server.sessions - server.beside) // server.weight)


def least_connections(servers: Sequence[Server], usable: Usable, turns: Turns, key: str) -> Server | None:
    """The fewest sessions by weight; ties go round."""
    return _least(_weighty(servers), usable, _load(turns))


def best_of_two(servers: Sequence[Server], usable: Usable, turns: Turns, key: str) -> Server | None:
    """Two servers drawn by weight, and the less loaded of them: near the best choice without looking at all
    (Mitzenmacher, The Power of Two Choices, 2001). Ties go round."""
    candidates = [server for server in servers if server.weight and usable(server)]
    if len(candidates) > 2:
        candidates = _two_of(candidates, turns.random)
    return min(candidates, key=_load(turns), default=None)


def _two_of(servers: Sequence[Server], dice: random.Random) -> list[Server]:
    """Two servers, drawn by weight without putting the first one back, in their order."""
    ends = list(accumulate(server.weight for server in servers))
    first = bisect_right(ends, int(dice.random() * ends[-1]))
    weight = servers[first].weight
    point = int(dice.random() * (ends[-1] - weight))
    second = bisect_right(ends, point if point < ends[first] - weight else point + weight)
    return [servers[index] for index in sorted((first, second))]


def _load(turns: Turns) -> Callable[[Server], tuple[float, float]]:
    """A server's sessions by weight, then its share."""
    begun = turns.share
    return lambda server: ((server.sessions - server.beside) / server.weight, max(server.share, begun))


def rendezvous(servers: Sequence[Server], usable: Usable, turns: Turns, key: str) -> Server | None:
    """The highest hash of client and server together: a server that comes or goes moves only its own clients
    (Thaler and Ravishankar, 1998)."""
    return max(filter(usable, servers), key=lambda server: _score(key, str(server.address)), default=None)


def round_robin(servers: Sequence[Server], usable: Usable, turns: Turns, key: str) -> Server | None:
    """The next usable one behind the number that was chosen last; so a full server's share goes to all others."""
    start = bisect_right(servers, turns.last, key=_number)
    for server in chain(servers[start:], servers[:start]):
        if usable(server):
            return server
    return None


def _stay(turns: Turns, server: Server) -> None:
    """This rule has no turns."""


def _next_number(turns: Turns, server: Server) -> None:
    turns.last = _number(server)


def _next_share(turns: Turns, server: Server) -> None:
    turns.share = max(turns.share, server.share)
    server.share = turns.share + 1 / server.weight


@dataclass(frozen=True)
class Rule:
    """One rule. ``name`` is its setting, a flag, and what it is called; ``flag`` its option of pen's command line.

    ``weighs``: a server of weight 0 is never chosen. ``is_personal``: the choice is the client's own server, be that
    well or not; a stubborn pool closes the client where it is not.
    """

    name: str
    help: str
    pick: Pick
    advance: Callable[[Turns, Server], None] = _stay
    flag: str = ""
    weighs: bool = False
    is_personal: bool = False


# in the order in which one that is on goes before the others
RULES = (
    Rule("prio", "Choose the server with the lowest prio among those that are available.", lowest_prio),
    Rule("weight", "Choose the server with the fewest sessions in proportion to its weight, pen's way: ties go to the "
         "lowest number. 0 is never chosen.", least_weighted, flag="-W", weighs=True),
    Rule("leastconn", "Choose the server with the fewest sessions by weight; ties, such as idle servers, go round in "
         "proportion to weight.", least_connections, _next_share, weighs=True),
    Rule("random", "Draw two servers by weight and choose the better one, with fewer sessions by weight; ties go "
         "round in proportion to weight.", best_of_two, _next_share, weighs=True),
    Rule("hash", "A new client's server is chosen by a hash of its address (with roundrobin: address and port).",
         rendezvous, flag="-h", is_personal=True),
)
ROUND_ROBIN = Rule("round robin", "The next one in turn: what holds while no other rule is on.", round_robin,
                   _next_number)


def _least(servers: Sequence[Server], usable: Usable, key: Callable[[Server], Any]) -> Server | None:
    """The usable server with the least key, the first of equals. Whether a server is usable, which costs more than its
    key, is asked of those only that are better than the best so far."""
    best, least = None, None
    for server in servers:
        value = key(server)
        if (best is None or value < least) and usable(server):
            best, least = server, value
    return best


def _weighty(servers: Sequence[Server]) -> list[Server]:
    return [server for server in servers if server.weight]


def _score(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}|{name}".encode(), digest_size=8).digest()
