"""The real gpen as a process, on loopback sockets with ports of the kernel's choice; its servers are in servers.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests import preload
from tests.servers import (
    PATIENCE,
    Serve,
    Server,
    SilentServer,
    address_of,
    echo,
    family_of,
    free_port,
    hold,
    naming,
    refusing,
    reset,
    sending,
)

__all__ = ["COMMAND", "LOCAL", "PATIENCE", "PROGRAM", "ROOT", "WORKERS", "Gpen", "Serve", "Server", "SilentServer",
           "address_of", "connect",
           "echo", "family_of", "free_port", "hold", "knowing", "naming", "needs_root", "open_to_all", "pair_of",
           "read_all", "refusing", "reset", "run_gpen", "seeing", "sending", "started", "wait_until"]

ROOT = Path(__file__).resolve().parent.parent
WORKERS = int(os.environ.get("GPEN_TEST_WORKERS", "0"))  # that each gpen of the tests has, unless a test says otherwise
PROGRAM = str(preload.PROGRAM)
USUAL = ("-O", f"workers {WORKERS}") if WORKERS else ()
COMMAND = [sys.executable, *preload.FLAGS, PROGRAM, *USUAL]
LOCAL = "127.0.0.1:0"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE, what: str = "the condition") -> Any:
    """Ask until the answer is true, and return it. Raises AssertionError when it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.01)
    return answer


@contextlib.contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that the test has to end; if it fails before, or the process does not end, it is killed."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
            process.wait(PATIENCE)
        finally:
            process.kill()


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end of input; a reset is an end as well."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(1 << 16):
            received += piece
    return bytes(received)


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

    def __init__(self, directory: Path, *arguments: str, name: str = "gpen", control: str = "",
                 wrapper: Sequence[str] = (), fds: Sequence[int] = (), is_executed: bool = False) -> None:
        """``directory`` takes its files, which are called ``name``; ``control`` is the control socket, if it shall not
        be a file there; ``wrapper`` is a command that starts commands, and these descriptors are open to it. Without
        them it is forked by what has loaded gpen already, unless it has to be ``is_executed`` as a user's."""
        self.directory = directory
        self.arguments = arguments
        self.control = control or str(directory / f"{name}.ctl")
        self.log_file = directory / f"{name}.log"
        self._stderr = directory / f"{name}.err"
        self._is_executed = is_executed
        self.process = self._started(wrapper, fds)
        self.pid = self.process.pid
        try:
            wait_until(self._answers, what=f"an answer of {self.control}")
        except AssertionError:
            self.process.kill()
            self.process.wait()
            print(self.stderr)
            raise

    def _started(self, wrapper: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[Any] | preload.PreloadedGpen:
        arguments = [*USUAL, "-f", "-C", self.control, *self.arguments]
        loader = None if wrapper or fds or self._is_executed else preload.usual.loader()
        if loader:
            return preload.PreloadedGpen(loader, arguments, self.directory, self._stderr)
        with self._stderr.open("w") as stderr:
            return subprocess.Popen([*wrapper, sys.executable, *preload.FLAGS, PROGRAM, *arguments],
                                    stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, cwd=self.directory,
                                    pass_fds=fds)

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
        print(f"--- what {self.control} told on stderr\n{self.stderr}")
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

    def ctl(self, *lines: str, source: str = "") -> str:
        """Send command lines on one connection and return the replies."""
        with connect(pair_of(self.control), source) as sock:
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


def seeing(mounts: Mapping[str, Path]) -> tuple[str, ...]:
    """The wrapper that shows a command these files or directories in the places of others."""
    if os.geteuid() != 0:
        pytest.skip("only root can show a command other files than there are")
    binds = "".join(f"mount --bind {shown} {place} && " for place, shown in mounts.items())
    return ("unshare", "--mount", "sh", "-c", f'{binds}exec "$0" "$@"')


def knowing(directory: Path, names: str = "") -> tuple[str, ...]:
    """The wrapper for a command that knows localhost and these names (lines of a hosts file) only.

    Whatever name servers say; its files are in ``directory``.
    """
    hosts, services = directory / "known.hosts", directory / "known.switch"
    hosts.write_text(f"127.0.0.1 localhost\n{names}")
    services.write_text("hosts: files\nservices: files\n")
    return seeing({"/etc/hosts": hosts, "/etc/nsswitch.conf": services})


def open_to_all(directory: Path) -> None:
    """Let another user, whom gpen becomes, make and remove files in a directory of pytest's."""
    directory.chmod(0o777)
    for parent in directory.parents:
        if parent.owner() != directory.owner() or parent == Path(tempfile.gettempdir()):
            return
        parent.chmod(parent.stat().st_mode | 0o055)


def home_of(user: int, directory: Path) -> Path:
    """A directory of this user's, in one of ours that everybody can reach."""
    open_to_all(directory)
    directory.chmod(0o755)
    home = directory / "home"
    home.mkdir()
    os.chown(home, user, user)
    return home


def run_gpen(*arguments: str, directory: Path | None = None, wrapper: Sequence[str] = (), fds: Sequence[int] = (),
             ) -> subprocess.CompletedProcess[str]:
    """Run gpen to its end: for what it refuses, or answers at once."""
    return subprocess.run([*wrapper, *COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE,
                          cwd=directory, stdin=subprocess.DEVNULL, check=False, pass_fds=fds)
