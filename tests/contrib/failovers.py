"""How long new connections wait when something happens to the active one of two balancers, as docs/HIGH-AVAILABILITY.md
tells it. `python -m tests.contrib.failovers 10` takes each event ten times."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.contrib.balancers import Attempt, Balancer, Pair, failures, longest_gap, two_balancers
from tests.harness import wait_until


class Event(NamedTuple):
    """Something that happens to the active balancer, and how that is mended."""

    name: str
    happens: Callable[[Pair, Balancer], object]
    mend: Callable[[Pair, Balancer], object]


EVENTS = {event.name: event for event in (
    Event("link cut", lambda pair, it: pair.switch.pull(it.machine), lambda pair, it: pair.switch.put_back(it.machine)),
    Event("gpen killed", lambda pair, it: it.gpen.signal(signal.SIGKILL), lambda pair, it: it.restart_gpen()),
    Event("gpen stopped", lambda pair, it: it.gpen.signal(signal.SIGSTOP),
          lambda pair, it: it.gpen.signal(signal.SIGCONT)),
    Event("no server left", lambda pair, it: it.pool("down"), lambda pair, it: it.pool("up")),
    Event("keepalived ended", lambda pair, it: it.end_keepalived(), lambda pair, it: it.start_keepalived()),
    Event("planned move", lambda pair, it: it.move_away(), lambda pair, it: it.move_back()),
)}


def sessions(balancer: Balancer) -> int:
    """How many it has had."""
    return int(balancer.gpen.json("info")["total"])


class Outcome(NamedTuple):
    """What became of a hundred new connections a second; ``moment`` is when it had happened."""

    attempts: list[Attempt]
    moment: float

    @property
    def failed_later(self) -> list[str]:
        """What became of those that failed, and were not under way when it happened."""
        return failures([attempt for attempt in self.attempts if attempt.began > self.moment])


def what_became(pair: Pair, event: Event) -> Outcome:
    """What new connections come to, from before it happens until after the other balancer serves them. Then it is
    mended; the address must not come back by itself."""
    active, standby = pair.active, pair.standby
    with pair.probing() as results:
        begun = sessions(active)
        wait_until(lambda: sessions(active) > begun + 30, what="clients at the active balancer")
        before = sessions(standby)
        event.happens(pair, active)
        moment = time.monotonic()
        wait_until(lambda: sessions(standby) > before + 50, what="clients at the other balancer")
        attempts: list[Attempt] = results()
    assert (active.has(), standby.has()) == (False, True)
    event.mend(pair, active)
    wait_until(pair.is_well, 20, "two balancers that are well")
    assert pair.active is standby, "the address has come back by itself"
    return Outcome(attempts, moment)


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    table = sys.stdout
    print("| event | nobody served for (s) | longest wait (s) | failed |\n| --- | --- | --- | --- |", flush=True)
    with (redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as directory,
          two_balancers(Path(directory) / "pair") as pair):
        for event in EVENTS.values():
            tries = [what_became(pair, event).attempts for _ in range(times)]
            gaps = [longest_gap(attempts) for attempts in tries]
            waits = [max(attempt.seconds for attempt in attempts if attempt.is_served) for attempts in tries]
            failed = [len(failures(attempts)) for attempts in tries]
            print(f"| {event.name} | {median(gaps):.2f} ({min(gaps):.2f} to {max(gaps):.2f}) | {max(waits):.2f} | "
                  f"{median(failed):g} ({min(failed)} to {max(failed)}) |", file=table, flush=True)


if __name__ == "__main__":
    main()
