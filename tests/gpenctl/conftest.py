"""A daemon to talk to, and gpenctl in a pipe or on a terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpenctl.daemon import GPENCTL, Daemon, Run, Terminal, unix_daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = unix_daemon(tmp_path / "gpen.ctl")
    yield running
    running.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Without the user's settings, and with a history of its own."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("NO_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")
    }
    return kept | {"XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def gpenctl(environment: dict[str, str]) -> Run:
    """Run gpenctl in a pipe: gpenctl("TARGET", "servers")."""

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*GPENCTL, *words],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            timeout=30,
            check=False,
        )

    return run


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Run gpenctl on a terminal: terminal("TARGET", "servers", columns=80)."""
    opened: list[Terminal] = []

    def open_terminal(*words: str, **more: Any) -> Terminal:
        opened.append(Terminal(list(words), environment, **more))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()
