"""gpenctl against a real pen, which knows no JSON, no error replies and only one line a connection."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpen.gpenctl.link import LinkError, ask, parse_target
from tests.gpenctl.daemon import Run, tcp_daemon
from tests.harness import free_port

pytestmark = pytest.mark.skipif(
    not shutil.which("pen") and not os.environ.get("CI"), reason="pen is not installed"
)


@pytest.fixture(scope="module")
def pen() -> Iterator[str]:
    """The control target of a pen with two servers, the first of which answers; one client was served."""
    backend = tcp_daemon("127.0.0.1")
    port, control = free_port(), free_port()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)  # pen writes its pid file as nobody
        process = subprocess.Popen(
            [
                "pen",
                "-f",
                "-u",
                "nobody",
                "-C",
                f"127.0.0.1:{control}",
                "-p",
                f"{place}/pid",
                f"127.0.0.1:{port}",
                f"{backend.target}:10:20:3:1",
                f"127.0.0.1:{free_port()}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        target = f"127.0.0.1:{control}"
        try:
            until(lambda: ask(parse_target(target), "pid", 1) == f"{process.pid}\n", process)
            socket.create_connection(("127.0.0.1", port), 5).close()
            until(lambda: ask(parse_target(target), "recent", 1) != "", process)
            yield target
        finally:
            process.terminate()
            process.wait(10)
            backend.close()


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Ask again and again until pen is ready."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(LinkError):
            if ready():
                return
        assert process.poll() is None and time.monotonic() < deadline, "pen did not get ready"
        time.sleep(0.01)


def test_plain(gpenctl: Run, pen: str) -> None:
    done = gpenctl(pen, "mode")
    assert (done.returncode, done.stdout) == (0, "no hash no roundrobin no stubborn no weight no prio\n")
    assert gpenctl(pen, "servers").stdout.startswith("0 addr 127.0.0.1 port ")


def test_set(gpenctl: Run, pen: str) -> None:
    assert gpenctl(pen, "timeout", "7").stdout == "7\n"
    assert gpenctl(pen, "server", "1", "max", "50").returncode == 0
    assert "max 50" in gpenctl(pen, "servers").stdout


def test_unknown(gpenctl: Run, pen: str) -> None:
    done = gpenctl(pen, "sessions")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "do_cmd: ignoring command starting with 'sessions'\n"


def test_table(gpenctl: Run, pen: str) -> None:
    heading, _, first, second = gpenctl("-f", "table", pen, "servers").stdout.splitlines()
    assert heading.split() == [
        "#",
        "address",
        "sessions",
        "max",
        "hard",
        "weight",
        "prio",
        "sent",
        "received",
    ]
    assert first.split()[0] == "0" and first.split()[1].startswith("127.0.0.1:") and second.split()[0] == "1"
    assert "roundrobin  off" in gpenctl("-f", "table", pen, "mode").stdout
    assert "downfd" in gpenctl("-f", "table", pen, "connection", "0").stdout


def test_csv_and_json(gpenctl: Run, pen: str) -> None:
    servers = json.loads(gpenctl("-f", "json", pen, "servers").stdout)
    assert [item["number"] for item in servers] == [0, 1] and servers[0]["hard"] == 20
    (client,) = csv.DictReader(io.StringIO(gpenctl("-f", "csv", pen, "recent").stdout))
    assert client["address"] == "127.0.0.1" and client["connects"] == "1"
    assert json.loads(gpenctl("-f", "json", pen, "mode").stdout)["hash"] is False


def test_lines_from_stdin(gpenctl: Run, pen: str, tmp_path: Path) -> None:
    done = gpenctl(pen, stdin="blacklist\nclients_max\n")
    assert (done.returncode, done.stdout) == (0, "30\n2048\n")
