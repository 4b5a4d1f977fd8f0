"""What the watcher does for `gpen-galera status`, `move` and `adopt`, in its own thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gpen.console import Answer
from gpen.galera.plan import front
from gpen.galera.status import status
from gpen.galera.watch import Watcher

MOVE_TIME = 15.0  # seconds

Reply = Callable[[Answer], None]


@dataclass(frozen=True)
class _Move:
    target: str
    deadline: float
    reply: Reply


class Requests:
    """Answers the console's lines; `take` may be called from any thread."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._moves: list[_Move] = []
        watcher.after_pass = self._finish_moves

    def take(self, line: str, reply: Reply) -> None:
        self._watcher.post(partial(self._reply, line, reply))

    def _reply(self, line: str, reply: Reply) -> None:
        try:
            self._answer(line, reply)
        except Exception:
            reply({"error": "the watcher failed at that; its log says how"})
            raise

    def _answer(self, line: str, reply: Reply) -> None:
        command, _, argument = line.partition(" ")
        if command == "status":
            reply(status(self._watcher, time.monotonic()))
        elif command == "move" and argument:
            self._begin_move(argument, reply)
        elif command == "adopt" and argument:
            reply(self._adopt(argument))
        else:
            reply({"error": f"'{line}' is no request: expected status, move NODE or adopt UUID"})

    def _adopt(self, text: str) -> Answer:
        """Follow the cluster whose UUID begins so."""
        cluster = self._watcher.cluster
        clusters = cluster.clusters()
        found = [uuid for uuid in clusters if uuid.startswith(text)]
        if len(found) != 1:
            what = "could be several clusters" if found else "is no cluster that a node is in now"
            return {"error": f"'{text}' {what}: expected one of {', '.join(sorted(clusters)) or 'none'}"}
        self._watcher.adopt(found[0])
        nodes = ", ".join(map(self._watcher.label, sorted(clusters[found[0]])))
        return {"done": f"cluster {found[0]} is followed: {nodes}"}

    def _begin_move(self, name: str, reply: Reply) -> None:
        watcher, now = self._watcher, time.monotonic()
        try:
            target = self._find(name)
            self._refuse_unfit(target, now)
        except ValueError as error:
            reply({"error": str(error)})
            return
        self._moves.append(_Move(target, now + MOVE_TIME, reply))
        if target != watcher.election.current:
            watcher.election.move(target)

    def _find(self, name: str) -> str:
        """The node with this address or name, or with the only one that begins so. Raises ValueError."""
        cluster = self._watcher.cluster
        names = {node: (node, cluster.name(node)) for node in cluster.nodes}
        found = [node for node, known in names.items() if name in known] or [
            node for node, known in names.items() if any(word.startswith(name) for word in known)]
        if len(found) != 1:
            what = "could be several nodes" if found else "is no node"
            raise ValueError(f"'{name}' {what}: expected one of {', '.join(map(self._watcher.label, names)) or 'none'}")
        return found[0]

    def _refuse_unfit(self, target: str, now: float) -> None:
        """Raises ValueError, which says why a node can't be the writer."""
        watcher = self._watcher
        label, verdict = watcher.label(target), watcher.cluster.verdict(target)
        if not watcher.writer_gpens():
            raise ValueError("there is no writer to move: no gpen that gets the writes has answered")
        scene = watcher.scene(now)
        absence = watcher.election.absence(scene)
        if absence and (watcher.is_namesake or watcher.complaint):  # else it will be there in a moment
            why = f"{absence}: {watcher.complaint}" if watcher.complaint else absence
            raise ValueError(f"{label} can't be the writer: this watcher takes no part in the agreement: {why}")
        if target in watcher.cluster.blind():
            raise ValueError(f"{label} can't be the writer: this watcher is blind to it: "
                             f"{watcher.cluster.problem(target)}")
        if verdict is None or not verdict.usable:
            reason = verdict.reason if verdict else watcher.cluster.problem(target) or "not asked yet"
            raise ValueError(f"{label} can't be the writer: {reason}")
        lacking = watcher.without(target, now)
        if lacking:
            raise ValueError(f"{label} can't be the writer: it is no server of {', '.join(lacking)}, and the writer is "
                             "one that all gpens that get the writes have")
        if target not in scene.candidates:
            raise ValueError(f"{label} can't be the writer: a gpen has it in state drain or maint, or does not "
                             "reach it")
        if not scene.quorate:
            raise ValueError("this watcher does not hear from most of the nodes, so it does not move the writer")

    def _finish_moves(self) -> None:
        """Answer the moves that are done, or can't be any more."""
        for move in list(self._moves):
            answer = self._outcome(move, time.monotonic())
            if answer is not None:
                self._moves.remove(move)
                move.reply(answer)

    def _outcome(self, move: _Move, now: float) -> Answer | None:
        watcher = self._watcher
        label = watcher.label(move.target)
        behind = [gpen.name for gpen in watcher.writer_gpens() if not gpen.silent and front(gpen.rows) != move.target]
        if watcher.election.current == move.target and not behind and now >= watcher.election.opens_at:
            silent = [gpen.name for gpen in watcher.writer_gpens() if gpen.silent]
            return {"done": f"{label} is the writer" + (f"; not told: {', '.join(silent)}" if silent else "")}
        refusal = watcher.election.refusal or (watcher.election.trouble if watcher.is_namesake else "")
        if now < move.deadline and not refusal:
            return None
        if watcher.election.current == move.target:
            refusal = f"not followed by {', '.join(behind)}"
        if refusal.startswith("not confirmed") and watcher.ledger is not None:
            refusal += f" (if one is gone for good: {watcher.ledger.removal('NAME')})"
        return {"error": f"{label} did not become the writer: "
                         f"{refusal or watcher.trouble or f'no outcome within {MOVE_TIME:g} s'}"}
