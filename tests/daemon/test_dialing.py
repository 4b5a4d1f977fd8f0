"""What happens to a session whose connect is under way: its client leaves, it is closed, its server goes, gpen ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.harness import Gpen, Server, SilentServer, naming, read_all, reset, wait_until

Start = Callable[..., Gpen]
Serve = Callable[..., Server]


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    with SilentServer() as server:
        yield server


@pytest.fixture
def balancer(gpen: Start, silent: SilentServer) -> Gpen:
    """Connects take so long that no test sees their end."""
    return gpen("-t", "50", "-l", "gpen.log", servers=[silent.address])


def wait_for_dial(balancer: Gpen) -> None:
    wait_until(lambda: [row["state"] for row in balancer.json("sessions")] == ["connecting"])
    assert balancer.server(0)["sessions"] == 1


@pytest.mark.parametrize(("command", "ending"), [
    ("close 0", "killed"), ("close server 0", "no-server"), ("server 0 state maint", "no-server"),
])
def test_closed(balancer: Gpen, command: str, ending: str) -> None:
    """A client that is being connected to a server that is closed would get another one, but there is none."""
    descriptors = balancer.fds()
    with balancer.connect() as sock:
        wait_for_dial(balancer)
        assert not balancer.ctl(command).startswith("error")
        assert read_all(sock) == b""
    balancer.wait_idle()
    assert balancer.log.split()[-1] == ending
    assert wait_until(lambda: balancer.fds() == descriptors)
    assert balancer.server(0)["failures"] == 0


def test_gpen_ends(balancer: Gpen) -> None:
    with balancer.connect() as sock:
        wait_for_dial(balancer)
        assert balancer.stop() == 0
        assert read_all(sock) == b""
    assert balancer.log.split()[-1] == "shutdown"


def test_the_server_is_deleted(gpen: Start, silent: SilentServer, servers: Serve) -> None:
    """The client is given to the next server at once."""
    balancer = gpen("-t", "50", servers=[silent.address, servers(naming("b"))])
    with balancer.connect() as sock:
        wait_for_dial(balancer)
        assert balancer.ctl("no server 0") == ""
        assert sock.recv(1) == b"b"
    balancer.wait_idle()
    assert [row["number"] for row in balancer.json("servers")] == [1]


def test_the_client_leaves(gpen: Start, silent: SilentServer, servers: Serve) -> None:
    balancer = gpen("-t", "1", "-l", "gpen.log", servers=[silent.address, servers(naming("b"))])
    sock = balancer.connect()
    wait_for_dial(balancer)
    reset(sock)
    balancer.wait_idle()
    assert balancer.log.split()[-1] == "client-reset"


def test_a_trial_that_is_closed_leaves_the_next_one_free(gpen: Start, silent: SilentServer, servers: Serve) -> None:
    balancer = gpen("-r", "-t", "0.5", "-b", "0.5", servers=[silent.address, servers(naming("b"))])
    assert balancer.ask() == b"b"
    wait_until(lambda: balancer.server(0)["health"] == "trial")
    balancer.ctl("timeout 50")
    for _ in range(2):
        with balancer.connect() as sock:
            wait_for_dial(balancer)
            number = balancer.json("sessions")[0]["id"]
            balancer.ctl(f"close {number}")
            assert read_all(sock) == b""
        balancer.wait_idle()
        assert balancer.ask() == b"b"


@pytest.mark.parametrize("what", ["address", "port"])
def test_the_server_moves(gpen: Start, silent: SilentServer, servers: Serve, what: str) -> None:
    """The client that was being connected gets the new place at once, of which the old one says nothing."""
    at = "127.0.0.7" if what == "address" else "127.0.0.1"
    new = servers(naming("new"), at=at, port=silent.port if what == "address" else 0)
    balancer = gpen("-t", "60", servers=[silent.address])
    with balancer.connect() as sock:
        wait_for_dial(balancer)
        assert balancer.ctl(f"server 0 {what} {at if what == 'address' else new.port}") == ""
        assert sock.recv(3) == b"new"
    balancer.wait_idle()
    row = balancer.server(0)
    assert (row["health"], row["failures"], row["blacklisted"]) == ("up", 0, 0)
    assert balancer.ask() == b"new"
