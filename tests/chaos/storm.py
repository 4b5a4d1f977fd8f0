"""One run: transfers and faults keep step; then each transfer is judged."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.certificates import make_certificates
from tests.chaos.faults import CUTS, Act, Faults
from tests.chaos.transfers import Outcome, Plan, is_whole, plan_of, server, transfer
from tests.harness import Gpen, Server, wait_until
from tests.tlsclient import trusting

SERVERS, PLACES, AT_ONCE = 4, 2, 40
SLACK = 1.0  # seconds within which a session has ended behind the command that ended it
ENDED_BY = {"killed": ("close session", "close server", "maint"), "server-down": ("verdict that closes",)}
# how gpen's log says that one of our ends has reset; one of them may have closed its direction before
CLOSED = ("client-closed", "server-closed")
RESET_BY = {"client": ("client-reset", *CLOSED), "server": ("server-reset", *CLOSED)}
REFUSED = ("no-server", "connect-failed", "denied")

Line = dict[str, Any]


@dataclass
class Report:
    """What came of a run."""

    way: str
    seed: int
    transfers: int = 0
    whole: int = 0
    bytes: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    refused: int = 0  # sessions that found no server
    refused_connects: int = 0  # at a port that gpen had just left, and tried again
    done: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether nothing went wrong that was not done on purpose."""
        return not self.damaged and not self.refused and self.whole + self.cut.total() == self.transfers

    def rows(self) -> dict[str, str]:
        """What to tell, by what it is."""
        rows = {"transfers": self.transfers, "whole": self.whole, "damaged": len(self.damaged),
                "cut on purpose": self.cut.total(), **{f"cut by {name}": self.cut[name] for name in sorted(self.cut)},
                "turned away": self.refused, "connects to a port just left": self.refused_connects,
                "MB": self.bytes // 10**6, "reloads": self.done["reload"],
                "reloads of a wrong file": self.done["wrong file"],
                **{_NAMES.get(name, name): count for name, count in sorted(self.done.items())
                   if name not in ("reload", "wrong file")}, "seconds": round(self.seconds)}
        return {name: f"{value:,}" for name, value in rows.items()}


_NAMES = {"stop": "stopped and continued", "move": "servers moved", "drain": "servers drained",
          "verdict": "verdicts: sessions go on", "verdict that closes": "verdicts: sessions end",
          "verdict that drains": "verdicts: no new sessions",
          "listen": "listener moved", "blacklist": "servers blacklisted", "maint": "servers in maintenance",
          "close session": "sessions closed", "close server": "servers closed"}


class Storm:
    """Transfers through a gpen of its own, and faults."""

    def __init__(self, way: str, transfers: int, reloads: int, seed: int,
                 progress: Callable[[str], None] = lambda text: None) -> None:
        """``way`` is plain or tls."""
        self.report = Report(way, seed, transfers)
        self._reloads, self._progress = reloads, progress
        self._servers: dict[int, Outcome] = {}
        self._clients: dict[int, Outcome] = {}
        self._steps = threading.Condition()
        self._acted = self._acts = 0

    def run(self, directory: Path) -> Report:
        """Raises AssertionError when gpen itself does not behave: a traceback, descriptors that are left."""
        report = self.report
        began = time.monotonic()
        with ExitStack() as stack:
            options: tuple[str, ...] = ()
            context = None
            if report.way == "tls":
                certificates = make_certificates(directory)
                options, context = certificates.server.options, trusting(certificates.authority.certificate)
            serve = server(report.seed, self._servers)
            places = [[stack.enter_context(Server(serve)) for _ in range(PLACES)] for _ in range(SERVERS)]
            (directory / "gpen.cfg").write_text("")
            balancer = stack.enter_context(Gpen(
                directory, "-r", "-l", "gpen.log", "-F", "gpen.cfg", "-O", "log_format json", "-O", "hold 20", *options,
                "127.0.0.1:0", *(place[0].address for place in places)))
            faults = Faults(balancer, places, random.Random(report.seed))
            self._blow(balancer, faults, context)
            wait_until(lambda: not any(server.live for place in places for server in place), 60, "all servers' ends")
            self._judge(faults)
        report.seconds = time.monotonic() - began
        return report

    def _blow(self, balancer: Gpen, faults: Faults, context: Any) -> None:
        descriptors = balancer.fds()
        order = faults.order(self._reloads)
        self._acts = len(order)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = [pool.submit(self._transfer, number, faults, context) for number in range(self.report.transfers)]
            try:
                for name in order:
                    self._await(lambda: len(self._clients) >= self._acted / self._acts * len(done) - AT_ONCE)
                    faults.act(name)
                    self._tell(faults)
                    with self._steps:
                        self._acted += 1
                        self._steps.notify_all()
            finally:
                with self._steps:
                    self._acted = self._acts
                    self._steps.notify_all()
                faults.calm()
            for future in done:
                future.result()
        balancer.wait_idle(60)
        wait_until(lambda: balancer.fds() <= descriptors, what=f"{descriptors} descriptors")
        assert "failed; that is told once" not in balancer.stderr
        self.report.done = faults.done

    def _transfer(self, number: int, faults: Faults, context: Any) -> None:
        share = self._acts / self.report.transfers
        self._await(lambda: self._acted >= min((number - 2 * AT_ONCE) * share, self._acts))
        plan = plan_of(self.report.seed, number)
        outcome = transfer(plan, lambda: faults.address, context)
        with self._steps:
            self._clients[number] = outcome
            self._steps.notify_all()

    def _await(self, is_due: Callable[[], bool]) -> None:
        """Transfers and faults keep step, so that there are both until the end."""
        with self._steps:
            assert self._steps.wait_for(is_due, 120), "transfers or faults came to a halt"

    def _tell(self, faults: Faults) -> None:
        moved = sum(outcome.size for outcomes in (self._clients, self._servers) for outcome in list(outcomes.values()))
        self._progress(f"{self.report.way}: {len(self._clients):,} of {self.report.transfers:,} transfers, "
                       f"{moved // 10**6:,} MB, {faults.done['reload']} reloads, {faults.done['stop']} stops, "
                       f"{len(faults.cuts)} cuts by command")

    # --- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, faults: Faults) -> None:
        report, lines = self.report, defaultdict(list)
        for line in _lines(faults.logs):
            lines[line["client"].rpartition(":")[0]].append(line)
        for number in range(report.transfers):
            plan, client, server = plan_of(report.seed, number), self._clients[number], self._servers.get(number)
            report.refused_connects += client.refused
            report.bytes += client.size + (server.size if server else 0)
            self._judge_one(plan, client, server, lines[plan.source], faults.cuts)

    def _judge_one(self, plan: Plan, client: Outcome, server: Outcome | None, lines: list[Line], cuts: list[Act],
                   ) -> None:
        report = self.report
        ending = lines[0]["ending"] if len(lines) == 1 else f"{len(lines)} lines"
        if is_whole(plan, client, server) and len(lines) == 1:
            report.whole += 1
        elif ending in REFUSED:
            report.refused += 1
        elif reason := _purpose(client, server, lines, cuts):
            report.cut[reason] += 1
        else:
            told = lines or "nothing"
            report.damaged.append(f"{plan}: its client: {client}; its server: {server}; gpen's log: {told}")


def _lines(logs: list[Path]) -> Iterator[Line]:
    for path in logs:
        yield from map(json.loads, path.read_text().splitlines() if path.exists() else ())


def _purpose(client: Outcome, server: Outcome | None, lines: list[Line], cuts: list[Act]) -> str:
    """What was done on purpose that has ended this session, as gpen's log says it; empty when nothing was."""
    if len(lines) != 1:
        return ""
    (line,) = lines
    for side, outcome in (("client", client), ("server", server)):
        if outcome is not None and outcome.cut and line["ending"] in RESET_BY[side]:
            return f"a reset by its {side}"
    ended = datetime.fromisoformat(line["started"].replace("Z", "+00:00")).timestamp() + line["total"]
    host = line["client"].rpartition(":")[0]
    for act in cuts:
        if act.name in ENDED_BY.get(line["ending"], ()) and act.began - SLACK <= ended <= act.ended + SLACK and (
                act.client == host if act.client else act.server == line["server"]):
            return act.name
    return ""


assert {name for names in ENDED_BY.values() for name in names} == set(CUTS)
