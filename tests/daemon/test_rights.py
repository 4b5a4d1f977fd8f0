"""What gpen and its kin may still do once they serve; and the files of a gpen that becomes another user."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.rights import NET_BIND_SERVICE, OF_ROOT
from tests.attacker import NOBODY, attacking
from tests.daemon.conftest import ctl
from tests.harness import (
    COMMAND,
    ROOT,
    Gpen,
    Server,
    home_of,
    naming,
    needs_root,
    open_to_all,
    run_gpen,
    started,
    wait_until,
)
from tests.netlog.programs import GPENLOGD

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

NO_PRCTL = ("setpriv", "--bounding-set=-setpcap", "--inh-caps=-all")


def rights_of(pid: int, thread: int | None = None) -> dict[str, str]:
    """Its capabilities, as sets of bits in hexadecimal digits, and whether programs may gain rights."""
    file = Path(f"/proc/{pid}/task/{thread or pid}/status")
    fields = dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)
    return {name: fields[name] for name in ("NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def bits(*numbers: int) -> str:
    """These, as far as there are any here."""
    here = int(rights_of(os.getpid())["CapBnd"], 16)
    return f"{sum(1 << number for number in numbers) & here:016x}"


@pytest.fixture
def server(servers: Serve) -> Server:
    return servers(naming("a"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of nobody's."""
    return home_of(NOBODY, tmp_path)


# --- rights -----------------------------------------------------------------------------------------------------------


@needs_root
def test_a_user_has_none(gpen: Start, server: Server) -> None:
    balancer = gpen("-u", "nobody", servers=[server])
    assert set(rights_of(balancer.pid).items()) == {("NoNewPrivs", "1"), *(
        (name, bits()) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))}


@needs_root
@pytest.mark.parametrize("options", [(), ("-u", "root")], ids=["root", "user root"])
def test_root_has_few(gpen: Start, server: Server, options: tuple[str, ...]) -> None:
    """All of what it needs later on goes on working: a port below 1024, more descriptors, a file of another's."""
    balancer = gpen(*options, "-l", "gpen.log", servers=[server])
    told = rights_of(balancer.pid)
    assert told == {"NoNewPrivs": "1", "CapInh": bits(), "CapPrm": bits(*OF_ROOT), "CapEff": bits(*OF_ROOT),
                    "CapBnd": bits(*OF_ROOT), "CapAmb": bits()}
    assert balancer.ctl("listen 127.88.3.4:1") == "127.88.3.4:1\n"
    assert balancer.ask() == b"a"


@needs_root
def test_no_thread_that_runs_programs_gains_any(gpen: Start, server: Server) -> None:
    """Threads look names up, before rights are given up and after: none of them lets a program gain rights."""
    balancer = gpen("-O", "server 1 address localhost port 1", servers=[server])
    for thread in map(int, os.listdir(f"/proc/{balancer.pid}/task")):
        told = rights_of(balancer.pid, thread)
        assert (told["NoNewPrivs"], told["CapBnd"]) == ("1", bits(*OF_ROOT))


@needs_root
def test_a_port_for_a_user_with_the_right(tmp_path: Path, server: Server) -> None:
    """As the systemd units give it."""
    open_to_all(tmp_path)
    wrapper = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_bind_service",
               "--ambient-caps=+net_bind_service")
    with Gpen(tmp_path, "-d", "127.88.3.5:1", server.address, wrapper=wrapper) as balancer:
        assert balancer.ask() == b"a"
        assert balancer.ctl("listen 127.88.3.5:2") == "127.88.3.5:2\n"
        assert rights_of(balancer.pid)["CapEff"] == bits(NET_BIND_SERVICE)
        assert rights_of(balancer.pid)["NoNewPrivs"] == "1"
        assert "can't drop capabilities from the bounding set: Operation not permitted" in balancer.stderr


@needs_root
def test_where_the_kernel_forbids_it(gpen: Start, server: Server) -> None:
    """It serves all the same, and tells so at debug only."""
    balancer = gpen(servers=[server], wrapper=NO_PRCTL)
    assert balancer.ask() == b"a"
    assert "can't" not in balancer.stderr
    assert rights_of(balancer.pid)["CapEff"] == bits(*OF_ROOT)


@needs_root
@pytest.mark.parametrize("options", [(), ("-u", "nobody")], ids=["root", "user"])
def test_gpenlogd(tmp_path: Path, options: tuple[str, ...]) -> None:
    open_to_all(tmp_path)
    with started([*GPENLOGD, "-f", *options, "-p", "pid", "-l", "log", "127.0.0.1:0"], cwd=tmp_path,
                          stderr=subprocess.PIPE) as collector:
        assert collector.stderr is not None and b"listens on" in collector.stderr.readline()
        needed = () if options else OF_ROOT
        assert rights_of(collector.pid) == {"NoNewPrivs": "1", "CapInh": bits(), "CapPrm": bits(*needed),
                                            "CapEff": bits(*needed), "CapBnd": bits(*needed), "CapAmb": bits()}
        collector.terminate()
        collector.communicate()
    assert collector.returncode == 0


@needs_root
@pytest.mark.parametrize("command", [("watch", "--reader=/none/ctl", "--socket=sock"),
                                     ("serve", "127.0.0.1:0", "--node=127.0.0.1:1")], ids=lambda command: command[0])
def test_gpen_galera(tmp_path: Path, command: tuple[str, ...]) -> None:
    pytest.importorskip("pymysql")
    with started([sys.executable, str(ROOT / "contrib" / "galera" / "gpen-galera"), *command], cwd=tmp_path,
                          env=os.environ | {"GPEN_GALERA_USER": "watcher"}, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1)
        told = rights_of(process.pid)
        assert (told["NoNewPrivs"], told["CapEff"], told["CapBnd"]) == ("1", bits(*OF_ROOT), bits(*OF_ROOT))
        process.terminate()


@needs_root
def test_a_program_gains_none(gpen: Start, server: Server, tmp_path: Path) -> None:
    """Not by a set-user-ID bit either."""
    open_to_all(tmp_path)
    program = tmp_path / "id"
    shutil.copy(shutil.which("id") or "", program)
    program.chmod(0o4755)
    (tmp_path / "check").write_text(f"#!/bin/sh\n{program} -u\nexit 1\n")
    (tmp_path / "check").chmod(0o755)
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert subprocess.run([*as_nobody, tmp_path / "check"], capture_output=True, text=True, check=False).stdout == "0\n"
    balancer = gpen("-u", "nobody", "-O", "check_fall 1", "-O", f"check exec {tmp_path}/check", servers=[server])
    assert wait_until(lambda: balancer.server(0)["reason"]) == "exit status 1: 65534"


# --- files ------------------------------------------------------------------------------------------------------------


@needs_root
def test_in_the_directory_of_the_user(daemonize: Callable[..., int], server: Server, home: Path) -> None:
    """As /var/log/gpen and /run/gpen are: all that gpen makes is the user's, from the first moment on."""
    control, log, page, front = (home / name for name in ("ctl", "log", "page", "front"))
    pid = daemonize("-u", "nobody", "-C", str(control), "-O", "control_mode 0660", "-l", str(log), "-w", str(page),
                    str(front), server.address)
    assert {path.stat().st_uid for path in (control, log, front)} == {NOBODY}
    assert stat.S_IMODE(control.stat().st_mode) == 0o660
    log.rename(home / "log.1")
    os.kill(pid, signal.SIGHUP)
    wait_until(log.exists)
    os.kill(pid, signal.SIGUSR1)
    wait_until(page.exists)
    assert ctl(control, f"write {home}/cfg") == ""
    assert ctl(control, "control_mode 0600") == "0600\n"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not control.exists() and not front.exists())


@needs_root
def test_root_in_the_directory_of_a_user(gpen: Start, server: Server, home: Path) -> None:
    balancer = gpen("-l", str(home / "log"), "-w", str(home / "page"), "-p", str(home / "pid"), servers=[server],
                    control=str(home / "ctl"))
    assert balancer.ask() == b"a"
    (home / "log").rename(home / "log.1")
    balancer.signal(signal.SIGHUP)
    wait_until((home / "log").exists)
    (home / "page").touch()
    os.chown(home / "page", NOBODY, NOBODY)
    balancer.signal(signal.SIGUSR1)
    wait_until(lambda: (home / "page").read_text())
    assert (home / "page").stat().st_uid == NOBODY
    assert balancer.ctl(f"write {home}/cfg") == ""
    assert balancer.ctl("control_mode 0666") == "0666\n"
    wait_until(lambda: "control_mode: can't change the mode" in balancer.stderr)
    assert stat.S_IMODE((home / "ctl").stat().st_mode) == 0o600
    balancer.stop()
    assert not (home / "ctl").exists() and not (home / "pid").exists()


@needs_root
@pytest.mark.parametrize("user", [(), ("-u", "nobody")], ids=["root", "user"])
@pytest.mark.parametrize("option", ["-l", "-p", "-C"])
@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_is_refused_in_one_line(server: Server, home: Path, link: Callable[[Path, Path], None], option: str,
                                       user: tuple[str, ...]) -> None:
    victim = home.parent / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    link(victim, home / "name")
    done = run_gpen("-f", *user, option, str(home / "name"), "127.0.0.1:0", server.address)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(home / "name") in done.stderr
    assert (victim.read_text(), victim.stat().st_uid, victim.stat().st_mode & 0o777) == ("", 0, 0o600)


@needs_root
def test_what_is_refused_later_changes_nothing(gpen: Start, server: Server, home: Path) -> None:
    victim, name = home.parent / "victim", home / "name"
    victim.write_text("root's\n")
    name.symlink_to(victim)
    balancer = gpen("-l", str(home / "log"), "-w", str(name), servers=[server])
    assert "is a symbolic link in a directory that others may write" in balancer.ctl(f"log {name}")
    assert balancer.ctl("log") == f"{home}/log\n"
    assert "is a symbolic link in a directory that others may write" in balancer.ctl(f"write {name}")
    balancer.signal(signal.SIGUSR1)
    wait_until(lambda: f"can't write '{name}'" in balancer.stderr)
    (home / "log").unlink()
    (home / "log").symlink_to(victim)
    assert "can't reopen the log" in balancer.ctl("reload")
    assert balancer.ask() == b"a"
    assert victim.read_text() == "root's\n"


@needs_root
def test_a_file_that_was_there_is_not_given_away(gpen: Start, server: Server, tmp_path: Path) -> None:
    """That it can't be opened again is told at the start, and not at the first HUP only."""
    open_to_all(tmp_path)
    (tmp_path / "roots.log").touch(0o640)
    balancer = gpen("-u", "nobody", "-l", "roots.log", servers=[server])
    assert (tmp_path / "roots.log").stat().st_uid == 0
    assert "log: 'roots.log' can't be opened again at HUP by nobody: chown nobody roots.log" in balancer.stderr


@needs_root
def test_starts_under_attack(home: Path, server: Server) -> None:
    """Whatever the user does to the control socket meanwhile, what is root's stays root's."""
    victim = home.parent / "victim"
    victim.write_text("root's\n")
    victim.chmod(0o600)
    with attacking(home / "ctl", victim):
        for _ in range(5):
            with started([*COMMAND, "-f", "-u", "nobody", "-C", str(home / "ctl"), "-O", "control_mode 0666",
                                   "127.0.0.1:0", server.address], stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr is not None
                told = process.stderr.readline()
                if "listens on" in told:
                    process.terminate()
                assert "Traceback" not in told + process.stderr.read()
            assert (victim.read_text(), victim.stat().st_uid, victim.stat().st_mode & 0o777) == ("root's\n", 0, 0o600)
