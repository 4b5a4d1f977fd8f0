"""Nodes that call themselves otherwise than they are reached: by a clock turned by hand, and before stubs."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpen.galera.cluster import Cluster
from gpen.galera.gpen_client import GpenClient
from gpen.galera.members import Members, mapping
from gpen.galera.plan import Addition, Changes, Plans
from gpen.galera.report import Report, View
from gpen.gpenctl.link import parse_target
from gpen.model.address import Address
from tests.galera.stub import STATUS, VARIABLES, Group, Stub
from tests.harness import Gpen, free_port, wait_until

Start = Callable[..., Any]
A, B, C = "10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306"
INSIDE = ("172.17.0.1:3306", "172.17.0.2:3306", "172.17.0.3:3306")


def report(index: int, *members: str) -> Report:
    return Report(4, "Synced", True, "Primary", View("u", 1, len(members)), index, members, 0, f"node{index}", False,
                  "NONE", False, False)


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


@pytest.mark.parametrize(("members", "answering", "addresses"), [
    ((A, B, C), (A, B, C), [A, B, C]),
    (INSIDE, (A, B, C), [A, B, C]),
    (("AUTO", "AUTO", "AUTO"), (A, B, C), [A, B, C]),
    ((INSIDE[0], "", INSIDE[2]), (A, None, C), [A, C]),  # an arbitrator
    (INSIDE, (A, None, C), [A, INSIDE[1], C]),  # nobody has met it
    (("10.0.0.1", "10.0.0.2", C), (A, None, C), [A, B, C]),
    (("AUTO", "AUTO", "AUTO"), (A, None, None), [A, "AUTO", "AUTO"]),
    ((), (), []),
])
def test_a_node_that_answers_is_found_by_its_index(
        members: tuple[str, ...], answering: tuple[str | None, ...], addresses: list[str]) -> None:
    reports = {address: report(index, *members) for index, address in enumerate(answering) if address}
    assert Members().addresses(reports) == addresses


def test_one_that_has_gone_silent_by_what_it_called_itself() -> None:
    places = Members()
    for index, address in enumerate((A, B, C)):
        places.saw(address, report(index, *INSIDE))
    left = report(1, INSIDE[0], INSIDE[2])  # another view, in which the indexes are others
    assert places.addresses({C: left}) == [A, C]
    assert places.may_include(A, [A, C], [A, B, C]) and not places.may_include(B, [A, C], [A, B, C])
    places.forget(A)
    assert places.addresses({C: left}) == [INSIDE[0], C]


def test_one_without_an_address_of_its_own_may_be_any_that_is_left() -> None:
    places = Members()
    for index, address in enumerate((A, B, C)):
        places.saw(address, report(index, "AUTO", "AUTO", "AUTO"))
    addresses = places.addresses({A: report(0, "AUTO", "AUTO")})
    assert addresses == [A, "AUTO"]
    assert places.may_include(B, addresses, [A, B, C])
    assert not places.may_include(B, places.addresses({A: report(0, "AUTO")}), [A, B, C])


def test_what_all_watchers_call_a_node() -> None:
    places = Members()
    for index, address in enumerate((A, B, C)):
        places.saw(address, report(index, "172.17.0.1:3306", "AUTO", "172.17.0.3"))
    assert [places.called(address) for address in (A, B, C, "10.0.0.9:3306")] == [
        "172.17.0.1:3306", B, "172.17.0.3:3306", "10.0.0.9:3306"]
    assert [places.known_as(called) for called in ("172.17.0.1:3306", B, "172.17.0.3:3306", "172.17.0.9:3306")] == [
        A, B, C, "172.17.0.9:3306"]
    places.saw(C, report(2, "", "", "172.17.0.1"))  # as one of the others does
    assert [places.called(address) for address in (A, B, C)] == [A, B, C]


def test_the_operator_knows_where_they_are() -> None:
    places = Members(mapping(["172.17.0.1=10.0.0.1", f"{INSIDE[1]}=10.0.0.2:3307", "[fd00::1]=10.0.0.9"]))
    assert places.addresses({C: report(2, *INSIDE)}) == [A, "10.0.0.2:3307", C]


@pytest.mark.parametrize("pair", ["A", "=", "10.0.0.1=", "=10.0.0.1", "AUTO=10.0.0.1", "10.0.0.1=x:y:z:0:1:2:3"])
def test_a_mapping_that_is_none(pair: str) -> None:
    with pytest.raises(ValueError, match="is not A=B"):
        mapping([pair])


def test_a_writer_that_hangs_is_one_that_may_write_whatever_it_calls_itself() -> None:
    for members in (INSIDE, (A, B, C), ("AUTO", "AUTO", "AUTO")):
        cluster = Cluster()
        for index, address in enumerate((A, B, C)):
            cluster.add(address)
            cluster.saw(address, report(index, *members))
        cluster.judge(100.0)
        cluster.hangs(A, "no answer for 1 s")
        assert A in cluster.writable() and A in cluster.present(), members
        for index, address in enumerate((B, C)):  # it was dropped
            cluster.saw(address, replace(report(index, *members[1:]), view=View("u", 2, 2)))
        cluster.judge(101.0)
        assert A not in cluster.writable() and A not in cluster.present(), members


# --- the watcher -----------------------------------------------------------------------------------------------------


def servers(gpen: Gpen) -> set[str]:
    return {f"{row['address']}:{row['port']}" for row in gpen.json("servers")}


def test_addresses_that_nobody_reaches_are_not_added(group: Group, gpen: Start, watcher: Start) -> None:
    group.form(*group.nodes, addresses=[f"127.0.0.1:{free_port()}" for _ in group.nodes])
    front: Gpen = gpen("-r", servers=group.addresses[:2])
    judge = watcher("--reader", front.control, "--discover")
    wait_until(lambda: "the cluster tells of it, and it is not added: connection refused" in judge.stderr,
               what="the third node being tried")
    assert judge.stderr.count("is not added") == 1  # the first two are known by their indexes
    assert servers(front) == set(group.addresses[:2])
    assert judge.command("status").returncode == 0


def test_a_list_of_members_that_lies_costs_little(group: Group, gpen: Start, watcher: Start) -> None:
    front: Gpen = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control, "--discover")
    wait_until(lambda: [row["verdict"] for row in front.json("servers")] == ["up"] * 3, what="all nodes being up")
    group.form(*group.nodes, addresses=[f"127.1.{number >> 8}.{number & 255}:1" for number in range(15_000)])
    wait_until(lambda: judge.stderr.count("is not added") >= 50, what="some of them being tried")
    tasks = Path(f"/proc/{judge.process.pid}/task")
    assert len(list(tasks.iterdir())) < 30
    group.nodes[0].said["read_only"] = "ON"
    wait_until(lambda: front.server(0)["verdict"] == "down", 3, "the nodes being judged meanwhile")


def test_a_node_is_added_where_it_is_mapped_to(group: Group, gpen: Start, watcher: Start) -> None:
    inside = [f"127.0.0.1:{free_port()}" for _ in group.nodes]
    group.form(*group.nodes, addresses=inside)
    front: Gpen = gpen("-r", servers=group.addresses[:2])
    judge = watcher("--reader", front.control, "--discover", f"--map={inside[2]}={group.addresses[2]}")
    wait_until(lambda: [row["verdict"] for row in front.json("servers")] == ["up"] * 3, what="the third being added")
    assert servers(front) == set(group.addresses) and "not added" not in judge.stderr


def test_a_node_of_another_cluster_at_such_an_address_is_not_added(group: Group, gpen: Start, watcher: Start) -> None:
    other = Stub("other", {**STATUS, **VARIABLES, "wsrep_cluster_state_uuid": "another", "wsrep_node_name": "other"})
    other.start()
    try:
        group.form(*group.nodes, addresses=[*group.addresses[:2], other.address])
        front: Gpen = gpen("-r", servers=group.addresses[:2])
        judge = watcher("--reader", front.control, "--discover")
        wait_until(lambda: other.questions > 0, what="it being asked")
        wait_until(lambda: judge.command("status").returncode == 0, what="all being well")
        assert servers(front) == set(group.addresses[:2])
    finally:
        other.kill()


def test_a_node_with_a_new_address_inside_is_not_added_twice(group: Group, gpen: Start, watcher: Start) -> None:
    """A container that was started again: it has another address, and does not yet answer at its old one."""
    front: Gpen = gpen("-r", servers=group.addresses)
    judge = watcher("--reader", front.control, "--discover")
    wait_until(lambda: judge.command("status").returncode == 0, what="all being well")
    old = group.nodes[2]
    new = Stub(old.name, old.said)
    new.start()
    try:
        old.kill()
        wait_until(lambda: front.server(2)["verdict"] == "down", what="the node being down")
        group.form(*group.nodes, addresses=[*group.addresses[:2], new.address])
        wait_until(lambda: new.questions > 0, what="the new address being tried")
        old.start()
        wait_until(lambda: judge.command("status").returncode == 0, what="the node being back")
        assert servers(front) == set(group.addresses)
    finally:
        new.kill()


def test_what_listens_there_ends_nothing(group: Group, gpen: Start, watcher: Start) -> None:
    strange = Stub("strange", greeting=b"\x00\x00\x00\x00")
    strange.start()
    try:
        group.form(*group.nodes, addresses=[*group.addresses[:2], strange.address])
        front: Gpen = gpen("-r", servers=group.addresses[:2])
        judge = watcher("--reader", front.control, "--discover")
        wait_until(lambda: "it is not added" in judge.stderr, what="it being tried")
        assert judge.command("status").returncode == 0 and "Traceback" not in judge.stderr
    finally:
        strange.kill()


def test_a_number_that_another_server_has_got_meanwhile_is_left_to_it(gpen: Start) -> None:
    """Nothing is told of that: it shows at the look after, and the next round takes another number."""
    front: Gpen = gpen("-r", servers=["127.0.0.1:1"])
    news: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
    balancer = GpenClient(parse_target(front.control), False, lambda _, rows, problem: news.put((rows, problem)))
    balancer.start()
    try:
        assert [row["number"] for row in news.get(timeout=10)[0]] == [0]
        front.ctl("server 1 address 127.0.0.1:9 prio 4")
        before = [{**row, "for": 0} for row in front.json("servers")]
        balancer.want(Plans(), Changes((), (Addition(1, Address("127.0.0.1", 2), 99),)), 1)
        rows, problem = news.get(timeout=10)
        assert [{**row, "for": 0} for row in front.json("servers")] == before
        assert ([row["number"] for row in rows], problem) == ([0, 1], "")
        front.ctl("no server 0", "no server 1", "server 0 address 127.0.0.1:9")
        balancer.want(Plans(), Changes((0,)), 2)
        rows, problem = news.get(timeout=10)
        assert ([row["port"] for row in rows], problem) == ([9], "")
    finally:
        balancer.stop()
