"""A MariaDB Galera cluster of three nodes on this machine, for `make demo-galera` and for the tests.

Every node has a loopback address and a directory, and all use the same ports. The first node's data is installed with
users and schema, the others take theirs from it. Not durable, small, and quick to notice a dead member.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor

NODES = 3
PORT = 3306
GROUP_PORT = 4567
START_SECONDS = 60.0
STOP_SECONDS = 30.0
SQL_SECONDS = 20.0
PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb", "rsync", "setpriv", "openssl")
PROVIDERS = ("/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so", "/usr/lib/libgalera_smm.so")

CONFIGURATION = """\
[mariadbd]
# a test finds the node's name in the greeting, before any query
version={version}-{name}
datadir={directory}/data
tmpdir={directory}
socket={directory}/sql
pid-file={directory}/pid
log-error={directory}/error.log
bind-address={host}
port={port}
server-id={number}
skip-name-resolve
skip-log-bin
max_connections=300
performance_schema=OFF
innodb_buffer_pool_size=32M
innodb_log_file_size=16M
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
innodb_use_native_aio=0
innodb_buffer_pool_dump_at_shutdown=0
innodb_buffer_pool_load_at_startup=0
aria_pagecache_buffer_size=1M
key_buffer_size=1M
query_cache_size=0
binlog_format=ROW
innodb_autoinc_lock_mode=2
wsrep_on=ON
wsrep_provider={provider}
wsrep_cluster_name={cluster}
wsrep_cluster_address=gcomm://{members}
wsrep_node_name={name}
wsrep_node_address={host}
wsrep_node_incoming_address={host}:{port}
wsrep_sst_method=rsync
wsrep_sst_receive_address={host}:4444
wsrep_notify_cmd={notify}
ssl_cert={certificate}
ssl_key={key}
wsrep_provider_options="{options}"
[sst]
# the certificate is for clients, not for rsync
ssl-mode=DISABLED
"""

OPTIONS = ("base_host={host}", "base_port=4567", "gmcast.listen_addr=tcp://{host}:4567", "ist.recv_addr={host}:4568",
           "gcache.size=16M", "pc.recovery=FALSE")
# A dead member is noticed within two seconds instead of six. With less, or when a join message that was lost is sent
# again only after the usual second, the others can fall apart for a moment when a member comes back that was not dead.
QUICK = ("evs.keepalive_period=PT0.3S", "evs.inactive_check_period=PT0.25S", "evs.suspect_timeout=PT1.5S",
         "evs.inactive_timeout=PT3S", "evs.join_retrans_period=PT0.2S")

MYSQL: Mapping[str, Any] = {"user": "mysql", "group": "mysql", "extra_groups": []}


class ClusterError(Exception):
    """A node did not do what it was told; with the end of its log."""


def find_servers() -> None:
    """Look for programs where Debian has mariadbd as well, which is not in the PATH of a user without rights."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def missing() -> str:
    """What this machine lacks for a cluster, or an empty text."""
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if not provider():
        absent.append("libgalera_smm.so")
    return f"{', '.join(absent)}: not installed (mariadb-server, galera-4, rsync, lsof)" if absent else ""


def provider() -> str:
    return next((path for path in PROVIDERS if Path(path).exists()), "")


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until the answer is true, and return it. Raises ClusterError when it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.01)
    return answer


class Node:
    """One member: a mariadbd in a session of its own, and the helpers of its state transfers with it."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self.name = f"node{number}"
        self.host = f"{cluster.net}{10 + number}"
        self.address = f"{self.host}:{PORT}"
        self.directory = cluster.directory / self.name
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def launch(self, *arguments: str) -> None:
        """Start mariadbd and return at once."""
        self._configure()
        # Should pytest be killed, the kernel ends the node.
        command = ["setpriv", "--pdeathsig", "KILL", "mariadbd", f"--defaults-file={self.directory}/my.cnf"]
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *arguments], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, **self._cluster.identity)

    def start(self, *arguments: str) -> None:
        """Let the node join its cluster, and return when it is synced."""
        self.wait_forgotten()
        self.launch(*arguments)
        self.wait_synced()

    def stop(self) -> None:
        """End it as an operator does, with SIGTERM; returns when it has ended."""
        self.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ClusterError(f"{self.name} did not end within {STOP_SECONDS:g} s: {self.last_words()}") from None
        finally:
            kill_session(self._process.pid)
            self._process = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ClusterError(f"{self.name} is not running")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _configure(self) -> None:
        cluster = self._cluster
        options = ";".join([*OPTIONS, *cluster.options]).format(host=self.host)
        text = CONFIGURATION.format(
            version=cluster.version, name=self.name, directory=self.directory, host=self.host, port=PORT,
            number=self.number, provider=provider(), cluster=f"gpen-{cluster.net}", options=options,
            notify=cluster.notify_file, certificate=cluster.certificate, key=cluster.key,
            members=",".join(f"{node.host}:{GROUP_PORT}" for node in cluster.nodes))
        (self.directory / "my.cnf").write_text(text)

    # --- the group -----------------------------------------------------------------------------------------------

    def status(self, name: str) -> str:
        """A status variable, without its ``wsrep_``."""
        return str(self.sql(f"SHOW STATUS LIKE 'wsrep_{name}'")[0][1])

    @property
    def synced(self) -> bool:
        """Whether it would serve: Synced, ready and in the primary component."""
        try:
            return (self.status("local_state"), self.status("ready"), self.status("cluster_status")) == (
                "4", "ON", "Primary")
        except pymysql.MySQLError:
            return False

    def wait_synced(self, seconds: float = START_SECONDS) -> None:
        wait_until(self._synced_or_dead, seconds, f"{self.name} synced ({self.directory}/error.log)")

    def _synced_or_dead(self) -> bool:
        if not self.running:
            raise ClusterError(f"{self.name} ended: {self.last_words()}")
        return self.synced

    def wait_forgotten(self) -> None:
        """Wait until the others have dropped the former life of this node: it would not be let in before."""
        others = [node for node in self._cluster.nodes if node is not self and node.running]
        wait_until(lambda: not any(self.address in node.status("incoming_addresses") for node in others),
                   START_SECONDS, f"the others forgetting {self.name}")

    # --- SQL -----------------------------------------------------------------------------------------------------

    def sql(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The rows of a query by root, which comes through the node's unix socket whatever its state is.

        Raises pymysql.MySQLError.
        """
        with self.session() as cursor:
            cursor.execute(query, arguments or None)
            return list(cursor.fetchall())

    @contextlib.contextmanager
    def session(self) -> Iterator[Cursor]:
        """A root session, for what ends with it: locks."""
        connection = Connection(user="root", read_timeout=SQL_SECONDS, autocommit=True, ssl_disabled=True,
                                defer_connect=True)
        connection.connect(self._connected())
        with connection, connection.cursor() as cursor:
            yield cursor

    def _connected(self) -> socket.socket:
        """A connection to its unix socket. PyMySQL's own would be left open where nobody listens."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(SQL_SECONDS)
            sock.connect(f"{self.directory}/sql")
        except OSError as error:
            sock.close()
            raise pymysql.OperationalError(str(error)) from error
        return sock

    # --- its log -------------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.directory / "error.log"

    @property
    def log_size(self) -> int:
        """Length of its error log in bytes."""
        return self._log.stat().st_size

    def logged(self, since: int) -> str:
        """What it has logged since its log had that length."""
        return self._log.read_bytes()[since:].decode(errors="replace")

    def last_words(self) -> str:
        """Its error log: what it calls an error, and the end."""
        *lines, last = self.logged(0).splitlines() if self._log.exists() else ["no log"]
        return "\n".join(["", *(line for line in lines if "ERROR" in line), last])


class Cluster:
    """Three nodes; use it in a ``with``.

    ``directory`` is a new one that the nodes' user can reach. ``options`` are of wsrep_provider_options. ``schema`` is
    what the first node's data begins with, in SQL.
    """

    schema = ""
    node_type = Node

    def __init__(self, directory: Path, options: Sequence[str] = QUICK) -> None:
        self.directory = directory
        self.options = options
        self.version = subprocess.run(["mariadbd", "--version"], capture_output=True, text=True, check=True,
                                      ).stdout.split()[2].partition("-MariaDB")[0] + "-MariaDB"
        # mariadbd refuses to be root, and root's rsync would not do for a state transfer.
        self.identity = dict(MYSQL) if os.geteuid() == 0 else {}
        self._claim, self.net = claim_addresses()
        self.nodes = [self.node_type(self, number) for number in range(1, NODES + 1)]

    def __enter__(self) -> Cluster:
        try:
            self.install()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            with contextlib.suppress(ClusterError):
                node.kill()
        self._claim.close()

    def install(self) -> None:
        """Make the first node's data directory, users and schema included."""
        self.make_directory(self.directory)
        for node in self.nodes:
            self.make_directory(node.directory)
            self.make_directory(node.directory / "data")
        self._certify()
        self._notify("")
        install_data(self.nodes[0].directory, self.identity, self.schema)

    @property
    def notify_file(self) -> Path:
        """The script that each node runs when it sees a change of the group."""
        return self.directory / "notify"

    def _notify(self, line: str) -> None:
        """Write the script, never in part: a node may be about to run it."""
        fresh = self.notify_file.with_suffix(".new")
        fresh.write_text(f"#!/bin/sh\n{line}\n")
        fresh.chmod(0o755)
        fresh.rename(self.notify_file)

    @property
    def certificate(self) -> Path:
        """The certificate of all nodes, which a client that connects to 127.0.0.1 may trust."""
        return self.directory / "node.crt"

    @property
    def key(self) -> Path:
        return self.directory / "node.key"

    def _certify(self) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days=30", "-subj=/CN=node", "-addext=subjectAltName=IP:127.0.0.1", "-keyout", str(self.key),
             "-out", str(self.certificate)], capture_output=True, check=True, **self.identity)

    def make_directory(self, directory: Path) -> None:
        """Make one that belongs to the nodes' user."""
        directory.mkdir(mode=0o755, exist_ok=True)
        if self.identity:
            shutil.chown(directory, self.identity["user"], self.identity["group"])

    def start(self) -> None:
        """Start a new cluster with the first node's data, and let the others join, one donor's work at a time."""
        first, *others = self.nodes
        first.launch("--wsrep-new-cluster")
        first.wait_synced()
        for node in others:
            node.start()
        self.wait_whole()

    def wait_whole(self, seconds: float = START_SECONDS) -> None:
        """Wait until all nodes that run are synced, in one group."""
        running = [node for node in self.nodes if node.running]
        for node in running:
            node.wait_synced(seconds)
        wait_until(lambda: {node.status("cluster_size") for node in running} == {str(len(running))}, seconds,
                   f"a group of {len(running)}")


def install_data(directory: Path, identity: Mapping[str, Any], schema: str) -> None:
    """Make the data of a server in ``directory``/data, with what ``schema`` says, in SQL, as user of ``identity``."""
    script = directory / "schema.sql"
    script.write_text(schema)
    # In a common directory for temporary files a server that starts removes the tables of one that works.
    command = ["mariadb-install-db", "--no-defaults", f"--datadir={directory}/data", f"--tmpdir={directory}",
               "--innodb-log-file-size=16M", "--innodb-use-native-aio=0", "--auth-root-authentication-method=normal",
               "--skip-test-db", "--skip-name-resolve", f"--extra-file={script}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, start_new_session=True, **identity) as process:
        try:
            told = process.communicate()[0]
        except BaseException:
            kill_session(process.pid)  # the server that it runs as well
            raise
    if process.returncode:
        raise ClusterError(f"mariadb-install-db: status {process.returncode}: {told}")


def claim_addresses() -> tuple[socket.socket, str]:
    """A prefix 127.x.y. that no other cluster uses, and the socket that keeps others off as long as it is open."""
    start = os.getpid() * 7919
    for number in range(200):
        block = (start + number) % 20000
        net = f"127.{100 + block // 250}.{block % 250}."
        claim = socket.socket()
        try:
            claim.bind((f"{net}1", GROUP_PORT))
        except OSError:
            claim.close()
            continue
        return claim, net
    raise ClusterError("no free loopback addresses: 200 prefixes 127.x.y. are in use")


def kill_session(leader: int) -> None:
    """Kill what is left of a session whose leader has ended: the helpers of a state transfer."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                os.kill(int(entry.name), signal.SIGKILL)
