"""What silence says of a server of UDP where replies are due (udp_replies): the one place of the rule.

Anybody can send what no server answers, such as garbage, or a response instead of a query, from as many ports as there
are. So:

1. A flow that gets no reply counts against the address that it asked only if nobody has had a reply from there since it
   asked.
2. After udp_unanswered such flows in a row the server's next address is used. When none is left, the server is
   blacklisted:
3. but only while another server that answers could take its clients. Where there is none, it goes on serving, those
   whom silence has blacklisted come back, and all begin anew. So the last server that answers anybody is never
   blacklisted for silence; and where none answers, each has its turn. Nor is a client turned away for it later on: when
   no other can serve, those whom silence has blacklisted do (``Pool.choose``).
4. Whoever replies, to whomever, is blacklisted for silence no more (``Lease.connected``).

A server that hangs is noticed as long as clients ask it, for nobody has a reply from there. How its clients leave it:
their flows end udp_timeout after what they asked first, and their next ones go to another server; where it goes on
serving, they are remembered there no more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpen.model.address import Endpoint

if TYPE_CHECKING:
    from gpen.model.lease import Lease
    from gpen.model.selector import Selector
    from gpen.model.server import Target


class Silence:
    """How one address of a server answers. Times are the clock's, in seconds."""

    __slots__ = ("_asked", "_counted", "_flows", "endpoint", "excused", "told")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.excused = 0.0  # what was asked until then says nothing: there was a reply since, or all began anew
        self.told = -math.inf  # when it was told last that it is silent, and stays
        self._flows = 0  # in a row that got no reply, and count
        self._asked = 0.0  # when the first of them asked
        self._counted = 0.0  # when the last of them was counted

    @property
    def flows(self) -> int:
        """How many flows in a row have got no reply, and count."""
        return self._flows if self._asked > self.excused else 0

    def count(self, asked: float, now: float, patience: float) -> bool:
        """A flow that asked then ends without a reply: whether it counts. If it had to give way to another, it may have
        waited for too short a time to say anything, but many have waited one after the other: one counts in
        ``patience`` seconds."""
        if asked <= self.excused:
            return False
        if self._asked <= self.excused:
            self._flows, self._asked, self._counted = 0, asked, asked
        if now - min(self._counted, asked) < patience:
            return False
        self._flows += 1
        self._counted = now
        return True


def hold_against(selector: Selector, lease: Lease, silence: Silence, asked: float, now: float,
                 patience: float) -> bool:
    """A flow that had this place, and asked there at ``asked``, ends without a reply. Returns whether its client should
    be free to go elsewhere, though the server goes on serving.

    What is blacklisted already, or has moved, is not blamed again; on trial, one flow decides.
    """
    target, limit, pool = lease.target, selector.settings.udp_unanswered, selector.pool
    is_here, is_trial = target.silences.get(silence.endpoint) is silence, target.trial is lease
    if not limit or not is_here or (target.down_until and not is_trial) or lease.is_outdated:
        return False
    if not silence.count(asked, now, patience) or (silence.flows < limit and not is_trial):
        return False
    flows = sum(target.silence_at(other).flows for other in target.endpoints)
    cause = f"{flows} {'flow' if flows == 1 else 'flows'} in a row unanswered"
    best = min((*target.endpoints[1:], *target.endpoints[:1]), key=lambda other: target.silence_at(other).flows)
    pool.prefer(target, best)
    if target.silence_at(best).flows < limit and not is_trial:
        pool.events.tell(target.server, "silent", f"{cause} at {silence.endpoint}; {best} is used from now on")
    elif target.server.is_special or selector.has_substitute(lease.member):
        target.excuse(now)
        pool.health.blame(target, cause, is_silent=True)
    else:
        _begin_anew(selector, target, silence, cause, now)
        return True
    return False


def _begin_anew(selector: Selector, target: Target, silence: Silence, cause: str, now: float) -> None:
    pool = selector.pool
    if now - silence.told >= pool.settings.blacklist:  # else whoever sends garbage could fill the list of events
        silence.told = now
        pool.events.tell(target.server, "silent",
                         f"{cause}; it stays, for no other server that answers can take its clients")
    for other in (member.target for member in selector.all_members()):
        if other.is_silent:
            pool.health.restore(other, "no other server answers")
        other.excuse(now)
    pool.health.on_unwell(target.server)
