"""A gpen of a test's own, with compiled modules; and whether those of a checkout are what its sources say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from gpen.core import CORE, MODULES, PURE

SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.so", "*.c")
# what a copy has: one compiled from its .py, which makes use of the other, that is compiled from its .pyx
STAND_INS = {
    "one.py": """\
from gpen.wire.two import Two

class One(Two):
    def number(self):
        return self.more + 1
""",
    "one.pxd": """\
from gpen.wire.two cimport Two

cdef class One(Two):
    pass
""",
    "two.pyx": """\
import os

cdef class Two:
    def __init__(self):
        self.more = 1

exec(os.environ.get("AS_TWO_IS_LOADED", ""))
""",
    "two.pxd": """\
cdef class Two:
    cdef public int more
""",
    "two.py": """\
class Two:
    def __init__(self):
        self.more = 1
""",
}
NAMES = ("gpen.wire.one", "gpen.wire.two")


class Copy:
    """A checkout in which gpen loads the stand-ins, and nothing else is compiled."""

    def __init__(self, checkout: Path, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
            shutil.copy(checkout / name, directory)
        for name in ("gpen", "bin", "man", "contrib"):
            shutil.copytree(checkout / name, directory / name, ignore=NOT_COPIED)
        for name, text in STAND_INS.items():
            (directory / "gpen" / "wire" / name).write_text(text)
        self._change("core.py", r"^MODULES: .*?^}\)$", f"MODULES = frozenset({NAMES})")
        self._change("cli.py", r"^log = ", "import gpen.wire.one  # noqa: E402\n\nlog = ")

    def _change(self, file: str, before: str, after: str) -> None:
        path = self.directory / "gpen" / file
        text, count = re.subn(before, after, path.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert count == 1
        path.write_text(text)

    def extension(self, name: str) -> Path:
        """Where that of a module is, or would be."""
        return self.directory / (name.replace(".", os.sep) + SUFFIX)

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Compile in place."""
        return self.run(sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", **environment)

    def run(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=self.directory, env={**clean(), **environment}, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=100, check=False)


def clean() -> dict[str, str]:
    """The environment without what says which gpen it shall be."""
    return {name: value for name, value in os.environ.items() if name not in ("GPEN_PURE", "PYTHONPATH")}


def complaint(checkout: Path) -> str:
    """What is wrong with its extensions, and what to do, in a line; empty if nothing is."""
    for extension in sorted(checkout.glob(f"gpen/**/*{SUFFIX}")):
        place = str(extension).removesuffix(SUFFIX)
        if os.path.relpath(place, checkout).replace(os.sep, ".") not in MODULES:
            return f"{extension}: gpen/core.py names no such module: remove it"
        if CORE.flavour != PURE and is_older(extension, place):
            return f"{extension} is older than its source: run make build (or GPEN_PURE=1)"
    return f"{CORE.problem}: run make build (or GPEN_PURE=1)" if CORE.problem else ""


def is_older(extension: Path, place: str) -> bool:
    """Than what it is compiled from."""
    source = next(path for suffix in (".pyx", ".py") if (path := Path(place + suffix)).exists())
    sources = [path for path in (source, Path(place + ".pxd")) if path.exists()]
    return extension.stat().st_mtime < max(path.stat().st_mtime for path in sources)
