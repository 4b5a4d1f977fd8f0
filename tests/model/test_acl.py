"""Access lists: the first match decides; without one, the opposite of the last entry of the client's family."""

from __future__ import annotations

import ipaddress
import random
import timeit
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpen.model.acl import AccessList, Entry, parse_country, parse_entry


def access_list(*lines: str) -> AccessList:
    access = AccessList()
    for line in lines:
        access.add(parse_entry(*line.split()))
    return access


@pytest.mark.parametrize(("lines", "permitted", "denied"), [
    ([], ["192.0.2.1", "2001:db8::1", "unix"], []),
    (["permit 10.0.0.1"], ["10.0.0.1"], ["10.0.0.2"]),
    (["deny 10.0.0.1"], ["10.0.0.2"], ["10.0.0.1"]),
    (["permit 10.0.0.0 255.0.0.0"], ["10.255.255.255", "10.0.0.0"], ["11.0.0.0", "9.255.255.255"]),
    (["permit 10.0.0.0/8"], ["10.1.2.3"], ["11.0.0.0"]),
    (["permit 10.1.2.3/8"], ["10.200.0.1"], ["11.1.2.3"]),  # host bits do not count
    (["permit 10.1.2.3 255.255.0.0"], ["10.1.0.0"], ["10.2.2.3"]),
    (["permit 10.0.0.1 255.0.0.255"], ["10.7.8.1"], ["10.7.8.2"]),  # a mask may have holes
    (["permit 0.0.0.0/0"], ["8.8.8.8"], []),
    (["deny 0.0.0.0 0.0.0.0"], [], ["8.8.8.8", "127.0.0.1"]),
    (["permit 10.0.0.1/32"], ["10.0.0.1"], ["10.0.0.0"]),
    (["permit 2001:db8::/32"], ["2001:db8:1::1"], ["2001:db9::1"]),
    (["deny 2001:db8::5/32"], ["2001:db9::1"], ["2001:db8:1::1"]),
    (["permit ::1"], ["::1", "0:0:0:0:0:0:0:1"], ["::2"]),
    (["permit ::/0"], ["::2", "fe80::1%eth0"], []),
    # the first match decides
    (["deny 10.0.0.1", "permit 10.0.0.0/8"], ["10.0.0.2"], ["10.0.0.1", "11.0.0.1"]),
    (["permit 10.0.0.0/8", "deny 10.0.0.1"], ["10.0.0.1", "11.0.0.1"], []),
    # without a match: the last entry of the client's own family, whatever comes behind it
    (["permit 10.0.0.1", "deny ::1"], ["10.0.0.1", "::2"], ["10.0.0.2", "::1"]),
    (["deny 10.0.0.1", "permit ::1"], ["10.0.0.2", "::1"], ["10.0.0.1", "::2"]),
    # a list without an entry of the family: who is let in by name is not joined by the whole other family
    (["permit 10.0.0.1"], ["10.0.0.1"], ["2001:db8::1"]),
    (["deny 10.0.0.1"], ["2001:db8::1"], []),
    (["deny ::1"], ["10.0.0.1"], []),
])
def test_lists(lines: list[str], permitted: list[str], denied: list[str]) -> None:
    access = access_list(*lines)
    assert [address for address in permitted + denied if access.permits(address)] == permitted


# --- any list answers as if its entries were looked at one after the other -------------------------------------------

near4 = st.integers(0, 255).map(lambda low: f"10.0.0.{low}")
near6 = st.integers(0, 255).map(lambda low: f"2001:db8::{low:x}")
entries = st.one_of(
    st.builds(lambda host, length: f"{host}/{length}", near4, st.integers(20, 32)),
    st.builds(lambda host, length: f"{host}/{length}", near6, st.integers(116, 128)),
    st.builds(lambda host, mask: f"{host} 255.255.255.{mask}", near4, st.integers(0, 255)),
    st.sampled_from(["0.0.0.0/0", "::/0", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                     "country SE", "country DE"]))
lines = st.lists(st.tuples(st.sampled_from(["permit", "deny"]), entries), max_size=12)


def entry_of(action: str, text: str) -> Entry:
    words = text.split()
    return parse_country(action, words[1]) if words[0] == "country" else parse_entry(action, *words)


def scanned(entries: list[Entry], address: str, country: str) -> bool:
    """What pen's way to look at a list says, with gpen's rule for what matches nothing."""
    ip = ipaddress.ip_address(address)
    last = None
    for entry in entries:
        if entry.country == country or (entry.family == ip.version and int(ip) & entry.mask == entry.network):
            return entry.permit
        if entry.country or entry.family == ip.version:
            last = entry
    if last is not None:
        return not last.permit
    return not any(entry.permit for entry in entries)


@given(lines, st.lists(st.one_of(near4, near6, st.ip_addresses().map(str)), min_size=1, max_size=20),
       st.sampled_from(["SE", "DE", "FR"]))
def test_any_list(given: list[tuple[str, str]], addresses: list[str], country: str) -> None:
    access, copied = AccessList(), AccessList()
    for action, text in given:
        copied = access.copy()
        access.add(entry_of(action, text))
    for address in addresses:
        assert access.permits(address, lambda: country) == scanned(access.entries, address, country)
        assert copied.permits(address, lambda: country) == scanned(access.entries[:-1], address, country)


def test_the_country_is_asked_only_where_it_counts() -> None:
    access = AccessList()
    for action, text in (("permit", "10.0.0.1"), ("deny", "country SE"), ("permit", "10.0.0.2")):
        access.add(entry_of(action, text))
    asked: list[str] = []

    def country() -> str:
        asked.append("asked")
        return "SE"

    assert access.permits("10.0.0.1", country) and not asked
    assert not access.permits("10.0.0.2", country) and asked


def test_a_client_of_a_unix_socket_always_may() -> None:
    assert access_list("deny 0.0.0.0/0", "deny ::/0").permits("unix")


@pytest.mark.parametrize(("words", "value"), [
    (("allow", "10.0.0.1"), "allow"),
    (("permit", "10.0.0"), "10.0.0"),
    (("permit", "10.0.0.256"), "10.0.0.256"),
    (("permit", "www.example.org"), "www.example.org"),
    (("permit", "10.0.0.0/33"), "33"),
    (("permit", "10.0.0.0/-1"), "-1"),
    (("permit", "10.0.0.0/"), "10.0.0.0/"),
    (("permit", "10.0.0.0/255.0.0.0"), "255.0.0.0"),
    (("permit", "10.0.0.0/\u00b2"), "\u00b2"),
    (("permit", "::1/129"), "129"),
    (("permit", "::1", "ffff::"), "ffff::"),
    (("permit", "10.0.0.0", "255.0.0"), "255.0.0"),
    (("permit", "10.0.0.0/8", "255.0.0.0"), "10.0.0.0/8 255.0.0.0"),
    (("permit", ""), "''"),
])
def test_what_is_no_entry(words: tuple[str, ...], value: str) -> None:
    with pytest.raises(ValueError, match=r"is not|expected|is written as") as caught:
        parse_entry(*words)
    assert value in str(caught.value)


def test_an_entry_prints_as_it_was_written() -> None:
    for text in ("permit 10.1.2.3/8", "deny 10.0.0.0 255.0.0.0", "permit 2001:db8::/32"):
        assert str(parse_entry(*text.split())) == text


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks_as_the_standard_library_knows_them(network: ipaddress.IPv4Address, length: int,
                                                     client: ipaddress.IPv4Address) -> None:
    expected = client in ipaddress.ip_network(f"{network}/{length}", strict=False)
    mask = str(ipaddress.ip_network(f"0.0.0.0/{length}").netmask)
    assert access_list(f"permit {network}/{length}").permits(str(client)) == expected
    assert access_list(f"permit {network} {mask}").permits(str(client)) == expected


@given(st.ip_addresses(v=6), st.integers(0, 128), st.ip_addresses(v=6))
def test_ipv6_networks(network: ipaddress.IPv6Address, length: int, client: ipaddress.IPv6Address) -> None:
    assume(network.ipv4_mapped is None)
    expected = int(client) >> (128 - length) == int(network) >> (128 - length)
    assert access_list(f"permit {int(network):x}".replace(f"{int(network):x}", f"{network}/{length}")).permits(
        str(client)) == expected


@pytest.mark.parametrize(("network", "read"), [
    ("::ffff:127.0.0.0/104", "127.0.0.0/8"), ("::ffff:7f00:1", "127.0.0.1"), ("::FFFF:127.0.0.1/128", "127.0.0.1"),
    ("::ffff:0:0/96", "0.0.0.0/0"), ("0:0:0:0:0:ffff:127.9.9.9/104", "127.9.9.9/8")])
def test_ipv4_addresses_in_ipv6_ones_are_clients_of_ipv4(network: str, read: str) -> None:
    assert str(parse_entry("deny", network)) == f"deny {read}"
    assert not access_list(f"deny {network}").permits("127.0.0.1")
    assert access_list(f"deny {network}").permits("2001:db8::1")


@pytest.mark.parametrize("length", [0, 80, 95])
def test_a_network_that_can_not_mean_clients_of_ipv4(length: int) -> None:
    with pytest.raises(ValueError, match=r"clients of IPv4 are known by their IPv4 addresses: write 10\.0\.0\.0/"):
        parse_entry("deny", f"::ffff:10.0.0.0/{length}")


@pytest.mark.parametrize("family", [4, 6])
def test_thirty_thousand_entries_cost_a_client_nothing_to_speak_of(family: int) -> None:
    """At most 20 us more than one entry, in the best of some tries: it was 8 ms."""
    dice = random.Random(1)
    large, small = AccessList(), AccessList()
    for number in range(30_000):
        network = (f"{dice.randrange(1, 190)}.{dice.randrange(256)}.{dice.randrange(256)}.0/{dice.randrange(12, 33)}"
                   if family == 4 else f"2001:{dice.randrange(1 << 16):x}:{dice.randrange(1 << 16):x}::"
                                       f"/{dice.randrange(20, 129)}")
        for access in (large, small)[: 2 if number == 0 else 1]:
            access.add(parse_entry("deny", network))
    client = "192.0.2.77" if family == 4 else "2001:db8::77"
    costs = [min(timeit.repeat(partial(access.permits, client), number=100, repeat=20)) / 100
             for access in (large, small)]
    assert costs[0] - costs[1] < 20e-6
