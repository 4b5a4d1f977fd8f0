"""What keepalived runs, and who moves an address: contrib/keepalived/notify and gpen-move-away, by themselves."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contrib.balancers import KEEPALIVED, SCRIPTS, installed
from tests.contrib.service import CONTRIB
from tests.harness import Gpen, Server, echo, needs_root, wait_until
from tests.listeners import own, visit
from tests.networks import Switch

HERE, AWAY = "127.0.0.1", "192.0.2.100"

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run one of them: run("notify", "WORD")."""
    scripts = installed(tmp_path / "scripts")

    def script(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([scripts / name, *words], capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}:/usr/sbin", **environment})

    return script


@pytest.fixture
def balancer(gpen: Start, servers: Serve) -> Gpen:
    return gpen(*own("w"), servers=[servers(echo)])


@pytest.fixture
def clients(balancer: Gpen) -> Iterator[list[str]]:
    """The listeners of two clients, as gpen tells them now."""
    with balancer.connect(), visit(balancer, "w"):
        wait_until(lambda: len(balancer.json("sessions")) == 2)
        yield ["-", "w"]


def left(balancer: Gpen) -> list[str]:
    """The listeners of the clients that are left."""
    return [row["listener"] or "-" for row in balancer.json("sessions")]


def changes(run: Run, balancer: Gpen, address: str, *states: str, options: tuple[str, ...] = ()) -> list[int]:
    """The exit statuses of notify, when keepalived comes into these states."""
    return [run("notify", "-g", "0", "-d", str(balancer.directory), *options, balancer.control, address, "INSTANCE",
                "gpen", state, "250").returncode for state in states]


# --- notify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["BACKUP", "FAULT", "STOP"])
def test_an_address_that_has_gone_takes_its_sessions_along(run: Run, balancer: Gpen, clients: list[str],
                                                           state: str) -> None:
    assert changes(run, balancer, AWAY, "MASTER") == [0] and left(balancer) == clients
    assert changes(run, balancer, AWAY, state) == [0]
    wait_until(lambda: not left(balancer))


def test_one_that_has_never_been_here_does_not(run: Run, balancer: Gpen, clients: list[str]) -> None:
    """As keepalived starts: these clients have come by another address. Nor does one that is back in time."""
    assert changes(run, balancer, AWAY, "BACKUP", "FAULT") == [0, 0] and left(balancer) == clients
    assert changes(run, balancer, HERE, "MASTER", "BACKUP") == [0, 0] and left(balancer) == clients


def test_those_of_a_listener_alone(run: Run, balancer: Gpen, clients: list[str]) -> None:
    assert changes(run, balancer, AWAY, "MASTER", "BACKUP", options=("-l", "w")) == [0, 0]
    wait_until(lambda: left(balancer) == clients[:1])


def test_it_fails_where_gpen_does_not_answer(run: Run, balancer: Gpen) -> None:
    balancer.control += ".none"
    assert changes(run, balancer, AWAY, "MASTER", "BACKUP") == [0, 1]
    balancer.control = balancer.control.removesuffix(".none")
    assert changes(run, balancer, AWAY, "MASTER", "BACKUP", options=("-l", "nosuch")) == [0, 1]


def test_it_ends_nothing_where_it_can_not_look(run: Run, balancer: Gpen, clients: list[str], tmp_path: Path) -> None:
    """Without ip nobody knows whether the address is back."""
    (tmp_path / "few").mkdir()
    for name in ("sh", "logger", "sleep", "rm", "timeout"):
        (tmp_path / "few" / name).symlink_to(shutil.which(name) or "")
    for state, status in (("MASTER", 0), ("BACKUP", 1)):
        done = run("notify", "-g", "0", "-d", str(tmp_path), balancer.control, AWAY, "INSTANCE", "gpen", state, "250",
                   PATH=str(tmp_path / "few"))
        assert done.returncode == status
    assert "ip (iproute2) is missing" in done.stdout and left(balancer) == clients


def test_the_status_of_a_unit(run: Run, balancer: Gpen, tmp_path: Path) -> None:
    if not shutil.which("systemd-notify"):
        pytest.skip("systemd-notify is not installed")
    told: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "manager"))
        manager.settimeout(20)
        service = threading.Thread(target=lambda: told.extend(taken(manager) for _ in range(2)))
        service.start()
        run("notify", "-n", "-d", str(tmp_path), balancer.control, AWAY, "INSTANCE", "gpen", "MASTER", "250",
            NOTIFY_SOCKET=str(tmp_path / "manager"))
        service.join(20)
    assert f"STATUS=gpen: {AWAY} is here" in told[0].decode()


def taken(manager: socket.socket) -> bytes:
    """The next message, as a service manager takes it: who has sent a descriptor with it waits for that to be closed.
    """
    data, descriptors, _, _ = socket.recv_fds(manager, 1000, 1)
    for descriptor in descriptors:
        os.close(descriptor)
    return data


# --- gpen-move-away ---------------------------------------------------------------------------------------------------


def test_an_address_that_is_not_here(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "moved"
    file.write_text("0\n")
    done = run("gpen-move-away", "-f", str(file), AWAY)
    assert (done.returncode, file.read_text()) == (0, "-10\n") and done.stdout.startswith(f"not here: {AWAY};")
    done = run("gpen-move-away", "--back", "-f", str(file))
    assert (done.returncode, file.read_text()) == (0, "0\n") and "stays where it is" in done.stdout


def test_one_at_a_time(run: Run, tmp_path: Path) -> None:
    """A second one would take the first one's weight back, and let new connections in meanwhile."""
    file = tmp_path / "moved"
    file.write_text("0\n")
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for words in ([AWAY], ["--back"]):
            done = run("gpen-move-away", "-f", str(file), *words)
            assert (done.returncode, done.stdout, file.read_text()) == (1, "", "0\n")
            assert done.stderr == "gpen-move-away: another one is at work: try again when it has ended\n"
    assert run("gpen-move-away", "-f", str(file), AWAY).returncode == 0


@pytest.mark.parametrize(("words", "named"), [
    (("notify", "-g", "x", "S", AWAY, "INSTANCE", "gpen", "MASTER", "250"), "'x' is not a whole number"),
    (("notify", "-l", "a b", "S", AWAY, "INSTANCE", "gpen", "MASTER", "250"), "'a b' is no name of a listener"),
    (("notify", "-x"), "-x"), (("notify", "S", AWAY), "got 2 words"),
    (("gpen-move-away",), "expected ADDRESS"), (("gpen-move-away", "-t", "0", AWAY), "'0'"),
    (("gpen-move-away", "-t", "61", AWAY), "'61'"), (("gpen-move-away", "-t"), "-t"),
    (("gpen-move-away", "nobody"), "'nobody' is not an address"), (("gpen-move-away", "30"), "'30' is not an address"),
    (("gpen-move-away", "-x"), "'-x' is no option"),
    (("gpen-move-away", "--back", AWAY), "--back takes no ADDRESS"),
    (("gpen-move-away", "-f", "/none", AWAY), "/none is not there")])
def test_wrong_usage(run: Run, words: tuple[str, ...], named: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"{words[0]}: ")
    assert named in done.stderr.splitlines()[0]


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "option"), [
    ("notify", "-h"), ("notify", "--help"), ("gpen-move-away", "--help"), ("check", "--help")])
def test_help(run: Run, name: str, option: str) -> None:
    done = run(name, option)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"Usage: {name} ")
    assert "Exit status: 0 " in done.stdout and "\nExample" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", SCRIPTS)
def test_shells_have_nothing_against_them(name: str) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", CONTRIB / "keepalived" / name], capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout) == (0, "")


@needs_root
@pytest.mark.parametrize("is_unicast", [False, True], ids=["multicast", "unicast"])
def test_keepalived_has_nothing_against_the_configuration(tmp_path: Path, is_unicast: bool) -> None:
    if KEEPALIVED is None:
        pytest.skip("keepalived is not installed")
    text = (CONTRIB / "keepalived" / "keepalived.conf").read_text()
    for told, here in (("/etc/keepalived/gpen", str(installed(tmp_path / "scripts"))), ("eth0", "lan"),
                       ("/run/gpen-moved", str(tmp_path / "moved"))):
        text = text.replace(told, here)
    if is_unicast:
        text, found = re.subn("    # (unicast_src_ip .*|unicast_peer {|    192.*|})", r"    \1", text)
        assert found == 4
    file = tmp_path / "keepalived.conf"
    file.write_text(text)
    with Switch() as machine:
        done = subprocess.run([*machine.wrapper, KEEPALIVED, "--config-test", "-f", str(file)], capture_output=True,
                              text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
