"""Watchers that agree, as processes before stub nodes: lost tables, a shared name, failback, an heir that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.galera.stub import Answer, Group
from tests.galera.watcher import Watcher
from tests.harness import Gpen, wait_until

Start = Callable[..., Any]
AGREE = "--agree=agreed"


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


@pytest.fixture
def writing(group: Group, gpen: Start) -> Callable[[], Gpen]:
    """Start a gpen in front of all nodes, which prefers the first."""
    servers = [f"{address}::::{rank}" for rank, address in enumerate(group.addresses)]
    return lambda: gpen("-r", "-O", "prio", servers=servers)


def used(front: Gpen) -> list[int]:
    """The numbers of the servers that a gpen may use."""
    return [row["number"] for row in front.json("servers") if row["verdict"] == "up"]


def choice(group: Group) -> tuple[int, str, str]:
    answer = group.tables.execute("SELECT version, writer, heir FROM agreed.gpen_writer")
    rows = list(answer.rows) if isinstance(answer, Answer) else []
    return tuple(rows[0]) if rows else (0, "", "")


def test_an_emptied_table_is_made_good(group: Group, writing: Callable[[], Gpen], watcher: Start) -> None:
    fronts = [writing(), writing()]
    watchers = [watcher("--writer", front.control, AGREE) for front in fronts]
    wait_until(lambda: [used(front) for front in fronts] == [[0], [0]], what="both using the first")
    assert watchers[0].command("move", "node1").returncode == 0
    wait_until(lambda: [used(front) for front in fronts] == [[1], [1]], what="both using the second")
    version = choice(group)[0]
    group.tables.execute("DELETE FROM agreed.gpen_writer")
    wait_until(lambda: choice(group)[0] > version and not choice(group)[2], what="the choice being there again")
    assert choice(group)[1] == group.addresses[1]
    wait_until(lambda: [used(front) for front in fronts] == [[1], [1]], what="both using it again")
    assert watchers[1].command("move", "node2").returncode == 0
    wait_until(lambda: [used(front) for front in fronts] == [[2], [2]], what="both using the third")


def test_the_second_of_a_name_takes_no_part(group: Group, writing: Callable[[], Gpen], tmp_path: Path) -> None:
    """Cloned machines: the same name, the same --socket, each in a file system of its own (here: moved away)."""
    first, second = writing(), writing()
    with Watcher(tmp_path, "--writer", str(first.control), AGREE) as one:
        wait_until(lambda: used(first) == [0], what="the first being used")
        one.socket.rename(tmp_path / "moved")
        with Watcher(tmp_path, "--writer", str(second.control), AGREE, socket=one.socket) as other:
            wait_until(lambda: "is called '" in other.stderr, what="the second telling that the name is taken")
            assert used(second) == []
            refused, taken = moved_at_once(other, "node1")
            assert "can't be the writer: this watcher takes no part in the agreement: another watcher is" in refused
            assert taken < 5
        assert used(first) == [0]


def moved_at_once(judge: Watcher, node: str) -> tuple[str, float]:
    """Why a move is refused, and after how many seconds."""
    began = time.monotonic()
    done = judge.command("move", node)
    assert done.returncode == 1
    return done.stderr, time.monotonic() - began


def test_who_is_not_on_the_list_refuses_a_move_at_once(
        group: Group, writing: Callable[[], Gpen], watcher: Start) -> None:
    """And says why it is not: here it may not write there."""
    for node in group.nodes:
        node.may_write = False
    group.tables.execute("CREATE TABLE agreed.gpen_writer (name, writer, heir, succession, version, changed)")
    group.tables.execute("CREATE TABLE agreed.gpen_watcher (name, version, active)")
    judge = watcher("--writer", writing().control, AGREE)
    wait_until(lambda: "INSERT command denied" in judge.stderr, what="it being told")
    refused, taken = moved_at_once(judge, "node1")
    assert "this watcher takes no part in the agreement: it is not on the list" in refused
    assert "INSERT command denied" in refused and taken < 5


def test_a_move_stays_where_another_watcher_would_fall_back(
        group: Group, writing: Callable[[], Gpen], watcher: Start) -> None:
    fronts = [writing(), writing()]
    options = AGREE, "--failback", f"--prefer={group.addresses[0]}"
    watchers = [watcher("--writer", front.control, *options) for front in fronts]
    wait_until(lambda: [used(front) for front in fronts] == [[0], [0]], what="both using the first")
    assert watchers[0].command("move", "node1").returncode == 0
    answer = group.tables.execute("SELECT succession FROM agreed.gpen_writer")
    assert isinstance(answer, Answer)
    assert next(iter(answer.rows))[0].startswith("(pinned),")
    watchers[0].stop()  # who was asked is gone, and who comes new falls back as little
    late = watcher("--writer", fronts[0].control, *options)
    wait_until(lambda: f'"writer": "{group.addresses[1]}"' in late.command("status", "--json").stdout,
               what="the new one following")


def test_an_heir_that_hangs_leaves_the_writer_in_place(gpen: Start, watcher: Start) -> None:
    """Two nodes and an arbitrator: half of the nodes answer, which is not more than half."""
    with Group(2) as group:
        group.form(*group.nodes, addresses=[*group.addresses, ""])
        front: Gpen = gpen("-r", "-O", "prio", servers=[f"{address}::::{rank}" for rank, address in
                                                       enumerate(group.addresses)])
        judge = watcher("--writer", front.control, AGREE)
        wait_until(lambda: used(front) == [0], what="the first being used")
        group.tables.execute(f"UPDATE agreed.gpen_writer SET heir = '{group.addresses[1]}', version = version + 1")
        group.nodes[1].is_stopped = True
        wait_until(lambda: "can't be the writer any more" in judge.stderr and used(front) == [0],
                   what="the handover being called off")
        assert choice(group)[1:] == (group.addresses[0], "")


def test_watchers_that_reach_the_nodes_at_other_addresses(
        group: Group, gpen: Start, writing: Callable[[], Gpen], watcher: Start) -> None:
    doors = [gpen("-r", servers=[address]).ctl("listen").strip() for address in group.addresses]
    behind = gpen("-r", "-O", "prio", servers=[f"{door}::::{rank}" for rank, door in enumerate(doors)])
    fronts = [writing(), behind]
    watchers = [watcher("--writer", front.control, AGREE) for front in fronts]
    wait_until(lambda: [used(front) for front in fronts] == [[0], [0]], what="both using the first")
    for number in (1, 2):
        done = watchers[number % 2].command("move", f"node{number}")
        assert done.returncode == 0, done.stderr
        wait_until(lambda number=number: [used(front) for front in fronts] == [[number], [number]], what="the move")
    assert choice(group)[0] == 5  # the first one, and for each move one with an heir, and one without


@pytest.mark.parametrize("version", [99, 99_999])
def test_a_list_from_elsewhere_has_nobody_wait_for_good(
        group: Group, writing: Callable[[], Gpen], watcher: Start, version: int) -> None:
    fronts = [writing(), writing()]
    watchers = [watcher("--writer", front.control, AGREE) for front in fronts]
    wait_until(lambda: [used(front) for front in fronts] == [[0], [0]], what="both using the first")
    group.tables.execute(f"UPDATE agreed.gpen_watcher SET version = {version}")
    wait_until(lambda: choice(group)[0] > version and not choice(group)[2], what="a choice that all follow")
    wait_until(lambda: [used(front) for front in fronts] == [[0], [0]], what="both using it again")
    assert watchers[1].command("move", "node1").returncode == 0


def test_a_long_list_of_those_that_are_gone_is_no_burden(
        group: Group, writing: Callable[[], Gpen], watcher: Start) -> None:
    """Containers have another name each time."""
    front = writing()
    judge = watcher("--writer", front.control, AGREE)
    wait_until(lambda: used(front) == [0], what="the writer")
    for number in range(3000):
        group.tables.execute(f"INSERT INTO agreed.gpen_watcher VALUES ('{'x' * 150}{number}', 1, 0)")
    assert judge.command("move", "node1").returncode == 0
    assert "agreement" not in judge.stderr and group.nodes[0].logins < 10


ALTERED = [
    "UPDATE agreed.gpen_instance SET number = 'x'", "UPDATE agreed.gpen_instance SET instance = x'ff'",
    "UPDATE agreed.gpen_watcher SET version = 'x'", "UPDATE agreed.gpen_watcher SET name = x'00'",
    "UPDATE agreed.gpen_writer SET writer = x'00'", "UPDATE agreed.gpen_writer SET heir = x'00'",
    "UPDATE agreed.gpen_writer SET succession = x'00'", "UPDATE agreed.gpen_writer SET version = 'x'"]


@pytest.mark.parametrize("statement", ALTERED)
def test_tables_that_hold_nonsense_cost_the_agreement_alone(
        group: Group, writing: Callable[[], Gpen], gpen: Start, watcher: Start, statement: str) -> None:
    front, reader = writing(), gpen("-r", servers=group.addresses)
    judge = watcher("--writer", front.control, "--reader", reader.control, AGREE)
    wait_until(lambda: used(front) == [0], what="the writer")
    group.tables.execute(statement)
    wait_until(lambda: "hold what no watcher has written" in judge.command("status").stdout, what="it being told")
    group.nodes[2].said["read_only"] = "ON"
    wait_until(lambda: used(reader) == [0, 1], what="the nodes being judged still")
    assert used(front) == [0]
    assert not any(word in judge.stderr for word in ("blind", "failed", "began anew"))


@pytest.mark.parametrize("statement", ["SET version = 0", "SET version = -7", "SET writer = '', heir = ''",
                                       "SET writer = 'nobody', succession = ''", "SET heir = 'nobody'"])
def test_a_choice_that_makes_no_sense_is_replaced(
        group: Group, writing: Callable[[], Gpen], watcher: Start, statement: str) -> None:
    front = writing()
    watcher("--writer", front.control, AGREE)
    wait_until(lambda: used(front) == [0], what="the writer")
    group.tables.execute(f"UPDATE agreed.gpen_writer {statement}, version = version + 1"
                         if "version" not in statement else f"UPDATE agreed.gpen_writer {statement}")
    wait_until(lambda: choice(group)[0] > 1 and choice(group)[1] in group.addresses and not choice(group)[2],
               what="a choice that makes sense")
    wait_until(lambda: len(used(front)) == 1, what="a writer")
