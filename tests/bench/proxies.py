"""How each balancer is started: one event loop, round robin over one server, nothing logged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.bench.process import ROOT

GPEN_PATH = "bin/gpen"
PURE = "GPEN_PURE"
NGINX_MODULES = re.compile(r"--modules-path=(\S+)")

# As many as the descriptors of an ordinary limit (20,000) allow: haproxy refuses to start with more.
MAX_SESSIONS = 9000

HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn {max_sessions}
    maxpipes 100  # for splice; it would keep descriptors for thousands
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
listen bench
    bind {front}
    balance roundrobin
    {option}
    server only {server}
"""

NGINX_CONFIG = """\
{load_module}
daemon off;
pid {directory}/nginx-stream.pid;
error_log stderr crit;
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {descriptors}; }}
stream {{
    access_log off;
    upstream only {{ server {server}; }}
    server {{ listen {front} backlog=4096; proxy_pass only; }}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A balancer: what it is called, and its command line for (front, server, directory of its files).

    pure: of a gpen, whether it runs as pure Python even where a compiled core is.
    """

    name: str
    command: Callable[[str, str, Path], list[str]]
    version: Callable[[], str]
    missing: Callable[[], str | None]
    pure: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What it is started with: ours, but for what chooses between a gpen's two flavours."""
        return flavoured(self.pure)

    def called(self, name: str, *flags: str) -> Proxy:
        """The same balancer under another name, its command line with `flags` before the addresses."""

        def command(front: str, server: str, directory: Path) -> list[str]:
            *options, last, only = self.command(front, server, directory)
            return [*options, *flags, last, only]

        return replace(self, name=name, command=command)


def pen_command(front: str, server: str, directory: Path) -> list[str]:
    return ["pen", "-f", "-r", "-x", str(MAX_SESSIONS), front, server]


def gpen_command(front: str, server: str, directory: Path) -> list[str]:
    return [sys.executable, GPEN_PATH, "-f", "-r", "-x", str(MAX_SESSIONS), front, server]


def gpen_tracking_command(front: str, server: str, directory: Path) -> list[str]:
    return [sys.executable, GPEN_PATH, "-f", "-x", str(MAX_SESSIONS), front, server]


def haproxy_command(front: str, server: str, directory: Path, name: str = "haproxy", option: str = "") -> list[str]:
    config = directory / f"{name}.cfg"
    config.write_text(HAPROXY_CONFIG.format(front=front, server=server, max_sessions=MAX_SESSIONS, option=option))
    return ["haproxy", "-db", "-f", str(config)]


def nginx_command(front: str, server: str, directory: Path) -> list[str]:
    config = directory / "nginx-stream.conf"
    module = nginx_stream_module()
    load_module = f"load_module {module};" if module else ""
    config.write_text(
        NGINX_CONFIG.format(
            front=front,
            server=server,
            directory=directory,
            load_module=load_module,
            descriptors=2 * MAX_SESSIONS + 100,
        )
    )
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(config)]


def flavoured(pure: bool) -> dict[str, str]:
    """Our environment, with GPEN_PURE where a gpen shall run as pure Python, and without it where it shall not."""
    environment = {name: value for name, value in os.environ.items() if name != PURE}
    return {**environment, PURE: "1"} if pure else environment


def not_compiled() -> str | None:
    """Why there is no compiled gpen to be measured, if there is none."""
    told = said(sys.executable, GPEN_PATH, "--version")
    if "(compiled)" in told:
        return None
    *problems, _ = told.splitlines() or [""]
    return " ".join(problems) or "this checkout has no compiled core (a C compiler, then: make build)"


def not_installed(program: str) -> str | None:
    return None if shutil.which(program) else f"{program} is not installed"


def nginx_missing() -> str | None:
    if (reason := not_installed("nginx")) is not None:
        return reason
    built = said("nginx", "-V")
    if "--with-stream=dynamic" not in built and "--with-stream" in built.split():
        return None
    return None if nginx_stream_module() else "nginx has no stream module (Debian: libnginx-mod-stream)"


def nginx_stream_module() -> Path | None:
    """The stream module's file, None where it is compiled in or absent."""
    found = NGINX_MODULES.search(said("nginx", "-V"))
    module = Path(found[1]) / "ngx_stream_module.so" if found else None
    return module if module and module.exists() else None


def said(*command: str) -> str:
    """What a program prints, on stdout or stderr."""
    result = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=flavoured(pure=False),
        text=True,
        timeout=20,
    )
    return result.stdout


def version(*command: str) -> str:
    """The first thing in a program's output that looks like a version."""
    found = re.search(r"\d+\.\d[\w.+~-]*", said(*command))
    return found[0] if found else "unknown version"


def pen_version() -> str:
    """pen has no option that tells: its name and version stand together in its file."""
    found = re.search(rb"pen (\d+\.\d+[\w.]*)", Path(shutil.which("pen") or "").read_bytes())
    return found[1].decode() if found else "unknown version"


PEN = Proxy("pen", pen_command, pen_version, partial(not_installed, "pen"))
HAPROXY = Proxy(
    "haproxy", haproxy_command, partial(version, "haproxy", "-v"), partial(not_installed, "haproxy")
)
HAPROXY_SPLICE = replace(HAPROXY, name="haproxy, splice",
                         command=partial(haproxy_command, name="haproxy-splice", option="option splice-auto"))
NGINX = Proxy("nginx", nginx_command, partial(version, "nginx", "-v"), nginx_missing)
GPEN = Proxy("gpen", gpen_command, partial(version, sys.executable, GPEN_PATH, "--version"), not_compiled)
GPEN_PURE = replace(GPEN, name="gpen, pure", missing=lambda: None, pure=True)
GPENS = (GPEN, GPEN_PURE)

# By the name in --only and the like.
PROXIES = {"pen": PEN, "haproxy": HAPROXY, "haproxy-splice": HAPROXY_SPLICE, "nginx": NGINX, "gpen": GPEN,
           "gpen-pure": GPEN_PURE}


def flavours(command: Callable[[str, str, Path], list[str]]) -> list[Proxy]:
    """The gpens that are there, with another command line."""
    return [replace(gpen, command=command) for gpen in GPENS if gpen.missing() is None]


def undisturbed(proxy: Proxy) -> Proxy:
    """The same balancer; a gpen without what it does each second."""

    def command(front: str, server: str, directory: Path) -> list[str]:
        python, _, *words = proxy.command(front, server, directory)
        return [python, "-m", "tests.bench.undisturbed", *words]

    return replace(proxy, command=command) if proxy in GPENS else proxy


def remembering(gpen: Proxy) -> Proxy:
    """The same gpen, but it remembers its clients and looks each up, which -r leaves out."""
    return replace(gpen, command=gpen_tracking_command)
