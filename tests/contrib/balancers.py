"""Two balancers with the keepalived of contrib/keepalived, a client and two servers, each a machine of its own at one
switch. The one that has the address is `active`, the other `standby`: a test changes which is which, and leaves both
well."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contrib.service import CONTRIB
from tests.harness import ROOT, Gpen, Server, naming, wait_until
from tests.listeners import own
from tests.networks import Machine, Switch, switched

VIP, VIP6 = "192.0.2.100", "2001:db8::100"  # those of keepalived.conf
SBIN = "/usr/sbin:/sbin:/usr/bin"
KEEPALIVED = shutil.which("keepalived", path=SBIN)
PATIENT = 3.5  # seconds that a client waits; SYNs are sent after one, two and three
SERVERS = ("s0", "s1")
SCRIPTS = ("check", "notify", "gpen-move-away")


class Attempt(NamedTuple):
    """A new connection of the client's: when it began and how long it took, in seconds, and what came of it."""

    began: float
    seconds: float
    outcome: str

    @property
    def is_served(self) -> bool:
        return self.outcome in SERVERS


class Balancer:
    """A machine with gpen and keepalived."""

    def __init__(self, machine: Machine, directory: Path, scripts: Path, servers: list[Server]) -> None:
        self.machine, self.directory, self._scripts, self._servers = machine, directory, scripts, servers
        directory.mkdir()
        self.moved = directory / "moved"
        self.log = directory / "keepalived.log"
        self._environment = os.environ | {"PATH": f"{scripts}:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._starts = 0
        self.gpen = self._start_gpen()
        self.keepalived: subprocess.Popen[bytes] | None = None

    # --- gpen -----------------------------------------------------------------------------------------------------

    def _start_gpen(self, *options: str) -> Gpen:
        self._starts += 1
        return Gpen(self.directory, *options, "-r", "-x", "2000", "-O", "freebind", "-O", "check connect", "-O",
                    "check_interval 0.2", "-O", "check_fall 1", "-O", "check_rise 1",
                    "-l", f"gpen{self._starts}.log", *own("six", at=f"[{VIP6}]:80"), f"{VIP}:80",
                    *(server.address for server in self._servers), name=f"gpen{self._starts}",
                    control=str(self.directory / "gpen.ctl"), wrapper=self.machine.wrapper)

    def restart_gpen(self) -> None:
        self.gpen.process.wait(20)
        self.gpen = self._start_gpen()

    def replace_gpen(self) -> None:
        old, self.gpen = self.gpen, self._start_gpen("--replace")
        old.process.wait(20)

    def pool(self, word: str) -> None:
        """A verdict for all servers."""
        self.gpen.ctl(*(f"server {number} health {word}" for number in range(len(self._servers))))

    # --- keepalived -----------------------------------------------------------------------------------------------

    def start_keepalived(self) -> None:
        file = self.directory / "keepalived.conf"
        file.write_text(self._configuration())
        with self.log.open("ab") as log:
            self.keepalived = subprocess.Popen(
                [*self.machine.wrapper, str(KEEPALIVED), "-n", "-l", "-D", "-P", "-f", str(file), "-p",
                 f"{self.directory}/keepalived.pid", "-r", f"{self.directory}/vrrp.pid"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment)

    def _configuration(self) -> str:
        text = (CONTRIB / "keepalived" / "keepalived.conf").read_text()
        for told, here in (("/etc/keepalived/gpen/notify ", f"{self._scripts}/notify -g 1 -d {self.directory} "),
                           ("/etc/keepalived/gpen/", f"{self._scripts}/"),
                           ("/run/gpen/gpen.ctl", self.gpen.control), ("/run/gpen-moved", str(self.moved)),
                           ("interface eth0", "interface cable")):
            assert told in text
            text = text.replace(told, here)
        return text

    def kill_keepalived(self) -> None:
        """As the kernel does when memory is short: nobody takes the address away."""
        assert self.keepalived is not None
        children = self.directory / "vrrp.pid"
        self.keepalived.kill()
        os.kill(int(children.read_text()), signal.SIGKILL)
        self.keepalived.wait()
        children.unlink()  # until its parent, which is no test, has asked what became of it, its pid is somebody

    def end_keepalived(self) -> None:
        if self.keepalived is not None and self.keepalived.poll() is None:
            self.keepalived.terminate()
            self.keepalived.wait(20)

    def has(self, address: str = VIP) -> bool:
        """Whether it has the address."""
        told = subprocess.run([*self.machine.wrapper, "ip", "-o", "address", "show", "to", address],
                              capture_output=True, check=True, timeout=20)
        return bool(told.stdout)

    @property
    def last_state(self) -> str:
        """That of keepalived: MASTER, BACKUP or FAULT."""
        return (["", *self.states])[-1]

    @property
    def states(self) -> list[str]:
        """All that keepalived has been in."""
        return re.findall(r"Entering (\w+) STATE", self.log.read_text())

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of the scripts there."""
        return subprocess.run([*self.machine.wrapper, f"{self._scripts}/{script}", *words], capture_output=True,
                              text=True, timeout=60, check=False, env=self._environment)

    def move_away(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.run("gpen-move-away", "-f", str(self.moved), *more, VIP, VIP6)

    def move_back(self) -> subprocess.CompletedProcess[str]:
        return self.run("gpen-move-away", "-f", str(self.moved), "--back")

    def close(self) -> None:
        self.end_keepalived()
        with suppress(ProcessLookupError):
            self.gpen.process.send_signal(signal.SIGCONT)
        self.gpen.stop()
        print(f"--- {self.directory}\n{self.log.read_text() if self.log.exists() else ''}\n{self.gpen.stderr}")


class Pair:
    """Both of them, and who comes to them."""

    def __init__(self, switch: Switch, balancers: list[Balancer], client: Machine) -> None:
        self.switch, self.balancers, self.client = switch, balancers, client

    @property
    def active(self) -> Balancer:
        """The one that has the address, when it is one alone."""
        return wait_until(self._active, 20, "the address at one balancer")

    def _active(self) -> Balancer | None:
        those = [balancer for balancer in self.balancers if balancer.has()]
        return those[0] if len(those) == 1 else None

    @property
    def standby(self) -> Balancer:
        active = self.active
        return next(balancer for balancer in self.balancers if balancer is not active)

    def connect(self, host: str = VIP, seconds: float = 3) -> socket.socket:
        """A client's socket, connected. Raises OSError."""
        with self.client.entered():
            return socket.create_connection((host, 80), seconds)

    def ask(self, host: str = VIP) -> str:
        """What a new client is told, or the name of the error."""
        try:
            with self.connect(host) as sock:
                return sock.recv(100).decode() or "END"
        except OSError as error:
            return type(error).__name__

    def is_well(self) -> bool:
        """Whether a client is served, and the standby balancer would do."""
        standby = self.standby
        return (self.ask() in SERVERS and standby.run("check", standby.gpen.control).returncode == 0
                and standby.last_state == "BACKUP")

    @contextmanager
    def probing(self) -> Iterator[Callable[[], list[Attempt]]]:
        """A hundred new connections a second, until what it yields is called: that returns all of them."""
        with subprocess.Popen([*self.client.wrapper, sys.executable, "-m", "tests.contrib.prober", VIP, "80",
                               str(PATIENT)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:

            def results() -> list[Attempt]:
                told, _ = process.communicate(timeout=60)
                return [Attempt(*each) for each in json.loads(told)]

            try:
                yield results
            finally:
                process.kill()


def longest_gap(attempts: list[Attempt]) -> float:
    """For how long, in seconds, nobody was served."""
    served = sorted(attempt.began + attempt.seconds for attempt in attempts if attempt.is_served)
    return max(after - before for before, after in pairwise(served))


def failures(attempts: list[Attempt]) -> list[str]:
    """What became of those that were not served."""
    return [attempt.outcome for attempt in attempts if not attempt.is_served]


def installed(directory: Path) -> Path:
    """The scripts, where only root may write, as keepalived wants it; and gpenctl beside them."""
    directory.mkdir(mode=0o700, parents=True)
    for name in SCRIPTS:
        shutil.copy(CONTRIB / "keepalived" / name, directory)
    ctl = directory / "gpenctl"
    ctl.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {ROOT / "bin" / "gpenctl"} "$@"\n')
    ctl.chmod(ctl.stat().st_mode | stat.S_IXUSR)
    return directory


@contextmanager
def two_balancers(directory: Path) -> Iterator[Pair]:
    """Both at work, and the address at one of them."""
    for program, package in (("keepalived", "keepalived"), ("nft", "nftables")):
        if shutil.which(program, path=SBIN) is None:
            pytest.skip(f"{package} is not installed")
    scripts = installed(directory / "scripts")
    plugs = [(f"192.0.2.{number}/24", f"2001:db8::{number}/64") for number in (11, 12, 21, 31)]
    with switched(*plugs) as (switch, machines), ExitStack() as stack:
        servers = [stack.enter_context(machines[3].inside(lambda name=name: Server(naming(name), at="192.0.2.31")))
                   for name in SERVERS]
        balancers = []
        for name, machine in zip("ab", machines, strict=False):
            balancers.append(Balancer(machine, directory / name, scripts, servers))
            stack.callback(balancers[-1].close)
        for balancer in balancers:  # one by one: at once, both would take the address for a moment
            balancer.start_keepalived()
            wait_until(balancers[0].has, what="the address")
        pair = Pair(switch, balancers, machines[2])
        wait_until(pair.is_well, 20, "two balancers that are well")
        yield pair
