"""What /metrics says of a gpen at work."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import pytest

from gpen.control.configuration import Configuration
from gpen.control.script import read_lines
from gpen.control.sources import Sources
from gpen.daemon.balancer import Balancer
from gpen.model.health import MOST_CAUSES, note_cause
from gpen.web.metrics import METRICS
from tests.certificates import Certificates
from tests.datagrams import DatagramServer, silence, tell
from tests.door import DOOR, ask, samples, value
from tests.harness import WORKERS, Gpen, Server, echo, free_port, read_all, wait_until
from tests.metrics import checked
from tests.tlsclient import TlsClient, trusting

Start = Callable[..., Gpen]
Servers = Callable[..., Server]


def grown(balancer: Gpen, name: str, expected: float, **labels: str) -> None:
    """A counter comes to this value: what a session moved is known when it is over, or when workers are asked."""
    wait_until(lambda: value(balancer, name, **labels) == expected, what=f"{name} {labels} {expected}")


def test_promtool_finds_nothing(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, "-O", "check connect", "-O", "workers 1", "-O", "listener dns listen 127.0.0.1:0",
                    "-O", "listener dns udp", servers=[servers(echo), f"127.0.0.1:{free_port()}"])
    assert balancer.ask(b"hello") == b"hello"
    text = ask(balancer, "/metrics").text
    assert checked(text) == "" and text.count("gpen_server_info{") == 2


def test_the_formats(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    plain, open_ = ask(balancer, "/metrics"), ask(balancer, "/metrics", Accept="application/openmetrics-text;q=0.9")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert open_.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert open_.text.endswith("# EOF\n") and "# EOF" not in plain.text
    assert samples(balancer).keys() == samples(balancer, openmetrics=True).keys()


def test_sessions_and_bytes(gpen: Start, servers: Servers) -> None:
    """Also those of sessions that run."""
    balancer = gpen(*DOOR, "-r", "-O", "listener other listen 127.0.0.1:0", servers=[servers(echo), servers(echo)])
    for _ in range(4):
        assert balancer.ask(b"x" * 1000) == b"x" * 1000
    balancer.wait_idle()
    with balancer.connect() as sock:
        sock.sendall(b"y" * 500)
        assert sock.recv(500, 256) == b"y" * 500
        grown(balancer, "gpen_listener_sent_bytes_total", 4500, listener="-")
        said = samples(balancer)
    servers_sent = [said["gpen_server_sent_bytes_total", (("server", number),)] for number in "01"]
    assert sorted(servers_sent) == [2000, 2500]
    assert said["gpen_sessions", ()] == said["gpen_listener_sessions", (("listener", "-"),)] == 1
    assert said["gpen_listener_sessions", (("listener", "other"),)] == 0
    assert said["gpen_sessions_begun_total", ()] == 5
    assert said["gpen_listener_received_bytes_total", (("listener", "-"),)] == 4500
    ended = {dict(labels)["ending"]: count for (name, labels), count in said.items()
             if name == "gpen_sessions_ended_total"}
    assert sum(ended.values()) == 4 and ended.keys() <= {"client-closed", "server-closed"}
    assert said["gpen_server_up", (("server", "0"),)] == 1


def test_a_counter_never_goes_back(gpen: Start, servers: Servers) -> None:
    """Though what runs is added up anew each time, and ends meanwhile: Prometheus would take that for a restart."""
    balancer = gpen(*DOOR, servers=[servers(echo)])
    seen: dict[object, float] = {}
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(balancer.connect()) for _ in range(20)]
        for sock in socks:
            sock.sendall(b"x" * 3000)
            sock.recv(3000, 256)
            sock.close()
            for series, count in samples(balancer).items():
                if series[0].endswith(("_total", "_bucket", "_count")):
                    assert count >= seen.get(series, 0), series
                    seen[series] = count
    grown(balancer, "gpen_server_sent_bytes_total", 60_000, server="0")


def test_how_long_it_takes(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    for _ in range(3):
        balancer.ask(b"hello")
    grown(balancer, "gpen_listener_choose_seconds_count", 3, listener="-")
    said = samples(balancer)
    for step in ("choose", "connect"):
        name = f"gpen_listener_{step}_seconds"
        assert said[f"{name}_count", (("listener", "-"),)] == 3
        assert said[f"{name}_bucket", (("le", "+Inf"), ("listener", "-"))] == 3
        assert 0 < said[f"{name}_sum", (("listener", "-"),)] < 3
        assert said[f"{name}_bucket", (("le", "10.0"), ("listener", "-"))] == 3


def test_who_waits_for_a_server_is_seen_in_the_time_to_choose(gpen: Start, servers: Servers) -> None:
    port = free_port()
    balancer = gpen(*DOOR, "-O", "hold 20", "-O", "blacklist 0.1", servers=[f"127.0.0.1:{port}"])
    with balancer.connect() as sock:
        sock.sendall(b"hello")
        wait_until(lambda: value(balancer, "gpen_held_clients") == 1)
        assert value(balancer, "gpen_listener_held_clients", listener="-") == 1
        with Server(echo, port=port) as server:
            assert server and sock.recv(5) == b"hello"
            sock.shutdown(1)
            assert read_all(sock) == b""
    grown(balancer, "gpen_listener_choose_seconds_count", 1, listener="-")
    assert value(balancer, "gpen_listener_choose_seconds_bucket", listener="-", le="0.001") == 0
    assert value(balancer, "gpen_held_clients") == 0


def test_failures_by_cause_and_health_as_series(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[f"127.0.0.1:{free_port()}", servers(echo)])
    balancer.ask(b"hello")
    grown(balancer, "gpen_server_failures_total", 1, server="0", cause="connection refused")
    said = samples(balancer)
    health = {dict(labels)["health"]: on for (name, labels), on in said.items()
              if name == "gpen_server_health" and dict(labels)["server"] == "0"}
    assert health == {"up": 0, "drain": 0, "trial": 0, "down": 1, "empty": 0}
    assert said["gpen_server_up", (("server", "0"),)] == 0
    assert said["gpen_events_total", (("event", "down"),)] == 1
    assert 0 <= said["gpen_server_changed_seconds", (("server", "0"),)] < 60
    balancer.ctl("server 1 state drain")
    state = {dict(labels)["state"]: on for (name, labels), on in samples(balancer).items()
             if name == "gpen_server_state" and dict(labels)["server"] == "1"}
    assert state == {"ready": 0, "drain": 1, "maint": 0}


def test_a_server_that_says_much_makes_no_series_without_end() -> None:
    causes: dict[str, int] = {}
    for number in range(100):
        note_cause(causes, f"cause {number}")
    note_cause(causes, "cause 3")
    assert len(causes) == MOST_CAUSES + 1 and sum(causes.values()) == 101 and causes["cause 3"] == 2


def test_checks(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, "-O", "check connect", "-O", "check_interval 0.2",
                    servers=[servers(echo), f"127.0.0.1:{free_port()}"])
    wait_until(lambda: (value(balancer, "gpen_server_checks_total", server="0", result="passed") or 0) >= 2)
    wait_until(lambda: (value(balancer, "gpen_server_checks_total", server="1", result="failed") or 0) >= 2)
    said = samples(balancer)
    assert said["gpen_server_checks_total", (("result", "failed"), ("server", "0"))] == 0
    assert 0 < said["gpen_server_check_duration_seconds", (("server", "0"),)] < 5
    balancer.ctl("check off")
    wait_until(lambda: value(balancer, "gpen_server_check_duration_seconds", server="0") is None)


def test_tls(gpen: Start, servers: Servers, certificates: Certificates) -> None:
    balancer = gpen(*DOOR, *certificates.server.options, servers=[servers(echo)])
    with TlsClient(balancer.address, trusting(certificates.authority.certificate)) as client:
        client.sendall(b"hello")
        grown(balancer, "gpen_listener_tls_handshakes_total", 1, listener="-")
    balancer.ask(b"no TLS at all, but a client that speaks in the clear\n")
    grown(balancer, "gpen_listener_tls_failures_total", 1, listener="-")


@pytest.mark.skipif(WORKERS > 0, reason="UDP is the main process's")
def test_udp(gpen: Start) -> None:
    with DatagramServer(silence) as silent:
        balancer = gpen(*DOOR, "-U", "-O", "udp_replies 1", "-O", "udp_timeout 0.2", servers=[silent.address])
        tell(balancer, b"hello")
        grown(balancer, "gpen_listener_udp_unanswered_total", 1, listener="-")
        assert value(balancer, "gpen_listener_choose_seconds_count", listener="-") == 0


def test_what_the_process_takes(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, servers=[servers(echo)])
    said = samples(balancer)
    assert 0.01 < said["process_cpu_seconds_total", ()] < 60
    assert abs(said["process_resident_memory_bytes", ()] - balancer.rss) < 20e6
    assert 5 < said["process_open_fds", ()] < said["process_max_fds", ()]
    assert abs(said["gpen_start_time_seconds", ()] - time.time()) < 60


def test_workers_are_added_up(gpen: Start, servers: Servers) -> None:
    balancer = gpen(*DOOR, "-O", "workers 2", servers=[servers(echo)])
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(balancer.connect())
            sock.sendall(b"x" * 100)
            sock.recv(100, 256)
        grown(balancer, "gpen_server_sent_bytes_total", 400, server="0")
        said = samples(balancer)
        assert [said["gpen_worker_sessions", (("worker", number),)] for number in "01"] == [2, 2]
        assert said["gpen_sessions", ()] == 4
    balancer.wait_idle()
    grown(balancer, "gpen_listener_connect_seconds_count", 4, listener="-")


def test_what_fails_amid_a_scrape_is_for_the_next() -> None:
    """The text is made in turns, of rows that were read before: failures and their causes are of the same moment."""
    sources, configuration = Sources(), Configuration(time.monotonic, time.time)
    sources.give(read_lines(["listen 127.0.0.1:0", "server 0 address 127.0.0.1 port 9"], ""))
    configuration.adopt(sources.given)
    balancer = Balancer(configuration, sources)
    balancer.open()
    try:
        target = balancer.pool.servers[0].target
        balancer.pool.health.blame(target, "connection refused")
        pieces = balancer._metrics.text(False)
        balancer.pool.health.blame(target, "timed out")
        text = "".join(pieces)
    finally:
        balancer.close()
    assert re.findall("gpen_server_failures_total{(.*)} (.*)", text) == [('server="0",cause="connection refused"', "1")]


def test_an_address_of_ipv6_is_told_from_its_port() -> None:
    (info,) = [metric for metric in METRICS if metric.name == "gpen_server_info"]
    row = {"host": "db", "port": 3306}
    assert info.value(row | {"address": "2001:db8::1"})["address"] == "[2001:db8::1]:3306"
    assert info.value(row | {"address": "10.0.0.1"})["address"] == "10.0.0.1:3306"
    assert info.value(row | {"address": "/run/db", "port": 0})["address"] == "/run/db"


def test_those_of_before_have_no_cause() -> None:
    """A gpen that takes another's place has its counts, but not the causes."""
    (failures,) = [metric for metric in METRICS if metric.name == "gpen_server_failures_total"]
    assert failures.value({"failures": 5, "causes": {"connection refused": 2}}) == {
        "connection refused": 2, "unknown": 3}
    assert failures.value({"failures": 2, "causes": {"connection refused": 2}}) == {"connection refused": 2}
