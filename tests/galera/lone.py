"""A cluster of one mariadbd that remembers hosts, and blocks the address of who leaves too often without a login.

It looks names up as servers do that nobody has told not to, in a hosts file of its own. An address without a name is
remembered as well, but for 127.0.0.1: so clients that shall be counted come from another one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
from pymysql.connections import Connection

from contrib.cluster import (
    MYSQL,
    PORT,
    SQL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    ClusterError,
    claim_addresses,
    install_data,
    provider,
)
from tests.galera.cluster import SCHEMA
from tests.harness import knowing, wait_until

LIMIT = 5  # of connections in a row without a login

OPTIONS = """\
--no-defaults --datadir={0}/data --tmpdir={0} --socket={0}/sql --pid-file={0}/pid --log-error={0}/error.log
--bind-address={1} --port={2} --skip-log-bin --performance-schema=ON --max-connections=100 --binlog-format=ROW
--innodb-buffer-pool-size=32M --innodb-log-file-size=16M --innodb-use-native-aio=0 --innodb-doublewrite=0
--innodb-flush-log-at-trx-commit=0 --innodb-autoinc-lock-mode=2 --wsrep-on=ON --wsrep-provider={3}
--wsrep-cluster-address=gcomm:// --wsrep-cluster-name=lone --wsrep-node-name=lone --wsrep-node-address={1}
--wsrep-node-incoming-address={1}:{2} --wsrep-new-cluster
"""
PROVIDER = "--wsrep-provider-options=base_host={0};gmcast.listen_addr=tcp://{0}:4567;gcache.size=16M;pc.recovery=FALSE"


class Lone:
    """The server; use it in a ``with``. Skips where names can't be what a test wants (see `knowing`)."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is a new one that the server's user can reach."""
        self.directory = directory
        self._claim, self.net = claim_addresses()
        self.host = f"{self.net}11"
        self.address = f"{self.host}:{PORT}"
        self.balancer = f"{self.net}2"  # where gpen's connections come from
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lone:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._claim.close()

    def _start(self) -> None:
        for place in (self.directory, self.directory / "data"):
            place.mkdir()
            shutil.chown(place, MYSQL["user"], MYSQL["group"])
        install_data(self.directory, MYSQL, SCHEMA)
        options = [*OPTIONS.format(self.directory, self.host, PORT, provider()).split(), PROVIDER.format(self.host)]
        # Should pytest be killed, the kernel ends the server.
        become = ["setpriv", "--pdeathsig=KILL", "--reuid=mysql", "--regid=mysql", "--clear-groups"]
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*knowing(self.directory), *become, "mariadbd", *options], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, cwd=self.directory, start_new_session=True)
        wait_until(self._serves, START_SECONDS, f"{self.address} being synced ({self.directory}/error.log)")

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ClusterError((self.directory / "error.log").read_text())
        with contextlib.suppress(pymysql.MySQLError, OSError):
            return self.sql("SHOW STATUS LIKE 'wsrep_ready'") == [("wsrep_ready", "ON")]
        return False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """As long as this lasts the server is stopped, and the kernel accepts connections for it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query by root. Raises pymysql.MySQLError or OSError."""
        connection = Connection(user="root", read_timeout=SQL_SECONDS, autocommit=True, ssl_disabled=True,
                                defer_connect=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.settimeout(SQL_SECONDS)
            sock.connect(f"{self.directory}/sql")
            connection.connect(sock)
            with connection, connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())

    def status(self, name: str) -> int:
        """A status variable."""
        return int(self.sql(f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])

    def make_usual(self) -> None:
        """Nobody is blocked, the limit is low, and the balancer's address is known."""
        self.sql(f"SET GLOBAL max_connect_errors = {LIMIT}")
        self.sql("SET GLOBAL proxy_protocol_networks = ''")
        self.sql("FLUSH HOSTS")
        log_in((self.host, PORT), bind_address=self.balancer)
        assert self.errors() == 0

    def errors(self, address: str = "") -> int:
        """How many connections in a row an address, or the balancer's, has left without a login: what counts."""
        rows = self.sql("SELECT SUM_CONNECT_ERRORS FROM performance_schema.host_cache WHERE HOST_VALIDATED = 'YES' "
                        f"AND IP = '{address or self.balancer}'")
        return int(rows[0][0])


def log_in(address: tuple[str, int] | str, password: str = "app", **more: Any) -> None:
    """Come as an application does, and leave as one. Raises pymysql.err.OperationalError."""
    assert isinstance(address, tuple)
    host, port = address
    Connection(host=host, port=port, user="app", password=password, ssl_disabled=True, read_timeout=SQL_SECONDS,
               **more).close()
