"""Machines that are gone without a word, cut off in networks of the test's own: gpen notices, and ends the session."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.harness import Gpen, Server, connect, free_port, hold, needs_root, sending, wait_until
from tests.networks import FAR, NEAR, Machine, two_machines

Start = Callable[..., Gpen]
QUICK = ("-O", "keepalive 1 1 2")
NEVER = ("-O", "no keepalive")

pytestmark = needs_root


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as pair:
        yield pair


@pytest.fixture
def far_server(machines: tuple[Machine, Machine]) -> Iterator[Server]:
    """A server on the other machine that says "s" and reads on."""
    with machines[1].entered():
        server = Server(lambda sock: (sock.sendall(b"s"), hold(sock))[1], at=FAR)
    with server:
        yield server


def wait_ending(balancer: Gpen, ending: str) -> None:
    wait_until(lambda: balancer.log.endswith(f" {ending}\n"), 15, f"{ending} in the log")
    balancer.wait_idle()


@pytest.mark.parametrize("is_sent_to", [False, True])
def test_a_client_that_is_gone(gpen: Start, machines: tuple[Machine, Machine], is_sent_to: bool) -> None:
    """Idle, it is asked and does not answer; while bytes are on their way to it, user_timeout says how long to wait."""
    near, far = machines
    speak, left = threading.Event(), threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"s")
        if is_sent_to:
            speak.wait(20)
            sock.sendall(bytes(100_000))
        hold(sock)
        left.set()

    with near.entered():
        server = Server(serve)
    with server:
        balancer = gpen("-l", "gpen.log", *(("-O", "user_timeout 2") if is_sent_to else QUICK), servers=[server],
                        listen=f"{NEAR}:{free_port()}", wrapper=near.wrapper)
        with far.entered(), connect(balancer.address) as client:
            assert client.recv(1) == b"s"
            far.cut()
            speak.set()
            wait_ending(balancer, "client-reset")
            assert left.wait(20)


@pytest.mark.parametrize("is_sent_to", [False, True])
def test_a_server_that_is_gone(gpen: Start, machines: tuple[Machine, Machine], far_server: Server,
                               is_sent_to: bool) -> None:
    """Its place is free, and the client, who is well, is told."""
    near, far = machines
    balancer = gpen("-l", "gpen.log", *(("-O", "user_timeout 2") if is_sent_to else QUICK),
                    servers=[f"{far_server.address}:1"], listen=f"127.0.0.1:{free_port()}", wrapper=near.wrapper)
    with near.entered(), balancer.connect() as client:
        assert client.recv(1) == b"s"
        far.cut()
        if is_sent_to:
            client.sendall(b"unacknowledged")
        wait_until(lambda: not balancer.server(0)["sessions"], 15)
        assert client.recv(1) == b""
        wait_ending(balancer, "server-reset")


def test_an_idler_whose_server_is_gone(gpen: Start, machines: tuple[Machine, Machine], far_server: Server) -> None:
    near, far = machines
    balancer = gpen(*QUICK, "-t", "1", "-O", "idlers 1", servers=[far_server], listen=f"127.0.0.1:{free_port()}",
                    wrapper=near.wrapper)
    wait_until(lambda: balancer.ctl("idlers") == "Idlers: 1/1\n")
    far.cut()
    wait_until(lambda: balancer.server(0)["health"] == "down")


def test_without_keepalive_a_machine_may_come_back(gpen: Start, machines: tuple[Machine, Machine],
                                                   far_server: Server) -> None:
    """Nobody is asked, so nobody is found to be gone, however idle."""
    near, far = machines
    balancer = gpen(*NEVER, servers=[far_server], listen=f"127.0.0.1:{free_port()}", wrapper=near.wrapper)
    with near.entered(), balancer.connect() as client:
        assert client.recv(1) == b"s"
        far.cut()
        wait_until(lambda: balancer.json("sessions")[0]["idle"] > 5)
        far.run("ip link set cable up")
        client.sendall(b"x")
        assert [row["state"] for row in balancer.json("sessions")] == ["open"]
        wait_until(lambda: balancer.server(0)["sx"] == 1)
    balancer.wait_idle()


def test_user_timeout_cuts_whoever_takes_nothing(gpen: Start) -> None:
    """The client's machine is there and answers, but its program does not read what waits for it."""
    with Server(sending(bytes(32 << 20))) as server:
        balancer = gpen("-l", "gpen.log", "-O", "user_timeout 1", servers=[server])
        with balancer.connect():
            wait_ending(balancer, "client-reset")
