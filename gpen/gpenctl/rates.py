"""What comes a second, and came in the last minutes: computed of counters that a daemon tells again and again. Pure."""

from __future__ import annotations

from collections import deque

from gpen.gpenctl.tables import Record, is_number

RATES = ("session_rate", "byte_rate", "sent_rate", "received_rate")


class Rates:
    """Sessions and bytes a second of each server, or listener: the difference between two looks."""

    def __init__(self) -> None:
        self.before: dict[str, tuple[float, float, float]] = {}
        self.when = 0.0

    def add(self, servers: list[Record], now: float) -> None:
        """Give each of them its RATES since the last call; `now` in seconds."""
        counts = {identity(server): counters(server) for server in servers}
        for server in servers:
            name = identity(server)
            if name in self.before and now > self.when:
                sessions, sent, received = (
                    (new - old) / (now - self.when)
                    for new, old in zip(counts[name], self.before[name], strict=True)
                )
                if sessions >= 0 and sent + received >= 0:  # else the daemon started anew
                    rates = (sessions if "total" in server else None, sent + received, sent, received)
                    server.update(zip(RATES, rates, strict=True))
        self.before, self.when = counts, now


def identity(server: Record) -> str:
    return f"{server.get('number')} {server.get('name')} {server.get('address')}"


def counters(server: Record) -> tuple[float, float, float]:
    total, sent, received = (
        value if is_number(value) else 0 for value in map(server.get, ("total", "sx", "rx"))
    )
    return total, sent, received


class History:
    """The means of a figure, over one stretch of time after the other; the last of them is not over yet."""

    def __init__(self, stretch: float, kept: int) -> None:
        """`stretch` is in seconds; so many of them are kept."""
        self._stretch = stretch
        self._means: deque[float] = deque(maxlen=kept)
        self._began = 0.0
        self._sum = self._count = 0.0

    def add(self, figure: float, now: float) -> None:
        """Take in what the figure is `now` (seconds). It is taken to have been so since the last one: a rate is a mean
        over that time."""
        if not self._means:
            self._began = now
            self._means.append(figure)
        over = int((now - self._began) / self._stretch)
        if over > 0:
            self._began += over * self._stretch
            self._sum = self._count = 0.0
            self._means.extend([figure] * min(over, self._means.maxlen or 0))
        self._sum += figure
        self._count += 1
        self._means[-1] = self._sum / self._count

    def last(self, count: int) -> list[float]:
        """At most so many of the newest means, from the oldest to the newest."""
        return list(self._means)[-count:] if count > 0 else []
