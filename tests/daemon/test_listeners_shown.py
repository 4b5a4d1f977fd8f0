"""Where it is seen through which listener a session came, and what each listener tells of itself."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, naming, wait_until
from tests.listeners import address, ask, names_of, own, row_of, server_of, told, visit
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    """Servers a and b in turn at the listener without a name, b alone at w."""
    return gpen("-r", "-l", "gpen.log", *own("w", "servers 1", "prio"), servers=[servers(naming(n)) for n in "ab"])


@pytest.fixture
def visitors(balancer: Gpen) -> Iterator[None]:
    """Two who came without a name, one who came to w."""
    with ExitStack() as stack:
        for name, source in (("-", "127.0.0.2"), ("-", "127.0.0.3"), ("w", "127.0.0.4")):
            assert stack.enter_context(visit(balancer, name, source)).recv(1) in b"ab"
        yield


def test_the_log(balancer: Gpen, tmp_path: Path) -> None:
    told(balancer, "w", 1, "127.0.0.2")
    wait_until(lambda: balancer.log.count("\n") == 1)
    told(balancer, "-", 1, "127.0.0.2")
    wait_until(lambda: balancer.log.count("\n") == 2)
    first, second = balancer.log.splitlines()
    assert re.match(rf"127\.0\.0\.2:\d+ {TIME} listener w server 1 127", first)
    assert re.match(rf"127\.0\.0\.2:\d+ {TIME} server 0 127", second)
    balancer.ctl("log_format json", f"listener w log {tmp_path}/w.log")
    told(balancer, "w", 1)
    told(balancer, "-", 1)
    wait_until(lambda: (tmp_path / "w.log").read_text().count("\n") == 1 and balancer.log.count("\n") == 3)
    rows = [json.loads(text.splitlines()[-1]) for text in ((tmp_path / "w.log").read_text(), balancer.log)]
    assert [row["listener"] for row in rows] == ["w", None]
    assert list(rows[0])[:4] == ["client", "started", "listener", "server"]
    balancer.ctl("listener w log_format session")
    told(balancer, "w", 1)
    wait_until(lambda: " listener w server 1 " in (tmp_path / "w.log").read_text())


def test_each_log_is_rotated(balancer: Gpen, tmp_path: Path) -> None:
    """And one of two that are the same file is opened again for both."""
    balancer.ctl(f"listener w log {tmp_path}/w.log")
    told(balancer, "w", 1)
    wait_until(lambda: (tmp_path / "w.log").read_text())
    (tmp_path / "w.log").rename(tmp_path / "w.log.1")
    balancer.signal(signal.SIGHUP)
    wait_until((tmp_path / "w.log").exists)
    told(balancer, "w", 1)
    wait_until(lambda: (tmp_path / "w.log").read_text())
    balancer.ctl("listener w inherit log")
    for name in ("w", "-"):
        told(balancer, name, 1)
    wait_until(lambda: balancer.log.count("\n") == 2)
    balancer.log_file.rename(tmp_path / "gpen.log.1")
    balancer.signal(signal.SIGHUP)
    wait_until(balancer.log_file.exists)
    for name in ("w", "-"):
        told(balancer, name, 1)
    wait_until(lambda: balancer.log.count("\n") == 2)


def test_no_log_at_one(balancer: Gpen) -> None:
    balancer.ctl("listener w no log")
    told(balancer, "w", 1)
    balancer.wait_idle()
    told(balancer, "-", 1)
    wait_until(lambda: balancer.log)
    assert balancer.log.count("\n") == 1 and "listener" not in balancer.log


@pytest.mark.usefixtures("visitors")
def test_listeners(balancer: Gpen) -> None:
    rows = balancer.json("listeners")
    assert list(rows[0]) == ["name", "address", "transport", "protocol", "sessions", "conn_max", "held", "total",
                             "waiting", "delayed", "dropped", "bandwidth", "bandwidth_total", "shortages",
                             "clients", "sx", "rx", "endings", "handshakes", "server_handshakes", "server_resumed",
                             "dsr", "transparent", "rule", "servers", "tracking_with", "routes"]
    assert [[row[key] for key in ("name", "protocol", "transport", "sessions", "conn_max", "held", "total", "rule",
                                  "servers", "tracking_with")] for row in rows] == [
        [None, "TCP", "tcp", 2, 500, 0, 2, "round robin", None, None],
        ["w", "TCP", "tcp", 1, 500, 0, 1, "prio", [1], None]]
    assert [row["address"] for row in rows] == [address(balancer, name) for name in ("-", "w")]
    lines = balancer.ctl("listeners").splitlines()
    assert len(lines) == 2 and lines[0].startswith("- ") and lines[1].startswith("w ")
    assert all(f" {row['address']} " in line for row, line in zip(rows, lines, strict=True))
    assert " servers all" in lines[0] and " rule prio servers 1" in lines[1]


@pytest.mark.usefixtures("visitors")
def test_sessions(balancer: Gpen) -> None:
    assert [(row["listener"], row["server"]) for row in balancer.json("sessions")] == [(None, 0), (None, 1), ("w", 1)]
    assert [line.endswith(" listener w") for line in balancer.ctl("sessions").splitlines()] == [False, False, True]
    (row,) = balancer.json("listener w sessions")
    assert (row["listener"], row["client"].partition(":")[0]) == ("w", "127.0.0.4")
    assert balancer.ctl("listener w sessions").count("\n") == 1
    assert balancer.json(f"connection {row['id']}")["state"] == 2


@pytest.mark.usefixtures("visitors")
def test_servers(balancer: Gpen) -> None:
    """Without a prefix its sessions over all listeners; with one those of that listener, and its fields there."""
    balancer.ctl("listener w server 1 max 7 weight 3 prio 2")
    assert [(row["number"], row["sessions"]) for row in balancer.json("servers")] == [(0, 1), (1, 2)]
    row = server_of(balancer, "w", 1)
    assert [row[key] for key in ("sessions", "max", "weight", "prio")] == [1, 7, 3, 2]
    assert [balancer.server(1)[key] for key in ("max", "weight", "prio")] == [0, 1, 0]
    line = balancer.ctl("listener w servers")
    assert line.startswith("1 addr 127.0.0.1 port ") and " conn 1 max 7 " in line and line.count("\n") == 1


def test_explain_mode_and_recent(balancer: Gpen) -> None:
    assert (told(balancer, "-", 1, "127.0.0.2"), told(balancer, "w", 2, "127.0.0.3")) == ("a", "bb")
    assert [[(row["address"], row["connects"]) for row in balancer.json(line)] for line in
            ("recent", "listener w recent")] == [[("127.0.0.2", 1)], [("127.0.0.3", 2)]]
    assert balancer.ctl("listener w recent 60").startswith("127.0.0.3 connects 2 ")
    rows = [balancer.json(line) for line in ("explain 127.0.0.9", "listener w explain 127.0.0.9")]
    assert [(row["server"], row["why"]) for row in rows] == [(1, "round robin"), (1, "prio")]
    assert "would get server 1" in balancer.ctl("listener w explain 127.0.0.9")
    assert [balancer.json(line)["prio"] for line in ("mode", "listener w mode")] == [False, True]
    assert balancer.ctl("listener w mode") == "no hash roundrobin no stubborn no weight prio\n"


def test_events(balancer: Gpen, servers: Serve) -> None:
    """All of them without a prefix; behind one, what concerns that listener and its servers."""
    balancer.ctl("server 0 health down because of rain", "server 1 health down because of snow")
    assert {row["cause"] for row in balancer.json("events 2")} == {"of rain", "of snow"}
    assert balancer.ctl("listener w events 1").count("\n") == 1
    assert "of snow" in balancer.ctl("listener w events 1")
    assert "of rain" not in balancer.ctl("listener w events")


@pytest.mark.usefixtures("visitors")
def test_close_server(balancer: Gpen) -> None:
    assert balancer.ctl("listener w close server 1") == "Closing 1 connections of server 1\n"
    wait_until(lambda: len(balancer.json("sessions")) == 2)
    assert [row["listener"] for row in balancer.json("sessions")] == [None, None]
    assert balancer.ctl("close server 1") == "Closing 1 connections of server 1\n"
    assert balancer.ctl("listener w close server 1") == "Closing 0 connections of server 1\n"


@pytest.mark.usefixtures("visitors")
def test_the_status_page(balancer: Gpen) -> None:
    data = data_of(balancer.ctl("status"))
    assert {row["name"]: row["address"] for row in data["listeners"]}["w"] == address(balancer, "w")
    assert "w" in [row["listener"] for row in data["sessions"]]


def test_what_it_tells_at_debug(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-dd", *own("w"), servers=[servers(naming("a"))])
    assert ask(balancer, "w", b"ping") == b"aping"
    balancer.wait_idle()
    assert " listener w server 0 " in balancer.stderr
    assert " listens on " in balancer.stderr and address(balancer, "w") in balancer.stderr.splitlines()[0]


def test_totals(balancer: Gpen) -> None:
    assert names_of(balancer) == [None, "w"]
    told(balancer, "w", 3)
    told(balancer, "-", 2)
    assert [row_of(balancer, name)["total"] for name in ("-", "w")] == [2, 3]
    balancer.wait_idle()
    assert [(row["sessions"], row["total"]) for row in balancer.json("servers")] == [(0, 1), (0, 4)]
