"""When which server is checked, so that the checks of many are spread over the interval and not bunched.

Where a server's slots lie is given by its number alone (model/evenly.py), whatever servers come and go.
"""

from __future__ import annotations

from gpen.model.evenly import evenly

FASTER = 4  # times as often, where something is about to change


def next_slot(now: float, number: int, period: float, offset: float = 0.0) -> float:
    """When the next slot of the server with this number is, from ``now`` on; all in seconds. ``offset``, from 0 to 1
    of a period, is for something else that is done with each server."""
    return now + (evenly(number) + offset - now / period) % 1 * period
