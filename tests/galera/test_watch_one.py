"""One node: `gpen-galera check` and `serve`, with clustercheck's settings."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.galera.cluster import WATCHER, Cluster, Node
from tests.galera.watcher import COMMAND
from tests.harness import Server, hold, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]

CREDENTIALS = {"GPEN_GALERA_USER": WATCHER[0], "GPEN_GALERA_PASSWORD": WATCHER[1]}
PORT = 9200


def check(address: str, *options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, "check", *options, address], capture_output=True, text=True, timeout=20,
                          check=False, env={**os.environ, **CREDENTIALS, **environment})
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_check_says_how_a_node_is(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert check(node.address) == (0, "Synced\n")
    assert check(str(node.directory / "sql")) == (0, "Synced\n")
    with node.desynced():
        assert check(node.address) == (1, "Donor/Desynced\n")
        assert check(node.address, "--available-when-donor") == (0, "Donor/Desynced\n")
        assert check(node.address, AVAILABLE_WHEN_DONOR="1") == (0, "Donor/Desynced\n")
        assert check(node.address, AVAILABLE_WHEN_DONOR="0") == (1, "Donor/Desynced\n")
    node.assign("read_only", 1)
    assert check(node.address) == (1, "read_only\n")
    assert check(node.address, "--available-when-readonly") == (0, "Synced, read_only\n")
    assert check(node.address, AVAILABLE_WHEN_READONLY="1") == (0, "Synced, read_only\n")
    with node.desynced():  # neither of the two allows both
        assert check(node.address, AVAILABLE_WHEN_READONLY="1")[0] == 1
        assert check(node.address, AVAILABLE_WHEN_READONLY="1", AVAILABLE_WHEN_DONOR="1")[0] == 0


def test_check_of_a_node_that_does_not_answer(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert check(f"{node.host}:1") == (1, "connection refused\n")
    status, text = check(node.address, GPEN_GALERA_PASSWORD="wrong")
    assert status == 1 and text.startswith("access denied for user 'watcher'") and text.count("\n") == 1
    with Server(hold) as silent:  # as a stopped process: the kernel accepts for it
        began = time.monotonic()
        assert check(silent.address, "--timeout=0.5") == (1, "no answer for 0.5 s\n")
        assert time.monotonic() - began < 5


@contextmanager
def serving(node: Node, *options: str, at: str = "", **environment: str) -> Iterator[str]:
    """A `serve` for a node, or for what listens at an address; gives the host where it serves."""
    host = f"{node.host.rpartition('.')[0]}.1"
    command = [*COMMAND, "serve", f"--node={at or node.address}", *options, f"{host}:{PORT}"]
    with subprocess.Popen(command, env={**os.environ, **CREDENTIALS, **environment}, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            wait_until(lambda: answers(host), what="an answer in HTTP")
            yield host
        finally:
            process.terminate()
            _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "")


def request(host: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, PORT, timeout=10)
    try:
        connection.request(method, "/")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def answers(host: str) -> bool:
    try:
        return request(host)[1] != "not asked yet\n"
    except OSError:
        return False


def test_serve_answers_as_clustercheck_does(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    with serving(node) as host:
        assert request(host) == (200, "Synced\n")
        assert request(host, "OPTIONS") == (200, "Synced\n")
        assert request(host, "HEAD") == (200, "")
        assert request(host, "POST")[0] == 501
        node.assign("read_only", 1)
        wait_until(lambda: request(host) == (503, "read_only\n"), what="503")


def test_serve_for_a_node_that_hangs(cluster: Cluster) -> None:
    with Server(hold) as silent, serving(cluster.nodes[1], at=silent.address) as host:
        assert request(host) == (503, "no answer for 1 s\n")


def test_serve_has_clusterchecks_settings(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    node.assign("read_only", 1)
    with serving(node, "--available-when-donor", AVAILABLE_WHEN_READONLY="1") as host, node.desynced():
        wait_until(lambda: request(host) == (200, "Donor/Desynced, read_only\n"), what="200")


def test_a_slow_client_delays_no_other(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    with serving(node) as host, socket.create_connection((host, PORT)) as slow, \
            socket.create_connection((host, PORT)):
        slow.sendall(b"GET / HT")
        began = time.monotonic()
        assert request(host) == (200, "Synced\n")
        assert time.monotonic() - began < 5
        slow.sendall(b"TP/1.0\r\n\r\n")
        assert slow.recv(100).startswith(b"HTTP/1.0 200 OK")


def test_serve_keeps_one_session_however_many_ask(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    with serving(node) as host:
        before = node.sql("SHOW GLOBAL STATUS LIKE 'Connections'")
        for _ in range(50):
            assert request(host)[0] == 200
        # root's own question is a new connection each time
        assert int(node.sql("SHOW GLOBAL STATUS LIKE 'Connections'")[0][1]) == int(before[0][1]) + 1


def test_a_port_that_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.nodes[1]
    with serving(node) as host:
        done = subprocess.run([*COMMAND, "serve", f"{host}:{PORT}"], capture_output=True, text=True, timeout=20,
                              check=False, env={**os.environ, **CREDENTIALS})
    assert (done.returncode, done.stderr) == (
        2, f"gpen-galera: {host}:{PORT}: Address already in use; LISTEN is [HOST:]PORT\n")
