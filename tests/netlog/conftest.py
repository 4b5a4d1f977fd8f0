"""A gpenlogd for each test that wants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.netlog.programs import Collector


@pytest.fixture
def gpenlogd(tmp_path: Path) -> Iterator[Callable[..., Collector]]:
    """Start gpenlogd on a free local port: gpenlogd("-n", "2")."""
    with ExitStack() as stack:

        def start(*options: str, **more: Any) -> Collector:
            return stack.enter_context(Collector(tmp_path, *options, **more))

        yield start
