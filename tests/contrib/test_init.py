"""The init script, run for real: two instances of the checkout's gpen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contrib.service import CONTRIB, Service, runs, wait_for
from tests.harness import run_gpen

SCRIPT = CONTRIB / "init.d" / "gpen"

replaces = pytest.mark.skipif("--replace" not in run_gpen("--help").stdout, reason="this gpen has no --replace")


@pytest.fixture
def stranger(service: Service) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with gpen, though it has the pid file of a among its arguments."""
    wait = "import signal; signal.pause()"
    with subprocess.Popen([sys.executable, "-c", wait, str(service.pid_file("a"))]) as process:
        yield process
        process.kill()


def leave_pid_file(service: Service, name: str, text: str) -> None:
    service.run_directory.mkdir(exist_ok=True)
    service.pid_file(name).write_text(text)


# --- start, status, stop ----------------------------------------------------------------------------------


def test_start_serves_when_it_returns(service: Service) -> None:
    result = service("start")
    assert result.returncode == 0, result
    assert "gpen a: started" in result.stdout and "gpen b: started" in result.stdout
    assert service.greeting("a") == "hello from a"
    assert service.greeting("b") == "hello from b"


def test_start_of_what_runs_leaves_it_alone(service: Service) -> None:
    assert service("start").returncode == 0
    pid = service.pid("a")
    assert service("start", "a").returncode == 0
    assert service.pid("a") == pid and runs(pid)


def test_status_names_each_instance(service: Service) -> None:
    assert service("start", "a").returncode == 0
    result = service("status")
    assert result.returncode == 3
    assert f"gpen a: running (pid {service.pid('a')})\n" in result.stdout
    assert "gpen b: not running\n" in result.stdout
    assert service("status", "a").returncode == 0


def test_stop_ends_the_named_instance_only(service: Service) -> None:
    assert service("start").returncode == 0
    pid = service.pid("a")
    result = service("stop", "a")
    assert result.returncode == 0 and "gpen a: stopped" in result.stdout
    assert not runs(pid)
    assert not service.pid_file("a").exists()
    assert [service("status", name).returncode for name in "ab"] == [3, 0]
    assert service.greeting("b") == "hello from b"


def test_stop_of_what_is_stopped_is_done(service: Service) -> None:
    assert service("stop").returncode == 0


def test_stop_takes_an_instance_whose_configuration_is_gone(service: Service) -> None:
    assert service("start").returncode == 0
    pid = service.pid("a")
    service.configuration("a").unlink()
    assert service("stop").returncode == 0
    assert not runs(pid)


def test_a_daemon_that_does_not_end_is_killed(service: Service) -> None:
    assert service("start", "a").returncode == 0
    pid = service.pid("a")
    os.kill(pid, signal.SIGSTOP)
    result = service("stop", "a", GPEN_STOP_SECONDS="1")
    assert result.returncode == 0 and "killed" in result.stdout
    assert not runs(pid) and not service.pid_file("a").exists()


# --- reload, restart --------------------------------------------------------------------------------------


def test_reload_takes_effect_in_the_same_process(service: Service) -> None:
    assert service("start").returncode == 0
    pid = service.pid("a")
    change(service, "a", "timeout 3", "timeout 7")
    assert service("reload", "a").returncode == 0
    wait_for(lambda: service.ask("a", "timeout") == "7", "the new timeout")
    assert service.pid("a") == pid and service.ask("b", "timeout") == "3"


@pytest.mark.parametrize("action", ["reload", "force-reload", "upgrade", "restart", "try-restart"])
def test_a_wrong_file_is_refused_and_the_old_configuration_serves_on(service: Service, action: str) -> None:
    assert service("start", "a").returncode == 0
    pid = service.pid("a")
    change(service, "a", "timeout 3", "timeout soon")
    result = service(action, "a")
    assert result.returncode == 6
    assert f"{service.configuration('a')}:2" in result.stderr and "soon" in result.stderr
    assert service.pid("a") == pid
    assert service.ask("a", "timeout") == "3" and service.greeting("a") == "hello from a"


def test_one_wrong_file_does_not_keep_the_others_from_reloading(service: Service) -> None:
    assert service("start").returncode == 0
    change(service, "a", "timeout 3", "timeout soon")
    change(service, "b", "timeout 3", "timeout 8")
    assert service("reload").returncode == 6
    wait_for(lambda: service.ask("b", "timeout") == "8", "the new timeout")


@replaces
def test_upgrade_puts_a_new_process_in_the_place_of_the_old(service: Service) -> None:
    """The old one serves its sessions to their end."""
    assert service("start", "a").returncode == 0
    old = service.pid("a")
    change(service, "a", "timeout 3", "timeout 5")
    done = service("upgrade", "a")
    assert done.returncode == 0, done
    new = service.pid("a")
    assert f"process {new} has taken the place of process {old}" in done.stdout
    assert service.ask("a", "timeout") == "5" and service.greeting("a") == "hello from a"
    wait_for(lambda: not runs(old), "the end of the old one")
    assert service("status", "a").returncode == 0


@replaces
def test_an_upgrade_that_fails_leaves_the_old_one_alone(service: Service) -> None:
    assert service("start", "a").returncode == 0
    old = service.pid("a")
    done = service("upgrade", "a", GPEN_OPTIONS="-w /proc/none/page")
    assert done.returncode in (1, 6)
    assert service.pid("a") == old and service.greeting("a") == "hello from a"


def test_restart_makes_a_new_process(service: Service) -> None:
    assert service("start").returncode == 0
    old = service.pid("a")
    change(service, "a", "timeout 3", "timeout 5")
    assert service("restart", "a").returncode == 0
    assert service.pid("a") != old and not runs(old)
    assert service.ask("a", "timeout") == "5" and service.greeting("a") == "hello from a"


def test_restart_starts_what_is_stopped_and_try_restart_does_not(service: Service) -> None:
    assert service("try-restart", "a").returncode == 0
    assert service("status", "a").returncode == 3
    assert service("restart", "a").returncode == 0
    assert service("status", "a").returncode == 0
    old = service.pid("a")
    assert service("try-restart", "a").returncode == 0
    assert service.pid("a") != old


def change(service: Service, name: str, old: str, new: str) -> None:
    file = service.configuration(name)
    file.write_text(file.read_text().replace(old, new))


# --- pid files that are not true --------------------------------------------------------------------------


def test_a_killed_daemon_is_dead_and_can_be_started_again(service: Service) -> None:
    assert service("start", "a").returncode == 0
    pid = service.pid("a")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not runs(pid), "the end of the daemon")
    assert service("status", "a").returncode == 1
    assert service("start", "a").returncode == 0
    assert service.greeting("a") == "hello from a"


def test_a_stale_pid_file_harms_no_stranger(service: Service, stranger: subprocess.Popen[bytes]) -> None:
    leave_pid_file(service, "a", f"{stranger.pid}\n")
    assert service("status", "a").returncode == 1
    assert service("reload", "a").returncode == 7
    assert service("stop", "a").returncode == 0
    assert not service.pid_file("a").exists()
    leave_pid_file(service, "a", f"{stranger.pid}\n")
    assert service("start", "a").returncode == 0
    assert service.pid("a") != stranger.pid
    assert service("restart", "a").returncode == 0
    assert stranger.poll() is None


@pytest.mark.parametrize("text", ["", "\n", "0\n", "-1\n", "12 34\n", "$(false)\n", "9999999999999999999\n"])
def test_rubbish_in_a_pid_file_is_no_process(service: Service, text: str) -> None:
    leave_pid_file(service, "a", text)
    assert service("status", "a").returncode == 1
    assert service("stop", "a").returncode == 0
    assert service("status", "a").returncode == 3


# --- what can be set, and what can't be done --------------------------------------------------------------


def test_the_defaults_file_and_the_environment_over_it(service: Service, tmp_path: Path) -> None:
    service.defaults.write_text(f"INSTANCES=b\nGPEN_RUNDIR={tmp_path}/none\nGPEN_OPTIONS='-b 17'\n")
    assert service("start").returncode == 0
    assert [service("status", name).returncode for name in "ab"] == [3, 0]
    assert service.ask("b", "blacklist") == "17"


def test_start_says_why_not(service: Service) -> None:
    assert service("start", "a").returncode == 0
    change(service, "b", "listen 127.0.0.1:0", f"listen {service.ask('a', 'listen')}")
    result = service("start", "b")
    assert result.returncode == 1
    assert "gpen b: not started" in result.stderr and "in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert service("status", "b").returncode == 3


@pytest.mark.parametrize("words", [(), ("dance",), ("start", "../a"), ("start", "-a"), ("start", "a b")])
def test_wrong_usage_is_2(service: Service, words: tuple[str, ...]) -> None:
    result = service(*words)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


def test_no_permission_is_4(service: Service) -> None:
    result = service("start", "a", GPEN_RUNDIR="/proc/gpen")
    assert result.returncode == 4 and "/proc/gpen" in result.stderr


@pytest.mark.parametrize("action", ["start", "restart"])
def test_not_installed_is_5(service: Service, tmp_path: Path, action: str) -> None:
    result = service(action, "a", GPEN=f"{tmp_path}/none/gpen")
    assert result.returncode == 5 and f"{tmp_path}/none/gpen" in result.stderr


def test_no_configuration_is_6(service: Service) -> None:
    result = service("start", "nobody")
    assert result.returncode == 6 and str(service.configuration("nobody")) in result.stderr


@pytest.mark.parametrize(
    ("action", "status"),
    [("start", 6), ("restart", 6), ("reload", 6), ("upgrade", 6), ("stop", 0), ("try-restart", 0), ("status", 3)],
)
def test_without_any_instance(service: Service, tmp_path: Path, action: str, status: int) -> None:
    assert service(action, GPEN_CONFDIR=str(tmp_path / "empty")).returncode == status


@pytest.mark.parametrize("action", ["reload", "force-reload", "upgrade"])
def test_reload_of_what_does_not_run_is_7(service: Service, action: str) -> None:
    assert service(action, "a").returncode == 7


# --- the script itself ------------------------------------------------------------------------------------


def test_it_has_an_lsb_header() -> None:
    header = SCRIPT.read_text().partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO\n")[0]
    names = [line.removeprefix("# ").partition(":")[0] for line in header.splitlines()]
    assert names[0] == "Provides" and {"Required-Start", "Default-Start", "Default-Stop"} <= set(names)


def test_shellcheck_finds_nothing() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "--shell=sh", SCRIPT], check=True)
    subprocess.run(["shellcheck", "--shell=bash", CONTRIB / "completion" / "gpen.bash"], check=True)
