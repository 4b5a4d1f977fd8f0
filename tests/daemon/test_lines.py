"""Where the log goes that is no plain file, and what a full disk leaves of its lines."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpen.daemon.line_file import LineFile
from tests.daemon.conftest import ctl
from tests.daemon.test_parent import left
from tests.harness import COMMAND, Gpen, Server, connect, naming, needs_root, open_to_all, pair_of, started, wait_until
from tests.netlog.programs import GPENLOGD, listening_on

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

LINE = re.compile(r"127\.0\.0\.1:\d+ \S+Z server 0 \S+ choose \S+ connect \S+ total \S+ up \d+ down \d+ \S+\n")


def are_lines(text: str) -> bool:
    """Whether it is whole lines of the session log and nothing else."""
    return bool(text) and all(map(LINE.fullmatch, text.splitlines(keepends=True)))


@pytest.fixture
def server(servers: Serve) -> Server:
    return servers(naming("a"))


# --- standard output --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_standard_output(tmp_path: Path, server: Server, name: str, kind: str) -> None:
    with ExitStack() as stack:
        if kind == "file":
            theirs: int | socket.socket = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
            ours = os.open(tmp_path / "out", os.O_RDONLY)
        elif kind == "socket":  # as systemd gives it to a service
            ours_socket, theirs = map(stack.enter_context, socket.socketpair())
            ours = ours_socket.fileno()
        else:
            ours, theirs = os.pipe()
        process = subprocess.Popen([*COMMAND, "-f", "-C", "./gpen.ctl", "-l", name, "127.0.0.1:0", server.address],
                                   cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE)
        wait_until((tmp_path / "gpen.ctl").exists)
        process.send_signal(signal.SIGHUP)  # nothing to rotate
        visit(tmp_path / "gpen.ctl")
        visit(tmp_path / "gpen.ctl")
        process.terminate()
        _, told = process.communicate(timeout=20)
        assert process.returncode == 0 and b"log" not in told, told
        text = os.read(ours, 10_000).decode()
        assert text.count("\n") == 2 and are_lines(text)


def visit(control: Path) -> None:
    def comes_through() -> bool:
        try:
            with connect(pair_of(ctl(control, "listen").strip())) as sock:
                return sock.recv(1) == b"a"
        except OSError:
            return False

    wait_until(comes_through)


def test_standard_output_in_the_background(tmp_path: Path, server: Server) -> None:
    """It stays what it was when the command was given, as with gpenlogd."""
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run([*COMMAND, "-p", "gpen.pid", "-C", "./gpen.ctl", "-l", "-", "127.0.0.1:0",
                               server.address], cwd=tmp_path, stdout=out, timeout=20, check=False)
    assert done.returncode == 0
    pid = int((tmp_path / "gpen.pid").read_text())
    try:
        visit(tmp_path / "gpen.ctl")
        wait_until(lambda: are_lines((tmp_path / "out").read_text()))
        assert not (tmp_path / "-").exists()
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (tmp_path / "gpen.pid").exists())


def test_a_pipe_that_nobody_reads_delays_nobody(tmp_path: Path, server: Server) -> None:
    ours, theirs = os.pipe()
    with started([*COMMAND, "-f", "-C", "./gpen.ctl", "-l", "-", "-O", "check connect", "127.0.0.1:0",
                           server.address], cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        visit(tmp_path / "gpen.ctl")
        address = pair_of(ctl(tmp_path / "gpen.ctl", "listen").strip())
        for _ in range(600):  # of 150 bytes each: more than the 64 KiB of a pipe
            with connect(address) as sock:
                assert sock.recv(1) == b"a"
        assert ctl(tmp_path / "gpen.ctl", "pid")
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr and process.stderr.read().count(b"can't write the log '-'") == 1
    text = os.read(ours, 1 << 17).decode()
    assert text.count("\n") > 300 and are_lines(text)
    os.close(ours)


@needs_root
def test_standard_output_keeps_its_owner(tmp_path: Path, server: Server) -> None:
    with (tmp_path / "out").open("w") as out, started(
            [*COMMAND, "-f", "-u", "nobody", "-C", "./gpen.ctl", "-l", "-", "127.0.0.1:0", server.address],
            cwd=tmp_path, stdout=out) as process:
        visit(tmp_path / "gpen.ctl")
        process.terminate()
    assert (tmp_path / "out").stat().st_uid == 0


# --- FIFOs and sockets ------------------------------------------------------------------------------------------------


def test_a_fifo_without_a_reader(gpen: Start, server: Server, tmp_path: Path) -> None:
    """It is no hindrance; who reads it later gets the lines, and may come and go."""
    os.mkfifo(tmp_path / "fifo")
    balancer = gpen("-l", "fifo", servers=[server])
    for _ in range(2):
        assert balancer.ask() == b"a"
        with open(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as fifo:
            wait_until(lambda fifo=fifo: are_lines((fifo.read(10_000) or b"").decode()))
    balancer.signal(signal.SIGHUP)
    assert balancer.ask() == b"a"


@needs_root
def test_a_fifo_that_gpen_may_only_write(gpen: Start, server: Server, tmp_path: Path) -> None:
    """It opens when somebody reads it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "fifo").chmod(0o222)
    open_to_all(tmp_path)
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    balancer = gpen("-l", "fifo", servers=[server], wrapper=as_nobody)
    assert balancer.ask() == b"a"
    wait_until(lambda: "can't write the log 'fifo': nobody reads it" in balancer.stderr)
    with open(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as fifo:
        def has_come() -> bool:
            assert balancer.ask() == b"a"
            return are_lines((fifo.read(10_000) or b"").decode())

        wait_until(has_come)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_socket(gpen: Start, server: Server, tmp_path: Path, kind: int) -> None:
    """Also one where nobody listens at first, or for a while."""
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(path)
    balancer = gpen("-l", "journal", servers=[server])
    assert balancer.ask() == b"a"
    for _ in range(2):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX, kind) as journal:
            journal.bind(path)
            if kind == socket.SOCK_STREAM:
                journal.listen()
            journal.settimeout(0.1)
            wait_until(lambda journal=journal: balancer.ask() == b"a" and are_lines(received(journal)))
    assert balancer.ask() == b"a"


def received(sock: socket.socket) -> str:
    """What came within a tenth of a second: a datagram, or what a new connection brings."""
    try:
        if sock.type == socket.SOCK_DGRAM:
            return sock.recv(10_000).decode()
        link, _ = sock.accept()
        with link:
            return link.recv(10_000).decode()
    except TimeoutError:
        return ""


def test_a_directory_is_an_error(tmp_path: Path, server: Server) -> None:
    done = subprocess.run([*COMMAND, "-f", "-l", str(tmp_path), "127.0.0.1:0", server.address], capture_output=True,
                          text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (1, f"gpen: {tmp_path}: Is a directory\n")


# --- full disks -------------------------------------------------------------------------------------------------------

SMALL = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4k none disk && exec "$0" "$@"')


@needs_root
def test_a_full_disk(gpen: Start, server: Server, tmp_path: Path) -> None:
    """Lines are lost; of the one that was begun the rest comes first when there is room again."""
    (tmp_path / "disk").mkdir()
    balancer = gpen("-l", "disk/log", servers=[server], wrapper=SMALL)
    file = Path(f"/proc/{balancer.pid}/root{tmp_path}/disk/log")
    while "can't write the log" not in balancer.stderr:
        assert balancer.ask() == b"a"
    assert file.stat().st_size == 4096 and not file.read_text().endswith("\n")
    subprocess.run(["nsenter", "-t", str(balancer.pid), "-m", "mount", "-o", "remount,size=64k",
                    str(tmp_path / "disk")], check=True)
    assert balancer.ask() == b"a"
    wait_until(lambda: file.stat().st_size > 4096)
    assert are_lines(file.read_text())


def test_a_limit_of_file_size(gpen: Start, server: Server, tmp_path: Path) -> None:
    """A hard one, which can't be raised; and HUP takes up a new file."""
    balancer = gpen("-l", "gpen.log", servers=[server],
                    wrapper=left("resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"))
    while "can't write the log" not in balancer.stderr:
        assert balancer.ask() == b"a"
    (tmp_path / "gpen.log").rename(tmp_path / "gpen.log.1")
    balancer.signal(signal.SIGHUP)
    wait_until((tmp_path / "gpen.log").exists)
    assert balancer.ask() == b"a"
    wait_until(lambda: are_lines(balancer.log))
    assert (tmp_path / "gpen.log.1").stat().st_size == 1000


def test_what_a_crash_has_left_of_a_line(gpen: Start, server: Server, tmp_path: Path) -> None:
    (tmp_path / "gpen.log").write_text("127.0.0.1:9 2026-11-")
    balancer = gpen("-l", "gpen.log", servers=[server])
    assert balancer.ask() == b"a"
    wait_until(lambda: balancer.log.endswith("closed\n"))
    first, rest = balancer.log.split("\n", 1)
    assert first == "127.0.0.1:9 2026-11-" and are_lines(rest)


@needs_root
def test_a_full_disk_and_gpenlogd(tmp_path: Path) -> None:
    full = tmp_path / "disk"
    full.mkdir()
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen([*SMALL, *GPENLOGD, "-f", "-l", "disk/log", "127.0.0.1:0"], cwd=tmp_path, stderr=err)
    with process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as web:
        address = wait_until(lambda: listening_on((tmp_path / "err").read_text()))
        file = Path(f"/proc/{process.pid}/root{full}/log")
        line = b'- - "GET /' + b"x" * 140 + b'"\n'
        for _ in range(40):
            web.sendto(line, address)
        wait_until(lambda: "lines are lost" in (tmp_path / "err").read_text())
        subprocess.run(["nsenter", "-t", str(process.pid), "-m", "mount", "-o", "remount,size=64k", str(full)],
                       check=True)
        web.sendto(line, address)
        wait_until(lambda: file.stat().st_size > 4096)
        assert set(file.read_bytes().splitlines(keepends=True)) == {line}
        process.terminate()


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_line_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """Whatever the kernel takes at a time: each line is whole."""
    file = LineFile(str(tmp_path / "log"))
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, data: write(fd, data[:pieces]))
    for number in range(10):
        file.write(b"line %d\n" % number)
    file.close()
    assert (tmp_path / "log").read_bytes() == b"".join(b"line %d\n" % number for number in range(10))
