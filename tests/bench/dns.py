"""Measures gpen's UDP beside pen's and nginx stream's, before a real name server: `python -m tests.bench.dns --help`.

Three trials: as many queries as dnsperf can ask, from 20 ports that stay; 10,000 a second, well below what each of them
can do, of which none may be lost; and 100,000 queries from as many different ports, of which no more than 300 wait for
their answers at a time, through a balancer that may keep 500 flows.

pen has no notion of replies: a flow keeps its place until pen needs it. nginx is told that a query has one reply, which
ends its flow. gpen is measured both ways, compiled and pure.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench import command, load, report
from tests.bench.helpers import CLIENT_NET, address
from tests.bench.measure import CpuTime, cpu_time
from tests.bench.process import BenchError, last_line, running
from tests.bench.proxies import GPEN, GPEN_PATH, NGINX, PEN, Proxy, flavours, nginx_stream_module
from tests.bench.run import progress, rotated
from tests.bench.trials import FRONT_PORT, Plan, Running, Sample
from tests.nameserver import QUESTION, name_server, wait_for_answer

FLOWS = 500
ASKERS = 20
MODEST_RATE = 10_000  # queries a second
SOURCES, OUTSTANDING = 100_000, 300
PORTS = range(10_000, 30_000)
ANSWER_SECONDS = 2.0
COUNTING = ", udp_replies 1"
RATE_AT_LEAST, COUNTING_AT_LEAST = 0.5, {GPEN.name + COUNTING: 0.75}

NGINX_CONFIG = """\
{load_module}
daemon off;
pid {directory}/nginx-dns.pid;
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile 4000;
events {{ worker_connections {connections}; }}
stream {{
    access_log off;
    server {{ listen {front} udp; proxy_pass {server}; proxy_responses 1; proxy_timeout 30s; }}
}}
"""


def pen_command(front: str, server: str, directory: Path) -> list[str]:
    return ["pen", "-f", "-U", "-r", "-x", str(FLOWS), front, server]


def nginx_command(front: str, server: str, directory: Path) -> list[str]:
    """A flow takes two of nginx's connections; its listening socket and its own needs take the rest."""
    config, module = directory / "nginx-dns.conf", nginx_stream_module()
    config.write_text(NGINX_CONFIG.format(front=front, server=server, directory=directory, connections=2 * FLOWS + 10,
                                          load_module=f"load_module {module};" if module else ""))
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(config)]


def gpen_command(front: str, server: str, directory: Path) -> list[str]:
    return [sys.executable, GPEN_PATH, "-f", "-U", "-r", "-x", str(FLOWS), front, server]


def proxies() -> list[Proxy]:
    """The balancers that are installed."""
    others = [replace(PEN, command=pen_command), replace(NGINX, command=nginx_command)]
    found = [proxy for proxy in others if proxy.missing() is None]
    for gpen in flavours(gpen_command):
        found += [gpen, gpen.called(gpen.name + COUNTING, "-O", "udp_replies 1")]
    return found


class Ground:
    """One run's name server and files. Each balancer gets an address that nothing in this run has used before."""

    def __init__(self, directory: Path, plan: Plan, server: str) -> None:
        self.directory = directory
        self.plan = plan
        self._server = server
        self._started = 0
        self.queries = directory / "queries"
        self.queries.write_text("".join(f"host{number}.gpen.test A\n" for number in range(1000)))

    @contextmanager
    def proxy(self, proxy: Proxy) -> Iterator[Running]:
        """Start a balancer on its core; it has answered when this returns."""
        self._started += 1
        host = f"127.{64 + os.getpid() % 60}.7.{self._started % 250 + 1}"
        command = proxy.command(f"{host}:{FRONT_PORT}", self._server, self.directory)
        log = self.directory / "proxy.log"
        with running(["taskset", "-c", str(self.plan.proxy_core), *command], log, proxy.environment) as process:
            wait_for_answer(host, FRONT_PORT, process)
            yield Running(f"{host}:{FRONT_PORT}", process.pid)
            if process.poll() is not None:
                raise BenchError(f"{proxy.name}: ended under load with {process.returncode}{last_line(log)}")


def flat_out(ground: Ground, proxy: Proxy) -> Sample:
    """Queries a second when there are always 100 that wait for an answer."""
    with ground.proxy(proxy) as run:
        return under_dnsperf(ground, run, "-q", "100")


def modest(ground: Ground, proxy: Proxy) -> Sample:
    """The same at a rate that is no burden."""
    with ground.proxy(proxy) as run:
        return under_dnsperf(ground, run, "-Q", str(MODEST_RATE))


def under_dnsperf(ground: Ground, run: Running, *options: str) -> Sample:
    host, _, port = run.front.rpartition(":")
    seconds = ground.plan.seconds
    began, before = time.monotonic(), cpu_time(run.pid)
    text = load.output_of(["dnsperf", "-s", host, "-p", port, "-d", str(ground.queries), "-c", str(ASKERS), "-t", "2",
                           "-l", str(seconds), *options], seconds + 30)
    found = dict(re.findall(r"Queries (completed|lost|per second): +([\d.]+)", text))
    if not int(found.get("completed", 0)):
        raise BenchError(f"dnsperf: not one query was answered: {text.strip()}")
    return sample_of(run, before, began, int(found["completed"]), int(found["lost"]), float(found["per second"]))


def sample_of(run: Running, before: CpuTime, began: float, queries: int, lost: int, rate: float) -> Sample:
    used, elapsed = cpu_time(run.pid) - before, time.monotonic() - began
    return Sample(rate, lost, CpuTime(used.user / queries, used.system / queries), used.total / elapsed)


def many_sources(ground: Ground, proxy: Proxy) -> Sample:
    """Queries a second, each from a port of its own."""
    with ground.proxy(proxy) as run:
        host, _, port = run.front.rpartition(":")
        began, before = time.monotonic(), cpu_time(run.pid)
        lost = Askers((host, int(port))).run(SOURCES)
        answered = SOURCES - lost
        return sample_of(run, before, began, SOURCES, lost, answered / (time.monotonic() - began))


class Askers:
    """Asks each query from another port, without another try."""

    def __init__(self, front: tuple[str, int]) -> None:
        self._front = front
        self._epoll = select.epoll()
        self._waiting: OrderedDict[int, tuple[socket.socket, float]] = OrderedDict()
        self._sources = ((address(CLIENT_NET, number), port) for number in range(250) for port in PORTS)

    def run(self, count: int) -> int:
        """Ask so many; returns how many had no answer."""
        lost, left = 0, count
        while left or self._waiting:
            while left and len(self._waiting) < OUTSTANDING:
                self._ask()
                left -= 1
            for fd, _ in self._epoll.poll(0.05):
                sock, _ = self._waiting.pop(fd)
                lost += not has_answer(sock)
            lost += self._give_up()
        self._epoll.close()
        return lost

    def _ask(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for source in self._sources:
            try:
                sock.bind(source)
                break
            except OSError:
                continue  # somebody has it: take the next
        sock.connect(self._front)
        sock.send(QUESTION)
        self._epoll.register(sock, select.EPOLLIN)
        self._waiting[sock.fileno()] = sock, time.monotonic() + ANSWER_SECONDS

    def _give_up(self) -> int:
        now, lost = time.monotonic(), 0
        while self._waiting and next(iter(self._waiting.values()))[1] < now:
            _, (sock, _) = self._waiting.popitem(last=False)
            sock.close()
            lost += 1
        return lost


def has_answer(sock: socket.socket) -> bool:
    """Whether what waits in a socket is the answer; closes it."""
    with sock:
        try:
            return sock.recv(512)[:2] == QUESTION[:2]
        except OSError:
            return False


TRIALS: dict[str, Callable[[Ground, Proxy], Sample]] = {
    "queries/s": flat_out, f"at {MODEST_RATE:,}/s": modest, f"queries/s, {SOURCES:,} ports": many_sources,
}
Samples = dict[str, dict[str, list[Sample]]]


def measure(plan: Plan, directory: Path, titles: Sequence[str]) -> Samples:
    """Every trial of every balancer in turns; each round begins with another balancer."""
    balancers = proxies()
    samples: Samples = {title: {proxy.name: [] for proxy in balancers} for title in titles}
    with name_server(directory) as port:
        ground = Ground(directory, plan, f"127.0.0.1:{port}")
        for number in range(plan.rounds):
            for title in titles:
                for proxy in rotated(balancers, number):
                    sample = TRIALS[title](ground, proxy)
                    samples[title][proxy.name].append(sample)
                    progress(number, plan.rounds, title, proxy.name, sample)
    return samples


def table(samples: Samples) -> report.Table:
    """A row for each balancer; behind each rate its ratio to pen's, the CPU time of a query, and all that were lost."""
    names = list(next(iter(samples.values())))
    columns = [["", *names]]
    for title, row in samples.items():
        rates = {name: [replace(sample, errors=0) for sample in row[name]] for name in names}
        columns.append([title, *(report.value_cell(rates, name, PEN.name if PEN.name in row else None)
                                 for name in names)])
        columns.append(["CPU µs (user)", *(report.cpu_cell(row[name]) for name in names)])
        columns.append(["lost", *(f"{sum(sample.errors for sample in row[name]):,}" for name in names)])
    header, *rows = [list(cells) for cells in zip(*columns, strict=True)]
    return report.Table(header, rows)


def targets(samples: Samples) -> report.Table:
    rows = []
    ours = [name for name in next(iter(samples.values())) if name not in (PEN.name, NGINX.name)]
    for title, row in samples.items():
        if TRIALS[title] is flat_out and PEN.name in row:
            rows += [report.Target(f"{title} of {name}, of pen's", COUNTING_AT_LEAST.get(name, RATE_AT_LEAST),
                                   report.ratio(row[name], row[PEN.name])).row() for name in ours]
        if TRIALS[title] is modest:
            rows += [report.Target(f"lost by {name} {title}", 0, lost(row[name]), at_most=True).row() for name in ours]
        if TRIALS[title] is many_sources:
            least = min((lost(row[name]) for name in row if name not in ours), default=0)
            rows += [report.Target(f"lost by {name} of {SOURCES:,} ports", least, lost(row[name]), at_most=True).row()
                     for name in ours]
    return report.Table(["target", "wanted", "measured", ""], rows)


def lost(samples: Sequence[Sample]) -> int:
    return sum(sample.errors for sample in samples)


def benchmark(plan: Plan, directory: Path, options: argparse.Namespace) -> tuple[report.Table, ...]:
    titles = list(TRIALS) if options.trial is None else [list(TRIALS)[options.trial - 1]]
    samples = measure(plan, directory, titles)
    return table(samples), targets(samples)


def main() -> None:
    parser = command.parser("tests.bench.dns", __doc__)
    parser.add_argument("--trial", type=int, choices=range(1, len(TRIALS) + 1), help="only this one")
    command.main(parser.parse_args(), benchmark)


if __name__ == "__main__":
    main()
