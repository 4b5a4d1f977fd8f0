"""The real `gpen-galera watch` as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.galera.cluster import WATCHER
from tests.harness import PATIENCE, ROOT, wait_until

COMMAND = [sys.executable, "-W", "error", str(ROOT / "contrib" / "galera" / "gpen-galera")]
ENDING = 5.0


def credentials(directory: Path) -> Path:
    """A my.cnf with the watcher's name and password."""
    file = directory / "watcher.cnf"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text("[client]\nuser={}\npassword={}\n".format(*WATCHER))
    return file


class Watcher:
    """A watcher with these options, its credentials in ``directory``; use it in a ``with``."""

    def __init__(self, directory: Path, *options: str, socket: Path | None = None) -> None:
        self.name = f"watcher{len(list(directory.glob('watcher*.err')))}"
        self._stderr = directory / f"{self.name}.err"
        self.socket = socket or directory / self.name
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, "watch", f"--defaults-file={credentials(directory)}", f"--socket={self.socket}",
                 *options], stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, cwd=directory)

    def __enter__(self) -> Watcher:
        try:
            wait_until(lambda: self.running and self.socket.exists(), PATIENCE, f"{self.name} listening")
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = self.stop()
        print(f"--- what {self.name} told on stderr\n{self.stderr}")
        if kind is None:
            assert status == 0
            assert "Traceback" not in self.stderr

    @property
    def running(self) -> bool:
        """True; raises AssertionError when it has ended by itself."""
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}: {self.stderr}"
        return True

    def stop(self) -> int:
        """End it by TERM, and return its exit status; 0 as well for one that a test has killed."""
        if self.process.poll() == -signal.SIGKILL:
            return 0
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGCONT)
        try:
            return self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `gpen-galera status` or `move` with this watcher."""
        return subprocess.run([*COMMAND, words[0], f"--socket={self.socket}", *words[1:]], capture_output=True,
                              text=True, timeout=PATIENCE, check=False)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()
