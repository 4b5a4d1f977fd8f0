"""Completion: the committed files are what the command table says, and the shells complete by them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpen.control.commands import COMMANDS, Command
from gpen.docs import completion
from gpen.gpenctl import main as ctl
from tests.contrib.service import CONTRIB, PATIENCE

BASH = CONTRIB / "completion" / "gpen.bash"
ZSH = CONTRIB / "completion" / "_gpen"


@pytest.mark.parametrize(("file", "make"), [(BASH, completion.bash), (ZSH, completion.zsh)])
def test_the_file_is_what_the_table_says(file: Path, make: object) -> None:
    assert callable(make)
    assert file.read_text() == make(), f"{file} is outdated: contrib/README.md tells how to make it"


def test_gpenctl_has_these_options() -> None:
    for option in completion.CTL_OPTIONS:
        between = "=" if option.flag.startswith("--") else " "
        assert (option.flag + between + option.argument if option.argument else option.flag) in ctl.USAGE
    assert completion.ARGUMENTS["FORMAT"].split() == list(ctl.FORMATS)
    assert completion.ARGUMENTS["WHEN"].split() == list(ctl.COLORS)


def test_what_this_version_lacks_is_not_offered() -> None:
    missing = {command.name for command in COMMANDS.values() if command.setting and command.setting.missing}
    assert not missing & {command.name for command in completion.commands()}
    assert not missing & {option.setting for option in completion.options()}


def test_rows_read_every_form_of_usage() -> None:
    usage = "try N a|b ADDRESS [MASK] [max M] [state up|down] [json] | try all"
    command = Command("try", usage, "", lambda words: {})
    assert list(completion.rows(command)) == [
        ('"try 0 "*', "all"),
        ('"try 1 "*', "a b"),
        ('"try 2 "*', ""),
        ('"try "*" max"', ""),
        ('"try "*" state"', "up down"),
        ('"try "*" json"', ""),
        ('"try "*', "max state json"),
    ]


# --- bash -------------------------------------------------------------------------------------------------


ON_SOME_MACHINES = re.compile(r"/etc/passwd.+|roo(?!t$).*")  # files and users beside those that all have


def complete(line: str) -> list[str]:
    """What bash offers when Tab is pressed behind the line."""
    script = """
        . "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        read -ra COMP_WORDS <<<"$2"
        function=$(complete -p "${COMP_WORDS[0]}")
        function=${function#*-F }
        ${function%% *}
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-c", script, "bash", str(BASH), line]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert result.stderr == ""
    return sorted(result.stdout.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpenctl X ser", "server servers"),
        ("gpenctl 127.0.0.1:8888 ser", "server servers"),
        ("gpenctl [::1]:8888 server 0 state ", "drain maint ready"),
        ("gpenctl X server 0 max 5 we", "weight"),
        ("gpenctl X server 0 weight ", ""),
        ("gpenctl X server ", ""),
        ("gpenctl X no leas", "leastconn"),
        ("gpenctl X no servers", ""),
        ("gpenctl X wat", "watch"),
        ("gpenctl X help sess", "sessions"),
        ("gpenctl X acl 1 ", "deny permit"),
        ("gpenctl X close ", "server"),
        ("gpenctl X drain 1 30 ", "close"),
        ("gpenctl X server 0 health ", "down drain up"),
        ("gpenctl X server 0 health up st", "state"),
        ("gpenctl X check ", "connect exec greeting off send"),
        ("gpenctl X tcp_fastclose ", "both down off up"),
        ("gpenctl X recent 60 ", "json"),
        ("gpenctl X include /etc/passw", "/etc/passwd"),
        ("gpenctl --format=t", "table"),
        ("gpenctl --format ", "csv json plain table"),
        ("gpenctl -f csv X servers ", "json"),
        ("gpenctl --col", "--color"),
        ("gpenctl /etc/passw", "/etc/passwd"),
        ("gpen --", "--check --help --version"),
        ("gpen -F /etc/passw", "/etc/passwd"),
        ("gpen -O leas", "leastconn"),
        ("gpen -u roo", "root"),
        ("gpen -x ", ""),
    ],
)
def test_bash(line: str, expected: str) -> None:
    assert [word for word in complete(line) if not ON_SOME_MACHINES.fullmatch(word)] == expected.split()


# --- zsh --------------------------------------------------------------------------------------------------


class Zsh:
    """An interactive zsh on a terminal of its own, with gpen's completion loaded."""

    def __init__(self) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", COLUMNS="200")
            os.execvp("zsh", ["zsh", "-f", "-i"])
        self.type(f"fpath=({ZSH.parent} $fpath); autoload -U compinit; compinit -D -u; echo rea''dy\n")
        assert "ready" in self.read_until("ready")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def read_until(self, expected: str) -> str:
        """What is shown, up to what is expected or the end of patience."""
        shown, deadline = "", time.monotonic() + PATIENCE
        while expected not in shown and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                shown += os.read(self.terminal, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


@pytest.fixture(scope="module")
def zsh() -> Iterator[Zsh]:
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    shell = Zsh()
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("gpenctl X leas", "gpenctl X leastconn"),
        ("gpenctl X no round", "gpenctl X no roundrobin"),
        ("gpenctl 127.0.0.1:8888 server 0 state dr", "server 0 state drain"),
        ("gpenctl X help sess", "gpenctl X help sessions"),
        ("gpenctl X acl 1 pe", "gpenctl X acl 1 permit"),
        ("gpenctl X wat", "gpenctl X watch"),
        ("gpenctl --format=cs", "gpenctl --format=csv"),
        ("gpen --vers", "gpen --version"),
        ("gpen -O roundr", "gpen -O roundrobin"),
    ],
)
def test_zsh(zsh: Zsh, line: str, completed: str) -> None:
    zsh.type(f"{line}\t")
    assert completed in zsh.read_until(completed)
    zsh.type("\x15")  # take the line back
