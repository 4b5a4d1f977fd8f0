"""Access lists: ten ordered lists of permit and deny, as pen numbers them.

The first entry that matches decides. Without a match the answer is the opposite of the last entry of the client's
family (pen looks at the last entry of any family). A list that has no entry of that family answers permit, unless it
permits somebody: who is let in by name is not joined by everybody of the other family. An empty list permits. An entry
for a country is of both families.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

LISTS = 10
_BOTH = 0  # the family of a country's entry
_NOWHERE = 1 << 62  # behind every entry of a list
_MAPPED = 0xFFFF  # the first 96 bits of an IPv4 address in an IPv6 one (RFC 4291, section 2.5.5.2)
_FULL = {4: (1 << 32) - 1, 6: (1 << 128) - 1}


@dataclass(frozen=True)
class Entry:
    """One line of an access list: an address under a mask, of one family (4 or 6), or a ``country`` (ISO 3166-1)."""

    permit: bool
    family: int
    network: int
    mask: int
    text: str
    country: str = ""

    def __str__(self) -> str:
        return f"{'permit' if self.permit else 'deny'} {self.text}"

    def has(self, address: str) -> bool:
        """Whether a textual address is of its network; that of a client of a unix socket is of none."""
        if address.startswith("unix"):
            return False
        number, family = number_of(address)
        return family == self.family and number & self.mask == self.network


class _Ranges:
    """All addresses of a family, cut into ranges, each with the place of the first entry that is for it."""

    def __init__(self) -> None:
        self._starts = [0]
        self._places = [_NOWHERE]

    def copy(self) -> _Ranges:
        copy = _Ranges()
        copy._starts, copy._places = self._starts.copy(), self._places.copy()
        return copy

    def place(self, number: int) -> int:
        """The place of the first entry for this address; _NOWHERE when there is none."""
        return self._places[bisect_right(self._starts, number) - 1]

    def add(self, first: int, last: int, place: int) -> None:
        """An entry behind all others is for these addresses: it gets what none of the others has."""
        begin, end = self._cut(first), self._cut(last + 1)
        places = self._places
        places[begin:end] = [place if old == _NOWHERE else old for old in places[begin:end]]

    def _cut(self, number: int) -> int:
        """Let a range begin at this address; returns its index."""
        index = bisect_left(self._starts, number)
        if index == len(self._starts) or self._starts[index] != number:
            self._starts.insert(index, number)
            self._places.insert(index, self._places[index - 1])
        return index


class AccessList:
    """An ordered list of entries. Entries are added at its end only.

    A client is looked for by halves in the ranges that the networks leave of all addresses, in 4 us among 30,000
    entries (3 us of them to read its address), where a scan took 8 ms.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._ranges = {4: _Ranges(), 6: _Ranges()}
        self._masks: dict[tuple[int, int], dict[int, int]] = {}  # family and mask with holes: network: place
        self._countries: dict[str, int] = {}
        self._last: dict[int, int] = {}  # place of a family's last entry
        self._permits_some = False

    def copy(self) -> AccessList:
        """The same list, to be changed by itself: 2 ms with 30,000 entries."""
        copy = AccessList()
        copy.entries = self.entries.copy()
        copy._ranges = {family: ranges.copy() for family, ranges in self._ranges.items()}
        copy._masks = {mask: networks.copy() for mask, networks in self._masks.items()}
        copy._countries, copy._last = self._countries.copy(), self._last.copy()
        copy._permits_some = self._permits_some
        return copy

    @property
    def names_countries(self) -> bool:
        return bool(self._countries)

    def add(self, entry: Entry) -> None:
        """Put an entry at the end of the list."""
        place = len(self.entries)
        self.entries.append(entry)
        self._last[entry.family] = place
        self._permits_some = self._permits_some or entry.permit
        if entry.country:
            self._countries.setdefault(entry.country, place)
            return
        hosts = _FULL[entry.family] & ~entry.mask
        if hosts & (hosts + 1):
            self._masks.setdefault((entry.family, entry.mask), {}).setdefault(entry.network, place)
        else:
            self._ranges[entry.family].add(entry.network, entry.network | hosts, place)

    def permits(self, address: str, country: Callable[[], str] = str) -> bool:
        """Whether a client from this textual address may come in. A client of a unix socket always may.

        ``country`` tells the client's, empty when nobody knows; it is asked only if an entry needs it.
        """
        if not self.entries or address.startswith("unix"):
            return True
        number, family = number_of(address)
        place = self._ranges[family].place(number)
        for (its_family, mask), networks in self._masks.items():
            if its_family == family:
                place = min(place, networks.get(number & mask, place))
        if self._countries and place > next(iter(self._countries.values())):
            place = min(place, self._countries.get(country(), place))
        if place != _NOWHERE:
            return self.entries[place].permit
        last = max(self._last.get(family, -1), self._last.get(_BOTH, -1))
        return not self.entries[last].permit if last >= 0 else not self._permits_some


def parse_entry(action: str, address: str, mask: str = "") -> Entry:
    """Read ``permit|deny ADDRESS [MASK]``, ``... NETWORK/LENGTH`` or ``... IPV6[/LENGTH]``.

    Host bits in a network are dropped. An IPv4 address in an IPv6 one (::ffff:192.0.2.1) is read as the former, for so
    clients are known. Raises ValueError that names what is wrong.
    """
    if action not in ("permit", "deny"):
        raise ValueError(f"'{action}' is not permit or deny")
    host, slash, length = address.partition("/")
    if slash and mask:
        raise ValueError(f"'{address} {mask}' has both a length and a mask: expected one of them")
    try:
        number, family = number_of(host)
    except ValueError:
        raise ValueError(f"'{address}' is not an IPv4 or IPv6 address or network") from None
    bits = _mask_of_length(length, family, address) if slash else _mask(mask, family)
    if family == 6 and number >> 32 == _MAPPED:
        return parse_entry(action, _unmapped(address, number, bits))
    return Entry(action == "permit", family, number & bits, bits, f"{address} {mask}".rstrip())


def _unmapped(address: str, number: int, bits: int) -> str:
    """An IPv4-mapped network as one of IPv4. Raises ValueError."""
    host, length = ipaddress.IPv4Address(number & _FULL[4]), bits.bit_count() - 96
    if length < 0:
        raise ValueError(f"'{address}': clients of IPv4 are known by their IPv4 addresses: write {host}/LENGTH")
    return str(host) if length == 32 else f"{host}/{length}"


def parse_country(action: str, country: str) -> Entry:
    """Read ``permit|deny country CC``, CC of two letters. Raises ValueError."""
    if action not in ("permit", "deny"):
        raise ValueError(f"'{action}' is not permit or deny")
    if len(country) != 2 or not (country.isascii() and country.isalpha()):
        raise ValueError(f"'{country}' is not a country: expected two letters (ISO 3166-1) such as SE")
    return Entry(action == "permit", _BOTH, 0, 0, f"country {country.upper()}", country.upper())


def number_of(address: str) -> tuple[int, int]:
    """An address as a number, and its family, 4 or 6. Raises ValueError."""
    if ":" not in address:
        return int(ipaddress.IPv4Address(address)), 4
    return int(ipaddress.IPv6Address(address.partition("%")[0])), 6


def _mask_of_length(length: str, family: int, address: str) -> int:
    width = 32 if family == 4 else 128
    if length not in map(str, range(width + 1)):
        raise ValueError(f"'{address}': '{length}' is not a length from 0 to {width}")
    return _FULL[family] & ~((1 << (width - int(length))) - 1)


def _mask(mask: str, family: int) -> int:
    if not mask:
        return _FULL[family]
    if family == 6:
        raise ValueError(f"mask '{mask}': an IPv6 network is written as ADDRESS/LENGTH")
    try:
        return int(ipaddress.IPv4Address(mask))
    except ValueError:
        raise ValueError(f"'{mask}' is not an IPv4 mask: expected something like 255.255.0.0") from None
