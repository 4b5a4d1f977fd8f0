"""What this gpen is made of: what `gpen --version` tells, and what belongs into the report of a fault."""

from __future__ import annotations

import os
import ssl
import sys

from gpen import __version__
from gpen.core import CORE

PACKAGES = ("gevent", "greenlet")
OPTIONAL = ("httptools", "maxminddb")  # of the extras that gpen itself uses


def told() -> str:
    """Two lines: name, version, and whether compiled or pure; what it runs on, what of the extras is there, and in
    which directory it lies."""
    parts = [f"Python {sys.version.split()[0]}", *map(_package, PACKAGES), " ".join(ssl.OPENSSL_VERSION.split()[:2]),
             *map(_package, OPTIONAL)]
    return f"gpen {__version__} ({CORE.flavour})\n{', '.join(parts)}; in {os.path.dirname(os.path.abspath(__file__))}"


def _package(name: str) -> str:
    from importlib import metadata  # which gpen does not need to serve

    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return f"no {name}"
