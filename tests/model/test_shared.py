"""What peers are told of clients, and what they tell: the newer counts, and both sides come to the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpen.model.client import TIE
from gpen.model.server import Server
from gpen.model.shared import Journal, SharedTable
from tests.model.world import World

NO_LIMIT = 1_000_000


@pytest.fixture
def servers() -> list[Server]:
    world = World(3)
    return [world.server(number) for number in range(3)]


def seen(table: SharedTable, address: str, server: Server, now: float) -> None:
    table.stick(table.touch(address, now, NO_LIMIT, 0), server)


def server_of(table: SharedTable, address: str) -> Server | None:
    client = table.get(address)
    return None if client is None else client.server


# --- learning ---------------------------------------------------------------------------------------------------------


def test_a_client_that_a_peer_tells_of_counts_as_if_it_had_been_here(servers: list[Server]) -> None:
    table = SharedTable()
    assert table.learn("a", servers[1], 90.0, NO_LIMIT, "lb2")
    assert table.touch("a", 100.0, NO_LIMIT, 30).server is servers[1]
    table.learn("b", servers[1], 60.0, NO_LIMIT, "lb2")
    assert table.touch("b", 100.0, NO_LIMIT, 30).server is None, "it was there too long ago"


def test_the_newer_counts(servers: list[Server]) -> None:
    table = SharedTable()
    seen(table, "a", servers[0], 100.0)
    assert not table.learn("a", servers[1], 99.0, NO_LIMIT, "lb2") and server_of(table, "a") is servers[0]
    assert table.learn("a", servers[1], 101.0, NO_LIMIT, "lb2") and server_of(table, "a") is servers[1]
    assert not table.learn("a", servers[2], 100.5, NO_LIMIT, "lb3"), "another peer has said it before"


def test_a_peer_corrects_itself(servers: list[Server]) -> None:
    table = SharedTable()
    table.learn("a", servers[0], 100.0, NO_LIMIT, "lb2")
    assert table.learn("a", servers[2], 100.0 - TIE / 2, NO_LIMIT, "lb2") and server_of(table, "a") is servers[2]


def test_a_client_without_a_server_takes_any(servers: list[Server]) -> None:
    table = SharedTable()
    table.touch("a", 100.0, NO_LIMIT, 0)
    assert table.learn("a", servers[1], 50.0, NO_LIMIT, "lb2") and server_of(table, "a") is servers[1]
    client = table.get("a")
    assert client is not None and client.last == 100.0, "it has been here since"


@given(st.floats(-2 * TIE, 2 * TIE).filter(lambda lead: abs(abs(lead) - TIE) > 1e-6), st.permutations([0, 1]))
def test_two_that_have_seen_a_client_at_one_moment_come_to_the_same(lead: float, order: list[int]) -> None:
    world = World(2)
    first, second = (world.server(number) for number in order)
    here, there = SharedTable(), SharedTable()
    seen(here, "a", first, 100.0)
    seen(there, "a", second, 100.0 + lead)
    here.learn("a", second, 100.0 + lead, NO_LIMIT, "there")
    there.learn("a", first, 100.0, NO_LIMIT, "here")
    assert server_of(here, "a") is server_of(there, "a")


def test_old_ones_push_nobody_out(servers: list[Server]) -> None:
    table = SharedTable()
    for number in range(4):
        seen(table, f"own{number}", servers[0], 100.0 + number)
    for number in range(9):
        table.learn(f"old{number}", servers[1], 50.0 + number, 4, "lb2")
    assert {client.address for client in table} == {f"own{number}" for number in range(4)}
    table.learn("new", servers[1], 200.0, 4, "lb2")
    assert {client.address for client in table} == {"own1", "own2", "own3", "new"}


# --- telling ----------------------------------------------------------------------------------------------------------


def test_what_is_new_here_is_noted_and_what_was_learnt_is_not(servers: list[Server]) -> None:
    table = SharedTable()
    table.learn("a", servers[0], 1.0, NO_LIMIT, "lb2")
    seen(table, "b", servers[0], 2.0)
    table.remember("c", servers[0], 3.0, NO_LIMIT)
    seen(table, "a", servers[0], 4.0)
    assert table.journal.since(0, 99) == ["b", "c", "a"]
    client = table.get("a")
    assert client is not None and client.learnt_from is None, "nobody but we say so from now on"


def test_a_memory_goes_on_where_another_ends(servers: list[Server]) -> None:
    old, new = SharedTable(), SharedTable()
    client = old.touch("a", 1.0, NO_LIMIT, 0)
    old.stick(client, servers[0])
    new.succeed(old)
    assert new.is_memory_of(old) and new.touch("a", 2.0, NO_LIMIT, 0) is client
    old.leave(client)
    new.leave(client)
    assert new.sessions_of("a") == 0 and new.touch("b", 3.0, NO_LIMIT, 0).number == 1


def test_the_journal_calls_once_until_somebody_reads() -> None:
    journal, calls = Journal(), []
    journal.on_news = lambda: calls.append(journal.end)
    for address in "abc":
        journal.add(address)
    assert calls == [1]
    journal.read()
    journal.add("d")
    assert calls == [1, 4]


@given(st.lists(st.one_of(st.integers(0, 5), st.just("add")), max_size=60), st.integers(1, 9))
def test_a_journal_loses_only_what_it_says_that_it_has_forgotten(steps: list[int | str], batch: int) -> None:
    journal, position, read, added = Journal(), 0, [], 0
    for step in steps:
        if step == "add":
            journal.add(str(added))
            added += 1
        else:
            journal.trim(int(step))
        news = journal.since(position, batch)
        if news is None:
            assert position < journal.begin
            position = journal.begin
        else:
            read += news
            assert news == [str(number) for number in range(position, position + len(news))]
            position += len(news)
    assert journal.end == added and journal.end - journal.begin <= added
