"""Scripts of the control language, read as a whole."""

from __future__ import annotations

from collections.abc import Iterable

from gpen.control.script import Call, Errors, Step, read_lines


def all_of(steps: Iterable[Step]) -> list[Call]:
    """The commands of a script. Raises ScriptErrors, with all that is wrong."""
    calls, errors = [], Errors()
    for step in steps:
        if isinstance(step, Call):
            calls.append(step)
        else:
            errors.add(step)
    errors.raise_all()
    return calls


def parse_lines(lines: Iterable[str], name: str) -> list[Call]:
    """Read a script of configuring commands; ``include`` is followed. Raises ScriptErrors."""
    return all_of(read_lines(lines, name))
