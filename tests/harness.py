"""The real gpen as a process, and small real servers for it, on loopback sockets with ports of the kernel's choice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-W", "error", str(ROOT / "bin" / "gpen")]
PATIENCE = 20.0
LOCAL = "127.0.0.1:0"

Serve = Callable[[socket.socket], None]


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE, what: str = "the condition") -> Any:
    """Ask until the answer is true, and return it. Raises AssertionError when it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.01)
    return answer


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end of input; a reset is an end as well."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(1 << 16):
            received += piece
    return bytes(received)


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an end of input."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def connect(address: tuple[str, int] | str, source: str = "", seconds: float = PATIENCE) -> socket.socket:
    """A socket connected to a host and port or a path, from the address ``source``, that waits so many seconds."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(seconds)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection(address, seconds, (source, 0) if source else None)


def pair_of(address: str) -> tuple[str, int] | str:
    """``host:port`` as what `connect` takes; a path stays one. The unspecified address means this machine."""
    if address.startswith("/"):
        return address
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    return host, int(port)


class Gpen:
    """A gpen in the foreground with a control socket, started with these arguments; use it in a ``with``."""

    def __init__(self, directory: Path, *arguments: str, name: str = "gpen", wrapper: tuple[str, ...] = ()) -> None:
        """``directory`` takes its files, which are called ``name``; ``wrapper`` is a command that starts commands."""
        self.directory = directory
        self.control = directory / f"{name}.ctl"
        self.log_file = directory / f"{name}.log"
        self._stderr = directory / f"{name}.err"
        self._socket = ""
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*wrapper, *COMMAND, "-f", "-C", str(self.control), *arguments], stdin=subprocess.DEVNULL,
                stdout=stderr, stderr=stderr, cwd=directory)
        self.pid = self.process.pid
        try:
            wait_until(self._answers, what=f"an answer of {self.control}")
        except AssertionError:
            self.process.kill()
            self.process.wait()
            print(self.stderr)
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"gpen ended with status {self.process.returncode}: {self.stderr}")
        try:
            return self.ctl("pid") == f"{self.pid}\n"
        except OSError:
            return False

    def __enter__(self) -> Gpen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        status = self.stop()
        print(f"--- what {self.control.stem} told on stderr\n{self.stderr}")
        if kind is None:
            assert status == 0
            assert "Traceback" not in self.stderr

    def stop(self) -> int:
        """End it by TERM, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ctl(self, *lines: str) -> str:
        """Send command lines on one connection and return the replies."""
        with connect(str(self.control)) as sock:
            sock.sendall("".join(f"{line}\n" for line in lines).encode())
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock).decode()

    def json(self, line: str) -> Any:
        """The reply to a command in JSON, read."""
        return json.loads(self.ctl(f"{line} json"))

    def server(self, number: int) -> dict[str, Any]:
        """The row of `servers` with this number."""
        return next(row for row in self.json("servers") if row["number"] == number)

    @property
    def address(self) -> tuple[str, int] | str:
        """Where clients connect: host and port, or the path of a unix socket."""
        return pair_of(self.ctl("listen").strip())

    def connect(self, source: str = "", seconds: float = PATIENCE) -> socket.socket:
        """A client's socket, connected to it."""
        return connect(self.address, source, seconds)

    def ask(self, request: bytes = b"", source: str = "") -> bytes:
        """What a client gets that sends a request and reads to the end."""
        with self.connect(source) as sock:
            with contextlib.suppress(OSError):  # the server may be through with us already
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def wait_idle(self, seconds: float = PATIENCE) -> None:
        """Wait until no session is left, and check that no place on a server is either."""
        wait_until(lambda: not self.json("sessions"), seconds, "the end of all sessions")
        assert [row["sessions"] for row in self.json("servers")] == [0] * len(self.json("servers"))

    @property
    def stderr(self) -> str:
        """What it told so far."""
        return self._stderr.read_text()

    @property
    def log(self) -> str:
        """The text of its session log, where `-l gpen.log` was given."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def rss(self) -> int:
        """Its memory, in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu(self) -> float:
        """The processor time that it has used, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fds(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def run_gpen(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run gpen to its end: for what it refuses, or answers at once."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, cwd=directory,
                          stdin=subprocess.DEVNULL, check=False)


class Server:
    """A server on a real socket: each connection is handed to ``serve`` in a thread, and closed when that returns."""

    def __init__(self, serve: Serve, at: str = "127.0.0.1", port: int = 0) -> None:
        """``at`` is an IPv4 or IPv6 address, or the path of a unix socket."""
        self._serve = serve
        self.socket = _listening(at, port)
        self.address = address_of(self.socket)
        self.port = self.socket.getsockname()[1] if not at.startswith("/") else 0
        self.served = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.served += 1
            self._open.add(client)
            self._start(self._handle, client)

    def _handle(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._serve(client)
        self._open.discard(client)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end what is being served."""
        for sock in (self.socket, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for thread in self._threads:
            thread.join(PATIENCE)


class SilentServer:
    """A listener that never answers a SYN: its backlog is full, and nobody accepts."""

    def __init__(self, port: int = 0) -> None:
        self.socket = _listening("127.0.0.1", port, backlog=0)
        self.address, self.port = address_of(self.socket), self.socket.getsockname()[1]
        self._fillers: list[socket.socket] = []
        while not self._is_full():
            pass

    def _is_full(self) -> bool:
        filler = socket.socket()
        self._fillers.append(filler)
        filler.settimeout(0.1)
        try:
            filler.connect(self.socket.getsockname())
        except TimeoutError:
            return True
        return False

    def __enter__(self) -> SilentServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in (self.socket, *self._fillers):
            sock.close()


def _listening(at: str, port: int, backlog: int = 1000) -> socket.socket:
    if at.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(at)
        sock.listen(backlog)
        return sock
    family = socket.AF_INET6 if ":" in at else socket.AF_INET
    return socket.create_server((at, port), family=family, backlog=backlog)


def address_of(sock: socket.socket) -> str:
    """The address of a socket as gpen takes it."""
    name = sock.getsockname()
    if isinstance(name, str):
        return name
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An address of this machine where nobody listens, as long as the context lasts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield address_of(sock)


def echo(sock: socket.socket) -> None:
    """Send back what comes."""
    while piece := sock.recv(1 << 16):
        sock.sendall(piece)


def hold(sock: socket.socket) -> None:
    """Take what comes, say nothing, until the client closes."""
    while sock.recv(1 << 16):
        pass


def resetting(sock: socket.socket) -> None:
    """Accept, then reset."""
    reset(sock)


def naming(name: str) -> Serve:
    """Say one's name at once, then behave like `echo`."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(name.encode())
        echo(sock)

    return serve


def sending(data: bytes, ends: Callable[[socket.socket], None] = socket.socket.close) -> Serve:
    """Send and close at once, or end by ``reset``."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(data)
        ends(sock)

    return serve
