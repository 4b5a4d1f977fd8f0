"""pen, haproxy and gpen before the cluster, each as its own manual has it, and started alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contrib.cluster import PORT
from tests.bench.process import running, wait_until_listening
from tests.bench.proxies import flavoured, not_installed, pen_version, version
from tests.galera.cluster import Cluster
from tests.galera.watcher import COMMAND as WATCHER
from tests.galera.watcher import credentials
from tests.harness import COMMAND as GPEN

CLUSTERCHECK_PORT = 9200
FRONT = ("-r", "-O", "mysql", "-O", "greeting 1", "-O", "hold 10")

HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn 1000
defaults
    mode tcp
    option redispatch
    retries 3
    timeout connect 3s
    timeout client 10m
    timeout server 10m
listen cluster
    bind {front}
    balance roundrobin
    {check}
    default-server inter 1s fall 2 {options}
{servers}
"""


@dataclass(frozen=True)
class Front:
    """A balancer that runs: where its clients connect, and its process."""

    host: str
    port: int
    pid: int


@dataclass(frozen=True)
class Balancer:
    """A balancer by name; `start` runs it before these servers with files in a directory."""

    name: str
    start: Callable[[Cluster, Sequence[str], Path], contextlib.AbstractContextManager[Front]]
    version: Callable[[], str]
    missing: Callable[[], str | None]


@contextlib.contextmanager
def started(command: Sequence[str], cluster: Cluster, directory: Path, environment: Mapping[str, str] | None = None,
            ) -> Iterator[Front]:
    """Run a balancer that listens on the cluster's free address."""
    log = directory / "balancer.log"
    with running(command, log, environment) as process:
        wait_until_listening(process, front_host(cluster), PORT, log)
        yield Front(front_host(cluster), PORT, process.pid)


def front_host(cluster: Cluster) -> str:
    return f"{cluster.net}2"


def front_address(cluster: Cluster) -> str:
    return f"{front_host(cluster)}:{PORT}"


@contextlib.contextmanager
def pen(cluster: Cluster, servers: Sequence[str], directory: Path) -> Iterator[Front]:
    with started(["pen", "-f", "-r", front_address(cluster), *servers], cluster, directory) as front:
        yield front


@contextlib.contextmanager
def haproxy(cluster: Cluster, servers: Sequence[str], directory: Path, check: str = "option mysql-check user haproxy",
            options: str = "check") -> Iterator[Front]:
    config = directory / "haproxy.cfg"
    lines = "\n".join(f"    server s{number} {server}" for number, server in enumerate(servers))
    config.write_text(
        HAPROXY_CONFIG.format(front=front_address(cluster), check=check, options=options, servers=lines))
    with started(["haproxy", "-db", "-f", str(config)], cluster, directory) as front:
        yield front


@contextlib.contextmanager
def haproxy_clustercheck(cluster: Cluster, servers: Sequence[str], directory: Path) -> Iterator[Front]:
    """haproxy that asks the script that Galera's users run beside each node, here gpen-galera's own."""
    with contextlib.ExitStack() as stack:
        for node in cluster.nodes:
            command = [*WATCHER, "serve", f"--defaults-file={credentials(directory)}", f"--node={node.address}",
                       f"{node.host}:{CLUSTERCHECK_PORT}"]
            log = directory / f"clustercheck{node.number}.log"
            process = stack.enter_context(running(command, log))
            wait_until_listening(process, node.host, CLUSTERCHECK_PORT, log)
        yield stack.enter_context(
            haproxy(cluster, servers, directory, "option httpchk", f"check port {CLUSTERCHECK_PORT}"))


@contextlib.contextmanager
def gpen(cluster: Cluster, servers: Sequence[str], directory: Path, pure: bool = False) -> Iterator[Front]:
    """``pure``: as pure Python, even where a compiled core is."""
    control = directory / "gpen.ctl"
    watch = [*WATCHER, "watch", f"--defaults-file={credentials(directory)}", f"--socket={directory}/watcher",
             "--reader", str(control)]
    with started([*GPEN, "-f", "-C", str(control), *FRONT, front_address(cluster), *servers], cluster, directory,
                 flavoured(pure)) as front, running(watch, directory / "watcher.log"):
        yield front


def debian_version(package: str) -> str:
    return version("dpkg-query", "-W", "-f", "${Version}", package)


BALANCERS = {balancer.name: balancer for balancer in (
    Balancer("pen", pen, pen_version, partial(not_installed, "pen")),
    Balancer("haproxy", haproxy, partial(version, "haproxy", "-v"), partial(not_installed, "haproxy")),
    Balancer("haproxy, clustercheck", haproxy_clustercheck, partial(version, "haproxy", "-v"),
             partial(not_installed, "haproxy")),
    Balancer("gpen", gpen, partial(version, sys.executable, "bin/gpen", "--version"), lambda: None),
)}
