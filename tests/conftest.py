"""Fixtures for tests of the running daemon: gpens and servers that end with the test."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from gpen.core import CORE
from tests import preload
from tests.built import complaint
from tests.certificates import Certificates, make_certificates
from tests.harness import LOCAL, ROOT, WORKERS, Gpen, Server, family_of

OURS = ("GPEN_PURE", "GPEN_TEST_WORKERS")  # which the tests heed
OTHERS = ("GPEN", "AVAILABLE_WHEN_", "MYSQL_", "MARIADB_", "NO_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")

# How long an example takes says nothing on a busy machine. CI takes the same examples each time, `make campaign` more
# than a hundred times as many.
hypothesis.settings.register_profile(
    "test", max_examples=45, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ)
hypothesis.settings.register_profile("campaign", hypothesis.settings.get_profile("test"), max_examples=10_000,
                                     derandomize=False)
hypothesis.settings.load_profile("test")


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
            if listen.startswith("["):
                family_of("::")
            number = next(numbers)
            name = f"gpen{number}" if number else "gpen"
            return stack.enter_context(Gpen(tmp_path, *options, listen, *addresses, name=name, **more))

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Authorities and certificates, made once for all tests."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def pytest_configure() -> None:
    """Tests begin from a known state, whatever started them. Behind a shell's `&` Ctrl-C is ignored, behind nohup a
    hangup, and programs that tests start would inherit that; curl would go by a proxy, others by a user's settings."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith(OTHERS)]:
        if name not in OURS:
            del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"
    preload.usual.begin()
    if problem := complaint(ROOT):
        raise pytest.UsageError(problem)


def pytest_report_header() -> str:
    return f"gpen: {CORE.flavour}, workers {WORKERS}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With workers, tests that look into the one process that gpen is without are left out."""
    if WORKERS:
        left_out = [item for item in items if item.get_closest_marker("one_process")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: more than there are processors, for most tests wait most of their time."""
    return min(4 * len(os.sched_getaffinity(0)), 16)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who runs what, where tests run side by side."""
    from tests.scheduling import Scheduling

    return Scheduling(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing is skipped in CI: what a test needs is installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    preload.usual.end()
