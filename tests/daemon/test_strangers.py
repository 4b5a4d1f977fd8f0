"""What strangers say, and where it is told: whatever bytes they send, nothing acts on a terminal or forges a line."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.galera.watcher import COMMAND as GALERA
from tests.gpenctl.daemon import GPENCTL
from tests.harness import Gpen, Server, sending, wait_until
from tests.netlog.programs import Collector, send
from tests.web.pages import data_of

Start = Callable[..., Gpen]
Serve = Callable[..., Server]
Tell = Callable[[bytes], bytes]

NASTY = "\x1b[31m\x9b2J\x7f\0\x07\r\x85\u202e\u2066\u2028\u200b\u3164".encode() + b"\xff"
TOLD = (r"\x1b[31m\xc2\x9b2J\x7f\x00\x07\x0d\xc2\x85\xe2\x80\xae\xe2\x81\xa6\xe2\x80\xa8\xe2\x80\x8b\xe3\x85\xa4\xff")
BEGINNING = r"\x1b[31m"


def assert_harmless(text: bytes) -> None:
    """Lines of what can be printed, and seen."""
    for line in text.decode().split("\n"):
        assert line.isprintable() and "\u3164" not in line, line


def told_by(balancer: Gpen, expected: str) -> str:
    """All that a gpen tells anywhere, once it tells this somewhere."""

    def told() -> str | None:
        lines = ("servers", "sessions", "recent", "events", "status", "explain 127.0.0.1")
        replies = [balancer.ctl(line) for line in lines]
        text = "\n".join([*replies, balancer.log, balancer.stderr])
        assert_harmless(text.encode())
        for line in ("servers", "sessions", "events"):
            assert balancer.ctl(f"{line} json").isascii()
        return text if expected in text else None

    text: str = wait_until(told, what=f"{expected} somewhere")
    assert_harmless(balancer.log_file.read_bytes() if balancer.log_file.exists() else b"")
    return text


PROXY = [b"PROXY TCP4 1.1.1.1 1.1.1.1 " + NASTY + b"X 1\r\n", b"PROXY TCP4 " + NASTY + b" 1.1.1.1 1 1\r\n",
         b"PROXY " + NASTY + b"\r\n", b"PROXY TCP4 1.1.1.1 1.1.1.1 \x1b[31mX 1\r\n"]


@pytest.mark.parametrize("header", PROXY)
def test_a_proxy_header(gpen: Start, servers: Serve, header: bytes) -> None:
    balancer = gpen("-d", "-l", "gpen.log", "-O", "acl 3 permit 127.0.0.0/8", "-O", "accept_proxy 3",
                    servers=[servers(sending(b"hello"))])
    assert balancer.ask(header + b"hello") == b""
    told_by(balancer, "malformed")


@pytest.mark.parametrize(("header", "expected"), [
    (PROXY[-1], rf"'{BEGINNING}X' is not a port"),
    (b"PROXY TCP4 \x1b[31mX 1.1.1.1 1 1\r\n", rf"'{BEGINNING}X' is not an IPv4 address"),
    (b"PROXY TCP6 ::1 1.1.1.1 1 1\r\n", "'1.1.1.1' is not an IPv6 address"),
    (b"PROXY TCP4 \xc2\x9b 1.1.1.1 1 1\r\n", "the line has bytes that are not ASCII"),
])
def test_the_word_of_a_proxy_header_is_quoted(gpen: Start, servers: Serve, header: bytes, expected: str) -> None:
    balancer = gpen("-O", "acl 3 permit 127.0.0.0/8", "-O", "accept_proxy 3", servers=[servers(sending(b"hello"))])
    balancer.ask(header)
    told_by(balancer, f"malformed: {expected}")


def test_a_mysql_error(gpen: Start, servers: Serve) -> None:
    body = b"\xff" + (1040).to_bytes(2, "little") + b"#08004" + NASTY + b"\nforged"
    server = servers(sending(len(body).to_bytes(3, "little") + b"\0" + body))
    balancer = gpen("-d", "-l", "gpen.log", "-O", "mysql", servers=[server])
    balancer.ask()
    told_by(balancer, TOLD + r"\x0aforged")


def test_an_answer_to_a_check(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-d", "-O", "check send PING expect PONG", "-O", "check_interval 0.1",
                    servers=[servers(sending(NASTY))])
    told_by(balancer, BEGINNING)


def test_the_output_of_a_check_s_program(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!/usr/bin/env python3\nimport sys\nsys.stdout.buffer.write(%r)\nsys.exit(1)\n"
                        % (NASTY + rb"C:\new" + b"\nforged"))
    program.chmod(0o755)
    balancer = gpen("-d", "-O", f"check exec {program}", "-O", "check_interval 0.1", servers=[servers(sending(b""))])
    told_by(balancer, TOLD + r"C:\\new")


LINES = """\
{}
help {}
timeout {}
server 0 address {}
server {} max 3
server 0 health down because x{}
log /tmp/{}/x
acl 1 permit {}
source {}
blacklist {}
explain {}
include /tmp/{}
check send {} expect x
web_stats {}"""


@pytest.mark.parametrize("line", LINES.split("\n"))
def test_a_control_line(gpen: Start, servers: Serve, line: str) -> None:
    balancer = gpen("-d", servers=[servers(sending(b"hello"))])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(balancer.control)
        sock.sendall(line.replace("{}", f"a{NASTY[:20].decode('latin-1')}b").encode("latin-1") + b"\n")
        sock.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: sock.recv(65536), b""))
    assert_harmless(reply)
    told_by(balancer, "")


def test_a_request_of_http(gpen: Start, servers: Serve) -> None:
    pytest.importorskip("httptools")
    balancer = gpen("-d", "-H", servers=[servers(sending(b""))])
    for line in (b"Connection: x-forwarded-\xc2\x9b2J\xe2\x80\xae\xff", b"Content-Length: \xc2\x9b\xff",
                 b"A" + NASTY + b": b"):
        balancer.ask(b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")
    told_by(balancer, r"'x-forwarded-\xc2\x9b2J\xe2\x80\xae\xff'")


def test_bytes_that_are_dumped(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-dd", "-a", servers=[servers(sending(NASTY))])
    balancer.ask(NASTY)
    told_by(balancer, "bytes from the server")


def test_pen_s_lines(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-l", "gpen.log", "-O", "log_format pen", servers=[servers(sending(b""))])
    balancer.ask(NASTY)
    told_by(balancer, "31m")


def test_a_file_that_is_read_again(gpen: Start, servers: Serve, tmp_path: Path) -> None:
    file = tmp_path / "gpen.cfg"
    file.write_text(f"server 0 address {servers(sending(b'')).address}\n")
    balancer = gpen("-F", str(file))
    for line in (NASTY[:-1], b"timeout " + NASTY[:-1], NASTY):
        file.write_bytes(line)
        assert_harmless(balancer.ctl("reload").encode())
    told_by(balancer, BEGINNING)


def test_a_status_page(gpen: Start, servers: Serve) -> None:
    balancer = gpen("-O", "check send PING expect PONG", "-O", "check_interval 0.1",
                    servers=[servers(sending("<script>\x1b[31m\u202e&".encode()))])
    told_by(balancer, r"\u003cscript>\\x1b[31m\\xe2\\x80\\xae&")
    page = balancer.ctl("status")
    assert "<script>\\" not in page
    assert data_of(page)["servers"][0]["reason"] == r"answered '<script>\x1b[31m\xe2\x80\xae&' instead of 'PONG'"


def test_gpenlogd(tmp_path: Path) -> None:
    with Collector(tmp_path, "-d") as collector:
        send(collector.address, b"+ " + NASTY + b" b c", b"+ 1.1.1.1 1.1.1.1 " + NASTY, NASTY,
             b'127.0.0.1 "GET /' + NASTY[:-1] + b'\nforged"\n')
        log: bytes = wait_until(collector.file.read_bytes)
        assert_harmless(log)
        assert TOLD.removesuffix(r"\xff").encode() + rb"\x0aforged" in log and log.count(b"\n") == 1
        wait_until(lambda: BEGINNING in collector.stderr)
        assert_harmless(collector.stderr.encode())


# --- a program that only seems to be gpen, or a node ------------------------------------------------------------------


@contextlib.contextmanager
def hostile(path: Path, answer: bytes) -> Iterator[None]:
    """A control socket whose daemon has the pid 1, and answers this to everything else."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                sock.sendall(b"1\n" if sock.recv(4096).startswith(b"pid") else answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def on_a_terminal(*command: str) -> bytes:
    """What a command writes to a terminal, in lines."""
    script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) and 0)"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, timeout=20, check=False,
                          stdin=subprocess.DEVNULL)
    return done.stdout.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("answer", [
    NASTY, b"error: " + NASTY, json.dumps([{"number": 0, "address": NASTY.decode("latin-1"), "health": "\x1b[2Jup",
                                            "\x1b[31m": "\u202e"}]).encode()])
@pytest.mark.parametrize("words", [("servers",), ("--format=plain", "servers"), ("--format=json", "servers"),
                                   ("--format=csv", "servers"), ("status",), ("help",), ("events",),
                                   ("drain", "0", "1")])
def test_gpenctl_and_a_daemon_that_is_none(tmp_path: Path, answer: bytes, words: tuple[str, ...]) -> None:
    with hostile(tmp_path / "ctl", answer):
        assert_harmless(on_a_terminal(*GPENCTL, "--color=never", str(tmp_path / "ctl"), *words))


def test_gpen_galera_and_a_watcher_that_is_none(tmp_path: Path) -> None:
    row = {"node": NASTY.decode("latin-1"), "name": "a\nforged", "state": "\x1b[31m", "usable": False,
           "reason": "\u202e" * 50, "role": "reader", "latency": None, "queue": None, "since": None}
    answer = json.dumps({"nodes": [row], "gpens": [], "well": False, "agreed": None, "writer": None, "heir": None,
                         "trouble": "\x1b"})
    for words, said in (("status",), answer), (("move", "a"), '{"error": "a\\u001b\\n"}'), (("move", "a"), "\x1b"):
        with hostile(tmp_path / "socket", said.encode() + b"\n"):
            done = subprocess.run([*GALERA, words[0], "--socket", str(tmp_path / "socket"), *words[1:]],
                                  capture_output=True, timeout=20, check=False)
        (tmp_path / "socket").unlink()
        assert_harmless(done.stdout + done.stderr)
        assert done.stdout + done.stderr and b"forged\n" not in done.stdout


def test_gpen_galera_and_a_node_that_is_none(servers: Serve) -> None:
    pytest.importorskip("pymysql")
    body = b"\xff" + (1045).to_bytes(2, "little") + b"#28000" + NASTY + b"\nforged"
    server = servers(sending(len(body).to_bytes(3, "little") + b"\0" + body))
    done = subprocess.run([*GALERA, "check", server.address], capture_output=True, timeout=20, check=False,
                          env={"GPEN_GALERA_USER": "a", "GPEN_GALERA_PASSWORD": "b", "PATH": "/usr/bin:/bin"})
    assert_harmless(done.stdout + done.stderr)
    assert BEGINNING.encode() in done.stdout
