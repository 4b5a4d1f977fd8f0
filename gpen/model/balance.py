"""How the sessions of a listener should be spread over its servers: which part of them each should have."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from gpen.model.selector import Selector
from gpen.model.server import Member, Server
from gpen.model.slowstart import fraction


def shares(selector: Selector, counts: Mapping[Server, int], total: float) -> dict[Server, float]:
    """Of so many sessions in all, how many each server should have that may keep sessions, where each has so many now
    (``counts``); by what the rule goes by, without limits being passed. Those in a slow start have grown so far.

    Servers that get no clients now for their state or health are not among them, and no more is the abuse server:
    what becomes of their sessions is said elsewhere. The emergency server has what no other has room for. Empty where
    no server can take anybody.
    """
    weights = _weights(selector)
    if not any(weights.values()):
        return {}
    rooms = {server: _room(selector, member, counts.get(server, 0)) for server, member in _usable(selector).items()}
    emergency = selector.emergency
    if emergency is None:
        return _filled(weights, rooms, total)
    rest = max(total - sum(rooms[server] for server, weight in weights.items() if weight), 0)
    return {**_filled(weights, rooms, total - rest), emergency.server: rest}


def _usable(selector: Selector) -> dict[Server, Member]:
    """The servers that may get clients, full or not."""
    return {member.server: member for member in selector.roster.members
            if member.target.takes_clients and member.target.endpoints}


def _weights(selector: Selector) -> dict[Server, float]:
    """What the rule goes by; 0 for those to whom it sends nobody."""
    rule, seconds, now = selector.rule, selector.settings.slowstart, selector.pool.now()
    members = _usable(selector)
    if rule.is_exclusive:
        best = min(members.values(), key=rule.rank, default=None)
        return {server: float(member is best) for server, member in members.items()}
    return {server: fraction(member.target, seconds, now) * (member.weight if rule.weighs else 1)
            for server, member in members.items()}


def _room(selector: Selector, member: Member, count: int) -> float:
    """How many of these sessions a server can have, of which it has so many now: others are counted as well, by its own
    max those of all listeners, by that of the listener those of its routes."""
    limits = ((member.max, selector.load_of(member)), (member.server.max, member.server.load))
    return min((max(most - max(load - count, 0), 0) for most, load in limits if most), default=inf)


def _filled(weights: Mapping[Server, float], rooms: Mapping[Server, float], total: float) -> dict[Server, float]:
    """So many by weight; what one has no room for is the others', and what none has room for is all's."""
    found: dict[Server, float] = {}
    left = dict(weights)
    while left:
        rest, whole = total - sum(found.values()), sum(left.values())
        if not whole:
            return found | dict.fromkeys(left, 0.0)
        fair = {server: rest * weight / whole for server, weight in left.items()}
        full = [server for server in left if fair[server] > rooms[server]]
        if not full:
            return found | fair
        for server in full:
            found[server] = rooms[server]
            del left[server]
    rest, whole = total - sum(found.values()), sum(weights.values())
    return {server: count + rest * weights[server] / whole for server, count in found.items()}


def landing(selector: Selector, counts: Mapping[Server, int], share: Mapping[Server, float]) -> float:
    """Which part of the clients that come goes to servers that have less than their share: all, where the rule looks
    for the one that has least; else as many as these are."""
    under = sum(counts.get(server, 0) < int(count) for server, count in share.items())
    return 1.0 if selector.rule.seeks_least or not under else under / len(share)
