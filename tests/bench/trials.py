"""What is measured, one balancer at a time: each function here is one trial and gives one sample."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import counts, load
from tests.bench.measure import CpuTime, cpu_time, memory_kb
from tests.bench.process import START_SECONDS, BenchError, last_line, running, wait_until_listening
from tests.bench.proxies import PURE, Proxy, remembering, undisturbed

FRONT_PORT = 8000
WEB_PORT = 8080
SOURCE_PORT = 8090
CROWD_PORT = 8091
WEB_HOSTS = 8
MEGABYTE = 1e6
CONTROL_SECONDS = 60
WATCHED_START_SECONDS = 60.0  # under callgrind, on a busy machine


@dataclass(frozen=True)
class Plan:
    """How much of everything a run does."""

    rounds: int
    seconds: int
    clients: int
    sessions: int
    proxy_core: int


@dataclass(frozen=True)
class Sample:
    """One trial's result.

    value: in the measure's unit. errors: what went wrong under way, 0 in a good run.
    cpu: CPU time of the balancer for one request or connection. busy: its share of its core, 0 to 1.
    """

    value: float
    errors: int = 0
    cpu: CpuTime | None = None
    busy: float | None = None


@dataclass(frozen=True)
class Running:
    """A balancer that answers: host:port of its front, and its process."""

    front: str
    pid: int

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.front.rpartition(":")
        return host, int(port)


@dataclass
class Ground:
    """One run's servers, files and addresses. The addresses hang on our pid, so that two runs do not meet."""

    directory: Path
    plan: Plan
    started: int = 0
    commands: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    instructions: dict[str, counts.Instructions] = field(default_factory=dict)

    @contextmanager
    def servers(self) -> Iterator[None]:
        """The web server and the bulk source, for as long as the run lasts."""
        with ExitStack() as stack:
            hosts = [self.host(number) for number in range(WEB_HOSTS)]
            stack.enter_context(load.web_server(hosts, WEB_PORT, self.directory))
            stack.enter_context(load.bulk_source(hosts[0], SOURCE_PORT, self.directory))
            yield

    def host(self, number: int) -> str:
        pid = os.getpid()
        return f"127.{64 + pid % 60}.{pid // 60 % 64 * 4 + number // 250}.{1 + number % 250}"

    @contextmanager
    def proxy(self, proxy: Proxy, server_port: int = WEB_PORT, watched_by: Sequence[str] = ()) -> Iterator[Running]:
        """Start a balancer on its core, on an address that nothing in this run has used before.

        ``watched_by`` are the words of a program that starts it and looks on.
        """
        self.started += 1
        host = self.host(WEB_HOSTS + self.started)
        front = f"{host}:{FRONT_PORT}"
        server = f"{self.host(self.started % WEB_HOSTS if server_port == WEB_PORT else 0)}:{server_port}"
        command = proxy.command(front, server, self.directory)
        alone = ["taskset", "-c", str(self.plan.proxy_core)]
        self.note(proxy, [*alone, *command])
        environment = {**proxy.environment, **(counts.ENVIRONMENT if watched_by else {})}
        log = self.directory / "proxy.log"
        with running([*alone, *watched_by, *command], log, environment) as process:
            wait_until_listening(process, host, FRONT_PORT, log, WATCHED_START_SECONDS if watched_by else START_SECONDS)
            yield Running(front, process.pid)
            if process.poll() is not None:
                raise BenchError(f"{proxy.name}: ended under load with {process.returncode}{last_line(log)}")

    @contextmanager
    def crowd(self, proxy: Proxy, watched_by: Sequence[str]) -> Iterator[counts.Crowd]:
        """Start a balancer before a server of ours, with a program that counts what it does."""
        with (socket.create_server((self.host(0), CROWD_PORT)) as listener,
              self.proxy(undisturbed(proxy), CROWD_PORT, watched_by) as run):
            yield counts.Crowd(run.pid, run.address, listener)

    def note(self, proxy: Proxy, command: list[str]) -> None:
        """Keep how a balancer is started, for the reader of the report: without the paths of this run."""
        chosen = f"{PURE}=1 " if proxy.pure else ""
        self.commands.setdefault(proxy.name, chosen + self.public(shlex.join(command)))
        for path in map(Path, command):
            if path.parent == self.directory and path.is_file():
                self.files.setdefault(path.name, self.public(path.read_text()))

    def public(self, text: str) -> str:
        return text.replace(str(self.directory), "DIR").replace(sys.executable, "python3")


def requests(ground: Ground, proxy: Proxy) -> Sample:
    """Requests a second on kept connections."""
    with ground.proxy(proxy) as run:
        return under_wrk(run, ground.plan.seconds)


def connections(ground: Ground, proxy: Proxy) -> Sample:
    """New connections a second: one request each, then the web server closes."""
    with ground.proxy(proxy) as run:
        return under_wrk(run, ground.plan.seconds, "Connection: close")


def under_wrk(run: Running, seconds: int, *headers: str) -> Sample:
    began, before = time.monotonic(), cpu_time(run.pid)
    result = load.wrk(run.front, seconds, *headers)
    used, elapsed = cpu_time(run.pid) - before, time.monotonic() - began
    if not result.requests:
        raise BenchError(f"{run.front}: not one request was answered, {result.errors} errors")
    each = CpuTime(used.user / result.requests, used.system / result.requests)
    return Sample(result.rate, result.errors, each, used.total / elapsed)


def bulk(ground: Ground, proxy: Proxy) -> Sample:
    """Megabytes moved for each second of the balancer's CPU time."""
    with ground.proxy(proxy, SOURCE_PORT) as run:
        began, before = time.monotonic(), cpu_time(run.pid)
        moved = load.sink(run.front, ground.plan.seconds)
        used, elapsed = cpu_time(run.pid) - before, time.monotonic() - began
        return Sample(moved / MEGABYTE / used.total, busy=used.total / elapsed)


def idle(ground: Ground, proxy: Proxy) -> Sample:
    """KB of memory for a session that idles, after the first request has been answered."""
    count = ground.plan.sessions
    with ground.proxy(proxy) as run:
        with load.idle_sessions(run.front, 1):
            before = memory_kb(run.pid)
        with load.idle_sessions(run.front, count):
            return Sample((memory_kb(run.pid) - before) / count)


def connection_instructions(ground: Ground, proxy: Proxy) -> Sample:
    """User instructions of the balancer for a new connection with one request."""
    return Sample(instructions(ground, proxy).connection)


def request_instructions(ground: Ground, proxy: Proxy) -> Sample:
    """User instructions of the balancer for a request on a kept connection."""
    return Sample(instructions(ground, proxy).request)


def instructions(ground: Ground, proxy: Proxy) -> counts.Instructions:
    """Both, counted once a run."""
    if proxy.name not in ground.instructions:
        with ground.crowd(proxy, counts.under_callgrind(ground.directory)) as crowd:
            ground.instructions[proxy.name] = counts.instructions(crowd, ground.directory)
    return ground.instructions[proxy.name]


def system_calls(ground: Ground, proxy: Proxy) -> Sample:
    """System calls of the balancer for a new connection with one request."""
    return Sample(sum(system_calls_by_name(ground, proxy).values()))


def system_calls_by_name(ground: Ground, proxy: Proxy) -> dict[str, float]:
    log = ground.directory / "strace.log"
    with ground.crowd(proxy, counts.under_strace(log)) as crowd:
        return counts.system_calls(crowd, log)


BEST = "best"  # the best that is not gpen
USUAL = ("pen", "haproxy", "nginx", "gpen", "gpen, pure")
COUNTED = ("pen", "haproxy", "gpen", "gpen, pure")  # callgrind can't be told to begin in nginx's worker


@dataclass(frozen=True)
class Measure:
    """A trial, its name in --measure, the title of its column, and whom it is compared with, if anybody.

    among: the names of the balancers for which it tells something. exact: another round would find the same.
    """

    name: str
    title: str
    trial: Callable[[Ground, Proxy], Sample]
    compared_with: str | None = BEST
    among: Sequence[str] = USUAL
    exact: bool = False


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("requests", "requests/s", requests),
        Measure("connections", "new conn/s", connections, "pen"),
        Measure("bulk", "bulk MB/CPU s", bulk, among=(*USUAL, "haproxy, splice")),
        Measure("idle", "idle session KB", idle, None),
        Measure("connection-instructions", "instructions a connection", connection_instructions, None, COUNTED, True),
        Measure("request-instructions", "instructions a request", request_instructions, None, COUNTED, True),
        Measure("system-calls", "system calls a connection", system_calls, None, exact=True),
    )
}

# gpen compared with itself: is a new connection as cheap with much to remember, and with much to hold?
PLAIN, CLIENTS, SESSIONS = "plain", "clients", "sessions"
BURDENS = (CLIENTS, SESSIONS)


@contextmanager
def burdened(ground: Ground, gpen: Proxy, burdens: Sequence[str]) -> Iterator[dict[str, Running]]:
    """A gpen started several times, plain and once under each burden; only one is under load at a time."""
    plan, gpen = ground.plan, remembering(gpen)
    with ExitStack() as stack:
        runs = {PLAIN: stack.enter_context(ground.proxy(gpen.called(f"{gpen.name}, plain")))}
        if CLIENTS in burdens:
            flags = ("-c", str(plan.clients), "-C", str(control_socket(ground, gpen)))
            runs[CLIENTS] = stack.enter_context(ground.proxy(gpen.called(f"{gpen.name}, clients", *flags)))
            load.fill(runs[CLIENTS].front, plan.clients)
        if SESSIONS in burdens:
            runs[SESSIONS] = stack.enter_context(ground.proxy(gpen.called(f"{gpen.name}, sessions")))
            stack.enter_context(load.idle_sessions(runs[SESSIONS].front, plan.sessions))
        yield runs


def control_socket(ground: Ground, gpen: Proxy) -> Path:
    """Where a gpen with the full memory is asked how many clients it remembers."""
    return ground.directory / f"{gpen.name.replace(', ', '-')}.ctl"


def under_burden(run: Running) -> Sample:
    """New connections a second of a balancer that is running already, for one second."""
    return under_wrk(run, 1, "Connection: close")


def remembered_clients(ground: Ground, gpen: Proxy) -> int:
    """How many clients a gpen with the full memory says that it remembers: a line of `recent` each."""
    path, lines = control_socket(ground, gpen), 0
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(CONTROL_SECONDS)
            control.connect(str(path))
            control.sendall(b"recent 86400\n")
            control.shutdown(socket.SHUT_WR)
            while data := control.recv(1 << 16):
                lines += data.count(b"\n")
    except OSError as error:
        why = error.strerror or str(error)
        raise BenchError(f"gpen's control socket {path}: {why}") from error
    return lines
