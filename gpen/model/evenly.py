"""Numbers spread evenly between 0 and 1, however many they are: the fractional parts of multiples of the golden ratio.

The gaps between the first n of them have at most three lengths, none far from 1 / n, and each interval gets its part of
them, but for one or two (Weyl's sequence). So nothing is left to chance, and nothing is to be remembered but a number.
"""

from __future__ import annotations

import math

_GOLDEN = (math.sqrt(5) - 1) / 2


def evenly(number: int) -> float:
    """Where this one lies: consecutive ones are far apart."""
    return number * _GOLDEN % 1.0
