"""gpen as it is installed: by pip, of a source distribution or a wheel, with a C compiler and without one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from gpen import __version__
from tests.built import NAMES, SUFFIX, Copy, clean
from tests.daemon.conftest import ctl
from tests.harness import ROOT, Server, connect, naming, pair_of, started

pytestmark = pytest.mark.long

FILES = [name.replace(".", "/") for name in NAMES]
PURE_WHEEL = "py3-none-any.whl"
NO_COMPILER = [{"CC": "/bin/false"}, {"PATH": "/nowhere"}]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(ROOT, tmp_path / "copy")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """That of an environment that has no gpen yet, and sees the packages of ours; its path has a blank in it."""
    environment = tmp_path / "an environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "python"


def pip(copy: Copy, *words: str | Path, **environment: str) -> str:
    """Run our pip, which gets nothing from elsewhere; what it tells."""
    done = copy.run(sys.executable, "-m", "pip", "--disable-pip-version-check", *words, "--no-deps", "--no-index",
                    "--no-build-isolation", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def wheel_of(copy: Copy, source: str | Path, **environment: str) -> zipfile.ZipFile:
    pip(copy, "wheel", "--wheel-dir", "dist", source, **environment)
    (wheel,) = (copy.directory / "dist").glob("*.whl")
    return zipfile.ZipFile(wheel)


def version(python: Path, **environment: str) -> str:
    """What the installed gpen says that it is."""
    done = subprocess.run([python.with_name("gpen"), "--version"], env={**clean(), **environment}, cwd="/",
                          capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout.partition("\n")[0]


def test_a_wheel_of_a_source_distribution(copy: Copy, python: Path) -> None:
    """It brings the extensions, and the sources for those who want these."""
    done = copy.run(sys.executable, "-c", "from setuptools import build_meta as b; b.build_sdist('dist')")
    assert done.returncode == 0, done.stderr
    (archive,) = (copy.directory / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        brought = {name.partition("/")[2] for name in packed.getnames()}
    assert {"gpen/wire/one.py", "gpen/wire/one.pxd", *(f"gpen/wire/two{suffix}" for suffix in (".py", ".pyx", ".pxd")),
            "setup.py", "bin/gpen", "man/gpen.1"} <= brought
    assert not [name for name in brought if name.endswith((".c", ".so"))]
    with wheel_of(copy, archive, GPEN_PURE="0") as wheel:
        names = set(wheel.namelist())
        assert {f"gpen/web/page/{name}" for name in ("index.html", "page.css", "page.js")} <= names & brought
        assert {f"{file}{suffix}" for file in FILES for suffix in (SUFFIX, ".py")} <= names
        assert not [name for name in names if name.endswith(".c")]
        pip(copy, "--python", python, "install", str(wheel.filename))
    assert version(python) == f"gpen {__version__} (compiled)"
    assert version(python, GPEN_PURE="1") == f"gpen {__version__} (pure)"


@pytest.mark.parametrize("nothing", NO_COMPILER, ids=["a compiler that fails", "no compiler"])
def test_without_a_compiler(nothing: dict[str, str], copy: Copy, python: Path, tmp_path: Path) -> None:
    """It is installed, and serves."""
    assert "gpen: nothing is compiled" in pip(copy, "--python", python, "install", "-v", ".", **nothing)
    assert version(python) == f"gpen {__version__} (pure)"
    control = tmp_path / "gpen.ctl"
    command = [python.with_name("gpen"), "-f", "-C", control, "127.0.0.1:0"]
    with Server(naming("a")) as server, started([*command, server.address], env=clean(), cwd="/",
                                                stderr=subprocess.PIPE, text=True) as gpen:
        assert gpen.stderr is not None and "(pure) listens on" in gpen.stderr.readline()
        with connect(pair_of(ctl(control, "listen").strip())) as sock:
            assert sock.recv(1) == b"a"
        gpen.terminate()


def test_a_wheel_for_every_machine(copy: Copy) -> None:
    with wheel_of(copy, ".", GPEN_PURE="1") as wheel:
        assert str(wheel.filename).endswith(PURE_WHEEL)
        assert {f"{file}.py" for file in FILES} <= set(wheel.namelist())


def test_a_checkout_that_is_installed_as_it_is(copy: Copy, python: Path) -> None:
    """pip install -e: compiled in place; and where the compiler is gone the next time, nothing older is left."""
    pip(copy, "--python", python, "install", "--editable", ".")
    assert version(python) == f"gpen {__version__} (compiled)"
    assert all(copy.extension(name).exists() for name in NAMES)
    pip(copy, "--python", python, "install", "--editable", ".", CC="/bin/false")
    assert version(python) == f"gpen {__version__} (pure)"
    assert not any(copy.extension(name).exists() for name in NAMES)
