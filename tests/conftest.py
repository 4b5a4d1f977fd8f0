"""Fixtures for tests of the running daemon: gpens and servers that end with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates, make_certificates
from tests.harness import LOCAL, Gpen, Server


@pytest.fixture
def servers() -> Iterator[Callable[..., Server]]:
    """Start a server: servers(echo), servers(hold, at="::1")."""
    with ExitStack() as stack:
        yield lambda serve, **options: stack.enter_context(Server(serve, **options))


@pytest.fixture
def gpen(tmp_path: Path, servers: object) -> Iterator[Callable[..., Gpen]]:
    """Start gpen on a free local port: gpen("-r", servers=[a, b]) with servers or their addresses."""
    numbers = count()
    with ExitStack() as stack:

        def start(*options: str, servers: Sequence[Server | str] = (), listen: str = LOCAL, **more: Any) -> Gpen:
            addresses = [server if isinstance(server, str) else server.address for server in servers]
            number = next(numbers)
            name = f"gpen{number}" if number else "gpen"
            return stack.enter_context(Gpen(tmp_path, *options, listen, *addresses, name=name, **more))

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Authorities and certificates, made once for all tests."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing is skipped in CI: what a test needs is installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
