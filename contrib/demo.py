"""The main job in a minute: three small web servers, a balancer in front, and one server that dies.

Run by `make demo`. Everything is gpen itself: the servers are gpen's dummy mode. Ends all that it started; with --stay
when somebody has pressed Enter, so that the commands that it shows can be tried.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

BIN = Path(__file__).resolve().parent.parent / "bin"
CLIENTS = ("127.0.0.21", "127.0.0.22", "127.0.0.23")
START_SECONDS = 20


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="gpen-demo-") as directory, contextlib.ExitStack() as stack:
        say("Three small web servers (gpen -O dummy) ...")
        servers = [stack.enter_context(gpen(Path(directory, f"server{n}.ctl"), ["-O", "dummy", "127.0.0.1:0"]))
                   for n in range(3)]
        addresses = [listens(ctl) for _, ctl in servers]
        for address in addresses:
            print(f"    {address}")
        say("... and a balancer in front of them:")
        _, ctl = stack.enter_context(gpen(Path(directory, "balancer.ctl"), ["-b", "5", "127.0.0.1:0", *addresses]))
        front = listens(ctl)
        print(f"    {called('gpen')} -f -b 5 127.0.0.1:0 {' '.join(addresses)}")
        print(f"    which listens on {front}, a port of the kernel's choice")
        say("Three clients, three requests each: every client stays with its server.")
        ask(front)
        gpenctl(ctl, "servers")
        say(f"Now the second server is killed, {addresses[1]} ...")
        servers[1][0].kill()
        servers[1][0].wait()
        say("... and the clients ask again. Its client is moved to another server, and notices nothing:")
        ask(front)
        gpenctl(ctl, "servers")
        gpenctl(ctl, "events", "1")
        say("What a client at 127.0.0.99 would get, and why:")
        gpenctl(ctl, "explain", "127.0.0.99")
        if "--stay" in sys.argv[1:]:
            say("All of it goes on until you press Enter. In another terminal, in this directory:")
            print(f"    {called('gpenctl')} {ctl} watch\n    {called('gpenctl')} {ctl}\n    curl http://{front}/",
                  flush=True)
            sys.stdin.readline()
    say("All is ended again. In front of your own servers:")
    print(f"    {called('gpen')} -f -C ./gpen.ctl PORT SERVER:PORT ...\n    {called('gpenctl')} ./gpen.ctl servers")
    return 0


def called(name: str) -> str:
    """How a program of ours is called in the directory where one is: by its name where that finds the one that is
    installed for this Python, else by its path, or as a script of this checkout."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found and os.path.realpath(found) == os.path.realpath(beside):
        return name
    words = [str(beside)] if beside.exists() else [sys.executable, str(BIN / name)]
    return shlex.join(f"./{near}" if "/" not in (near := nearest(word)) else near for word in words)


def nearest(path: str) -> str:
    """A path as seen from the directory where one is, if it lies below that."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


@contextlib.contextmanager
def gpen(ctl: Path, arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A gpen in the foreground that is ended with the block; its diagnostics go to a file beside its socket."""
    log = ctl.with_suffix(".err")
    with open(log, "wb") as stderr:
        process = subprocess.Popen([sys.executable, str(BIN / "gpen"), "-f", "-C", str(ctl), *arguments],
                                   stderr=stderr, start_new_session=True)
    try:
        wait_for(process, ctl, log)
        yield process, ctl
    finally:
        process.terminate()
        process.wait(10)


def wait_for(process: subprocess.Popen[bytes], ctl: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ctl.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"gpen did not start: {log.read_text()}")
        time.sleep(0.02)


def listens(ctl: Path) -> str:
    """The address that a gpen listens on."""
    return control(ctl, "listen").strip()


def control(ctl: Path, *words: str) -> str:
    return subprocess.run([sys.executable, str(BIN / "gpenctl"), str(ctl), *words], check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def gpenctl(ctl: Path, *words: str) -> None:
    """Show a gpenctl command and what it says."""
    print(f"$ {called('gpenctl')} {ctl} {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, str(BIN / "gpenctl"), "--format", "table", str(ctl), *words], check=True,
                   env=os.environ | {"COLUMNS": os.environ.get("COLUMNS", "118")})


def ask(front: str) -> None:
    """Three requests from each client's address, and who answered."""
    host, port = front.split(":")
    for client in CLIENTS:
        answers = []
        for _ in range(3):
            connection = http.client.HTTPConnection(host, int(port), timeout=10, source_address=(client, 0))
            connection.request("GET", "/", headers={"Connection": "close"})
            found = re.search(r"127\.0\.0\.1:\d+", connection.getresponse().read().decode())
            answers.append(found.group() if found else "?")
            connection.close()
        print(f"    client {client}: {', '.join(answers)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
