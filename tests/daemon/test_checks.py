"""The built-in checks of the running daemon: who is checked when, and what a verdict needs and does."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.daemon.slots import next_slot
from tests.daemon.conftest import has_ended
from tests.daemon.test_verdicts import events, verdict
from tests.harness import (
    LOCAL,
    Gpen,
    Server,
    SilentServer,
    echo,
    free_port,
    hold,
    naming,
    needs_root,
    refusing,
    sending,
    wait_until,
)

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
QUICK = ("-O", "check_interval 0.2")


class Program:
    """A program for `check exec` whose exit status the test sets; it remembers when it ran, and how it ended."""

    def __init__(self, directory: Path) -> None:
        self._status, self._runs = directory / "status", directory / "runs"
        self.path = directory / "checker"
        self.path.write_text(f"#!/bin/sh\nread status < {self._status}\n"
                             f'echo "$(date +%s.%N) $GPEN_SERVER $status" >> {self._runs}\n'
                             'echo "status is $status"\nexit $status\n')
        self.path.chmod(0o755)
        self._runs.touch()
        self.says(0)

    def says(self, status: int) -> None:
        fresh = self._status.with_suffix(".new")
        fresh.write_text(f"{status}\n")
        fresh.rename(self._status)

    def statuses(self, until: float = float("inf")) -> str:
        """How its runs that began until then ended, oldest first: "0011"."""
        lines = [line.split() for line in self._runs.read_text().splitlines()]
        return "".join(status for began, _, status in lines if float(began) < until)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def time_of(balancer: Gpen, event: str, number: int = 0) -> float:
    """When something happened to a server last, in wall clock time."""
    return float([row["time"] for row in balancer.json("events 1000")
                  if (row["server"], row["event"]) == (number, event)][-1])


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_server_that_dies_and_returns(gpen: Start, servers: Serve) -> None:
    """No client is needed to find that out, nor does one notice."""
    b = servers(naming("b"))
    with Server(naming("a")) as a:
        balancer = gpen("-r", *QUICK, "-O", "check connect", servers=[a, b])
        wait_until(lambda: verdict(balancer) == ("up", "check", "listens"))
        assert {balancer.ask() for _ in range(4)} == {b"a", b"b"}
    wait_until(lambda: verdict(balancer)[0] == "down")
    row = balancer.server(0)
    assert (row["health"], row["verdict_reason"], row["failures"]) == ("down", "connection refused", 0)
    assert events(balancer) == [("down", "connection refused")]
    assert re.search(r"down for \d+ s: connection refused", balancer.ctl("explain 127.0.0.1"))
    assert {balancer.ask() for _ in range(4)} == {b"b"}
    with Server(naming("a"), port=a.port):
        wait_until(lambda: verdict(balancer)[0] == "up")
        assert {balancer.ask() for _ in range(4)} == {b"a", b"b"}
    assert events(balancer)[1] == ("up", "listens")
    assert "server 0" in balancer.stderr and "down by its check: connection refused" in balancer.stderr


def test_rise_and_fall(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen(*QUICK, "-O", "check_rise 3", "-O", "check_fall 4", "-O", f"check exec {program.path}",
                    servers=[servers(echo)])
    wait_until(lambda: verdict(balancer) == ("up", "check", "status is 0"))
    assert program.statuses(balancer.server(0)["verdict_since"]) == "0", "nothing was known: one is enough"
    program.says(1)
    wait_until(lambda: verdict(balancer)[0] == "down")
    assert events(balancer) == [("down", "exit status 1: status is 1")]
    assert program.statuses(time_of(balancer, "down")).lstrip("0") == "1111"
    program.says(0)
    wait_until(lambda: verdict(balancer)[0] == "up")
    assert program.statuses(time_of(balancer, "up")).rpartition("1")[2] == "000"


def test_failures_that_do_not_last(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen(*QUICK, "-O", "check_fall 1000", "-O", f"check exec {program.path}", servers=[servers(echo)])
    wait_until(lambda: verdict(balancer)[0] == "up")
    program.says(1)
    wait_until(lambda: program.statuses().endswith("11111"))
    assert (verdict(balancer)[0], events(balancer)) == ("up", [])


def test_the_reason_follows(gpen: Start, servers: Serve, program: Program) -> None:
    program.says(1)
    balancer = gpen(*QUICK, "-O", f"check exec {program.path}", servers=[servers(echo)])
    wait_until(lambda: verdict(balancer) == ("down", "check", "exit status 1: status is 1"))
    since = balancer.server(0)["verdict_since"]
    program.says(2)
    wait_until(lambda: balancer.server(0)["reason"] == "exit status 2: status is 2")
    assert balancer.server(0)["verdict_since"] == since
    assert len(events(balancer)) == 1


def test_a_good_check_ends_a_blacklist(gpen: Start) -> None:
    """A server that failed a client while nothing was known of it, and one that was known to be down."""
    with refusing() as address:
        balancer = gpen(*QUICK, "-b", "1000", servers=[address])
        assert balancer.ask() == b""
        balancer.ctl("check connect")
        wait_until(lambda: verdict(balancer)[0] == "down")
    with Server(naming("a"), port=int(address.rpartition(":")[2])):
        wait_until(lambda: balancer.server(0)["health"] == "up")
        assert balancer.ask() == b"a"
    assert [event for event, _ in events(balancer)] == ["down", "up"]


@pytest.mark.parametrize("on_down", ["keep", "close"])
def test_sessions_of_a_server_that_goes_down(gpen: Start, servers: Serve, program: Program, on_down: str) -> None:
    balancer = gpen(*QUICK, "-O", f"on_down {on_down}", "-O", f"check exec {program.path}", servers=[servers(echo)])
    with balancer.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        program.says(1)
        wait_until(lambda: verdict(balancer)[0] == "down")
        if on_down == "keep":
            client.sendall(b"y")
        assert client.recv(1) == (b"y" if on_down == "keep" else b"")


def test_a_check_that_fails_closes_what_a_drain_has_kept(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen(*QUICK, "-O", "on_down close", "-O", f"check exec {program.path}", servers=[servers(echo)])
    with balancer.connect() as client:
        balancer.ctl("server 0 health drain because busy")
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        program.says(1)
        wait_until(lambda: verdict(balancer)[:2] == ("down", "check"))
        assert client.recv(1) == b""
    program.says(0)
    wait_until(lambda: verdict(balancer) == ("drain", "command", "busy"))


def test_command_and_check(gpen: Start, servers: Serve) -> None:
    """The worse of both counts."""
    balancer = gpen(*QUICK, "-O", "check greeting", servers=[servers(naming("a"))])
    wait_until(lambda: verdict(balancer) == ("up", "check", "greeted"))
    balancer.ctl("server 0 health down because read_only")
    assert verdict(balancer) == ("down", "command", "read_only")
    assert balancer.ask() == b""
    balancer.ctl("server 0 health up")
    assert balancer.ask() == b"a"


# --- who is checked, and when -----------------------------------------------------------------------------------------


def test_slots_are_spread() -> None:
    """Whatever the number of servers, and whichever of them there are: no two close together, no large gap."""
    for numbers in (range(2), range(10), range(100), range(40, 140), range(1000)):
        fair = 60 / len(numbers)
        slots = sorted(next_slot(5000.0, number, 60) for number in numbers)
        gaps = [after - before for before, after in zip(slots, [*slots[1:], slots[0] + 60], strict=True)]
        assert slots[0] >= 5000 and slots[-1] < 5060
        assert min(gaps) > 0.3 * fair and max(gaps) < 2 * fair


def test_a_server_keeps_its_slot() -> None:
    slot = next_slot(5000.0, 7, 2)
    assert next_slot(slot + 0.001, 7, 2) == pytest.approx(slot + 2)
    assert next_slot(slot - 0.001, 7, 2) == pytest.approx(slot)


def test_a_hundred_servers_are_spread(gpen: Start) -> None:
    """One listener with a hundred addresses: nearly as many checks in each tenth of the interval as in another."""
    visits: dict[str, list[float]] = defaultdict(list)

    def serve(sock: socket.socket) -> None:
        visits[sock.getsockname()[0]].append(time.monotonic())
        sock.sendall(b"hello")

    with Server(serve, at="0.0.0.0") as server:
        addresses = [f"127.1.0.{number}:{server.port}" for number in range(1, 101)]
        balancer = gpen("-O", "check_interval 2", "-O", "check greeting", servers=addresses)
        wait_until(lambda: {row["verdict"] for row in balancer.json("servers")} == {"up"})
        settled = time.monotonic()
        wait_until(lambda: len(visits) == 100 and all(len([t for t in times if t > settled]) >= 3
                                                      for times in visits.values()))
        balancer.ctl("check off")
    phases = [statistics.median(time % 2 for time in times if time > settled) for times in visits.values()]
    tenths = [sum(int(phase * 5) == tenth for phase in phases) for tenth in range(10)]
    assert len(phases) == 100 and max(tenths) <= 25 and min(tenths) >= 2, tenths


def test_down_servers_are_checked_faster(gpen: Start, servers: Serve) -> None:
    well, sick = servers(naming("a")), servers(sending(b""))
    balancer = gpen("-O", "check_interval 0.8", "-O", "check greeting", servers=[well, sick])
    wait_until(lambda: (verdict(balancer, 0)[0], verdict(balancer, 1)[0]) == ("up", "down"))
    before = well.served, sick.served
    wait_until(lambda: well.served >= before[0] + 6)
    assert 2.5 * 6 <= sick.served - before[1] <= 6 * 6


def test_a_blacklisted_server_is_checked_faster(gpen: Start, servers: Serve) -> None:
    server = servers(naming("a"))
    balancer = gpen("-O", "check_interval 1", "-O", "check greeting", servers=[server])
    wait_until(lambda: verdict(balancer)[0] == "up")
    balancer.ctl("server 0 blacklist 600")
    before = server.served
    start = time.monotonic()
    wait_until(lambda: server.served >= before + 8)
    assert time.monotonic() - start < 6


def test_a_check_that_is_new_or_changed_does_not_wait_for_the_old_slot(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "check_interval 12", servers=[servers(naming("a"))])
    start = time.monotonic()
    for check, reason in (("connect", "listens"), ("greeting", "greeted")):
        balancer.ctl(f"check {check}")
        wait_until(lambda: verdict(balancer) == ("up", "check", reason))  # noqa: B023
    assert time.monotonic() - start < 9
    assert events(balancer) == []


def test_one_at_a_time(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho begin >> {runs}\nsleep 0.4\necho end >> {runs}\n")
    slow.chmod(0o755)
    balancer = gpen("-O", "check_interval 0.1", "-O", f"check exec {slow}", "-O", "check_timeout 20",
                    servers=[servers(echo)])
    wait_until(lambda: runs.exists() and runs.read_text().count("end") >= 4)
    balancer.ctl("check off")
    assert runs.read_text().split()[:8] == ["begin", "end"] * 4


def test_off_for_one_on_for_another(gpen: Start, servers: Serve) -> None:
    a, b, c = servers(naming("a")), servers(naming("b")), servers(naming("c"))
    balancer = gpen(*QUICK, "-O", "check greeting", "-O", "server 1 check off", "-O", "server 2 check connect",
                    "-e", c.address, servers=[a, b, c])
    found = ["greeted", None, "listens", None]
    wait_until(lambda: [row["verdict_reason"] for row in balancer.json("servers")] == found)
    wait_until(lambda: a.served >= 5)
    assert (b.served, c.served) == (0, 0)
    assert [row["check"] for row in balancer.json("servers")][:3] == ["greeting", "off", "connect"]
    balancer.ctl("no check", "server 1 check greeting", "server 2 check default")
    assert [verdict(balancer, number)[0] for number in (0, 2)] == [None, None]
    wait_until(lambda: verdict(balancer, 1)[2] == "greeted")
    served = a.served
    wait_until(lambda: b.served >= 5)
    assert a.served <= served + 1


def test_no_check_takes_its_verdict_along(gpen: Start, servers: Serve) -> None:
    balancer = gpen(*QUICK, "-O", "check greeting", servers=[servers(sending(b""))])
    wait_until(lambda: verdict(balancer)[0] == "down")
    assert balancer.ctl("check off") == "off\n"
    assert verdict(balancer) == (None, None, None)
    assert balancer.server(0)["health"] == "up"
    assert [event for event, _ in events(balancer)] == ["down", "unchecked", "up"]


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_the_operator_sees_whether_a_server_is_back(gpen: Start, servers: Serve, state: str) -> None:
    server = servers(naming("a"))
    balancer = gpen(*QUICK, "-O", "check greeting", "-O", f"server 0 state {state}", servers=[server])
    wait_until(lambda: verdict(balancer)[0] == "up")
    assert (balancer.server(0)["state"], balancer.ask()) == (state, b"")


def test_servers_that_come_move_and_go(gpen: Start, servers: Serve) -> None:
    a, b = servers(naming("a")), servers(sending(b""))
    balancer = gpen(*QUICK, "-O", "check greeting", servers=[a])
    wait_until(lambda: verdict(balancer)[0] == "up")
    balancer.ctl(f"server 0 port {b.port}")
    assert verdict(balancer)[0] is None
    wait_until(lambda: verdict(balancer)[0] == "down")
    balancer.ctl(f"server 5 address 127.0.0.1 port {a.port}")
    wait_until(lambda: verdict(balancer, 5)[0] == "up")
    balancer.ctl("no server 0")
    served = b.served
    before = a.served
    wait_until(lambda: a.served >= before + 5)
    assert b.served <= served + 1


def test_clients_that_wait_are_served_when_a_check_is_good(gpen: Start) -> None:
    with refusing() as address:
        balancer = gpen(*QUICK, "-b", "1000", "-O", "hold 20", "-O", "check connect", servers=[address])
        wait_until(lambda: verdict(balancer)[0] == "down")
        client = balancer.connect()
        wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["held"])
    with client, Server(naming("a"), port=int(address.rpartition(":")[2])):
        assert client.recv(10) == b"a"


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(tmp_path: Path) -> Callable[[], list[int]]:
    """A program that hangs with a child; the function tells the pids of all that were started."""
    pids = tmp_path / "pids"
    path = tmp_path / "hanging"
    path.write_text(f"#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $$ $! >> {pids}\necho x\nwait\n")
    path.chmod(0o755)
    return lambda: [int(pid) for pid in pids.read_text().split()] if pids.exists() else []


def test_clients_are_served_while_programs_hang(gpen: Start, servers: Serve, hanging: Callable[[], list[int]],
                                                tmp_path: Path) -> None:
    a = servers(naming("a"))
    balancer = gpen("-r", "-O", f"check exec {tmp_path}/hanging", "-O", "check_timeout 1", "-O", "check_fall 1000",
                    "-O", "check_interval 1", servers=[a] * 10)
    wait_until(lambda: len(hanging()) >= 20)
    waits = []
    while len(waits) < 60:
        start = time.monotonic()
        assert balancer.ask() == b"a"
        waits.append(time.monotonic() - start)
    assert statistics.median(waits) < 0.1


@pytest.mark.one_process
def test_programs_that_hang_are_killed_and_leave_nothing(gpen: Start, servers: Serve, tmp_path: Path,
                                                         hanging: Callable[[], list[int]]) -> None:
    balancer = gpen(*QUICK, "-O", "check_timeout 0.3", servers=[servers(hold)])
    descriptors = balancer.fds()
    balancer.ctl(f"check exec {tmp_path}/hanging")
    wait_until(lambda: verdict(balancer) == ("down", "check", "not done within 0.3 s"))
    wait_until(lambda: len(hanging()) >= 8)
    assert balancer.ctl("check off") == "off\n"
    wait_until(lambda: all(map(has_ended, hanging())), what="the end of all programs")
    assert children(balancer.pid) == []
    wait_until(lambda: balancer.fds() == descriptors)


def test_a_program_does_not_outlive_gpen(gpen: Start, servers: Serve, tmp_path: Path,
                                         hanging: Callable[[], list[int]]) -> None:
    balancer = gpen("-O", "check_timeout 1000", "-O", f"check exec {tmp_path}/hanging", servers=[servers(hold)])
    wait_until(hanging)
    assert balancer.stop() == 0
    wait_until(lambda: all(map(has_ended, hanging())), what="the end of all programs")


def children(pid: int) -> list[str]:
    """The processes that this one has started and not waited for, zombies too."""
    found = subprocess.run(["ps", "-o", "pid=,stat=,args=", "--ppid", str(pid)], capture_output=True, text=True,
                           timeout=20, check=False)
    return found.stdout.splitlines()


@pytest.mark.one_process
def test_many_checks_leave_nothing(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    balancer.ctl("check connect", "check_interval 0.02")
    wait_until(lambda: verdict(balancer)[0] == "up")
    descriptors = balancer.fds()
    balancer.ctl(f"check exec {program.path}")
    wait_until(lambda: len(program.statuses()) >= 30)
    balancer.ctl("check greeting")
    wait_until(lambda: verdict(balancer)[2] == "greeted")
    balancer.ctl("check connect")
    wait_until(lambda: verdict(balancer)[2] == "listens")
    wait_until(lambda: balancer.fds() == descriptors)
    assert children(balancer.pid) == []


def test_a_program_that_vanishes_is_no_verdict(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen(*QUICK, "-O", f"check exec {program.path}", servers=[servers(naming("a"))])
    wait_until(lambda: verdict(balancer)[0] == "up")
    program.path.rename(program.path.with_suffix(".away"))
    wait_until(lambda: "not checked: no such file or directory" in balancer.stderr.lower())
    program.path.with_suffix(".away").rename(program.path)
    ran = len(program.statuses())
    wait_until(lambda: len(program.statuses()) > ran + 3)
    assert balancer.stderr.count("not checked") == 1, "it is said once"
    assert (verdict(balancer)[0], events(balancer)) == ("up", [])


def test_a_program_that_can_not_be_run_changes_nothing(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen(servers=[servers(echo)])
    (tmp_path / "data").write_text("")
    for line in (f"check exec {tmp_path}/none", f"server 0 check exec {tmp_path}/data", f"check exec {tmp_path}"):
        reply = balancer.ctl(line)
        assert reply.startswith("error: ") and str(tmp_path) in reply and reply.count("\n") == 1
    assert balancer.ctl("check") == "off\n"
    assert balancer.server(0)["check"] == "off"


@needs_root
def test_no_program_is_set_over_a_control_port(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    balancer = gpen("-u", "nobody", control=address, servers=[servers(naming("a"))])
    for line in ("check exec /bin/true", "server 0 check exec /bin/true", "server 0 max 1 check exec /bin/true"):
        reply = balancer.ctl(line)
        assert reply.startswith("error: ") and "exec runs programs" in reply
    assert balancer.server(0)["check"] == "off"
    assert balancer.ctl("check connect") == "connect\n"
    wait_until(lambda: verdict(balancer)[0] == "up")


# --- the configuration ------------------------------------------------------------------------------------------------


def test_checks_are_written_and_read_back(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen("-O", r'check send "PING \"x\" \\\\ \r\n" expect +PONG', servers=[servers(echo)] * 4)
    balancer.ctl("server 0 check off", "server 1 check connect", "server 2 check exec \"/bin/sh -c 'exit 0'\"",
                 "check_interval 7.5", "check_timeout 3", "check_rise 4", "check_fall 5", f"write {tmp_path}/saved")
    lines = ("check", "check_interval", "check_timeout", "check_rise", "check_fall")
    with Gpen(tmp_path, "-F", f"{tmp_path}/saved", LOCAL, name="again") as again:
        assert again.ctl(*lines) == balancer.ctl(*lines)
        assert [row["check"] for row in again.json("servers")] == [row["check"] for row in balancer.json("servers")]
        assert [row["check"] for row in again.json("servers")][:3] == ["off", "connect", "exec \"/bin/sh -c 'exit 0'\""]


def test_no_answer(gpen: Start) -> None:
    with SilentServer() as silent:
        balancer = gpen(*QUICK, "-O", "check connect", "-O", "check_timeout 0.2", servers=[silent.address])
        wait_until(lambda: verdict(balancer) == ("down", "check", "no answer within 0.2 s"))
