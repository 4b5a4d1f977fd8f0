"""A gpen that runs as a service is replaced: systemd's sockets pass on, and it hears who the service is from now on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import has_ended
from tests.daemon.test_activation import Bind, bind, passing, place
from tests.daemon.test_notify import WATCHED, Manager, Message, at_path
from tests.harness import PATIENCE, Gpen, Server, connect, echo, wait_until

__all__ = ["at_path", "bind"]

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def server(servers: Serve) -> Server:
    return servers(echo)


@contextlib.contextmanager
def upgraded(balancer: Gpen) -> Iterator[int]:
    """The pid of the one that has taken the place of a gpen."""
    answer = balancer.ctl("upgrade")
    assert answer.startswith("replaced by pid "), answer
    pid = int(answer.split()[-1])
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid))


def hear_signs(manager: Manager, pid: int, count: int) -> list[tuple[int, Message]]:
    """Who has said what until this process has given so many signs of life."""
    heard: list[tuple[int, Message]] = []
    while heard.count((pid, {"WATCHDOG": "1"})) < count:
        message = manager.hear()
        heard.append((manager.speaker, message))
    return heard


def test_the_manager_hears_who_it_is(gpen: Start, server: Server, at_path: Manager) -> None:
    """And nothing more of the old one, whose end would be taken for the service's."""
    balancer = gpen(servers=[server], wrapper=at_path.wrapper(WATCHED))
    with balancer.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        hear_signs(at_path, balancer.pid, 1)
        with upgraded(balancer) as pid:
            heard = hear_signs(at_path, pid, 4)
            assert [message["MAINPID"] for speaker, message in heard if "READY" in message] == [str(pid)]
            farewell = heard.index((balancer.pid, {"MAINPID": str(pid)}))
            assert {speaker for speaker, _ in heard[farewell + 1:]} == {pid}
            client.sendall(b"y")
            assert client.recv(1) == b"y"
            client.close()
            assert balancer.process.wait(PATIENCE) == 0
            assert {speaker for speaker, _ in hear_signs(at_path, pid, 2)} == {pid}
    assert "STOPPING" in at_path.hear_of("STOPPING") and at_path.speaker == pid


def test_one_that_can_not_take_the_place_is_not_heard(gpen: Start, server: Server, tmp_path: Path,
                                                      at_path: Manager) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text("")
    balancer = gpen("-F", str(file), servers=[server], wrapper=at_path.wrapper(WATCHED))
    file.write_text("timeout never\n")
    assert balancer.ctl("upgrade").startswith("error: ")
    assert {speaker for speaker, _ in hear_signs(at_path, balancer.pid, 3)} == {balancer.pid}


def test_the_sockets_of_systemd_pass_on(gpen: Start, server: Server, bind: Bind, tmp_path: Path) -> None:
    """And the file of one is not the new gpen's to remove either."""
    tcp, path = bind(), tmp_path / "s"
    balancer = gpen("-O", f"listener file listen {path}", listen=place(tcp), servers=[server],
                    **passing(tcp, bind(str(path)), names="gpen.socket:file"))
    with upgraded(balancer):
        for address in (tcp.getsockname(), str(path)):
            with connect(address) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        assert balancer.process.wait(PATIENCE) == 0
        assert path.exists()
    assert path.exists()


def test_a_port_at_all_addresses_as_systemd_binds_it(gpen: Start, server: Server, bind: Bind) -> None:
    sock = bind("::")
    port = sock.getsockname()[1]
    balancer = gpen(listen=str(port), servers=[server], **passing(sock))
    with upgraded(balancer):
        assert balancer.process.wait(PATIENCE) == 0
        with connect(("::1", port)) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_the_file_that_gpen_has_made_passes_on(gpen: Start, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "s"
    balancer = gpen(listen=str(path), servers=[server])
    with upgraded(balancer):
        assert balancer.process.wait(PATIENCE) == 0
        assert path.exists()
    assert not path.exists()
