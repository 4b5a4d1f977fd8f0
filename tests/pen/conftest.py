"""Servers that say their names, and balancers in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.harness import Server, naming
from tests.pen.balancers import GPEN, PEN, Balancer

Start = Callable[..., Balancer]


@pytest.fixture
def farm(servers: Callable[..., Server]) -> dict[str, Server]:
    """Four servers that say their names: A, B, C, and E for emergencies and abuse."""
    return {name: servers(naming(name)) for name in "ABCE"}


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that the user nobody can write to."""
    with TemporaryDirectory(prefix="gpen-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(params=[PEN, GPEN])
def start(request: pytest.FixtureRequest, tmp_path: Path, farm: dict[str, Server]) -> Iterator[Start]:
    """Start the balancer of this test before A and B, or before ``servers``: start("-r")."""
    with ExitStack() as stack:

        def begin(*options: str, servers: list[str] | None = None) -> Balancer:
            addresses = [farm["A"].address, farm["B"].address] if servers is None else servers
            return stack.enter_context(Balancer(request.param, tmp_path, *options, servers=addresses))

        yield begin
