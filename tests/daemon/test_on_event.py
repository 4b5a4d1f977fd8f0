"""The program of on_event: what it is told, when, and that nothing waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacker import NOBODY
from tests.daemon.conftest import has_ended
from tests.harness import Gpen, Server, echo, free_port, home_of, naming, needs_root, run_gpen, wait_until
from tests.metrics import fetch, samples
from tests.replacing import replacing

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Told = dict[str, str]
QUICK = ("-O", "check_interval 0.1")


class Program:
    """A program for on_event: it notes its environment, a file for each run, and goes on once the test lets it."""

    def __init__(self, directory: Path, then: str = "exit 0") -> None:
        self.runs = directory / "runs"
        self.runs.mkdir()
        self.path = directory / "alert"
        self.path.write_text('#!/bin/sh\numask 0\nname=$(date +%s.%N)\n'
                             f'env >"{self.runs}/.$name" && mv "{self.runs}/.$name" "{self.runs}/$name"\n{then}\n')
        self.path.chmod(0o755)

    def told(self) -> list[Told]:
        """The environments of its runs, oldest first, without those that have yet to be written."""
        files = sorted(file for file in self.runs.iterdir() if not file.name.startswith("."))
        return [dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line) for file in files]

    def changes(self, about: str = "server") -> list[tuple[str, str, str]]:
        """The event, and how it was and is, of each run."""
        return [(told["GPEN_EVENT"], told["GPEN_OLD"], told["GPEN_NEW"]) for told in self.told()
                if told["GPEN_ABOUT"] == about]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_a_server_that_dies_and_returns(gpen: Start, servers: Serve, program: Program) -> None:
    """No client is needed; nor is it told of what was so from the start."""
    port, before = free_port(), time.time()
    with Server(naming("a"), port=port) as server:
        balancer = gpen(*QUICK, "-O", "check connect", "-O", f'on_event "{program.path} --to root"',
                        "-O", "listener w listen 127.0.0.1:0", servers=[server, servers(naming("b"))])
        wait_until(lambda: balancer.server(0)["verdict"] == "up")
    told = wait_until(program.told)[0]
    expected = {"EVENT": "down", "ABOUT": "server", "SERVER": "0", "ADDRESS": server.address, "HOST": "127.0.0.1",
                "PORT": str(port), "OLD": "up", "NEW": "down", "STATE": "ready", "REASON": "connection refused",
                "LISTENER": "", "LISTENERS": "- w", "LOST": "0"}
    assert {name: told[f"GPEN_{name}"] for name in expected} == expected
    assert before < float(told["GPEN_TIME"]) < time.time()
    with Server(naming("a"), port=port):
        wait_until(lambda: program.changes() == [("down", "up", "down"), ("up", "down", "up")])
    assert not program.changes("listener")


def test_whoever_says_so(gpen: Start, servers: Serve, program: Program) -> None:
    """A client's connect, a verdict, the operator; a server that comes, moves and goes."""
    balancer = gpen("-O", f"on_event {program.path}", servers=[f"127.0.0.1:{free_port()}", servers(naming("b"))])
    assert balancer.ask() == b"b"
    steps = (
        ("", ("down", "up", "down")),
        ("server 0 blacklist 0", ("up", "down", "up")),
        ("server 1 health drain because backup", ("drained", "up", "drained")),
        ("server 1 health down because broken", ("down", "drained", "down")),
        ("server 1 health up", ("up", "down", "up")),
        ("server 1 state maint", ("maint", "up", "maint")),
        ("server 1 state drain", ("drain", "maint", "drain")),
        ("server 1 state ready", ("ready", "drain", "up")),
        ("server 7 address 127.0.0.1:7", ("added", "", "up")),
        ("server 7 address 127.0.0.1:8", ("moved", "up", "up")),
        ("server 7 address 0.0.0.0", ("emptied", "up", "empty")),
        ("no server 7", ("deleted", "empty", "deleted")),
    )
    for number, (line, change) in enumerate(steps, 1):
        if line:
            assert balancer.ctl(line) == ""
        wait_until(lambda number=number: len(program.changes()) == number, what=line)
        assert program.changes()[-1] == change


def test_a_listener_that_can_serve_no_more(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen("-O", f"on_event {program.path}", "-O", "listener w listen 127.0.0.1:0",
                    "-O", "listener w servers 1", servers=[servers(naming("a")), servers(naming("b"))])
    balancer.ctl("server 1 health down because tired")
    wait_until(lambda: program.changes("listener") == [("unready", "ready", "unready")])
    told = program.told()[-1]
    assert (told["GPEN_LISTENER"], told["GPEN_SERVER"]) == ("w", "")
    assert told["GPEN_REASON"] == "its only server can't be used: down"
    balancer.ctl("server 1 health up")
    wait_until(lambda: program.changes("listener")[1:] == [("ready", "unready", "ready")])
    balancer.ctl("server 0 state drain", "server 1 state drain")
    wait_until(lambda: [told["GPEN_LISTENER"] for told in program.told() if told["GPEN_NEW"] == "unready"]
               == ["w", "-", "w"] or [told["GPEN_LISTENER"] for told in program.told()
                                      if told["GPEN_NEW"] == "unready"] == ["w", "w", "-"])


def test_nothing_waits_for_it(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """It hangs, and clients are served; a hundred changes wait, and it is told how many it has missed."""
    gate = tmp_path / "gate"
    program = Program(tmp_path, f'while [ ! -e "{gate}" ]; do sleep 0.02; done')
    balancer = gpen("-O", f"on_event {program.path}", "-O", "metrics 127.0.0.1:0",
                    servers=[servers(naming("a")), servers(naming("b"))])
    balancer.ctl("server 0 health down because 0")
    wait_until(program.told)
    balancer.ctl(*(f"server 0 health {'up' if number % 2 else 'down'} because {number}" for number in range(1, 121)))
    assert balancer.ask() in (b"a", b"b")
    assert len(program.told()) == 1, "one at a time"
    wait_until(lambda: "the oldest are lost" in balancer.stderr)
    gate.touch()
    wait_until(lambda: len(program.told()) == 101, seconds=60)
    told = program.told()
    assert [row["GPEN_REASON"] for row in told] == [str(number) for number in (0, *range(21, 121))]
    assert [row["GPEN_LOST"] for row in told] == ["0", "20", *["0"] * 99]
    figures = samples(fetch(int(balancer.ctl("metrics").rpartition(":")[2])))
    assert figures['gpen_alerts_total{result="lost"}'] == 20


def test_one_that_fails(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """The first time is told, with what it said; and it is run again for what comes next."""
    program = Program(tmp_path, "echo no mail today; exit 3")
    balancer = gpen("-O", f"on_event {program.path}", "-O", "metrics 127.0.0.1:0",
                    servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down", "server 0 health up", "server 0 health down")
    wait_until(lambda: len(program.told()) == 3)
    wait_until(lambda: "on_event: 'down' of server 0 was not told: exit status 3: no mail today" in balancer.stderr)
    figures = wait_until(lambda: (found := samples(fetch(int(balancer.ctl("metrics").rpartition(":")[2]))))[
        'gpen_alerts_total{result="failed"}'] == 3 and found)
    assert figures['gpen_alerts_total{result="done"}'] == 0
    assert balancer.stderr.count("was not told") == 1
    program.path.unlink()
    balancer.ctl("server 0 health up")
    wait_until(lambda: samples(fetch(int(balancer.ctl("metrics").rpartition(":")[2])))[
        'gpen_alerts_total{result="failed"}'] == 4)
    assert balancer.json("info")["alerts"] == {"done": 0, "failed": 4, "lost": 0}


@pytest.mark.long
def test_one_that_never_ends(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    """It is killed after its time, with what it has started, and the next one is run."""
    program = Program(tmp_path, f"sleep 1000 & echo $! >{tmp_path}/child; wait")
    balancer = gpen("-O", f"on_event {program.path}", servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down", "server 0 health up")
    wait_until(lambda: len(program.told()) == 1)
    child = int(wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text()))
    wait_until(lambda: len(program.told()) == 2, seconds=60)
    assert "it took more than 30 s, and was killed" in balancer.stderr
    wait_until(lambda: has_ended(child))


def test_gpen_s_end_is_its_end(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    program = Program(tmp_path, f"echo $$ >{tmp_path}/pid; sleep 1000")
    balancer = gpen("-O", f"on_event {program.path}", servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down")
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert balancer.stop() == 0
    assert has_ended(pid)


def test_at_runtime(gpen: Start, servers: Serve, program: Program, tmp_path: Path) -> None:
    """It is set, written, unset; what happened while it was unset is not told."""
    balancer = gpen(servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down because before")
    assert balancer.ctl(f'on_event "{program.path} x"') == ""
    balancer.ctl("server 0 health up because then")
    wait_until(lambda: [told["GPEN_REASON"] for told in program.told()] == ["then"])
    assert program.changes() == [("up", "down", "up")]
    assert balancer.ctl("on_event") == f"{program.path} x\n"
    balancer.ctl(f"write {tmp_path}/written")
    assert f'on_event "{program.path} x"\n' in (tmp_path / "written").read_text()
    balancer.ctl("no on_event", "server 0 health down because after", f"on_event {program.path}",
                 "server 1 health down because last")
    wait_until(lambda: [told["GPEN_REASON"] for told in program.told()][1:] == ["last"] or program.changes("listener"))
    assert "after" not in [told["GPEN_REASON"] for told in program.told()]


def test_only_the_one_that_serves_tells(gpen: Start, servers: Serve, program: Program) -> None:
    """Nor is what it has taken over news to the one that replaces another."""
    server = servers(echo)
    balancer = gpen("-O", f"on_event {program.path}", servers=[server, servers(echo)])
    with balancer.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        balancer.ctl("server 1 health down because one")
        wait_until(lambda: len(program.told()) == 1)
        with replacing(balancer) as new:
            new.ctl("server 1 health up because two")
            wait_until(lambda: len(program.told()) == 2)
            new.ctl("server 1 health down because three")
            wait_until(lambda: len(program.told()) == 3)
    assert [told["GPEN_REASON"] for told in program.told()] == ["one", "two", "three"]


def test_with_workers_it_is_run_once(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen("-O", "workers 2", "-O", f"on_event {program.path}", servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down because one", "server 0 health up because two")
    wait_until(lambda: len(program.told()) >= 2)
    assert [told["GPEN_REASON"] for told in program.told()] == ["one", "two"]


def test_its_environment_is_clean(gpen: Start, servers: Serve, program: Program, monkeypatch: pytest.MonkeyPatch,
                                  ) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setenv("GPEN_SITE", "berlin")
    balancer = gpen("-O", f"on_event {program.path}", servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down because \"a 'b' $(touch x) `id`; é\"")
    told = wait_until(program.told)[0]
    assert {name for name in told if not name.startswith("GPEN_")} <= {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}
    assert told["GPEN_SITE"] == "berlin"
    assert told["GPEN_REASON"] == "a 'b' $(touch x) `id`; é"


@needs_root
@pytest.mark.parametrize("chroot", [False, True])
def test_as_a_user(gpen: Start, servers: Serve, tmp_path: Path, chroot: bool) -> None:
    """It runs as gpen's user, without any rights; in the chroot, if there is one, where it has to be."""
    home = home_of(NOBODY, tmp_path)
    program = Program(home, f'grep -h "^NoNewPrivs\\|^CapEff" /proc/self/status >{home}/rights')
    os.chown(program.runs, NOBODY, NOBODY)
    where = ("-j", "/") if chroot else ()
    balancer = gpen("-u", "nobody", *where, "-O", f"on_event {program.path}", servers=[servers(echo), servers(echo)])
    balancer.ctl("server 0 health down")
    wait_until(program.told)
    assert next(program.runs.iterdir()).stat().st_uid == NOBODY
    rights = wait_until(lambda: (home / "rights").exists() and (home / "rights").read_text().split())
    assert rights == ["CapEff:", "0" * 16, "NoNewPrivs:", "1"]


@needs_root
def test_who_may_not_set_it(gpen: Start, servers: Serve, program: Program) -> None:
    balancer = gpen("-u", "nobody", servers=[servers(echo)], control=f"127.0.0.1:{free_port()}")
    reply = balancer.ctl(f"on_event {program.path}")
    assert reply.startswith("error: on_event: it runs programs, which no client of a TCP control port may")
    assert balancer.ctl("on_event") == ""
    assert balancer.ctl("no on_event") == ""


def test_what_can_t_be_run_is_refused(gpen: Start, servers: Serve) -> None:
    """At the start, by --check, and at runtime, with nothing changed."""
    for how in ("-f", "--check"):
        done = run_gpen(how, "-O", "on_event /nowhere/alert", "127.0.0.1:0", "127.0.0.1:1")
        assert done.returncode and "on_event: '/nowhere/alert': there is no such program" in done.stderr, done.stderr
    balancer = gpen(servers=[servers(echo)])
    for program, says in (("/nowhere/alert", "there is no such program"),
                          ("/etc/passwd", "can't be run by the user of gpen"),
                          ("alert", "does not begin with the absolute path of a program"),
                          ("\"/bin/sh 'x\"", "no closing quotation")):
        reply = balancer.ctl(f"on_event {program}")
        assert reply.startswith("error: on_event: ") and says in reply
    assert balancer.ctl("on_event") == ""
