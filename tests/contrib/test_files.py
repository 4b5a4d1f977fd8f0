"""The systemd units and the logrotate snippet, read by the programs that they are for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contrib.service import CONTRIB, ROOT, Service, runs, told_of_units, wait_for, with_our_programs
from tests.harness import needs_root, open_to_all, run_gpen, started

UNITS = CONTRIB / "systemd"


def settings(unit: Path) -> list[str]:
    return [line for line in unit.read_text().splitlines() if not line.startswith("#")]


def test_gpen_service_is_the_template_for_the_name_gpen() -> None:
    template = [line.replace(" (%i)", "").replace("%i", "gpen") for line in settings(UNITS / "gpen@.service")]
    assert list(filter(None, settings(UNITS / "gpen.service"))) == list(filter(None, template))


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with gpen where it is in this tree."""
    (tmp_path / "units").mkdir()
    made = [tmp_path / "units" / name for name in ("gpen.service", "gpen@web.service", "gpen.socket")]
    sources = (UNITS / "gpen.service", UNITS / "gpen@.service", UNITS / "gpen.socket")
    for unit, source in zip(made, sources, strict=True):
        unit.write_text(with_our_programs(source.read_text()))
    return made


def test_systemd_verifies_the_units(units: list[Path]) -> None:
    assert told_of_units(*units) == []


def test_a_machine_whose_own_units_are_wrong_says_nothing_of_ours(units: list[Path], tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "network-online.target").write_text("[Unit]\nNoSuchKey=1\n")
    assert told_of_units(*units, others=others) == []
    assert told_of_units(others / "network-online.target") != []


@pytest.mark.parametrize(("right", "wrong"), [
    ("[Service]\n", "[Service]\nNoSuchKey=1\n"), (f"ExecStart={ROOT}/bin/gpen", f"ExecStart={ROOT}/none/gpen"),
    ("Type=", "Type=none"), ("[Install]", "[Instal]"), ("WatchdogSec=", "WatchdogSec=x")])
def test_a_wrong_line_of_a_unit_is_told(units: list[Path], right: str, wrong: str) -> None:
    text = units[0].read_text()
    assert right in text
    units[0].write_text(text.replace(right, wrong))
    assert told_of_units(*units) != []


def test_the_configuration_for_galera_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text((CONTRIB / "galera" / "gpen.cfg").read_text().replace("/var/log/gpen", str(tmp_path)))
    done = run_gpen("--check", "-F", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration is valid\n", "")


def test_it_may_have_its_servers_checked_by_what_these_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    text = (CONTRIB / "galera" / "gpen.cfg").read_text().replace("/var/log/gpen", str(tmp_path))
    for line, status in (("check connect", 0), ("proxy_protocol v2", 0), ("check greeting", 2), ("idlers 2", 2)):
        file.write_text(f"{text}{line}\n")
        assert run_gpen("--check", "-F", str(file)).returncode == status, line


def test_logrotate_makes_gpen_open_a_new_log(service: Service, tmp_path: Path) -> None:
    if not shutil.which("logrotate", path="/usr/sbin:/usr/bin"):
        pytest.skip("logrotate is not installed")
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    with service.configuration("a").open("a") as file:
        file.write(f"log {logs}/a.log\n")
    assert service("start", "a").returncode == 0
    with started([sys.executable, "-c", "import signal; signal.pause()"]) as stranger:
        (service.run_directory / "stale.pid").write_text(f"{stranger.pid}\n")
        serve_and_rotate(service, logs, tmp_path)
        assert stranger.poll() is None
        stranger.kill()


@needs_root
def test_logrotate_in_the_directory_of_a_user(service: Service, tmp_path: Path) -> None:
    """Root, who calls it, gives nothing away by a link, and gpen opens a new log as the user."""
    if not shutil.which("logrotate", path="/usr/sbin:/usr/bin"):
        pytest.skip("logrotate is not installed")
    open_to_all(tmp_path)
    logs, victim = tmp_path / "log", tmp_path / "victim"
    logs.mkdir(mode=0o755)
    shutil.chown(logs, "nobody")
    victim.touch(0o600)
    (logs / "b.log").symlink_to(victim)
    with service.configuration("a").open("a") as file:
        file.write(f"user nobody\nlog {logs}/a.log\n")
    assert service("start", "a").returncode == 0
    serve_and_rotate(service, logs, tmp_path, "nobody nogroup")
    assert (logs / "a.log").owner() == "nobody"
    assert (victim.owner(), victim.stat().st_mode & 0o777) == ("root", 0o600)


def serve_and_rotate(service: Service, logs: Path, directory: Path, user: str = "root root") -> None:
    log = logs / "a.log"
    assert service.greeting("a") == "hello from a"
    wait_for(lambda: log.exists() and log.stat().st_size > 0, "the session's line in the log")
    rules = directory / "rules"
    snippet = (CONTRIB / "logrotate" / "gpen").read_text().replace("/var/log/gpen", str(logs))
    snippet = snippet.replace("su gpen gpen", f"su {user}")
    rules.write_text(snippet.replace("/run/gpen", str(service.run_directory)))
    rules.chmod(0o644)
    state = directory / "state"
    subprocess.run(["/usr/sbin/logrotate", "--force", "--state", state, rules], timeout=60, check=True)
    wait_for(log.exists, "the new log")
    assert service.greeting("a") == "hello from a"
    wait_for(lambda: log.stat().st_size > 0, "the next session's line in the new log")
    assert (logs / "a.log.1").stat().st_size > 0 and runs(service.pid("a"))
