"""The documents as a site: `make site` builds it in build/site/html; any link that leads nowhere is an error.

The pages are copies at the places that they have in the repository, with what they link to beside them, so that a link
is right in both. Man pages become pages too. Needs mkdocs-material.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ROOT / "build" / "site" / "pages"
SOURCES = ("*.md", "docs/*.md", "contrib/**/*.md")
_LINK = re.compile(r"\[([^]]*)\]\(([^)#\s]+)([^)]*)\)")  # its text, its target, and what stands behind that
_STYLE = re.compile(r"\\f([BIR])")


def main() -> int:
    """Make the pages, and the site of them; mkdocs' exit status."""
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    for source in documents():
        text = source.read_text()
        put(source, _LINK.sub(partial(on_site, source), text))
        for target in linked(source, text):
            place = PAGES / target.relative_to(ROOT)
            if target.suffix not in (".md", ".1") and target.is_file() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, place)
    for manual in sorted((ROOT / "man").glob("*.1")):
        put(manual.with_suffix(".1.md"), "\n".join(markdown(manual.read_text().splitlines())) + "\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", "docs/tools/mkdocs.yml"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def documents() -> Iterator[Path]:
    """What becomes a page."""
    for pattern in SOURCES:
        yield from sorted(ROOT.glob(pattern))


def put(source: Path, text: str) -> None:
    """Write a page at the place that its source has in the repository."""
    place = PAGES / source.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def linked(source: Path, text: str) -> Iterator[Path]:
    """The files that a document links to, pictures included."""
    return ((source.parent / target).resolve() for _, target, _ in _LINK.findall(text) if "://" not in target)


def on_site(source: Path, link: re.Match[str]) -> str:
    """A link as the site has it: manuals are pages there, and directories are nothing."""
    text, target, rest = link.groups()
    if (source.parent / target).is_dir():
        return text
    return f"[{text}]({target}.md{rest})" if re.search(r"man/[\w-]+\.1$", target) else link[0]


def markdown(lines: Iterable[str]) -> Iterator[str]:
    """A man page as gpen's writers make it (roff.py), in Markdown."""
    is_copied = is_term = False
    for line in lines:
        macro, _, rest = line.partition(" ")
        if macro == ".TH":
            yield f"# {plain(rest.split(' ')[0]).lower()}(1)"
        elif macro == ".SH":
            yield f"\n## {heading(plain(rest).strip(chr(34)))}\n"
        elif macro == ".SS":
            yield f"\n### {plain(rest).strip(chr(34))}\n"
        elif macro in (".nf", ".fi"):
            is_copied = macro == ".nf"
            yield ""
        elif macro in (".PP", ".TP"):
            is_term = macro == ".TP"
            yield ""
        elif macro == ".br":
            yield "<br>"
        elif line.startswith(("." + chr(92) + '"', ".RS", ".RE")):
            continue
        elif is_copied:
            yield f"    {plain(line)}"
        elif is_term:
            is_term = False
            yield f"{styled(line)}<br>"
        else:
            yield styled(line)


def heading(text: str) -> str:
    """A heading in capitals as it is written elsewhere."""
    words = [word if word in ("UDP", "TLS", "HTTP") else word.lower() for word in text.split()]
    return " ".join([words[0] if words[0].isupper() else words[0].capitalize(), *words[1:]])


def plain(text: str) -> str:
    """A line of a man page without its language."""
    return _STYLE.sub("", text).replace(r"\&", "").replace(r"\-", "-").replace(r"\e", "\\")


def styled(text: str) -> str:
    """A line as HTML within Markdown: bold and italic are code and emphasis, all else is as it is."""
    parts = _STYLE.split(text)
    told = as_it_is(parts[0])
    for style, part in zip(parts[1::2], parts[2::2], strict=True):
        shown = as_it_is(part)
        told += {"B": f"<b>{shown}</b>", "I": f"<i>{shown}</i>", "R": shown}[style] if part else ""
    return told


def as_it_is(text: str) -> str:
    """What Markdown and HTML shall read as text."""
    return re.sub(r"[&<>\\`*_\[\]#|{}]", lambda match: f"&#{ord(match[0])};", plain(text))


if __name__ == "__main__":
    sys.exit(main())
