"""When which server is checked, so that the checks of many are spread over the interval and not bunched.

Where a server's slots lie is given by its number alone: at the fraction (number * golden ratio) mod 1 of the interval.
Whatever servers come and go, consecutive numbers lie as far apart as can be (the gaps between n of them have at most
three lengths, none far from interval / n).
"""

from __future__ import annotations

import math

FASTER = 4  # times as often, where something is about to change
_GOLDEN = (math.sqrt(5) - 1) / 2


def next_slot(now: float, number: int, period: float, offset: float = 0.0) -> float:
    """When the next slot of the server with this number is, from ``now`` on; all in seconds. ``offset``, from 0 to 1
    of a period, is for something else that is done with each server."""
    return now + (number * _GOLDEN + offset - now / period) % 1 * period
