"""freebind: gpen listens where its machine has no address yet, and serves when it comes."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import datagrams
from tests.daemon.crew import workers
from tests.datagrams import DatagramServer
from tests.harness import Gpen, Server, connect, naming, needs_root, run_gpen, wait_until
from tests.listeners import own
from tests.networks import Machine
from tests.replacing import replacing

pytestmark = needs_root

Start = Callable[..., Gpen]
FREE = ("-O", "freebind")
HOSTS = ("192.0.2.7", "2001:db8::7")
REMEDY = "this machine does not have that address; if it will get it later (keepalived), set freebind"

each_host = pytest.mark.parametrize("host", HOSTS, ids=["IPv4", "IPv6"])


@pytest.fixture
def machine() -> Iterator[Machine]:
    """One that has no address but its loopback ones."""
    with Machine() as made:
        yield made


@pytest.fixture
def server(machine: Machine) -> Iterator[Server]:
    with ExitStack() as stack:
        yield stack.enter_context(machine.inside(lambda: Server(naming("a"))))


def place(host: str, port: int = 80) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def comes(machine: Machine, host: str) -> None:
    """The machine gets the address, as from keepalived."""
    machine.run(f"ip address add {host} dev lo")


def told(machine: Machine, host: str, port: int = 80) -> bytes:
    with machine.entered(), connect((host, port)) as sock:
        return sock.recv(10)


def is_there(machine: Machine, host: str) -> bool:
    with machine.entered():
        try:
            connect((host, 80), seconds=1).close()
        except OSError:
            return False
    return True


@each_host
@pytest.mark.parametrize("options", [(), workers(2)], ids=["one process", "workers"])
def test_bound_before_and_served_after(gpen: Start, machine: Machine, server: Server, host: str,
                                       options: tuple[str, ...]) -> None:
    balancer = gpen(*FREE, *options, servers=[server], listen=place(host), wrapper=machine.wrapper)
    assert not is_there(machine, host)
    comes(machine, host)
    assert told(machine, host) == b"a"
    machine.run(f"ip address del {host} dev lo")
    assert not is_there(machine, host)
    comes(machine, host)
    assert told(machine, host) == b"a"
    balancer.wait_idle()


@each_host
def test_without_it_the_error_names_the_remedy(machine: Machine, tmp_path: Path, host: str) -> None:
    for options in ((), ("-U",)):
        done = run_gpen("-f", *options, place(host), "127.0.0.1:1", directory=tmp_path, wrapper=machine.wrapper)
        assert done.returncode == 1 and REMEDY in done.stderr and done.stderr.count("\n") == 1
    assert run_gpen("--check", *FREE, place(host), "127.0.0.1:1", directory=tmp_path).returncode == 0


@each_host
def test_flows(gpen: Start, machine: Machine, host: str) -> None:
    with machine.inside(lambda: DatagramServer(datagrams.naming("a"))) as there:
        gpen(*FREE, "-U", servers=[there.address], listen=place(host), wrapper=machine.wrapper)
        comes(machine, host)
        with machine.entered():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(20)
                sock.connect((host, 80))
                sock.send(b"who?")
                assert sock.recv(10) == b"a"


def test_one_listener_and_not_the_other(gpen: Start, machine: Machine, server: Server) -> None:
    """It is of a listener like any other setting of sockets; `write` keeps it, and so does a gpen that replaces it."""
    old = gpen(*own("vip", "freebind", at="192.0.2.7:80"), servers=[server], wrapper=machine.wrapper)
    assert REMEDY in old.ctl("listener other listen 192.0.2.8:80")
    old.ctl("write saved")
    assert "listener vip freebind\n" in (old.directory / "saved").read_text()
    with replacing(old, wrapper=machine.wrapper) as new:
        comes(machine, "192.0.2.7")
        assert told(machine, "192.0.2.7") == b"a"
        assert REMEDY in new.ctl("listener vip listen 192.0.2.9:81", "listener other listen 192.0.2.8:80")
        assert new.ctl("listener vip listen 192.0.2.9:80") == "192.0.2.9:80\n"
        comes(machine, "192.0.2.9")
        assert told(machine, "192.0.2.9") == b"a"
        old.process.wait(20)


def test_a_reload_moves_a_listener_where_nothing_is_yet(gpen: Start, machine: Machine, server: Server,
                                                        tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text(f"server 0 address {server.address}\nlistener vip listen 127.0.0.1:80\n")
    balancer = gpen("-F", str(file), servers=[server], wrapper=machine.wrapper)
    text = file.read_text().replace("127.0.0.1:80", "192.0.2.7:80")
    file.write_text(text)
    assert REMEDY in balancer.ctl("reload") and told(machine, "127.0.0.1") == b"a"
    file.write_text(f"{text}listener vip freebind\n")
    balancer.signal(signal.SIGHUP)
    wait_until(lambda: balancer.ctl("listener vip listen") == "192.0.2.7:80\n")
    comes(machine, "192.0.2.7")
    assert told(machine, "192.0.2.7") == b"a"


def test_the_sockets_of_control_and_metrics(machine: Machine, tmp_path: Path) -> None:
    """They are not of a listener: what is said without a name is for them."""
    done = run_gpen("-f", "-O", "metrics 192.0.2.7:9180", "127.0.0.1:0", "127.0.0.1:1", directory=tmp_path,
                    wrapper=machine.wrapper)
    assert done.returncode == 1 and REMEDY in done.stderr
    with Gpen(tmp_path, *FREE, "-O", "metrics 192.0.2.7:9180", "127.0.0.1:0", "127.0.0.1:1", wrapper=machine.wrapper):
        comes(machine, "192.0.2.7")
        with machine.entered(), connect(("192.0.2.7", 9180)) as sock:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
