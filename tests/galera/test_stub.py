"""The stubs themselves: that PyMySQL and the watcher take them for nodes, good and bad."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest

from tests.galera.cluster import WATCHER
from tests.galera.stub import CACHING, XTRADB, Answer, Error, Group, Stub
from tests.harness import Gpen, wait_until

Start = Callable[..., Any]


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


def login(node: Stub) -> pymysql.connections.Connection:
    return pymysql.connect(host="127.0.0.1", port=node.port, user=WATCHER[0], password=WATCHER[1], ssl_disabled=True,
                           autocommit=True, read_timeout=5)


def rows(node: Stub, query: str) -> list[tuple[Any, ...]]:
    with login(node) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def test_it_answers_from_its_table(group: Group) -> None:
    node = group.nodes[1]
    node.said["read_only"] = "ON"
    assert rows(node, "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_index', 'nothing')") == [
        ("wsrep_local_index", "1")]
    assert rows(node, "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only')") == [("read_only", "ON")]
    assert rows(node, "SHOW GLOBAL VARIABLES LIKE 'read_only'") == [("read_only", "ON")]


def test_all_of_a_group_share_their_tables(group: Group) -> None:
    rows(group.nodes[0], "CREATE TABLE agreed.gpen_writer (name VARCHAR(32) PRIMARY KEY, version BIGINT) ENGINE=InnoDB")
    rows(group.nodes[1], "INSERT INTO agreed.gpen_writer (name, version) VALUES ('writer', 7)")
    assert rows(group.nodes[2], "SELECT version FROM agreed.gpen_writer") == [(7,)]
    told = group.tables.execute("SELECT name FROM agreed.gpen_writer")
    assert isinstance(told, Answer) and list(told.rows) == [("writer",)]
    with pytest.raises(pymysql.err.ProgrammingError, match="1146"):
        rows(group.nodes[2], "SELECT version FROM agreed.gpen_watcher")


def test_its_faults(group: Group) -> None:
    node = group.nodes[0]
    node.refusal = Error(1045, "Access denied")
    with pytest.raises(pymysql.err.OperationalError, match="1045"):
        login(node)
    node.refusal, node.error = None, Error(1047, "not yet")
    with pytest.raises(pymysql.err.OperationalError, match="1047"):
        rows(node, "SHOW GLOBAL STATUS LIKE 'x'")
    node.error, node.cut = None, 10
    with pytest.raises(pymysql.err.OperationalError, match="2013"):
        rows(node, "SHOW GLOBAL STATUS LIKE 'x'")
    node.cut, node.delay = None, 0.2
    began = time.monotonic()
    assert rows(node, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'") == [("wsrep_ready", "ON")]
    assert time.monotonic() - began >= 0.2
    node.kill()
    with pytest.raises(pymysql.err.OperationalError, match="2003"):
        login(node)


def test_one_that_is_no_mariadb() -> None:
    with Group(1, XTRADB) as group:
        with pytest.raises(pymysql.err.OperationalError, match="1109"):
            rows(group.nodes[0], "SELECT VARIABLE_NAME FROM information_schema.GLOBAL_STATUS")
        assert rows(group.nodes[0], "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('pxc_maint_mode', "
                    "'wsrep_reject_queries')") == [("pxc_maint_mode", "DISABLED")]


def test_the_watcher_takes_them_for_nodes(group: Group, gpen: Start, watcher: Start) -> None:
    front: Gpen = gpen("-r", servers=group.addresses)
    watcher("--reader", front.control)

    def verdicts() -> list[Any]:
        return [row["verdict"] for row in front.json("servers")]

    wait_until(lambda: verdicts() == ["up"] * 3, what="all nodes being up")
    group.isolate(group.nodes[2])
    wait_until(lambda: verdicts() == ["up", "up", "down"], what="the node that lost its cluster being down")
    group.form(*group.nodes)
    wait_until(lambda: verdicts() == ["up"] * 3, what="its return")
    group.nodes[0].is_stopped = True
    wait_until(lambda: verdicts() == ["down", "up", "up"], what="the node that hangs being down")
    assert front.server(0)["verdict_reason"] == "no answer for 1 s"


def test_watchers_agree_by_the_tables_of_stubs(group: Group, gpen: Start, watcher: Start) -> None:
    front: Gpen = gpen("-r", "-O", "prio", servers=[f"{address}::::{rank}" for rank, address in
                                                   enumerate(group.addresses)])
    watcher("--writer", front.control, "--agree=agreed")
    other = watcher("--writer", front.control, "--agree=agreed")

    def first() -> Any:
        return min(front.json("servers"), key=lambda row: row["prio"])["number"]

    wait_until(lambda: "up" in [row["verdict"] for row in front.json("servers")], what="the writer being used")
    assert other.command("move", group.addresses[2]).stdout == f"{group.addresses[2]} (node2) is the writer\n"
    assert first() == 2


def test_the_watcher_takes_nodes_of_xtradb_for_nodes(gpen: Start, watcher: Start) -> None:
    with Group(3, XTRADB) as group:
        for node in group.nodes:
            node.plugin = CACHING
        front: Gpen = gpen("-r", servers=group.addresses)
        judge = watcher("--reader", front.control)
        wait_until(lambda: [row["verdict"] for row in front.json("servers")] == ["up"] * 3, what="all nodes being up")
        group.nodes[1].said["pxc_maint_mode"] = "MAINTENANCE"
        wait_until(lambda: front.server(1)["verdict_reason"] == "pxc_maint_mode is MAINTENANCE", what="it draining")
        assert front.server(1)["health"] == "drain"
        group.nodes[1].said["pxc_maint_mode"] = "DISABLED"
        group.nodes[2].end_sessions()  # the next login is one of a user that the node remembers
        wait_until(lambda: group.nodes[2].logins == 2, what="the second login")
        wait_until(lambda: [row["verdict"] for row in front.json("servers")] == ["up"] * 3, what="its return")
        assert "no verdict" not in judge.stderr
