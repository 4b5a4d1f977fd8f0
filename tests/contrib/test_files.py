"""The systemd units and the logrotate snippet, read by the programs that they are for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contrib.service import CONTRIB, ROOT, Service, runs, wait_for

UNITS = CONTRIB / "systemd"


def settings(unit: Path) -> list[str]:
    return [line for line in unit.read_text().splitlines() if not line.startswith("#")]


def test_gpen_service_is_the_template_for_the_name_gpen() -> None:
    template = [line.replace(" (%i)", "").replace("%i", "gpen") for line in settings(UNITS / "gpen@.service")]
    assert list(filter(None, settings(UNITS / "gpen.service"))) == list(filter(None, template))


def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("=gpen ", f"={ROOT}/bin/gpen ").replace("=gpenctl ", f"={ROOT}/bin/gpenctl ")
        (tmp_path / unit.name).write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "gpen.service", tmp_path / "gpen@web.service"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0 and not result.stderr, result.stderr


def test_logrotate_makes_gpen_open_a_new_log(service: Service, tmp_path: Path) -> None:
    if not shutil.which("logrotate", path="/usr/sbin:/usr/bin"):
        pytest.skip("logrotate is not installed")
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    with service.configuration("a").open("a") as file:
        file.write(f"log {logs}/a.log\n")
    assert service("start", "a").returncode == 0
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stranger:
        (service.run_directory / "stale.pid").write_text(f"{stranger.pid}\n")
        serve_and_rotate(service, logs, tmp_path)
        assert stranger.poll() is None
        stranger.kill()


def serve_and_rotate(service: Service, logs: Path, directory: Path) -> None:
    log = logs / "a.log"
    assert service.greeting("a") == "hello from a"
    wait_for(lambda: log.exists() and log.stat().st_size > 0, "the session's line in the log")
    rules = directory / "rules"
    snippet = (CONTRIB / "logrotate" / "gpen").read_text().replace("/var/log/gpen", str(logs))
    rules.write_text(snippet.replace("/run/gpen", str(service.run_directory)))
    rules.chmod(0o644)
    state = directory / "state"
    subprocess.run(["/usr/sbin/logrotate", "--force", "--state", state, rules], timeout=60, check=True)
    wait_for(log.exists, "the new log")
    assert service.greeting("a") == "hello from a"
    wait_for(lambda: log.stat().st_size > 0, "the next session's line in the new log")
    assert (logs / "a.log.1").stat().st_size > 0 and runs(service.pid("a"))
