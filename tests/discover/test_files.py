"""What contrib has for gpen-discover: a unit that systemd takes, hardened as the others are, with options that there
are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpen.discover.main import read_usage
from gpen.discover.usage import USAGES
from tests.contrib.service import CONTRIB, told_of_units, with_our_programs
from tests.harness import ROOT

UNIT = CONTRIB / "systemd" / "gpen-discover.service"


def hardening_of(unit: Path) -> set[str]:
    """Its lines that take rights away."""
    hardening = re.compile(r"(Protect|Private|RestrictA|RestrictN|SystemCall|Lock|Memory|NoNew|Remove|ProcSub)\w*=")
    return set(filter(hardening.match, unit.read_text().splitlines()))


def test_it_is_as_hardened_as_gpen() -> None:
    assert hardening_of(UNIT) == hardening_of(UNIT.with_name("gpen@.service")) != set()


def test_systemd_verifies_it(tmp_path: Path) -> None:
    text = with_our_programs(UNIT.read_text()).replace("=gpen-discover ", f"={ROOT}/bin/gpen-discover ")
    unit, gpen = tmp_path / UNIT.name, tmp_path / "gpen.service"
    unit.write_text(text)
    gpen.write_text(with_our_programs((UNIT.with_name("gpen.service")).read_text()))
    assert told_of_units(unit, gpen) == []


def test_its_options_and_those_of_its_examples_are_there() -> None:
    starts = re.findall(r"^#? *ExecStart=gpen-discover (\w+) (.*)$", UNIT.read_text(), re.MULTILINE)
    assert {command for command, _ in starts} == {"file", "dns"}
    for command, words in starts:
        arguments = read_usage(USAGES[command], [command, *words.split()], command)
        assert arguments["--gpen"] == ["/run/gpen/gpen.ctl"]


@pytest.mark.parametrize("name", ["DISCOVERY.md", "DISCOVERY-SOURCES.md"])
def test_the_lines_of_the_documents_are_there(name: str) -> None:
    """Whatever they show as a command line is one."""
    text = (ROOT / "docs" / name).read_text().replace("\\\n", " ")
    lines = [words.split() for words in re.findall(r"^    gpen-discover (.*)$", text, re.MULTILINE)]
    assert len(lines) > 3
    for command, *words in lines:
        read_usage(USAGES[command], [command, *words], command)
