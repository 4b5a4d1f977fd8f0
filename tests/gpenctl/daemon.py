"""A small control server, on real sockets, that answers what a test tells it to; and gpenctl as a process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.harness import family_of

ROOT = Path(__file__).parents[2]
GPENCTL = [sys.executable, str(ROOT / "bin" / "gpenctl")]


def server(number: int | None, name: str, **more: Any) -> dict[str, Any]:
    """One item of `servers json`, as gpen sends it."""
    port = 3306
    return {
        "number": number,
        "name": name,
        "address": f"{name}:{port}",
        "host": name,
        "port": port,
        "state": "ready",
        "health": "up",
        "reason": "",
        "since": time.time() - 192,
        "blacklisted": 0,
        "sessions": 3,
        "max": 50,
        "hard": 0,
        "weight": 1,
        "prio": 0,
        "acl": 0,
        "sx": 1536,
        "rx": 5 * 1024**2,
        "total": 4711,
        "failures": 0,
        **more,
    }


SERVERS = [
    server(0, "10.0.0.1"),
    server(
        1, "10.0.0.2", health="down", reason="connection refused", blacklisted=12.4, sessions=0, failures=7
    ),
    server(2, "10.0.0.3", state="drain", max=0),
    server(None, "emergency", address="127.0.0.1:80", health="trial"),
]

REPLIES: dict[str, str] = {
    "pid": "4711\n",
    "servers": "0 addr 10.0.0.1 port 3306 conn 3 max 50 hard 0 weight 1 prio 0 sx 1536 rx 5242880\n",
    "servers json": json.dumps(SERVERS) + "\n",
    "timeout": "5\n",
    "server 1 max 50": "",
    "server 1 max many": "error: server: max: 'many' is not a number\n",
    "severs": "do_cmd: ignoring command starting with 'severs'\n",
    "log": "/tmp/a\x1b]0;owned\x07b\n",
}


class Daemon:
    """Answers each connection's line from `replies`: text, or a function that is given the connection.

    `lines` are those that came, but for `pid`, by which gpenctl makes sure each time whom it talks to.
    """

    def __init__(self, listener: socket.socket, target: str) -> None:
        self.listener, self.target = listener, target
        self.replies: dict[str, str | Callable[[socket.socket], None]] = dict(REPLIES)
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                self.answer(link)

    def answer(self, link: socket.socket) -> None:
        asked = b""
        while chunk := link.recv(65536):  # until the client has closed its side: gpenctl must half-close
            asked += chunk
        line = asked.decode("utf-8", "surrogateescape").removesuffix("\n")
        if line != "pid":
            self.lines.append(line)
        reply = self.replies.get(line, f"do_cmd: ignoring command starting with '{line.partition(' ')[0]}'\n")
        if callable(reply):
            reply(link)
        else:
            link.sendall(reply.encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


def unix_daemon(path: Path) -> Daemon:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return Daemon(listener, str(path))


def tcp_daemon(host: str) -> Daemon:
    listener = socket.create_server((host, 0), family=family_of(host))
    return Daemon(listener, f"{host}:{listener.getsockname()[1]}")


Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Terminal:
    """gpenctl on a pseudo-terminal of its own: `expect` waits for what it shows, `send` types."""

    # The terminal must be the controlling one, so that Ctrl-C is a signal.
    TAKE = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

    def __init__(
        self, words: list[str], environment: dict[str, str], columns: int = 200, lines: int = 40,
        program: Sequence[str] = GPENCTL,
    ) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.TAKE, *program, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environment,
        )
        os.close(slave)
        self.shown = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, deadline: float) -> bool:
        """Take in what the terminal shows next; False at its end."""
        ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing more came; shown until then:\n{self.shown!r}")
        try:
            data = os.read(self.master, 65536)
        except OSError:  # how Linux tells that the last process has closed its side
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text: str, seconds: float = 20) -> str:
        """Wait for `text`; returns what was shown up to and including it, and forgets that."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            if not self.read(deadline):
                raise AssertionError(f"ended without {text!r}; shown until then:\n{self.shown!r}")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def finish(self, seconds: float = 20) -> tuple[int, str]:
        """Wait for the end; the exit status, and what was shown since the last `expect`."""
        deadline = time.monotonic() + seconds
        while self.read(deadline):
            pass
        return self.process.wait(seconds), self.shown

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
