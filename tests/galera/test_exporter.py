"""The watcher's metrics: what a scrape tells of nodes that are stubs, and that nobody who asks keeps others out."""

from __future__ import annotations

import ctypes
import re
import signal
import socket
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpen.galera.metrics import METRICS
from tests.galera.cluster import Cluster
from tests.galera.stub import Error, Group
from tests.galera.watcher import Watcher
from tests.harness import Gpen, read_all, wait_until
from tests.metrics import OPENMETRICS, checked, fetch, samples
from tests.servers import free_port

Start = Callable[..., Any]

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]


@pytest.fixture
def group() -> Iterator[Group]:
    with Group(3) as group:
        yield group


class Scraped:
    """A watcher with metrics, before a gpen that gets the writes."""

    def __init__(self, group: Group, gpen: Start, watcher: Start, *options: str) -> None:
        self.port = free_port()
        servers = [f"{address}::::{rank}" for rank, address in enumerate(group.addresses)]
        self.gpen: Gpen = gpen("-r", "-O", "prio", servers=servers)
        self.watcher: Watcher = watcher("--writer", self.gpen.control, f"--metrics={self.port}", *options)
        self.nodes = group.addresses
        wait_until(lambda: self.role(0, "writer") == 1.0, what="the first node being the writer")

    def __getitem__(self, name: str) -> float | None:
        return samples(fetch(self.port)).get(name)

    def of(self, node: int, name: str, label: str = "") -> float | None:
        """A sample of a node; its other ``label`` as it is written."""
        more = f",{label}" if label else ""
        return self[f'gpen_galera_node_{name}{{node="{self.nodes[node]}"{more}}}']

    def role(self, node: int, role: str) -> float | None:
        return self.of(node, "role", f'role="{role}"')


@pytest.fixture
def scraped(group: Group, gpen: Start, watcher: Start) -> Scraped:
    return Scraped(group, gpen, watcher)


def test_all_of_the_table_is_told_and_promtool_finds_nothing(group: Group, gpen: Start, watcher: Start) -> None:
    scraped = Scraped(group, gpen, watcher, "--agree=agreed")
    for node in group.nodes:
        node.said["wsrep_last_committed"] = "5"
    group.nodes[0].said["wsrep_flow_control_paused_ns"] = "1"  # a share needs two answers
    wait_until(lambda: scraped.of(2, "committed_writesets_total") == 5 and scraped.of(
        0, "flow_control_paused_ratio") is not None, what="all of the nodes being told")
    text = fetch(scraped.port)
    assert {metric.name for metric in METRICS} == set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert checked(text) == ""
    assert text.count("# HELP") == len(METRICS)


def test_a_writer_that_dies_is_followed_by_the_numbers(group: Group, scraped: Scraped) -> None:
    before = samples(fetch(scraped.port))
    assert (before["gpen_galera_well"], before["gpen_galera_writer_changes_total"]) == (1, 0)
    assert (before["gpen_galera_cluster_size"], before["gpen_galera_cluster_answering"]) == (3, 3)
    assert scraped.of(0, "state", 'state="synced"') == 1 and scraped.of(0, "usable") == 1
    group.nodes[0].kill()
    wait_until(lambda: scraped.role(1, "writer") == 1, what="the second being the writer")
    assert scraped["gpen_galera_writer_changes_total"] == 1
    assert (scraped["gpen_galera_writer_known"], scraped["gpen_galera_well"]) == (1, 0)
    assert scraped.role(0, "out") == 1 and scraped.of(0, "usable") == 0
    assert scraped.of(0, "verdict", 'verdict="down"') == 1 and scraped.of(0, "verdict", 'verdict="up"') == 0
    assert scraped.of(0, "state", 'state="unknown"') == 1 and scraped.of(0, "state", 'state="synced"') == 0
    assert scraped.of(0, "receive_queue") is None  # which nobody knows now
    wait_until(lambda: (scraped.of(0, "questions_total", 'result="failed"') or 0) > 0, what="failures being counted")


def test_what_a_node_says_is_told(group: Group, scraped: Scraped) -> None:
    donor = group.nodes[2]
    donor.said |= {"wsrep_local_state": "2", "wsrep_local_state_comment": "Donor/Desynced", "read_only": "ON",
                   "wsrep_local_recv_queue": "77", "wsrep_flow_control_paused_ns": "2500000000",
                   "Threads_connected": "9", "wsrep_last_committed": "1234"}
    wait_until(lambda: scraped.of(2, "state", 'state="donor"') == 1, what="the donor being told")
    told = {name: scraped.of(2, name) for name in (
        "read_only", "receive_queue", "flow_control_paused_seconds_total", "connections", "connections_limit",
        "committed_writesets_total", "primary", "ready")}
    assert told == {"read_only": 1, "receive_queue": 77, "flow_control_paused_seconds_total": 2.5, "connections": 9,
                    "connections_limit": 151, "committed_writesets_total": 1234, "primary": 1, "ready": 1}
    lost = {"wsrep_cluster_status": "non-Primary", "wsrep_local_state": "0", "wsrep_ready": "OFF"}
    for node in group.nodes:
        node.said |= lost
    wait_until(lambda: scraped["gpen_galera_cluster_primary"] == 0, what="no primary component being told")
    assert [scraped.of(node, "primary") for node in range(3)] == [0, 0, 0]


def test_each_kind_of_failure_has_a_count(group: Group, scraped: Scraped) -> None:
    silent, refusing, _ = group.nodes
    silent.is_stopped = True
    wait_until(lambda: scraped.of(0, "questions_total", 'result="late"') == 1, what="a silent node being counted")
    silent.is_stopped = False
    refusing.refusal = Error(1045, "Access denied")
    refusing.end_sessions()
    wait_until(lambda: scraped.of(1, "blind") == 1, what="the watcher being blind")
    assert (scraped.of(1, "questions_total", 'result="blind"') or 0) >= 1
    told = f'gpen_galera_gpen_rounds_total{{gpen="{scraped.gpen.control}",result="%s"}}'
    up = f'gpen_galera_gpen_up{{gpen="{scraped.gpen.control}"}}'
    assert (scraped[told % "told"] or 0) > 0 and scraped[up] == 1
    scraped.gpen.stop()
    wait_until(lambda: (scraped[told % "unreachable"] or 0) > 0, what="a gpen that is gone being counted")
    assert scraped[up] == 0


def test_a_scrape_leads_to_no_decision(group: Group, gpen: Start, watcher: Start) -> None:
    scraped = Scraped(group, gpen, watcher, "--interval=3", "--timeout=3")
    began = time.monotonic()
    passes = [scraped["gpen_galera_pass_duration_seconds_count"] or 0 for _ in range(50)]
    assert passes[-1] - passes[0] <= 1 + 4 * (time.monotonic() - began) / 3 < 45


def test_openmetrics_is_had_by_asking(scraped: Scraped) -> None:
    text = fetch(scraped.port, OPENMETRICS)
    assert text.endswith("\n# EOF\n") and "# TYPE gpen_galera_build info\n" in text
    assert samples(text)["gpen_galera_writer_known"] == 1


def test_a_name_that_would_break_the_text_does_not(group: Group, scraped: Scraped) -> None:
    group.nodes[1].said["wsrep_node_name"] = 'a"b\\c\n# TYPE x'
    wait_until(lambda: 'name="node1"' not in fetch(scraped.port), what="the name being told")
    text = fetch(scraped.port)
    assert checked(text) == "" and len(samples(text)) == len(re.findall(r"^\w.*", text, re.MULTILINE))


def asked(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(request)
        return read_all(sock)


def test_only_what_reads_is_answered(scraped: Scraped) -> None:
    assert asked(scraped.port, b"POST /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 501 ")
    head, _, body = asked(scraped.port, b"HEAD /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n") and b"text/plain; version=0.0.4" in head and body == b""
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(scraped.port, path="/<script>")
    assert refused.value.code == 404 and b"/metrics is here" in refused.value.read()
    refused.value.close()


def test_those_that_say_nothing_keep_nobody_out(scraped: Scraped) -> None:
    idle = [socket.create_connection(("127.0.0.1", scraped.port), 20) for _ in range(30)]
    try:
        assert scraped["gpen_galera_writer_known"] == 1
        assert read_all(idle[0]) == b""  # it gave way
    finally:
        for sock in idle:
            sock.close()


def test_a_watcher_that_does_not_run_does_not_answer(scraped: Scraped) -> None:
    """So a scrape that fails is an alarm; and it answers again."""
    scraped.watcher.process.send_signal(signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", scraped.port), 1) as sock, pytest.raises(TimeoutError):
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        sock.recv(1)
    scraped.watcher.process.send_signal(signal.SIGCONT)
    wait_until(lambda: scraped["gpen_galera_writer_known"] == 1, what="it answering again")


def test_it_ends_whichever_thread_gets_the_signal(scraped: Scraped, group: Group, gpen: Start, watcher: Start,
                                                  ) -> None:
    """The kernel may choose one that is not the main one, and that one waits for what is due next: half a minute here.
    Clients that are connected do not keep it either."""
    patient = watcher("--writer", scraped.gpen.control, "--interval=30", f"--metrics={(port := free_port())}")
    seen: dict[float, float] = {}  # when the watcher had decided so many times

    def is_quiet() -> bool:
        now = time.monotonic()
        text = fetch(port)
        passes = samples(text)["gpen_galera_pass_duration_seconds_count"]
        return "\ngpen_galera_cluster_answering 3" in text and now - seen.setdefault(passes, now) > 2

    wait_until(is_quiet, what="a watcher that waits")
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /metrics")
        tasks = sorted(int(task.name) for task in Path(f"/proc/{patient.process.pid}/task").iterdir())
        other = next(task for task in tasks if task != patient.process.pid)
        assert ctypes.CDLL(None).tgkill(patient.process.pid, other, signal.SIGTERM) == 0
        assert patient.process.wait(5) == 0


def test_it_is_for_this_machine_unless_told(scraped: Scraped) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.2", scraped.port))  # so nobody listens on all addresses
    assert scraped["gpen_galera_writer_known"] == 1


@pytest.mark.parametrize(("address", "expected"), [
    ("nonsense", "'nonsense' is not"), ("/run/x", "'/run/x' is not [HOST:]PORT"), ("TAKEN", "Address already in use")])
def test_an_address_that_can_not_be_had_is_one_line(tmp_path: Path, address: str, expected: str) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = address.replace("TAKEN", f"127.0.0.1:{sock.getsockname()[1]}")
        judge = Watcher(tmp_path, f"--reader={tmp_path}/none", f"--metrics={address}")
        assert judge.process.wait(20) == 2
    assert judge.stderr.startswith(f"gpen-galera: --metrics={address}: ") and expected in judge.stderr
    assert judge.stderr.count("\n") == 1


def test_real_nodes_tell_all_of_it(cluster: Cluster, gpen: Start, watcher: Start) -> None:
    """The writer is killed: the metrics say so."""
    port = free_port()
    front = gpen("-r", "-O", "prio", servers=[f"{node.address}::::{n}" for n, node in enumerate(cluster.nodes)])
    watcher("--writer", front.control, f"--metrics={port}")
    wait_until(lambda: samples(fetch(port)).get("gpen_galera_well") == 1, what="all being well")
    told = samples(fetch(port))
    for node in cluster.nodes:
        name = f'{{node="{node.address}"}}'
        assert told[f"gpen_galera_node_committed_writesets_total{name}"] > 0
        assert told[f"gpen_galera_node_connections_limit{name}"] > told[f"gpen_galera_node_connections{name}"] > 0
        assert told[f"gpen_galera_node_flow_control_paused_seconds_total{name}"] >= 0
        assert told[f"gpen_galera_node_receive_queue{name}"] >= 0
        assert told[f'gpen_galera_node_state{{node="{node.address}",state="synced"}}'] == 1
    assert (told["gpen_galera_cluster_size"], told["gpen_galera_cluster_primary"]) == (3, 1)
    assert checked(fetch(port)) == ""
    cluster.nodes[0].kill()
    out = f'gpen_galera_node_role{{node="{cluster.nodes[0].address}",role="out"}}'
    wait_until(lambda: samples(fetch(port))[out] == 1, what="the node being out")
    wait_until(lambda: samples(fetch(port))["gpen_galera_cluster_size"] == 2, what="the cluster being smaller")
    assert samples(fetch(port))["gpen_galera_writer_changes_total"] == 1
