"""Measures gpen's TLS, compiled and pure, beside haproxy's and nginx's: `python -m tests.bench.tls --help`.

Full handshakes: several openssl s_time open connections, each for one request, and resume no session (wrk does: it
keeps each connection's session for the next). Their side of a handshake takes more of the load's core than a balancer's
takes of its own, so that balancers wait, and the rate says less than how many handshakes a second of their CPU time is
good for. Balancers with both kinds of key run side by side and take many turns of a second: three rounds of two seconds
once had nginx pay 117 us more for RSA than for P-256, and gpen 272, where both pay 205, and the same 6.20 million
instructions. Bulk: streams that are read without being decrypted, which leaves the reader faster than any balancer.
All of them speak TLS 1.3 with the cipher that OpenSSL's client likes best.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench import command, load, report
from tests.bench.measure import CpuTime, cpu_time
from tests.bench.process import BenchError
from tests.bench.proxies import (
    GPEN,
    GPEN_PATH,
    GPEN_PURE,
    GPENS,
    HAPROXY,
    MAX_SESSIONS,
    NGINX,
    Proxy,
    nginx_stream_module,
)
from tests.bench.run import LEAST_TURNS, Samples, progress, rotated
from tests.bench.trials import MEGABYTE, SOURCE_PORT, Ground, Plan, Running, Sample
from tests.certificates import Authority

CLIENTS = 8
HANDSHAKES = {"rsa": "handshakes/s, RSA 2048", "ec": "handshakes/s, ECDSA P-256"}  # by kind of key
BULK = "bulk MB/CPU s"
AT_LEAST = {**dict.fromkeys(HANDSHAKES.values(), 0.7), BULK: 0.8}
BY_CPU_AT_LEAST = {GPEN.name: 0.9, GPEN_PURE.name: 0.7}  # handshakes a second of CPU time

HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn {max_sessions}
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen bench
    bind {front} ssl crt {certificate}
    server only {server}
"""

NGINX_CONFIG = """\
{load_module}
daemon off;
pid {config}.pid;
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {descriptors}; }}
stream {{
    access_log off;
    ssl_protocols TLSv1.3;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    server {{ listen {front} ssl backlog=4096; proxy_pass {server}; }}
}}
"""


def haproxy_command(certificate: Path, front: str, server: str, directory: Path) -> list[str]:
    config = directory / f"haproxy-{certificate.stem}.cfg"
    config.write_text(HAPROXY_CONFIG.format(front=front, server=server, max_sessions=MAX_SESSIONS,
                                            certificate=certificate))
    return ["haproxy", "-db", "-f", str(config)]


def nginx_command(certificate: Path, front: str, server: str, directory: Path) -> list[str]:
    config, module = directory / f"nginx-{certificate.stem}.conf", nginx_stream_module()
    config.write_text(NGINX_CONFIG.format(
        front=front, server=server, config=config, certificate=certificate,
        load_module=f"load_module {module};" if module else "", descriptors=2 * MAX_SESSIONS + 100))
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(config)]


def gpen_command(certificate: Path, front: str, server: str, directory: Path) -> list[str]:
    return [sys.executable, GPEN_PATH, "-f", "-r", "-x", str(MAX_SESSIONS), "-L", "tls1.3", "-E", str(certificate),
            front, server]


COMMANDS = ((HAPROXY, haproxy_command), (NGINX, nginx_command), (GPEN, gpen_command), (GPEN_PURE, gpen_command))


def proxies(certificate: Path) -> list[Proxy]:
    """The balancers that are installed, with this certificate and key."""
    return [replace(proxy, command=partial(command, certificate))
            for proxy, command in COMMANDS if proxy.missing() is None]


@contextmanager
def started(ground: Ground, certificate: Path) -> Iterator[dict[str, Running]]:
    """Every balancer with this certificate, by name."""
    with ExitStack() as stack:
        yield {proxy.name: stack.enter_context(ground.proxy(proxy)) for proxy in proxies(certificate)}


def compare_handshakes(ground: Ground, certificates: dict[str, Path], samples: Samples) -> None:
    """Full handshakes in turns of a second; each round begins with another balancer."""
    rounds = max(LEAST_TURNS, ground.plan.rounds * ground.plan.seconds)
    with ExitStack() as stack:
        runs = {kind: stack.enter_context(started(ground, certificate)) for kind, certificate in certificates.items()}
        for number in range(rounds):
            for kind, title in HANDSHAKES.items():
                for name in rotated(list(runs[kind]), number):
                    sample = handshakes(runs[kind][name])
                    samples.setdefault(title, {}).setdefault(name, []).append(sample)
                    progress(number, rounds, title, name, sample)


def handshakes(run: Running) -> Sample:
    """Full handshakes a second, with one request on each connection."""
    began, before = time.monotonic(), cpu_time(run.pid)
    done = s_time(run.front, 1)
    used, elapsed = cpu_time(run.pid) - before, time.monotonic() - began
    each = CpuTime(used.user / done, used.system / done)
    return Sample(done / elapsed, cpu=each, busy=used.total / elapsed)


def s_time(front: str, seconds: int) -> int:
    """How many connections several openssl s_time made, one after the other each. Raises BenchError."""
    command = ["openssl", "s_time", "-connect", front, "-new", "-www", "/", "-time", str(seconds), "-no-CAfile",
               "-no-CApath", "-no-CAstore"]
    clients = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True) for _ in range(CLIENTS)]
    done = 0
    for client in clients:
        text = client.communicate(timeout=seconds + 30)[0]
        found = re.search(r"^(\d+) connections in \d+ real", text, re.MULTILINE)
        if found is None or client.returncode:
            raise BenchError(f"{' '.join(command)}: {text.strip()[-200:]}")
        done += int(found[1])
    return done


def compare_bulk(ground: Ground, certificate: Path, samples: Samples) -> None:
    """A stream in each round through each balancer; each round begins with another one."""
    balancers = proxies(certificate)
    row = samples[BULK] = {proxy.name: [] for proxy in balancers}
    for number in range(ground.plan.rounds):
        for proxy in rotated(balancers, number):
            sample = bulk(ground, proxy)
            row[proxy.name].append(sample)
            progress(number, ground.plan.rounds, BULK, proxy.name, sample)


def bulk(ground: Ground, proxy: Proxy) -> Sample:
    """Megabytes encrypted and sent for each second of the balancer's CPU time."""
    seconds = ground.plan.seconds
    with ground.proxy(proxy, SOURCE_PORT) as run:
        began, before = time.monotonic(), cpu_time(run.pid)
        moved = int(load.output_of(load.helper("tls-sink", run.front, str(seconds)), seconds + 30))
        used, elapsed = cpu_time(run.pid) - before, time.monotonic() - began
        return Sample(moved / MEGABYTE / used.total, busy=used.total / elapsed)


def measure(plan: Plan, directory: Path) -> Samples:
    """Every trial of every balancer in turns."""
    ground, authority = Ground(directory, plan), Authority(directory, "bench")
    certificates = {kind: chained(authority, kind) for kind in HANDSHAKES}
    samples: Samples = {}
    with ground.servers():
        compare_handshakes(ground, certificates, samples)
        compare_bulk(ground, certificates["ec"], samples)
    return samples


def chained(authority: Authority, kind: str) -> Path:
    """A certificate with its authority's behind it, and its key, in one file."""
    pair = authority.issue("localhost", kind=kind, file=kind)
    file = authority.directory / f"{kind}.pem"
    file.write_bytes(b"".join(part.read_bytes() for part in (pair.certificate, authority.certificate, pair.key)))
    return file


def table(samples: Samples) -> report.Table:
    """A row for each balancer; behind each figure its ratio to the best other one, and the CPU time."""
    names = list(next(iter(samples.values())))
    columns = [["", *names]]
    for title, row in samples.items():
        best = best_other(row)
        columns.append([title, *(report.value_cell(row, name, best) for name in names)])
        if any(sample.cpu for sample in row[names[0]]):
            columns.append(["CPU µs (user)", *(report.cpu_cell(row[name]) for name in names)])
            columns.append(["core busy", *(f"{median(sample.busy or 0 for sample in row[name]):.0%}"
                                           for name in names)])
    header, *rows = [list(cells) for cells in zip(*columns, strict=True)]
    return report.Table(header, rows)


def best_other(row: report.Row) -> str | None:
    others = [name for name in row if name not in [gpen.name for gpen in GPENS]]
    return max(others, key=lambda name: report.middle(row[name]), default=None)


def targets(samples: Samples) -> report.Table:
    rows = []
    for title, wanted in AT_LEAST.items():
        row = samples[title]
        for gpen in (name for name in BY_CPU_AT_LEAST if name in row):
            for figure, by, least in ((title, row, wanted),
                                      (f"{title}, a CPU second", by_cpu_time(row), BY_CPU_AT_LEAST[gpen])):
                if (best := best_other(by)) is not None:
                    ratio = report.ratio(by[gpen], by[best])
                    rows.append(report.Target(f"{gpen}: {figure}, of {best}'s", least, ratio).row())
    return report.Table(["target", "wanted", "measured", ""], rows)


def by_cpu_time(row: report.Row) -> report.Row:
    """The same trials, as how often a second of CPU time was good for it; empty where that was measured already."""
    return {name: [Sample(1 / sample.cpu.total) for sample in samples if sample.cpu]
            for name, samples in row.items() if all(sample.cpu for sample in samples)}


def benchmark(plan: Plan, directory: Path, options: argparse.Namespace) -> tuple[report.Table, ...]:
    samples = measure(plan, directory)
    return table(samples), targets(samples)


def main() -> None:
    command.main(command.parser("tests.bench.tls", __doc__).parse_args(), benchmark)


if __name__ == "__main__":
    main()
