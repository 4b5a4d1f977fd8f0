"""The compiled modules, where they can be compiled, what is put beside the modules and programs, and the README as a
package index shows it; everything else is in setup.cfg.

Without a C compiler, or where compiling fails, gpen is installed all the same, and runs as pure Python. GPEN_PURE=1
compiles nothing; with GPEN_PURE=0 what can't be compiled is an error. GPEN_URL=https://... is where the sources are:
whoever publishes gpen says so, and links lead there.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Collection
from glob import glob
from pathlib import Path
from textwrap import shorten

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = sorted(runpy.run_path(os.path.join("gpen", "core.py"))["MODULES"])
PURE = os.environ.get("GPEN_PURE", "")
HOME = os.environ.get("GPEN_URL", "").rstrip("/")
C_FILES = os.path.join("build", "c")
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the hints are mypy's: what C shall know stands in the .pxd
    "nonecheck": True,  # of what is None no attribute is taken: that would end the process
}

# a link or picture to a file of the sources: what comes before its text, the text, and the file
LOCAL = re.compile(r"(!?)\[((?:!\[[^]]*\]\([^)]*\)|[^]\[])*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


def long_description() -> str:
    """The README, for who sees no file beside it: its links lead to where the sources are, or are none."""
    text = Path("README.md").read_text(encoding="utf-8")
    while (changed := LOCAL.sub(_elsewhere, text)) != text:  # pictures in links are links in links
        text = changed
    return text


def _elsewhere(link: re.Match[str]) -> str:
    picture, text, file = link.groups()
    if HOME:
        return f"{picture}[{text}]({HOME}/{'raw' if picture else 'blob'}/HEAD/{file})"
    return text if picture or file in text else f"{text} ({file})"


def data_files() -> list[tuple[str, list[str]]]:
    """What is put where below the prefix (/usr, /usr/local, or the virtual environment)."""
    files = {"share/man/man1": glob("man/*.1"),
             "share/bash-completion/completions": glob("contrib/completion/*.bash"),
             "share/zsh/site-functions": glob("contrib/completion/_*"),
             "share/doc/gpen": glob("*.md") + glob("docs/*.md")}
    for directory, _, names in os.walk("contrib"):
        if os.path.basename(directory) not in ("completion", "__pycache__"):
            files[f"share/gpen/{directory}"] = [
                os.path.join(directory, name) for name in names if not name.endswith((".py", ".pyc"))]
    return [(place, sorted(names)) for place, names in files.items() if names]


def extension(name: str) -> Extension:
    place = os.path.join(*name.split("."))
    source = next(filter(os.path.exists, (f"{place}.pyx", f"{place}.py")))
    return Extension(name, [source], extra_compile_args=[
        "-g0",  # a fifth of the size
        "-Wno-array-bounds",  # gcc with link-time optimization, as Debian's Python wants it, mistakes Cython's C
        "-Werror=incompatible-pointer-types"])  # as of a method that is in a .pxd, and passed on as a value


class Build(build_ext):
    """All modules, or none: those of this build and an older one would not fit together."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))

    def run(self) -> None:
        places = [self.build_lib, *([os.curdir] if self.inplace else ())]
        self._remove(places, but=MODULES)
        try:
            self._write_c()
            super().run()
        except Exception as error:
            if PURE == "0":
                raise
            self._remove(places)
            self.extensions = []
            print("gpen: nothing is compiled, it will run as pure Python; to compile takes a C compiler and Python's "
                  f"headers (Debian: gcc python3-dev): {shorten(str(error), 120, placeholder=' ...')}", file=sys.stderr)

    def _write_c(self) -> None:
        """Let Cython make C of the sources that have changed."""
        from Cython.Build import cythonize

        made = {module.name: module for module in cythonize(
            self.extensions, build_dir=C_FILES, nthreads=self.parallel, compiler_directives=DIRECTIVES,
            quiet=not self.distribution.verbose)}
        for module in self.extensions:
            module.sources = made[module.name].sources
            module.depends = made[module.name].depends

    def _remove(self, places: list[str], but: Collection[str] = ()) -> None:
        """What older builds have left: Python would import it."""
        suffix = self.get_ext_filename("")
        for place in places:
            for path in Path(place, "gpen").rglob(f"*{suffix}"):
                if ".".join(path.relative_to(place).parts).removesuffix(suffix) not in but:
                    path.unlink()


if __name__ == "__main__":
    wanted = MODULES if PURE in ("", "0") else []
    setup(ext_modules=[extension(name) for name in wanted], cmdclass={"build_ext": Build}, data_files=data_files(),
          long_description=long_description(), long_description_content_type="text/markdown",
          url=HOME or None, project_urls={"Changes": f"{HOME}/blob/HEAD/CHANGELOG.md"} if HOME else {})
