"""CONTRIBUTING.md says what it takes to add a setting, a rule, a command, a protocol, a check, a source: here that is
done, to a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.built import NOT_COPIED
from tests.daemon.conftest import ctl
from tests.harness import ROOT, Server, connect, hold, naming, pair_of, started, wait_until
from tests.servers import refusing

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
CHANGE = re.compile(r"^(?:In `(?P<file>\S+)`, (?P<where>before|behind) the line `(?P<line>[^`\n]+)`|"
                    r"A new file `(?P<new>\S+)`):\n\n```python\n(?P<lines>.*?)```$", re.MULTILINE | re.DOTALL)


def changes(title: str) -> Iterator[re.Match[str]]:
    """What stands under a heading."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return CHANGE.finditer(section)


class Copy:
    """A gpen of its own, to be changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(ROOT / "gpen", directory / "gpen", ignore=NOT_COPIED)
        self._environment = {**os.environ, "PYTHONPATH": str(directory)}

    def follow(self, title: str) -> None:
        """Do what the section says."""
        for change in changes(title):
            if change["new"]:
                (self.directory / change["new"]).write_text(change["lines"])
                continue
            file = self.directory / change["file"]
            lines = file.read_text().split("\n")
            assert lines.count(change["line"]) == 1, f"{change['file']}: {change['line']!r}"
            place = lines.index(change["line"]) + (change["where"] == "behind")
            file.write_text("\n".join([*lines[:place], *change["lines"].removesuffix("\n").split("\n"),
                                       *lines[place:]]))

    def run(self, *words: str) -> str:
        """What a program of it says."""
        done = subprocess.run([sys.executable, "-W", "error", "-m", *words], env=self._environment,
                              capture_output=True, text=True, check=True, cwd=self.directory)
        return done.stdout

    @contextmanager
    def program(self, module: str, *words: str) -> Iterator[None]:
        """Have the ``main`` of a module of it run, until it is ended."""
        command = [sys.executable, "-W", "error", "-c", f"import sys, {module}; sys.exit({module}.main())", *words]
        with started(command, env=self._environment, cwd=self.directory, stderr=subprocess.DEVNULL) as process:
            yield
            process.terminate()

    @contextmanager
    def gpen(self, *arguments: str) -> Iterator[Path]:
        """Start it; its control socket."""
        control = self.directory / "gpen.ctl"
        command = [sys.executable, "-W", "error", "-c", "from gpen.cli import main; main()", "-f", "-C", str(control),
                   *arguments]
        with started(command, env=self._environment, cwd=self.directory, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            wait_until(lambda: " listens on " in process.stderr.readline())
            yield control
            process.terminate()


def visit(control: Path) -> bytes:
    """What a client is told by the gpen with this control socket, or by its server."""
    with connect(pair_of(ctl(control, "listen").strip())) as sock:
        return sock.recv(100)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_setting(copy: Copy) -> None:
    copy.follow("A setting")
    with Server(hold) as server, copy.gpen(
            "-O", "listener short listen 127.0.0.2:0", "-O", "listener short session_timeout 0.5", "127.0.0.1:0",
            server.address) as control:
        places = [pair_of(ctl(control, line).strip()) for line in ("listen", "listener short listen")]
        with connect(places[0]) as lasting, connect(places[1]) as short:
            assert short.recv(1) == b""
            wait_until(lambda: ctl(control, "listener short sessions") == "")
            assert [word in ctl(control, "sessions") for word in ("state open", "short")] == [True, False]
            assert ctl(control, "session_timeout").strip() == "0" and ctl(control, "listener short session_timeout 9")
            ctl(control, "listener short inherit session_timeout")
            ctl(control, "session_timeout 0.5")
            assert lasting.recv(1) == b"" and ctl(control, "listener short session_timeout").strip() == "0.5"
    assert "had lasted for session_timeout seconds" in copy.run("gpen.docs.manual", "gpen")


def test_a_rule(copy: Copy) -> None:
    copy.follow("A rule that chooses a server")
    with Server(naming("a")) as a, Server(naming("b")) as b, copy.gpen(
            "-O", "first", "-r", "127.0.0.1:0", a.address, b.address) as control:
        assert [visit(control) for _ in range(3)] == [b"a"] * 3
        ctl(control, "server 0 state drain")
        assert visit(control) == b"b"
        assert "would get server 1" in ctl(control, "explain 127.0.0.1") and "first" in ctl(control, "mode")
    assert "Choose the available server with the lowest number" in copy.run("gpen.docs.manual", "gpenctl")
    assert "first" in copy.run("gpen.docs.completion", "bash")


def test_a_command(copy: Copy) -> None:
    copy.follow("A command")
    with copy.gpen("127.0.0.1:0", "127.0.0.1:9") as control:
        assert 0 <= int(ctl(control, "uptime")) < 100
        assert "How many seconds gpen has served" in ctl(control, "help uptime")


def test_a_protocol(copy: Copy) -> None:
    copy.follow("A protocol")
    with refusing() as nobody, copy.gpen("-O", "redis", "127.0.0.1:0", nobody) as control:
        assert visit(control) == b"-LOADING gpen: no server is usable\r\n"


def test_a_kind_of_check(copy: Copy) -> None:
    copy.follow("A kind of check")
    pong = lambda sock: sock.sendall(b"+PONG\r\n") if sock.recv(100) == b"PING\r\n" else None  # noqa: E731
    with Server(pong) as well, Server(hold) as hung, copy.gpen(
            "-O", "check redis", "-O", "check_timeout 0.3", "-O", "check_interval 0.2", "127.0.0.1:0", well.address,
            hung.address) as control:
        wait_until(lambda: "server 1 down" in ctl(control, "events"))
        assert "would get server 0" in ctl(control, "explain 127.0.0.1")


def test_a_source(copy: Copy) -> None:
    copy.follow("A source for gpen-discover")
    with copy.gpen("127.0.0.1:0") as control, copy.program(
            "gpen.discover.main", "static", "127.0.0.1:81,127.0.0.2:82 weight 3", f"--gpen={control}",
            f"--socket={copy.directory}/discover.sock"):
        wait_until(lambda: ctl(control, "servers").count("addr 127.0.0.") == 2)
    page = copy.run("gpen.discover.manual")
    assert "THE SOURCE STATIC" in page and "gpen\\-discover static 10.0.0.1:80,10.0.0.2:80" in page
    assert "static" in copy.run("gpen.discover.completion", "zsh")


def test_nothing_is_left_out() -> None:
    """Each section is tried above."""
    titles = re.findall(r"^## (.*)", TEXT, re.MULTILINE)
    assert titles == ["A setting", "A rule that chooses a server", "A command", "A protocol", "A kind of check",
                      "A source for gpen-discover"]
    assert all(list(changes(title)) for title in titles)
    assert TEXT.count("```python") == sum(len(list(changes(title))) for title in titles)
