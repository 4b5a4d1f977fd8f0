"""gpenctl TARGET drain: a bar on a terminal, lines in a pipe, and the status."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import IO

import pytest

from tests.gpenctl.daemon import GPENCTL, Daemon, Run, Terminal

Open = Callable[..., Terminal]
CTRL_C, CTRL_D = "\x03", "\x04"
FIRST = "draining server 1: 12 sessions left, 30 s"
LAST = "drained server 1: 12 sessions went by themselves, 0 were closed"
LEFT = "error: drain: server 1 still has 3 sessions after 30 s; 9 went by themselves"


class Said:
    """What the daemon says to a drain: line by line, when the test says so; an empty one ends it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = threading.Semaphore(0)

    def say(self, *lines: str) -> None:
        for line in lines:
            self._lines.append(line)
            self._more.release()

    def __call__(self, link: socket.socket) -> None:
        while self._more.acquire(timeout=20) and (line := self._lines.pop(0)):
            link.sendall(f"{line}\n".encode())


@pytest.fixture
def said(daemon: Daemon) -> Said:
    said = Said()
    daemon.replies["drain 1 30"] = daemon.replies["drain 1"] = said
    return said


@pytest.fixture
def draining(daemon: Daemon, said: Said, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """gpenctl in a pipe, which has shown the first line."""

    def start(*options: str) -> subprocess.Popen[str]:
        said.say(FIRST)
        process = subprocess.Popen([*GPENCTL, *options, daemon.target, "drain", "1", "30"], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        assert line_of(process.stdout) == FIRST  # before the daemon says more
        return process

    return start


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


@pytest.mark.parametrize("format", ["plain", "table", "json", "csv"])
def test_lines_in_a_pipe(draining: Callable[..., subprocess.Popen[str]], said: Said, format: str) -> None:
    process = draining("-f", format)
    said.say(FIRST.replace("12", "3"), LAST, "")
    assert process.communicate(timeout=20) == (f"{FIRST.replace('12', '3')}\n{LAST}\n", "")
    assert process.returncode == 0


def test_sessions_that_are_left(draining: Callable[..., subprocess.Popen[str]], said: Said) -> None:
    process = draining()
    said.say(LEFT, "")
    assert process.communicate(timeout=20) == ("", f"{LEFT}\n")
    assert process.returncode == 1


def test_the_daemon_ends_meanwhile(draining: Callable[..., subprocess.Popen[str]], said: Said) -> None:
    """No success: who waits for it may not go on."""
    process = draining()
    said.say("")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.count("\n")) == (3, "", 1) and "cut the connection" in err


def test_it_is_interrupted(draining: Callable[..., subprocess.Popen[str]], daemon: Daemon, said: Said) -> None:
    process = draining()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    said.say("")
    assert (process.returncode, out) == (130, "")
    assert err == ("gpenctl: server 1 stays in state drain; to take it back: "
                   f"gpenctl {daemon.target} server 1 state ready\n")


def test_a_script_that_is_interrupted(daemon: Daemon, said: Said, environment: dict[str, str]) -> None:
    """What stands behind the drain is not run."""
    process = subprocess.Popen([*GPENCTL, daemon.target], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=environment)
    assert process.stdin
    process.stdin.write("drain 1 30\nexit\n")
    process.stdin.flush()
    said.say(FIRST)
    assert line_of(process.stdout) == FIRST
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    said.say("")
    assert process.returncode == 130 and "exit" not in daemon.lines


def test_a_pen_knows_no_drain(gpenctl: Run, daemon: Daemon) -> None:
    done = gpenctl(daemon.target, "drain", "2")
    assert (done.returncode, done.stdout) == (1, "") and "do_cmd: ignoring" in done.stderr


def test_it_speaks_each_second_whatever_the_timeout(gpenctl: Run, daemon: Daemon) -> None:
    def answer(link: socket.socket) -> None:
        link.sendall(f"{FIRST}\n".encode())
        threading.Event().wait(1)
        link.sendall(f"{LAST}\n".encode())

    daemon.replies["drain 1"] = answer
    done = gpenctl("-t", "0.5", daemon.target, "drain", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{FIRST}\n{LAST}\n", "")


# On a terminal


def test_a_bar(terminal: Open, daemon: Daemon, said: Said) -> None:
    screen = terminal("--color=never", daemon.target, "drain 1 30", columns=72)
    said.say(FIRST)
    screen.expect(f"\r{FIRST} [{'-' * 27}]")
    said.say(FIRST.replace("12", "4"))
    screen.expect(f"\r{FIRST.replace('12', '4')}  [{'#' * 18}{'-' * 9}]")
    said.say(LAST, "")
    status, shown = screen.finish()
    assert status == 0 and shown == f"\r{' ' * 71}\r{LAST}\r\n"


def test_its_color(terminal: Open, daemon: Daemon, said: Said) -> None:
    screen = terminal(daemon.target, "drain 1 30", columns=72)
    said.say(FIRST, FIRST.replace("12", "4"))
    screen.expect(f"[\x1b[32m{'#' * 18}\x1b[0m---------]")
    said.say(LAST, "")
    assert screen.finish()[0] == 0


def test_a_narrow_terminal(terminal: Open, daemon: Daemon, said: Said) -> None:
    screen = terminal(daemon.target, "drain 1 30", columns=30)
    said.say(FIRST, LEFT, "")
    status, shown = screen.finish()
    assert status == 1 and shown == f"\r{FIRST[:29]}\r{' ' * 29}\r{LEFT}\r\n"


def test_lines_on_a_terminal(terminal: Open, daemon: Daemon, said: Said) -> None:
    screen = terminal("-f", "plain", daemon.target, "drain 1 30")
    said.say(FIRST, LAST, "")
    assert screen.finish() == (0, f"{FIRST}\r\n{LAST}\r\n")


def test_ctrl_c(terminal: Open, daemon: Daemon, said: Said) -> None:
    screen = terminal("--color=never", daemon.target, "drain 1 30", columns=72)
    said.say(FIRST)
    screen.expect("--]")
    screen.send(CTRL_C)
    status, shown = screen.finish()
    said.say("")
    assert status == 130 and "server 1 stays in state drain" in shown and "Traceback" not in shown


def test_in_the_prompt(terminal: Open, daemon: Daemon, said: Said) -> None:
    screen = terminal(daemon.target)
    screen.expect("gpen> ")
    screen.send("drain 1\n")
    said.say(FIRST)
    screen.expect("--]")
    said.say(LAST, "")
    screen.expect(f"{LAST}\r\n")
    screen.expect("gpen> ")
    screen.send("drain 1\n")
    said.say(FIRST)
    screen.expect("--]")
    screen.send(CTRL_C)
    screen.expect("stays in state drain")
    said.say("")
    assert "usage" not in screen.expect("gpen> ")
    screen.send(CTRL_D)
    assert screen.finish()[0] == 0
