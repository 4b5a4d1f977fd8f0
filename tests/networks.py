"""Machines of a test's own: network namespaces with a cable between two of them, or a switch between several; cables
can be cut."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import pytest

Made = TypeVar("Made")
NEWNET = 0x40000000  # CLONE_NEWNET of unshare(2) and setns(2)
NEAR, FAR = "192.0.2.1", "192.0.2.2"  # RFC 5737


class Machine:
    """A network namespace, which is there until ``close`` and as long as anybody uses it."""

    def __init__(self) -> None:
        home = _here()
        try:
            _call("unshare", NEWNET)
            self._fd = _here()
        finally:
            _call("setns", home, NEWNET)
            os.close(home)
        self.run("ip link set lo up")

    @property
    def path(self) -> str:
        """What programs of iproute2 and util-linux know it by."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Runs a command there."""
        return ("nsenter", f"--net={self.path}")

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, line: str, *words: str) -> None:
        """Run a command there, to its end. ``words``: its last ones, which may hold blanks."""
        subprocess.run([*self.wrapper, *line.split(), *words], check=True, timeout=20)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are of that machine, and stay so."""
        home = _here()
        _call("setns", self._fd, NEWNET)
        try:
            yield
        finally:
            _call("setns", home, NEWNET)
            os.close(home)

    def inside(self, make: Callable[[], Made]) -> Made:
        """What a function makes that is called there."""
        with self.entered():
            return make()

    def refuse_first(self) -> None:
        """Let rules that come count before the table of its own addresses."""
        for line in ("rule add pref 100 lookup local", "rule del pref 0", "-6 rule add pref 100 lookup local",
                     "-6 rule del pref 0"):
            self.run(f"ip {line}")

    def cut(self) -> None:
        """Pull the cable: for all that the others can see, the machine is gone."""
        self.run("ip link set cable down")

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them, at NEAR and at FAR."""
    if os.geteuid() != 0:
        pytest.skip("only root may make networks")
    near, far = Machine(), Machine()
    try:
        near.run(f"ip link add cable type veth peer name cable netns {far.path}")
        for machine, address in ((near, NEAR), (far, FAR)):
            machine.run(f"ip address add {address}/24 dev cable")
            machine.run("ip link set cable up")
        yield near, far
    finally:
        near.close()
        far.close()


class Switch(Machine):
    """What the cables of several machines are plugged into."""

    def __init__(self) -> None:
        super().__init__()
        self._ports: dict[Machine, str] = {}
        self.run("ip link add lan type bridge mcast_snooping 0")
        self.run("ip link set lan up")

    def plug(self, machine: Machine, *addresses: str) -> None:
        """Give a machine a cable to here, with these addresses (ADDRESS/LENGTH)."""
        port = self._ports[machine] = f"port{len(self._ports)}"
        self.run(f"ip link add {port} type veth peer name cable netns {machine.path}")
        self.run(f"ip link set {port} master lan up")
        for address in addresses:
            machine.run(f"ip address add {address} dev cable{' nodad' if ':' in address else ''}")
        machine.run("ip link set cable up")

    def pull(self, machine: Machine) -> None:
        """Pull the machine's cable out."""
        self.run(f"ip link set {self._ports[machine]} down")

    def put_back(self, machine: Machine) -> None:
        """Put it in again."""
        self.run(f"ip link set {self._ports[machine]} up")

    def part(self, *machines: Machine) -> None:
        """Pass nothing between these any more, and everything between one of them and others."""
        self._isolate(machines, "on")

    def join(self, *machines: Machine) -> None:
        """Pass everything again."""
        self._isolate(machines, "off")

    def _isolate(self, machines: Sequence[Machine], word: str) -> None:
        for machine in machines:
            self.run(f"bridge link set dev {self._ports[machine]} isolated {word}")


@contextmanager
def switched(*plugs: Sequence[str]) -> Iterator[tuple[Switch, list[Machine]]]:
    """A switch, and a machine with these addresses for each of ``plugs``."""
    if os.geteuid() != 0:
        pytest.skip("only root may make networks")
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        machines = [stack.enter_context(Machine()) for _ in plugs]
        for machine, addresses in zip(machines, plugs, strict=True):
            switch.plug(machine, *addresses)
        yield switch, machines


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        if name == "unshare":
            pytest.skip(f"can't make a network namespace: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))
