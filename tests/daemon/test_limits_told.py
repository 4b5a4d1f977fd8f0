"""What this machine allows less of than conn_max promises is told at the start, and by --check, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import WORKERS, Gpen, free_port, needs_root, run_gpen, wait_until
from tests.listeners import own
from tests.networks import Machine

Start = Callable[..., Gpen]
NR_OPEN = int(Path("/proc/sys/fs/nr_open").read_text())
LOW, HIGH = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())


def told(*options: str, wrapper: tuple[str, ...] = (), servers: tuple[str, ...] = ("127.0.0.1:9",)) -> list[str]:
    """The warnings of --check, which says that all is valid."""
    done = run_gpen("--check", *options, f"127.0.0.1:{free_port()}", *servers, wrapper=wrapper)
    assert (done.returncode, done.stdout) == (0, "configuration is valid\n")
    return [line.partition(": ")[2] for line in done.stderr.splitlines()]


def test_nothing_by_default() -> None:
    assert told() == []


@needs_root
def test_descriptors() -> None:
    """Of a user that may not raise the limit; each worker has its own."""
    bare = ("setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-all", "prlimit", "--nofile=100:300")
    assert told("-x", "1000", wrapper=bare) == [
        f"conn_max 1000 needs 2064 descriptors, the limit is 300: {118 * max(WORKERS, 1)} sessions at a time, the rest "
        "waits; raise it with ulimit -n or LimitNOFILE"]
    assert told("-x", "118", wrapper=bare) == []


@needs_root
def test_descriptors_that_nobody_may_have(gpen: Start) -> None:
    options = ("-x", str(NR_OPEN), "-O", f"source 127.0.1.0-127.0.1.{NR_OPEN // (HIGH - LOW) + 1}")
    line, = told(*options)
    wanted = 2 * NR_OPEN + 64
    assert line.startswith(f"conn_max {NR_OPEN} needs {wanted} descriptors, the limit is ")
    assert line.endswith(f"; raise it with ulimit -n or LimitNOFILE, once 'sysctl fs.nr_open={wanted}' allows that")
    balancer = gpen(*options, servers=["127.0.0.1:9"])
    wait_until(lambda: line in balancer.stderr)


@pytest.mark.parametrize(("options", "servers", "room"), [
    (("-x", "500"), ("127.0.0.1:9",), 100), (("-x", "500"), ("127.0.0.1:9", "[::1]:9", "127.0.0.1:9"), 200),
    (("-x", "500", "-O", "source 127.0.0.2,::1"), ("127.0.0.1:9",), 100),
    (("-x", "500", "-U", "-O", "source 127.0.0.2-127.0.0.4"), ("127.0.0.1:9",), 300),
    (("-x", "500", "-O", "source 127.0.0.2-127.0.0.6"), ("127.0.0.1:9",), 0),
    (("-x", "500", "-O", "conn_max_total 100"), ("127.0.0.1:9",), 0),
    (("-x", "500", "-O", "dsr_if lan", "-O", "dsr_ip 192.0.2.100"), ("192.0.2.1",), 0),
    (("-x", "500"), ("127.0.0.1:9", "/run/app.sock"), 0)])
@needs_root
def test_ports(options: tuple[str, ...], servers: tuple[str, ...], room: int) -> None:
    with Machine() as machine:
        machine.run("sysctl -qw", "net.ipv4.ip_local_port_range=40000 40099")
        machine.run("ip link add lan type bridge")
        lines = [line for line in told(*options, wrapper=machine.wrapper, servers=servers) if "ports" in line]
        many = "1 server" if len(servers) == 1 else f"{len(servers)} servers"
        assert lines == ([] if not room else [
            f"conn_max 500 needs more ports than there are: 40000 to 40099 allow {room} connections to {many}; let "
            f"source have more addresses, or widen net.ipv4.ip_local_port_range with sysctl"])


@needs_root
def test_ports_of_several_listeners() -> None:
    """With the same servers and source they have the same ports; with another source, and over UDP, others."""
    with Machine() as machine:
        machine.run("sysctl -qw", "net.ipv4.ip_local_port_range=40000 40099")
        others = (*own("udp", "udp"), *own("b"), *own("elsewhere", "source 127.0.0.2"))
        lines = [line for line in told("-x", "60", *others, wrapper=machine.wrapper) if "ports" in line]
        assert [line.partition(" than")[0] for line in lines] == [
            "conn_max 120 (of 2 listeners together) needs more ports"]


@needs_root
def test_ports_at_the_start_and_of_a_listener(gpen: Start) -> None:
    with Machine() as machine:
        machine.run("sysctl -qw", "net.ipv4.ip_local_port_range=40000 40999")
        balancer = gpen("-O", "listener b listen 127.0.0.1:81", "-O", "listener b conn_max 2000",
                        servers=["127.0.0.1:9"], listen="127.0.0.1:80", wrapper=machine.wrapper)
        wait_until(lambda: "listens on" in balancer.stderr)
        line, = (line for line in balancer.stderr.splitlines() if "ports" in line)
        assert "listener b: conn_max 2000 needs more ports than there are: 40000 to 40999 allow 1000 conn" in line
        balancer.ctl("conn_max 1001", "listener b conn_max 5")
        wait_until(lambda: ": conn_max 1001 needs more ports" in balancer.stderr)
