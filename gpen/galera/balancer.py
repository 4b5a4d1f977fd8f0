"""One gpen, told by a thread of its own; so that one that hangs delays no other.

A round is one connection to the control socket: the plan's commands, and at least every second a look at the servers.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence

from gpen.ctl.link import LinkError, Target, ask
from gpen.galera.log import say
from gpen.galera.plan import Herald, Plan, Row

TIMEOUT = 2.0  # seconds that a gpen may take to answer
LOOK = 1.0  # seconds between two looks at the servers
TTL = 5  # seconds that verdicts last where they must not outlive the watchers
REFUSALS = ("error:", "do_cmd:")  # gpen's, and pen's

Tell = Callable[["Balancer", "Sequence[Row] | str"], None]


class Balancer:
    """Brings plans to the gpen at ``target``, and tells what its servers are, or why it can't be reached (from its own
    thread)."""

    def __init__(self, target: Target, is_writer: bool, tell: Tell, needs_ttl: bool = False) -> None:
        """``needs_ttl``: its verdicts must not outlive the watchers (`health_ttl`)."""
        self.target = target
        self.is_writer = is_writer
        self._tell = tell
        self._needs_ttl = needs_ttl
        self._herald = Herald()
        self._met = False
        self.told = 0  # the newest choice of the writer that it has carried out
        self.absent = False  # nobody listens at its control socket, so there is no such gpen
        self._wanted: tuple[Plan, Sequence[str], int] = ({}, (), 0)
        self._told: Plan = {}
        self._rows: Sequence[Row] = ()
        self._look_at = 0.0
        self._mending: list[str] = []
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"gpen {target.text}", daemon=True)

    @property
    def name(self) -> str:
        return self.target.text

    def start(self) -> None:
        self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Say nothing more; what the gpen knows it keeps."""
        self._stopping = True
        self._wake.set()

    def want(self, plan: Plan, others: Sequence[str] = (), version: int = 0) -> None:
        """Bring this plan to the gpen now, and these commands before it. ``version``: of the choice that it follows."""
        self._wanted = plan, others, version
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopping:
                return
            self._tell(self, self._round(*self._wanted))

    def _round(self, plan: Plan, others: Sequence[str], version: int) -> Sequence[Row] | str:
        """Tell the gpen the plan. Returns its servers as they were seen last, or what is wrong."""
        if plan and self._rows and not self._met:
            self._herald.meet(plan, self._rows)
            self._met = True
        commands = [*self._mending, *others, *self._herald.commands(plan, self._rows)]
        looking = bool(self._mending or others) or plan != self._told or time.monotonic() >= self._look_at
        if not commands and not looking:
            return self._rows
        try:
            reply = ask(self.target, "\n".join([*commands, *self._questions(looking)]), TIMEOUT)
            complaint = self._understand(reply, looking)
            self.absent = False
        except LinkError as error:
            complaint = str(error)
            self.absent = isinstance(error.__context__, (ConnectionRefusedError, FileNotFoundError))
        if complaint:
            self._look_at = 0.0
            return complaint
        if self._rows:
            self._herald.done(plan)
            self._told, self.told = plan, version
        return self._rows

    def _questions(self, looking: bool) -> list[str]:
        if not looking:
            return []
        return ["health_ttl", "servers json"] if self._needs_ttl else ["servers json"]

    def _understand(self, reply: str, looked: bool) -> str:
        """Take the answers from the end of a reply. Returns what is wrong with it, or nothing."""
        lines = reply.splitlines()
        if looked:
            try:
                self._rows = json.loads(lines.pop())
            except (IndexError, ValueError):
                return f"{self.name}: no answer to 'servers json': is it a gpen?"
            self._look_at = time.monotonic() + LOOK
        if looked and self._needs_ttl and lines:
            self._mend_ttl(lines.pop())
        wrong = [line for line in lines if line.startswith(REFUSALS)]
        return f"{self.name}: {wrong[0]}" if wrong else ""

    def _mend_ttl(self, ttl: str) -> None:
        mended, self._mending = bool(self._mending), []
        if ttl.strip() in ("", "0"):
            self._mending = [f"health_ttl {TTL}"]
            if not mended:
                say(f"gpen {self.name}: health_ttl was 0, so that a dead watcher's verdicts would last for ever; "
                    f"it is {TTL} now")
