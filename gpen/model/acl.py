"""Access lists: ten ordered lists of permit and deny, as pen numbers them.

The first entry that matches decides. Without a match the answer is the opposite of the last entry of the client's
family (pen looks at the last entry of any family). A list that has no entry of that family answers permit, unless it
permits somebody: who is let in by name is not joined by everybody of the other family. An empty list permits. An entry
for a country is of both families.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

LISTS = 10
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


class AccessList:
    """An ordered list of entries."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    @property
    def names_countries(self) -> bool:
        return any(entry.country for entry in self.entries)

    def permits(self, address: str, country: Callable[[], str] = str) -> bool:
        """Whether a client from this textual address may come in. A client of a unix socket always may.

        ``country`` tells the client's, empty when nobody knows; it is asked only if an entry needs it.
        """
        if not self.entries or address.startswith("unix"):
            return True
        number, family = _number(address)
        last = None
        for entry in self.entries:
            if entry.country:
                if country() == entry.country:
                    return entry.permit
                last = entry
            elif entry.family == family:
                if number & entry.mask == entry.network:
                    return entry.permit
                last = entry
        return not last.permit if last else not any(entry.permit for entry in self.entries)


def parse_entry(action: str, address: str, mask: str = "") -> Entry:
    """Read ``permit|deny ADDRESS [MASK]``, ``... NETWORK/LENGTH`` or ``... IPV6[/LENGTH]``.

    Host bits in a network are dropped. Raises ValueError that names what is wrong.
    """
    if action not in ("permit", "deny"):
        raise ValueError(f"'{action}' is not permit or deny")
    host, slash, length = address.partition("/")
    if slash and mask:
        raise ValueError(f"'{address} {mask}' has both a length and a mask: expected one of them")
    try:
        number, family = _number(host)
    except ValueError:
        raise ValueError(f"'{address}' is not an IPv4 or IPv6 address or network") from None
    bits = _mask_of_length(length, family, address) if slash else _mask(mask, family)
    return Entry(action == "permit", family, number & bits, bits, f"{address} {mask}".rstrip())


def parse_country(action: str, country: str) -> Entry:
    """Read ``permit|deny country CC``, CC of two letters. Raises ValueError."""
    if action not in ("permit", "deny"):
        raise ValueError(f"'{action}' is not permit or deny")
    if len(country) != 2 or not (country.isascii() and country.isalpha()):
        raise ValueError(f"'{country}' is not a country: expected two letters (ISO 3166-1) such as SE")
    return Entry(action == "permit", 0, 0, 0, f"country {country.upper()}", country.upper())


def _number(address: str) -> tuple[int, int]:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return int(ip), ip.version


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
