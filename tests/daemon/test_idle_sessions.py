"""What a session takes that does nothing: memory is what limits how many there may be."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from gpen.core import COMPILED, CORE
from tests.bench.measure import own_kb
from tests.harness import Gpen, address_of, connect, wait_until

Start = Callable[..., Gpen]

IDLE = 4_000
WARM = 200
MOST_KB = 1.0 if CORE.flavour == COMPILED else 2.0


class Silent:
    """A server that says a byte to each of its clients, and no more; it has no thread for each."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = address_of(self._listener)
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Silent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.leave()

    def _serve(self) -> None:
        with suppress(OSError):  # it is shut down
            while True:
                self._clients.append(self._listener.accept()[0])
                self._clients[-1].sendall(b"A")

    def leave(self) -> None:
        """Close all connections."""
        while self._clients:
            self._clients.pop().close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as this test and its gpen may have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits[1] > 2 * IDLE + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def idle(balancer: Gpen, count: int, stack: ExitStack) -> None:
    """So many clients who have got their byte, and say nothing."""
    address = balancer.address
    for _ in range(count):
        assert stack.enter_context(connect(address)).recv(1) == b"A"
    wait_until(lambda: balancer.server(0)["sessions"] == count, what=f"{count} sessions")


@pytest.mark.one_process
def test_an_idle_session_is_small(gpen: Start, many_descriptors: None) -> None:
    """So many KB, of memory that is its own, when gpen has been used a little before."""
    with Silent() as server:
        balancer = gpen("-x", str(IDLE + 10), servers=[server.address], is_executed=True)
        with ExitStack() as stack:
            idle(balancer, WARM, stack)
        server.leave()
        balancer.wait_idle()
        before = own_kb(balancer.pid)
        with ExitStack() as stack:
            idle(balancer, IDLE, stack)
            size = (own_kb(balancer.pid) - before) / IDLE
    print(f"{size:.2f} KB")
    assert size <= MOST_KB
