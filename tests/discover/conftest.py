"""A file that lists servers, for gpen-discover."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "servers"
    path.parent.mkdir()
    return path
