"""`gpenctl TARGET top` on a real terminal, of real gpens: what it shows, what keys do, and the terminal afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpenctl.daemon import ROOT, Daemon, Run, Terminal, server, unix_daemon
from tests.harness import Gpen, Server, echo, hold, naming, read_all, refusing, wait_until

pytest.importorskip("rich", reason="rich is not installed")

Open = Callable[..., Terminal]
StartGpen = Callable[..., Gpen]
StartServer = Callable[..., Server]
CTRL_C, CTRL_Z, ESCAPE, UP, DOWN, LEFT, END = "\x03", "\x1a", "\x1b", "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[F"
OPEN, CLOSE, HOME, LAST = "\x1b[?1049h", "\x1b[?7h\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[J"
CHECKED = ("-O", "check connect", "-O", "check_interval 0.2", "-O", "check_timeout 1")
COLOR = re.compile(r"\x1b\[[0-9;]*m")


def picture(shown: str) -> list[str]:
    """The lines of the last picture that is whole, without colors and blanks at their ends."""
    whole = shown[:shown.rfind(LAST)] if LAST in shown else ""
    text = COLOR.sub("", whole[whole.rfind(HOME):]).replace(HOME, "").replace("\x1b[K", "")
    return [line.rstrip() for line in text.split("\n")]


def until(screen: Terminal, *patterns: str, seconds: float = 20) -> list[str]:
    """Wait for a picture in which each of the patterns is found in a line; its lines."""
    deadline = time.monotonic() + seconds
    while True:
        lines = picture(screen.shown)
        if all(any(re.search(pattern, line) for line in lines) for pattern in patterns):
            return lines
        screen.shown = screen.shown[max(0, screen.shown.rfind(HOME, 0, screen.shown.rfind(LAST))):]
        try:
            goes_on = screen.read(deadline)
        except AssertionError:
            goes_on = False
        assert goes_on, f"no {patterns} in\n" + "\n".join(lines)


def numbers(lines: list[str]) -> list[str]:
    """Of the servers, in the order in which they are shown."""
    return [match[1] for line in lines if (match := re.match(r"[▶ ] +(\d+) ", line))]


# --- what is shown ------------------------------------------------------------------------------------------


def test_a_server_that_dies_is_shown(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    """Within three seconds, with the reason and the event."""
    well, dying = servers(hold), servers(hold)
    balancer = gpen("-r", *CHECKED, servers=[f"{well.address}:10", dying.address])
    clients = [balancer.connect() for _ in range(6)]
    screen = terminal(balancer.control, "top", columns=120)
    until(screen, rf"^gpen \d\S+ · (pure|compiled) · pid {balancer.pid} · up \d+s · /", "sessions 6 of 500",
          "up 2 of 2", r" 0 .* up .* 3/10 ━━+─+", r" 1 .* up ", "server 0.*: added")
    dying.close()
    until(screen, rf" 1 .*{dying.address} .* down .*refused", "up 1 of 2", r"server 1 at .*: down", seconds=3)
    screen.send("q")
    assert screen.finish()[0] == 0
    for client in clients:
        client.close()


def test_slots_without_a_server_are_not_expected_to_be_up(terminal: Open, gpen: StartGpen, servers: StartServer,
                                                          ) -> None:
    balancer = gpen(servers=[servers(hold), servers(hold)])
    assert balancer.ctl("server 1 address 0.0.0.0 port 0") == ""
    screen = terminal(balancer.control, "top", columns=120)
    until(screen, "up 1 of 1")
    screen.send("q")
    assert screen.finish()[0] == 0


def test_keys_that_come_before_the_picture(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    """One that turns to another table, and one that would sort that one, typed at once."""
    balancer = gpen("-r", servers=[servers(hold)])
    with balancer.connect():
        screen = terminal(balancer.control, "top", columns=120)
        until(screen, " 0 .* up ")
        for keys in ("cs", f"{ESCAPE}{LEFT}", "c1", "?2", "?9", f"c{LEFT}", f"{ESCAPE}r", "c3"):
            screen.send(keys)
        until(screen, r"127\.0\.0\.1:\d+ ")
        screen.send("q")
        assert screen.finish()[0] == 0


def test_what_ended_by_an_error(terminal: Open, gpen: StartGpen) -> None:
    with refusing() as nobody:
        balancer = gpen(servers=[nobody])
        with balancer.connect() as client:
            assert read_all(client) == b""
        screen = terminal(balancer.control, "top", columns=80)
        until(screen, "^errors  1 connect-failed$", "up 0 of 1$", r"down .* connect.*…")
        screen.send("q")
        assert screen.finish()[0] == 0


def test_rates_and_the_last_minutes(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    balancer = gpen(servers=[servers(echo)])
    screen = terminal(balancer.control, "top", "0.2")
    until(screen, "sessions 0 of 500")
    with balancer.connect() as client:
        for _ in range(30):
            client.sendall(b"x" * 10_000)
            assert len(client.recv(10_000, 0x100)) == 10_000  # MSG_WAITALL
    lines = until(screen, r"bytes/s [ ▁-█]*[▁-█]", r"bytes/s in the last", r"▶ +0 .*[▁-█]")
    assert re.search(r"highest .* [KM]iB", lines[2])
    screen.send("g")
    until(screen, "new/s in the last", "drawn: new/s")
    screen.send("q")
    assert screen.finish()[0] == 0


def test_listeners_where_one_has_a_name(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    balancer = gpen(servers=[servers(hold)])
    screen = terminal(balancer.control, "top", "0.2")
    assert not any("protocol" in line for line in until(screen, "sessions 0 of"))
    assert "error" not in balancer.ctl("listener reports listen 127.0.0.1:0")
    until(screen, r"^listener +address +protocol", "^reports ")
    screen.send("q")
    assert screen.finish()[0] == 0


def test_from_80_to_200_columns(terminal: Open, daemon: Daemon) -> None:
    """It follows the window: no line is wider, the most important is always there, and wide ones show more."""
    daemon.replies["servers json"] = json.dumps([
        server(n, f"10.0.0.{n + 1}", health="down" if n == 1 else "up", reason="connection refused" if n == 1 else "")
        for n in range(3)])
    daemon.replies["events 40 json"] = json.dumps(
        [{"time": time.time(), "server": 1, "event": "down", "cause": "connection refused " * 20, "listener": None}])
    screen = terminal(daemon.target, "top", "0.2", columns=200)
    lines = until(screen, "connection refused", "total", "failed", "bytes/s in the last")
    for columns in (140, 100, 80):
        screen.resize(columns, 40)
        lines = until(screen, r" 1 .* down .*refused|conn.*…", rf"^.{{{columns - 1},{columns}}}$")
        assert max(map(len, lines)) <= columns
        for word in ("health", "sessions", "3/50 ━", "q quit", "server 1"):
            assert any(word in line for line in lines), word
    assert not any("in the last" in line for line in lines)
    screen.send("q")
    assert screen.finish()[0] == 0


def test_a_low_window_shows_the_selected_one(terminal: Open, daemon: Daemon) -> None:
    daemon.replies["servers json"] = json.dumps([server(n, f"10.0.0.{n}") for n in range(60)])
    screen = terminal(daemon.target, "top", lines=20, columns=100)
    lines = until(screen, "▶ +0", r"of 60 servers are shown")
    assert len(lines) <= 20
    screen.send(END)
    until(screen, "▶ +59", "server 59 at 10.0.0.59:3306 .*: ready")
    screen.send(UP)
    until(screen, "▶ +58", " 59 ")
    screen.send("q")
    assert screen.finish()[0] == 0


def test_sorted_by_keys(terminal: Open, daemon: Daemon) -> None:
    daemon.replies["servers json"] = json.dumps(
        [server(n, f"10.0.0.{n}", sessions=sessions) for n, sessions in enumerate((5, 50, 20))])
    screen = terminal(daemon.target, "top")
    assert numbers(until(screen, "#▲", "▶ +0")) == ["0", "1", "2"]
    steps = (("r", "#▼", "210"), (LEFT, "", ""), ("6", "sessions▼", "120"), ("r", "sessions▲", "021"))
    for keys, heading, order in steps:
        screen.send(keys)
        if heading:
            assert numbers(until(screen, heading)) == list(order)
    screen.send("q")
    assert screen.finish()[0] == 0


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("LC_ALL", "de_DE.ISO-8859-1"), ("TERM", "linux")])
def test_what_a_terminal_can_show(
    terminal: Open, daemon: Daemon, environment: dict[str, str], variable: str, value: str
) -> None:
    environment[variable] = value
    screen = terminal(daemon.target, "top", columns=80)
    until(screen, "10.0.0.2", "down", "3/50", "[~…]")
    shown = screen.shown
    colored = re.search(r"\x1b\[(?:\d+;)*(?:3|9)\d", shown) is not None
    assert colored == (variable != "NO_COLOR") and shown.isascii() == (variable != "NO_COLOR")
    screen.send("q")
    assert screen.finish()[0] == 0


def test_what_others_have_said_does_nothing(terminal: Open, daemon: Daemon) -> None:
    odd = server(0, "\x1b[2Jx", health="down", reason="[red]\x07\x1b]0;owned\x07[/red]", state=["odd"], sessions="many")
    event = {"time": "soon", "server": {}, "event": "\x9b2J", "cause": "\x1b[2J"}
    daemon.replies |= {"servers json": json.dumps([odd]), "events 40 json": json.dumps([event])}
    daemon.replies["info json"] = json.dumps({"version": "\x1b[2J", "endings": 5, "errors": "x", "workers": 3})
    screen = terminal(daemon.target, "top")
    until(screen, r"\\x1b\[2Jx", r"\[red\]\\x07", r'\["odd"\]', "soon")
    assert "\x1b[2J" not in screen.shown and "\x07" not in screen.shown and "\x9b" not in screen.shown
    screen.send("q")
    assert screen.finish()[0] == 0


def test_a_pen(terminal: Open, daemon: Daemon) -> None:
    """It knows neither JSON nor most of the commands."""
    daemon.replies["servers json"] = daemon.replies["servers"]
    screen = terminal(daemon.target, "top", "0.1")
    lines = until(screen, r"10\.0\.0\.1:3306 .* 3/50 ━", "sessions 3")
    assert not any(re.search(r"\bup \d", line) for line in lines)  # which it does not tell
    screen.send("q")
    assert screen.finish()[0] == 0
    assert daemon.lines.count("info json") == 1  # which it has not known the first time


# --- what keys do -------------------------------------------------------------------------------------------


def test_drain_and_back_with_a_question(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    first, second = servers(naming("a")), servers(naming("b"))
    balancer = gpen(servers=[first, second])

    def state() -> str:
        return str(balancer.server(1)["state"])

    screen = terminal(balancer.control, "top")
    until(screen, "▶ +0", "up 2 of 2")
    screen.send(DOWN)
    until(screen, "▶ +1")
    for refusal in ("n", "q", "\r", ESCAPE, "d"):
        screen.send("d")
        until(screen, rf"^ drain server 1 at {second.address}\? y/N$")
        screen.send(refusal)
        until(screen, "^nothing is changed")
        assert state() == "ready"
    screen.send("dy")  # pasted, or typed before the question could be read
    until(screen, r"^ drain server 1")
    assert state() == "ready"
    screen.send("y")
    until(screen, "is in state drain", r"▶ +1 .* drain ")
    assert state() == "drain" and balancer.server(0)["state"] == "ready"
    for key, name in (("m", "maint"), ("y", "ready")):
        screen.send(key)
        until(screen, rf"^ {name} server 1")
        screen.send("y")
        until(screen, f"is in state {name}")
        assert state() == name
    screen.send("q")
    assert screen.finish()[0] == 0


def test_a_server_that_has_moved_meanwhile_is_left_alone(
    terminal: Open, gpen: StartGpen, servers: StartServer
) -> None:
    """The number may be another server's by the time that one says yes."""
    first, other = servers(hold), servers(hold)
    balancer = gpen(servers=[first])
    screen = terminal(balancer.control, "top", "1000")
    until(screen, "▶ +0")
    screen.send("d")
    until(screen, "drain server 0")
    assert balancer.ctl(f"server 0 address 127.0.0.1 port {other.port}") == ""
    screen.send("y")
    until(screen, f"^error: .*{other.address}.*nothing is changed")
    assert balancer.server(0)["state"] == "ready"
    screen.send("q")
    assert screen.finish()[0] == 0


def test_sessions_are_shown_and_closed(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    balancer = gpen("-r", servers=[servers(hold), servers(hold)])
    with balancer.connect() as first, balancer.connect() as second:
        wait_until(lambda: len(balancer.json("sessions")) == 2)
        rows = {row["client"]: row for row in balancer.json("sessions")}
        host, port = first.getsockname()
        number = rows[f"{host}:{port}"]["server"]
        screen = terminal(balancer.control, "top")
        until(screen, "▶ +0", "sessions 2 of")
        screen.send(DOWN * number + "c")
        until(screen, rf"^sessions of server {number} at .*: 1$", rf"▶ .* {host}:{port} ")
        screen.send("x")
        until(screen, rf"^ close session .* of {host}:{port}\? y/N")
        screen.send("y")
        assert first.recv(1) == b""
        until(screen, "is closed", rf"^sessions of server {number} at .*: 0$")
        screen.send(ESCAPE)
        until(screen, "sessions 1 of", "▶")
        second.sendall(b"x")
        screen.send("?")
        until(screen, "drain the server")
        screen.send("?q")
        assert screen.finish()[0] == 0


def test_a_pause(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target, "top", "0.2")
    until(screen, "10.0.0.2")
    screen.send(" ")
    until(screen, "PAUSED")
    asked = len(daemon.lines)
    daemon.replies["servers json"] = json.dumps([server(7, "192.0.2.99")])
    screen.send("+")
    screen.send(" ")
    until(screen, r"192\.0\.2\.99", r"every 0\.5 s")
    assert daemon.lines[asked:].count("servers json") <= 3
    screen.send("q")
    assert screen.finish()[0] == 0


def test_keys_count_while_the_daemon_is_silent(terminal: Open, gpen: StartGpen, servers: StartServer) -> None:
    balancer = gpen(servers=[servers(hold)])
    screen = terminal("-t", "60", balancer.control, "top", "0.1")
    until(screen, "▶ +0")
    balancer.process.send_signal(signal.SIGSTOP)
    try:
        screen.send("?")
        until(screen, "reverse the order", seconds=5)
        screen.send("q")
        assert screen.finish(5)[0] == 0
    finally:
        balancer.process.send_signal(signal.SIGCONT)


def test_a_gpen_that_is_away_is_told_and_asked_again(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target, "top", "0.1")
    until(screen, "10.0.0.2")
    daemon.close()
    until(screen, r"no news for \d+s: .*nobody answers", r"10\.0\.0\.2")  # the last picture stays
    os.unlink(daemon.target)
    again = unix_daemon(Path(daemon.target))
    again.replies["servers json"] = json.dumps([server(7, "192.0.2.99")])
    assert not any("no news" in line for line in until(screen, r"192\.0\.2\.99"))
    screen.send("q")
    assert screen.finish()[0] == 0
    again.close()


# --- the terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "status"), [("q", 0), (CTRL_C, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_terminal_is_as_it_was(terminal: Open, daemon: Daemon, end: Any, status: int) -> None:
    screen = terminal(daemon.target, "top")
    until(screen, "10.0.0.2")
    assert not termios.tcgetattr(screen.master)[3] & (termios.ECHO | termios.ICANON)
    screen.send(end) if isinstance(end, str) else screen.process.send_signal(end)
    ended, shown = screen.finish()
    assert ended == status and shown.endswith(CLOSE) and "Traceback" not in shown
    assert termios.tcgetattr(screen.master)[3] & termios.ECHO and termios.tcgetattr(screen.master)[3] & termios.ICANON


def test_the_terminal_is_as_it_was_behind_an_exception(terminal: Open) -> None:
    code = ("from gpen.gpenctl.screen import Stage\nwith Stage() as stage:\n    stage.wait(60)\n"
            "    raise RuntimeError('odd')")
    screen = terminal(program=[sys.executable, "-c", code])
    screen.expect(OPEN)
    screen.send("x")
    status, shown = screen.finish()
    assert status == 1 and shown.index(CLOSE) < shown.index("Traceback") and "RuntimeError: odd" in shown
    assert termios.tcgetattr(screen.master)[3] & termios.ECHO


def test_stopped_by_ctrl_z_and_back(terminal: Open, daemon: Daemon, environment: dict[str, str]) -> None:
    """In a shell, which has its own terminal meanwhile."""
    environment |= {"PS1": "shell> ", "T": daemon.target, "CTL": f"{sys.executable} {ROOT}/bin/gpenctl"}
    screen = terminal(program=["/bin/bash", "--norc", "--noprofile", "-i"])
    screen.expect("shell> ")
    screen.send("$CTL $T top\n")
    until(screen, "10.0.0.2")
    screen.send(CTRL_Z)
    assert CLOSE in screen.expect("Stopped")
    screen.expect("shell> ")
    screen.send("echo $((6 * 7))\n")
    screen.expect("42\r\n")
    screen.send("fg\n")
    screen.expect(OPEN)
    until(screen, "10.0.0.2")
    screen.send("?")
    until(screen, "reverse the order")
    screen.send("q")
    screen.expect(CLOSE)
    screen.expect("shell> ")
    screen.send("exit\n")
    assert screen.finish()[0] == 0


def test_in_the_prompt(terminal: Open, daemon: Daemon) -> None:
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("top 1\n")
    until(screen, "10.0.0.2")
    screen.send("q")
    screen.expect(CLOSE)
    screen.expect("gpen> ")
    screen.send("quit\n")
    assert screen.finish()[0] == 0


# --- where it can't be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "told"), [
    (["top"], "top needs a terminal for what it shows and for its keys; 'watch' does without"),
    (["top", "x"], "top: 'x' is not a number of seconds above 0"),
    (["top", "1", "2"], "top: expected at most a number of seconds, not '1 2'"),
])
def test_refused(gpenctl: Run, daemon: Daemon, words: list[str], told: str) -> None:
    done = gpenctl(daemon.target, *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"gpenctl: {told}\n")
    assert daemon.lines == []


def test_refused_on_a_terminal_that_can_not_be_drawn_on(
    terminal: Open, daemon: Daemon, environment: dict[str, str]
) -> None:
    environment["TERM"] = "dumb"
    status, shown = terminal(daemon.target, "top").finish()
    assert status == 2 and "TERM says that this one can't" in shown and "\x1b" not in shown


def test_without_rich(terminal: Open, daemon: Daemon, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('No module named rich', name='rich')\n")
    environment["PYTHONPATH"] = os.pathsep.join((str(tmp_path), environment.get("PYTHONPATH", "")))
    status, shown = terminal(daemon.target, "top").finish()
    assert (status, shown) == (2, "gpenctl: top needs the package rich: pip install 'rich>=13', or Debian's "
                                  "python3-rich; 'watch' does without\r\n")


def test_nobody_there(terminal: Open, tmp_path: Path) -> None:
    status, shown = terminal(str(tmp_path / "none.ctl"), "top").finish()
    assert status == 3 and "no such socket" in shown and OPEN not in shown
