"""Figures as people read them."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Bytes, in the largest binary unit that leaves a digit before the point."""
    unit = 0
    while abs(count) >= 1024 and unit < len(UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f} {UNITS[unit]}" if unit else f"{count:.0f} B"
