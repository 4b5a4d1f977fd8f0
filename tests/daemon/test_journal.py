"""stderr that is the journal of systemd: each line says how urgent it is, and leaves the time to the journal; a
terminal and a file get the lines as they are. The journal is a file here, for it is known by its device and inode."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.daemon.crew import workers
from tests.daemon.test_parent import left
from tests.galera.watcher import COMMAND as GALERA
from tests.galera.watcher import credentials
from tests.harness import COMMAND, LOCAL, PATIENCE, ROOT, Gpen, Server, echo, refusing, wait_until
from tests.netlog.programs import GPENLOGD

Start = Callable[..., Gpen]
Serve = Callable[..., Server]

JOURNAL = left("""
status = os.fstat(2)
os.environ['JOURNAL_STREAM'] = f'{status.st_dev}:{status.st_ino}'
""")
ELSEWHERE = left("os.environ['JOURNAL_STREAM'] = '1:2'")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: "


def told(wrapper: Sequence[str], command: Sequence[str], file: Path) -> str:
    """What a program that ends by itself has told on stderr."""
    with file.open("w") as stderr:
        subprocess.run([*wrapper, *command], stderr=stderr, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=False)
    return file.read_text()


def test_each_line_says_how_urgent_it_is(gpen: Start, servers: Serve) -> None:
    with refusing() as nobody:
        balancer = gpen("-d", "-r", "-O", "prio", LOCAL, nobody, servers(echo).address, wrapper=JOURNAL)
        with balancer.connect() as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        balancer.ctl("log /dev/full")
        balancer.wait_idle()
        with balancer.connect():
            pass
        wait_until(lambda: "can't write the log" in balancer.stderr)
    lines = balancer.stderr.splitlines()
    assert all(re.match(rf"<[3467]>(?!{TIME})", line) for line in lines)
    assert any(re.match(r"<6>gpen \S+ \(\w+\) listens on 127", line) for line in lines)
    assert any(re.match(r"<7>session 0: ", line) for line in lines)
    assert "<3>can't write the log '/dev/full': No space left on device" in lines
    assert f"<4>server 0 {nobody}: connect failed" in balancer.stderr


def test_a_file_gets_the_lines_alone(gpen: Start, servers: Serve) -> None:
    """Also where JOURNAL_STREAM, which is inherited, names the stderr of somebody else."""
    balancer = gpen(servers=[servers(echo)], wrapper=ELSEWHERE)
    assert all(re.match(TIME, line) for line in balancer.stderr.splitlines())


def test_workers_too(gpen: Start, servers: Serve) -> None:
    """The bytes of a session are told by the worker that has it."""
    balancer = gpen("-dd", *workers(1), servers=[servers(echo)], wrapper=JOURNAL)
    with balancer.connect() as client:
        client.sendall(b"ping")
        assert client.recv(10) == b"ping"
    wait_until(lambda: re.search(r"^<7>session \d+: 4 bytes from the client", balancer.stderr, re.MULTILINE))


@pytest.mark.parametrize("command, line", [
    ([*COMMAND, "--check", "-F", "/no/such"], "gpen: can't read the file '/no/such'"),
    ([sys.executable, str(ROOT / "bin" / "gpenctl"), "/no/such.ctl", "reload"], "gpenctl: "),
    ([*GPENLOGD, "no:such:port"], "gpenlogd: "),
    ([*GALERA, "watch", "--reader=/x", "--interval=soon"], "gpen-galera: --interval: 'soon' is not a number"),
])
def test_what_ends_a_program_is_an_error(command: list[str], line: str, tmp_path: Path) -> None:
    assert told(JOURNAL, command, tmp_path / "err").startswith(f"<3>{line}")
    assert told((), command, tmp_path / "err").startswith(line)


def test_the_watcher(tmp_path: Path) -> None:
    """A gpen that does not answer is a warning."""
    file = tmp_path / "err"
    command = [*JOURNAL, *GALERA, "watch", f"--defaults-file={credentials(tmp_path)}", f"--socket={tmp_path}/sock",
               f"--reader={tmp_path}/none.ctl"]
    with file.open("w") as stderr, subprocess.Popen(command, stderr=stderr, stdout=stderr) as watcher:
        try:
            wait_until(lambda: f"<4>gpen {tmp_path}/none.ctl: " in file.read_text())
        finally:
            watcher.terminate()
        assert watcher.wait(PATIENCE) == 0
    lines = file.read_text().splitlines()
    assert lines[-1] == "<6>ended; the gpens keep what they know"
    assert all(re.match(r"<[46]>\D", line) for line in lines)
