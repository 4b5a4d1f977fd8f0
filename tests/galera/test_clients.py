"""How PyMySQL and `mariadb` come through every mode of gpen, with TLS to the node as well, and how they are refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.connections import Connection

from contrib.cluster import PORT
from tests.galera.cluster import Cluster, Node
from tests.harness import PATIENCE, Gpen, refusing, wait_until

pytestmark = pytest.mark.long

WORD = "SELECT word FROM app.word WHERE id = 1"
CLIENT = "127.0.0.50"
CROWD = 10  # the least that max_connections can be

MODES = {
    "as it comes": (),
    "greeting": ("-O", "greeting 1"),
    "mysql": ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10"),
    "hash": ("-h",),
    "prio": ("-r", "-O", "prio"),
    "weight": ("-W",),
    "leastconn": ("-O", "leastconn"),
    "stubborn": ("-s",),
    "idlers": ("-r", "-O", "idlers 2"),
    "checked": ("-r", "-O", "check connect"),
}


def mariadb(*options: str, query: str = WORD) -> subprocess.CompletedProcess[str]:
    """What the command line client prints."""
    return subprocess.run(
        ["mariadb", "--no-defaults", "--user=app", "--password=app", "--batch", "--skip-column-names", *options,
         f"--execute={query}"], capture_output=True, text=True, timeout=PATIENCE, check=False)


def place(gpen: Gpen) -> tuple[str, ...]:
    """The options of `mariadb` to reach a gpen."""
    if isinstance(gpen.address, str):
        return (f"--socket={gpen.address}",)
    host, port = gpen.address
    return (f"--host={host}", f"--port={port}")


def pymysql_connection(address: tuple[str, int], **more: Any) -> Connection[Any]:
    host, port = address
    return Connection(host=host, port=port, user="app", password="app", ssl_disabled=True, read_timeout=PATIENCE,
                      **more)


def answer(connection: Connection[Any], query: str) -> Any:
    """The only value that a query gives."""
    with connection, connection.cursor() as cursor:
        cursor.execute(query)
        ((value,),) = cursor.fetchall()
        return value


@pytest.fixture
def addresses(cluster: Cluster) -> list[str]:
    return [node.address for node in cluster.nodes]


# --- they come through -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
def test_mariadb_comes_through(addresses: list[str], gpen: Callable[..., Gpen], options: tuple[str, ...]) -> None:
    front = gpen(*options, servers=addresses)
    for _ in addresses:
        assert mariadb(*place(front)).stdout == "alpha\n"
    front.ctl("idlers 0")  # sessions without a client, which go on
    wait_until(lambda: not any(row["sessions"] for row in front.json("servers")))
    front.wait_idle()


def test_mariadb_comes_through_a_unix_socket(addresses: list[str], gpen: Callable[..., Gpen], tmp_path: Path) -> None:
    assert mariadb(*place(gpen(servers=addresses, listen=str(tmp_path / "front")))).stdout == "alpha\n"


def test_mariadb_reaches_a_node_s_unix_socket(cluster: Cluster, gpen: Callable[..., Gpen]) -> None:
    assert mariadb(*place(gpen(servers=[f"{cluster.nodes[0].directory}/sql"]))).stdout == "alpha\n"


@pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
def test_tls_reaches_the_node(cluster: Cluster, addresses: list[str], gpen: Callable[..., Gpen],
                              options: tuple[str, ...]) -> None:
    """The client sees the node's own certificate."""
    front = gpen(*options, servers=addresses)
    done = mariadb(*place(front), f"--ssl-ca={cluster.certificate}", "--ssl-verify-server-cert",
                   query="SHOW STATUS LIKE 'Ssl_version'")
    assert "TLSv1" in done.stdout, done


@contextmanager
def listening_to_headers(cluster: Cluster) -> Iterator[None]:
    """The nodes believe a PROXY header from this machine."""
    for node in cluster.nodes:
        node.assign("proxy_protocol_networks", "'127.0.0.1'")
    try:
        yield
    finally:
        for node in cluster.nodes:
            node.assign("proxy_protocol_networks", "''")


@pytest.mark.parametrize("mode", [(), MODES["mysql"]], ids=["plain", "mysql"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_node_sees_the_client_s_address(cluster: Cluster, addresses: list[str], gpen: Callable[..., Gpen],
                                            version: str, mode: tuple[str, ...]) -> None:
    front = gpen(*mode, "-O", f"proxy_protocol {version}", servers=addresses)
    assert isinstance(front.address, tuple)
    with listening_to_headers(cluster):
        connection = pymysql_connection(front.address, bind_address=CLIENT)
        assert answer(connection, "SELECT USER()") == f"app@{CLIENT}"
        assert mariadb(*place(front)).stdout == "alpha\n"
        tls = mariadb(*place(front), f"--ssl-ca={cluster.certificate}", "--ssl-verify-server-cert")
        assert tls.stdout == "alpha\n", tls


# --- they are refused ------------------------------------------------------------------------------------------------


def assert_refused(front: Gpen, code: int) -> None:
    """Both clients tell their user the number, and that gpen says so."""
    told = mariadb(*place(front), "--skip-ssl")
    assert told.returncode == 1
    assert told.stderr.startswith(f"ERROR {code} (") and "gpen: " in told.stderr, told
    assert f"{code} - gpen: " in mariadb(*place(front), "--ssl").stderr
    assert isinstance(front.address, tuple)
    with pytest.raises(pymysql.err.OperationalError) as error:
        pymysql_connection(front.address)
    assert error.value.args[0] == code
    assert error.value.args[1].startswith("gpen: ")


def test_no_node_is_usable(gpen: Callable[..., Gpen]) -> None:
    with refusing() as nobody:
        assert_refused(gpen("-r", "-O", "mysql", servers=[nobody]), 1047)


def test_the_limits_are_full(addresses: list[str], gpen: Callable[..., Gpen]) -> None:
    front = gpen("-r", "-O", "mysql", servers=[f"{addresses[0]}:1:1"])
    assert isinstance(front.address, tuple)
    with pymysql_connection(front.address):
        assert_refused(front, 1040)


@contextmanager
def crowded(node: Node) -> Iterator[None]:
    """A node at its max_connections, and with root on the one more that it keeps for such: any other client would get
    that one up to the point where it has told who it is, and 1040 only then."""
    usual = node.variable("max_connections")
    node.assign("max_connections", CROWD)
    try:
        with ExitStack() as stack:
            with pytest.raises(pymysql.err.OperationalError, match="1040"):
                for _ in range(CROWD + 1):
                    stack.enter_context(pymysql_connection((node.host, PORT)))
            wait_until(lambda: has_entered(stack, node), what="the place that the refused one had until then")
            yield
    finally:
        node.assign("max_connections", usual)


def has_entered(stack: ExitStack, node: Node) -> bool:
    try:
        stack.enter_context(node.session())
    except pymysql.err.OperationalError:
        return False
    return True


def test_a_node_at_its_limit_is_failed_over(cluster: Cluster, addresses: list[str], gpen: Callable[..., Gpen]) -> None:
    full = cluster.nodes[0]
    front = gpen("-r", "-O", "mysql", "-O", "greeting 1", "-b", "0", servers=addresses)
    assert isinstance(front.address, tuple)
    with crowded(full):
        names = {answer(pymysql_connection(front.address), "SELECT @@wsrep_node_name") for _ in range(12)}
    assert names == {node.name for node in cluster.nodes} - {full.name}
