"""Compiled or pure: which modules there are compiled as well, and whether this process uses them so.

Where gpen was installed with a C compiler, an extension lies beside the source of each of these modules, and Python
would take it first. Here that is decided once for all of them, when the first is imported: the extensions, if each is
there and loads, or else the sources, for compiled types don't mix with pure ones. A program that imports none of them
(gpenctl) looks at no file.

No syntax here that an old Python does not know, and nothing of the other files: this is imported before all of them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own costs an import, and gpenctl starts 5 ms later
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# The one list; setup.py compiles what stands here: NAME.pyx where there is one, else NAME.py, both with their NAME.pxd.
MODULES: frozenset[str] = frozenset({
    "gpen.daemon.front",
    "gpen.daemon.sessions",
    "gpen.model.client",
    "gpen.model.lease",
    "gpen.model.scheduler",
    "gpen.model.selector",
    "gpen.model.server",
    "gpen.model.silence",
    "gpen.wire.channel",
    "gpen.wire.conversation",
    "gpen.wire.datagram",
    "gpen.wire.dial",
    "gpen.wire.flow",
    "gpen.wire.flow_sockets",
    "gpen.wire.greenlets",
    "gpen.wire.kernel",
    "gpen.wire.listener",
    "gpen.wire.loops",
    "gpen.wire.poller",
    "gpen.wire.relay",
    "gpen.wire.remote",
    "gpen.wire.session",
    "gpen.wire.sockets",
    "gpen.wire.tls",
    "gpen.wire.worker_session",
})
COMPILED, PURE = "compiled", "pure"


class Core:
    """How the modules of MODULES are found."""

    def __init__(self) -> None:
        self._flavour = ""
        self._problem = ""

    @property
    def flavour(self) -> str:
        """COMPILED or PURE: what they are, or would be if one were imported."""
        if not self._flavour:
            self._flavour, self._problem = _choice()
        return self._flavour

    @property
    def problem(self) -> str:
        """Why it is not compiled though it should be; empty if nothing is wrong."""
        return self._problem if self.flavour == PURE else ""

    @property
    def is_used_compiled(self) -> bool:
        """Whether this process has looked for one, and got an extension."""
        return self._flavour == COMPILED

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None,
                  ) -> ModuleSpec | None:
        """Python asks this for every module: the source of one that shall be pure; None, and Python looks on, for all
        others."""
        if name not in MODULES or self.flavour == COMPILED:
            return None
        from importlib.util import spec_from_file_location  # not for gpenctl

        return spec_from_file_location(name, f"{_place_of(name)}.py")


CORE = Core()


def _choice() -> tuple[str, str]:
    """The flavour, and what is wrong, if anything."""
    if os.environ.get("GPEN_PURE", "0") not in ("", "0"):
        return PURE, ""
    found = {name: file for name, file in ((name, extension_of(name)) for name in sorted(MODULES)) if file}
    if not found:
        return PURE, ""
    for name in sorted(MODULES):
        if name not in found:
            return PURE, f"{name} is not compiled, {next(iter(found))} is"
        try:
            _try(name, found[name])
        except (ImportError, SystemError, OSError) as error:
            return PURE, str(error)
    import warnings

    # of another Python, in spite of its name: Cython warns, and then there is a crash
    warnings.filterwarnings("error", "compile time Python version", RuntimeWarning)
    return COMPILED, ""


def _try(name: str, file: str) -> None:
    """Load an extension, but run nothing of it, so that it can still be left alone. Raises ImportError, OSError."""
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    if not _is_whole(file):
        raise ImportError(f"{file}: its end is missing")
    spec = spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))
    if spec is not None:
        module_from_spec(spec)


def _is_whole(file: str) -> bool:
    """Whether an ELF file has its end, the headers of its sections: to load one without is a SIGBUS."""
    import struct

    with open(file, "rb") as elf:
        head = elf.read(64)
        size = elf.seek(0, os.SEEK_END)
    if len(head) < 64 or head[:4] != b"\x7fELF":
        return True  # whatever it is, the loader has words for it
    is_wide = head[4] == 2
    start, length, count = struct.unpack_from("=40xQ10xHH" if is_wide else "=32xI10xHH", head)
    return bool(start + length * count <= size)


def extension_of(name: str) -> str:
    """The file of a module's extension, empty if it has none for this Python."""
    from importlib.machinery import EXTENSION_SUFFIXES

    files = (_place_of(name) + suffix for suffix in EXTENSION_SUFFIXES)
    return next(filter(os.path.exists, files), "")


def _place_of(name: str) -> str:
    """The path of a module's files, without a suffix."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), *name.split("."))
