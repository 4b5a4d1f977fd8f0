"""Whose row it is: two watchers with one name (cloned machines) would confirm for each other. Pure; time in seconds is
handed in.

Each process draws an ``instance`` at random and writes it to the row of its name. It takes part when it has read itself
there for a while. Who takes part already and finds another one puts itself back, and so the newcomer learns that the
name is taken: it takes no part, and says so. One that did not run for a while may have been given up, and gives way.
"""

from __future__ import annotations

from gpen.galera.report import Claim

DISPUTES = 3  # that are answered by putting oneself back; then one of the two gives way


class Identity:
    """This process among all that have its name. `stands`: the row is its own; `clash`: it is another living one's."""

    def __init__(self, instance: str, patience: float) -> None:
        """``patience``: seconds in which a living watcher notices that somebody has taken its row."""
        self.stands = False
        self.clash = False
        self._instance = instance
        self._patience = patience
        self._since: float | None = None  # since when it has read itself there
        self._number = 0  # of its own newest claim that was read
        self._yields = True
        self._disputes = 0
        self._vacant = True

    @property
    def wants_claim(self) -> bool:
        """Whether to write itself to the row (again)."""
        return self._vacant and not self.clash

    def woke(self) -> None:
        """This process did not run for a while."""
        self._yields = True

    def saw(self, claim: Claim, now: float) -> None:
        """The newest claim to the row, as far as the nodes know."""
        self._vacant = claim.instance != self._instance
        if not self._vacant:
            self._hold(claim, now)
        elif not claim.instance:
            self.clash = False
        else:
            self._meet(claim)

    def _hold(self, claim: Claim, now: float) -> None:
        self._since = now if self._since is None else self._since
        self._number = claim.number
        if now - self._since >= self._patience:
            self.stands, self.clash, self._yields = True, False, False
        if now - self._since >= self._patience * DISPUTES:
            self._disputes = 0

    def _meet(self, claim: Claim) -> None:
        """Somebody else is in the row: a newcomer, a predecessor that was killed, or one that was there before."""
        began, self._since = self._since, None
        if self.stands and not self._yields:
            self._disputes += began is not None
            gives_way = self._disputes > DISPUTES and self._instance < claim.instance
        else:  # a number that is lower is read from a node that lags, or the predecessor's
            gives_way = self.stands or claim.number > self._number > 0
        if gives_way:
            self.stands, self.clash = False, True
