"""What a reader meets: the README within its bounds, examples that can be pasted, links that lead somewhere, a
reference that says what the tables say."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from gpen.cli import main
from gpen.control.commands import COMMANDS, OPTIONS
from gpen.control.script import parse_line
from gpen.docs.reference import page
from gpen.model.settings import SETTINGS
from tests.certificates import Authority
from tests.harness import ROOT

README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("contrib/**/*.md")])
MOST_WORDS = 900
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def examples() -> list[str]:
    """The commands that the README shows, each in one line."""
    return re.findall(r"^    ((?:gpen|gpenctl|make) .*)", README.read_text(), re.MULTILINE)


@cache
def anchors(document: Path) -> set[str]:
    """What can stand behind # in a link to it: its headings, as GitHub and the site's generator name them alike."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)|\\|`|\*\*", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).strip().replace(" ", "-") for heading in plain}


def wrong_links(document: Path) -> Iterator[str]:
    for target, anchor in _LINK.findall(re.sub(r"^    .*", "", document.read_text(), flags=re.MULTILINE)):
        place = document.parent / target if target else document
        if "://" not in target and not (place.exists() and (not anchor or anchor in anchors(place.resolve()))):
            yield f"{target}#{anchor}"


def test_the_readme_is_read_within_a_minute() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert list(wrong_links(document)) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# There, `it` is (1)\n")
    (tmp_path / "a.md").write_text("[a](b.md#there-it-is-1) [b](b.md#elsewhere)\n[c](c.md) [d](#nowhere) [e](https://e)\n")
    assert list(wrong_links(tmp_path / "a.md")) == ["b.md#elsewhere", "c.md#", "#nowhere"]


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.parent.name == "docs"],
                         ids=lambda path: path.name)
def test_every_document_is_in_the_site_s_table(document: Path) -> None:
    assert f": docs/{document.name}\n" in (ROOT / "docs" / "tools" / "mkdocs.yml").read_text()


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_takes_the_examples(tmp_path: Path) -> None:
    """As somebody pastes them: no word is a pattern, and none begins a comment, which a prompt does not know."""
    lines = examples()
    assert len(lines) >= 10
    script = "\n".join(["gpen() { print -r -- $# }", "gpenctl() { gpen $@ }", "make() { gpen $@ }", *lines])
    done = subprocess.run(["zsh", "-f"], input=script, capture_output=True, text=True, timeout=20, check=False,
                          cwd=tmp_path)
    assert (done.stderr, done.returncode, done.stdout.count("\n")) == ("", 0, len(lines))
    assert not [line for line in lines if "#" in line]


@pytest.mark.parametrize("line", [line for line in examples() if line.startswith("gpen ")])
def test_gpen_takes_the_examples(line: str, tmp_path: Path) -> None:
    """With a certificate and a directory that are there."""
    certificate = Authority(tmp_path, "ca").issue("www.example").in_one(tmp_path / "www.pem")
    line = line.replace("/etc/gpen/www.pem", str(certificate)).replace("/run/", f"{tmp_path}/")
    done = subprocess.run(["sh", "-c", f"{sys.executable} {ROOT}/bin/{line.replace('gpen', 'gpen --check', 1)}"],
                          capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("configuration is valid\n", "", 0)


NAMED = re.compile(r"(?<= )(www|mirror|db|node)\d(\.example\.org)?\b")
ABSENT = re.compile("configuration is valid|.*: (can't read '/|.*there is no such program|there is no user|"
                    "conn_max .* needs )")


def test_gpen_takes_the_examples_of_all_documents(capsys: pytest.CaptureFixture[str]) -> None:
    """But for files, users and programs that are not here."""
    lines = [line for document in DOCUMENTS for line in re.findall(
        r"^ {4}(?:\$ )?(gpen -[^-].*)", re.sub(r"\\\n\s*", " ", document.read_text()), re.MULTILINE)]
    assert len(lines) > 30
    for line in lines:
        words = shlex.split(NAMED.sub("10.0.0.9", line), comments=True)
        main(["--check", *(re.sub("^[a-z.]+$", r"/absent/\g<0>", word) if word.endswith(".pem") else word
                          for word in words[1:])])
        told = capsys.readouterr()
        assert [row for row in (told.out + told.err).splitlines() if not ABSENT.match(row)] == [], line


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items()
                                  if not setting.missing and not setting.is_ignored])
def test_each_setting_stands_in_a_chapter(name: str) -> None:
    """By its name, or its option: where it is told when it is wanted, and not only what it does."""
    flag = SETTINGS[name].flag
    way = rf"(?<!\w){name}(?!\w)" + (rf"|(?<![\w-]){flag}(?![\w-])" if flag else "")
    assert any(re.search(way, text) for text in chapters())


@cache
def chapters() -> tuple[str, ...]:
    """The documents that people have written."""
    made = ("REFERENCE.md", "METRICS.md")
    return tuple(path.read_text() for path in DOCUMENTS if path.parent.name == "docs" and path.name not in made)


def test_gpenctl_s_examples_are_commands() -> None:
    """In all documents, with arguments that are right."""
    lines = [line for document in DOCUMENTS
             for line in re.findall(r"^ {4}(?:\$ )?gpenctl \S+ (.*)", document.read_text(), re.MULTILINE)]
    assert len(lines) > 20
    for line in lines:
        assert line.split()[0] in ("watch", "top") or parse_line(line.partition(" && ")[0]) is not None


@pytest.mark.parametrize("name", ["overview.svg", "demo.svg", "demo-galera.svg"])
def test_a_picture_needs_nothing_from_elsewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"url\(\s*[\"']?(?!#)|href=|@import|<script|<foreignObject", text)


@pytest.mark.parametrize("name, words", [
    ("demo.svg", ("killed", "notices nothing", "gpenctl", "explain", "connection refused")),
    ("demo-galera.svg", ("killed", "gpenctl", "gpen-galera status", "0 failed", "0 of them are missing"))])
def test_a_picture_of_a_demo_shows_what_it_is_for(name: str, words: tuple[str, ...]) -> None:
    told = re.sub(r"<[^>]*>", "", (ROOT / "docs" / name).read_text()).replace("&#160;", " ")
    assert [word for word in words if word not in told] == [], "run: make pictures"


# --- the site --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manual", sorted((ROOT / "man").glob("*.1")), ids=lambda path: path.name)
def test_a_manual_becomes_a_page(manual: Path) -> None:
    """With all of its headings and options, and nothing of the language of manuals."""
    markdown = runpy.run_path(str(ROOT / "docs" / "tools" / "pages.py"))["markdown"]
    lines = manual.read_text().splitlines()
    page = "\n".join(markdown(lines))
    assert len(re.findall(r"^## ", page, re.MULTILINE)) == sum(line.startswith(".SH ") for line in lines) > 3
    assert page.count("<br>\n") >= sum(line == ".TP" for line in lines) > 1
    assert not re.search(r"^\.[A-Z]|\\f[BIR]|\\-", page, re.MULTILINE)


# --- the reference ---------------------------------------------------------------------------------------------------


def test_the_committed_reference_is_what_the_tables_say() -> None:
    assert (ROOT / "docs" / "REFERENCE.md").read_text() == page(), "run: make man"


def test_the_reference_has_everything() -> None:
    text = page()
    assert [name for name in COMMANDS if f"### {name}\n" not in text and f"`{name}`" not in text] == []
    lacking = {setting.name for setting in SETTINGS.values() if setting.missing}
    flags = [option.flag for option in OPTIONS if option.setting not in lacking and "Obsolete" not in option.help]
    assert [flag for flag in flags if f"| `{flag}" not in text] == []
