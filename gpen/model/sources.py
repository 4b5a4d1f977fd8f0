"""The addresses that connections to servers come from, as people list them: single ones, and ranges."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count

from gpen.model.address import SCOPED
from gpen.model.text import shortened

MOST_SOURCES = 4096
ABSENT_SECONDS = 5.0  # for so long one that was none of this machine's is not tried, while there are others
EXPECTED = "expected ADDRESS or FIRST-LAST, several with commas between them"


def parse_sources(texts: Sequence[str]) -> tuple[str, ...]:
    """Addresses and ranges of them, each as it may be written again; between them stand blanks or commas. Raises
    ValueError."""
    pieces = [piece for text in texts for piece in text.split(",") if piece]
    if not pieces:
        raise ValueError(f"no address: {EXPECTED}")
    ranges = dict.fromkeys(_range(piece) for piece in pieces)
    count = sum(int(last) - int(first) + 1 for first, last in ranges)
    if count > MOST_SOURCES:
        raise ValueError(f"'{shortened(','.join(pieces))}' are {count} addresses: at most {MOST_SOURCES} are possible")
    return tuple(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


@lru_cache(maxsize=64)
def sources_of(said: tuple[str, ...], version: int) -> tuple[str, ...]:
    """Each address of this version of IP once, in their order."""
    found: dict[str, None] = {}
    for first, last in map(_range, said):
        if first == last and first.version == version:
            found[str(first)] = None  # with its interface
        elif first.version == version:
            of = type(first)
            found.update((str(of(number)), None) for number in range(int(first), int(last) + 1))
    return tuple(found)


class Turns:
    """Which address is tried first, and which are not for a while, since they were none of this machine's: to try
    thousands takes 10 ms."""

    def __init__(self) -> None:
        self._turns = count()
        self._absent: dict[str, float] = {}  # until when

    def of(self, sources: Sequence[str], now: float) -> Iterator[str]:
        """These, each time another one first, without those that are missed, unless there are no others."""
        start, is_any = next(self._turns), False
        for number in range(len(sources)):
            source = sources[(start + number) % len(sources)]
            if self._absent.get(source, 0.0) <= now:
                is_any = True
                yield source
        if sources and not is_any:
            yield sources[start % len(sources)]

    def miss(self, source: str, now: float) -> None:
        """This one is none of this machine's."""
        if len(self._absent) >= MOST_SOURCES:
            self._absent.clear()  # of settings that were
        self._absent[source] = now + ABSENT_SECONDS


def _range(text: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | tuple[
        ipaddress.IPv6Address, ipaddress.IPv6Address]:
    start, is_range, end = text.partition("-")
    if not (start and is_range and end) or "%" in text:  # the name of an interface may hold one
        start = end = text
    first, last = _address(start), _address(end)
    if isinstance(first, ipaddress.IPv4Address) and isinstance(last, ipaddress.IPv4Address) and first <= last:
        return first, last
    if isinstance(first, ipaddress.IPv6Address) and isinstance(last, ipaddress.IPv6Address) and first <= last:
        return first, last
    wrong = "mixes IPv4 and IPv6" if first.version != last.version else "ends before it begins"
    raise ValueError(f"the range '{shortened(text)}' {wrong}: expected FIRST-LAST")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text if SCOPED.fullmatch(text) else "")  # which lets anything be a scope
    except ValueError:
        raise ValueError(f"'{shortened(text)}' is not an IPv4 or IPv6 address: {EXPECTED}") from None
    return getattr(address, "ipv4_mapped", None) or address
