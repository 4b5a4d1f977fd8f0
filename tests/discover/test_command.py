"""gpen-discover as a program: its signals, socket, status and wrong usage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gpen.console import ConsoleError, ask
from tests.discover.running import COMMAND, Discoverer, run, wait_servers, write
from tests.harness import PATIENCE, Gpen, Server, needs_root, open_to_all, run_gpen, wait_until

Start = Callable[..., Gpen]
Servers = Callable[..., Server]
A, B, C = "127.0.0.1:4001", "127.0.0.2:4002", "127.0.0.3:4003"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_and_its_socket(tmp_path: Path, file: Path, number: signal.Signals) -> None:
    write(file, B)
    with Discoverer(tmp_path, "file", str(file), gpens=(str(tmp_path / "no.ctl"),)) as discoverer:
        discoverer.status()
        assert discoverer.stop(number) == 0
        assert not Path(discoverer.socket).exists() and "ended; the gpens keep the servers" in discoverer.told


def test_one_socket_is_one_programs(tmp_path: Path, file: Path) -> None:
    write(file, B)
    words = ("file", str(file), f"--gpen={tmp_path / 'no.ctl'}")
    with Discoverer(tmp_path, *words[:2], gpens=(str(tmp_path / "no.ctl"),)) as discoverer:
        discoverer.status()
        done = run(*words, f"--socket={discoverer.socket}")
        assert (done.returncode, done.stderr) == (2, f"gpen-discover: {discoverer.socket}: another gpen-discover "
                                                     "listens there; give this one another --socket\n")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(discoverer.socket)
            sock.sendall(b"nonsense\n")
            assert sock.recv(200) == b'{"error": "\'nonsense\' is no request: expected status"}\n'


def test_an_empty_path_is_no_file() -> None:
    assert "PATH is empty" in run("file", "", "--gpen=/x").stderr


def test_a_log_that_nobody_reads_stops_nothing(gpen: Start, tmp_path: Path, file: Path) -> None:
    """As a pager that stands still: the servers come, and a signal ends it; what is lost of the log is told."""
    balancer, (reader, writer) = gpen(servers=[A]), os.pipe()
    write(file, B)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with subprocess.Popen([*COMMAND, "file", str(file), f"--gpen={balancer.control}", f"--socket={tmp_path / 'sock'}"],
                          stderr=writer) as process:
        os.close(writer)
        wait_servers(balancer, B)
        with os.fdopen(reader, "rb") as log:
            write(file, B, C)
            wait_servers(balancer, B, C)
            log.read(60_000)
            write(file, B)
            wait_until(lambda: b"lines of this log are lost, as nobody read them: " in log.readline())
            process.terminate()
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(("words", "why"), [
    ("", "SOURCE is missing: one of"),
    ("fil x", "'fil' is neither a source nor a command"),
    ("file", "PATH is missing"), ("consul --gpen=/x", "SERVICE is missing"),
    ("dns --port=80", "NAME is missing"),
    ("file x --gpen=/x --floor=1.5", "--floor: '1.5' is not a number of servers"),
    ("kubernetes web --gpen=/x --kubernetes=https://x,https://y", "'https://x,https://y' is more than one URL"),
    ("etcd /x --gpen=/x --etcd=http://x:99999", "'http://x:99999' is no URL: Port out of range"),
    ("file x", "no gpen to tell: give --gpen=CONTROL"),
    ("file x --gpen=x", "target 'x': expected /path/to.ctl"),
    ("file x --gpen=/x --owner=default", "--owner: 'default' is not a name for an owner"),
    ("file x --gpen=/x --numbers=9-1", "--numbers: '9-1' is not FIRST-LAST"),
    ("file x --gpen=/x --floor=no", "--floor: 'no' is not a number"),
    ("file x --gpen=/x --drain=0", "--drain: '0' is out of range"),
    ("file x --gpen=/x --format=xml", "--format: 'xml' is not one of auto, lines, json, yaml"),
])
def test_wrong_usage_is_one_line(words: str, why: str) -> None:
    done = run(*words.split())
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gpen-discover: ") and why in done.stderr and done.stderr.count("\n") == 1


def test_status_of_nobody(tmp_path: Path) -> None:
    done = run("status", f"--socket={tmp_path / 'no.sock'}")
    assert (done.returncode, done.stdout) == (3, "") and "does 'gpen-discover SOURCE' run" in done.stderr


@needs_root
def test_status_without_rights(tmp_path: Path, file: Path) -> None:
    """It runs, but as somebody else; the remedy is told."""
    open_to_all(tmp_path)
    with Discoverer(tmp_path, "file", str(file), gpens=(str(tmp_path / "no.ctl"),)) as discoverer:
        discoverer.status()
        os.seteuid(65534)
        try:
            with pytest.raises(ConsoleError) as failed:
                ask(discoverer.socket, "status", "gpen-discover SOURCE")
        finally:
            os.seteuid(0)
        assert str(failed.value) == (f"{discoverer.socket}: Permission denied; run this as root, or as the user of "
                                     "'gpen-discover SOURCE'")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Neither for our socket, nor for that of a gpen: what to do is told."""
    nowhere = tmp_path / "no" / "x"
    assert run("file", "x", "--gpen=/x", f"--socket={nowhere}").stderr == (
        f"gpen-discover: {nowhere}: No such file or directory; make the directory, or give another --socket\n")
    done = run_gpen("-C", str(nowhere), "0")
    assert done.stderr == f"gpen: can't listen on {nowhere}: No such file or directory: make its directory first\n"


def test_one_server_is_one(gpen: Start, tmp_path: Path, file: Path) -> None:
    write(file, A)
    with Discoverer(tmp_path, "file", str(file), gpens=(gpen(servers=[A]),)) as discoverer:
        wait_until(lambda: discoverer.status()["well"])
        assert " told 1 server at " in run("status", f"--socket={discoverer.socket}").stdout


def test_status_as_tables(gpen: Start, tmp_path: Path, file: Path) -> None:
    balancer = gpen(servers=[A])
    write(file, f"{B} weight 3", A)
    with Discoverer(tmp_path, "file", str(file), gpens=(balancer,)) as discoverer:
        wait_servers(balancer, f"{B} weight 3")
        wait_until(lambda: discoverer.status()["well"])
        done = run("status", f"--socket={discoverer.socket}")
        assert f"file {file}: told 2 servers at " in done.stdout and "owner discover\n" in done.stdout
        assert f"{A} is server 0, which nobody owns: it is left as it is\n" in done.stdout
