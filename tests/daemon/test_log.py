"""The session log in its three formats, its rotation, and the status page."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Gpen, Server, echo, naming, wait_until
from tests.web.pages import Page, data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

LINE = re.compile(
    r"127\.0\.0\.2:(\d+) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) server 0 (\S+) "
    r"choose (\d+\.\d{6}) connect (\d+\.\d{6}) total (\d+\.\d{6}) up (\d+) down (\d+) (\S+)\n")


def log_of(balancer: Gpen) -> str:
    wait_until(lambda: balancer.log.endswith("\n"), what="a line in the log")
    return balancer.log


def visit(balancer: Gpen) -> int:
    """Send 4 bytes and get them back; returns the client's port."""
    with balancer.connect("127.0.0.2") as sock:
        sock.sendall(b"ping")
        assert sock.recv(10) == b"ping"
        return int(sock.getsockname()[1])


def test_fields(gpen: Start, servers: Serve) -> None:
    server = servers(echo)
    balancer = gpen("-l", "gpen.log", servers=[server])
    port = visit(balancer)
    match = LINE.fullmatch(log_of(balancer))
    assert match
    choose, connect, total = (float(match[group]) for group in (4, 5, 6))
    assert 0 <= choose + connect <= total < 20
    assert (int(match[1]), match[3], match[7], match[8], match[9]) == (port, server.address, "4", "4", "client-closed")


def test_json(gpen: Start, servers: Serve) -> None:
    server = servers(echo)
    balancer = gpen("-l", "gpen.log", "-O", "log_format json", servers=[server])
    port = visit(balancer)
    row = json.loads(log_of(balancer))
    assert list(row) == ["client", "started", "listener", "server", "server_address", "choose", "connect", "total",
                         "up", "down", "ending", "tls", "cipher", "sni", "subject", "server_tls",
                         "server_cipher", "tls_name", "route", "unique_id", "proxy"]
    assert (row["client"], row["server"], row["server_address"], row["up"], row["down"], row["ending"]) == (
        f"127.0.0.2:{port}", 0, server.address, 4, 4, "client-closed")


def test_pen(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "log_format pen", servers=[servers(echo)])
    balancer.ask(b"GET /\x00 HTTP/1.0\r\nHost: x\r\n\r\n", source="127.0.0.2")
    assert re.fullmatch(r"127\.0\.0\.2 \d{10} 127\.0\.0\.1 GET /\. HTTP/1\.0\n", log_of(balancer))


@pytest.mark.parametrize("ascii, shown", [([], "70 69 6e 67"), (["-a"], "ping")])
def test_bytes_are_shown_at_debug_2(gpen: Start, servers: Serve, ascii: list[str], shown: str) -> None:
    balancer = gpen("-dd", *ascii, servers=[servers(echo)])
    visit(balancer)
    balancer.wait_idle()
    for whence in ("client", "server"):
        assert f"session 0: 4 bytes from the {whence}: {shown}\n" in balancer.stderr


def test_the_log_changes_while_it_runs(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen("-l", "gpen.log", servers=[servers(echo)])
    visit(balancer)
    log_of(balancer)
    assert balancer.ctl(f"log {tmp_path}/other.log") == f"{tmp_path}/other.log\n"
    visit(balancer)
    wait_until(lambda: (tmp_path / "other.log").read_text().count("\n") == 1)
    assert balancer.log.count("\n") == 1
    assert balancer.ctl("no log") == ""
    visit(balancer)
    balancer.wait_idle()
    assert (tmp_path / "other.log").read_text().count("\n") == 1
    assert balancer.ctl("log") == ""


def is_echoed(sock: socket.socket, text: bytes) -> bool:
    """Whether a client of an echo server gets what it sends, and nothing else."""
    sock.sendall(text)
    return sock.recv(100) == text


@pytest.mark.parametrize("command, lines", [("log other.log", 1), ("no log", 0)])
def test_a_live_session_writes_to_the_log_of_the_moment(gpen: Start, servers: Serve, tmp_path: Path, command: str,
                                                        lines: int) -> None:
    """The descriptor of the old log belongs to a client by then, who must not be sent the lines."""
    (tmp_path / "other.log").touch()
    balancer = gpen("-l", "gpen.log", "-O", "log_format pen", servers=[servers(echo)])
    with ExitStack() as stack:
        old = stack.enter_context(balancer.connect())
        assert is_echoed(old, b"GET /before")
        assert not balancer.ctl(command).startswith("error")
        later = [stack.enter_context(balancer.connect()) for _ in range(3)]
        assert all(is_echoed(sock, b"GET /hello") for sock in later)
        assert is_echoed(old, b"GET /after")
        assert all(is_echoed(sock, b"GET /bye") for sock in later)
    assert ("/before" in balancer.log, balancer.log.count("\n")) == (True, 1)
    assert (tmp_path / "other.log").read_text().count("/after\n") == lines


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def full_fifo(fifo: Path) -> Iterator[Path]:
    """A FIFO with a reader that does not read, and no room for another byte."""
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    for size in (1 << 16, 4096, 1):
        try:
            while os.write(fd, bytes(size)):
                pass
        except BlockingIOError:
            continue
    yield fifo
    os.close(fd)


def test_a_fifo_without_a_reader_is_taken(gpen: Start, servers: Serve, fifo: Path) -> None:
    """While gpen runs as at its start; what is no log is refused."""
    balancer = gpen("-l", "gpen.log", servers=[servers(echo)])
    reply = balancer.ctl(f"log {fifo.parent}")
    assert (reply.startswith("error: "), str(fifo.parent) in reply, reply.count("\n")) == (True, True, 1)
    assert balancer.ctl("log") == "gpen.log\n"
    assert balancer.ctl(f"log {fifo}") == f"{fifo}\n"
    visit(balancer)
    balancer.wait_idle()
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
        wait_until(lambda: LINE.fullmatch((reader.read(1000) or b"").decode()))


def test_a_fifo_that_is_full_costs_lines_not_sessions(gpen: Start, servers: Serve, full_fifo: Path) -> None:
    balancer = gpen("-l", str(full_fifo), servers=[servers(echo)])
    for _ in range(3):
        visit(balancer)
    balancer.wait_idle()
    assert balancer.stderr.count(f"can't write the log '{full_fifo}'") == 1


def test_rotation_loses_no_line(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    balancer = gpen("-l", "gpen.log", servers=[servers(naming("a"))])
    over, visits = threading.Event(), []

    def come_and_go() -> None:
        while not over.is_set():
            assert balancer.ask() == b"a"
            visits.append(1)

    clients = [threading.Thread(target=come_and_go) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(5):
        wait_until(lambda: balancer.log.count("\n") > 5)
        balancer.log_file.rename(tmp_path / f"gpen.log.{number}")
        balancer.signal(signal.SIGHUP)
        wait_until(balancer.log_file.exists)
    over.set()
    for client in clients:
        client.join()
    balancer.wait_idle()
    files = [balancer.log_file, *(tmp_path / f"gpen.log.{number}" for number in range(5))]
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert len(lines) == len(visits) > 25
    assert all(line.endswith("-closed") for line in lines)


def test_a_full_disk_costs_lines_not_sessions(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "/dev/full", servers=[servers(naming("a"))])
    assert [balancer.ask() for _ in range(3)] == [b"a"] * 3
    balancer.wait_idle()
    assert balancer.stderr.count("can't write the log '/dev/full': No space left on device") == 1


@pytest.fixture
def marked(gpen: Start, servers: Serve, tmp_path: Path) -> Gpen:
    """A gpen with a server whose name would be markup, if it were not escaped."""
    path = tmp_path / "<i>&'\"quoted"
    return gpen("-r", "-w", "stats.html", servers=[servers(naming("a"), at=str(path)), servers(naming("b"))])


def test_status_page(marked: Gpen, tmp_path: Path) -> None:
    with marked.connect() as sock:
        assert sock.recv(1) == b"a"
        text = marked.ctl("status")
    page, data = Page(text), data_of(text)
    assert text.startswith("<!DOCTYPE html>")
    path = str(tmp_path / "<i>&'\"quoted")
    assert "i" not in page.seen and path not in text and data["servers"][0]["address"] == path
    assert not page.loads and "@import" not in text and "url(" not in text
    assert 'name="viewport"' in text
    assert data["sessions"][0]["server_address"] == path and data["recent"][0]["address"] == "127.0.0.1"
    assert data["listeners"][0]["rule"] == "round robin"


def test_usr1_writes_the_page(marked: Gpen, tmp_path: Path) -> None:
    marked.signal(signal.SIGUSR1)
    wait_until((tmp_path / "stats.html").exists)
    Page((tmp_path / "stats.html").read_text())


def test_usr1_without_a_file_tells(gpen: Start, servers: Serve) -> None:
    balancer = gpen(servers=[servers(naming("a"))])
    balancer.signal(signal.SIGUSR1)
    wait_until(lambda: "servers: 0 addr 127.0.0.1" in balancer.stderr)
