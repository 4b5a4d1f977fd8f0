"""How each of the programs starts: what must be right before the rest of it is even imported.

No syntax here that an old Python does not know, and nothing of the other files but ``core.py``.
"""

from __future__ import annotations

import errno
import gc
import os
import sys

from gpen.core import CORE

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OLDEST_PYTHON = (3, 10)
# what is imported: what pip calls it, and the oldest version that will do (setup.cfg): those of Debian 12
PACKAGES = {
    "docopt": ("docopt-ng", "0.6"),
    "gevent": ("gevent", "22.10"),
    "greenlet": ("greenlet", "2.0"),
    "tabulate": ("tabulate", "0.8"),
}
# the same of what some settings and programs ask for, and the rest of gpen does without (setup.cfg: extras). httptools
# 0.1, which is Debian 12's, has an older parser, a lenient one: it finds ends of bodies that nobody else sees
OPTIONAL = {
    "dns": ("dnspython", "2.3"),
    "httptools": ("httptools", "0.6.1"),
    "maxminddb": ("maxminddb", "2.1"),
    "pymysql": ("PyMySQL[rsa]", "1.0"),
    "rich": ("rich", "13"),
    "watchdog": ("watchdog", "2.2"),
    "yaml": ("PyYAML", "6.0"),
}
DEBIAN_NAMES = {"dns": "dnspython"}  # behind python3-, where that is not what is imported
IN_DEBIAN = {"httptools": " (Debian 13 or newer)"}  # since which release it will do, if not always
BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bundled")  # packages that a build has put there
FAILED = 1
OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class PackageError(ImportError):
    """A package is too old: one line that says what to install."""


def gpen() -> int:
    return start("gpen", "gpen.cli")


def gpenctl() -> int:
    return start("gpenctl", "gpen.gpenctl.main", "gpen.gpenctl.quick")


def gpenlog() -> int:
    return start("gpenlog", "gpen.netlog.sender")


def gpenlogd() -> int:
    return start("gpenlogd", "gpen.netlog.collector")


def gpen_discover() -> int:
    return start("gpen-discover", "gpen.discover.main")


def gpen_galera() -> int:
    return start("gpen-galera", "gpen.galera.main")


def start(name: str, module: str, quick: str = "") -> int:
    """Run the ``main`` of a module as the program of this name; returns its exit status, and 1 with one line on stderr
    when this machine's Python, or a package, is missing or too old. A ``quick`` module needs no packages, and goes
    first: its ``main`` returns None for what it leaves to the other one."""
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return _complain(name, f"needs Python {oldest} or newer; this is {sys.version.split()[0]}")
    _fill_standard_streams()
    _speak_utf8()
    status = run(name, __import__(quick, fromlist=["main"]).main) if quick else None
    if status is not None:
        return int(status)
    if os.path.isdir(BUNDLED):
        sys.path.insert(0, BUNDLED)
    try:
        program = _import(name, module)
        for package in PACKAGES.keys() & sys.modules.keys():
            check_package(package)
        try:
            return int(run(name, program.main))
        finally:
            gc.freeze()  # else Python looks for garbage once more before it ends: 25 ms of 170
    except PackageError as error:
        return _complain(name, str(error))
    except ImportError as error:
        package = _package_of(error)
        if package == "gpen":
            raise
        return _complain(name, f"needs the package {package} ({error}): {remedy(package)}")


def run(name: str, main: Callable[[], Any]) -> Any:
    """The exit status of a program. One that can't write its output says so in a line, and nothing when it was a pipe
    whose reader has seen enough."""
    try:
        try:
            return main()
        finally:
            if not sys.stdout.closed:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in OUTPUT_ERRORS or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit could only complain again
        return 0 if error.errno == errno.EPIPE else _complain(name, f"standard output: {error.strerror}")


def _import(name: str, module: str) -> Any:
    """A program's module; Ctrl-C while it is loaded ends the program as any other, without a traceback."""
    import importlib
    import signal

    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what is loaded stays: to look for garbage in it takes 8 ms of 170
    try:
        program = importlib.import_module(module)
    except Exception as error:
        if CORE.is_used_compiled and _package_of(error) == "gpen":
            _begin_pure(name, error)
        raise
    gc.enable()
    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return program


def _package_of(error: Exception) -> str:
    """Whose fault it is that something could not be imported."""
    return ((isinstance(error, ImportError) and error.name) or "gpen").partition(".")[0]


def _begin_pure(name: str, error: Exception) -> None:
    """Begin again as pure Python: extensions that load, but don't run, are of different builds."""
    _complain(name, f"{error}: it runs as pure Python")
    os.environ["GPEN_PURE"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def check_package(package: str) -> None:
    """Raises PackageError when a package that has been imported is too old."""
    name, oldest = PACKAGES.get(package) or OPTIONAL[package]
    version = getattr(sys.modules[package], "__version__", "") or _installed(name)
    if _numbers(version) < _numbers(oldest):
        where = getattr(sys.modules[package], "__file__", "") or "?"
        raise PackageError(f"needs {name} {oldest} or newer, but {where} is {package} {version or '?'}: "
                           f"{remedy(package)}")


def _installed(name: str) -> str:
    """The version of a package that does not tell it itself, by what pip calls it."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def check_optional(package: str) -> None:
    """Import a package that something asks for. Raises PackageError when it is missing or too old."""
    try:
        __import__(package)
    except ImportError:
        raise PackageError(f"needs the package {package}: {remedy(package)}") from None
    check_package(package)


def remedy(package: str) -> str:
    """What to do where a package, by the name that is imported, is missing or too old."""
    name, version = {**PACKAGES, **OPTIONAL}.get(package, (package, "0"))
    debian = f"python3-{DEBIAN_NAMES.get(package, package.replace('_', '-'))}{IN_DEBIAN.get(package, '')}"
    return f"pip install '{name}>={version}', or Debian's {debian}"


def _numbers(version: object) -> list[int]:
    import re

    return [int(number) for number in re.findall(r"\d+", str(version))[:2]]


def unblock_signals() -> None:
    """No signal is blocked any more, and no alarm set, whatever the parent has left: for programs that go on, once they
    handle signals."""
    import signal

    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _fill_standard_streams() -> None:
    """Whoever was started without stdin, stdout or stderr would give that number to the next file it opens."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _speak_utf8() -> None:
    """Begin again where the locale makes Python take file names and arguments for something else than UTF-8."""
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _complain(name: str, text: str) -> int:
    print(f"{name}: {' '.join(text.split())}", file=sys.stderr)
    return FAILED
