"""100 listeners and 1,000 servers: how long a start takes, what they cost, and that no command holds a session up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import Gpen, Server, echo
from tests.large import Waits, configuration, waits_during
from tests.listeners import HERE, ask, row_of

LISTENERS, SERVERS = 100, 1000
START_SECONDS = 2.0
COMMAND_SECONDS, RELOAD_SECONDS = 0.050, 0.300  # of gpen's own work between two echoes
ALIKE_BYTES, LISTENER_BYTES = 50 << 10, 400 << 10  # of a listener that uses all servers as they are, and of another
TRIES = 8  # a busy machine makes work longer

COMMANDS = (
    "timeout 4", "listener l7 timeout 5", "listener l7 inherit timeout", "listeners", "listeners json",
    "listener l7 servers json", "servers json", "sessions json", "status", "listener l7 explain 127.0.0.1", "prio",
    f"listener new listen {HERE}", "listener new servers 5-900", "listener new server 7 max 3 port 80",
    "no listener new", "server 9 max 4", "server 9 health down", "no server 10", "listener l7 listen 127.0.0.1:0",
    "state", "write written.cfg", "conn_max 100", "log /dev/null", "listener l7 events 100 json",
)


def listeners(count: int = LISTENERS, are_alike: bool = False) -> str:
    """A file with all the servers, and listeners that differ in a setting, and in servers unless they ``are_alike``."""
    lines = [line for number in range(count) for line in (
        f"listener l{number} listen {HERE}", f"listener l{number} timeout {1 + number % 9}")]
    if not are_alike:
        lines += [line for number in range(count) for line in (
            f"listener l{number} servers 0-{SERVERS - number}", f"listener l{number} server 3 max {number} prio 2")]
    return configuration(servers=SERVERS, entries=0) + "\n".join(lines) + "\n"


class Started(NamedTuple):
    """A gpen that has just answered, and what that took it."""

    balancer: Gpen
    seconds: float
    cpu: float


def started(directory: Path, text: str, server: Server) -> Started:
    (directory / "large.cfg").write_text(text)
    began = time.monotonic()
    balancer = Gpen(directory, "-F", f"{directory}/large.cfg", HERE, server.address, is_executed=True)
    return Started(balancer, time.monotonic() - began, balancer.cpu)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Gpen]:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not count how long a process runs")
    with Server(echo) as server, started(tmp_path, listeners(), server).balancer as balancer:
        yield balancer


def test_a_start(tmp_path: Path) -> None:
    """In wall clock or, where the machine is busy, in time of a processor; the best of three."""
    times = []
    with Server(echo) as server:
        for _ in range(3):
            start = started(tmp_path, listeners(), server)
            with start.balancer as balancer:
                assert len(balancer.json("listeners")) == LISTENERS + 1
                assert ask(balancer, "l99", b"x") == b"x"
            times.append(min(start.seconds, start.cpu))
            if times[-1] < START_SECONDS / 2:
                break
    assert min(times) < START_SECONDS


def test_what_they_cost(tmp_path: Path) -> None:
    """Memory, as the difference that they make; and time while nothing happens."""
    sizes = []
    with Server(echo) as server:
        for text in (listeners(0), listeners(are_alike=True), listeners()):
            with started(tmp_path, text, server).balancer as balancer:
                assert ask(balancer, "-", b"x") == b"x"
                sizes.append(balancer.rss)
                before = balancer.cpu
                time.sleep(1)  # how busy it is while nothing happens is what is measured
                assert balancer.cpu - before < 0.2
    assert (sizes[1] - sizes[0]) / LISTENERS < ALIKE_BYTES
    assert (sizes[2] - sizes[0]) / LISTENERS < LISTENER_BYTES


def work(scene: Gpen, waits: Waits, line: str, enough: float) -> float:
    """The most work of gpen between two echoes of a session while a command is carried out, in the best of some tries,
    in seconds."""
    works: list[float] = []
    while not works or (works[-1] > enough and len(works) < TRIES and not line.startswith("no ")):
        works.append(waits_during(scene, waits, line, 1)[1])
    return min(works)


def test_commands(scene: Gpen, tmp_path: Path) -> None:
    """And reloads: of a file in which every listener has changed, and of one from which half of them are gone."""
    with Waits(scene) as waits:
        works = {line: work(scene, waits, line, COMMAND_SECONDS) for line in COMMANDS}
        enough = {line: COMMAND_SECONDS * (2 if line.startswith("no ") else 1) for line in COMMANDS}  # no: once only
        assert {line: seconds for line, seconds in works.items() if seconds > enough[line]} == {}
        for text in (listeners().replace("prio 2", "prio 3"), listeners(LISTENERS // 2), listeners()):
            (tmp_path / "large.cfg").write_text(text)
            assert waits_during(scene, waits, "reload", 1)[1] <= RELOAD_SECONDS * 2  # once only, where others run
    assert row_of(scene, "l99")["servers"][-1] == SERVERS - 99
