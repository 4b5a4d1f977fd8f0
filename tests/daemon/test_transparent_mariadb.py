"""A real MariaDB sees who its clients are, and grants by that: where gpen is transparent, and by a header with TLVs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.connections import Connection

from contrib.cluster import MYSQL, install_data
from tests.harness import PATIENCE, Gpen, free_port, needs_root, wait_until
from tests.routed import CLIENT, CLIENT6, FAR, NEAR, NEAR6, OTHER, SERVER, SERVER6, Routed, routed

Start = Callable[..., Gpen]

pytestmark = [needs_root, pytest.mark.long,
              pytest.mark.skipif(shutil.which("mariadbd") is None, reason="mariadbd is not installed")]

PORT = 3306
OPTIONS = """--no-defaults --datadir={0}/data --tmpdir={0} --socket={0}/sql --pid-file={0}/pid --log-error={0}/error.log
--bind-address=* --port={1} --skip-log-bin --skip-name-resolve --innodb-buffer-pool-size=32M --innodb-log-file-size=16M
--innodb-use-native-aio=0 --innodb-flush-log-at-trx-commit=0"""


class Site:
    """The machines, with a MariaDB on the server's."""

    def __init__(self, net: Routed, directory: Path) -> None:
        self.net = net
        self.directory = directory

    def root(self, query: str) -> None:
        """Run a query as root, over the server's own socket. Raises OSError and pymysql.MySQLError while it starts."""
        own: Connection[Any] = Connection(user="root", autocommit=True, defer_connect=True)
        with socket.socket(socket.AF_UNIX) as sock:  # by ourselves: PyMySQL leaves open what it could not connect
            sock.connect(f"{self.directory}/sql")
            own.connect(sock)
            with own, own.cursor() as cursor:
                cursor.execute(query)

    def user(self, address: tuple[str, int], source: str, **more: Any) -> str:
        """Whom the server takes a client for that comes from there. Raises pymysql.err.OperationalError."""
        with self.net.connect(address, (source, 0)) as sock:
            connection: Connection[Any] = Connection(user="app", password="app", defer_connect=True, **more)
            connection.connect(sock)
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT USER()")
                ((name,),) = cursor.fetchall()
                return str(name)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with routed() as net, tempfile.TemporaryDirectory(prefix="gpen-transparent-") as path:
        directory = Path(path)
        directory.chmod(0o755)
        for place in (directory, directory / "data"):
            place.mkdir(exist_ok=True)
            shutil.chown(place, MYSQL["user"], MYSQL["group"])
        install_data(directory, MYSQL, "SELECT 1;\n")
        become = ["setpriv", "--pdeathsig=KILL", "--reuid=mysql", "--regid=mysql", "--clear-groups"]
        command = [*net.server.wrapper, *become, "mariadbd", *OPTIONS.format(directory, PORT).split()]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            site = Site(net, directory)

            def serves() -> bool:
                assert process.poll() is None, (directory / "error.log").read_text()
                with contextlib.suppress(OSError, pymysql.MySQLError):
                    site.root("SELECT 1")
                    return True
                return False

            try:
                wait_until(serves, 60, "MariaDB")
                for host in (CLIENT, CLIENT6):
                    site.root(f"CREATE USER 'app'@'{host}' IDENTIFIED BY 'app'")
                yield site
            finally:
                process.kill()


@pytest.mark.parametrize(("near", "client", "server"), [
    (NEAR, CLIENT, SERVER), (f"[{NEAR6}]", CLIENT6, f"[{SERVER6}]")], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("workers", [0, 2])
def test_it_grants_by_the_client_s_host(site: Site, gpen: Start, near: str, client: str, server: str, workers: int,
                                        ) -> None:
    balancer = gpen("-r", "-O", "mysql", "-O", "check connect", "-O", "transparent", "-O", f"workers {workers}",
                    listen=f"{near}:{free_port()}", servers=[f"{server}:{PORT}"], wrapper=site.net.gpen.wrapper)
    assert isinstance(balancer.address, tuple)
    assert site.user(balancer.address, client) == f"app@{client}"
    if client == CLIENT:
        with pytest.raises(pymysql.err.OperationalError, match=rf"Host '{OTHER}' is not allowed to connect"):
            site.user(balancer.address, OTHER)
    assert (balancer.server(0)["health"], balancer.server(0)["failures"]) == ("up", 0)  # the client's fault
    balancer.ctl("no transparent")
    with pytest.raises(pymysql.err.OperationalError, match="gpen: no server is usable"):
        site.user(balancer.address, client)
    assert "greeted with error 1130" in balancer.stderr


def test_it_reads_a_header_with_tlvs(site: Site, gpen: Start) -> None:
    """As long as that is short: its own limit is some 200 bytes."""
    site.root(f"SET GLOBAL proxy_protocol_networks = '{FAR}'")
    try:
        balancer = gpen("-r", "-O", "proxy_protocol v2", "-O", "proxy_v2_options ssl,authority,unique-id,crc32c",
                        listen=f"{NEAR}:{free_port()}", servers=[f"{SERVER}:{PORT}"], wrapper=site.net.gpen.wrapper)
        assert isinstance(balancer.address, tuple)
        assert site.user(balancer.address, CLIENT, read_timeout=PATIENCE) == f"app@{CLIENT}"
    finally:
        site.root("SET GLOBAL proxy_protocol_networks = ''")
