"""Completion: the committed files are what the command table says, and the shells complete by them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gpen.control.commands import COMMANDS, SCOPED, Command
from gpen.discover import completion as discover
from gpen.discover import usage as discovery
from gpen.discover.listing import FORMS
from gpen.docs import completion, usage_completion
from gpen.galera import completion as galera
from gpen.galera.cluster import POLICIES
from gpen.galera.usage import OVERVIEW, USAGES
from gpen.gpenctl import main as ctl
from gpen.model.settings import SETTINGS
from gpen.netlog import completion as netlog
from tests.contrib.service import CONTRIB, PATIENCE, ROOT
from tests.gpenctl.daemon import Daemon, unix_daemon

BASH = CONTRIB / "completion" / "gpen.bash"
ZSH = CONTRIB / "completion" / "_gpen"


OTHERS = {"gpen-galera": galera.program(), "gpen-discover": discover.program(),
          **{name: netlog.program(name) for name in netlog.USAGES}}


@pytest.mark.parametrize(("file", "make"), [
    (BASH, completion.bash), (ZSH, completion.zsh),
    *((BASH.with_name(f"{name}.bash"), partial(usage_completion.bash, program)) for name, program in OTHERS.items()),
    *((ZSH.with_name(f"_{name}"), partial(usage_completion.zsh, program)) for name, program in OTHERS.items())])
def test_the_file_is_what_the_table_says(file: Path, make: Callable[[], str]) -> None:
    assert file.read_text() == make(), f"{file} is outdated: contrib/README.md tells how to make it"


def test_each_option_of_a_usage_text_is_there() -> None:
    """And has its argument."""
    texts = {("gpen-galera", ""): OVERVIEW, **{("gpen-galera", command): text for command, text in USAGES.items()},
             ("gpen-discover", ""): discovery.OVERVIEW,
             **{("gpen-discover", command): text for command, text in discovery.USAGES.items()},
             **{(name, ""): text for name, text in netlog.USAGES.items()}}
    for (name, command), text in texts.items():
        offered = {option.flag: option.argument for row, option in OTHERS[name].rows() if row == command}
        named = re.findall(r"^  (?:(-\w) )?(--?[\w-]+)(?:[= ]([A-Z]+))?", text.partition("\nOptions:")[2], re.MULTILINE)
        assert named and offered == {
            flag: argument for short, long, argument in named for flag in (short, long) if flag}
    assert completion.ARGUMENTS["POLICY"].split() == list(POLICIES)
    assert sorted(completion.ARGUMENTS["FORM"].split()) == sorted(FORMS)


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


def test_what_may_stand_in_a_choice() -> None:
    usage = "try [NUMBERS|all] | try else LISTENER|- [check CHECK|default]"
    command = Command("try", usage, "", lambda words: {})
    assert list(completion.rows(command)) == [
        ('"try 0 "*', "all"),
        ('"try 1 "*', "LISTENER"),
        ('"try "*" check"', "default"),
        ('"try "*', "check"),
    ]


def test_behind_a_listener_stands_what_may_stand_there() -> None:
    offered = {command.name for command in completion.scoped_commands()}
    missing = {command.name for command in SCOPED.values() if command.setting and command.setting.missing}
    assert offered == SCOPED.keys() - missing
    assert not any("listener" in command.usage for command in completion.scoped_commands())


# --- a daemon whose listeners are offered -----------------------------------------------------------------


LISTENERS = """- listen 0.0.0.0:80 protocol HTTP conn 0 max 500
writer listen 0.0.0.0:3306 protocol MySQL conn 0 max 500
reader.2 listen 0.0.0.0:3307 protocol MySQL conn 0 max 500
$(touch${IFS}owned) listen 0.0.0.0:1 protocol TCP conn 0 max 500
`touch${IFS}owned` listen 0.0.0.0:2 protocol TCP conn 0 max 500
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    running = unix_daemon(tmp_path_factory.mktemp("ctl") / "gpen.ctl")
    running.replies["listeners"] = LISTENERS
    yield running
    running.close()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with gpenctl, run by the Python that runs the tests."""
    directory = tmp_path_factory.mktemp("bin")
    program = directory / "gpenctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "bin" / "gpenctl"} "$@"\n')
    program.chmod(0o755)
    return directory


# --- bash -------------------------------------------------------------------------------------------------


ON_SOME_MACHINES = re.compile(r"/etc/passwd.+|roo(?!t$).*")  # files and users beside those that all have
SERVER_TLS = " ".join(sorted(name for name in SETTINGS if name.startswith("server_tls")))


def complete(line: str, programs: str = "", file: Path = BASH, **environment: str) -> list[str]:
    """What bash offers when Tab is pressed behind the line; `programs` is where it finds gpenctl."""
    script = """
        . "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        read -ra COMP_WORDS <<<"$2"
        function=$(complete -p "${COMP_WORDS[0]}")
        function=${function#*-F }
        ${function%% *}
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-c", script, "bash", str(file), line]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"} | environment
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=environment)
    assert result.stderr == ""
    return sorted(result.stdout.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpenctl X ser", f"server {SERVER_TLS} servers"),
        ("gpenctl 127.0.0.1:8888 ser", f"server {SERVER_TLS} servers"),
        ("gpenctl [::1]:8888 server 0 state ", "drain maint ready"),
        ("gpenctl X server 0 max 5 we", "weight"),
        ("gpenctl X server 0 weight ", ""),
        ("gpenctl X server ", ""),
        ("gpenctl X no leas", "leastconn"),
        ("gpenctl X no servers", ""),
        ("gpenctl X wat", "watch"),
        ("gpenctl X help rece", "recent"),
        ("gpenctl X acl 1 ", "deny permit"),
        ("gpenctl X close ", "server"),
        ("gpenctl X drain 1 30 ", "close quiet"),
        ("gpenctl X drain 1 30 quiet ", "close"),
        ("gpenctl X drain 1 30 quiet close ", ""),
        ("gpenctl X close server 1 quiet ", ""),
        ("gpenctl X route ", "alpn default host sni"),
        ("gpenctl X route sni ", ""),
        ("gpenctl X route sni www.example ", "reject servers"),
        ("gpenctl X route sni www.example servers ", "all"),
        ("gpenctl X route default ", "reject servers"),
        ("gpenctl X route default reject ", ""),
        ("gpenctl X listener web route alpn h2 ", "reject servers"),
        ("gpenctl X server 0 health ", "down drain up"),
        ("gpenctl X server 0 health up st", "state"),
        ("gpenctl X check ", "agent connect exec greeting off send"),
        ("gpenctl X tcp_fastclose ", "both down off up"),
        ("gpenctl X recent 60 ", "json"),
        ("gpenctl X listener web rec", "recent"),
        ("gpenctl X listener web debu", ""),
        ("gpenctl X listener web servers ", "all"),
        ("gpenctl X listener web servers all ", "json"),
        ("gpenctl X listener web server 1 ", "max port prio weight"),
        ("gpenctl X listener web server 1 max ", ""),
        ("gpenctl X listener web server 1 max 5 po", "port"),
        ("gpenctl X listener web inherit ser", f"server {SERVER_TLS}"),
        ("gpenctl X listener web inherit idle", "idle_timeout"),
        ("gpenctl X listener web inherit deb", ""),
        ("gpenctl X listener web tcp_fastclose ", "both down off up"),
        ("gpenctl X listener web no tim", "timeout"),
        ("gpenctl X listener web no debu", ""),
        ("gpenctl X listener web close ", "server"),
        ("gpenctl X server 1 check ", "default"),
        ("gpenctl X include /etc/passw", "/etc/passwd"),
        ("gpenctl --format=t", "table"),
        ("gpenctl --format ", "csv json plain table"),
        ("gpenctl -f csv X servers ", "json"),
        ("gpenctl --col", "--color"),
        ("gpenctl /etc/passw", "/etc/passwd"),
        ("gpen --", "--check --help --replace --version"),
        ("gpen -F /etc/passw", "/etc/passwd"),
        ("gpen -O leas", "leastconn"),
        ("gpen -u roo", "root"),
        ("gpen -x ", ""),
    ],
)
def test_bash(line: str, expected: str) -> None:
    assert [word for word in complete(line) if not ON_SOME_MACHINES.fullmatch(word)] == expected.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpenctl TARGET listener ", "reader.2 writer"),
        ("gpenctl ~/gpen.ctl listener ", "reader.2 writer"),
        ("gpenctl -t 5 TARGET listener wr", "writer"),
        ("gpenctl TARGET no listener ", "reader.2 writer"),
        ("gpenctl TARGET listener web tracking_with ", "reader.2 writer"),
        ("gpenctl TARGET/nothing listener ", ""),
    ],
)
def test_bash_knows_the_listeners(daemon: Daemon, programs: Path, line: str, expected: str) -> None:
    home = Path(daemon.target).parent
    offered = complete(line.replace("TARGET", daemon.target), str(programs), HOME=str(home))
    assert offered == expected.split()
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpen-galera ", "adopt check move notify serve status watch"),
        ("gpen-galera st", "status"),
        ("gpen-galera -", "--help --version -h"),
        ("gpen-galera watch --re", "--reader --reserve"),
        ("gpen-galera watch --donor ", "avoid never use"),
        ("gpen-galera watch --donor=n", "never"),
        ("gpen-galera watch --ssl-ca=/etc/passw", "/etc/passwd"),
        ("gpen-galera watch --interval ", ""),
        ("gpen-galera move --json", ""),
        ("gpen-galera status --js", "--json"),
        ("gpen-galera move ", ""),
        ("gpen-discover st", "status"),
        ("gpen-discover file --form", "--format"),
        ("gpen-discover file --format=y", "yaml"),
        ("gpen-discover dns --gpen /etc/passw", "/etc/passwd"),
        ("gpen-discover status --js", "--json"),
        ("gpenlog --v", "--version"),
        ("gpenlogd -u roo", "root"),
        ("gpenlogd -l /etc/passw", "/etc/passwd"),
        ("gpenlogd --", "--help --version"),
    ],
)
def test_bash_and_the_other_programs(line: str, expected: str) -> None:
    offered = complete(line, file=BASH.with_name(f"{line.split()[0]}.bash"))
    assert [word for word in offered if not ON_SOME_MACHINES.fullmatch(word)] == expected.split()


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
        ("gpenctl X help rece", "gpenctl X help recent"),
        ("gpenctl X acl 1 pe", "gpenctl X acl 1 permit"),
        ("gpenctl X wat", "gpenctl X watch"),
        ("gpenctl X listener web server 1 we", "listener web server 1 weight"),
        ("gpenctl X listener web leas", "listener web leastconn"),
        ("gpenctl X listener web inherit leas", "listener web inherit leastconn"),
        ("gpenctl X listener web no leas", "listener web no leastconn"),
        ("gpenctl --format=cs", "gpenctl --format=csv"),
        ("gpen --vers", "gpen --version"),
        ("gpen -O roundr", "gpen -O roundrobin"),
        ("gpen-galera sta", "gpen-galera status"),
        ("gpen 80 www1 --vers", "gpen 80 www1 --version"),
        ("gpen-galera watch --dono", "gpen-galera watch --donor="),
        ("gpen-galera watch --donor=av", "gpen-galera watch --donor=avoid"),
        ("gpen-galera move --sock", "gpen-galera move --socket="),
        ("gpen-discover sta", "gpen-discover status"),
        ("gpen-discover dns --nam", "gpen-discover dns --nameserver="),
        ("gpenlogd --vers", "gpenlogd --version"),
        ("gpenlogd 10000 --vers", "gpenlogd 10000 --version"),
        ("gpenlog --vers", "gpenlog --version"),
    ],
)
def test_zsh(zsh: Zsh, line: str, completed: str) -> None:
    zsh.type(f"{line}\t")
    assert completed in zsh.read_until(completed)
    zsh.type("\x15")  # take the line back


def test_zsh_lists_the_options_at_once(zsh: Zsh) -> None:
    """Without asking first whether one wants to see them all; what is obsolete is not among them."""
    zsh.type("gpen -\t")
    shown = zsh.read_until("--version")
    zsh.type("\x15")
    assert "do you wish to see" not in shown and "Obsolete" not in shown
    assert "--check" in shown and re.search(r"-C\s+-- The control socket", shown)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("gpenctl TARGET listener wr", "listener writer "),
        ("gpenctl TARGET no listener re", "no listener reader.2 "),
        ("gpenctl TARGET listener web tracking_with wr", "tracking_with writer "),
    ],
)
def test_zsh_knows_the_listeners(zsh: Zsh, daemon: Daemon, programs: Path, line: str, completed: str) -> None:
    zsh.type(f"path=({programs} $path)\n")
    zsh.type(f"{line.replace('TARGET', daemon.target)}\t")
    assert completed in zsh.read_until(completed)
    zsh.type("\x15")
