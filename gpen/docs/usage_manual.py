"""Man pages of programs that have commands, made from their usage texts: gpen-galera, gpen-discover."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gpen.docs import roff

_HEADING = re.compile(r"(Usage|Options|Examples?|Exit status):(.*)")


def synopsis(usages: Iterable[str]) -> str:
    """How the commands are called, a line each."""
    lines = [line for usage in usages for line in parts_of(usage)["Usage"]]
    return "\n.br\n".join(roff.escape(line.strip()) for line in lines)


def options_of(usage: str) -> list[tuple[str, str]]:
    """The options of a usage text, each with its help."""
    found: list[tuple[str, str]] = []
    for line in parts_of(usage)["Options"]:
        option = re.match(r"  (-.*?)(?:   *(\S.*))?$", line)
        if option:
            found.append((option[1], option[2] or ""))
        else:
            found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}".strip()
    return found


def parts_of(usage: str) -> dict[str, list[str]]:
    """The lines of a usage text by their heading; those before the first are called About, and those that follow a
    paragraph of options Notes."""
    parts: dict[str, list[str]] = {"About": [], "Notes": []}
    name = "About"
    for line in usage.splitlines():
        heading = _HEADING.match(line)
        if heading:
            name = heading[1].rstrip("s") if heading[1].startswith("Example") else heading[1]
            parts[name] = [heading[2].strip()] if heading[2].strip() else []
        elif line and not line.startswith(" ") and name in ("Usage", "Options"):
            parts["Notes"].append(line)
        elif line:
            parts[name].append(line)
    return parts


def command_of(usage: str) -> Iterator[str]:
    """What a page says of a command."""
    parts = parts_of(usage)
    yield from roff.paragraphs(" ".join(parts["About"] + parts["Notes"]))
    for option, text in options_of("Options:\n" + "\n".join(parts["Options"])):
        yield from roff.term(option, text)
    if "Exit status" in parts:
        yield from (".PP", roff.escape("Exit status: " + " ".join(parts["Exit status"])))
    if "Example" in parts:
        yield from (".PP", "Example:", *roff.as_it_is(map(str.strip, parts["Example"])))
