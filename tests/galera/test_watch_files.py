"""What contrib/galera brings: units that systemd takes, configurations that gpen takes, a README that names them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gpen.galera.main import read_usage
from gpen.galera.usage import USAGES
from tests.contrib.service import told_of_units, with_our_programs
from tests.harness import COMMAND, ROOT

CONTRIB = ROOT / "contrib"
GALERA = CONTRIB / "galera"
UNITS = sorted(GALERA.glob("*.service"))


def settings(unit: Path) -> list[str]:
    return [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]


def test_the_watcher_is_as_hardened() -> None:
    hardening = re.compile(r"(Protect|Private|RestrictA|RestrictN|SystemCall|Lock|Memory|NoNew|Remove|ProcSub)\w*=")

    def of(unit: Path) -> set[str]:
        return {line for line in settings(unit) if hardening.match(line)}

    assert of(GALERA / "gpen-galera.service") == of(CONTRIB / "systemd" / "gpen@.service") != set()


def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = with_our_programs(unit.read_text())
        (tmp_path / unit.name).write_text(text.replace("=gpen-galera ", f"={GALERA}/gpen-galera "))
    assert told_of_units(*(tmp_path / unit.name for unit in UNITS)) == []


def test_the_watcher_is_started_with_options_that_it_has() -> None:
    text = (GALERA / "gpen-galera.service").read_text().replace("\\\n", " ")
    (start,) = re.findall(r"^ExecStart=gpen-galera (.*)$", text, re.MULTILINE)
    arguments = read_usage(USAGES["watch"], start.split(), "watch")
    assert (arguments["--gpen"], arguments["--reader"]) == (["/run/gpen/gpen.ctl"], ["-"])
    assert f"listener {arguments['--writer'][0]} listen 3306\n" in (GALERA / "gpen.cfg").read_text()
    assert arguments["--gpen"][0] in (CONTRIB / "systemd" / "gpen.service").read_text()


def test_gpen_takes_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text((GALERA / file.name).read_text().replace("/var/log/gpen", str(tmp_path)))
    done = subprocess.run([*COMMAND, "--check", "-F", str(file)], capture_output=True, text=True, timeout=20,
                          check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_names_every_file() -> None:
    readme = (GALERA / "README.md").read_text()
    assert [file.name for file in GALERA.iterdir() if f"`{file.name}`" not in readme and file.name != "README.md"] == []


def test_the_command_is_an_executable_that_runs_anywhere(tmp_path: Path) -> None:
    link = tmp_path / "gpen-galera"
    link.symlink_to(GALERA / "gpen-galera")
    assert (GALERA / "gpen-galera").stat().st_mode & 0o111
    done = subprocess.run([sys.executable, link, "--version"], capture_output=True, text=True, timeout=20, check=True,
                          cwd=tmp_path)
    assert done.stdout.startswith("gpen-galera ")
