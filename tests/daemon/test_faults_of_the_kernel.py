"""What the kernel refuses, at any call of the path of a session: it costs no more than it must, and all goes on when
that is over. The calls are those of the C library, whichever of gpen's two flavours makes them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import LOCAL, ROOT, Gpen, Server, connect, echo, naming, wait_until
from tests.wire.http_peers import read_exactly

Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        pytest.skip("there is no C compiler")
    made = tmp_path_factory.mktemp("library") / "kernel_faults.so"
    source = ROOT / "tests" / "kernel_faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", made, source, "-ldl"], check=True, timeout=100)
    return made


class Refused:
    """A gpen whose kernel refuses what it is told to."""

    def __init__(self, directory: Path, library: Path, *arguments: str) -> None:
        self._failing, self._counted = directory / "failing", directory / "counted"
        self.gpen = Gpen(directory, *arguments, wrapper=(
            "env", f"LD_PRELOAD={library}", f"FAILING={self._failing}", f"COUNTED={self._counted}"))

    @contextmanager
    def refusing(self, call: str, error: int) -> Iterator[None]:
        self._counted.write_text("")
        before = self._failing.with_suffix(".new")
        before.write_text(f"{call} {error}")
        before.rename(self._failing)
        try:
            yield
        finally:
            self._failing.unlink()

    def has_refused(self, times: int) -> None:
        wait_until(lambda: len(self._counted.read_text()) >= times, what=f"{times} refusals")


@pytest.fixture
def refused(tmp_path: Path, library: Path) -> Iterator[Callable[..., Refused]]:
    with ExitStack() as stack:

        def start(*arguments: str) -> Refused:
            made = Refused(tmp_path, library, *arguments)
            stack.callback(lambda: print(made.gpen.stderr))
            stack.callback(made.gpen.stop)
            return made

        yield start


def is_echoed(sock: object) -> bool:
    sock.sendall(b"hello")  # type: ignore[attr-defined]
    return read_exactly(sock, 5) == b"hello"  # type: ignore[arg-type]


REFUSALS = [(call, error) for call, errors in {
    "epoll_ctl": (errno.ENOSPC, errno.ENOMEM, errno.EBADF),
    "epoll_wait": (errno.ENOMEM, errno.EINTR, errno.EBADF),
    "accept4": (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EPERM),
    "socket": (errno.EMFILE, errno.ENOMEM, errno.EAFNOSUPPORT),
    "connect": (errno.EADDRNOTAVAIL, errno.EACCES, errno.EAGAIN, errno.ECONNREFUSED),
    "shutdown": (errno.ENOTCONN, errno.ENOBUFS),
    "recv": (errno.ENOMEM, errno.ECONNRESET, errno.EIO),
    "send": (errno.ENOBUFS, errno.EPIPE, errno.EIO),
}.items() for error in errors]


@pytest.mark.one_process
@pytest.mark.parametrize(("call", "error"), REFUSALS,
                         ids=[f"{call}-{errno.errorcode[error]}" for call, error in REFUSALS])
def test_what_is_refused_costs_no_more_than_it_must(refused: Callable[..., Refused], servers: Serve, call: str,
                                                    error: int) -> None:
    balancer = refused("-b", "0", "-t", "1", LOCAL, servers(echo).address)
    gpen, address = balancer.gpen, balancer.gpen.address
    with connect(address) as bystander:
        assert is_echoed(bystander)
        before = gpen.fds()
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(address)) for _ in range(2)]
            with balancer.refusing(call, error):
                clients += [stack.enter_context(connect(address)) for _ in range(2)]
                for client in clients:
                    with suppress(ConnectionError):
                        client.sendall(b"x")
                    client.close()
                balancer.has_refused(1)
                assert gpen.ctl("pid"), "control clients are served"
        wait_until(lambda: gpen.server(0)["sessions"] == 1, what="the end of the others")
        wait_until(lambda: gpen.fds() == before, what="their descriptors")
        assert is_echoed(bystander)
        with connect(address) as client:
            assert is_echoed(client)
    gpen.wait_idle()
    assert gpen.json("explain 127.0.0.1")["sessions"] == 0
    assert gpen.stderr.count("Traceback") <= 4, "one for each session, at most"
    assert gpen.stop() == 0


@pytest.mark.one_process
def test_what_can_not_be_watched_is_held_against_no_server(refused: Callable[..., Refused], servers: Serve) -> None:
    """fs.epoll.max_user_watches is reached."""
    balancer = refused("-l", "gpen.log", LOCAL, servers(naming("A")).address)
    gpen = balancer.gpen
    address = gpen.address
    with balancer.refusing("epoll_ctl", errno.ENOSPC):
        for _ in range(3):
            with connect(address) as client:
                assert client.recv(1) == b""
    wait_until(lambda: gpen.log.count("\n") == 3, what="a line for each session")
    assert [line.split()[-1] for line in gpen.log.splitlines()] == ["local-error"] * 3
    assert gpen.server(0)["health"] == "up" and gpen.server(0)["failures"] == 0
    assert gpen.ask() == b"A"
    assert "Traceback" not in gpen.stderr
    gpen.wait_idle()
