"""gpenctl on a terminal: colors, the prompt and watch, on a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpen.gpenctl.prompt import arguments, candidates
from gpen.model.settings import PROCESS, SETTINGS, SHARED
from tests.gpenctl.daemon import GPENCTL, Daemon, Run, Terminal, server, unix_daemon
from tests.harness import Gpen, Server, naming

Open = Callable[..., Terminal]
CTRL_C, CTRL_D, TAB, UP = "\x03", "\x04", "\t", "\x1b[A"


def test_tables_and_colors(terminal: Open, daemon: Daemon) -> None:
    status, shown = terminal(daemon.target, "servers").finish()
    assert status == 0
    assert "\x1b[32mup\x1b[0m" in shown and "retry in 12s" in shown


@pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color(
    terminal: Open, daemon: Daemon, environment: dict[str, str], setting: tuple[str, str]
) -> None:
    environment[setting[0]] = setting[1]
    status, shown = terminal(daemon.target, "servers").finish()
    assert status == 0 and "health" in shown and "\x1b" not in shown


def test_narrow(terminal: Open, daemon: Daemon) -> None:
    _, shown = terminal("--color=never", daemon.target, "servers", columns=60).finish()
    assert "health" in shown and max(map(len, shown.splitlines())) <= 60


@pytest.mark.parametrize("columns", [60, 100, 150])
def test_help_is_as_wide_as_the_terminal(
    terminal: Open, gpenctl: Run, gpen: Callable[..., Gpen], columns: int
) -> None:
    balancer = gpen(servers=["127.0.0.1:9"])
    for words in (["help"], ["help", "server"]):
        status, shown = terminal(balancer.control, *words, columns=columns).finish()
        assert status == 0 and columns - 15 < max(map(len, shown.splitlines())) <= columns
    assert "WITHOUT EFFECT" in terminal(balancer.control, "help", columns=columns).finish()[1]
    assert max(map(len, gpenctl(balancer.control, "help").stdout.splitlines())) <= 100


def test_help_of_a_daemon_that_knows_no_json(terminal: Open, daemon: Daemon) -> None:
    daemon.replies |= {"help json": "error: help: 'json' is not a command\n", "help": "pid  The process id.\n"}
    assert terminal(daemon.target, "help").finish() == (0, "pid  The process id.\r\n")


def test_control_characters_stay_out(terminal: Open, daemon: Daemon) -> None:
    _, shown = terminal(daemon.target, "log").finish()
    assert shown == "/tmp/a\\x1b]0;owned\\x07b\r\n"
    daemon.replies["log"] = "error: \x1b[2Jlog: no\n"
    assert terminal(daemon.target, "log").finish() == (1, "error: \\x1b[2Jlog: no\r\n")
    daemon.replies["servers json"] = json.dumps([server(0, "\x1b[2J\nx", reason="\x07")])
    _, shown = terminal("--color=never", daemon.target, "servers").finish()
    assert "\\x1b[2J\\x0ax" in shown and "\x1b" not in shown and "\x07" not in shown


# The prompt


def test_prompt(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target)
    screen.expect("pid 4711")
    screen.expect("gpen> ")
    screen.send("servers\n")
    screen.expect("5.0 MiB")
    screen.expect("gpen> ")
    screen.send("severs\n")
    screen.expect("did you mean 'servers'?")
    screen.expect("gpen> ")
    screen.send("server 1 max many\n")
    screen.expect("usage: server N")
    screen.expect("gpen> ")
    screen.send("timeou")
    screen.expect("timeou")
    screen.send(CTRL_C)  # gives up the line
    screen.send("\n")  # Python sees a Ctrl-C that comes just before it waits for a key with the next key only
    screen.send("timeout\n")
    screen.expect("5\r\n")
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    assert daemon.lines == ["servers json", "severs", "server 1 max many", "timeout"]


def test_prompt_quits(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target)
    screen.expect("Ctrl-D or quit leaves this prompt")
    screen.expect("gpen> ")
    screen.send("quit\n")
    assert screen.finish()[0] == 0
    assert daemon.lines == []


@pytest.mark.parametrize("answer", ["\n", "n\n", "what\n", CTRL_C + "\n", CTRL_D])
def test_prompt_asks_before_it_stops_the_daemon(terminal: Open, daemon: Daemon, answer: str) -> None:
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("exit\n")
    screen.expect("Stop the daemon? [y/N] ")
    screen.send(answer)
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    assert daemon.lines == []


def test_prompt_stops_the_daemon(terminal: Open, daemon: Daemon, environment: dict[str, str]) -> None:
    daemon.replies["exit"] = "Exit is not enabled; restart with -X flag\n"
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("exit\n")
    screen.expect("Stop the daemon? [y/N] ")
    screen.send("y\n")
    screen.expect("restart with -X flag\r\n")
    assert screen.expect("gpen> ") == "gpen> "  # how `exit` is written needs no hint
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    assert daemon.lines == ["exit"]
    assert "y" not in (Path(environment["XDG_STATE_HOME"]) / "gpenctl_history").read_text().split("\n")


def test_exit_from_a_pipe_asks_nothing(gpenctl: Run, daemon: Daemon) -> None:
    daemon.replies["exit"] = ""
    done = gpenctl(daemon.target, stdin="exit\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert daemon.lines == ["exit"]


def test_prompt_completes(terminal: Open, daemon: Daemon) -> None:
    daemon.replies["server 1 state drain"] = ""
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("roundr" + TAB)
    screen.expect("roundrobin ")
    screen.send("\n")
    screen.expect("gpen> ")
    screen.send("server 1 st" + TAB + "dr" + TAB)
    screen.expect("state drain ")
    screen.send("\n")
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    assert daemon.lines == ["roundrobin", "server 1 state drain"]


def test_prompt_completes_listeners(terminal: Open, gpen: Callable[..., Gpen]) -> None:
    balancer = gpen(servers=["127.0.0.1:9"])
    assert "error" not in balancer.ctl("listener writer listen 127.0.0.1:0")
    screen = terminal(balancer.control)
    screen.expect("gpen> ")
    screen.send("listener wr" + TAB)
    screen.expect("listener writer ")
    screen.send("idle" + TAB + "42\n")
    screen.expect("gpen> ")
    screen.send("no listener wr" + TAB + "\n")
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    assert [row["name"] for row in balancer.json("listeners")] == [None]


def test_prompt_without_an_answer_completes_nothing(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("listener " + TAB + "x server 1 max many\n")
    screen.expect("listener x server N [max M")
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    assert daemon.lines == ["listeners json", "listener x server 1 max many"]


def test_prompt_remembers(terminal: Open, daemon: Daemon, environment: dict[str, str]) -> None:
    for typed in ("timeout", UP):
        screen = terminal(daemon.target)
        screen.expect("gpen> ")
        screen.send(typed + "\n")
        screen.expect("5\r\n")
        screen.expect("gpen> ")
        screen.send(CTRL_D)
        assert screen.finish()[0] == 0
    assert daemon.lines == ["timeout"] * 2
    assert "timeout" in (Path(environment["XDG_STATE_HOME"]) / "gpenctl_history").read_text()


def test_prompt_without_a_place_for_its_history(
    terminal: Open, daemon: Daemon, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    environment["XDG_STATE_HOME"] = str(tmp_path / "file" / "state")
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("timeout\n")
    screen.expect("5\r\n")
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    status, shown = screen.finish()
    assert status == 0 and "rror" not in shown


def test_prompt_outlives_the_daemon(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    daemon.close()
    screen.send("timeout\n")
    screen.expect("nobody answers")
    screen.expect("gpen> ")
    os.unlink(daemon.target)
    again = unix_daemon(Path(daemon.target))
    screen.send("timeout\n")
    screen.expect("5\r\n")
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
    again.close()


def test_prompt_without_a_daemon(terminal: Open, tmp_path: Path) -> None:
    status, shown = terminal(str(tmp_path / "none.ctl")).finish()
    assert status == 3 and "no such socket" in shown and "gpen>" not in shown


@pytest.mark.parametrize(
    ("usage", "given", "expected"),
    [
        ("server N [address A] [state ready|drain|maint]", "", ["address", "state"]),
        ("server N [address A] [state ready|drain|maint]", "1 address", []),
        ("server N [address A] [state ready|drain|maint]", "1 address a", ["state"]),
        ("server N [address A] [state ready|drain|maint]", "1 state", ["ready", "drain", "maint"]),
        ("acl N permit|deny ADDRESS [MASK]", "1", ["permit", "deny"]),
        ("close N | close server N", "", ["server"]),
        ("tcp_fastclose [off|up|down|both]", "", ["off", "up", "down", "both"]),
        ("write [FILE]", "", []),
        ("drain N [SECONDS] [close]", "1 30", ["close"]),
        ("check [off|send STRING expect STRING|exec PROGRAM]", "", ["off", "send", "expect", "exec"]),
        ("check [off|send STRING expect STRING|exec PROGRAM]", "send a", ["off", "expect", "exec"]),
        ("server N [health up|down [because WORDS...]]", "1 health", ["up", "down"]),
        ("server N [health up|down [because WORDS...]]", "1 health up", ["because"]),
        ("accept_proxy [N|off]", "", ["off"]),
    ],
)
def test_arguments(usage: str, given: str, expected: list[str]) -> None:
    assert arguments(usage, given.split()) == expected


KNOWN = {"listeners": ["dns", "web"], "servers": ["0", "1"], "sessions": ["7", "12"], "recent": ["10.0.0.7"]}


@pytest.mark.parametrize("what, lines", [
    ("servers", ["server", "no server", "drain", "close server", "client 10.0.0.7 server", "listener web server",
                 "listener web close server", "listener web inherit server", "listener web client 10.0.0.7 server"]),
    ("sessions", ["connection"]),
    ("recent", ["explain", "client", "no client", "listener web explain", "listener web client"]),
    ("listeners", ["listener", "no listener"]),
])
def test_what_the_daemon_knows(what: str, lines: list[str]) -> None:
    for line in lines:
        assert candidates(line.split(), KNOWN.__getitem__) == KNOWN[what], line
    assert candidates(["close"], KNOWN.__getitem__) == ["7", "12", "server", "address"]


def test_tab_completes_a_number(
    terminal: Open, gpen: Callable[..., Gpen], servers: Callable[..., Server]
) -> None:
    """That of a server, also behind a listener that is completed itself, and that of a session."""
    balancer = gpen(servers=[servers(naming("a"))])
    balancer.ctl("server 17 address 127.0.0.1 port 9", "listener reports listen 127.0.0.1:0")
    with balancer.connect() as client:
        assert client.recv(1) == b"a"
        (session,) = balancer.json("sessions")
        screen = terminal(balancer.control)
        for typed, completed, rest in (
            ("server 1", "server 17 ", "max 5"),
            ("listener rep", "listener reports ", "server 17 max 3"),
            ("listener reports server 1", "listener reports server 17 ", "max 4"),
            ("connection ", f"connection {session['id']} ", ""),
        ):
            screen.expect("gpen> ")
            screen.send(typed + TAB)
            screen.expect(completed)
            screen.send(f"{rest}\n")
        screen.expect("gpen> ")
        screen.send(CTRL_D)
        assert screen.finish()[0] == 0
    assert balancer.server(17)["max"] == 5
    assert " max 4 " in balancer.ctl("listener reports servers").splitlines()[-1]


def test_candidates() -> None:
    from gpen.control.commands import COMMANDS

    def following(line: str) -> list[str]:
        return candidates(line.split(), KNOWN.__getitem__)

    assert set(following("")) == {*COMMANDS, "no", "quit", "top", "watch"}
    assert set(following("help")) == set(COMMANDS)
    assert all(COMMANDS[name].negatable for name in following("no")) and "roundrobin" in following("no")
    assert following("no pid") == following("nosuch") == []
    assert "max" in following("server 1")
    assert following("listener") == following("no listener") == ["dns", "web"]
    assert following("tracking_with") == following("listener dns tracking_with") == ["dns", "web", "-"]
    of_all = {name for name, setting in SETTINGS.items() if setting.scope == PROCESS}
    assert set(following("listener dns")) >= {"no", "servers", "close", "inherit", *(SETTINGS.keys() - of_all)}
    assert not set(following("listener dns")) & {*of_all, "acl", "write", "listeners"}
    assert "listen" in following("listener dns no") and not {*of_all, "server"} & set(following("listener dns no"))
    assert set(following("listener dns inherit")) == {
        "server", *(name for name, setting in SETTINGS.items() if setting.scope == SHARED)}
    assert following("listener dns servers") == ["json", "all"]
    assert following("listener dns server 1") == ["max", "weight", "prio", "port"]
    assert following("listener dns server 1 max 5 port 53") == ["weight", "prio"]
    assert following("listener dns close") == ["server", "address"]
    assert following("listener dns close server 1") == ["at", "quiet"]
    assert following("close address") == following("listener dns close address") == KNOWN["recent"]
    assert following("listener dns tcp_fastclose") == ["off", "up", "down", "both"]
    assert following("listener dns no server") == following("listener dns nosuch") == []


# watch


def growing(daemon: Daemon) -> None:
    """From now on each look at the servers finds more sessions and bytes."""
    started = time.monotonic()

    def answer(link: Any) -> None:
        grown = time.monotonic() - started
        servers = [server(0, "10.0.0.1", total=100 + 50 * grown, sx=1024 * 100 * grown, rx=0)]
        link.sendall(json.dumps(servers).encode())

    daemon.replies["servers json"] = answer


def test_watch(terminal: Open, daemon: Daemon) -> None:
    growing(daemon)
    screen = terminal("--color=never", daemon.target, "watch", "0.2", lines=6)
    screen.expect("\x1b[?1049h")
    screen.expect(daemon.target)
    screen.expect("sessions/s")
    looks = [re.search(r" (\d+\.\d) .* (\d+\.\d) KiB ", screen.expect("\x1b[J")) for _ in range(7)]
    sessions, kibibytes = zip(*([float(text) for text in look.groups()] for look in looks if look), strict=True)
    assert 30 < statistics.median(sessions) < 70 and 60 < statistics.median(kibibytes) < 140
    screen.send(CTRL_C)
    status, shown = screen.finish()
    assert status == 0 and shown.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")


def test_watch_shows_listeners_where_one_has_a_name(terminal: Open, daemon: Daemon) -> None:
    rows = [{"name": None, "address": "10.0.0.9:80", "total": 7}, {"name": "dns", "address": "10.0.0.9:53", "total": 7}]
    daemon.replies["listeners json"] = json.dumps(rows[:1])
    screen = terminal("--color=never", daemon.target, "watch", "0.1")
    screen.expect("retry in")
    assert "10.0.0.9:80" not in screen.expect("\x1b[J")
    daemon.replies["listeners json"] = json.dumps(rows)
    screen.expect("10.0.0.9:53")
    screen.expect("sessions/s")
    screen.send(CTRL_C)
    assert screen.finish()[0] == 0


def test_watch_asks_a_pen_for_listeners_once(terminal: Open, daemon: Daemon) -> None:
    screen = terminal("--color=never", daemon.target, "watch", "0.1")
    for _ in range(3):
        screen.expect("retry in")
    screen.send(CTRL_C)
    assert screen.finish()[0] == 0
    assert daemon.lines.count("listeners json") == 1 and daemon.lines.count("servers json") >= 3


def test_watch_restores_the_terminal_when_it_is_ended(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target, "watch", "1")
    screen.expect("retry in")
    screen.process.send_signal(signal.SIGTERM)
    status, shown = screen.finish()
    assert status == 143 and shown.endswith("\x1b[?25h\x1b[?1049l") and "Traceback" not in shown


def test_watch_outlives_the_daemon(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target, "watch", "0.1")
    screen.expect("retry in")
    daemon.close()
    screen.expect("nobody answers")
    screen.expect("retry in")  # the last table stays
    os.unlink(daemon.target)
    again = unix_daemon(Path(daemon.target))
    again.replies["servers json"] = json.dumps([server(7, "192.0.2.99")])
    screen.expect("192.0.2.99")
    screen.send(CTRL_C)
    assert screen.finish()[0] == 0
    again.close()


def test_watch_in_a_low_window(terminal: Open, daemon: Daemon) -> None:
    daemon.replies["servers json"] = json.dumps([server(n, f"10.0.0.{n}") for n in range(50)])
    screen = terminal(daemon.target, "watch", lines=10)
    screen.expect("... and 45 more lines")
    screen.send(CTRL_C)
    assert screen.finish()[0] == 0


def test_watch_in_the_prompt(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("watch 1\n")
    screen.expect("retry in")
    screen.expect("\x1b[J")
    screen.send(CTRL_C)
    screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0


def test_watch_in_a_pipe(gpenctl: Run, daemon: Daemon, environment: dict[str, str]) -> None:
    """Plain tables, one after the other, until nobody reads any more."""
    growing(daemon)
    process = subprocess.Popen(
        [*GPENCTL, daemon.target, "watch", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout and process.stderr
    lines = [process.stdout.readline() for _ in range(20)]
    process.stdout.close()
    assert process.wait(20) == 0 and process.stderr.read() == ""
    process.stderr.close()
    assert sum("address" in line for line in lines) >= 3 and any("bytes/s" in line for line in lines)
    assert "\x1b" not in "".join(lines)
