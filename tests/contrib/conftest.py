"""Two configured instances, a and b, each with a server that greets by the instance's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contrib.balancers import Pair, two_balancers
from tests.contrib.service import Service, greeter


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    with greeter("hello from a") as a, greeter("hello from b") as b:
        for name, port in (("a", a), ("b", b)):
            server = f"server 0 address 127.0.0.1 port {port}"
            service.configure(name, "listen 127.0.0.1:0", "timeout 3", server)
        yield service
        service("stop", GPEN_STOP_SECONDS="2")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two balancers that share an address, for all tests of a file: each leaves them well."""
    with two_balancers(tmp_path_factory.mktemp("pair")) as made:
        yield made
