"""Worker processes: who gets which session, and commands that are answered once, for all of them."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests import datagrams
from tests.daemon.crew import field_of, is_echoed, pids_of, rows_of, talking, workers
from tests.daemon.test_drain import Drain
from tests.gpenctl.daemon import GPENCTL
from tests.harness import LOCAL, Gpen, Server, echo, naming, read_all, run_gpen, wait_until
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
ROW = re.compile(r"(\d+) pid (\d+) sessions (\d+) total (\d+) cpu \d+\.\d\d started (\S+Z) silent 0\n")
PIECE = b"x" * 10_000


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    """Two echoes in turn, two workers."""
    return gpen("-r", "-l", "gpen.log", *workers(2), servers=[servers(echo), servers(echo)])


# --- who gets which session -------------------------------------------------------------------------------------------


def test_long_sessions_are_spread_evenly(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*workers(4), servers=[servers(echo)])
    with talking(balancer, 40) as socks:
        assert field_of(balancer, "sessions") == [10] * 4
        for sock in socks[::2]:
            sock.close()
        wait_until(lambda: len(balancer.json("sessions")) == 20)
        with talking(balancer, 20):
            assert field_of(balancer, "sessions") == [10] * 4
    balancer.wait_idle()
    assert (field_of(balancer, "sessions"), sum(field_of(balancer, "total"))) == ([0] * 4, 60)


def test_short_ones_are_shared_too(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*workers(4), servers=[servers(naming("a"))])
    for _ in range(40):
        assert balancer.ask() == b"a"
        balancer.wait_idle()
    assert field_of(balancer, "total") == [10] * 4


def test_auto_is_one_for_each_processor(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*workers("auto"), servers=[servers(naming("a"))], wrapper=("taskset", "-c", "0"))
    assert (len(pids_of(balancer)), balancer.ask()) == (1, b"a")


@pytest.mark.parametrize("options", [workers(0), ("-O", "no workers")])
def test_none(gpen: Start, servers: Serve, options: tuple[str, ...]) -> None:
    balancer = gpen(*options, servers=[servers(naming("a"))])
    assert (balancer.ctl("workers"), balancer.json("workers"), balancer.ask()) == ("", [], b"a")


@pytest.mark.parametrize("value", ["-1", "65", "x", "1.5", "auto 2"])
def test_no_such_number(value: str) -> None:
    done = run_gpen("-f", "-O", f"workers {value}", LOCAL, "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "workers" in done.stderr


@pytest.mark.parametrize("command", ["workers 3", "no workers", "workers auto", "workers 0"])
def test_their_number_is_one_of_the_start(balancer: Gpen, command: str) -> None:
    told = balancer.ctl(command)
    assert told.startswith("error: ") and "at start only" in told and told.count("\n") == 1
    assert len(rows_of(balancer)) == 2


# --- what `workers` tells ---------------------------------------------------------------------------------------------


def test_workers(balancer: Gpen) -> None:
    with talking(balancer, 3):
        pids = pids_of(balancer)
        rows = ROW.findall(balancer.ctl("workers"))
        assert [row[:4] for row in rows] == [("0", str(pids[0]), "2", "2"), ("1", str(pids[1]), "1", "1")]
        first = rows_of(balancer)[0]
        assert list(first) == ["number", "pid", "sessions", "total", "cpu", "started", "silent"]
        assert (first["number"], first["pid"], first["sessions"], first["total"]) == (0, pids[0], 2, 2)


def gpenctl(balancer: Gpen, *words: str) -> str:
    return subprocess.run([*GPENCTL, balancer.control, *words], capture_output=True, text=True, timeout=20,
                          check=True).stdout


def test_gpenctl_shows_them(balancer: Gpen) -> None:
    with talking(balancer, 3):
        head, _, *lines = gpenctl(balancer, "--format=table", "workers").splitlines()
        assert re.split(r" {2,}", head.strip())[:4] == ["worker", "pid", "sessions", "total"]
        assert [line.split()[:4] for line in lines] == [
            [str(row["number"]), str(row["pid"]), str(row["sessions"]), str(row["total"])] for row in rows_of(balancer)]
        rows = list(csv.DictReader(io.StringIO(gpenctl(balancer, "--format=csv", "workers"))))
        assert [(row["number"], row["sessions"]) for row in rows] == [("0", "2"), ("1", "1")]
        assert [row["pid"] for row in rows] == [str(pid) for pid in pids_of(balancer)]
        assert [row["pid"] for row in json.loads(gpenctl(balancer, "--format=json", "workers"))] == pids_of(balancer)


# --- commands, once for all -------------------------------------------------------------------------------------------


def moved(balancer: Gpen) -> tuple[list[int], list[int], list[int]]:
    rows = balancer.json("servers")
    return [row["sx"] for row in rows], [row["rx"] for row in rows], [row["total"] for row in rows]


def test_counters_add_up_to_the_byte(balancer: Gpen) -> None:
    with talking(balancer, 10) as socks:
        for sock in socks:
            assert is_echoed(sock, PIECE)
        each = 5 * (len(PIECE) + len(b"echo"))
        assert moved(balancer) == ([each] * 2, [each] * 2, [5] * 2)
        client, = balancer.json("recent")
        assert (client["sessions"], client["sx"], client["rx"], client["connects"]) == (10, 2 * each, 2 * each, 10)
        assert sorted((row["up"], row["down"]) for row in balancer.json("sessions")) == [(each // 5, each // 5)] * 10
        for sock in socks[:5]:
            sock.close()
        wait_until(lambda: len(balancer.json("sessions")) == 5)
        assert moved(balancer) == ([each] * 2, [each] * 2, [5] * 2)
    balancer.wait_idle()
    assert moved(balancer) == ([each] * 2, [each] * 2, [5] * 2)
    client, = balancer.json("recent")
    assert (client["sessions"], client["sx"], client["rx"]) == (0, 2 * each, 2 * each)


def test_counters_never_go_back(balancer: Gpen) -> None:
    """While sessions come and go, and are added up."""
    last = 0
    for _ in range(20):
        with talking(balancer, 3):
            last, before = sum(moved(balancer)[0]), last
            assert last == before + 12
        assert sum(moved(balancer)[0]) == last


def test_close_one(balancer: Gpen) -> None:
    with talking(balancer, 4) as socks:
        ours = f"127.0.0.1:{socks[2].getsockname()[1]}"
        number = next(row["id"] for row in balancer.json("sessions") if row["client"] == ours)
        assert balancer.ctl(f"close {number}") == f"Forcibly closing connection {number}\n"
        assert read_all(socks[2]) == b""
        assert all(is_echoed(sock) for sock in socks if sock is not socks[2])
        wait_until(lambda: balancer.log.endswith("killed\n"))
    balancer.wait_idle()


def test_close_those_of_a_server(balancer: Gpen) -> None:
    with talking(balancer, 6) as socks:
        assert balancer.ctl("close server 0") == "Closing 3 connections of server 0\n"
        wait_until(lambda: [row["sessions"] for row in balancer.json("servers")] == [0, 3])
        assert [is_at_end(sock) for sock in socks].count(True) == 3


def is_at_end(sock: socket.socket) -> bool:
    """Whether a client of an echo is served no more."""
    try:
        return not is_echoed(sock)
    except ConnectionError:
        return True


def test_drain(balancer: Gpen) -> None:
    with talking(balancer, 4) as socks, Drain(balancer, "0 1 close") as drain:
        assert drain.line() == "draining server 0: 2 sessions left, 1 s"
        assert drain.last().endswith("2 were closed")
        assert len([sock for sock in socks if is_at_end(sock)]) == 2
        assert balancer.server(0)["sessions"] == 0
        wait_until(lambda: balancer.log.count("\n") == 2)
        with talking(balancer, 2):
            assert [row["sessions"] for row in balancer.json("servers")] == [0, 4]


def test_connection_and_socket(balancer: Gpen) -> None:
    with talking(balancer, 2):
        first, second = balancer.json("sessions")
        for row in (first, second):
            told = balancer.json(f"connection {row['id']}")
            assert told["connection"] == row["id"] and told["state"] == 2 and told["server"] == row["server"]
            assert min(told["downfd"], told["upfd"]) > 2 and told["pend"] == 0
            assert balancer.ctl(f"connection {row['id']}").startswith(f"Connection {row['id']}")
    balancer.wait_idle()
    assert balancer.json(f"connection {first['id']}")["state"] == 0


def test_sessions_of_a_listener(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-r", *workers(2), "-O", f"listener more listen {LOCAL}", servers=[servers(echo)])
    place = balancer.ctl("listener more listen").strip().rpartition(":")
    with talking(balancer, 3), socket.create_connection((place[0], int(place[2])), 20) as other:
        assert is_echoed(other)
        rows = balancer.json("listener more sessions")
        assert [(row["listener"], row["client"]) for row in rows] == [
            ("more", f"127.0.0.1:{other.getsockname()[1]}")]
        assert len(balancer.json("sessions")) == 4
        assert field_of(balancer, "sessions") == [2, 2]
        assert [row["sessions"] for row in balancer.json("listeners")] == [3, 1]


def test_flows_are_the_main_process_s(gpen: Start) -> None:
    with datagrams.DatagramServer(datagrams.naming("a")) as server:
        balancer = gpen("-U", *workers(2), servers=[server.address])
        assert [datagrams.ask(balancer) for _ in range(4)] == [b"a"] * 4
        assert (field_of(balancer, "total"), balancer.server(0)["total"]) == ([0, 0], 4)


def test_the_status_page(balancer: Gpen) -> None:
    with talking(balancer, 3):
        data = data_of(balancer.ctl("status"))
        assert {row["pid"] for row in data["info"]["workers"]} == set(pids_of(balancer))


def test_the_status_page_of_a_signal_is_up_to_date(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-w", "status.html", *workers(2), servers=[servers(echo)])
    with talking(balancer, 2) as socks:
        for sock in socks:
            assert is_echoed(sock, b"x" * 1020)
        balancer.signal(signal.SIGUSR1)
        page = balancer.directory / "status.html"
        wait_until(page.exists)
        assert [(row["sx"], row["rx"]) for row in data_of(page.read_text())["servers"]] == [(2048, 2048)]
