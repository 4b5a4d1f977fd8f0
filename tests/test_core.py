"""Compiled or pure: all of the modules are the one or the other, whatever is there, and it is told which."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpen import __version__
from tests.built import NAMES, Copy, clean, is_older
from tests.daemon.conftest import ctl
from tests.harness import ROOT, Server, connect, naming, pair_of, started
from tests.web.pages import data_of

pytestmark = pytest.mark.long

ONE, TWO = NAMES
COMPILED, PURE = "compiled", "pure"
FILES = "import sys\nfor name in sys.argv[1:]: print(__import__(name, fromlist=['x']).__file__)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The copy that all tests here look at."""
    copy = Copy(ROOT, tmp_path_factory.mktemp("built") / "copy")
    done = copy.build(GPEN_PURE="0")
    assert done.returncode == 0, done.stderr
    return copy


@pytest.fixture
def copy(built: Copy) -> Iterator[Copy]:
    """The same, as it was built."""
    extensions = {path: path.read_bytes() for path in map(built.extension, NAMES)}
    yield built
    for path, content in extensions.items():
        path.unlink(missing_ok=True)  # not into a file that somebody may have mapped
        path.write_bytes(content)


def version(copy: Copy, **environment: str) -> tuple[str, str]:
    """What gpen --version tells, and what it complains of."""
    done = copy.run(sys.executable, "bin/gpen", "--version", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\n")[0], done.stderr


def kinds(copy: Copy, **environment: str) -> set[str]:
    """What the modules were made from, as a process sees that imports them."""
    done = copy.run(sys.executable, "-c", FILES, *NAMES, **environment)
    assert done.returncode == 0, done.stderr
    return {COMPILED if line.endswith(".so") else PURE for line in done.stdout.splitlines()}


@contextmanager
def serving(copy: Copy, server: str, **environment: str) -> Iterator[tuple[Path, str]]:
    """A gpen of the copy; its control socket, and its first line."""
    control = copy.directory / "gpen.ctl"
    command = [sys.executable, "-W", "error", "bin/gpen", "-f", "-C", str(control), "127.0.0.1:0", server]
    with started(command, cwd=copy.directory, env={**clean(), **environment}, stderr=subprocess.PIPE,
                 text=True) as process:
        assert process.stderr is not None
        yield control, process.stderr.readline()
        process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("said, flavour", [(None, COMPILED), ("", COMPILED), ("0", COMPILED), ("1", PURE)])
def test_which_it_is_is_said_in_the_environment(said: str | None, flavour: str, copy: Copy) -> None:
    environment = {} if said is None else {"GPEN_PURE": said}
    assert version(copy, **environment) == (f"gpen {__version__} ({flavour})", "")
    assert kinds(copy, **environment) == {flavour}


@pytest.mark.parametrize("said, flavour", [("0", COMPILED), ("1", PURE)])
def test_a_gpen_that_serves_tells_which_it_is(said: str, flavour: str, copy: Copy) -> None:
    with Server(naming("a")) as server, serving(copy, server.address, GPEN_PURE=said) as (control, first):
        assert f"gpen {__version__} ({flavour}) listens on" in first
        with connect(pair_of(ctl(control, "listen").strip())) as sock:
            assert sock.recv(1) == b"a"
        told = data_of(ctl(control, "status"))["info"]
        assert (told["version"], told["flavour"]) == (__version__, flavour)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 3])


def fill(path: Path) -> None:
    path.unlink()
    path.write_text("this is no extension\n" * 10)


def mismatch(path: Path) -> None:
    """One that is there by mistake under this name."""
    content = path.with_name(path.name.replace("two.", "one.")).read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("harm, words", [
    (Path.unlink, f"{TWO} is not compiled, {ONE} is"), (cut, "its end is missing"), (fill, "invalid ELF header"),
    (mismatch, "does not define module export function (PyInit_two)")])
def test_one_that_can_t_be_used_makes_all_of_them_pure(harm: Callable[[Path], None], words: str, copy: Copy) -> None:
    """A line says so, of the daemon only."""
    harm(copy.extension(TWO))
    told, complaint = version(copy)
    assert (told, complaint.count("\n")) == (f"gpen {__version__} (pure)", 1)
    assert words in complaint and complaint.endswith(": gpen runs as pure Python\n")
    assert kinds(copy) == {PURE}
    assert version(copy, GPEN_PURE="1") == (f"gpen {__version__} (pure)", "")
    for program in ("gpenctl", "gpenlog"):
        done = copy.run(sys.executable, f"bin/{program}", "--version")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("harm, words", [
    ("raise ValueError('gpen.wire.two.Two size changed')", "size changed"),
    ("import warnings; warnings.warn('compile time Python version 3.9 of module x', RuntimeWarning)", "version 3.9")])
def test_one_that_loads_but_does_not_run(harm: str, words: str, copy: Copy) -> None:
    """It is of another build than the others, or of another Python: gpen begins again without any."""
    told, complaint = version(copy, AS_TWO_IS_LOADED=harm)
    assert (told, complaint.count("\n")) == (f"gpen {__version__} (pure)", 1)
    assert complaint.startswith("gpen: ") and words in complaint and complaint.endswith(": it runs as pure Python\n")


def test_a_fault_in_both_keeps_its_traceback(copy: Copy) -> None:
    """And gpen does not begin again for ever."""
    two = copy.directory / "gpen" / "wire" / "two.py"
    text = two.read_text()
    two.write_text(f"{text}\nraise ValueError('in both')\n")
    try:
        done = copy.run(sys.executable, "bin/gpen", "--version", AS_TWO_IS_LOADED="raise ValueError('in both')")
    finally:
        two.write_text(text)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert done.stderr.startswith("gpen: in both: it runs as pure Python\n")


def test_without_any_nothing_is_wrong(copy: Copy) -> None:
    for name in NAMES:
        copy.extension(name).unlink()
    assert version(copy) == (f"gpen {__version__} (pure)", "")
    assert kinds(copy) == {PURE}


@pytest.mark.parametrize("compiler", ["/bin/false", "/nowhere/cc"])
def test_where_nothing_can_be_compiled_nothing_older_is_left(compiler: str, copy: Copy) -> None:
    shutil.rmtree(copy.directory / "build")
    copy.extension("gpen.three").write_text("of a module that there was")
    done = copy.build(CC=compiler)
    assert done.returncode == 0 and not list(copy.directory.rglob("*.so"))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("gpen: nothing is compiled, it will run as pure Python; ") and compiler in last
    assert copy.build(CC=compiler, GPEN_PURE="0").returncode == 1


def test_tests_are_not_run_with_what_is_older_than_its_source(copy: Copy) -> None:
    shutil.copytree(ROOT / "tests", copy.directory / "tests", ignore=shutil.ignore_patterns("__pycache__"),
                    dirs_exist_ok=True)
    test = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg"), "--rootdir=.",
            "tests/test_scheduling.py", "--collect-only")
    assert copy.run(sys.executable, *test).returncode == 0
    extension = copy.extension(TWO)
    for suffix in (".pyx", ".pxd"):
        source = copy.directory / "gpen" / "wire" / f"two{suffix}"
        os.utime(extension, (source.stat().st_atime, source.stat().st_mtime - 1))
        assert is_older(extension, str(source.with_suffix("")))
    done = copy.run(sys.executable, *test)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{extension} is older than its source: run make build" in done.stderr
    assert copy.run(sys.executable, *test, GPEN_PURE="1").returncode == 0
    stranger = copy.extension("gpen.wire.three")
    extension.rename(stranger)
    done = copy.run(sys.executable, *test, GPEN_PURE="1")
    stranger.unlink()
    assert f"{stranger}: gpen/core.py names no such module: remove it" in done.stderr


@pytest.mark.parametrize("module", ["gpen.gpenctl.main", "gpen.galera.main", "gpen.netlog.sender"])
def test_the_other_programs_look_for_none(module: str, copy: Copy) -> None:
    """They start as fast as ever."""
    copy.extension(ONE).write_text("")
    done = copy.run(sys.executable, "-c", f"import {module}\nfrom gpen.core import CORE\nprint(CORE._flavour == '')")
    assert done.stdout == "True\n"
