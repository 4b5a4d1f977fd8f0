"""The web server behind the balancers, and the load in front of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.process import ROOT, BenchError, running, wait_until_listening

WRK_CONNECTIONS = 32
FILL_SECONDS = 900

WEB_CONFIG = """\
daemon off;
pid {directory}/nginx-web.pid;
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile 18000;
events {{ worker_connections 18000; }}
http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_header_timeout 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ {listens} location / {{ return 200; }} }}
}}
"""


@dataclass(frozen=True)
class Load:
    """What wrk did: requests answered, requests a second, and how many went wrong."""

    requests: int
    rate: float
    errors: int


@contextmanager
def web_server(hosts: Sequence[str], port: int, directory: Path) -> Iterator[None]:
    """nginx that answers each request with an empty 200, on each of `hosts`."""
    listens = " ".join(f"listen {host}:{port} backlog=4096;" for host in hosts)
    config = directory / "nginx-web.conf"
    config.write_text(WEB_CONFIG.format(directory=directory, listens=listens))
    log = directory / "nginx-web.log"
    with running(["nginx", "-p", str(directory), "-e", "stderr", "-c", str(config)], log) as process:
        wait_until_listening(process, hosts[0], port, log)
        yield


@contextmanager
def bulk_source(host: str, port: int, directory: Path) -> Iterator[None]:
    """A server that sends without end to whoever connects."""
    log = directory / "source.log"
    with running(helper("source", f"{host}:{port}"), log) as process:
        wait_until_listening(process, host, port, log)
        yield


def wrk(front: str, seconds: int, *headers: str) -> Load:
    """Load from 32 connections, one thread; errors: failed sockets, timeouts, a status that is not 2xx."""
    command = ["wrk", f"-c{WRK_CONNECTIONS}", "-t1", f"-d{seconds}s"]
    for header in headers:
        command += ["-H", header]
    return parse_wrk(output_of([*command, f"http://{front}/"], seconds + 30))


def parse_wrk(text: str) -> Load:
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if requests is None or rate is None:
        raise BenchError(f"wrk: its output can't be read: {text.strip()}")
    errors = 0
    for line in re.findall(r"(?:Socket errors|Non-2xx or 3xx responses):(.*)", text):
        errors += sum(map(int, re.findall(r"\d+", line)))
    return Load(int(requests[1]), float(rate[1]), errors)


def sink(front: str, seconds: int) -> int:
    """Read from a bulk source through the balancer; the bytes that came."""
    return int(output_of(helper("sink", front, str(seconds)), seconds + 30))


def fill(front: str, clients: int) -> None:
    """Make the balancer remember `clients` clients."""
    output_of(helper("fill", front, str(clients)), FILL_SECONDS)


@contextmanager
def idle_sessions(front: str, count: int) -> Iterator[None]:
    """Hold `count` sessions, each of which has had one request answered."""
    process = subprocess.Popen(
        helper("idle", front, str(count)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None and process.stderr is not None
            if process.stdout.readline() != "ready\n":
                why = process.stderr.read().strip()
                raise BenchError(f"{count} idle sessions could not be opened: {why}")
            yield
        finally:
            process.kill()


def helper(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.helpers", name, *arguments]


def output_of(command: Sequence[str], timeout: float) -> str:
    """Run a command to its end; raise BenchError with what it said when it fails or takes too long."""
    try:
        result = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(command)}: not done after {timeout:.0f} s") from None
    if result.returncode:
        raise BenchError(f"{' '.join(command)}: {(result.stderr or result.stdout).strip()}")
    return result.stdout
