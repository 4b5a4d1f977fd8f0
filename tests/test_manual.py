"""The man pages: as the tables say, and rendered without a warning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpen.control.commands import COMMANDS, OPTIONS
from gpen.discover import manual as discover
from gpen.docs import metrics, texts
from gpen.docs.manual import gpen_page, gpenctl_page
from gpen.galera import manual as galera
from gpen.netlog.manual import gpenlog_page, gpenlogd_page
from tests.harness import ROOT

MAN = ROOT / "man"
PAGES = [("gpen-discover.1", discover.page), ("gpen.1", gpen_page), ("gpenctl.1", gpenctl_page),
         ("gpenlog.1", gpenlog_page), ("gpenlogd.1", gpenlogd_page)]


@pytest.mark.parametrize("name, page", PAGES)
def test_the_committed_page_is_what_the_tables_say(name: str, page: Callable[[], str]) -> None:
    assert (MAN / name).read_text() == page(), "run: make man"


def test_the_committed_list_of_metrics_is_what_the_tables_say() -> None:
    assert (ROOT / "docs" / "METRICS.md").read_text() == metrics.page() + galera.metrics(), "run: make man"


@pytest.mark.skipif(not shutil.which("man") and not os.environ.get("CI"), reason="man is not installed")
@pytest.mark.parametrize("name", [name for name, _ in PAGES])
def test_it_renders_without_warnings(name: str) -> None:
    done = subprocess.run(["man", "--warnings=all", "-l", str(MAN / name)], capture_output=True, text=True, check=True,
                          timeout=30, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100"})
    assert done.stderr == ""
    assert "SEE ALSO" in done.stdout


def test_every_option_and_command_is_in_it() -> None:
    options, commands = gpen_page().replace("\\-", "-"), gpenctl_page().replace("\\-", "-")
    assert [option.flag for option in OPTIONS if f"\\fB{option.flag}\\fR" not in options] == []
    assert [name for name in COMMANDS if name not in commands] == []


@pytest.mark.parametrize("text", [texts.LISTENERS, (ROOT / "docs" / "LISTENERS.md").read_text()],
                         ids=["gpen.1", "LISTENERS.md"])
def test_the_example_of_several_listeners_is_valid(text: str, tmp_path: Path) -> None:
    example = re.search(r"^    listen 3307\n(    .*\n)+", text, re.MULTILINE)
    assert example is not None and "listener admin client_acl 9" in example[0]
    file = tmp_path / "db.cfg"
    file.write_text(example[0])
    done = subprocess.run([sys.executable, str(ROOT / "bin" / "gpen"), "--check", "-F", str(file)], capture_output=True,
                          text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("configuration is valid\n", "", 0)
