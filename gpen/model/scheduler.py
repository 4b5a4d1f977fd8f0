"""The rules that choose a server for a new client: one row of RULES each.

A row is all there is to a rule: settings, ``mode``, ``explain``, the status page, help, man pages and completion read
it. Its ``pick`` changes nothing, so that ``explain`` can ask it as well; what a choice moves on is in Turns, which is
the listener's own, and only ``advance`` changes it, once the choice counts.

Idle servers are a tie, and ties go round in proportion to weight: each choice of a server adds 1 / weight to its
share, and the smallest share is next (start-time fair queueing: Goyal, Vin and Cheng, 1996). Nobody saves up a
share: one that was away, or is new, goes on where the others are, so that it gets no burst.
"""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gpen.model.address import digest
from gpen.model.server import Member

if TYPE_CHECKING:
    from gpen.model.slowstart import Returns

Usable = Callable[[Member], bool]
_number: Callable[[Member], Any] = attrgetter("number")
_ALL_BITS, _FIRST, _SECOND = 2**64 - 1, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Turns:
    """Whose turn it is: ``last`` is the number that round robin chose last, ``shares`` are those of the servers by
    their numbers, and ``share`` is the one that the last tie began with. For slow starts, ``choices`` is how many there
    were, and ``returns`` knows who has come back."""

    __slots__ = ("choices", "last", "random", "returns", "share", "shares")

    def __init__(self, returns: Returns | None = None) -> None:
        self.returns = returns
        self.choices = 0
        self.last = -1
        self.share = 0.0
        self.shares: dict[int, float] = {}
        self.random = random.Random()

    def share_of(self, member: Member) -> float:
        """The share of a server: not less than where the others are."""
        return max(self.shares.get(member.number, 0.0), self.share)


Pick = Callable[[Sequence[Member], Usable, Turns, str], Member | None]


def lowest_prio(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """The lowest prio; ties to the lowest number."""
    return _least(members, usable, lambda member: member.prio)


def least_weighted(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """pen's weight: the least 256 * sessions / weight; ties to the lowest number."""
    return _least(_weighty(members), usable, lambda member: 256 * member.server.load // member.weight)


def least_connections(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """The fewest sessions by weight; ties go round."""
    best, least, share = None, math.inf, math.inf
    for member in members:
        if not member.weight:
            continue
        server = member.server
        load = (server.sessions - server.beside) / member.weight
        if load > least:
            continue
        its = turns.share_of(member)
        if (load < least or its < share) and usable(member):
            best, least, share = member, load, its
    return best


def best_of_two(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """Two servers drawn by weight, and the less loaded of them: near the best choice without looking at all
    (Mitzenmacher, The Power of Two Choices, 2001). Ties go round."""
    candidates = [member for member in members if member.weight and usable(member)]
    if len(candidates) > 2:
        candidates = _two_of(candidates, turns.random)
    return least_connections(candidates, lambda member: True, turns, key)


def _two_of(members: Sequence[Member], dice: random.Random) -> list[Member]:
    """Two servers, drawn by weight without putting the first one back, in their order. What is left of a weight need be
    no whole number, and then sums are rounded: a point that lies just beyond the last server is that one's."""
    ends = list(accumulate(member.weight for member in members))
    first = bisect_right(ends, dice.random() * ends[-1])
    weight = members[first].weight
    point = dice.random() * (ends[-1] - weight)
    second = min(bisect_right(ends, point if point < ends[first] - weight else point + weight), len(members) - 1)
    return [members[index] for index in sorted((first, second))]


def rendezvous(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """The highest hash of client and server together: a server that comes or goes moves only its own clients
    (Thaler and Ravishankar, 1998)."""
    return max(filter(usable, members), key=lambda member: _score(key, str(member.server.address)), default=None)


def weighted_rendezvous(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """The least -log(u) / weight, where u, from 0 to 1, is a hash of client and server together: each server is
    best for a share of the clients that is in proportion to its weight (rendezvous hashing by Thaler and Ravishankar,
    1998; the logarithm, which weighs, by Schindelhauer and Schomaker, 2005).

    A server is known by where it is (``Target.digest``), whatever it is called and in whatever order they stand here.
    All gpens, of whatever version, must choose alike, so what is hashed and how is never changed. u comes of the two
    digests by SplitMix64's last step (Steele, Lea and Flood, 2014): to mix 64 bits of both takes a few instructions,
    where a digest of both would cost 1 us a server.
    """
    client, best, least = digest(key.encode()), None, math.inf
    for member in members:
        weight, target = member.weight, member.target
        if not weight or not target.endpoints:
            continue
        bits = client ^ target.digest
        bits = ((bits ^ (bits >> 30)) * _FIRST) & _ALL_BITS
        bits = ((bits ^ (bits >> 27)) * _SECOND) & _ALL_BITS
        u = (((bits ^ (bits >> 31)) >> 11) + 0.5) / 2.0**53
        if (1.0 - u) / weight >= least:  # -log(u) is not less than that: for most, a logarithm is spared
            continue
        score = -math.log(u) / weight
        if score < least and usable(member):
            best, least = member, score
    return best


def round_robin(members: Sequence[Member], usable: Usable, turns: Turns, key: str) -> Member | None:
    """The next usable one behind the number that was chosen last; so a full server's share goes to all others."""
    start = turns.last + 1  # most often
    if start and (start > len(members) or members[start - 1].number != turns.last):  # there is a gap in the numbers
        start = bisect_right(members, turns.last, key=_number)
    for index in range(start - len(members), start):  # a negative one counts from the end
        member = members[index]
        if usable(member):
            return member
    return None


def _stay(turns: Turns, member: Member) -> None:
    """This rule has no turns."""


def _equal(member: Member) -> int:
    """None is better than the others."""
    return 0


def _place(member: Member) -> tuple[int, int]:
    """By prio, and then by the number."""
    return member.prio, member.number


def _load(member: Member) -> float:
    """How many sessions a server has for its weight."""
    return member.server.load / member.weight


def _next_number(turns: Turns, member: Member) -> None:
    turns.last = member.number


def _next_share(turns: Turns, member: Member) -> None:
    turns.share = turns.share_of(member)
    turns.shares[member.number] = turns.share + 1 / member.weight


@dataclass(frozen=True)
class Rule:
    """One rule. ``name`` is its setting, a flag, and what it is called; ``flag`` its option of pen's command line.

    ``rank``: of servers that can take a client, one with the least gets it. ``is_exclusive``: that is always the same
    one. ``weighs``: a server of weight 0 is never chosen. ``is_personal``: the choice is the client's own server, be
    that well or not; a stubborn pool closes the client where it is not. ``remembers``: a client goes back to the server
    that it used last, as far as roundrobin lets it, before the rule is asked.
    """

    name: str
    help: str
    pick: Pick
    advance: Callable[[Turns, Member], None] = _stay
    flag: str = ""
    rank: Callable[[Member], Any] = _equal
    is_exclusive: bool = False
    weighs: bool = False
    is_personal: bool = False
    remembers: bool = True

    @property
    def seeks_least(self) -> bool:
        """Whether it compares servers, and does not just take the next one."""
        return self.rank is not _equal


# in the order in which one that is on goes before the others
RULES = (
    Rule("prio", "Choose the server with the lowest prio among those that are available.", lowest_prio,
         rank=_place, is_exclusive=True),
    Rule("weight", "Choose the server with the fewest sessions in proportion to its weight, pen's way: ties go to the "
         "lowest number. 0 is never chosen.", least_weighted, flag="-W", rank=_load, weighs=True),
    Rule("leastconn", "Choose the server with the fewest sessions by weight; ties, such as idle servers, go round in "
         "proportion to weight.", least_connections, _next_share, rank=_load, weighs=True),
    Rule("random", "Draw two servers by weight and choose the better one, with fewer sessions by weight; ties go "
         "round in proportion to weight.", best_of_two, _next_share, rank=_load, weighs=True),
    Rule("stateless", "Choose by a hash of the client's address and of where each server is (its IP address and port), "
         "in proportion to weight, and remember nothing: all gpens that have the same servers, with the same weights, "
         "choose the same for a client, whatever the order and the names in which they list them. Another server is "
         "chosen only while that one can't take the client; one that comes or goes moves only its own clients. "
         "tracking and hard have no effect then, and roundrobin changes nothing. A weight of 0 is never chosen.",
         weighted_rendezvous, weighs=True, is_personal=True, remembers=False),
    Rule("hash", "A new client's server is chosen by a hash of its address (with roundrobin: address and port).",
         rendezvous, flag="-h", is_personal=True),
)
ROUND_ROBIN = Rule("round robin", "The next one in turn: what holds while no other rule is on.", round_robin,
                   _next_number)


def _least(members: Sequence[Member], usable: Usable, key: Callable[[Member], Any]) -> Member | None:
    """The usable server with the least key, the first of equals. Whether a server is usable, which costs more than its
    key, is asked of those only that are better than the best so far."""
    best, least = None, None
    for member in members:
        value = key(member)
        if (best is None or value < least) and usable(member):
            best, least = member, value
    return best


def _weighty(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.weight]


def _score(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}|{name}".encode(), digest_size=8).digest()
