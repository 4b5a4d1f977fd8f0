"""Rates: so many in so many seconds, and bytes a second. Pure: whoever asks says what time it is, in seconds of a clock
that never jumps."""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from dataclasses import dataclass

MOST_COUNT, MOST_SECONDS = 1_000_000, 86_400
MOST_ADDRESSES = 65_536  # that are remembered: some 25 MB
MOST_MOMENTS = 1_000_000  # of all of them together: 8 MB
MOST_BYTES = 1 << 50  # a second
BURST_SECONDS = 0.2  # for so long bytes that were not used may be used later, by a process that was late, say
FIRST_SECONDS = 0.05  # of that is there at the beginning
_RATE = re.compile(r"([0-9]{1,7})(?:/([0-9]{1,5}(?:\.[0-9]{1,3})?))?")
_SIZE = re.compile(r"([0-9]{1,16})([kmgKMG]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class Rate:
    """``count`` in any ``seconds``. It is false where there is no limit: ``count`` is 0 then."""

    count: int
    seconds: float

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        if self.seconds == 1 or not self.count:
            return str(self.count)
        return f"{self.count}/{f'{self.seconds:.3f}'.rstrip('0').rstrip('.')}"  # exactly: it is read back

    @property
    def spacing(self) -> float:
        """Seconds from one to the next, where they come evenly."""
        return self.seconds / self.count


NO_RATE = Rate(0, 1)


def parse_rate(text: str) -> Rate:
    """N/S, or N for N/1; 0 or off for no limit. Raises ValueError."""
    if text == "off":
        return NO_RATE
    match = _RATE.fullmatch(text)
    count, seconds = (int(match[1]), float(match[2] or 1)) if match is not None else (-1, 0.0)
    if not (0 <= count <= MOST_COUNT and 0 < seconds <= MOST_SECONDS):
        raise ValueError(f"'{text}' is not a rate: expected N or N/S, N in any S seconds, such as 100 or 600/60 (N to "
                         f"{MOST_COUNT}, S to {MOST_SECONDS}), or off")
    return Rate(count, seconds) if count else NO_RATE


def parse_bytes(text: str) -> int:
    """Bytes, with k, m or g for 1024 of them, of these, and of these; 0 or off for no limit. Raises ValueError."""
    if text == "off":
        return 0
    match = _SIZE.fullmatch(text)
    count = int(match[1]) * _UNITS[match[2].lower()] if match is not None else -1
    if not 0 <= count <= MOST_BYTES:
        raise ValueError(f"'{text}' is not a number of bytes a second: expected one such as 500000, 64k, 10m or 1g, or "
                         "off")
    return count


def show_bytes(count: int) -> str:
    """As ``parse_bytes`` reads it, and as short as that can be said exactly."""
    for unit in ("g", "m", "k"):
        if count and not count % _UNITS[unit]:
            return f"{count // _UNITS[unit]}{unit}"
    return str(count)


class Window:
    """When the last came, no more of which may come in any time than a rate says."""

    __slots__ = ("_moments", "_oldest", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._moments = array("d")
        self._oldest = 0  # where that stands, once there are as many as may be

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def last(self) -> float:
        """When the last one came."""
        return self._moments[self._oldest - 1]

    def wait(self, now: float) -> float:
        """Seconds until one more may come; 0 when it may now."""
        if len(self._moments) < self._rate.count:
            return 0.0
        return max(self._moments[self._oldest] + self._rate.seconds - now, 0.0)

    def note(self, now: float) -> None:
        """One more came, which was allowed."""
        if len(self._moments) < self._rate.count:
            self._moments.append(now)
        else:
            self._moments[self._oldest] = now
            self._oldest = (self._oldest + 1) % self._rate.count

    def within(self, now: float) -> int:
        """How many have come in the time that the rate is about."""
        return sum(now - moment < self._rate.seconds for moment in self._moments)


class Arrivals:
    """A Window for each client address. Whoever was let in longest ago is forgotten first, when they are too many."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self._moments = 0

    def __len__(self) -> int:
        return len(self._windows)

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may come once more; 0 when it may now."""
        window = self._windows.get(address)
        return 0.0 if window is None else window.wait(now)

    def within(self, address: str, now: float) -> int:
        """How often it has come in the time that the rate is about."""
        window = self._windows.get(address)
        return 0 if window is None else window.within(now)

    def note(self, address: str, now: float) -> None:
        """It has come, and was let in."""
        windows = self._windows
        window = windows.get(address)
        if window is None:
            window = windows[address] = Window(self.rate)
        else:
            windows.move_to_end(address)
        self._moments -= len(window)
        window.note(now)
        self._moments += len(window)
        for _ in range(2):  # more than come, so that all go whose time is over
            if now - next(iter(windows.values())).last >= self.rate.seconds:
                self._forget_first()
        while len(windows) > MOST_ADDRESSES or self._moments > MOST_MOMENTS:
            self._forget_first()

    def _forget_first(self) -> None:
        self._moments -= len(self._windows.popitem(last=False)[1])


class Bucket:
    """Bytes that may pass, so many a second. What was not used is kept for BURST_SECONDS; who takes more than there is
    has the others wait until that is made up for."""

    __slots__ = ("_left", "_since", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._left = rate * FIRST_SECONDS
        self._since = now

    def left(self, now: float) -> float:
        """How many may pass now; less than 0 when more have."""
        most = max(self.rate * BURST_SECONDS, 1.0)
        self._left = min(self._left + (now - self._since) * self.rate, most)
        self._since = now
        return self._left

    def take(self, count: int) -> None:
        """So many have passed."""
        self._left -= count

    def wait(self, count: float, now: float) -> float:
        """Seconds until so many may pass, at the most as many as are kept."""
        return max(min(count, max(self.rate * BURST_SECONDS, 1.0)) - self.left(now), 0.0) / self.rate
