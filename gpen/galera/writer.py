"""Which node gets the writes, and who would be next. Pure; time in seconds is handed in.

The writer stays as long as it can: another one takes over only when it fails, when the operator moves it, or, with
failback, when one that the operator prefers has been well for STEADY seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from gpen.galera.plan import Row, is_full, node_of, nodes_of

STEADY = 5.0  # seconds
CUT_OFF = 3.0  # seconds
NEWS = 5.0  # seconds for which the last word of a gpen counts that is not heard any more


class Writer:
    """The choice of a writer among nodes by their addresses."""

    def __init__(self, prefer: Sequence[str] = (), failback: bool = False) -> None:
        """``prefer``: the operator's order; nodes that it does not name come after, by wsrep_local_index."""
        self.current: str | None = None
        self._prefer = list(prefer)
        self._failback = failback
        self.pinned = False  # the operator moved it here, so there is no failback from it
        self._steady_since: tuple[str, float] | None = None

    def order(self, indexes: Mapping[str, int], usable: Collection[str]) -> list[str]:
        """Nodes in the order of succession, the usable before the others; ``indexes``: wsrep_local_index of all."""
        return sorted(indexes, key=lambda node: (node not in usable, self._preference(node), indexes[node], node))

    def choose(self, order: Sequence[str], usable: Collection[str], now: float) -> str | None:
        """The node that is to be the writer. None: the writer of now stays, or there is none to be had."""
        candidates = [node for node in order if node in usable]
        if not candidates:
            return None
        if self.current not in usable:
            return candidates[0]
        return candidates[0] if self._falls_back(candidates[0], now) else None

    def set(self, node: str, pinned: bool = False) -> None:
        """This one is the writer from now on; ``pinned``: because the operator said so."""
        if node != self.current:
            self.pinned = False
        self.current = node
        self.pinned = self.pinned or pinned
        self._steady_since = None

    def _preference(self, node: str) -> int:
        return self._prefer.index(node) if node in self._prefer else len(self._prefer)

    def _falls_back(self, best: str, now: float) -> bool:
        """Whether a node that is preferred to the writer has been there for long enough."""
        assert self.current is not None
        wanted = self._failback and not self.pinned and self._preference(best) < self._preference(self.current)
        if not wanted:
            self._steady_since = None
            return False
        if self._steady_since is None or self._steady_since[0] != best:
            self._steady_since = (best, now)
        return now - self._steady_since[1] >= STEADY


class Reachability:
    """What the gpens' own view of their servers says against a node as the writer."""

    def __init__(self) -> None:
        self._failing: dict[tuple[str, str], float] = {}  # gpen and node: since when
        self._seen: dict[str, float] = {}  # gpen: when its servers were seen last
        self._blamed: dict[str, tuple[str, int]] = {}  # gpen: what it did not reach, and the bytes that it had by then

    def saw(self, gpen: str, rows: Collection[Row], now: float) -> None:
        """The servers of a gpen that goes with the writer. One that fails there for CUT_OFF seconds, although its
        verdict is good, can't be reached from there; but when all such servers fail, it is the gpen that is cut off.
        A node that is full is reached."""
        well = [(node, row) for row in rows if row.get("verdict") == "up" and (node := node_of(row))]
        failing = {node for node, row in well if row["health"] != "up" and not is_full(row)}
        if len(failing) == len({node for node, _ in well}) > 1:
            failing = set()
        self._seen[gpen] = now
        for key in [key for key in self._failing if key[0] == gpen and key[1] not in failing]:
            del self._failing[key]
        received = sum(row.get("rx", 0) for row in rows)
        for node in failing:
            if now - self._failing.setdefault((gpen, node), now) >= CUT_OFF:
                self._blame(gpen, node, received)

    def _blame(self, gpen: str, node: str, received: int) -> None:
        """A gpen that leaves one node, and has heard nothing from any other since, is cut off itself: the others of its
        servers, which are held down, can't tell."""
        before = self._blamed.get(gpen)
        if before is None or node == before[0] or received != before[1]:
            self._blamed[gpen] = node, received

    def cut_off(self, now: float) -> set[str]:
        """The nodes that some gpen has not reached for CUT_OFF seconds, as far as it told so itself, and lately."""
        return {node for (gpen, node), since in self._failing.items()
                if self._seen[gpen] - since >= CUT_OFF and now - self._seen[gpen] < NEWS
                and self._blamed[gpen][0] == node}


def withdrawn(rows: Iterable[Row]) -> set[str]:
    """The nodes that the operator of a gpen has set to drain or maint: new connections go elsewhere already."""
    return {node for row in rows if (node := node_of(row)) and row["state"] != "ready"}


def draining(rows: Iterable[Row]) -> set[str]:
    """The nodes whose sessions the operator lets end by themselves."""
    return {node for row in rows if (node := node_of(row)) and row["state"] == "drain"}


def common(servers: Iterable[Iterable[Row]]) -> set[str]:
    """The nodes that all of these gpens have: only they can be the writer of all."""
    nodes = [nodes_of(rows) for rows in servers]
    return set.intersection(*nodes) if nodes else set()
