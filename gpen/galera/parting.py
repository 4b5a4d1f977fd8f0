"""How sessions leave a writer that is well: no new ones come, and each ends between two exchanges, for a moment; what
is left then is closed as ever. Meanwhile new clients wait in gpen, which has to have a ``hold`` for that.

It takes a gpen that knows ``close server N quiet``; one of before refuses it, and nothing is waited for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from gpen.galera.listeners import Desk
from gpen.galera.plan import Plans, Row, leaving, orders, which
from gpen.gpenctl.lines import refusal_in

LOOK_SECONDS = 0.05
Ask = Callable[[Sequence[str]], list[str]]


def begin(plans: Plans, rows: Sequence[Row], desks: Iterable[Desk], ask: Ask, by_address: bool) -> list[str]:
    """Have those sessions leave that the plans want to end so. Returns questions whose answers tell of sessions that
    are left, for ``is_over``; none when there is nothing to wait for."""
    questions = []
    found = leaving(plans.servers, rows)
    if found and _holds(ask, "hold"):
        names = [which(row, by_address) for row in found]
        lines = [f"server {name} health drain because hands over: its sessions end" for name in names]
        if not refusal_in(ask([*lines, *(f"close server {name} quiet" for name in names)])):
            questions.append("sessions json")
    for desk in desks:
        found = desk.leaving(plans.writers, rows)
        if found and _holds(ask, f"listener {desk.name} hold"):
            lines = [f"servers {desk.nobody(rows)}", *(f"close server {row['number']} quiet" for row in found)]
            if not refusal_in(ask([f"listener {desk.name} {line}" for line in lines])):
                questions.append(f"listener {desk.name} sessions json")
    return questions


def is_over(plans: Plans, rows: Sequence[Row], answer: str) -> bool:
    """Whether none of those sessions is left, by the answer to one of the questions."""
    numbers = {row["number"] for plan in plans for row, order in orders(plan, rows) if order.close and order.quietly}
    try:
        return not any(row["server"] in numbers for row in json.loads(answer))
    except (KeyError, RecursionError, TypeError, ValueError):
        return True


def _holds(ask: Ask, question: str) -> bool:
    """Whether clients wait when no server can take them."""
    with suppress(IndexError, ValueError):
        return float(ask([question])[0]) > 0
    return False
