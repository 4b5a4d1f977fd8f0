"""The cluster of contrib/cluster.py for tests: nodes that can be frozen, cut off, desynced and made whole again."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pymysql
import pytest

from contrib import cluster
from contrib.cluster import SQL_SECONDS, missing

REUNION_SECONDS = 10.0
WATCHER = ("watcher", "watching")  # name and password

SCHEMA = """\
FLUSH PRIVILEGES;
CREATE DATABASE app;
CREATE TABLE app.word (id INT PRIMARY KEY, word VARCHAR(20) NOT NULL) ENGINE=InnoDB;
INSERT INTO app.word VALUES (1, 'alpha'), (2, 'beta'), (3, 'gamma');
CREATE TABLE app.written (id BIGINT PRIMARY KEY AUTO_INCREMENT, node VARCHAR(20) NOT NULL,
    moment TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB;
CREATE USER app@'%' IDENTIFIED BY 'app';
GRANT ALL ON app.* TO app@'%';
CREATE USER watcher@'%' IDENTIFIED BY 'watching';
CREATE DATABASE agreed;
GRANT SELECT, INSERT, UPDATE, CREATE ON agreed.* TO watcher@'%';
CREATE USER haproxy@'%';
"""

USUAL = {"read_only": "0", "wsrep_desync": "0", "wsrep_reject_queries": "NONE"}


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A directory for files of servers, which the user mysql can reach; where there are none, the test is skipped."""
    if reason := missing():
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="gpen-galera-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class Node(cluster.Node):
    """One that can be brought into every state that a node can be in."""

    def freeze(self) -> None:
        """Stop it with SIGSTOP: the kernel goes on accepting connections for it."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Throw away the data of a stopped node, so that the next start takes all from a donor."""
        shutil.rmtree(self.directory / "data")
        self._cluster.make_directory(self.directory / "data")

    def isolate(self) -> None:
        """Cut it off from the others: it finds itself in a non-Primary component of one."""
        self.option("gmcast.isolate=1")

    def unisolate(self) -> None:
        self.option("gmcast.isolate=0")

    def option(self, option: str) -> None:
        self.sql(f"SET GLOBAL wsrep_provider_options='{option}'")

    def assign(self, variable: str, value: str | int) -> None:
        """Set a global variable."""
        self.sql(f"SET GLOBAL {variable} = {value}")

    @contextlib.contextmanager
    def desynced(self) -> Iterator[None]:
        """As long as this lasts it is desynced, as a donor is."""
        self.assign("wsrep_desync", 1)
        try:
            yield
        finally:
            self.assign("wsrep_desync", 0)

    def make_usual(self) -> None:
        """Give the variables that tests turn their usual values."""
        for variable, value in USUAL.items():
            if self.variable(variable) != value:
                self.assign(variable, value)

    def variable(self, name: str) -> str:
        return str(self.sql(f"SELECT @@{name}")[0][0])

    @property
    def is_primary(self) -> bool:
        """Whether it is in the component that has the quorum."""
        try:
            return self.status("cluster_status") == "Primary"
        except pymysql.MySQLError:
            return False


class Cluster(cluster.Cluster):
    """Three nodes with the schema ``app`` (user and password ``app``); use it in a ``with``."""

    schema = SCHEMA
    node_type = Node
    nodes: list[Node]

    @contextlib.contextmanager
    def notifying(self, command: Sequence[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run this command when a node sees a change of the group, with what Galera adds to it; gives those that ran.

        A node hands its words over, and the command runs here: the nodes' user may have no right to this tree's Python.
        """
        notices = self.directory / "notices"
        os.mkfifo(notices)
        if self.identity:
            shutil.chown(notices, self.identity["user"], self.identity["group"])
        started: list[subprocess.Popen[bytes]] = []

        def serve() -> None:
            for line in iter(reader.readline, "\n"):
                started.append(subprocess.Popen([*command, *shlex.split(line)], stdin=subprocess.DEVNULL))

        with os.fdopen(os.open(notices, os.O_RDWR)) as reader:  # not at its end when one writer is gone
            server = threading.Thread(target=serve)
            server.start()
            self._notify(f'echo "$*" >{shlex.quote(str(notices))}')
            try:
                yield started
            finally:
                self._notify("")
                notices.write_text("\n")
                server.join()
                notices.unlink()
                for process in started:
                    process.wait(SQL_SECONDS)

    def mend(self) -> None:
        """Undo what a test may have done and left: all run, synced and writable, in one group."""
        self._find_quorum()
        for node in self.nodes:
            if not node.running:
                node.start()
        for node in self.nodes:
            with contextlib.suppress(pymysql.MySQLError):  # one that is desynced would not be synced before
                node.make_usual()
        self.wait_whole()
        for node in self.nodes:
            node.make_usual()

    def _find_quorum(self) -> None:
        """On a busy machine nodes may lose each other for longer than their short timeouts, and then nobody has the
        quorum: let one of those that run begin a new component, if they don't find together again."""
        running = [node for node in self.nodes if node.running]
        deadline = time.monotonic() + REUNION_SECONDS
        while running and not any(node.is_primary for node in running):
            if time.monotonic() > deadline:
                running[0].option("pc.bootstrap=1")
                deadline += REUNION_SECONDS
            time.sleep(0.2)
