"""How the programs start: what is missing, or too old, is said in one line; and python -OO is no hindrance."""

from __future__ import annotations

import configparser
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpen.start import OPTIONAL, PACKAGES
from tests.harness import started, wait_until

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {"gpen": "bin/gpen", "gpenctl": "bin/gpenctl", "gpenlog": "bin/gpenlog", "gpenlogd": "bin/gpenlogd",
            "gpen-discover": "bin/gpen-discover", "gpen-galera": "contrib/galera/gpen-galera"}
OLD_DOCOPT = '''
__version__ = "0.5.0"
class DocoptExit(SystemExit): pass
def docopt(doc, argv=None, help=True, version=None, options_first=False): raise DocoptExit(doc)
'''

each_program = pytest.mark.parametrize("name", PROGRAMS)


def run(name: str, *arguments: str, options: tuple[str, ...] = (), first: Path | None = None,
        **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program; modules in the directory ``first`` come before all others."""
    more = {"PYTHONPATH": str(first)} if first else {}
    return subprocess.run([sys.executable, "-W", "error", *options, str(ROOT / PROGRAMS[name]), *arguments],
                          env={**os.environ, **more, **environment}, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=30, check=False)


@each_program
def test_an_old_docopt(name: str, tmp_path: Path) -> None:
    (tmp_path / "docopt.py").write_text(OLD_DOCOPT)
    done = run(name, "status" if name == "gpen-galera" else "--version", first=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"{name}: needs docopt-ng 0.6 or newer") and "0.5.0" in done.stderr
    assert done.stderr.endswith(": pip install 'docopt-ng>=0.6', or Debian's python3-docopt\n")


@pytest.mark.parametrize("name, arguments, package", [
    *((name, "--version", "docopt") for name in PROGRAMS), ("gpen", "--version", "gevent"),
    ("gpen", "--version", "greenlet"), ("gpen-galera", "status", "docopt")])
def test_a_missing_package(name: str, arguments: str, package: str, tmp_path: Path) -> None:
    """Or one that does not load."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no module {package}', name='{package}')")
    done = run(name, arguments, first=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"{name}: needs the package {package} (no module {package}): pip install '")


def test_a_package_that_is_needed_later(tmp_path: Path) -> None:
    """gpenctl loads tabulate with its first table; without one it does not need it."""
    from tests.gpenctl.daemon import unix_daemon

    (tmp_path / "tabulate.py").write_text("raise ModuleNotFoundError('No module named tabulate', name='tabulate')")
    daemon = unix_daemon(tmp_path / "gpen.ctl")
    assert run("gpenctl", daemon.target, "servers", first=tmp_path).returncode == 0
    done = run("gpenctl", "-f", "table", daemon.target, "servers", first=tmp_path)
    daemon.close()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "pip install 'tabulate>=" in done.stderr


def test_a_fault_of_our_own_is_no_missing_package(tmp_path: Path) -> None:
    """It keeps its traceback."""
    (tmp_path / "docopt.py").write_text("from gpen.cli import no_such_name")
    assert "Traceback" in run("gpenctl", "--version", first=tmp_path).stderr


def test_an_interrupt_while_it_is_loaded_has_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "docopt.py").write_text("import os\nos.kill(os.getpid(), 2)")
    done = run("gpen", "--version", first=tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@each_program
@pytest.mark.parametrize("level", ["-O", "-OO"])
def test_without_docstrings(name: str, level: str) -> None:
    done = run(name, "--help", options=(level,))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(name, "--help").stdout != ""
    assert run(name, "--nonsense", options=(level,)).returncode == 2


@each_program
def test_a_locale_without_utf_8(name: str) -> None:
    done = run(name, "--version", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"{name} ")


def test_the_versions_are_those_that_pip_installs() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = dict(re.findall(r"^(\S+) >= (\S+)$", setup["options"]["install_requires"], re.MULTILINE))
    assert required == {name: version for package, (name, version) in PACKAGES.items() if package != "greenlet"}
    extras = setup["options.extras_require"]
    optional = "\n".join(packages for name, packages in extras.items() if name not in ("docs", "test"))
    assert dict(re.findall(r"^(\S+) >= (\S+)$", optional, re.MULTILINE)) == dict(OPTIONAL.values())


@each_program
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_standard_output_that_takes_nothing(name: str, unbuffered: str) -> None:
    """A full disk is told in one line; a reader that has seen enough, or none at all, is no fault."""
    command = [sys.executable, "-W", "error", str(ROOT / PROGRAMS[name]), "--help"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "wb") as full, open(writing, "wb") as unread:
        told = [subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=environment, text=True, timeout=30,
                               check=False) for output in (full, unread)]
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, env=environment,
                            text=True, timeout=30, check=False)
    assert [(done.returncode, done.stderr) for done in (*told, closed)] == [
        (1, f"{name}: standard output: No space left on device\n"), (0, ""), (0, "")]


CLOSED = tuple(f"for fd in {fds}: os.close(fd)" for fds in ("(0,)", "(1,)", "(2,)", "(0, 1, 2)"))
BLOCKED = "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())"
ALARM = "signal.setitimer(signal.ITIMER_REAL, 3)"


@pytest.mark.parametrize("left", [*CLOSED, BLOCKED, ALARM])
def test_what_a_parent_leaves_to_a_watcher(left: str, tmp_path: Path) -> None:
    """Closed streams, whose numbers nothing that it opens may take; blocked signals, an alarm: it serves, and ends by
    TERM only."""
    program = [sys.executable, "-W", "error", str(ROOT / PROGRAMS["gpen-galera"])]
    environment = {**os.environ, "GPEN_GALERA_USER": "watcher", "GPEN_GALERA_PASSWORD": ""}
    parent = f"import os, signal, sys\n{left}\nos.execvp(sys.argv[1], sys.argv[1:])"
    watch = [sys.executable, "-c", parent, *program, "watch", "--reader=./none.ctl", "--socket=watcher"]
    with started(watch, cwd=tmp_path, env=environment) as process:
        try:
            wait_until(lambda: process.poll() is not None or (tmp_path / "watcher").exists(), what="its socket")
            if left == ALARM:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(3.5)
            links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)]
            assert not [link for link in links if "socket:" in link]
            status = subprocess.run([*program, "status", "--socket=watcher", "--json"], cwd=tmp_path, timeout=30,
                                    capture_output=True, check=False)
            assert (status.returncode, status.stderr) == (1, b"")  # its gpen is not there
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
