"""A real name server, nsd, whose zone gpen.test changes, and which is killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.harness import PATIENCE
from tests.nameserver import CONFIG, wait_for_answer
from tests.servers import free_port

HOST = "127.0.0.1"
HEAD = """\
$TTL 1
@ IN SOA ns hostmaster {serial} 3600 600 86400 1
@ IN NS ns
ns IN A 127.0.0.1
"""


class Zone:
    """nsd with these records, until the end of a ``with``."""

    def __init__(self, directory: Path, *records: str) -> None:
        self.port = free_port(HOST)
        self.server = f"{HOST}:{self.port}"
        self._directory = directory / "nsd"
        self._directory.mkdir()
        (self._directory / "nsd.conf").write_text(CONFIG.format(directory=self._directory, host=HOST, port=self.port))
        self._serial = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._write(records)
        self.start()

    def __enter__(self) -> Zone:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self.kill()

    def _write(self, records: Sequence[str]) -> None:
        self._serial += 1
        file = self._directory / "zone"
        file.write_text(HEAD.format(serial=self._serial) + "".join(f"{record}\n" for record in records))
        os.utime(file, (time.time() + self._serial,) * 2)  # nsd reads one again that has another second

    def change(self, *records: str) -> None:
        """These are the records from now on."""
        self._write(records)
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        command = [shutil.which("nsd") or "/usr/sbin/nsd", "-d", "-c", str(self._directory / "nsd.conf")]
        with (self._directory / "nsd.err").open("a") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                                             start_new_session=True)
        wait_for_answer(HOST, self.port, self._process)

    def kill(self) -> None:
        """End it with its children, at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
        self._process = None


class Silent:
    """A name server that takes questions, and answers none."""

    def __init__(self, host: str = HOST) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((host, 0))
        self.server = f"{host}:{self._sock.getsockname()[1]}"

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 ) -> None:
        self._sock.close()
