"""The memory of clients: the least recently seen is forgotten first, and nothing costs more in a large table."""

from __future__ import annotations

import time

import pytest

from gpen.model.client import ClientTable
from tests.model.world import World

NO_LIMIT = 1_000_000


def table_of(*addresses: str, limit: int = NO_LIMIT) -> ClientTable:
    table = ClientTable()
    for now, address in enumerate(addresses):
        table.touch(address, now, limit, 0)
    return table


def addresses(table: ClientTable) -> list[str]:
    return [client.address for client in table]


def test_the_one_seen_last_comes_first() -> None:
    assert addresses(table_of("a", "b", "c", "a")) == ["a", "c", "b"]


def test_the_least_recently_seen_is_forgotten_first() -> None:
    table = table_of("a", "b", "a", "c", limit=2)
    assert addresses(table) == ["c", "a"] and table.get("b") is None
    assert len(table) == 2


def test_shrinking() -> None:
    table = table_of("a", "b", "c", "d")
    table.shrink(1)
    assert addresses(table) == ["d"]


def test_a_touch_counts() -> None:
    table = table_of("a", "b")
    client = table.touch("a", 7, NO_LIMIT, 0)
    assert (client.connects, client.last, client.number) == (2, 7, 0)
    assert table.touch("c", 7, NO_LIMIT, 0).number == 2, "a number is never used again"


def test_tracking_forgets_the_server() -> None:
    server = World(1).server(0)
    table = ClientTable()
    table.stick(table.touch("a", 100, NO_LIMIT, 10), server)
    assert table.touch("a", 110, NO_LIMIT, 10).server is server, "the time itself is within it"
    assert table.touch("a", 120.1, NO_LIMIT, 10).server is None, "each visit begins it anew"


def test_tracking_0_never_forgets() -> None:
    server = World(1).server(0)
    table = ClientTable()
    table.stick(table.touch("a", 0, NO_LIMIT, 0), server)
    assert table.touch("a", 1e9, NO_LIMIT, 0).server is server


def test_a_glimpse_changes_nothing() -> None:
    server = World(1).server(0)
    table = table_of("a", "b")
    client = table.touch("a", 5, NO_LIMIT, 0)
    table.stick(client, server)
    table.touch("b", 6, NO_LIMIT, 0)
    assert table.glimpse("a", 10, 0).server is server
    assert table.glimpse("a", 100, 10).server is None
    assert table.glimpse("new", 10, 0).server is None
    assert addresses(table) == ["b", "a"] and client.connects == 2 and client.last == 5


def test_a_touch_costs_the_same_in_a_large_table() -> None:
    small, large = ClientTable(), ClientTable()
    for i in range(200_000):
        large.touch(str(i), 0, 200_000, 0)
    for i in range(10):
        small.touch(str(i), 0, 10, 0)
    assert cost(large, 200_000) < 10 * cost(small, 10) + 0.005


def cost(table: ClientTable, limit: int) -> float:
    """CPU seconds of 5,000 touches, known and new clients by turns; the best of five."""
    best = float("inf")
    for attempt in range(5):
        begin = time.thread_time()
        for i in range(2_500):
            table.touch(str(i % 10), 1, limit, 0)
            table.touch(f"new {attempt} {i}", 1, limit, 0)
        best = min(best, time.thread_time() - begin)
    return best


def test_sessions_are_counted_by_address() -> None:
    table = table_of("a", "b", "a")
    a, b = table.get("a"), table.get("b")
    assert a is not None and b is not None
    assert [table.sessions_of(address) for address in "abc"] == [2, 1, 0]
    table.shrink(0)
    again = table.touch("a", 9, NO_LIMIT, 0)
    assert again is not a and table.sessions_of("a") == 3, "whoever is forgotten has its sessions nevertheless"
    for client in (a, again, a, b):
        table.leave(client)
    assert [table.sessions_of(address) for address in "abc"] == [0, 0, 0]
    with pytest.raises(KeyError):
        table.leave(a)
