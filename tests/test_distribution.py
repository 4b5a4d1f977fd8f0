"""What is given away: the source distribution, the wheel's other files, and the README as a package index shows it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpen import __version__
from tests.harness import ROOT

PLACE = "https://example.org/gpen"
MADE = {"PKG-INFO", "setup.cfg", *(f"gpen.egg-info/{name}" for name in (
    "entry_points.txt",
    "PKG-INFO", "SOURCES.txt", "dependency_links.txt", "requires.txt", "top_level.txt"))}


def setup_of(directory: Path, monkeypatch: pytest.MonkeyPatch, url: str = "") -> dict[str, Any]:
    """What setup.py has, run where it stands."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("GPEN_URL", url)
    return runpy.run_path("setup.py")


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """The description that a README is made into, with what GPEN_URL says."""
    def describe(readme: str, url: str) -> str:
        (tmp_path / "gpen").mkdir(exist_ok=True)
        (tmp_path / "gpen" / "core.py").write_text("MODULES = ()")
        (tmp_path / "setup.py").write_bytes((ROOT / "setup.py").read_bytes())
        (tmp_path / "README.md").write_text(readme)
        return str(setup_of(tmp_path, monkeypatch, url)["long_description"]())
    return describe


@pytest.mark.parametrize("readme, published, nowhere", [
    ("see [more](docs/A.md#b).", f"see [more]({PLACE}/blob/HEAD/docs/A.md#b).", "see more (docs/A.md#b)."),
    ("[contrib/](contrib/A.md)", f"[contrib/]({PLACE}/blob/HEAD/contrib/A.md)", "contrib/ (contrib/A.md)"),
    ("[CHANGELOG.md](CHANGELOG.md)", f"[CHANGELOG.md]({PLACE}/blob/HEAD/CHANGELOG.md)", "CHANGELOG.md"),
    ("![how it hangs together](docs/a.svg)", f"![how it hangs together]({PLACE}/raw/HEAD/docs/a.svg)",
     "how it hangs together"),
    ("[![a page](docs/a.png)](docs/B.md)", f"[![a page]({PLACE}/raw/HEAD/docs/a.png)]({PLACE}/blob/HEAD/docs/B.md)",
     "a page (docs/B.md)"),
])
def test_links_to_files(readme: str, published: str, nowhere: str, described: Callable[[str, str], str]) -> None:
    """They lead to where the sources are; where nobody has said where that is there are none."""
    assert described(readme, PLACE) == described(readme, f"{PLACE}/") == published
    assert described(readme, "") == nowhere


@pytest.mark.parametrize("readme", [
    "[pen](https://github.com/UlricE/pen)", "[below](#install)", "![x](https://example.org/a.svg)",
    "[write](mailto:a@example.org)"])
def test_other_links_stay(readme: str, described: Callable[[str, str], str]) -> None:
    assert described(readme, PLACE) == described(readme, "") == readme


def test_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its links to files are there, and none is left for those who have no files."""
    relative = re.compile(r"\]\((?!https?:|mailto:|#)")
    assert not relative.search(setup_of(ROOT, monkeypatch)["long_description"]())
    published = setup_of(ROOT, monkeypatch, PLACE)["long_description"]()
    files = re.findall(re.escape(PLACE) + r"/(?:blob|raw)/HEAD/([^)#]+)", published)
    assert files and not relative.search(published)
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_beside_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manuals, completion for whatever the files say that they complete, and all that contrib has for a machine."""
    files = dict(setup_of(ROOT, monkeypatch)["data_files"]())
    programs = ("gpen", "gpenctl", "gpen-discover", "gpen-galera", "gpenlog", "gpenlogd")
    assert {f"man/{name}.1" for name in programs} == set(files["share/man/man1"])
    completed = re.findall(r"^complete .* (\S+)$", (ROOT / "contrib/completion/gpen.bash").read_text(), re.MULTILINE)
    assert {f"contrib/completion/{name}.bash" for name in completed} <= set(files["share/bash-completion/completions"])
    assert "contrib/completion/_gpen" in files["share/zsh/site-functions"]
    assert files["share/gpen/contrib/default"] == ["contrib/default/gpen"]
    assert "contrib/systemd/gpen@.service" in files["share/gpen/contrib/systemd"]
    assert "CHANGELOG.md" in files["share/doc/gpen"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a checkout knows what belongs to it")
def test_a_source_distribution_is_what_is_checked_in(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name for name in listed.split("\0") if (ROOT / name).is_file()}
    for name in names:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    made = subprocess.run([sys.executable, "-c", "from setuptools import build_meta as b; b.build_sdist('dist')"],
                          cwd=checkout, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        brought = {each.name.partition("/")[2] for each in packed if each.isfile() or each.islnk()}
    assert (names - brought, brought - names - MADE) == (set(), set())


def test_debian_packages_this_version() -> None:
    changelog = (ROOT / "debian" / "changelog").read_text()
    assert changelog.startswith(f"gpen ({__version__}) ")
